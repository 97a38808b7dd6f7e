"""Checkpoints: one `.safetensors` file that holds weights and, as JSON, the network they belong to.

The metadata entry "pyface" of the file is a JSON object:

    {"format": 1, "architecture": "stylegan2-generator", "kind": "generator", "config": {...},
     "training": {...}, "card": {...}}

`architecture`, `kind` and `config` say how to build the network; `training` and `card` are free. Any reader
of safetensors reads the weights. This module builds no network: `pyface.models.load` does.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from pyface.errors import CheckpointError, ValueRangeError
from pyface.io.atomic import atomic_write

__all__ = ["FORMAT", "Saveable", "load_tensors", "read_header", "save_model"]

FORMAT = 1
_RESERVED = ("format", "architecture", "kind", "config")
_MAX_HEADER = 100_000_000
_STORAGE = {"float32": torch.float32, "float16": torch.float16}


class _Config(Protocol):
    def to_dict(self) -> dict[str, Any]: ...


class Saveable(Protocol):
    """A network that says how it is built again."""

    @property
    def architecture(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def config(self) -> _Config: ...
    def state_dict(self) -> dict[str, Tensor]: ...


def save_model(
    path: str | os.PathLike[str],
    model: Saveable | nn.Module,
    *,
    extra: Mapping[str, Any] | None = None,
    dtype: str | None = None,
) -> None:
    """Write a network to one `.safetensors` file, whole or not at all.

    Args:
        path: the file to make or to replace; its name ends in .safetensors.
        model: a network of `pyface.models`.
        extra: more entries of the JSON header, such as {"training": {...}, "card": {...}}.
        dtype: store floating-point tensors as "float32" or "float16" (half the size; loads as float32). None
            stores them as they are.

    Raises:
        CheckpointError: a wrong file name, or numbers beyond float16's range with dtype="float16".
        ValueRangeError: a model that does not say how it is built, an unknown dtype, or `extra` that is no
            JSON or names a reserved entry.
        DataError: the folder cannot be written or the disk is full; the old file, if any, is untouched.
    """
    target = Path(path)
    if target.suffix != ".safetensors":
        raise CheckpointError(f"a checkpoint's name ends in .safetensors; got {target.name!r}")
    header = _header(model, extra)
    tensors = {name: _stored(name, tensor, dtype) for name, tensor in model.state_dict().items()}
    with atomic_write(target) as temporary:
        safetensors.torch.save_file(tensors, temporary, metadata={"pyface": header})


def _header(model: Saveable | nn.Module, extra: Mapping[str, Any] | None) -> str:
    missing = [name for name in ("architecture", "kind", "config") if not hasattr(model, name)]
    if missing:
        raise ValueRangeError(
            f"{type(model).__name__} cannot be saved: it has no {', '.join(missing)}, from which it could be "
            "built again. Networks of pyface.models have them"
        )
    described = cast(Saveable, model)
    reserved = sorted(set(extra or {}) & set(_RESERVED))
    if reserved:
        raise ValueRangeError(f"extra must not name {', '.join(reserved)}; these come from the model")
    header = {
        "format": FORMAT,
        "architecture": described.architecture,
        "kind": described.kind,
        "config": described.config.to_dict(),
        **(extra or {}),
    }
    try:
        return json.dumps(header, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueRangeError(f"extra must be plain JSON (numbers, text, lists, dicts): {error}") from error


def _stored(name: str, tensor: Tensor, dtype: str | None) -> Tensor:
    tensor = tensor.detach().cpu()
    if dtype is not None:
        if dtype not in _STORAGE:
            raise ValueRangeError(f"dtype must be one of {', '.join(_STORAGE)} or None; got {dtype!r}")
        if tensor.is_floating_point():
            converted = tensor.to(_STORAGE[dtype])
            if bool((converted.isinf() & ~tensor.isinf()).any()):
                raise CheckpointError(
                    f"{name} holds {float(tensor.abs().max()):.3g}, beyond what {dtype} can store. "
                    "Save as float32"
                )
            tensor = converted
    return tensor.clone(memory_format=torch.contiguous_format)


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON header of a checkpoint, without reading its weights.

    Raises:
        CheckpointError: no such file, no safetensors file, a truncated one, or one that pyface did not write.
    """
    target = Path(path)
    metadata = _metadata(target, _read_index(target))
    if "pyface" not in metadata:
        raise CheckpointError(
            f"{target} is a safetensors file without pyface's description of the network. "
            "Only files written by pyface (training, `pyface convert`) can be loaded"
        )
    try:
        header = json.loads(metadata["pyface"])
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{target} is damaged: its description is no JSON ({error})") from error
    missing = [key for key in _RESERVED if not isinstance(header, dict) or key not in header]
    if missing:
        raise CheckpointError(f"{target} is damaged: its description lacks {', '.join(missing)}")
    if header["format"] != FORMAT:
        raise CheckpointError(
            f"{target} has format {header['format']!r}; this version of pyface reads format "
            f"{FORMAT}. Update pyface"
        )
    return dict(header)


def load_tensors(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """Every tensor of a checkpoint by name; float16 and bfloat16 come back as float32.

    Raises:
        CheckpointError: no such file, no safetensors file, or a truncated one.
    """
    target = Path(path)
    _read_index(target)
    try:
        tensors = safetensors.torch.load_file(target, device=str(device))
    except (SafetensorError, ValueError, KeyError, OSError) as error:
        raise CheckpointError(f"{target} is damaged: {error}") from error
    return {
        name: tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
        for name, tensor in tensors.items()
    }


def _read_index(path: Path) -> dict[str, Any]:
    """The index at the head of a safetensors file; checks that the file is whole."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(8)
            _refuse_pickle(path, head)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
            if len(head) < 8 or 8 + length > size:
                raise CheckpointError(_not_safetensors(path, size, length))
            if length > _MAX_HEADER:
                raise CheckpointError(
                    f"{path} is no safetensors file: its index would be {length} bytes long"
                )
            text = file.read(length)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no file {path}") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        index = json.loads(text)
        ends = [entry["data_offsets"][1] for name, entry in index.items() if name != "__metadata__"]
        needed = 8 + length + max(ends, default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is no safetensors file, or its index is damaged ({error})") from error
    if needed > size:
        raise CheckpointError(
            f"{path} is truncated: it should have {needed} bytes and has {size}. Copy it again"
        )
    return dict(index)


def _not_safetensors(path: Path, size: int, length: int) -> str:
    if size < 8:
        return f"{path} is no safetensors file: it has only {size} bytes"
    if length > _MAX_HEADER:
        return f"{path} is no safetensors file: it does not begin like one"
    return f"{path} is truncated, or no safetensors file: its index of {length} bytes is longer than the file"


def _refuse_pickle(path: Path, head: bytes) -> None:
    is_zip = head[:2] == b"PK"
    is_pickle = head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    is_pickle = is_pickle and (
        any(head[3:8]) if head[2:3] == b"\x95" else any(head[6:8])
    )  # no index is so long
    if is_zip or is_pickle or path.suffix in (".pkl", ".pt", ".pth"):
        raise CheckpointError(
            f"{path} looks like a pickle of another program, which could run code when loaded. "
            f"Convert it safely: pyface convert {path} {path.with_suffix('.safetensors')}"
        )


def _metadata(path: Path, index: Mapping[str, Any]) -> dict[str, str]:
    metadata = index.get("__metadata__", {})
    if not isinstance(metadata, dict):
        raise CheckpointError(f"{path} is damaged: its metadata is no object")
    return metadata
