"""A step of projection has the same gradient every way, from the same start every time."""

from __future__ import annotations

import pytest
import torch

from pyface.benchmark.case import BEST_FORM, EAGER, OURS, Case
from pyface.benchmark.document import check_result
from pyface.benchmark.projection_cases import noise_structure, projection_cases, projection_workload

SMALL = {"channel_base": 512, "channel_max": 32, "w_dim": 16, "z_dim": 16, "mapping_layers": 2}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_variant_gives_the_gradient(dtype):
    work = projection_workload(64, dtype, "cpu", **SMALL)
    assert list(work.variants) == [OURS, EAGER, BEST_FORM]
    case = Case("any/1", "projection", "any", "1", dtype, "-", lambda device: work)
    assert not check_result(case, work).wrong
    assert work.bytes > 0
    assert work.flops > 0


def test_a_step_starts_where_the_last_one_did():
    ours = projection_workload(32, "float32", "cpu", **SMALL).variants[OURS]
    gradients = []
    for again in (True, True, False):
        if again:
            assert ours.prepare is not None
            ours.prepare()
        gradients.append(ours.run().clone())
    torch.testing.assert_close(gradients[0], gradients[1])
    assert not torch.allclose(gradients[0], gradients[2], rtol=1e-3)


def test_noise_with_structure_costs_more():
    noise = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    smooth = (noise + noise.roll(1, 0)) / 2**0.5
    assert noise_structure([smooth]) > 5 * noise_structure([noise])
    flat = torch.full((16, 16), 2.0)
    # 2 * (mean of the square)^2 at 16 px, and at 8 px where pooling by 2 has doubled the level
    torch.testing.assert_close(noise_structure([flat]), torch.tensor(2 * 16.0 + 2 * 256.0))


def test_cases():
    assert [case.dtype for case in projection_cases()] == ["float32", "bfloat16"]
