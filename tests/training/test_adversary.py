"""Terms of one discriminator and its generator against what the losses give, and the phases made of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pyface.errors import PyfaceError, ShapeError, ValueRangeError
from pyface.training.adversary import Adversary, lazy_phases
from pyface.training.draws import Draws, Rows
from pyface.training.losses import ADVERSARIAL
from pyface.training.phases import Batch, LossTerm
from pyface.training.recipes.stylegan2 import StyleGAN2Recipe


def _batch():
    rng = torch.Generator().manual_seed(0)
    real = torch.randn(4, 2, 3, 3, dtype=torch.float64, generator=rng)
    draws = Draws((0, 0, 0), Rows(torch.arange(4), 4))
    return Batch(real, torch.zeros(4, 0), draws, lambda draws: torch.zeros(len(draws), 0))


def _adversary(loss, seen=None):
    fake = torch.randn(4, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return Adversary(
        lambda images, labels, batch: images.sum((2, 3)) * torch.tensor([1.0, -2.0], dtype=torch.float64),
        lambda batch: (fake, batch.labels),
        lambda batch: (batch.real, batch.labels),
        loss,
        "_x",
        None if seen is None else seen.append,
    ), fake


def _logits(images):
    return images.sum((2, 3)) * torch.tensor([1.0, -2.0], dtype=torch.float64)


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_terms_are_the_losses_of_the_logits(name):
    batch, seen = _batch(), []
    adversary, images = _adversary(name, seen)
    loss = ADVERSARIAL[name]
    real, fake = _logits(batch.real), _logits(images)
    values = {term.name: term.function(batch) for term in adversary.discriminator_terms()}
    (paid,) = adversary.generator_terms(0.5)
    assert (paid.name, paid.weight) == ("adversarial_x", 0.5)
    if loss.paired:
        assert set(values) == {"pair_x"}
        torch.testing.assert_close(values["pair_x"], loss.paired_discriminator(real, fake))
        torch.testing.assert_close(paid.function(batch), loss.paired_generator(fake, real))
        torch.testing.assert_close(seen[0], real - fake)
    else:
        assert set(values) == {"fake_x", "real_x"}
        torch.testing.assert_close(values["fake_x"], loss.fake(fake))
        torch.testing.assert_close(values["real_x"], loss.real(real))
        torch.testing.assert_close(paid.function(batch), loss.generator(fake))
        torch.testing.assert_close(seen[0], real)


def test_penalties_of_a_linear_critic_over_two_patches():
    adversary, _ = _adversary("logistic")
    batch = _batch()
    square = 9 * (0.5**2 + 1.0**2)  # the mean of two patches, over 9 pixels each
    found = adversary.penalties(r1=(16, 2.0), r2=(0, 3.0), gradient=(1, 10.0))
    assert [(interval, term.name, term.weight) for interval, term in found] == [
        (16, "r1_x", 2.0),
        (1, "gradient_penalty_x", 10.0),
    ]
    assert adversary.r1(batch).item() == pytest.approx(square / 2)
    assert adversary.r2(batch).item() == pytest.approx(square / 2)
    assert adversary.gradient_penalty(batch).item() == pytest.approx((square**0.5 - 1) ** 2)


def test_lazy_terms_of_one_interval_share_a_phase_and_an_optimiser():
    terms = {name: LossTerm(name, lambda batch: batch.real.sum()) for name in ("a", "r1", "r2", "gp", "slow")}
    parameters = [nn.Parameter(torch.zeros(2))]
    lazy = [(4, terms["r1"]), (4, terms["r2"]), (1, terms["gp"]), (2, terms["slow"])]
    phases = lazy_phases("first", parameters, [terms["a"]], lazy, lr=1.0, betas=(0.0, 0.9), start=7)
    assert [(p.name, p.interval, [t.name for t in p.terms]) for p in phases] == [
        ("first", 1, ["a", "gp"]),
        ("r1 r2", 4, ["r1", "r2"]),
        ("slow", 2, ["slow"]),
    ]
    assert len({id(phase.optimizer) for phase in phases}) == 1
    assert {phase.start for phase in phases} == {7}
    ratio = 1 / (1 + 1 / 4 + 1 / 2)  # of the optimiser's steps are the first phase's
    group = phases[0].optimizer.param_groups[0]
    assert group["lr"] == pytest.approx(ratio)
    assert group["betas"][1] == pytest.approx(0.9**ratio)
    (alone,) = lazy_phases("alone", parameters, [terms["a"]], lr=1.0)
    assert alone.optimizer.param_groups[0]["lr"] == 1.0


def test_penalties_of_the_recipe():
    recipe = StyleGAN2Recipe(gamma=2.0)
    assert recipe.penalties() == {"r1": (16, 2.0), "r2": (0, 2.0), "gradient": (0, 10.0)}
    paired = StyleGAN2Recipe(loss="relativistic", r2_interval=8, r2_gamma=0.5, gamma=2.0)
    assert paired.penalties()["r2"] == (8, 0.5)
    assert StyleGAN2Recipe(loss="wasserstein").penalties()["gradient"] == (1, 10.0)
    assert StyleGAN2Recipe(loss="wasserstein", gradient_penalty_interval=0).penalties()["gradient"][0] == 0
    half = StyleGAN2Recipe(second_discriminator="half", batch=32)
    assert half.penalties(0.25)["r1"][1] == pytest.approx(half.r1_gamma / 4)
    assert half.second().resolution == (32, 32)
    assert half.second().channels((32, 32)) == half.discriminator().channels((64, 64))
    patch = StyleGAN2Recipe(second_discriminator="patch", resolution=(80, 64), initial_size=(5, 4))
    assert (patch.second().layers, patch.second().resolution) == (3, (80, 64))
    with pytest.raises(ShapeError):
        StyleGAN2Recipe(second_discriminator="half", resolution=8).second()
    with pytest.raises(ValueRangeError, match="one of logistic, hinge"):
        StyleGAN2Recipe(loss="lsgan")
    with pytest.raises(PyfaceError, match="one of none, half, patch"):
        StyleGAN2Recipe(second_discriminator="third")
