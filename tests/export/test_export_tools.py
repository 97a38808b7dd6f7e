"""tools/export_onnx.py and tools/convert_checkpoint.py, run as a user runs them."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import pyface
from pyface.export.artefact import open_artefact
from pyface.io.checkpoint import save_model
from pyface.io.images import image_shape
from pyface.models import nvidia_name_map

ROOT = Path(__file__).parents[2]


def module_of(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["export_onnx", "convert_checkpoint"])
def test_scripts_are_short_and_explain_themselves(name: str) -> None:
    path = ROOT / "tools" / f"{name}.py"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 80
    done = subprocess.run([sys.executable, path, "--help"], capture_output=True, text=True, check=True)
    assert "usage:" in done.stdout


def test_export_onnx(
    tmp_path: Path, small_network: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra export")
    pytest.importorskip("onnxruntime", reason="needs the extra export")
    network, out = tmp_path / "net.safetensors", tmp_path / "net.onnx"
    save_model(network, small_network("stylegan2-generator"))
    tool = module_of(ROOT / "tools" / "export_onnx.py")
    assert tool.main([str(network), str(out), "--uint8", "--rows", "2"]) == 0
    text = capsys.readouterr().out
    assert f"{out}: " in text
    assert "certificate: passed in onnxruntime" in text
    assert "onnxruntime: 2 rows in" in text
    assert "  vis: uint8 [2, 8, 8, 3], from " in text
    assert open_artefact(out).parity is not None
    assert tool.main([str(network), str(out), "--opset", "3"]) == 1
    assert "export_onnx: opset 3 is too low for fp32" in capsys.readouterr().err


def test_convert_checkpoint(
    tmp_path: Path, small_network: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    writer = module_of(ROOT / "tests" / "snapshot_writer.py")
    network = small_network("stylegan2-generator", spectra={"vis": 3})
    state = network.state_dict()
    tensors = {theirs: state[ours] for theirs, ours in nvidia_name_map(network.config).items()}
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    tensors["synthesis.b8.resample_filter"] = torch.outer(taps, taps) / 64
    tree = writer.module_tree(tensors, {"mapping.fc0": {"bias_gain": 0.01}}, {"": "Generator"})
    source, out, sheet = (tmp_path / name for name in ("net.pkl", "net.safetensors", "net.png"))
    source.write_bytes(writer.dumps({"G": tree, "G_ema": tree}, 3))
    tool = module_of(ROOT / "tools" / "convert_checkpoint.py")
    assert tool.main([str(source), str(out), "--sheet", str(sheet)]) == 0
    assert f"{out}: generator G_ema, 8x8" in capsys.readouterr().out
    assert image_shape(sheet)[:2] == (4 * 10 + 2, 4 * 10 + 2)
    found = pyface.load(out, kind="generator")
    assert all(torch.equal(tensor, state[name]) for name, tensor in found.state_dict().items())
    source.write_bytes(b"no pickle")
    assert tool.main([str(source), str(out)]) == 1
    assert "convert_checkpoint: " in capsys.readouterr().err
