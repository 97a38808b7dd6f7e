"""Forms of networks that are no generators: equal to the network, in any batch and precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from pyface.errors import ExportError
from pyface.export.network_form import NetworkForm, append_statistics, exportable_networks
from pyface.models import ARCHITECTURES
from pyface.nn.norm import append_minibatch_std

OTHERS = sorted(set(ARCHITECTURES) - {"stylegan2-generator"})


def test_every_architecture_has_a_form() -> None:
    assert sorted(exportable_networks()) == OTHERS


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_forms_equal_their_network(
    name: str, precision: str, small_network: Callable[..., Any], inputs_of: Callable[..., Any]
) -> None:
    network = small_network(name)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    form = NetworkForm(network, precision=precision)
    worst = {"fp32": 1e-5, "fp16": 0.03, "bf16": 0.2}[precision]
    for rows in (1, 3, 8):
        given = inputs_of(form, rows)
        found, wanted = form(*given), form.expected(network, *given)
        for spec, x, y in zip(form.outputs, found, wanted, strict=True):
            assert tuple(x.shape) == spec.concrete(rows)
            assert x.dtype == torch.float32
            assert (x - y).abs().max() <= worst * y.abs().max()
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("architecture", ["resnet", "skip", "orig"])
@pytest.mark.parametrize("changes", [{"mbstd_channels": 0}, {"mbstd_group_size": None}, {"c_dim": 0}])
def test_discriminators(
    architecture: str,
    changes: dict[str, Any],
    small_network: Callable[..., Any],
    inputs_of: Callable[..., Any],
) -> None:
    network = small_network("stylegan2-discriminator", architecture=architecture, **changes)
    form = NetworkForm(network)
    given = inputs_of(form, 4)
    torch.testing.assert_close(form(*given)[0], network(*given))


@pytest.mark.parametrize(
    ("rows", "group", "channels"), [(1, 4, 1), (3, 4, 2), (8, 4, 1), (6, None, 2), (6, 2, 4)]
)
def test_statistics_of_any_batch(rows: int, group: int | None, channels: int) -> None:
    x = torch.randn(rows, 4, 3, 2, dtype=torch.float64)
    torch.testing.assert_close(
        append_statistics(x, group, channels),
        append_minibatch_std(x, group, channels),
        rtol=1e-12,
        atol=1e-12,
    )


def test_batches_that_the_network_refuses_give_nan() -> None:
    x = append_statistics(torch.randn(5, 4, 2, 2), 4)
    assert x[:, 4:].isnan().all()
    assert not x[:, :4].isnan().any()


def test_refusals(small_network: Callable[..., Any]) -> None:
    with pytest.raises(ExportError, match=r"Linear cannot be exported: .* it knows stylegan2-disc"):
        NetworkForm(nn.Linear(2, 2))
    with pytest.raises(ExportError, match="precision must be fp32, fp16 or bf16; got 'int8'"):
        NetworkForm(small_network("iresnet"), precision="int8")
