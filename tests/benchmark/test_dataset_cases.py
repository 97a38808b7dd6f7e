"""Datasets as cases of the benchmark: three ways with the same pictures."""

from __future__ import annotations

import pytest
import torch

from pyface.benchmark.case import OURS
from pyface.benchmark.dataset_cases import ALONE, SERIAL, dataset_cases, dataset_workload
from pyface.benchmark.suite import all_cases, select


@pytest.mark.parametrize("image", ["jpeg", "png"])
def test_the_ways_make_the_same_pictures(image):
    small = {"channel_base": 256, "channel_max": 16, "z_dim": 8, "w_dim": 8, "mapping_layers": 2, "c_dim": 2}
    work = dataset_workload(16, 37, "float32", image, "cpu", **small)
    assert list(work.variants) == [OURS, SERIAL, ALONE]
    assert work.items == 37
    truth = work.reference()
    assert truth.shape == (37, 16, 16, 3)
    for name in (OURS, SERIAL):
        work.variants[name].run()
        assert torch.equal(work.variants[name].result(), truth)
    work.variants[ALONE].run()


def test_the_cases_are_found_by_name():
    names = [case.name for case in dataset_cases()]
    assert len(names) == 8
    for only in ("dataset/*", "dataset"):
        assert [case.name for case in select(all_cases(), [only], quick=False)] == names
    assert [case.name for case in select(all_cases(), ["dataset/*"], quick=True)] == [
        "dataset/64 px jpeg/float32",
        "dataset/64 px jpeg/bfloat16",
    ]
