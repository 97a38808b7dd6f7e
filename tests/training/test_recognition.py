"""The recognition recipe learns who and what is drawn; its losses and degradations do what they say."""

from __future__ import annotations

import math

import pytest
import torch

from pyface.errors import ShapeError, ValueRangeError
from pyface.models import RecognitionConfig
from pyface.training import TrainingSet
from pyface.training.degradations import (
    DEGRADATIONS,
    NOISE_LEVEL,
    WARP_GRID,
    blocky,
    blurred,
    degraded,
    noisy,
    warped,
)
from pyface.training.recipes.recognition import (
    RecognitionRecipe,
    build,
    cosine_margin_loss,
    described_faces,
    train,
)

SMALL = RecognitionConfig(resolution=16, channels=(8, 8, 16, 16, 16), num_features=24, embedding_dim=8)


def coloured_people(people=6, samples=16, seed=0):
    """Each person is a colour, at some brightness that is the second label."""
    rng = torch.Generator().manual_seed(seed)
    colours = torch.rand(people, 3, generator=torch.Generator().manual_seed(99))
    brightness = torch.rand(people * samples, generator=rng)
    who = torch.arange(people * samples) // samples
    pixels = (colours[who] * (0.5 + 0.5 * brightness[:, None]) * 255)[..., None, None]
    pixels = (pixels + 10 * torch.randn(len(who), 3, 16, 16, generator=rng)).clamp(0, 255)
    labels = torch.stack([who.float(), brightness * 2 - 1], 1)
    return TrainingSet.from_arrays(pixels.to(torch.uint8), labels, ("identity", "brightness"))


def test_margin_loss_by_hand():
    embeddings = torch.tensor([[1.0, 0.0]])
    centres = torch.tensor([[2.0, 0.0], [0.0, 5.0]])
    loss = cosine_margin_loss(embeddings, centres, torch.tensor([0]), scale=4.0, margin=0.25)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(0 - 4 * 0.75)), abs=1e-6)
    with pytest.raises(ShapeError, match="people"):
        cosine_margin_loss(embeddings, centres, torch.tensor([0, 1]), 4.0, 0.25)


def test_margin_makes_the_loss_larger_and_needs_no_length():
    rng = torch.Generator().manual_seed(0)
    e = torch.nn.functional.normalize(torch.randn(7, 5, generator=rng), dim=1)
    centres = torch.randn(9, 5, generator=rng)
    who = torch.arange(7)
    plain, strict, long = (
        cosine_margin_loss(e, c, who, 8.0, m) for c, m in ((centres, 0.0), (centres, 0.3), (7 * centres, 0.3))
    )
    assert strict > plain
    assert strict.item() == pytest.approx(long.item(), rel=1e-5)


def test_it_learns_people_and_what_is_shown():
    data = coloured_people()
    recipe = RecognitionRecipe(
        epochs=30,
        batch=32,
        lr=0.01,
        scale=12.0,
        identity_weight=1.0,
        parameter_weight=2.0,
        degraded_share=0.1,
        precision="float32",
        network=SMALL,
    )
    run = build(recipe, data)
    losses = list(train(run, recipe))
    assert not run.network.training
    assert all(losses[-1][name] < 0.5 * losses[0][name] for name in ("identity", "parameters"))
    unseen = coloured_people(samples=4, seed=5)
    with torch.no_grad():
        e = run.network.embedding(unseen.images["vis"].float() / 127.5 - 1)
    same = unseen.labels[:, None, 0] == unseen.labels[None, :, 0]
    cosines = e @ e.T
    assert cosines[same].mean() > cosines[~same].mean() + 0.5


def test_same_seed_same_weights():
    recipe = RecognitionRecipe(epochs=0.5, batch=16, precision="float32", network=SMALL)
    weights = []
    for _ in range(2):
        run = build(recipe, coloured_people())
        list(train(run, recipe))
        weights.append(torch.cat([p.flatten() for p in run.network.parameters()]))
    assert torch.equal(*weights)


def test_described_faces():
    data = described_faces(3, 2, 16, seed=7)
    assert data.images["vis"].shape == (6, 3, 16, 16)
    assert data.labels[:, 0].tolist() == [0, 0, 1, 1, 2, 2]
    assert data.label_names[0] == "identity"
    assert "yaw" in data.label_names
    assert "texture_seed" not in data.label_names
    jaw = data.labels[:, data.label_names.index("jaw_width")]  # belongs to the person
    assert torch.equal(jaw[0::2], jaw[1::2])
    yaw = data.labels[:, data.label_names.index("yaw")]  # belongs to the picture
    assert not torch.equal(yaw[0::2], yaw[1::2])
    assert data.labels[:, 1:].abs().max() <= 4


def test_bad_data_and_recipes_are_refused():
    with pytest.raises(ValueRangeError, match="identity"):
        build(RecognitionRecipe(network=SMALL), TrainingSet.from_arrays(torch.zeros(2, 3, 16, 16).byte()))
    with pytest.raises(ValueRangeError, match="16x16"):
        build(RecognitionRecipe(), coloured_people())
    with pytest.raises(ValueRangeError, match="precision"):
        RecognitionRecipe(precision="int8")
    with pytest.raises(ValueRangeError, match="epochs"):
        RecognitionRecipe(epochs=0)


class TestDegradations:
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    noise = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    bends = torch.randn(4, 2, WARP_GRID, WARP_GRID, generator=torch.Generator().manual_seed(2))
    none, half, full = torch.zeros(4), torch.full((4,), 0.5), torch.ones(4)

    def test_strength_zero_changes_nothing(self):
        strengths = torch.zeros(4, len(DEGRADATIONS))
        assert torch.equal(degraded(self.images, strengths, self.noise, self.bends), self.images)
        for found in (
            noisy(self.images, self.none, self.noise),
            blurred(self.images, self.none),
            blocky(self.images, self.none),
            warped(self.images, self.none, self.bends),
        ):
            torch.testing.assert_close(found, self.images, atol=1e-5, rtol=0)

    def test_each_image_has_its_own_strength(self):
        strengths = torch.zeros(4, len(DEGRADATIONS))
        strengths[2, 1] = 1.0
        found = degraded(self.images, strengths, self.noise, self.bends)
        assert torch.equal(found[[0, 1, 3]], self.images[[0, 1, 3]])
        torch.testing.assert_close(found[2:3], blurred(self.images[2:3], self.full[:1]))

    def test_what_they_do(self):
        added = noisy(self.images, self.half, self.noise) - self.images
        assert added.std().item() == pytest.approx(0.5 * NOISE_LEVEL, rel=0.02)
        assert blurred(self.images, self.full).std() < 0.6 * self.images.std()
        blocks = blocky(self.images, self.full).unfold(2, 4, 4).unfold(3, 4, 4)
        assert blocks.std((-2, -1)).max() < 1e-5
        torch.testing.assert_close(
            blocky(self.images, self.half), (self.images + blocky(self.images, self.full)) / 2
        )
        ramp = torch.linspace(-1, 1, 32).expand(1, 1, 32, 32)  # brightness tells the place
        moved = (warped(ramp, self.full[:1], self.bends[:1]) - ramp).abs().mean() * 16
        assert 0.5 < moved < 4  # pixels

    def test_flat_pictures_stay_flat(self):
        flat = torch.full((2, 3, 16, 16), 0.3)
        for found in (
            blurred(flat, self.full[:2]),
            blocky(flat, self.full[:2]),
            warped(flat, self.full[:2], self.bends[:2]),
        ):
            torch.testing.assert_close(found, flat)

    def test_bad_strengths_are_refused(self):
        with pytest.raises(ShapeError, match="strengths"):
            degraded(self.images, torch.zeros(4), self.noise, self.bends)
