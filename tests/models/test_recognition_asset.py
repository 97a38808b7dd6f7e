"""The network that ships: small, as its card says, telling people apart, not blind to bad pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import pyface
from pyface.data import ProceduralFaces
from pyface.metrics import (
    FaceFeatures,
    FeatureStatistics,
    frechet_distance,
    pair_scores,
    precision_recall,
    verification,
)
from pyface.models import find_checkpoint

CARD = Path(__file__).resolve().parents[2] / "docs" / "model-cards" / "recognition-64.json"
PEOPLE, SAMPLES = 60, 4


@pytest.fixture(scope="module")
def pictures():
    """uint8 [240, 3, 64, 64] of people whom neither training nor the card's checks have seen."""
    faces = ProceduralFaces(PEOPLE, SAMPLES, size=64, spectra=("vis",), seed=77)
    return torch.from_numpy(faces.images()).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def extractor():
    return FaceFeatures()


def test_it_is_small_and_is_what_the_card_describes(extractor):
    assert find_checkpoint("recognition-64").stat().st_size <= 2_000_000
    assert pyface.load("recognition").config == extractor.network.config
    card = json.loads(CARD.read_text(encoding="utf-8"))
    assert card["fingerprint"] == extractor.fingerprint
    assert card["preprocessing"] == extractor.network.preprocessing
    assert card["bytes"] == find_checkpoint("recognition-64").stat().st_size


def test_it_tells_unseen_people_apart(extractor, pictures):
    embeddings = extractor.network.embedding_of(extractor(pictures)).detach()
    found = verification(*pair_scores(embeddings, np.arange(len(pictures)) // SAMPLES))
    assert found.auc > 0.98
    assert found.eer < 0.08


@pytest.mark.parametrize("damage", ["noise", "blur", "blocks"])
def test_worse_pictures_are_farther_away(extractor, pictures, damage):
    def spoiled(amount):
        x = pictures.float()
        if damage == "noise":
            x = x + 40 * amount * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        else:
            size = 2 if damage == "blur" else 4
            mode = "bilinear" if damage == "blur" else "nearest"
            small = torch.nn.functional.avg_pool2d(x, size)
            x = x + amount * (torch.nn.functional.interpolate(small, scale_factor=size, mode=mode) - x)
        return x.round().clamp(0, 255).to(torch.uint8)

    real = extractor(pictures)
    distances = [_distance(real, extractor(spoiled(amount))) for amount in (0.0, 0.25, 0.5, 1.0)]
    assert distances == sorted(distances)
    assert distances[0] == pytest.approx(0.0, abs=1e-6)
    assert distances[-1] > 1.0


def _distance(a, b):
    first, second = FeatureStatistics.of(a), FeatureStatistics.of(b)
    return frechet_distance(first.mean, first.covariance, second.mean, second.covariance)


def test_real_pictures_cover_each_other_and_a_few_faces_do_not(extractor, pictures):
    half = len(pictures) // 2
    real, other = extractor(pictures[:half]), extractor(pictures[half:])
    precision, recall = precision_recall(real, other)
    assert precision > 0.3
    assert recall > 0.3
    few = extractor(pictures[half : half + 4].repeat(half // 4, 1, 1, 1))
    assert precision_recall(real, few)[1] < 0.2
