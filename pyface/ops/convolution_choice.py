"""Whether a convolution on a CUDA device takes the kernels of pyface or torch's (cuDNN), by a measured table;
by a rule where none was measured.

Tables hold measurements only: `tuning/sm_90.json` for compute capability 9.0, and so on. The user's own,
`$PYFACE_HOME/tuning/sm_90.json` or in the cache folder, which `pyface bench --tune --device cuda` writes,
goes before the one that comes with pyface.
"""

from __future__ import annotations

import functools
import json
import math
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import NamedTuple

import torch

from pyface.errors import DataError
from pyface.ops import engine_choice

__all__ = ["FORMAT", "RULE", "ConvShape", "choose", "describe", "read_table", "reload", "rule", "user_table"]

FORMAT = 1
RULE = (
    "16-bit: pyface for transposed (up) layers, layers that make their image too, up to 16 px and from "
    "512 px, torch (cuDNN) between; "
    "float32: torch; below capability 8.0: torch"
)
_OPS = ("conv", "weight_grad")
_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
_HINT = "Delete the file or measure it anew with `pyface bench --tune --device cuda`."
_SMALL, _LARGE = 16, 512  # sides up to and from which the rule takes pyface


class ConvShape(NamedTuple):
    """A convolution, or the gradient of its weight. height and width are those of what it writes (for the
    weight gradient: what the convolution wrote)."""

    op: str
    dtype: str
    n: int
    in_channels: int
    out_channels: int
    height: int
    width: int
    kernel: int
    stride: int
    transposed: bool


def choose(
    capability: tuple[int, int] | None, shape: ConvShape, dtype: torch.dtype, with_image: bool = False
) -> str:
    """ "pyface" or "torch" for `shape` (its dtype is filled in from `dtype`).

    capability: of the CUDA device; None stands for the emulator, which always takes pyface. A table counts
    for the shapes it holds, at the batch size nearest to the one wanted; all others go by `rule`. with_image:
    our kernel would make the image of a synthesis layer in the same pass.
    """
    if capability is None:
        return "pyface"
    shape = shape._replace(dtype=_NAMES.get(dtype, str(dtype)))
    return _measured(capability, shape) or rule(capability, shape, with_image)


def rule(capability: tuple[int, int], shape: ConvShape, with_image: bool = False) -> str:
    """What is taken where nothing was measured; `RULE` says it in words."""
    if capability < (8, 0) or shape.dtype not in ("float16", "bfloat16"):
        return "torch"
    side = max(shape.height, shape.width)
    ours = shape.transposed or with_image or side <= _SMALL or side >= _LARGE
    return "pyface" if ours else "torch"


def user_table(capability: tuple[int, int]) -> Path:
    """Where this machine's table lies: beside the one of `engine_choice`."""
    return engine_choice.user_table().with_name(f"{_name(capability)}.json")


def reload() -> None:
    """Read the tables again at the next call."""
    _table.cache_clear()
    _measured.cache_clear()


def describe(capability: tuple[int, int] | None) -> str:
    """What `choose` goes by on a device of this capability, in one line. Raises DataError on a bad table."""
    if capability is None:
        return f"by rule ({RULE})"
    rows = _table(capability)
    name = _name(capability)
    return (
        f"{name}: {len(rows)} measured shapes, else by rule ({RULE})" if rows else f"{name}: by rule ({RULE})"
    )


def _name(capability: tuple[int, int]) -> str:
    return f"sm_{capability[0]}{capability[1]}"


@functools.lru_cache(maxsize=4096)
def _measured(capability: tuple[int, int], shape: ConvShape) -> str | None:
    same = [(row, best) for row, best in _table(capability).items() if row._replace(n=shape.n) == shape]
    if not same:
        return None
    return min(same, key=lambda pair: abs(math.log(pair[0].n / max(shape.n, 1))))[1]


@functools.cache
def _table(capability: tuple[int, int]) -> dict[ConvShape, str]:
    shipped = resources.files("pyface.ops").joinpath("tuning", f"{_name(capability)}.json")
    for source in (user_table(capability), shipped):
        if source.is_file():
            return read_table(source, capability)
    return {}


def read_table(source: Path | Traversable, capability: tuple[int, int]) -> dict[ConvShape, str]:
    """The faster of the two for each measured shape.

    The file: {"format": 1, "capability": [9, 0], "shapes": [{... the fields of ConvShape,
    "pyface_ms": 0.1, "torch_ms": 0.2}]}.
    Raises DataError where it is no such table, or one of another capability, with what is wrong in it.
    """
    try:
        document = json.loads(source.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"the convolution table {source} cannot be read: {error}. {_HINT}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        found = document.get("format") if isinstance(document, dict) else type(document).__name__
        raise DataError(f"the convolution table {source} must have format {FORMAT}; got {found!r}. {_HINT}")
    if document.get("capability") != list(capability):
        raise DataError(
            f"the convolution table {source} was measured for capability {document.get('capability')!r}; "
            f"it must be {list(capability)}. {_HINT}"
        )
    try:
        return dict(_row(row) for row in document["shapes"])
    except (KeyError, TypeError, ValueError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise DataError(f"the convolution table {source} is damaged: {problem}. {_HINT}") from error


def _row(row: dict[str, object]) -> tuple[ConvShape, str]:
    shape = ConvShape(*(row[name] for name in ConvShape._fields))  # type: ignore[arg-type]
    if shape.op not in _OPS or shape.dtype not in _NAMES.values() or type(shape.transposed) is not bool:
        raise ValueError(f"{tuple(shape)} is no convolution")
    if any(type(v) is not int or v < 1 for v in shape[2:9]):
        raise ValueError(f"the sizes of {tuple(shape)} must be numbers of 1 or more")
    ours, theirs = row["pyface_ms"], row["torch_ms"]
    if not all(type(v) in (int, float) and math.isfinite(v) and v > 0 for v in (ours, theirs)):  # type: ignore[arg-type, operator]
        raise ValueError(f"pyface_ms and torch_ms must be above 0; got {ours!r} and {theirs!r}")
    return shape, "pyface" if ours <= theirs else "torch"  # type: ignore[operator]
