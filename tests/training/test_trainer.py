"""The loop: steps change what they should, a resumed run equals an uninterrupted one, failures are named."""

from __future__ import annotations

import json
import os
import signal

import numpy as np
import pytest
import torch
from PIL import Image

import pyface
from pyface.errors import CheckpointError, DataError, ShapeError, TrainingError, ValueRangeError
from pyface.training import Callback, Feed, LossTerm, Phase, Trainer, TrainingSet
from pyface.training.checkpoint import Snapshots, load_state, restore_state, resume_files, save_state
from pyface.training.ema import ExponentialAverage
from pyface.training.feed import box_shrink
from pyface.training.phases import adam
from pyface.training.recipes.stylegan2 import StyleGAN2Recipe, build
from pyface.training.sheets import SampleSheets
from pyface.training.statistics import Statistics

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
}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _images(count=10, size=16, c_dim=2):
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=rng)
    return TrainingSet.from_arrays(pixels, torch.rand(count, c_dim, generator=rng), ["a", "b"][:c_dim])


def _run(**changes):
    recipe = StyleGAN2Recipe(**{**SMALL, "conditions": ("a", "b"), **changes})
    return build(recipe, _images())


def _flat(module):
    return torch.cat([t.flatten().double() for t in module.state_dict().values()])


def test_a_step_moves_both_networks_and_their_average():
    run = _run()
    before = {name: _flat(module) for name, module in run.trainer.modules.items()}
    losses = run.trainer.step()
    assert set(losses) == {"adversarial", "path_length", "fake", "real", "r1"}
    assert all(np.isfinite(value) for value in losses.values())
    for name, module in run.trainer.modules.items():
        assert not torch.equal(before[name], _flat(module)), name
    assert run.trainer.images_seen == 4
    assert set(run.trainer.step()) == {"adversarial", "fake", "real"}, "lazy phases skip odd steps"


def test_phases_do_not_leak_gradients():
    run = _run()
    run.trainer.step()
    networks = [*run.generator.parameters(), *run.discriminator.parameters()]
    assert not any(parameter.requires_grad for parameter in networks)
    assert not any(parameter.requires_grad for parameter in run.average.average.parameters())


def test_resumed_run_equals_an_uninterrupted_one(tmp_path):
    whole = _run(mirror=True)
    for _ in range(6):
        whole.trainer.step()
    half = _run(mirror=True)
    for _ in range(3):
        half.trainer.step()
    save_state(tmp_path / "resume-000000.pt", half.trainer, half.recipe.plain())
    torch.manual_seed(99)
    other = _run(mirror=True, seed=5)
    restore_state(other.trainer, load_state(tmp_path / "resume-000000.pt"))
    for _ in range(3):
        other.trainer.step()
    for name, module in whole.trainer.modules.items():
        assert torch.equal(_flat(module), _flat(other.trainer.modules[name])), name
    assert other.trainer.images_seen == whole.trainer.images_seen == 24


def test_same_seed_same_weights_other_seed_other_weights():
    a, b, c = _run(), _run(), _run(seed=1)
    for run in (a, b, c):
        run.trainer.step()
    assert torch.equal(_flat(a.generator), _flat(b.generator))
    assert not torch.equal(_flat(a.generator), _flat(c.generator))


def test_frozen_layers_of_the_discriminator_stay():
    run = _run(freeze_d=2)
    frozen = [p.clone() for p in run.discriminator.frozen_parameters()]
    assert frozen
    run.trainer.step()
    for before, now in zip(frozen, run.discriminator.frozen_parameters(), strict=True):
        assert torch.equal(before, now)


def test_warmup_trains_the_discriminator_alone():
    run = _run(warmup_kimg=0.004)
    weights = _flat(run.generator.synthesis)
    assert set(run.trainer.step()) == {"fake", "real", "r1"}
    assert torch.equal(weights, _flat(run.generator.synthesis))
    assert "adversarial" in run.trainer.step()


def test_bfloat16_and_several_spectra():
    rng = torch.Generator().manual_seed(0)
    pixels = {
        "vis": torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8, generator=rng),
        "nir": torch.randint(0, 256, (6, 1, 16, 16), dtype=torch.uint8, generator=rng),
    }
    recipe = StyleGAN2Recipe(**SMALL, precision="bfloat16", spectra={"vis": 3, "nir": 1})
    run = build(recipe, TrainingSet.from_arrays(pixels))
    losses = run.trainer.step()
    assert all(np.isfinite(value) for value in losses.values())


def test_a_new_run_sets_the_resume_files_of_another_aside(tmp_path):
    """They would count as newer than its own, which would then be removed as old."""
    (tmp_path / "resume-000700.pt").write_bytes(b"of another run")
    run = _run()
    run.trainer.callbacks.append(Snapshots(tmp_path, run.average.average, 4, {}, {}, keep=1))
    run.trainer.run(8)
    assert [path.name for path in resume_files(tmp_path)] == ["resume-000000.pt"]
    assert (tmp_path / "previous-resume-000700.pt").read_bytes() == b"of another run"


def test_a_callback_that_fails_on_an_error_does_not_hide_it():
    class Broken(Callback):
        def on_step(self, trainer, losses):
            raise ValueError("the first")

        def on_error(self, trainer, error):
            raise OSError("the second")

    run = _run()
    run.trainer.callbacks.append(Broken())
    with pytest.raises(ValueError, match="the first") as caught:
        run.trainer.run(8)
    assert "the second" in caught.value.__notes__[0]


def test_snapshots_load_and_old_resume_files_go(tmp_path):
    run = _run()
    run.trainer.callbacks.append(Statistics(tmp_path, 4))
    snapshots = Snapshots(tmp_path, run.average.average, 4, run.recipe.plain(), {"data": "noise"}, keep=1)
    run.trainer.callbacks += [snapshots, SampleSheets(tmp_path, run.average.average, run.trainer.feed, 8)]
    run.trainer.run(12)
    generator = pyface.load(tmp_path / "snapshot-000000.safetensors")
    assert torch.equal(_flat(generator), _flat(run.average.average))
    assert len(resume_files(tmp_path)) == 1
    assert Image.open(tmp_path / "reals.png").size[0] > 16
    assert (tmp_path / "fakes-000000.png").exists()
    records = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert [record["kimg"] for record in records] == [0.004, 0.008, 0.012]
    assert "loss/adversarial" in records[0]
    again = _run()
    again.start_from(tmp_path / "snapshot-000000.safetensors")
    assert torch.equal(_flat(again.generator), _flat(generator))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_the_step(number):
    run = _run(path_length_interval=0)

    class Interrupt(Callback):
        ended = False

        def on_step(self, trainer, losses):
            os.kill(os.getpid(), number)

        def on_end(self, trainer):
            self.ended = True

    handler = signal.getsignal(number)
    watcher = Interrupt()
    run.trainer.callbacks.append(watcher)
    run.trainer.run(4000)
    assert run.trainer.images_seen == 4
    assert watcher.ended
    assert run.trainer.interrupted == number.name
    assert signal.getsignal(number) == handler


def _toy_trainer(function):
    weight = torch.nn.Linear(1, 1)
    parameters = list(weight.parameters())
    phase = Phase("toy", parameters, [LossTerm("badness", function)], adam(parameters, 0.1, (0.0, 0.99)))
    return Trainer([phase], {"net": weight}, Feed(_images(), 2)), weight


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e12])
def test_divergence_names_phase_term_and_step(value):
    trainer, weight = _toy_trainer(lambda batch: weight.weight.sum() * value)
    before = weight.weight.clone()
    with pytest.raises(TrainingError, match=r"'badness' of phase 'toy' is .* at step 0"):
        trainer.step()
    assert torch.equal(before, weight.weight)


def test_lazy_phase_counts_its_interval_and_adam_is_corrected():
    optimizer = adam([torch.nn.Parameter(torch.zeros(1))], 0.01, (0.0, 0.99), 4)
    group = optimizer.param_groups[0]
    assert group["lr"] == pytest.approx(0.008)
    assert group["betas"] == pytest.approx((0.0, 0.99**0.8))
    parameter = torch.nn.Parameter(torch.zeros(1))
    plain = torch.optim.SGD([parameter], lr=1.0)
    phase = Phase("lazy", [parameter], [LossTerm("x", lambda _: parameter.sum(), 2.0)], plain, interval=3)
    assert [phase.due(step, 0) for step in range(4)] == [True, False, False, True]
    trainer = Trainer([phase], {}, Feed(_images(), 2))
    trainer.step()
    assert parameter.item() == pytest.approx(-6.0)


def test_average_has_its_half_life():
    source = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(source.weight, 0.0)
    average = ExponentialAverage(source, half_life=100, rampup=0.0)
    torch.nn.init.constant_(source.weight, 1.0)
    for _ in range(10):
        average.update(0, 10)
    assert average.average.weight.item() == pytest.approx(0.5)
    ramped = ExponentialAverage(source, half_life=1e9, rampup=0.05)
    torch.nn.init.constant_(source.weight, 3.0)
    ramped.update(0, 10)
    assert ramped.average.weight.item() == 3.0, "the start is forgotten at once"


def test_feed_shows_every_image_once_an_epoch_and_resumes():
    data = _images(7)
    feed = Feed(data, 7, seed=3)
    [(first, _)] = feed.next()
    [(second, _)] = feed.next()
    expected = data.images["vis"].float().sum((1, 2, 3)).sort().values
    for epoch in (first, second):
        sums = ((epoch + 1) * 127.5).sum((1, 2, 3)).sort().values
        torch.testing.assert_close(sums, expected)
    assert not torch.equal(first, second)
    other = Feed(data, 7, seed=3)
    other.load_state_dict({"position": 7, "seed": 3, "length": 7})
    assert torch.equal(other.next()[0][0], second)
    with pytest.raises(DataError, match="same data"):
        other.load_state_dict({"position": 7, "seed": 3, "length": 8})


def test_mirror_flips_about_half():
    pixels = torch.zeros(400, 1, 4, 4, dtype=torch.uint8)
    pixels[..., 0] = 255
    [(images, _)] = Feed(TrainingSet.from_arrays(pixels), 400, mirror=True).next()
    flipped = (images[:, 0, 0, 3] > 0).float().mean().item()
    assert 0.4 < flipped < 0.6


def test_box_shrink_is_the_mean_of_blocks():
    image = np.arange(4 * 4 * 1, dtype=np.uint8).reshape(4, 4, 1)
    assert box_shrink(image, 2, 2)[:, :, 0].tolist() == [[3, 5], [11, 13]]
    assert box_shrink(image, 4, 4) is image
    with pytest.raises(DataError, match="whole factor"):
        box_shrink(image, 3, 3)


def test_bad_recipes_and_data_are_refused():
    with pytest.raises(ValueRangeError, match="precision"):
        StyleGAN2Recipe(precision="int8")
    with pytest.raises(ValueRangeError, match="batch"):
        StyleGAN2Recipe(batch=0)
    with pytest.raises(ValueRangeError, match="minibatch-std"):
        StyleGAN2Recipe(batch=6)
    with pytest.raises(ValueRangeError, match="conditions"):
        build(StyleGAN2Recipe(**SMALL), _images())
    with pytest.raises(ShapeError, match="uint8"):
        TrainingSet.from_arrays(torch.zeros(2, 3, 8, 8))
    with pytest.raises(ShapeError, match="Nearest"):
        build(StyleGAN2Recipe(**{**SMALL, "resolution": (20, 20)}), _images(size=20, c_dim=0))


def test_foreign_resume_files_are_refused(tmp_path):
    path = tmp_path / "resume-000001.pt"
    with pytest.raises(CheckpointError, match="does not exist"):
        load_state(path)
    path.write_bytes(b"not a file of ours")
    with pytest.raises(CheckpointError, match="not a resume file"):
        load_state(path)
    torch.save({"format": 99}, path)
    with pytest.raises(CheckpointError, match="not a resume file of this version"):
        load_state(path)
    run = _run()
    save_state(path, run.trainer, {})
    with pytest.raises(CheckpointError, match="options that the run was started with"):
        restore_state(_run(channel_max=8).trainer, load_state(path))


def test_gamma_default_is_that_of_the_reference():
    assert StyleGAN2Recipe(resolution=(256, 256), batch=32).r1_gamma == pytest.approx(0.4096)
