"""Artefacts appear complete or not at all, and what was changed afterwards is refused."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from pyface.errors import DataError, ExportError
from pyface.export.artefact import (
    Artefact,
    attach_parity,
    open_artefact,
    seal,
    sha256_of_network,
    sidecar_path,
    staged,
)
from pyface.export.spec import BATCH, EngineSpec, TensorSpec

SPEC = EngineSpec(
    "onnx",
    "stylegan2-generator",
    "whole",
    "fp16",
    20,
    "transposed",
    (TensorSpec("z", "float32", (BATCH, 8)), TensorSpec("psi", "float32", ())),
    (TensorSpec("vis", "uint8", (BATCH, 16, 16, 3)),),
    resolution=(16, 16),
    spectra={"vis": 3},
    profile=(1, 8, 32),
)


def make(out: Path, graph: bytes = b"graph", data: bytes | None = None) -> Artefact:
    with staged(out) as path:
        path.write_bytes(graph)
        if data is not None:
            path.with_name(path.name + ".data").write_bytes(data)
        return attach_parity(seal(path, SPEC), {"passed": True}).moved(out)


def test_round_trip(tmp_path: Path) -> None:
    out = tmp_path / "net.onnx"
    made = make(out, data=b"weights")
    found = open_artefact(out)
    assert found == made
    assert found.spec == SPEC
    assert found.parity == {"passed": True}
    assert list(found.files) == ["net.onnx", "net.onnx.data"]
    assert found.size == len(b"graph") + len(b"weights")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net.onnx", "net.onnx.data", "net.onnx.json"]


def test_a_failed_block_changes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "net.onnx"
    before = make(out, data=b"weights")

    def fail(path: Path) -> None:
        path.write_bytes(b"half a gr")
        raise OSError("cable pulled")

    with pytest.raises(OSError, match="cable pulled"), staged(out) as path:
        fail(path)
    assert open_artefact(out) == before
    assert len(list(tmp_path.iterdir())) == 3


def test_a_new_artefact_takes_old_data_files_away(tmp_path: Path) -> None:
    out = tmp_path / "net.onnx"
    make(out, data=b"weights")
    make(out, b"another graph")
    assert list(open_artefact(out).files) == ["net.onnx"]
    assert not (tmp_path / "net.onnx.data").exists()


@pytest.mark.parametrize("name", ["net.onnx", "net.onnx.data"])
def test_changed_files_are_refused(tmp_path: Path, name: str) -> None:
    out = tmp_path / "net.onnx"
    make(out, data=b"weights")
    (tmp_path / name).write_bytes(b"other")
    with pytest.raises(ExportError, match=rf"{name} is not the file that was exported.*export the network"):
        open_artefact(out)
    open_artefact(out, check=False)


def test_missing_files_are_named(tmp_path: Path) -> None:
    out = tmp_path / "net.onnx"
    with pytest.raises(ExportError, match="there is no file"):
        open_artefact(out)
    make(out, data=b"weights")
    (tmp_path / "net.onnx.data").unlink()
    with pytest.raises(ExportError, match=r"net\.onnx\.data is not beside it; copy the whole set"):
        open_artefact(out, check=False)
    sidecar_path(out).unlink()
    with pytest.raises(ExportError, match="has no description"):
        open_artefact(out)


def test_a_renamed_artefact_says_what_it_was(tmp_path: Path) -> None:
    make(tmp_path / "net.onnx")
    (tmp_path / "net.onnx").rename(tmp_path / "other.onnx")
    (tmp_path / "net.onnx.json").rename(tmp_path / "other.onnx.json")
    with pytest.raises(ExportError, match=r"describes net\.onnx, not other\.onnx"):
        open_artefact(tmp_path / "other.onnx")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format 2; this version of pyface reads format 1"),
        ({"files": {"../net.onnx": "0"}}, "files must be names"),
        ({"files": 3}, "files must be names"),
        ({"spec": None}, "lacks spec"),
        ({"spec": {"format": "onnx"}}, "damaged or of another version"),
    ],
)
def test_damaged_descriptions(tmp_path: Path, change: dict[str, object], message: str) -> None:
    out = tmp_path / "net.onnx"
    make(out)
    described = json.loads(sidecar_path(out).read_text())
    sidecar_path(out).write_text(json.dumps({**described, **change}))
    with pytest.raises(ExportError, match=message):
        open_artefact(out)
    for text in ("[]", "{", ""):
        sidecar_path(out).write_text(text)
        with pytest.raises(ExportError, match=r"format None|cannot be read"):
            open_artefact(out)


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the folder does not exist; make it first"):
        make(tmp_path / "nowhere" / "net.onnx")
    with pytest.raises(DataError, match="the path is a folder"):
        make(tmp_path)
    with pytest.raises(DataError, match="the disk is full"), staged(tmp_path / "net.onnx"):
        raise OSError(errno.ENOSPC, "full")
    with pytest.raises(ExportError, match="was not described"), staged(tmp_path / "net.onnx") as path:
        path.write_bytes(b"graph")
    with pytest.raises(ExportError, match="nothing was written"), staged(tmp_path / "net.onnx") as path:
        seal(path, SPEC)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    out = tmp_path / "net.onnx"
    make(out)
    child = textwrap.dedent(f"""
        import os, signal
        from pyface.export.artefact import staged
        with staged({str(out)!r}) as path:
            path.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    done = subprocess.run([sys.executable, "-c", child], check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.glob(".net.onnx.*")
    open_artefact(out)
    past = time.time() - 1000
    os.utime(left, (past, past))
    with staged(out) as path:
        os.utime(path.parent, (past, past))
        make(out, b"another")  # a staging folder in use stays
        assert path.parent.is_dir()
        path.write_bytes(b"graph")
        seal(path, SPEC)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net.onnx", "net.onnx.json"]
    assert open_artefact(out).parity is None


def test_sha256_of_network_sees_names_shapes_types_and_numbers() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(2, 3)
    same = nn.Linear(2, 3)
    same.load_state_dict(layer.state_dict())
    assert sha256_of_network(layer) == sha256_of_network(same)
    with torch.no_grad():
        same.weight[0, 0] += 1e-6
    others = [same, nn.Sequential(layer), nn.Linear(3, 2), nn.BatchNorm1d(2)]
    assert len({sha256_of_network(network) for network in [layer, *others]}) == 5
    half = nn.Linear(2, 3).half()
    assert sha256_of_network(half) != sha256_of_network(half.bfloat16())
