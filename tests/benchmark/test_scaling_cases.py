"""The cases of scaling do what they say, at small sizes."""

from __future__ import annotations

import pytest

from pyface.benchmark import scaling_cases as scaling
from pyface.benchmark.case import EAGER, OURS
from pyface.benchmark.document import check_result
from pyface.benchmark.synthesis_cases import SynthesisCounts
from pyface.errors import BackendError
from pyface.models import GeneratorConfig

SMALL = GeneratorConfig(16, z_dim=8, w_dim=8, channel_base=256, channel_max=16, mapping_layers=1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_first_image_of_any_batch_is_the_reference(dtype):
    case = scaling.scaling_cases()[0]
    for batch in (1, 3):
        work = scaling.scaling_workload(SMALL, batch, dtype, "cpu")
        checked = check_result(case, work)
        assert set(checked.errors) == {OURS, EAGER}
        assert work.items == batch
        assert work.flops == 2 * batch * SynthesisCounts.of(SMALL).macs
        assert work.formula is None


def test_long_work_leaves_plain_torch_out(monkeypatch):
    monkeypatch.setattr(scaling, "_PLAIN_LIMIT", 2 * SynthesisCounts.of(SMALL).macs)
    assert EAGER in scaling.scaling_workload(SMALL, 1, "float32", "cpu").variants
    assert EAGER not in scaling.scaling_workload(SMALL, 2, "float32", "cpu").variants


def test_axes():
    cases = scaling.scaling_cases()
    by_axis = {
        axis: [case for case in cases if case.op == axis] for axis in ("batch", "resolution", "threads")
    }
    assert sum(map(len, by_axis.values())) == len(cases)
    assert [case.size for case in by_axis["batch"][:7]] == [f"{n}x3x64x64" for n in (1, 2, 4, 8, 16, 32, 64)]
    assert {case.threads for case in by_axis["threads"]} == set(scaling.thread_counts())
    assert all(case.threads == 0 for axis in ("batch", "resolution") for case in by_axis[axis])
    assert all(case.rounds <= 3 and not case.rivals for case in cases)


def test_thread_counts_end_with_all():
    assert scaling.thread_counts(1) == [1]
    assert scaling.thread_counts(2) == [1, 2]
    assert scaling.thread_counts(12) == [1, 2, 4, 8, 12]


def test_threads_are_no_axis_of_a_gpu():
    case = next(case for case in scaling.scaling_cases() if case.op == "threads")
    with pytest.raises(BackendError, match="CPU alone"):
        case.build("cuda")


def test_channels_are_the_published_ones():
    assert [scaling.channel_base_of(side) for side in (64, 256, 512, 1024)] == [16384, 16384, 32768, 32768]
