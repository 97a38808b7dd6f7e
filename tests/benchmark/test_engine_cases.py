"""The cases that compare engines, on a small generator."""

from __future__ import annotations

import json

import pytest
import torch

import pyface.benchmark.engine_cases as engines
import pyface.benchmark.suite as suite_module
from pyface.benchmark import Ceilings, run_suite, schema
from pyface.benchmark.case import EAGER, OURS, Case
from pyface.benchmark.document import result_error
from pyface.benchmark.engine_cases import EngineWork, engine_cases, engine_process_cases, measured_in_process
from pyface.benchmark.rivals import ONNX_RUNTIME, OPENVINO
from pyface.errors import BackendError
from pyface.export import available_engines

CEILINGS = Ceilings(10.0, 20.0, 100.0, 200.0, None, 300.0)
pytestmark = pytest.mark.skipif(
    available_engines("cpu")["native"] is not None, reason="the native module is not built"
)


@pytest.fixture(scope="module")
def work():
    return EngineWork(32, channel_base=256, channel_max=16, z_dim=16, w_dim=16, mapping_layers=2)


def test_names_cover_sizes_batches_and_precisions():
    names = {case.name for case in engine_cases()}
    assert {"engines/1x3x256x256/float32", "engines/1x3x1024x1024/bfloat16"} <= names
    assert len(names) == 6
    processes = engine_process_cases()
    assert {case.name.split("/")[1] for case in processes} == {"start", "memory", "speed"}
    assert {case.name for case in processes if case.unit == "img/s"} == {
        "engines/speed/8x3x1024x1024 float32", "engines/speed/8x3x1024x1024 bfloat16"
    }  # fmt: skip
    assert {case.variant for case in processes} == {OURS, EAGER, OPENVINO, ONNX_RUNTIME}
    assert len({(case.name, case.variant) for case in processes}) == len(processes)


def test_all_engines_stand_side_by_side(work, monkeypatch):
    jsonschema = pytest.importorskip("jsonschema")
    case = Case(
        "engines/2x3x32x32/float32", "engines", "engines", "2x3x32x32", "float32", "-",
        lambda device: engines.engine_workload(work, 2, "float32", device), cold=False, rivals=False,
    )  # fmt: skip
    monkeypatch.setattr(suite_module, "all_cases", lambda: [case])
    monkeypatch.setattr(suite_module, "process_cases", list)
    document = run_suite(quick=False, ceilings={1: CEILINGS})
    assert document["failed"] == []
    jsonschema.validate(json.loads(json.dumps(document)), schema())
    (entry,) = document["cases"]
    here = {way for way, name in engines.WAYS.items() if available_engines("cpu")[name] is None}
    assert set(entry["variants"]) == here
    assert set(entry["variants"]) | set(entry["left_out"]) == set(engines.WAYS)
    assert all(way["error"]["psnr_db"] > 90 for name, way in entry["variants"].items() if name != EAGER)
    assert entry["items_per_s"] > 0


def test_what_cannot_run_is_left_out_with_its_reason(work, monkeypatch):
    def opened(engine, dtype, batch, device="cpu"):
        if engine in ("openvino", "onnxruntime"):
            raise ImportError(f"{engine} is not installed")
        return EngineWork.opened(work, engine, dtype, batch, device)

    monkeypatch.setattr(work, "opened", opened)
    found = engines.engine_workload(work, 1, "bfloat16")
    assert list(found.variants) == [OURS, EAGER]
    assert found.left_out[OPENVINO] == "openvino is not installed"


def test_little_memory_is_a_reason(monkeypatch):
    monkeypatch.setattr(engines, "_free_gb", lambda: 1.0)
    case = next(case for case in engine_cases() if case.name == "engines/8x3x256x256/float32")
    with pytest.raises(BackendError, match="may need 2 GB of memory; 1 GB are available"):
        case.build("cpu")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["native", "torch", "openvino", "onnxruntime"])
def test_a_fresh_process(work, engine):
    if available_engines("cpu")[engine] is not None:
        pytest.skip("not installed")
    assert 0.1 < measured_in_process(work, "start", engine, 1, "float32", 1) < 120
    assert 50 < measured_in_process(work, "memory", engine, 2, "float32", 1) < 5000
    assert measured_in_process(work, "speed", engine, 2, "float32", 1) > 0.1


def test_a_precision_that_an_engine_has_not_is_left_out(work):
    with pytest.raises(BackendError):
        measured_in_process(work, "memory", "onnxruntime", 1, "bfloat16", 1)


def test_psnr_is_over_the_range_of_images():
    truth = torch.ones(10, dtype=torch.float64)
    assert result_error(truth + 0.02, truth + 0.0, 2.0)["psnr_db"] == 40.0
    assert "psnr_db" not in result_error(truth + 0.02, truth)
    assert "psnr_db" not in result_error(truth + 1, truth + 1, 2.0)
