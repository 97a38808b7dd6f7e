"""Image sizes that a network can have, and configurations as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from pyface.errors import ShapeError, ValueRangeError

__all__ = ["Config", "num_doublings", "one_of", "positive", "size_pair"]


class Config:
    """Base of the frozen configuration dataclasses: to and from plain JSON values."""

    def to_dict(self) -> dict[str, Any]:
        """Every field as a JSON value (tuples become lists)."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}  # type: ignore[arg-type]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The configuration that `to_dict` wrote.

        Raises:
            ValueRangeError: a field that this configuration does not have, or a value that it refuses.
        """
        known = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueRangeError(
                f"{cls.__name__} has no {', '.join(unknown)}; its fields are {', '.join(sorted(known))}"
            )
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueRangeError(f"{cls.__name__} cannot be made of {dict(values)}: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def size_pair(value: Any, name: str) -> tuple[int, int]:
    """(height, width) of an int or a pair."""
    pair = (
        (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, tuple | list) else ()
    )
    if len(pair) != 2 or not all(isinstance(side, int) and side > 0 for side in pair):
        raise ShapeError(f"{name} must be a positive int or (height, width); got {value!r}")
    return pair[0], pair[1]


def num_doublings(resolution: tuple[int, int], initial_size: tuple[int, int]) -> int:
    """How often `initial_size` must be doubled to give `resolution`.

    Raises:
        ShapeError: no number of doublings does; the message lists the nearest sizes that work.
    """
    for doublings in range(1, 13):
        if resolution == (initial_size[0] << doublings, initial_size[1] << doublings):
            return doublings
    good = [(initial_size[0] << k, initial_size[1] << k) for k in range(1, 13)]
    good.sort(key=lambda size: abs(size[0] - resolution[0]) + abs(size[1] - resolution[1]))
    nearest = ", ".join(f"{h}x{w}" for h, w in sorted(good[:4]))
    raise ShapeError(
        f"resolution must be initial_size times a power of two; got {resolution[0]}x{resolution[1]} with "
        f"initial_size {initial_size[0]}x{initial_size[1]}. Nearest that work: {nearest}. "
        "For another aspect ratio set initial_size, such as (5, 4)"
    )


def one_of(value: Any, allowed: tuple[str, ...], name: str) -> None:
    """Raise ValueRangeError when `value` is none of `allowed`."""
    if value not in allowed:
        raise ValueRangeError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")


def positive(least: int | float, **values: Any) -> None:
    """Raise ValueRangeError when a number is below `least` or no number."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or value < least:
            raise ValueRangeError(f"{name} must be a number of at least {least}; got {value!r}")
