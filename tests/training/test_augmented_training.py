"""StyleGAN2 runs with augmentation: what they show, resumed to the bit, split batches, precisions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyface.errors import ValueRangeError
from pyface.training import TrainingSet
from pyface.training.checkpoint import load_state, restore_state, save_state
from pyface.training.recipes.stylegan2 import StyleGAN2Recipe, build

ADA = {"augment": "ada", "augment_set": "bgcfnc", "augment_p": 0.5, "ada_kimg": 0.05, "ada_interval": 2}


def _flat(module):
    return torch.cat([t.flatten().double() for t in module.state_dict().values()])


def test_losses_show_the_controller(small_run):
    run = small_run(**ADA)
    first = run.trainer.step()
    assert set(first) == {"adversarial", "path_length", "fake", "real", "r1", "augment_p", "real_sign"}
    assert first["augment_p"] == 0.5, "p moves after every second step"
    moved = [run.trainer.step()["augment_p"] for _ in range(3)]
    assert moved[0] == moved[1] != 0.5
    assert abs(abs(moved[0] - 0.5) - 4 * 2 / 50) < 1e-6
    assert abs(abs(moved[2] - moved[1]) - 4 * 2 / 50) < 1e-6


def test_a_fixed_probability_stays(small_run):
    run = small_run(augment="fixed", augment_p=0.3)
    losses = [run.trainer.step() for _ in range(2)]
    assert "augment_p" not in losses[0]
    assert float(run.trainer.modules["augment"].p) == pytest.approx(0.3)
    plain = small_run()
    plain.trainer.step()
    assert not torch.equal(_flat(run.generator), _flat(plain.generator))


def test_p_zero_trains_like_no_augmentation(small_run):
    with_pipe, without = small_run(augment="ada", ada_interval=100), small_run()
    for _ in range(2):
        with_pipe.trainer.step()
        without.trainer.step()
    for name, module in without.trainer.modules.items():
        assert torch.equal(_flat(module), _flat(with_pipe.trainer.modules[name])), name


@pytest.mark.parametrize("at", [3, 4])
def test_resumed_run_equals_an_uninterrupted_one(small_run, tmp_path, at):
    """Also when it ends in the middle of the controller's interval."""
    whole = small_run(**ADA, mirror=True)
    expected = [whole.trainer.step() for _ in range(7)]
    half = small_run(**ADA, mirror=True)
    shown = [half.trainer.step() for _ in range(at)]
    save_state(tmp_path / "resume-000000.pt", half.trainer, half.recipe.plain())
    other = small_run(**ADA, mirror=True, seed=5)
    restore_state(other.trainer, load_state(tmp_path / "resume-000000.pt"))
    shown += [other.trainer.step() for _ in range(7 - at)]
    assert shown == expected
    for name, module in whole.trainer.modules.items():
        assert torch.equal(_flat(module), _flat(other.trainer.modules[name])), name


def test_split_batches_train_the_same_in_float64(one_thread):
    """R1 goes through every transform; four micro-batches give the weights and the p of one."""
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (16, 3, 8, 8), dtype=torch.uint8, generator=rng)
    data = TrainingSet.from_arrays(pixels, torch.rand(16, 2, generator=rng), ["a", "b"])
    recipe = StyleGAN2Recipe(
        resolution=(8, 8), batch=8, channel_base=64, channel_max=8, z_dim=8, w_dim=8, mapping_layers=2,
        mbstd_group=2, conditions=("a", "b"), r1_interval=1, path_length_interval=0, augment="ada",
        augment_set="bgcfnc", augment_p=0.6, ada_kimg=0.1, ada_interval=1,
    )  # fmt: skip
    weights, shown = [], []
    for rounds in (1, 4):
        run = build(recipe, data, rounds=rounds)
        for module in run.trainer.modules.values():
            module.double()
        shown.append([run.trainer.step() for _ in range(3)][-1])
        weights.append(
            torch.cat([p.flatten() for p in [*run.generator.parameters(), *run.discriminator.parameters()]])
        )
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-8, atol=1e-10)
    assert shown[0]["augment_p"] == shown[1]["augment_p"]


def test_r1_is_taken_before_the_augmentation(small_run):
    """The penalty is that of the augmented discriminator at the image itself, by hand."""
    from pyface.training.draws import Draws, Rows
    from pyface.training.phases import Batch
    from pyface.training.recipes.stylegan2 import StyleGAN2Losses

    run = small_run(augment="fixed", augment_p=1.0, augment_set="bg")
    pipe = run.trainer.modules["augment"]
    losses = StyleGAN2Losses(run.generator, run.discriminator, run.recipe, augment=pipe)
    real = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    labels = torch.zeros(4, 2)

    def batch():
        return Batch(real, labels, Draws((0, 0, 0), Rows(torch.arange(4), 4)), lambda draws: labels)

    seen = real.clone().requires_grad_(True)
    logits = run.discriminator(pipe(seen, batch().draws), labels)
    (gradient,) = torch.autograd.grad(logits.sum(), seen)
    expected = gradient.square().sum((1, 2, 3)).mean() / 2
    torch.testing.assert_close(losses.adversary.r1(batch()), expected)


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_other_precisions_train(small_run, precision):
    run = small_run(**ADA, precision=precision, r1_interval=1)
    for _ in range(3):
        losses = run.trainer.step()
    assert all(np.isfinite(value) for value in losses.values())
    assert losses["r1"] > 0


def test_recipes_that_make_no_sense_are_refused(small_run):
    with pytest.raises(ValueRangeError, match="augment fixed needs augment_p above 0"):
        StyleGAN2Recipe(augment="fixed")
    with pytest.raises(ValueRangeError, match=r"augment_p is 0.2 but augment is none"):
        StyleGAN2Recipe(augment_p=0.2)
    with pytest.raises(ValueRangeError, match="between -1 and 1; got 1"):
        StyleGAN2Recipe(ada_target=1.0)
    with pytest.raises(ValueRangeError, match="augment_set"):
        StyleGAN2Recipe(augment_set="bcg")
    with pytest.raises(ValueRangeError, match="ada_kimg"):
        StyleGAN2Recipe(ada_kimg=0.0)
