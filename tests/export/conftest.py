"""A small network of every architecture, its numbers drawn so that nothing of it is trivial."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pyface.models import create

SMALL: dict[str, dict[str, Any]] = {
    "action-units": {"geometry": ("a", "b"), "size": 32, "channels": (4, 4, 8, 8), "hidden": 8},
    "dlib-resnet": {"size": 64, "channels": (4, 8, 8), "blocks": (1, 1, 1), "embedding_dim": 8},
    "face-recognition": {
        "resolution": 16,
        "channels": (4, 8, 8, 8, 8),
        "num_features": 8,
        "embedding_dim": 8,
    },
    "iresnet": {"blocks": (1, 1, 1, 1), "channels": (4, 8, 8, 8), "size": 32, "embedding_dim": 8},
    "patch-critic": {"resolution": 16, "channel_base": 256, "channel_max": 16, "layers": 2},
    "stylegan2-discriminator": {
        "resolution": 16,
        "channel_base": 256,
        "channel_max": 16,
        "c_dim": 3,
        "spectra": {"vis": 3, "nir": 1},
    },
    "stylegan2-generator": {
        "resolution": 8,
        "mapping_layers": 2,
        "channel_base": 128,
        "channel_max": 16,
        "z_dim": 8,
        "w_dim": 8,
        "c_dim": 2,
        "spectra": {"vis": 3, "nir": 1},
    },
}


def _small_network(name: str, **changes: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = create(name, **{**SMALL[name], **changes}).eval().requires_grad_(False)
        for module in network.modules():
            for key, tensor in (
                *module.named_parameters(recurse=False),
                *module.named_buffers(recurse=False),
            ):
                if key == "running_var":
                    tensor.copy_(torch.rand_like(tensor) + 0.5)
                elif tensor.is_floating_point() and tensor.unique().numel() == 1:
                    tensor.add_(torch.randn_like(tensor) * 0.1)
    return network


def _inputs_of(form: Any, rows: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(spec.concrete(rows), generator=generator) if spec.shape else torch.tensor(0.7)
        for spec in form.inputs
    ]


@pytest.fixture(scope="session")
def small_network() -> Callable[..., Any]:
    """name, **changes of its configuration -> a network in evaluation mode.

    Biases, statistics, strengths of noise and averages are not zero.
    """
    return _small_network


@pytest.fixture(scope="session")
def inputs_of() -> Callable[..., list[torch.Tensor]]:
    """form, rows, seed -> normal numbers for every input; psi is 0.7."""
    return _inputs_of
