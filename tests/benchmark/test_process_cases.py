"""Fresh processes give figures of the right kind, and failures are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyface.benchmark import process_cases as processes
from pyface.benchmark.process_cases import ProcessCase, child, measure_processes, peak_memory
from pyface.errors import BackendError

TINY = {"z_dim": 8, "w_dim": 8, "channel_base": 256, "channel_max": 16, "mapping_layers": 1}


def named(name: str, variant: str = "pyface") -> ProcessCase:
    return next(case for case in processes.process_cases() if (case.name, case.variant) == (name, variant))


def test_importing_pyface_takes_no_torch(tmp_path):
    ours = named("process/start/import").measure(1, tmp_path)
    alone = named("process/start/import", "Python alone").measure(1, tmp_path)
    assert 0 < alone < 10
    assert 0 < ours < 10


@pytest.mark.parametrize("way", ["pyface", "torch eager"])
def test_first_image(way):
    assert 0 < child({"task": "first image", "way": way, "network": "demo"}, 1) < 60


def test_first_call():
    assert 0 < child({"task": "first call", "way": "pyface"}, 1) < 10


@pytest.mark.parametrize(("way", "dtype"), [("pyface", "bfloat16"), ("torch eager", "float32")])
def test_peak_memory(way, dtype, tmp_path):
    found = peak_memory(way, 16, 2, dtype, 1, tmp_path, TINY)
    assert 20 < found < 4000
    assert (tmp_path / "16.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(("way", "module"), [("OpenVINO", "openvino"), ("ONNX Runtime", "onnxruntime")])
def test_peak_memory_of_other_runtimes(way, module, tmp_path):
    pytest.importorskip(module)
    pytest.importorskip("onnx")
    assert 20 < peak_memory(way, 16, 2, "float32", 1, tmp_path, TINY) < 4000


def test_sizes(tmp_path):
    own = named("process/disk/installed").measure(1, tmp_path)
    packed = named("process/disk/compressed").measure(1, tmp_path)
    assert 1 < packed < own < 1000
    assert named("process/disk/installed", "torch").measure(1, tmp_path) > 100


def test_names_and_ways_are_unique():
    cases = processes.process_cases()
    assert len({(case.name, case.variant) for case in cases}) == len(cases)
    assert all(case.name.startswith(f"{case.group}/") and case.unit in ("s", "MB", "img/s") for case in cases)
    assert any(case.screen for case in cases)


def test_median_of_repeats_and_reasons(monkeypatch):
    values = iter([3.0, 1.0, 2.0, 9.0])

    def absent(threads: int, folder: Path) -> float:
        raise BackendError("no such figure")

    def no_room(threads: int, folder: Path) -> float:
        raise OSError("no space left")

    cases = [
        ProcessCase("process/a", "pyface", "s", lambda threads, folder: next(values), 3),
        ProcessCase("process/a", "torch eager", "s", absent),
        ProcessCase("process/b", "pyface", "s", absent),
        ProcessCase("process/b", "torch eager", "s", no_room),
    ]
    lines: list[str] = []
    measurements, skipped, failed = measure_processes(cases, 1, report=lines.append)
    assert measurements == [{"name": "process/a", "value": 2.0, "unit": "s", "variant": "pyface"}]
    assert skipped == [{"name": "process/a, torch eager", "reason": "no such figure"}]
    assert failed == [
        {"name": "process/b, pyface", "reason": "no such figure"},
        {"name": "process/b, torch eager", "reason": "OSError: no space left"},
    ]
    assert lines == [
        "process/a, pyface: 2 s",
        "process/a, torch eager: skipped, no such figure",
        "process/b, pyface: failed, no such figure",
        "process/b, torch eager: failed, OSError: no space left",
    ]
    assert measure_processes(cases[:1], 1, quick=True)[0][0]["value"] == 9.0


def test_no_processes_on_a_gpu():
    assert measure_processes([named("process/start/import")], 1, "cuda")[0] == []


def test_a_runtime_that_is_not_installed_is_left_out(monkeypatch):
    monkeypatch.setattr(processes.importlib.util, "find_spec", lambda name: None)
    case = named("process/memory/synthesis 8x3x256x256 float32", "OpenVINO")
    assert measure_processes([case], 1)[1][0]["reason"] == "openvino is not installed"


def test_a_process_that_fails_says_why(monkeypatch):
    with pytest.raises(BackendError, match=r"ended early: KeyError: 'no such task'"):
        child({"task": "no such task"}, 1)
    monkeypatch.setattr(processes, "_LONGEST", 0.01)
    with pytest.raises(BackendError, match="not done within"):
        child({"task": "first call", "way": "pyface"}, 1)
