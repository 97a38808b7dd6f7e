"""The pickle reader: right values for honest files, a CheckpointError and no execution for all others."""

from __future__ import annotations

import argparse
import collections
import importlib.util
import io
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from pyface.errors import CheckpointError
from pyface.io.restricted_pickle import Budget, Global, PickleReader, PlainObject
from pyface.io.torch_archive import PersistentObject, read_checkpoint

_spec = importlib.util.spec_from_file_location(
    "snapshot_writer", Path(__file__).parents[1] / "snapshot_writer.py"
)
writer = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(writer)

PLAIN = {
    "numbers": [0, 1, 255, 256, 65535, 65536, -1, 2**31, -(2**40), 0.5, -1e300, True, False, None],
    "texts": ["", "abc", "é\u4e2d", "x" * 300, b"", b"abc", b"y" * 300],
    "nests": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [], [[]], {}, {1: {2: ()}}, set(), {1, 2}),
}


def read(data: bytes, tmp_path: Path) -> object:
    path = tmp_path / "file.pkl"
    path.write_bytes(data)
    return read_checkpoint(path)


def refused(data: bytes, tmp_path: Path, match: str) -> None:
    with pytest.raises(CheckpointError, match=match):
        read(data, tmp_path)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values(protocol, tmp_path):
    value = {k: v for k, v in PLAIN.items() if k != "texts"} if protocol == 2 else PLAIN
    assert read(pickle.dumps(value, protocol), tmp_path) == value


def test_recursive_structure_is_kept(tmp_path):
    loop: list = [1]
    loop.append(loop)
    got = read(pickle.dumps(loop, 4), tmp_path)
    assert got[1] is got


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool],
)
def test_torch_archives(zipped, dtype, tmp_path):
    base = torch.arange(24).reshape(4, 6).to(dtype)
    tensors = collections.OrderedDict(
        whole=base, transposed=base.t(), row=base[2], part=base[1:3, 2:5], scalar=base[3, 5], empty=base[:0]
    )
    torch.save({"state": tensors, "args": argparse.Namespace(size=8), "step": 3}, tmp_path / "a.pt",
               _use_new_zipfile_serialization=zipped)  # fmt: skip
    got = read_checkpoint(tmp_path / "a.pt")
    assert got["step"] == 3
    assert isinstance(got["args"], PlainObject)
    assert got["args"].state == {"size": 8}
    for name, tensor in tensors.items():
        assert got["state"][name].dtype == dtype
        assert torch.equal(got["state"][name], tensor), name


def test_parameters_and_device_of_saved_modules(tmp_path):
    torch.save({"p": torch.nn.Parameter(torch.ones(3))}, tmp_path / "a.pt")
    assert torch.equal(read_checkpoint(tmp_path / "a.pt")["p"], torch.ones(3))


@pytest.mark.parametrize(
    ("protocol", "numpy_module"),
    [(3, "numpy.core.multiarray"), (4, "numpy.core.multiarray"), (4, "numpy._core.multiarray")],
)
def test_persistent_modules(protocol, numpy_module, tmp_path):
    weight = torch.randn(3, 4)
    layer = writer.module("Layer", {"weight": torch.nn.Parameter(weight), "bias": None}, gain=np.float64(1.5))
    data = writer.dumps(
        {"G": writer.module("Generator", children={"fc": layer}), "p": None}, protocol, numpy_module
    )
    got = read(data, tmp_path)
    assert isinstance(got["G"], PersistentObject)
    assert got["G"].class_name == "Generator"
    child = got["G"].state["_modules"]["fc"]
    assert torch.equal(child.state["_parameters"]["weight"], weight)
    assert child.state["_parameters"]["bias"] is None
    assert child.state["gain"] == 1.5
    assert child.state["_non_persistent_buffers_set"] == set()
    assert child.state["_init_kwargs"] == {}


# attacks: (name, bytes, what the message says)


def _global(name: str, payload: bytes = b"U") -> bytes:
    return b"\x80\x03c" + name.replace(":", "\n").encode() + b"\n" + payload


def _call(name: str, argument: str = "echo broken > /tmp/pyface_broken") -> bytes:
    text = argument.encode()
    return _global(name, b"X" + struct.pack("<I", len(text)) + text + b"\x85R.")


def _laughs(build: bytes) -> bytes:
    return b"\x80\x04)\x94" + build * 64


def _nested_storage(data: bytes) -> bytes:
    return writer.dumps(writer.Call(writer.LOAD_FROM_BYTES, data), 4)


def _legacy(body: bytes, keys: list[str], tail: bytes = b"") -> bytes:
    head = (
        pickle.dumps(0x1950A86A20F9469CFC6C, 2)
        + pickle.dumps(1001, 2)
        + pickle.dumps({"little_endian": True}, 2)
    )
    return head + body + pickle.dumps(keys, 2) + tail


def _storage_pid(numel: int, kind: str = "FloatStorage") -> bytes:
    return (
        b"\x80\x02(X\x07\0\0\0storagectorch\n" + kind.encode() + b"\nX\x01\0\0\0kX\x03\0\0\0cpu"
        + b"\x8a\x08" + struct.pack("<q", numel) + b"tQ."
    )  # fmt: skip


ATTACKS = {
    "os.system": (_call("os:system"), r"names os\.system"),
    "posix.system": (_call("posix:system"), r"names posix\.system"),
    "builtins.eval": (_call("builtins:eval"), r"names builtins\.eval"),
    "builtins.getattr": (_call("builtins:getattr"), r"names builtins\.getattr"),
    "subprocess": (_call("subprocess:Popen"), r"names subprocess\.Popen"),
    "torch.load": (_call("torch:load"), r"names torch\.load"),
    "dotted name": (
        _call("collections:OrderedDict.__reduce__.__globals__"),
        r"names collections\.OrderedDict\.",
    ),
    "dotted module": (_call("torch._utils._rebuild_tensor_v2.__globals__:eval"), "refused"),
    "stack global": (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02id\x85R.", r"names os\.system"),
    "stack global of numbers": (b"\x80\x04K\x01K\x02\x93.", "not text"),
    "stack global of a tuple": (b"\x80\x04)\x8c\x06system\x93.", "not text"),
    "inst opcode": (b"\x80\x02(X\x02\0\0\0idios\nsystem\n.", "opcode 0x69"),
    "obj opcode": (b"\x80\x02(cos\nsystem\no.", r"names os\.system"),
    "extension 1": (b"\x80\x02\x82\x01.", "opcode 0x82"),
    "extension 2": (b"\x80\x02\x83\x01\x00.", "opcode 0x83"),
    "extension 4": (b"\x80\x02\x84\x01\x00\x00\x00.", "opcode 0x84"),
    "missing memo": (b"\x80\x03h\x07.", "memo entry 7"),
    "missing long memo": (b"\x80\x03j\xff\xff\xff\xff.", "memo entry 4294967295"),
    "persistent id": (b"\x80\x03X\x02\0\0\0idQ.", "persistent id"),
    "text persistent id": (b"\x80\x03Pos.system\n.", "opcode 0x50"),
    "out-of-band buffer": (b"\x80\x05\x97.", "opcode 0x97"),
    "protocol 0": (b"cos\nsystem\n(S'id'\ntR.", "not a pickled checkpoint"),
    "protocol 9": (b"\x80\x09N.", "protocol 9"),
    "call of a dict": (b"\x80\x03})R.", "not an allowed global"),
    "call of a memoised call": (b"\x80\x03ccollections\nOrderedDict\n)R)R.", "not an allowed global"),
    "call of a storage type": (b"\x80\x03ctorch\nFloatStorage\n)R.", "may only be named|names torch"),
    "keyword arguments": (b"\x80\x04ccollections\nOrderedDict\n)}X\x01\0\0\0aNs\x92.", "keyword"),
    "build on a list": (b"\x80\x03]}b.", "state is set on a list"),
    "build on a tensor type": (b"\x80\x03ctorch\nFloatStorage\n}b.", "state is set"),
    "bytes beyond the end": (b"\x80\x03B\xff\xff\xff\x7f.", "truncated or damaged"),
    "bytes of 2**63": (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\xff.", "truncated or damaged"),
    "frame beyond the end": (b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.", "frame"),
    "huge integer": (b"\x80\x03\x8b\xff\xff\xff\x7f.", "integer"),
    "negative integer length": (b"\x80\x03\x8b\xff\xff\xff\xff.", "integer"),
    "empty stack": (b"\x80\x03.", "missing on its stack"),
    "no mark": (b"\x80\x03Nt.", "mark is missing"),
    "value below a mark": (b"\x80\x03N(0R.", "missing on its stack|a call"),
    "odd dictionary": (b"\x80\x03}(Nu.", "key without a value"),
    "tuple as a key": (b"\x80\x03})Ns.", "scalar key"),
    "laughing key": (_laughs(b"h\x00h\x00\x86\x94") + b"}h\x00Ns.", "scalar key"),
    "laughing set": (_laughs(b"h\x00h\x00\x86\x94") + b"\x8f(h\x00\x90.", "scalar key"),
    "laughing ordered dict": (
        _laughs(b"h\x00h\x00\x86\x94") + b"ccollections\nOrderedDict\n](]h\x00ae\x85R.",
        "dictionary is made from"
    ),
    "bad text": (b"\x80\x03X\x02\0\0\0\xff\xfe.", "damaged"),
    "text after the end": (b"\x80\x03N", "truncated"),
    "laughing arguments": (
        _laughs(b"h\x00h\x00\x86\x94") + b"ctorch\nSize\nh\x3f\x85R.",
        "torch.Size is made",
    ),
    "pickle in a storage": (_nested_storage(_call("os:system")), "not a torch.save archive|names os"),
    "archive with a call in a storage": (
        _nested_storage(_legacy(_call("os:system"), [])),
        r"names os\.system",
    ),
    "archive in an archive": (_nested_storage(_legacy(_nested_storage(b"x"), [])), "_load_from_bytes"),
    "storage of 4 TB": (_legacy(_storage_pid(10**12), ["k"]), "claim"),
    "storage of negative size": (_legacy(_storage_pid(-1), ["k"]), "out of range"),
    "storage of an unknown type": (_legacy(_storage_pid(1, "system"), ["k"]), r"names torch\.system"),
    "storage without its bytes": (
        _legacy(_storage_pid(4), ["k"], struct.pack("<q", 4) + b"\0" * 8),
        "truncated",
    ),
    "storage of another length": (
        _legacy(_storage_pid(1), ["k"], struct.pack("<q", 9) + b"\0" * 36),
        "9 elements",
    ),
    "storage listed twice": (_legacy(_storage_pid(1), ["k", "k"], b"\0" * 99), "listed twice"),
    "storage not listed": (_legacy(_storage_pid(1), [], b"\0" * 99), "does not match"),
    "tensorflow": (
        b"\x80\x03(cdnnlib.tflib.network\nNetwork\nq\0)\x81q\x01}q\x02b.", "TensorFlow snapshot"
    ),
    "version 5 objects": (
        writer.dumps(
            writer.Call(writer.PERSISTENT, {"type": "class", "version": 5, "class_name": "G", "state": {}})
        ),
        "version 6",
    ),
    "html": (b"<!DOCTYPE html>", "not a pickled checkpoint"),
    "empty": (b"", "it is empty"),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_refused(name, tmp_path):
    refused(ATTACKS[name][0], tmp_path, ATTACKS[name][1])


def _tensor_call(numel: int, offset: object, size: object, stride: object) -> bytes:
    storage = io.BytesIO()
    torch.save(writer.flat_storage(torch.zeros(numel)), storage, _use_new_zipfile_serialization=False)
    data = writer.Call(writer.LOAD_FROM_BYTES, storage.getvalue())
    return writer.dumps(writer.Call(writer.REBUILD_TENSOR, data, offset, size, stride, False, {}))


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (9,), (1,)),
        (1, (8,), (1,)),
        (0, (2, 4), (5, 1)),
        (0, (100, 100), (0, 0)),
        (0, (2**30,), (0,)),
        (-1, (2,), (1,)),
        (0, (2,), (-1,)),
        (0, (0, 2**39, 2**39), (1, 1, 1)),
        (0, (2,), (1, 1)),
        (0, (1,) * 9, (1,) * 9),
        (0, 3, (1,)),
        (0, (True,), (1,)),
        ("0", (1,), (1,)),
    ],
)
def test_tensors_stay_inside_their_storage(offset, size, stride, tmp_path):
    refused(
        _tensor_call(8, offset, size, stride), tmp_path, "beyond its storage|is made from|a tensor of size"
    )


def test_every_truncation_is_refused(tmp_path):
    files = {"plain": writer.dumps({"G": writer.module("G", {"w": torch.nn.Parameter(torch.randn(2))})}, 4)}
    for zipped in (True, False):
        buffer = io.BytesIO()
        torch.save({"w": torch.randn(2)}, buffer, _use_new_zipfile_serialization=zipped)
        files[f"zip {zipped}"] = buffer.getvalue()
    for data in files.values():
        for length in range(0, len(data) - 1, 7):
            refused(data[:length], tmp_path, "file.pkl")


def test_repeated_storage_is_not_multiplied(tmp_path):
    """One byte string of 1 MB, turned into a storage 10,000 times."""
    storage = io.BytesIO()
    torch.save(writer.flat_storage(torch.zeros(1 << 18)), storage, _use_new_zipfile_serialization=False)
    data = storage.getvalue()
    bomb = (
        b"\x80\x03B" + struct.pack("<I", len(data)) + data + b"q\x00ctorch.storage\n_load_from_bytes\nq\x01"
    )
    refused(bomb + b"h\x01h\x00\x85R" * 10_000 + b".", tmp_path, "storage bytes")


def test_repeated_copies_are_counted(tmp_path):
    bomb = (
        b"\x80\x03]q\x00("
        + b"K\x01" * 10_000
        + b"ecbuiltins\nset\nq\x01"
        + b"h\x01h\x00\x85R" * 10_000
        + b"."
    )
    refused(bomb, tmp_path, "elements")


def test_too_many_opcodes():
    reader = PickleReader(b"\x80\x04" + b"N" * 5000 + b".", {}, None, Budget(opcodes=1000))
    with pytest.raises(CheckpointError, match="opcodes"):
        reader.read()


def test_a_named_global_is_a_name(tmp_path):
    got = read(b"\x80\x03ctorch\nfloat32\n.", tmp_path)
    assert got == Global("torch", "float32")


def _archive(change) -> bytes:
    buffer = io.BytesIO()
    torch.save({"w": torch.arange(4.0)}, buffer)
    out = io.BytesIO()
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(out, "w") as target:
        for entry in source.infolist():
            name, content, method = entry.filename, source.read(entry), zipfile.ZIP_STORED
            changed = change(name, content)
            if changed is not None:
                target.writestr(changed[0], changed[1], changed[2] if len(changed) > 2 else method)
    return out.getvalue()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda n, c: None if n.endswith("data/0") else (n, c), "lacks its entry"),
        (lambda n, c: (n, c[:-1]) if n.endswith("data/0") else (n, c), "15 bytes"),
        (
            lambda n, c: (n, b"\0" * 10**7, zipfile.ZIP_DEFLATED) if n.endswith("data/0") else (n, c),
            "compressed",
        ),
        (lambda n, c: (n, b"big") if n.endswith("byteorder") else (n, c), "big-endian"),
        (lambda n, c: ("x/" + n, c), "without data.pkl"),
        (lambda n, c: (n, _call("os:system")) if n.endswith("data.pkl") else (n, c), r"names os\.system"),
    ],
)
def test_zip_archives_are_checked(change, match, tmp_path):
    refused(_archive(change), tmp_path, match)


def test_unchanged_zip_archive_is_read(tmp_path):
    assert torch.equal(read(_archive(lambda n, c: (n, c)), tmp_path)["w"], torch.arange(4.0))


def test_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        read_checkpoint(tmp_path / "absent.pkl")
