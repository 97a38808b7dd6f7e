"""`pyface bench`: what it measures, what it prints and writes, and how it answers wrong options."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from pyface.benchmark import all_cases
from pyface.benchmark.machine import device_slug
from pyface.cli import bench
from pyface.errors import BackendError, ValueRangeError


@pytest.fixture
def document():
    path = Path(__file__).parents[1] / "benchmark" / "recorded_document.py"
    spec = importlib.util.spec_from_file_location("recorded_document", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.document()


@pytest.fixture
def run(monkeypatch, document):
    """Runs the command without measuring: (result, what `run_suite` was asked for)."""
    asked = {}

    def run_suite(only, **options):
        asked.update(options, only=only)
        options["report"]("a line")
        options["keep"](document)
        return document

    monkeypatch.setattr(bench, "run_suite", run_suite)

    def invoke(*arguments: str):
        asked.clear()
        return CliRunner().invoke(bench.command, arguments), dict(asked)

    return invoke


def test_one_screen(run):
    done, asked = run()
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == "Some(R) Processor 9000"
    assert "a line" not in lines
    assert len(lines) <= 40
    assert asked["screen"] is True
    assert (asked["eager"], asked["rivals"]) == (True, [])


def test_a_line_per_case(run):
    done, asked = run("--only", "blur", "--only", "call/")
    assert done.output == "a line\n"
    assert asked["only"] == ("blur", "call/")
    assert asked["screen"] is False
    assert asked["eager"] is True
    assert "torch.compile" in asked["rivals"]


def test_rivals_that_are_not_installed_are_no_default(run, monkeypatch):
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: None if name == "openvino" else 1)
    _, asked = run("--suite")
    assert asked["rivals"] == ["torch.compile", "ONNX Runtime"]
    done, _ = run("--against", "openvino")
    assert isinstance(done.exception, BackendError)
    assert "pip install 'pyface-synth[bench]'" in str(done.exception)


def test_against(run):
    _, asked = run("--against", " compile,EAGER,compile ")
    assert (asked["eager"], asked["rivals"]) == (True, ["torch.compile"])
    _, asked = run("--against", "compile")
    assert asked["eager"] is False
    for wrong in ("pytorch", "", "eager,tensorrt"):
        done, _ = run("--against", wrong)
        assert done.exit_code == 2
        assert "eager, compile, openvino, onnxruntime" in " ".join(done.output.split())


def test_files(run, document, tmp_path):
    slug = device_slug(document["machine"])
    for arguments, name in (
        ((), "screen.json"),
        (("--suite",), "suite.json"),
        (("--suite", "--threads", "2"), "suite-2-threads.json"),
        (("--only", "training step"), "training-step.json"),
        (("--only", "***"), "cases.json"),
    ):
        done, _ = run(*arguments, "--out", str(tmp_path))
        assert done.exit_code == 0, done.output
        path = tmp_path / slug / name
        assert done.output.splitlines()[-1] == f"wrote {path}"
        assert json.loads(path.read_text()) == document
    done, _ = run("--out", str(tmp_path / "x.json"))
    assert (tmp_path / "x.json").is_file()
    (tmp_path / "file").write_text("")
    done, asked = run("--out", str(tmp_path / "file"))
    assert isinstance(done.exception, ValueRangeError)
    assert asked == {}


def test_what_was_measured_is_kept_when_the_run_ends_early(monkeypatch, document, tmp_path):
    def run_suite(only, **options):
        options["keep"](document)
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "run_suite", run_suite)
    done = CliRunner().invoke(bench.command, ["--suite", "--out", str(tmp_path / "x.json")])
    assert done.exit_code == 1
    assert json.loads((tmp_path / "x.json").read_text()) == document


def test_a_case_that_failed_is_the_exit_status(run, document, tmp_path):
    document["failed"] = [{"name": "blur/1", "reason": "MemoryError"}, {"name": "call/2", "reason": "wrong"}]
    done, _ = run("--suite", "--out", str(tmp_path / "x.json"))
    assert done.exit_code == 1
    assert done.stderr == "2 failed: blur/1, call/2\n"
    assert done.stdout.endswith("x.json\n")
    assert json.loads((tmp_path / "x.json").read_text()) == document
    done, _ = run()
    assert done.exit_code == 1
    assert "failed: blur/1: MemoryError" in done.stdout.splitlines()
    assert len(done.stdout.splitlines()) <= 40


def test_list():
    shown = CliRunner().invoke(bench.command, ["--list"]).output.splitlines()
    assert shown[: len(all_cases())] == [case.name for case in all_cases()]
    assert "process/start/import" in shown
    assert len(set(shown)) == len(shown)


def test_options_that_exclude_each_other(run):
    for arguments in (("--suite", "--only", "blur"), ("--tune", "--suite"), ("--tune", "--quick")):
        done, asked = run(*arguments)
        assert done.exit_code == 2
        assert asked == {}


def test_more_threads_than_cores(run):
    done, asked = run("--threads", "4096")
    assert isinstance(done.exception, ValueRangeError)
    assert "got 4096" in str(done.exception)
    assert asked == {}


def test_no_gpu(run, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    done, asked = run("--device", "cuda")
    assert isinstance(done.exception, BackendError)
    assert asked == {}


def test_tune(run, monkeypatch, tmp_path):
    asked = []

    def tune(out, report):
        asked.append(out)
        report("a layer")
        return Path("table.json")

    monkeypatch.setattr("pyface.benchmark.tuning.tune", tune)
    done, measured = run("--tune", "--out", str(tmp_path))
    assert done.output == "a layer\nwrote table.json\n"
    assert (asked, measured) == ([tmp_path], {})


def test_no_case_matches():
    done = CliRunner().invoke(bench.command, ["--only", "no such case"])
    assert isinstance(done.exception, ValueRangeError)
    assert "no such case; names begin with" in str(done.exception)


def test_measures():
    done = CliRunner().invoke(bench.command, ["--only", "call/bias_act/no*", "--against", "eager", "--quick"])
    assert done.exit_code == 0, done.output
    assert done.output.startswith("call/bias_act/no grad: ")
