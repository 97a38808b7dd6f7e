"""PYFACE_REQUIRE, PYFACE_CPU_ISA and `pyface doctor`, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pyface

ROOT = Path(pyface.__file__).parents[1]
BEGIN = """
import sys
import warnings
import torch
from pyface import ops, backend
from pyface.errors import BackendError
warnings.simplefilter("error")
x = torch.randn(2, 3, 4, 4)
def refusal(call):
    try:
        call()
    except BackendError as error:
        return str(error)
    return "nothing was refused"
"""
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="speaks of a machine without a GPU")


def run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_cuda_refuses_everything_that_the_cuda_kernels_would_not_run() -> None:
    pytest.importorskip("pyface._cpu")
    text = run(
        """
print(refusal(lambda: ops.bias_act(x)))
print(refusal(lambda: backend()))
print(refusal(lambda: ops.upsample2d(x, ops.setup_filter([1, 3, 3, 1]))))
print(refusal(lambda: ops.bias_act(x, gain=-1)))
print(refusal(lambda: torch.compile(lambda v: ops.bias_act(v), backend="eager", fullgraph=True)(x)))
assert torch.equal(ops.bias_act(x, backend="reference"), x)
assert torch.equal(ops.bias_act(x, gain=-1, backend="reference"), -x)
assert torch.equal(ops.bias_act(x, backend="cpu"), x)
assert backend("meta") == "reference" and ops.bias_act(x.to("meta")).is_meta
""",
        PYFACE_REQUIRE="cuda",
    ).splitlines()
    cpu = "PYFACE_REQUIRE=cuda, but a tensor on cpu would take the cpu kernels. Move it to a CUDA device, "
    for line in (*text[:3], text[4]):
        assert line.startswith(cpu), line
    assert text[3].startswith("PYFACE_REQUIRE=cuda, but this call on cpu takes the torch reference: its gain")


def test_cuda_without_native_modules() -> None:
    text = run(
        """
sys.modules["pyface._cpu"] = sys.modules["pyface._cuda"] = None
print(refusal(lambda: ops.bias_act(x)))
print(refusal(lambda: backend("cuda")))
""",
        PYFACE_REQUIRE="cuda",
    ).splitlines()
    assert text[0].startswith("PYFACE_REQUIRE=cuda, but pyface._cpu is not built")
    assert "a tensor on cpu would take the torch reference. Build the native modules" in text[0]
    assert text[1].startswith("PYFACE_REQUIRE=cuda, but pyface._cuda is not built")


def test_cpu_refuses_the_reference_alone() -> None:
    pytest.importorskip("pyface._cpu")
    text = run(
        """
assert backend() == "cpu" and torch.equal(ops.bias_act(x), x)
sys.modules["pyface._cuda"] = None
print(refusal(lambda: backend("cuda")))
print(refusal(lambda: ops.bias_act(x, act="lrelu", alpha=-0.5)))
print(refusal(lambda: torch.vmap(ops.bias_act)(x[None])))
assert torch.equal(ops.bias_act(x, act="relu", gain=-1, backend="reference"), -x.relu())
from pyface.ops import _native
sys.modules["pyface._cpu"] = None
_native.reset()
print(refusal(lambda: ops.bias_act(x)))
assert torch.equal(ops.bias_act(x, backend="reference"), x)
""",
        PYFACE_REQUIRE="cpu",
    ).splitlines()
    assert text[0].startswith("PYFACE_REQUIRE=cpu, but pyface._cuda is not built")
    assert text[1].startswith(
        "PYFACE_REQUIRE=cpu, but this call on cpu takes the torch reference: its gain is"
    )
    assert text[2].startswith(
        "PYFACE_REQUIRE=cpu, but this call on cpu takes the torch reference: torch.func"
    )
    assert text[3].startswith("PYFACE_REQUIRE=cpu, but pyface._cpu is not built")


def doctor(**environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pyface", "doctor"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "Extras" in done.stdout
    return done.stdout


def test_doctor_tells_a_bad_instruction_set() -> None:
    pytest.importorskip("pyface._cpu")
    assert "cpu: error, isa: PYFACE_CPU_ISA is 'sse9'; allowed: " in doctor(PYFACE_CPU_ISA="sse9")


@no_gpu
def test_doctor_tells_what_cannot_be_required() -> None:
    pytest.importorskip("pyface._cpu")
    text = doctor(PYFACE_REQUIRE="cuda")
    assert "ops take: error for cpu tensors, PYFACE_REQUIRE=cuda, but a tensor on cpu would take" in text
    assert "ops take: error for cuda tensors, PYFACE_REQUIRE=cuda, but " in text
    assert "ops take: cpu for cpu tensors" in doctor(PYFACE_REQUIRE="cpu")


def test_doctor_tells_a_bad_requirement() -> None:
    text = doctor(PYFACE_REQUIRE="gpu")
    assert "ops take: error for cpu tensors, PYFACE_REQUIRE is 'gpu'; allowed: cpu, cuda, or unset." in text
