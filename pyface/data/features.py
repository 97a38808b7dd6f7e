"""Features of pictures by their names: tables whose rows are in the order of the names."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from pyface.errors import DataError, ShapeError, ValueRangeError
from pyface.io.atomic import atomic_write

__all__ = ["FeatureStore", "write_features"]

_KEY = "pyface-features"
Table = npt.NDArray[Any]


def write_features(
    path: str | os.PathLike[str],
    names: Sequence[str],
    tables: Mapping[str, Table],
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write features to one `.safetensors` file, whole or not at all.

    Args:
        path: the file to make or to replace.
        names: of the pictures, all different.
        tables: feature -> array [len(names), ...].
        facts: what else a reader should know, as JSON takes it.

    Raises:
        ShapeError: a table with another number of rows.
        ValueRangeError: a name that comes twice.
        DataError: the file cannot be written.
    """
    if len(set(names)) != len(names):
        twice = next(name for name in names if list(names).count(name) > 1)
        raise ValueRangeError(f"names of pictures must be different; {twice!r} comes twice.")
    for feature, table in tables.items():
        if len(table) != len(names):
            raise ShapeError(
                f"{feature} must have a row for each of {len(names)} pictures; got {len(table)}."
            )
    header = json.dumps({"names": list(names), "facts": dict(facts or {})})
    with atomic_write(path) as temporary:  # one entry of metadata: the order of several would be random
        save_file({k: np.ascontiguousarray(v) for k, v in tables.items()}, temporary, metadata={_KEY: header})


class FeatureStore:
    """Features that `write_features` wrote. Tables are read from the file when they are asked for.

    >>> store = FeatureStore("prepared/features.safetensors")   # doctest: +SKIP
    >>> store["embedding"].shape, store.row("anna/1.png")["landmarks"].shape   # doctest: +SKIP

    Attributes:
        names: of the pictures, in the order of the rows.
        features: names of the tables.
        facts: what the writer noted.

    Raises:
        DataError: no such file, a damaged one, or one of another kind.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise DataError(f"{self.path} does not exist; `pyface data prepare` writes features.safetensors")
        try:
            self._file = safe_open(self.path, framework="numpy")
            metadata = self._file.metadata() or {}
            if _KEY not in metadata:
                raise DataError(f"{self.path} is a safetensors file, but not one of features")
            header = json.loads(metadata[_KEY])
            self.names: tuple[str, ...] = tuple(header["names"])
            self.facts: dict[str, Any] = header["facts"]
        except (SafetensorError, ValueError, KeyError) as error:
            raise DataError(f"{self.path} is damaged or no file of features: {error}") from error
        self.features: tuple[str, ...] = tuple(sorted(self._file.keys()))
        self._rows = {name: row for row, name in enumerate(self.names)}

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def __getitem__(self, feature: str) -> Table:
        """The whole table of a feature, [N, ...]."""
        if feature not in self.features:
            raise ValueRangeError(
                f"there is no feature {feature!r} in {self.path}; there are {', '.join(self.features)}."
            )
        table: Table = self._file.get_tensor(feature)
        return table

    def row(self, name: str) -> dict[str, Table]:
        """Every feature of one picture."""
        where = self._row(name)
        return {feature: self._file.get_slice(feature)[where : where + 1][0] for feature in self.features}

    def of(self, names: Iterable[str], feature: str) -> Table:
        """A feature of these pictures, in their order: [len(names), ...]."""
        return self[feature][[self._row(name) for name in names]]

    def _row(self, name: str) -> int:
        if name not in self._rows:
            raise ValueRangeError(f"{self.path} has no features of {name!r}; it has {len(self)} pictures.")
        return self._rows[name]
