"""`pyface export` from the command line."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pyface import cli
from pyface.cli.export import certificate_line
from pyface.errors import DataError, ExportError, MissingExtraError, PyfaceError, ValueRangeError
from pyface.export import onnx as onnx_export
from pyface.export.artefact import open_artefact
from pyface.models import load

pytest.importorskip("onnxscript", reason="needs the extra export")
pytest.importorskip("onnxruntime", reason="needs the extra export")


RUNTIMES = ("onnx", "onnxscript", "onnxruntime", "openvino", "tensorrt")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.cli, ["export", *map(str, arguments)])


def test_onnx_with_a_certificate(tmp_path: Path, network: Path) -> None:
    out = tmp_path / "tiny.onnx"
    result = run("onnx", network, out, "--precision", "fp16", "--uint8", "--external-data")
    assert result.exit_code == 0, result.output
    first, ports, certificate = result.output.splitlines()
    assert re.fullmatch(
        rf"{out}: \d+\.\d MB with tiny\.onnx\.data; stylegan2-generator in fp16, opset 20, \d+\.\d s", first
    )
    assert ports == (
        "  z float32 [batch, 8], c float32 [batch, 2], psi float32 [] -> vis uint8 [batch, 16, 16, 3]"
    )
    assert re.fullmatch(
        r"  certificate: passed in onnxruntime [\d.]+(, openvino [\d.]+)?, batches 1, 3, 8: largest error "
        r"\S+ and RMSE \S+ of the standard deviation; PSNR \d+\.\d dB; \d+\.\d\d% of uint8 pixels differ",
        certificate,
    )
    artefact = open_artefact(out)
    assert artefact.parity is not None
    assert artefact.parity["passed"]
    assert artefact.parity["artefact_sha256"] == artefact.sha256
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "tiny.onnx",
        "tiny.onnx.data",
        "tiny.onnx.json",
    ]


def test_openvino(tmp_path: Path, network: Path) -> None:
    pytest.importorskip("openvino", reason="needs the extra openvino")
    result = run("openvino", network, tmp_path / "tiny.xml", "--part", "mapping", "--batch", 4)
    assert result.exit_code == 0, result.output
    assert "MB with tiny.bin; stylegan2-generator, mapping in fp32" in result.output
    assert "certificate: passed in openvino" in result.output
    assert open_artefact(tmp_path / "tiny.xml").spec.batch == 4


def test_options_reach_the_file(tmp_path: Path, network: Path) -> None:
    out = tmp_path / "tiny.onnx"
    options = ["--inputs", "ws", "--noise", "input", "--batch", "2", "--functions", "--opset", "21"]
    result = run("onnx", network, out, "--no-certify", "--up-form", "phases", *options)
    assert result.exit_code == 0, result.output
    assert "certificate: none; pyface verify makes one" in result.output
    spec = open_artefact(out).spec
    assert [tensor.name for tensor in spec.inputs] == ["ws", "noise"]
    assert (spec.batch, spec.opset, spec.noise_mode, spec.up_form) == (2, 21, "input", "phases")


def test_a_file_that_fails_is_written_only_with_force(
    tmp_path: Path, network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = load(network)
    for parameter in other.synthesis.b16.heads.parameters():
        parameter.data += 0.1
    form_of = onnx_export.form_of
    monkeypatch.setattr(onnx_export, "form_of", lambda _, **options: form_of(other, **options))
    out = tmp_path / "tiny.onnx"
    result = run("onnx", network, out)
    assert isinstance(result.exception, ExportError)
    assert re.match(
        r"tiny\.onnx was not written: it differs too much from the network \(.*RMSE of .*standard "
        r"deviations; allowed are .*\(--force\)",
        str(result.exception),
    )
    assert list(tmp_path.iterdir()) == []
    result = run("onnx", network, out, "--force")
    assert result.exit_code == 0, result.output
    assert "certificate: FAILED in onnxruntime" in result.output
    parity = open_artefact(out).parity
    assert parity is not None
    assert parity["passed"] is False


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (["--opset", "11"], ExportError, "opset 11 is too low for fp32: it must be 18 to"),
        (["--opset", "20", "--precision", "bf16"], ExportError, "too low for bf16: it must be 22 to"),
        (["--precision", "half"], ValueRangeError, "precision must be one of fp32, fp16, bf16"),
        (["--precision", "int8"], ExportError, "`pyface export tensorrt --precision int8` does that"),
        (["--batch", "0"], ValueRangeError, "--batch must be dynamic or a number from 1 on; got '0'"),
        (["--batch", "many"], ValueRangeError, "--batch must be dynamic or a number from 1 on; got 'many'"),
    ],
)
def test_refused_options(
    options: list[str], error: type[PyfaceError], message: str, tmp_path: Path, network: Path
) -> None:
    result = run("onnx", network, tmp_path / "tiny.onnx", *options)
    assert isinstance(result.exception, error)
    assert message in str(result.exception)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_and_a_missing_extra(
    tmp_path: Path, network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run("onnx", network, tmp_path / "nowhere" / "tiny.onnx")
    assert isinstance(result.exception, DataError)
    assert "the folder does not exist; make it first" in str(result.exception)
    for name in ("onnxscript", "openvino"):
        monkeypatch.setitem(sys.modules, name, None)
    for kind, out in (("onnx", "tiny.onnx"), ("openvino", "tiny.xml")):
        result = run(kind, network, tmp_path / out)
        assert isinstance(result.exception, MissingExtraError)
        assert 'pip install "pyface-synth[' in str(result.exception)


def test_help_imports_no_runtime() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from pyface import cli;"
        "r = CliRunner().invoke(cli.cli, ['export', '--help']); print(r.output);"
        f"print(sorted({set(RUNTIMES) | {'torch'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("[]")
    for name in ("onnx", "openvino", "tensorrt"):
        assert re.search(rf"^  {name} ", done.stdout, re.MULTILINE)


def test_modules_of_export_import_no_runtime() -> None:
    names = ["artefact", "network_form", "onnx", "openvino", "translations"]
    code = (
        "import importlib, sys\n"
        f"for name in {names}: importlib.import_module('pyface.export.' + name)\n"
        f"print(sorted({set(RUNTIMES)} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_numbers_that_are_not_finite_show_in_the_line() -> None:
    agreement: dict[str, Any] = {"max_error": None, "rmse": 0.5, "psnr": None, "differing": None}
    measurement = {"batch": 1, "agreement": agreement, "identity_drift": None}
    results = [{"runtime": "openvino", "versions": {}, "measurements": [measurement]}]
    line = certificate_line(json.loads(json.dumps({"passed": False, "results": results})))
    assert line == ("FAILED in openvino, batches 1: largest error inf and RMSE 0.5 of the standard deviation")
    assert importlib.import_module("pyface.cli.export").command.name == "export"
