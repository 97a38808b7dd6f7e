"""tools/gpu_report.py where there is no GPU: it says so, invents nothing, and no failed step ends it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "gpu_report.py"


@pytest.fixture(scope="module")
def gpu_report() -> ModuleType:
    """The tool as a module."""
    spec = importlib.util.spec_from_file_location("gpu_report", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here; the report would be measured")
def test_without_gpu_nothing_is_written(tmp_path: Path) -> None:
    command = [sys.executable, str(TOOL), "--out", str(tmp_path / "results")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0
    assert done.stdout.startswith("No GPU report: torch ")
    for step in ("build", "primitives", "faces", "tests", "sanitizer", "ceilings", "benchmarks"):
        assert f"{step}: not measured" in done.stdout
    assert not (tmp_path / "results").exists()


def test_unknown_step_is_refused() -> None:
    command = [sys.executable, str(TOOL), "--steps", "build,nope"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert "unknown steps nope; allowed: build, primitives," in done.stderr


def test_faces_are_compared_by_shares(gpu_report: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyface._emu", reason="built without PYFACE_EMU")
    from pyface.ops.face_render import face_render as render

    def on_gpu(params: torch.Tensor, size: int, *, backend: str = "auto") -> dict[str, torch.Tensor]:
        drawn = render(params, size, backend="cpu" if backend == "cuda" else backend)
        if backend == "cuda" and spoil:
            drawn["nir"] = drawn["nir"] ^ 8
        return drawn

    spoil = False
    monkeypatch.setattr(sys.modules["pyface.ops.face_render"], "face_render", on_gpu)
    monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor: tensor)
    same = gpu_report.compare_faces(2, 24)
    assert same["ok"]
    assert min(same["share_equal"].values()) >= 0.999
    spoil = True
    spoiled = gpu_report.compare_faces(2, 24)
    assert not spoiled["ok"]
    assert spoiled["share_equal"]["nir"] == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here; the steps would be done")
def test_failed_steps_are_recorded(gpu_report: ModuleType, tmp_path: Path) -> None:
    report = gpu_report.run_steps(["ceilings", "sanitizer"], tmp_path, quick=True)
    assert set(report) == {"ceilings", "sanitizer"}
    assert "gave 1" in report["ceilings"]["error"]
    assert "error" in report["sanitizer"] or report["sanitizer"]["ok"] is False


def test_inputs_of_primitives_have_exact_sums(gpu_report: ModuleType) -> None:
    for primitive, size in ((0, 1280), (1, 1280), (2, 512), (3, 512), (4, 128), (5, 512)):
        given = gpu_report.primitive_input(primitive, size)
        assert given.dtype == np.uint8
        assert given.size == size
    halves = gpu_report.primitive_input(0, 1280)[:768].view(np.float16)
    assert np.array_equal(halves, np.round(halves))
    assert np.abs(halves).max() <= 8
    floats = gpu_report.primitive_input(4, 128).view(np.float32)
    assert np.isfinite(floats).all()


def test_fraction_of_the_floor(gpu_report: ModuleType) -> None:
    def case(op: str) -> dict[str, object]:
        wall = {"wall_ms": {"median": 2.0}}
        return {"op": op, "dtype": "bfloat16", "bytes": 4e9, "flops": 8e14, "variants": {"pyface": wall}}

    cases = [case("bias_act"), case("modulated_conv2d")]
    limits = {"copy_gb_per_s": 4000.0, "matmul_bfloat16_tflop_per_s": 500.0}
    gpu_report.add_fractions({"ceilings": limits, "benchmarks": {"cases": cases}})
    assert cases[0]["floor_ms"] == pytest.approx(1.0)
    assert cases[0]["fraction_of_floor"] == pytest.approx(0.5)
    assert cases[1]["floor_ms"] == pytest.approx(1600.0)


def test_fractions_need_ceilings(gpu_report: ModuleType) -> None:
    report = {"ceilings": {"error": "no GPU"}, "benchmarks": {"cases": [{"op": "bias_act"}]}}
    gpu_report.add_fractions(report)
    assert report["benchmarks"] == {"cases": [{"op": "bias_act"}]}
