"""`pyface verify`: the table, the exit status, the file it writes, and one clear line for each mistake."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from click.testing import CliRunner

from pyface.cli.verify import command
from pyface.errors import ExportError, PyfaceError
from pyface.export.artefact import sidecar_path
from pyface.export.onnx import export_onnx
from pyface.io.checkpoint import save_model
from pyface.models import load

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason=f"{package} is not installed (pyface-synth[export])")


@pytest.fixture(scope="module")
def artefact(network, tmp_path_factory):
    """An ONNX file of the tiny generator."""
    path = tmp_path_factory.mktemp("artefact") / "tiny.onnx"
    export_onnx(network, path, certify=False)
    return path


@pytest.fixture(scope="module")
def other(network, tmp_path_factory):
    """The tiny generator, with one weight a little larger."""
    changed = load(network)
    with torch.no_grad():
        changed.get_parameter("mapping.fc0.weight").mul_(1.01)
    path = tmp_path_factory.mktemp("other") / "other.safetensors"
    save_model(path, changed)
    return path


def verify(*arguments, status=0):
    result = CliRunner().invoke(command, [str(a) for a in (*arguments, "--embedder", "none")])
    if isinstance(result.exception, PyfaceError):
        raise result.exception
    assert result.exit_code == status, result.output
    return result.output


def test_table_and_json(artefact, network, tmp_path):
    out = tmp_path / "new" / "parity.json"
    said = verify(artefact, "--against", network, "--threads", 1, "--json", out).splitlines()
    assert said[0].split()[:4] == ["runtime", "batch", "psi", "output"]
    rows = [line.split() for line in said if line.startswith("onnxruntime")]
    assert [row[1:4] for row in rows] == [["1", "1.0", "vis"], ["3", "0.7", "vis"], ["8", "0.7", "vis"]]
    assert all(float(row[5]) < 1e-5 for row in rows)
    assert said[-1].startswith("passed: fp32 allows")
    found = json.loads(out.read_text())
    assert found["passed"] is True
    assert found["artefact_sha256"] == json.loads(sidecar_path(artefact).read_text())["files"]["tiny.onnx"]
    assert [m["batch"] for m in found["results"][0]["measurements"]] == [1, 3, 8]


def test_one_runtime_and_other_batches(artefact, network):
    said = verify(artefact, "--against", network, "--runtime", "onnxruntime", "--batches", "2")
    assert len([line for line in said.splitlines() if " vis " in line]) == 1
    assert "openvino" not in said


def test_other_weights_are_refused_unless_asked_for(artefact, network, other, tmp_path):
    with pytest.raises(ExportError, match=r"made of weights with sha256 .*--other-weights"):
        verify(artefact, "--against", other)
    out = tmp_path / "parity.json"
    said = verify(artefact, "--against", other, "--other-weights", "--json", out, status=1)
    assert "FAILED: allowed" in said
    assert said.splitlines()[-1].startswith("FAILED: fp32 allows")
    assert json.loads(out.read_text())["passed"] is False


def test_damaged_artefacts(artefact, network, tmp_path):
    for path in (artefact, sidecar_path(artefact)):
        shutil.copy(path, tmp_path)
    copy = tmp_path / artefact.name
    damaged = bytearray(copy.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    copy.write_bytes(damaged)
    with pytest.raises(ExportError, match="is not the file that was exported"):
        verify(copy, "--against", network)
    with pytest.raises(ExportError, match="there is no file"):
        verify(tmp_path / "none.onnx", "--against", network)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (("--batches", "1,x"), "--batches must be numbers"),
        (("--batches", "0"), "--batches must be numbers"),
        (("--threads", "0"), "--threads must be 1 or more"),
        (("--json", "parity.txt"), "--json must end in .json"),
        (("--runtime", "tflite"), "runtime must be one of onnxruntime, openvino"),
    ],
)
def test_wrong_options(artefact, network, option, words):
    with pytest.raises(PyfaceError, match=words):
        verify(artefact, "--against", network, *option)
