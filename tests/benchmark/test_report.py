"""bench/RESULTS.md from small documents: tables, losses, targets."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

from pyface.benchmark import all_cases

ROOT = Path(__file__).parents[2]


def load(path: Path):
    if not path.is_file():
        pytest.skip(f"{path.name} is not beside the tests")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def report():
    return load(ROOT / "bench" / "report.py")


@pytest.fixture
def document():
    return load(Path(__file__).with_name("recorded_document.py")).document()


SYNTHESIS = "synthesis/1x3x256x256/bfloat16"
TARGETS = [
    {"name": "speed", "kind": "ratio", "case": SYNTHESIS, "variant": "torch eager", "target": 11},
    {"name": "other runtimes", "kind": "ratio", "case": SYNTHESIS, "variant": "OpenVINO", "target": 2.8},
    {
        "name": "threads",
        "kind": "threads",
        "case": "scaling/threads/2 at 8 of 256 px/bfloat16",
        "one": "scaling/threads/1 at 8 of 256 px/bfloat16",
        "target": 1.8,
    },
    {"name": "ceiling", "kind": "ceiling", "case": SYNTHESIS, "target": 0.7},
    {"name": "error", "kind": "rmse", "case": SYNTHESIS, "target": 0.01},
    {"name": "largest error", "kind": "max", "case": SYNTHESIS, "target": 5e-6},
    {"name": "elsewhere", "kind": "rmse", "case": "no such case", "target": 0.01},
]


@pytest.fixture
def text(report, document, monkeypatch, tmp_path):
    bench = tmp_path / "bench"
    monkeypatch.setattr(report, "BENCH", bench)
    folder = bench / "results" / "some-device"
    folder.mkdir(parents=True)
    (folder / "suite.json").write_text(json.dumps(document))
    (folder / "faces.json").write_text(json.dumps({"kind": "pyface-faces"}))
    (bench / "targets.json").write_text(json.dumps(TARGETS))
    return report.report(bench / "results")


def rows(text: str, title: str) -> list[list[str]]:
    """Cells of the rows below a heading."""
    part = re.split(r"^#+ ", text.split(f"# {title}", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    lines = [line for line in part.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_a_case_has_its_work_its_time_and_every_ratio(text):
    _, row = rows(text, "Networks")
    assert row == [
        "synthesis", "1x3x256x256", "bfloat16", "-", "40 ms (36-44)", "25", "50", "30", "1.25", "750",
        "62% arithmetic", "12.00x", "1.50x", "left out", "2.75x", "7.50x", "2.0e-06; 1.0e-06",
    ]  # fmt: skip


def test_the_best_form_is_named(text):
    blur = next(row for row in rows(text, "Ops") if row[0] == "blur")
    assert blur[11:13] == ["0.50x", "0.40x in place"]


def test_scaling(text):
    head, one, two = rows(text, "Cost as work grows")
    assert head[:4] == ["size", "threads", "bfloat16", "float32"]
    assert one == ["8x3x256x256", "1", "25", "-", "2", "12.50x", "-", "-"]
    assert two[-1] == "1.88x bfloat16"


def test_processes(text):
    found = {row[0]: row[1:] for row in rows(text, "Fresh processes")}
    assert found["start/import"] == ["0.051 s", "Python alone 0.024 s"]
    assert found["memory/synthesis 8x3x256x256 bfloat16"] == ["497 MB", "OpenVINO 1,162 MB (2.34x)"]


def test_every_loss_is_listed(text):
    assert rows(text, "Where pyface loses")[1:] == [
        ["blur 1x8x9x9 float32", "torch eager, in place", "0.40x"],
        ["blur 1x8x9x9 float32", "torch eager", "0.50x"],
        ["first/demo generator: load and first image", "torch eager", "0.50x"],
        ["call 1x8x4x4 float32", "torch eager", "0.75x"],
    ]


def test_targets(text):
    assert [row[2:] for row in rows(text, "Targets")[1:]] == [
        ["at least 11x", "12x", "yes"],
        ["at least 2.8x", "2.75x", "no"],
        ["at least 1.8x", "1.88x", "yes"],
        ["at least 70%", "68%", "no"],
        ["at most 0.01", "1e-06", "yes"],
        ["at most 5e-06", "8e-06", "no"],
        ["at most 0.01", "not measured", "-"],
    ]


def test_what_was_not_measured_has_its_reason(text):
    assert "* align/x: cv2 is not installed" in text
    assert f"* torch.compile: BackendError: no C++ compiler was found ({SYNTHESIS})" in text


def test_what_failed_has_a_part_of_its_own(report, document):
    document["failed"] = [{"name": "blur/1", "reason": "MemoryError"}]
    lines = list(report.section(report.BENCH / "results" / "some-device" / "suite.json", document))
    assert lines[lines.index("### Failed") + 2] == "* blur/1: MemoryError"
    del document["failed"]
    lines = list(report.section(report.BENCH / "results" / "some-device" / "suite.json", document))
    assert "### Failed" not in lines


def test_ceilings(text):
    assert rows(text, "Ceilings")[2] == ["2", "14", "40", "290", "1200", "-", "1100"]


def test_a_training_step(report):
    found = []
    for scale in (1.0, 3.0):
        parts = {"G": {"median": 800.0 * scale}, "D": {"median": 400.0 * scale}}
        found.append({"cpu_ms": {"median": 1000.0 * scale}, "wall_ms": {"median": 9e9}, "parts_ms": parts})
    ways = dict(zip(("pyface", "torch eager"), found, strict=True))
    text = report.training_table([{"size": "4x3x8x8", "dtype": "bfloat16", "items": 4, "variants": ways}])
    assert text[2] == "| 4x3x8x8 | pyface bfloat16 | 0.200 | 0.100 | 0.250 | 4 | 3.00x |"
    assert text[3] == "| 4x3x8x8 | torch eager | 0.600 | 0.300 | 0.750 | 1.33 | - |"


def test_targets_name_cases_that_exist():
    targets = json.loads((ROOT / "bench" / "targets.json").read_text())
    kinds = sys.modules["report_targets"].KINDS
    names = {case.name for case in all_cases()}
    for target in targets:
        assert target["kind"] in kinds
        for key in ("case", "one"):
            name = target.get(key)
            assert name is None or name in names or name.startswith("scaling/threads/2"), name


def test_results_page_is_what_the_files_say(report):
    target = ROOT / "bench" / "RESULTS.md"
    if not target.is_file():
        pytest.skip("no results are committed")
    assert target.read_text() == report.report(ROOT / "bench" / "results")


def test_engines_stand_in_one_table(report, document):
    def way(ms: float, psnr: float) -> dict:
        quartiles = {"median": ms, "q1": ms, "q3": ms}
        error = {"max": 1e-6, "max_by_std": 1e-6, "rmse": 1e-7, "psnr_db": psnr}
        return {"cpu_ms": quartiles, "wall_ms": quartiles, "rounds": 5, "error": error}

    case = {
        **document["cases"][0], "name": "engines/8x3x256x256/float32", "group": "engines",
        "size": "8x3x256x256", "items": 8,
        "variants": {"pyface": way(800.0, 115.0), "OpenVINO": way(1600.0, 116.0)},
        "speedup": {"OpenVINO": {"median": 2.0, "q1": 2.0, "q3": 2.0}},
        "left_out": {"ONNX Runtime": "onnxruntime is not installed"},
    }  # fmt: skip
    figure = {"unit": "s", "variant": "OpenVINO"}
    document["cases"] = [case]
    document["measurements"] = [
        {**figure, "name": "engines/start/1x3x256x256 float32", "value": 4.25},
        {**figure, "name": "engines/memory/8x3x256x256 float32", "value": 1076.0, "unit": "MB"},
        {**figure, "name": "engines/speed/8x3x1024x1024 float32", "value": 1.5, "unit": "img/s"},
        {**figure, "name": "engines/speed/8x3x1024x1024 float32", "value": 3.0, "unit": "img/s",
         "variant": "pyface"},
    ]  # fmt: skip
    lines = "\n".join(report.section(report.BENCH / "results/machine/engines.json", document)).splitlines()
    assert "| 8x3x256x256 | float32 | pyface | 10 | 1 | 115.0 | - | - |" in lines
    assert "| 8x3x256x256 | float32 | OpenVINO | 5 | 2.00x | 116.0 | 4.25 | 1076 |" in lines
    assert "| 8x3x256x256 | float32 | ONNX Runtime | - | left out | - | - | - |" in lines
    assert "| 8x3x1024x1024 | float32 | OpenVINO | 1.5 | 2.00x | - | - | - |" in lines
    assert "### Fresh processes" not in lines
