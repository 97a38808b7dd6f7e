"""`import pyface` is quick and quiet: nothing compiled, downloaded or started; the command line answers."""

from __future__ import annotations

import statistics
import subprocess
import sys

import pytest

WATCHED_IMPORT = """
import sys
forbidden = ("subprocess.Popen", "os.system", "os.exec", "socket.connect", "urllib.Request", "compile.cpp")
seen = []
sys.addaudithook(lambda event, args: seen.append(event) if event in forbidden else None)
import torch
before = set(sys.modules)
seen.clear()
import pyface
import pyface.ops
loaded = set(sys.modules) - before
assert not seen, seen
heavy = {"cv2", "scipy", "av", "onnx", "tensorboard", "triton"} & loaded
assert not heavy, heavy
assert not torch.cuda.is_initialized()
"""

TIMED_IMPORT = """
import time
import torch
start = time.perf_counter()
import pyface
pyface.backend()
print(time.perf_counter() - start)
"""


def run(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_import_starts_nothing() -> None:
    run(WATCHED_IMPORT)


def test_import_adds_little_to_torch() -> None:
    seconds = statistics.median(float(run(TIMED_IMPORT)) for _ in range(3))
    assert seconds <= 0.3, f"import pyface and choosing back-ends took {seconds:.2f} s after import torch"


@pytest.mark.parametrize("command", [["-m", "pyface", "--help"], ["-m", "pyface", "--version"]])
def test_module_is_the_command(command: list[str]) -> None:
    result = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0
    assert "pyface" in result.stdout


def test_doctor_says_what_runs() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "pyface", "doctor"], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    words = ("torch", "Back-ends", "cpu", "Engines", "auto takes", "Extras", "pip install 'pyface-synth[")
    for word in words:
        assert word in result.stdout
