"""The recipe of a rendered dataset, all that decides its bytes, and checks of the numbers that go into it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import pyface
from pyface.data.face_distribution import DISTRIBUTION_VERSION
from pyface.errors import ValueRangeError
from pyface.ops.face_render import face_parameters

__all__ = ["check_ranges", "checked_people", "checked_workers", "recipe"]

_MOST_PEOPLE = 2**32


def recipe(format_name: str, seed: int, overrides: Mapping[str, Any] | None, **more: Any) -> dict[str, Any]:
    """What makes a dataset again, and what a resumed run must agree on, as JSON takes it.

    Args:
        format_name: of the layout that is written.
        seed: of everything drawn.
        overrides: of what is drawn, see `pyface.data.draw_faces`.
        **more: what else decides the bytes.
    """
    fixed = {k: list(v) if isinstance(v, tuple) else v for k, v in sorted((overrides or {}).items())}
    return {
        "format": format_name,
        "pyface": pyface.__version__,
        "distribution": DISTRIBUTION_VERSION,
        "parameters": [p.name for p in face_parameters()],
        "seed": seed,
        **more,
        "overrides": fixed,
    }


def checked_people(identities: int | Iterable[int]) -> list[int]:
    """The numbers of the people: those from 0 when a count is given.

    Raises:
        ValueRangeError: nobody, a number twice, or one outside [0, 2^32).
    """
    people = list(range(identities)) if isinstance(identities, int) else [int(i) for i in identities]
    if not people or len(set(people)) != len(people) or min(people) < 0 or max(people) >= _MOST_PEOPLE:
        raise ValueRangeError(
            f"identities must be different people in [0, 2^32), at least one; got {people[:5]}."
        )
    return people


def checked_workers(workers: int | None) -> int:
    """How many threads: all cores when none are given.

    Raises:
        ValueRangeError: fewer than one.
    """
    if workers is None:
        return os.cpu_count() or 1
    if workers < 1:
        raise ValueRangeError(f"workers must be at least 1; got {workers}.")
    return workers


def check_ranges(*ranges: tuple[str, int, int, int]) -> None:
    """Nothing, when each (name, value, low, high) has a value from low to high.

    Raises:
        ValueRangeError: one has not.
    """
    for name, value, low, high in ranges:
        if not low <= value <= high:
            raise ValueRangeError(f"{name} must lie in [{low}, {high}]; got {value}.")
