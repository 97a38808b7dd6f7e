"""The cache of engines' files: complete or absent, made once by many processes, by version."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from pyface.errors import ExportError
from pyface.export import engine_cache
from pyface.export.artefact import seal, staged
from pyface.export.engine_cache import Recipe, find, obtain
from pyface.export.spec import EngineSpec

RECIPE = Recipe("generator.onnx", {"weights": "a" * 64, "precision": "fp32"}, {"pyface": "1", "torch": "2"})
SPEC = EngineSpec("onnx", "stylegan2-generator", "whole", "fp32", 20, "", (), ())
DAY = 24 * 3600


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("PYFACE_HOME", str(tmp_path))
    return tmp_path


def maker(text: bytes = b"graph", calls: list | None = None):
    def make(path):
        if calls is not None:
            calls.append(path)
        with staged(path) as inside:
            inside.write_bytes(text)
            seal(inside, SPEC)

    return make


def test_it_is_made_once(home):
    calls: list = []
    assert find(RECIPE) is None
    first = obtain(RECIPE, maker(calls=calls))
    assert first.path.is_relative_to(home / "engines")
    assert first.path.read_bytes() == b"graph"
    assert obtain(RECIPE, maker(calls=calls)).sha256 == first.sha256
    assert len(calls) == 1
    assert find(RECIPE) is not None


@pytest.mark.parametrize("change", [{"form": {"weights": "b" * 64}}, {"versions": {"pyface": "2"}}])
def test_other_weights_or_versions_are_made_anew(change):
    obtain(RECIPE, maker(b"one"))
    other = replace(RECIPE, **change)
    assert obtain(other, maker(b"two")).path.read_bytes() == b"two"
    assert obtain(RECIPE, maker(b"three")).path.read_bytes() == b"one"


def test_versions_that_nobody_takes_are_removed_in_time():
    old = obtain(RECIPE, maker())
    newer = replace(RECIPE, versions={"pyface": "2"})
    newest = replace(RECIPE, versions={"pyface": "3"})
    obtain(newer, maker())
    assert old.path.exists()
    past = time.time() - 40 * DAY
    os.utime(old.path.parent, (past, past))
    obtain(newest, maker())
    assert not old.path.exists()
    assert find(newer) is not None


def test_a_damaged_one_is_made_anew():
    made = obtain(RECIPE, maker(b"good"))
    made.path.write_bytes(b"bad")
    assert find(RECIPE) is None
    assert obtain(RECIPE, maker(b"good")).path.read_bytes() == b"good"


def test_what_fails_leaves_nothing(home):
    def fail(path):
        path.write_bytes(b"half")
        raise ExportError("no")

    with pytest.raises(ExportError, match="no"):
        obtain(RECIPE, fail)
    left = [entry for entry in (home / "engines").iterdir() if entry.suffix != ".lock"]
    assert left == []
    assert find(RECIPE) is None


def test_without_home_it_lies_in_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("PYFACE_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert engine_cache.folder() == tmp_path / "cache" / "pyface" / "engines"


CHILD = """
import sys, time
from pyface.export import engine_cache
from pyface.export.artefact import seal, staged
from pyface.export.spec import EngineSpec

def make(path):
    print("making", flush=True)
    time.sleep(float(sys.argv[1]))
    with staged(path) as inside:
        inside.write_bytes(b"graph")
        seal(inside, EngineSpec("onnx", "stylegan2-generator", "whole", "fp32", 20, "", (), ()))

recipe = engine_cache.Recipe("generator.onnx", {"weights": "c"}, {"pyface": "1"})
print(engine_cache.obtain(recipe, make).sha256, flush=True)
"""


def child(seconds: float) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", CHILD, str(seconds)], stdout=subprocess.PIPE, text=True)


def test_two_processes_make_it_once(home):
    both = [child(1.0), child(1.0)]
    texts = [process.communicate(timeout=120)[0] for process in both]
    assert sum("making" in text for text in texts) == 1
    assert len({text.split()[-1] for text in texts}) == 1


def test_a_killed_process_leaves_nothing_that_counts(home):
    killed = child(60.0)
    assert killed.stdout is not None
    assert killed.stdout.readline() == "making\n"
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    made = child(0.0).communicate(timeout=120)[0]
    assert "making" in made
    folders = [entry for entry in (home / "engines").iterdir() if entry.is_dir()]
    assert len(folders) == 1  # the killed one's is removed
    assert json.loads((folders[0] / "generator.onnx.json").read_text())["format"] == 1
