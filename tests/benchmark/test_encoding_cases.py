"""Pictures are written and come back; renders and calls are set up."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyface.benchmark.call_cases import call_workload
from pyface.benchmark.case import EAGER, OURS, Case
from pyface.benchmark.document import check_result
from pyface.benchmark.encoding_cases import encoding_cases, encoding_workload, face_pixels
from pyface.benchmark.render_cases import render_cases, render_workload
from pyface.errors import BackendError


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_pictures_come_back(kind):
    work = encoding_workload(kind, 64, "cpu")
    case = Case("any/1", "encoding", "any", "1", "uint8", "-", lambda device: work)
    checked = check_result(case, work)
    assert not checked.wrong
    assert work.bytes == 64 * 64 * 3
    errors = {name: error["max"] for name, error in checked.errors.items()}
    assert all((error == 0) == (kind == "png") for error in errors.values()), errors
    with pytest.raises(BackendError):
        encoding_workload(kind, 64, "cuda")


def test_the_picture_is_a_face_and_not_noise():
    pixels = face_pixels(64)
    assert (pixels.shape, pixels.dtype) == ((64, 64, 3), np.uint8)
    steps = np.abs(np.diff(pixels.astype(int), axis=1)).mean()
    assert 1 < steps < 12 < pixels.std()


def test_renders_and_calls():
    assert render_workload(2, 32, "cpu").variants[OURS].run() is None
    for grad in (False, True):
        work = call_workload(grad, "cpu")
        for name in (OURS, EAGER):
            torch.testing.assert_close(work.variants[name].run().double(), work.reference())


def test_cases():
    assert len(encoding_cases()) == 4
    assert [case.size for case in render_cases()] == ["8x128x128", "8x256x256"]
