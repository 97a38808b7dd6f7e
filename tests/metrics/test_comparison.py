"""A comparison of generated with real images says what its parts say."""

from __future__ import annotations

import json

import pytest
import torch

from pyface.errors import ShapeError, ValueRangeError
from pyface.metrics import FeatureStatistics, RealImages, frechet_between, precision_recall


class Pixels:
    """Four mean colours as features."""

    dim = 4
    fingerprint = "pixels"

    def __call__(self, images):
        x = images.float()
        return torch.cat([x.mean((2, 3)), x[:, :1, :2].mean((2, 3))], 1)


def pictures(n, seed, low=0, high=256):
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, (n, 3, 4, 4), generator=rng).to(torch.uint8)


def test_it_says_what_its_parts_say():
    extractor = Pixels()
    held_out, others, made = pictures(50, 0), pictures(50, 1), pictures(50, 2, high=128)
    reals = RealImages(extractor, held_out.split(20), others.split(7), neighbours=2)
    found = reals.compare(made.split(11))
    a, b, c = (FeatureStatistics.of(extractor(x), "pixels") for x in (held_out, others, made))
    assert found.frechet == pytest.approx(frechet_between(a, c))
    assert found.real_to_real == pytest.approx(frechet_between(a, b))
    assert found.ratio == pytest.approx(found.frechet / found.real_to_real)
    assert found.ratio > 10
    assert (found.precision, found.recall) == precision_recall(extractor(held_out), extractor(made), 2)
    assert found.real_recall > found.recall
    assert (found.images, found.extractor, found.neighbours) == (50, "pixels", 2)
    assert json.loads(json.dumps(found.to_dict()))["images"] == 50


def test_the_other_real_images_compare_to_one():
    reals = RealImages(Pixels(), [pictures(60, 0)], [pictures(60, 1)])
    assert reals.compare([pictures(60, 1)]).ratio == pytest.approx(1.0)


def test_sizes_must_match():
    with pytest.raises(ValueRangeError, match="one size"):
        RealImages(Pixels(), [pictures(50, 0)], [pictures(40, 1)])
    with pytest.raises(ShapeError, match="as many"):
        RealImages(Pixels(), [pictures(50, 0)], [pictures(50, 1)]).compare([pictures(20, 3)])
