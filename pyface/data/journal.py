"""A file that grows by one line for each source that is done: what a stopped run need not do again."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyface.errors import DataError

__all__ = ["Journal"]


class Journal:
    """Records by key, kept in a file of JSON lines. Arrays in a record are kept with their type and shape.

    A line that a killed process left unfinished is dropped. A later record of a key replaces the earlier.

    Args:
        path: the file; made when the first record is added.

    Raises:
        DataError: the file cannot be read, or a line before the last is damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.records: dict[str, dict[str, Any]] = {}
        if self.path.exists():
            self._read()

    def _read(self) -> None:
        try:
            content = self.path.read_bytes()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                os.truncate(self.path, whole)
        except OSError as error:
            raise DataError(f"{self.path} cannot be read and written: {error.strerror}") from error
        for number, line in enumerate(content[:whole].splitlines(), 1):
            try:
                record = json.loads(line, object_hook=_restored)
                self.records[record["key"]] = record
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"{self.path} line {number} is damaged ({error}); remove the file to begin anew"
                ) from error

    def add(self, records: Iterable[dict[str, Any]]) -> None:
        """Append records, each with its "key"; they are on the disk when this returns.

        Raises DataError when they cannot be written.
        """
        found = list(records)
        text = "".join(json.dumps(record, default=_plain) + "\n" for record in found)
        try:
            with self.path.open("ab") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise DataError(f"cannot write {self.path}: {error.strerror}") from error
        self.records |= {record["key"]: record for record in found}


def _plain(value: Any) -> dict[str, Any]:
    array: npt.NDArray[Any] = np.asarray(value)
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"array": data, "dtype": str(array.dtype), "shape": list(array.shape)}


def _restored(entry: dict[str, Any]) -> Any:
    if entry.keys() != {"array", "dtype", "shape"}:
        return entry
    array = np.frombuffer(base64.b64decode(entry["array"]), np.dtype(entry["dtype"]))
    return array.reshape(entry["shape"]).copy()
