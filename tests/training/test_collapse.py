"""The diversity of generated images, on a generator that collapses and on one that does not."""

from __future__ import annotations

import math

import pytest
import torch

from pyface.errors import ValueRangeError
from pyface.training import Feed, TrainingSet
from pyface.training.collapse import DiversityWatch, diversity, spread


class Toy:
    """Pictures of few modes: latent -> one of `modes` patterns plus a little of its own."""

    z_dim = 4

    def __init__(self, modes, own=0.02):
        self.patterns = torch.rand(modes, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
        self.own = own

    def __call__(self, z, c, noise_mode="const"):
        assert noise_mode == "const"
        which = (z[:, 0].abs() * 1000).long() % len(self.patterns)
        return self.patterns[which] + self.own * z[:, 1, None, None, None]


class Run:
    images_seen, step_number, device = 4000, 10, torch.device("cpu")


def _feed(count=64):
    pixels = torch.randint(
        0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return Feed(TrainingSet.from_arrays(pixels), 4)


def test_spread_is_the_mean_distance_to_the_nearest_neighbour():
    images = torch.zeros(3, 1, 16, 16)
    images[1] += 0.5
    images[2] -= 0.25
    # distances: 0-1 8, 0-2 4, 1-2 12 (16 = sqrt of 256 pixels)
    assert spread(images) == pytest.approx((4 + 8 + 4) / 3)
    assert spread({"vis": images, "nir": images}) == pytest.approx(math.sqrt(2) * (4 + 8 + 4) / 3)
    large = images.repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert spread(large) == pytest.approx(spread(images)), "compared at 16 pixels a side"
    with pytest.raises(ValueRangeError, match="2 images or more; got 1"):
        spread(images[:1])


def test_diversity_of_real_images_is_one_and_of_copies_zero():
    images = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert diversity(images, images) == 1.0
    assert diversity(images[:1].expand(8, -1, -1, -1), images) == 0.0
    two = images[[0, 1] * 4]
    assert diversity(two, images) == pytest.approx(0.0, abs=1e-6), "two modes that differ are a collapse too"
    assert math.isnan(diversity(images, images[:1].expand(8, -1, -1, -1)))


@pytest.mark.parametrize(("modes", "warnings"), [(1, 1), (4, 1), (1000, 0)])
def test_a_collapsed_generator_is_named_once(modes, warnings):
    said = []
    watch = DiversityWatch(Toy(modes), _feed(), lambda trainer, text: said.append(text))
    values = [watch(Run())["diversity"] for _ in range(10)]
    assert len(set(values)) == 1, "latents never change"
    assert (values[0] < 0.2) == bool(warnings)
    assert len(said) == warnings
    for text in said:
        assert f"diversity {values[0]:.2f}" in text
        assert "below 0.2 for 3 records in a row; real images have 1" in text
        assert "raise --gamma" in text


def test_it_warns_again_after_a_recovery_and_not_at_a_dip():
    said = []
    watch = DiversityWatch(Toy(1), _feed(), lambda trainer, text: said.append(text))
    healthy, collapsed = Toy(1000), Toy(1)
    for network, times in ((collapsed, 2), (healthy, 1), (collapsed, 2), (healthy, 1)):
        watch.generator = network
        for _ in range(times):
            watch(Run())
    assert said == [], "two records are a dip"
    for network in (collapsed, healthy, collapsed):
        watch.generator = network
        for _ in range(5):
            watch(Run())
    assert len(said) == 2


def test_nothing_is_measured_where_there_is_nothing_to_compare():
    few = _feed(3)
    assert DiversityWatch(Toy(1), few, lambda *_: None)(Run()) == {}
    alike = Feed(TrainingSet.from_arrays(torch.zeros(64, 3, 16, 16, dtype=torch.uint8)), 4)
    assert DiversityWatch(Toy(1), alike, lambda *_: None)(Run()) == {}
    with pytest.raises(ValueRangeError, match="threshold between 0 and 1"):
        DiversityWatch(Toy(1), few, lambda *_: None, threshold=1.5)


def test_the_demo_generator_is_healthy():
    import pyface
    from pyface.training.source import open_training_set

    data = open_training_set("procedural:48x1@64")
    said = []
    watch = DiversityWatch(pyface.load("demo"), Feed(data, 4), lambda trainer, text: said.append(text))
    assert watch(Run())["diversity"] > 0.5
    assert not said
