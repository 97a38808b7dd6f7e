"""The ladders of bench/kernels: every version is right, at small sizes; CUDA ones in the emulator."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "bench/kernels"


def load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


ladders = load("ladders_run", FOLDER / "run.py")
CPU = [ladder for ladder in ladders.LADDERS if ladder.device == "cpu"]
CUDA = [ladder for ladder in ladders.LADDERS if ladder.device == "cuda"]


def by_name(ladder: Any) -> str:
    return str(ladder.name)


def best_isa() -> str:
    """The best instruction set of this CPU that the ladders have flags for."""
    cpu = pytest.importorskip("pyface._cpu", reason="the CPU module is not built")
    return str(cpu.isa_available()[-1])


def built(command: list[str]) -> Path:
    """The program that a command makes; its errors fail the test."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"
    return Path(command[-1])


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The programs by file name, two builds at a time."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed; the ladders are built with it")
    folder, isa = tmp_path_factory.mktemp("ladders"), best_isa()
    with ThreadPoolExecutor(2) as pool:
        started: dict[str, Future[Path]] = {}
        for ladder in ladders.LADDERS:
            program = folder / ladder.name.replace(".", "_")
            if ladder.device == "cuda":
                command = ladders.emulator_command(ladder, program)
            else:
                target = "avx512" if isa == "amx" and not ladder.tiles else isa
                command = ladders.cpu_command(ladder, target, program, "-O1")
            started[ladder.name] = pool.submit(built, command)
        yield {name: future.result for name, future in started.items()}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("ladder", ladders.LADDERS, ids=by_name)
def test_every_version_is_right(ladder: Any, programs: Any) -> None:
    versions = ladders.versions_of(programs[ladder.name](), [*ladder.small, "rounds=1"])
    assert [version["version"] for version in versions] == list(range(1, len(versions) + 1))
    assert len(versions) >= 4
    assert versions[-1]["shipped"]
    assert not versions[0]["shipped"]
    for version in versions:
        assert version["kernel"] == ladder.stem
        assert version["max_error"] <= version["allowed"] < 0.03, version
        assert version["bytes"] > 0
        if ladder.device == "cpu":
            assert version["ms"] > 0
            assert version["gb_per_s"] == pytest.approx(version["bytes"] / version["ms"] / 1e6, rel=1e-3)
        else:
            assert version["ms"] is version["gb_per_s"] is version["gflop_per_s"] is None


@pytest.mark.timeout(300)
@pytest.mark.parametrize("ladder", CUDA, ids=by_name)
def test_cuda_ladder_compiles(ladder: Any, tmp_path: Path) -> None:
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not installed; CUDA ladders were run in the emulator only")
    assert built(ladders.cuda_command(ladder, "sm_90a", tmp_path / "ladder.o", object_only=True)).exists()


def test_wrong_sizes_are_refused(programs: Any) -> None:
    for argument in ("q=1", "n=0", "n=x", "n"):
        done = subprocess.run(
            [str(programs["bias_act.cpp"]()), argument],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 2
        assert f"argument '{argument}'; allowed are whole numbers of 1 or more, as in: c=128" in done.stderr


def test_a_wrong_version_is_an_error(tmp_path: Path) -> None:
    program = tmp_path / "ladder"
    program.write_text("#!/bin/sh\necho 'bias_act version 2 is off by 3; allowed is 1' >&2\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(ladders.LadderError, match="version 2 is off by 3"):
        ladders.versions_of(program, [])


@pytest.mark.parametrize("ladder", ladders.LADDERS, ids=by_name)
def test_the_head_names_the_command(ladder: Any) -> None:
    head = (FOLDER / ladder.name).read_text().split("#include")[0]
    words = set(head.replace("//", "").split())
    if ladder.device == "cpu":
        command = ladders.cpu_command(ladder, "amx" if ladder.tiles else "avx512", Path(ladder.stem))
    else:
        command = ladders.cuda_command(ladder, "native", Path(f"{ladder.stem}_gpu"))
        assert f"csrc/emu/{ladder.source}.cpp" in words
    assert {part.replace(f"{ROOT}/", "") for part in command} <= words


def test_every_file_is_a_ladder() -> None:
    files = {path.name for path in FOLDER.iterdir() if path.suffix in (".cpp", ".cu")}
    assert files == {ladder.name for ladder in ladders.LADDERS}


def entry(name: str, ms: float | None) -> dict[str, Any]:
    version = {
        "kernel": "bias_act",
        "version": 1,
        "what": "one | pass",
        "size": "1x2x3",
        "dtype": "float32",
        "bytes": 100.0,
        "flops": 0,
        "ms": ms,
        "gb_per_s": ms and 1.0,
        "gflop_per_s": None,
        "max_error": ms and 0.0,
        "allowed": 1e-6,
        "shipped": False,
    }
    return {
        "name": name,
        "kernel": "bias_act",
        "device": "cpu",
        "target": "avx2",
        "command": "g++",
        "versions": [version, {**version, "version": 2, "ms": ms and ms / 4, "shipped": True}],
        "date": "2026-01-01",
        "commit": None,
    }


def document(*names: str, ms: float | None = 2.0) -> dict[str, Any]:
    facts = {"device": "cpu", "cpu": "x", "gpu": None, "threads": 1, "commit": None, "date": "2026-01-01"}
    return {
        "format": 1,
        "kind": "pyface-kernel-ladders",
        "machine": facts,
        "compilers": {"g++": "12"},
        "ladders": [entry(name, ms) for name in names],
        "skipped": [],
    }


def test_documents_follow_the_schema() -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema checks the documents")
    schema = json.loads((FOLDER / "schema.json").read_text())
    jsonschema.validate(document("bias_act.cpp"), schema)
    jsonschema.validate(document("bias_act.cu", ms=None), schema)
    for path in (ROOT / "bench/results").glob("*/kernels.json"):
        jsonschema.validate(json.loads(path.read_text()), schema)


def test_ladders_that_are_not_run_again_stay() -> None:
    earlier = document("bias_act.cpp", "upfirdn2d.cpp", "gone.cpp")
    later = {**document("upfirdn2d.cpp", ms=7.0), "skipped": [{"name": "bias_act.cpp", "reason": "no g++"}]}
    names = [
        (found["name"], found["versions"][0]["ms"]) for found in ladders.merged(later, earlier)["ladders"]
    ]
    assert names == [("upfirdn2d.cpp", 7.0)]
    later["skipped"] = []
    merged = ladders.merged(later, earlier)
    assert [found["name"] for found in merged["ladders"]] == ["bias_act.cpp", "upfirdn2d.cpp"]
    assert ladders.merged(later, {**earlier, "format": 0}) == later


def test_run_without_a_gpu_measures_nothing(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here; the ladders would be measured")
    out = tmp_path / "kernels.json"
    command = [sys.executable, str(FOLDER / "run.py"), "--device", "cuda", "--out", str(out)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("not measured: there is no usable NVIDIA GPU here")
    assert not out.exists()


def test_tables() -> None:
    report = load("kernels_report", ROOT / "bench/kernels_report.py")
    text = report.tables(
        {**document("bias_act.cpp"), "skipped": [{"name": "a.cpp", "reason": "no g++\nmore"}]}
    )
    assert "| 2, **shipped** | one \\| pass | float32 | 0.5 | 4x | 1 | - | 0 |" in text
    assert text.endswith("- a.cpp: no g++")
    assert "| 1 | one \\| pass | float32 | not measured | - | - | - | - |" in report.tables(
        document("bias_act.cu", ms=None)
    )


def test_the_page_of_results_shows_them(tmp_path: Path) -> None:
    page = load("ladders_report", ROOT / "bench/report.py")
    machine = {"cpu": "a CPU", "gpu": None, "date": "now", "commit": "abc", "os": "Linux"}
    (tmp_path / "device").mkdir()
    (tmp_path / "device/kernels.json").write_text(
        json.dumps({**document("bias_act.cpp"), "machine": machine})
    )
    page.BENCH = tmp_path / "bench"
    lines = list(page.ladder_sections(tmp_path))
    assert lines[0] == "## Ladders of the kernels: a CPU"
    assert lines[2].startswith("`device/kernels.json`: now, commit abc; 12, Linux.")
    assert "| 2, **shipped** |" in lines[4]
    assert page.load(tmp_path) == [], "a file of ladders is no file of cases"
