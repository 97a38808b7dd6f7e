"""How the CPU works through each synthesis layer, by a measured table; by a rule where none was measured.

The table that comes with pyface was measured on one machine and holds for its instruction set; `pyface bench
--tune` (`pyface.benchmark.tuning.tune`) measures this machine into the user's cache, which goes before it.
"""

from __future__ import annotations

import functools
import json
import os
import warnings
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import NamedTuple

import torch

from pyface.errors import DataError

__all__ = ["FORMAT", "RULE", "Choice", "LayerShape", "choice", "read_table", "reload", "user_table"]

FORMAT = 1
_HINT = "Delete the file or measure it anew with `pyface bench --tune`."
_LOW_SIZE = 32  # largest side at which the rule lets the whole batch take a layer together
_MOST_CHUNK = 1 << 30


class LayerShape(NamedTuple):
    """A synthesis layer: names as in the table, height and width are those of what it reads."""

    dtype: str
    up: int
    in_channels: int
    out_channels: int
    height: int
    width: int


@dataclass(frozen=True)
class Choice:
    """How a layer is worked through.

    chunk_bytes: activations (up = 1) or rows (up = 2) that are worked on at a time; 0: the rule.
    groups_inside: up = 2: all output channels of a chunk before the next chunk; -1: the rule.
    together: the images of a batch take the layer together; None: the rule.
    """

    chunk_bytes: int = 0
    groups_inside: int = -1
    together: bool | None = None

    def takes_together(self, height: int, width: int) -> bool:
        """Whether a batch takes a layer with output of this size at once."""
        return max(height, width) <= _LOW_SIZE if self.together is None else self.together


RULE = Choice()


def choice(
    isa: str, dtype: torch.dtype, up: int, in_channels: int, out_channels: int, height: int, width: int
) -> Choice:
    """What was measured best for a layer that reads [in_channels, height, width], else `RULE`."""
    name = "bfloat16" if dtype == torch.bfloat16 else "float32"
    return _table(isa).get(LayerShape(name, up, in_channels, out_channels, height, width), RULE)


def user_table() -> Path:
    """Where this machine's table lies: `$PYFACE_HOME/tuning/cpu.json`, else in the user's cache folder."""
    if home := os.environ.get("PYFACE_HOME"):
        return Path(home).expanduser() / "tuning" / "cpu.json"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pyface" / "tuning" / "cpu.json"


def reload() -> None:
    """Read the table again at the next call."""
    _table.cache_clear()


@functools.cache
def _table(isa: str) -> dict[LayerShape, Choice]:
    shipped = resources.files("pyface.ops").joinpath("tuning", "cpu.json")
    for source in (user_table(), shipped):
        if not source.is_file():
            continue
        try:
            measured_for, found = read_table(source)
        except DataError as error:
            warnings.warn(f"{error} Layers are cut by the rule.", RuntimeWarning, stacklevel=2)
            return {}
        if measured_for == isa:
            return found
    return {}


def read_table(source: Path | Traversable) -> tuple[str, dict[LayerShape, Choice]]:
    """The instruction set that a table was measured with, and its choices.

    Raises DataError where the file is no such table, with what is wrong in it.
    """
    try:
        document = json.loads(source.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"the tuning table {source} cannot be read: {error}. {_HINT}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        found = document.get("format") if isinstance(document, dict) else type(document).__name__
        raise DataError(f"the tuning table {source} must have format {FORMAT}; got {found!r}. {_HINT}")
    try:
        isa, rows = document["isa"], document["layers"]
        table = {_shape(row): _choice(row["choice"]) for row in rows}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise DataError(f"the tuning table {source} is damaged: {problem}. {_HINT}") from error
    return str(isa), table


def _shape(row: dict[str, object]) -> LayerShape:
    shape = LayerShape(*(row[name] for name in LayerShape._fields))  # type: ignore[arg-type]
    if shape.dtype not in ("float32", "bfloat16") or any(type(v) is not int or v < 1 for v in shape[1:]):
        raise ValueError(f"layer {tuple(shape)} is no layer")
    return shape


def _choice(row: dict[str, object]) -> Choice:
    made = Choice(row["chunk_bytes"], row["groups_inside"], row["together"])  # type: ignore[arg-type]
    if type(made.chunk_bytes) is not int or not 0 <= made.chunk_bytes <= _MOST_CHUNK:
        raise ValueError(f"chunk_bytes must be a number from 0 to {_MOST_CHUNK}; got {made.chunk_bytes!r}")
    if made.groups_inside not in (-1, 0, 1) or type(made.groups_inside) is not int:
        raise ValueError(f"groups_inside must be -1, 0 or 1; got {made.groups_inside!r}")
    if made.together not in (None, True, False) or type(made.together) is int:
        raise ValueError(f"together must be true, false or null; got {made.together!r}")
    return made
