"""The tuning of convolutions: the shapes it measures, and that the table it makes is read and followed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pyface.benchmark import convolution_tuning as tuning
from pyface.errors import BackendError
from pyface.ops import _native, convolution_choice
from pyface.ops.convolution_choice import ConvShape

SMALL = [
    ConvShape("conv", "float32", 1, 8, 8, 4, 4, 3, 1, False),
    ConvShape("conv", "bfloat16", 1, 8, 4, 9, 9, 3, 2, True),
    ConvShape("conv", "float16", 2, 4, 8, 4, 4, 3, 2, False),
]


def processor_times(runs: list[Callable[[], Any]]) -> list[float]:
    """A round of each, on the clock of the emulator's machine."""
    times = []
    for run in runs:
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3)
    return times


@pytest.mark.parametrize("op", ["conv", "weight_grad"])
@pytest.mark.parametrize("shape", SMALL, ids=str)
def test_a_measured_row_decides(shape: ConvShape, op: str, tmp_path: Path) -> None:
    module = pytest.importorskip("pyface._emu", reason="built without PYFACE_EMU")
    shape = shape._replace(op=op)
    row = tuning.measure_shape(_native._Emu(module, 0), shape, torch.device("cpu"), processor_times)
    path = tmp_path / "sm_90.json"
    path.write_text(json.dumps({"format": 1, "capability": [9, 0], "shapes": [row]}))
    faster = "pyface" if row["pyface_ms"] <= row["torch_ms"] else "torch"
    assert convolution_choice.read_table(path, (9, 0)) == {shape: faster}


def test_shapes_are_those_of_the_networks() -> None:
    shapes = tuning.conv_shapes()
    assert len(shapes) == len(set(shapes))
    assert {shape.op for shape in shapes} == {"conv", "weight_grad"}
    assert ConvShape("conv", "float16", 8, 64, 32, 1025, 1025, 3, 2, True) in shapes
    assert ConvShape("weight_grad", "bfloat16", 1, 512, 512, 4, 4, 3, 1, False) in shapes


def test_without_a_gpu_it_says_so() -> None:
    if not isinstance(_native._load("cuda"), str):
        pytest.skip("there is a GPU")
    with pytest.raises(BackendError, match="convolutions are tuned on a GPU, and"):
        tuning.tune()
