"""How often each value of a column occurs, among pictures and among people."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pyface.errors import ValueRangeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyface.data.sample import Annotations

__all__ = ["Share", "balance_of", "count_people"]

_VALUES = 12  # a column of numbers with more different ones is shown in bins
_BINS = 5
_NAMES = ("identity", "sample", "sequence", "subject", "file", "frame")  # they say who, not what


@dataclasses.dataclass(frozen=True)
class Share:
    """How often one value of a column occurs.

    Attributes:
        value: the value; (low, high) of a bin, which holds numbers of at least low and below high (the last
            bin: at most high); None where it is not known.
        count: pictures that have it.
        share: part of all pictures, 0 to 1.
        people: identities with at least one such picture.
        people_share: part of all identities, 0 to 1.
    """

    value: Any
    count: int
    share: float
    people: int
    people_share: float


def count_people(table: Annotations, length: int) -> int:
    """How many different identities a table of `length` pictures has; without that column, each counts."""
    return len(np.unique(table["identity"])) if "identity" in table else length


def balance_of(
    table: Annotations, length: int, columns: Sequence[str] | None = None
) -> dict[str, list[Share]]:
    """The class balance of some columns of a table, by default of all that do not name a person or a file.

    Truth values, words and at most 12 different numbers are counted one by one, in their order; other numbers
    in 5 bins of equal width. NaN and "" count as not known, and come last. A column of words with more than
    half as many values as pictures names the pictures and is left out unless it is asked for.

    Raises:
        ValueRangeError: a column that is not there.
    """
    wanted = [name for name in table if name not in _NAMES] if columns is None else list(columns)
    missing = [name for name in wanted if name not in table]
    if missing:
        raise ValueRangeError(
            f"there is no column {missing[0]!r}; there are {', '.join(sorted(table)) or 'none'}."
        )
    identity = table.get("identity", np.arange(length))
    people = count_people(table, length)
    result = {}
    for name in wanted:
        values = table[name]
        names_pictures = values.dtype.kind in "US" and len(np.unique(values)) > max(_VALUES, length // 2)
        if columns is not None or not names_pictures:
            result[name] = [
                Share(
                    value,
                    int(chosen.sum()),
                    float(chosen.mean()) if length else 0.0,
                    len(np.unique(identity[chosen])),
                    len(np.unique(identity[chosen])) / people if people else 0.0,
                )
                for value, chosen in _groups(values)
            ]
    return result


def _groups(values: npt.NDArray[Any]) -> list[tuple[Any, npt.NDArray[np.bool_]]]:
    """Each value or bin of a column, and the rows [N] that have it."""
    unknown = np.zeros(len(values), bool)
    if values.dtype.kind == "f":
        unknown = ~np.isfinite(values)
    elif values.dtype.kind in "US":
        unknown = values == values.dtype.type("")
    different = np.unique(values[~unknown])
    groups: list[tuple[Any, npt.NDArray[np.bool_]]]
    if values.dtype.kind not in "iuf" or len(different) <= _VALUES:
        groups = [(_plain(value), (values == value) & ~unknown) for value in different]
        if values.dtype.kind == "b":
            groups = [(value, values == value) for value in (False, True)]
    else:
        edges = np.linspace(float(different[0]), float(different[-1]), _BINS + 1)
        place = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, _BINS - 1)
        groups = [((float(edges[i]), float(edges[i + 1])), (place == i) & ~unknown) for i in range(_BINS)]
    return groups + ([(None, unknown)] if unknown.any() else [])


def _plain(value: Any) -> Any:
    """A numpy value as Python's: float32 0.2 as 0.2."""
    if isinstance(value, np.floating):
        return float(str(value))
    return value.item() if isinstance(value, np.generic) else value
