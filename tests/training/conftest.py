"""A generator small enough to train in a test, and one thread, so that results repeat to the bit."""

from __future__ import annotations

import pytest
import torch

from pyface.training import TrainingSet
from pyface.training.recipes.stylegan2 import StyleGAN2Recipe, build

SMALL = {
    "resolution": (16, 16),
    "batch": 4,
    "channel_base": 128,
    "channel_max": 16,
    "z_dim": 8,
    "w_dim": 8,
    "mapping_layers": 2,
    "r1_interval": 2,
    "path_length_interval": 2,
    "conditions": ("a", "b"),
}


@pytest.fixture
def one_thread():
    """Runs the test with one torch thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_run(one_thread):
    """make(**changes of the recipe): a StyleGAN2 run of 16 pixels on 10 images of noise."""

    def make(data=None, **changes):
        rng = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (10, 3, 16, 16), dtype=torch.uint8, generator=rng)
        labels = torch.rand(10, 2, generator=rng)
        data = data or TrainingSet.from_arrays(pixels, labels, ["a", "b"])
        return build(StyleGAN2Recipe(**{**SMALL, **changes}), data)

    return make
