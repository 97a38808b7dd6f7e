"""Pickled checkpoints as plain data: NVIDIA network snapshots and the two containers of `torch.save`.

`read_checkpoint` understands three containers and executes none of them (see `pyface.io.restricted_pickle`):

* a plain pickle of protocol 3 or 4 whose modules are persistent objects (NVIDIA's snapshots); the weights are
  legacy torch archives inside byte strings,
* the legacy torch archive: five pickles behind each other, then the storages,
* the zip torch archive: `data.pkl` beside one stored entry per storage.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pyface.errors import CheckpointError
from pyface.io.restricted_pickle import Budget, Global, PickleReader, PlainObject

__all__ = ["PersistentObject", "read_checkpoint"]

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_START = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
_LARGEST_SIZE = 1 << 40
_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_SCALAR_FORMS = {
    "f8": "d", "f4": "f", "f2": "e", "i8": "q", "i4": "i", "i2": "h", "i1": "b",
    "u8": "Q", "u4": "I", "u2": "H", "u1": "B", "b1": "?",
}  # fmt: skip
_NUMPY = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")


@dataclass(eq=False)
class PersistentObject:
    """One module of an NVIDIA snapshot: class name and attribute dictionary. Its source text is dropped
    unread."""

    class_name: str
    state: dict[str, Any]


@dataclass(eq=False)
class _Storage:
    """A flat run of elements; `values` shares no memory with the file."""

    values: torch.Tensor


def read_checkpoint(path: str | Path) -> Any:
    """What a pickled checkpoint holds: dictionaries, lists, scalars, tensors, `PersistentObject`s.

    Raises: CheckpointError when the file is missing, damaged, not a pickled checkpoint, or names anything
    that is not on the list of harmless globals; the message tells the name.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file")
    data = path.read_bytes()
    try:
        return _read_bytes(data)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _read_bytes(data: bytes) -> Any:
    budget = Budget(storage_bytes=len(data))
    if data[:4] == b"PK\x03\x04":
        return _read_zip(data, budget)
    if data.startswith(_LEGACY_START):
        return _read_legacy(data, budget)
    if data[:1] == b"\x80":
        calls = _calls(budget, nested=True)
        return PickleReader(data, calls, None, budget, refuse=_explain_refusal).read()
    if data[:1] in b"(]}c" and b"dnnlib" in data[:512]:
        raise CheckpointError(_TENSORFLOW)
    what = "it is empty" if not data else f"it begins with {data[:8]!r}"
    raise CheckpointError(
        f"not a pickled checkpoint: {what}. Expected is an NVIDIA .pkl or a torch.save .pt; "
        "a .safetensors file of pyface is loaded with pyface.load as it is"
    )


_TENSORFLOW = (
    "a TensorFlow snapshot (dnnlib.tflib.network.Network) of the first StyleGAN generations. Its code lives "
    "in the file and is never run here: convert it to the PyTorch layout first (NVIDIA's "
    "stylegan2-ada-pytorch has legacy.py for this), then give the new .pkl to pyface convert"
)


def _explain_refusal(named: Global) -> str | None:
    return _TENSORFLOW if named.module.startswith("dnnlib.tflib") else None


# containers


def _read_legacy(data: bytes, budget: Budget, nested: bool = False) -> Any:
    """The object of a legacy torch archive; `nested` ones hold a bare storage and no further archives."""
    storages: dict[str, _Storage] = {}
    wanted: dict[str, tuple[torch.dtype, int]] = {}
    declared = 0

    def persistent(pid: Any) -> _Storage:
        nonlocal declared
        dtype, key, numel = _storage_id(pid)
        if key not in storages:
            declared += numel * dtype.itemsize
            if declared > len(data):
                raise CheckpointError(
                    f"its tensors claim {declared} bytes, the file has {len(data)}: damaged"
                )
            budget.spend("storage_bytes", numel * dtype.itemsize)
            storages[key] = _Storage(torch.zeros(numel, dtype=dtype))
            wanted[key] = (dtype, numel)
        elif wanted[key] != (dtype, numel):
            raise CheckpointError(f"storage {key!r:.40} is declared twice with different sizes: damaged")
        return storages[key]

    position = 0
    heads: list[Any] = []
    for _ in range(3):
        reader = PickleReader(data, {}, None, budget, position)
        heads.append(reader.read())
        position = reader.position
    if heads[0] != _LEGACY_MAGIC or heads[1] != 1001 or not isinstance(heads[2], dict):
        raise CheckpointError("not a torch.save archive of protocol 1001")
    if heads[2].get("little_endian", True) is not True:
        raise CheckpointError("a torch.save archive of a big-endian machine is not read")
    reader = PickleReader(data, _calls(budget, nested=False), persistent, budget, position, _explain_refusal)
    value = reader.read()
    reader = PickleReader(data, {}, None, budget, reader.position)
    keys = reader.read()
    position = reader.position
    if not isinstance(keys, list) or not all(isinstance(k, str) for k in keys) or set(keys) != set(wanted):
        raise CheckpointError("the list of storages does not match the tensors: the archive is damaged")
    if len(keys) != len(wanted):
        raise CheckpointError("a storage is listed twice: the archive is damaged")
    for key in keys:
        dtype, numel = wanted[key]
        position = _fill(storages[key], data, position, dtype, numel)
    if nested and not isinstance(value, _Storage):
        raise CheckpointError("bytes of a tensor hold something that is not a storage")
    return value


def _fill(storage: _Storage, data: bytes, position: int, dtype: torch.dtype, numel: int) -> int:
    """Copy one storage out of a legacy archive: int64 element count, then the elements. The position behind
    it."""
    end = position + 8 + numel * dtype.itemsize
    if end > len(data):
        raise CheckpointError(
            f"truncated: a storage ends at byte {end}, the archive at {len(data)}. Get it again"
        )
    (count,) = struct.unpack_from("<q", data, position)
    if count != numel:
        raise CheckpointError(
            f"a storage has {count} elements where {numel} were declared: the archive is damaged"
        )
    if numel:
        storage.values.copy_(_view(data, dtype, numel, position + 8))
    return end


def _view(data: bytes, dtype: torch.dtype, numel: int, offset: int = 0) -> torch.Tensor:
    raw = bytearray(memoryview(data)[offset : offset + numel * dtype.itemsize])
    return torch.frombuffer(raw, dtype=dtype, count=numel)


def _read_zip(data: bytes, budget: Budget) -> Any:
    """The object of a zip torch archive."""
    if data.count(b"PK\x01\x02") > 200_000:
        raise CheckpointError("the zip archive has more entries than any checkpoint: refused")
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        entries = {entry.filename: entry for entry in archive.infolist()}
    except Exception as error:  # zipfile raises many kinds for damaged directories
        raise CheckpointError(f"the zip archive is truncated or damaged ({error}). Get it again") from error
    pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise CheckpointError("a zip file without data.pkl is no torch.save archive")
    root = pickles[0].removesuffix("data.pkl")

    def content(name: str) -> bytes:
        entry = entries.get(root + name)
        if entry is None:
            raise CheckpointError(f"the archive lacks its entry {name!r:.60}: damaged")
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > len(data) or entry.flag_bits & 1:
            raise CheckpointError(
                f"entry {name!r:.60} is compressed, encrypted or oversized; torch.save stores plainly"
            )
        budget.spend("storage_bytes", 0 if name == "data.pkl" else entry.file_size)
        try:
            return archive.read(entry)
        except Exception as error:  # as above, and for a wrong checksum
            raise CheckpointError(
                f"entry {name!r:.60} is truncated or damaged ({error}). Get it again"
            ) from error

    if root + "byteorder" in entries and content("byteorder") != b"little":
        raise CheckpointError("a torch.save archive of a big-endian machine is not read")
    storages: dict[str, tuple[torch.dtype, _Storage]] = {}

    def persistent(pid: Any) -> _Storage:
        dtype, key, numel = _storage_id(pid)
        if key not in storages:
            raw = content(f"data/{key}")
            if len(raw) != numel * dtype.itemsize:
                raise CheckpointError(
                    f"storage {key!r:.40} has {len(raw)} bytes, {numel} x {dtype} were declared"
                )
            values = _view(raw, dtype, numel) if numel else torch.zeros(0, dtype=dtype)
            storages[key] = (dtype, _Storage(values))
        if storages[key][0] != dtype or storages[key][1].values.numel() != numel:
            raise CheckpointError(f"storage {key!r:.40} is declared twice with different types: damaged")
        return storages[key][1]

    reader = PickleReader(
        content("data.pkl"), _calls(budget, nested=False), persistent, budget, 0, _explain_refusal
    )
    return reader.read()


def _storage_id(pid: Any) -> tuple[torch.dtype, str, int]:
    """(element type, key, element count) out of a persistent id of torch.save."""
    if not (
        isinstance(pid, tuple) and len(pid) in (5, 6) and pid[0] == "storage" and isinstance(pid[1], Global)
    ):
        raise CheckpointError("a persistent id that torch.save does not write")
    kind, key, numel = pid[1], pid[2], pid[4]
    if kind.module != "torch" or kind.name not in _STORAGES or not isinstance(key, str):
        raise CheckpointError(f"a storage of type {kind!s:.60} is not read")
    if not _is_size(numel):
        raise CheckpointError("the number of elements of a storage is out of range: the file is damaged")
    if len(pid) == 6 and pid[5] is not None:
        raise CheckpointError(
            "views of storages (torch before 0.4) are not read; save the file again with torch >= 1"
        )
    return _STORAGES[kind.name], key, numel


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < _LARGEST_SIZE


# what the allowed globals mean


def _calls(budget: Budget, nested: bool) -> dict[tuple[str, str], Callable[[tuple[Any, ...]], Any] | None]:
    """The allow-list. `nested`: tensors hold whole archives in byte strings (NVIDIA's snapshots)."""
    calls: dict[tuple[str, str], Callable[[tuple[Any, ...]], Any] | None] = {
        ("collections", "OrderedDict"): lambda args: _mapping(args, budget),
        ("dnnlib.util", "EasyDict"): lambda args: _mapping(args, budget),
        ("dnnlib", "EasyDict"): lambda args: _mapping(args, budget),
        ("builtins", "set"): lambda args: _set(args, budget),
        ("__builtin__", "set"): lambda args: _set(args, budget),
        ("torch", "Size"): _size,
        ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        ("torch._utils", "_rebuild_parameter"): _parameter,
    }
    for name in _STORAGES:
        calls["torch", name] = None
    for name in ("float16", "float32", "float64", "bfloat16", "int64", "uint8"):
        calls["torch", name] = None
    for opaque in (("argparse", "Namespace"), ("torch", "device"), ("numpy", "ndarray")):
        calls[opaque] = _opaque(*opaque)
    for module in _NUMPY:
        calls[module, "dtype"] = _opaque("numpy", "dtype")
        calls[module, "scalar"] = _scalar
        calls[module, "_reconstruct"] = _opaque("numpy", "ndarray")
    if nested:
        calls["torch_utils.persistence", "_reconstruct_persistent_obj"] = _persistent_object
        calls["torch.storage", "_load_from_bytes"] = lambda args: _embedded(args, budget)
    return calls


def _wrong(what: str, args: tuple[Any, ...]) -> CheckpointError:
    kinds = ", ".join(type(a).__name__ for a in args[:8])
    return CheckpointError(f"{what} is made from ({kinds}): the file is damaged")


def _opaque(module: str, name: str) -> Callable[[tuple[Any, ...]], PlainObject]:
    return lambda args: PlainObject(Global(module, name), args)


def _mapping(args: tuple[Any, ...], budget: Budget) -> dict[Any, Any]:
    if args == ():
        return {}
    if len(args) != 1 or not isinstance(args[0], list | dict):
        raise _wrong("a dictionary", args)
    budget.spend("elements", len(args[0]))
    pairs = list(args[0].items()) if isinstance(args[0], dict) else args[0]
    for pair in pairs:
        if not (isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str | int)):
            raise _wrong("a dictionary", args)
    return {pair[0]: pair[1] for pair in pairs}


def _set(args: tuple[Any, ...], budget: Budget) -> set[Any]:
    if args == ():
        return set()
    if len(args) != 1 or not isinstance(args[0], list):
        raise _wrong("a set", args)
    budget.spend("elements", len(args[0]))
    if not all(isinstance(item, str | int) for item in args[0]):
        raise _wrong("a set", args)
    return set(args[0])


def _size(args: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(args) != 1 or not isinstance(args[0], tuple) or not all(_is_size(n) for n in args[0]):
        raise _wrong("a torch.Size", args)
    return args[0]


def _scalar(args: tuple[Any, ...]) -> int | float | bool:
    """A numpy scalar as a Python number: (dtype, bytes); the dtype's state is (version, byte order, ...)."""
    if len(args) == 2 and isinstance(args[0], PlainObject) and isinstance(args[1], bytes):
        kind, raw = args[0], args[1]
        name = kind.args[0] if kind.args else None
        order = kind.state[1] if isinstance(kind.state, tuple) and len(kind.state) > 1 else "<"
        form = _SCALAR_FORMS.get(name) if kind.kind.name == "dtype" and isinstance(name, str) else None
        if form is not None and len(raw) == struct.calcsize("<" + form) and order in ("<", "|", "="):
            value: int | float | bool = struct.unpack("<" + form, raw)[0]
            return value
    raise _wrong("a numpy scalar", args)


def _tensor(args: tuple[Any, ...]) -> torch.Tensor:
    """A strided view of a storage, checked to stay inside it and to hold no element twice."""
    if not (len(args) >= 4 and isinstance(args[0], _Storage) and isinstance(args[2], tuple | list)):
        raise _wrong("a tensor", args)
    values, offset, size, stride = args[0].values, args[1], args[2], args[3]
    whole = isinstance(stride, tuple | list) and len(size) == len(stride) <= 8 and _is_size(offset)
    if not whole or not all(_is_size(n) for n in (*size, *stride)):
        raise _wrong("a tensor", args)
    numel = math.prod(size)
    if math.prod(max(n, 1) for n in size) >= _LARGEST_SIZE:
        raise CheckpointError(f"a tensor of size {tuple(size)}: the file is damaged")
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) if numel else 0
    if numel > values.numel() or (numel and last >= values.numel()):
        raise CheckpointError(
            f"a tensor of size {tuple(size)}, stride {tuple(stride)}, offset {offset} reaches beyond its "
            f"storage of {values.numel()} elements: the file is damaged"
        )
    return values.as_strided(tuple(size), tuple(stride), offset if numel else 0)


def _parameter(args: tuple[Any, ...]) -> torch.Tensor:
    if not args or not isinstance(args[0], torch.Tensor):
        raise _wrong("a parameter", args)
    return args[0]


def _embedded(args: tuple[Any, ...], budget: Budget) -> Any:
    if len(args) != 1 or not isinstance(args[0], bytes):
        raise _wrong("a storage", args)
    return _read_legacy(args[0], budget, nested=True)


def _persistent_object(args: tuple[Any, ...]) -> PersistentObject:
    meta = args[0] if len(args) == 1 else None
    if not (
        isinstance(meta, dict)
        and isinstance(meta.get("class_name"), str)
        and isinstance(meta.get("state"), dict)
    ):
        raise _wrong("a persistent object", args)
    if meta.get("type") != "class" or meta.get("version") != 6:
        raise CheckpointError(
            "only persistent classes of version 6 are read (stylegan2-ada-pytorch, stylegan3); "
            "this file has another"
        )
    return PersistentObject(meta["class_name"], meta["state"])
