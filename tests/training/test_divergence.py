"""A step that goes wrong names the weight, the layer or the gradient, and the last good checkpoint stays."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pyface.errors import TrainingError
from pyface.training import Feed, LossTerm, Phase, Trainer, TrainingSet
from pyface.training.checkpoint import Snapshots, load_state, resume_files
from pyface.training.divergence import LossGrowth, first_not_finite, watched_layers
from pyface.training.loss_watch import LossWatch
from pyface.training.phases import PATIENCE


class Spoil(nn.Module):
    """Passes values on, but for what `change` makes of them."""

    def __init__(self, change=None):
        super().__init__()
        self.change = change

    def forward(self, x):
        return self.change(x) if self.change else x


class BadGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.inf


def _toy(change=None, weight=1.0):
    """A trainer of three layers and a place where values can be spoiled."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), Spoil(change), nn.Linear(4, 1))
    term = LossTerm("size", lambda batch: network(batch.draws.normal(3)).square().mean(), weight)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-9)
    phase = Phase("toy", list(network.parameters()), [term], optimizer)
    pixels = torch.zeros(4, 1, 4, 4, dtype=torch.uint8)
    return Trainer([phase], {"N": network}, Feed(TrainingSet.from_arrays(pixels), 2)), network


def _message(trainer):
    before = [p.clone() for p in trainer.modules["N"].parameters()]
    with pytest.raises(TrainingError) as caught:
        trainer.step()
    after = list(trainer.modules["N"].parameters())
    assert all(torch.equal(a, b) or a.isnan().any() for a, b in zip(before, after, strict=True))
    assert all(p.grad is None for p in after)
    return str(caught.value)


def test_the_first_layer_with_a_bad_output_is_named():
    trainer, _ = _toy(lambda x: x / 0)
    text = _message(trainer)
    assert text.startswith("training diverged: loss 'size' of phase 'toy' is nan at step 0 (0 kimg).") or (
        text.startswith("training diverged: loss 'size' of phase 'toy' is inf at step 0 (0 kimg).")
    )
    assert "The first output that is not finite is that of N.1 (Spoil): 0 NaN and 8 infinite of 8" in text
    assert "its inputs reach" in text
    assert "start again with a lower learning rate or a higher --gamma" in text


def test_a_single_nan_is_counted():
    def one(x):
        x = x.clone()
        x[0, 0] = math.nan
        return x

    assert "N.1 (Spoil): 1 NaN and 0 infinite of 8 values" in _message(_toy(one)[0])


def test_an_explosion_names_the_layer_where_values_grow_large():
    text = _message(_toy(lambda x: x * 1e9)[0])
    assert "Values grow large first at N.1 (Spoil), up to " in text
    assert "not finite" not in text


def test_a_weight_that_is_not_finite_is_named():
    trainer, network = _toy()
    with torch.no_grad():
        network[2].weight[0, 1] = math.nan
    assert "The weight N.2.weight holds 1 of 4 values that are not finite." in _message(trainer)


def test_bad_gradients_are_limited_then_end_the_run_and_name_layer_and_parameter():
    trainer, network = _toy(BadGradient.apply)
    said = []
    trainer.callbacks.append(LossWatch(lambda trainer, text: said.append(text)))
    with pytest.raises(TrainingError) as caught:
        trainer.run(1000)
    text = str(caught.value)
    assert (
        f"gradients of phase 'toy' were not finite for {PATIENCE} times in a row, at step {PATIENCE - 1}"
        in text
    )
    assert "the first gradient that is not arrives at N.0 (Linear)" in text
    assert "The first parameter with a gradient that is not finite is N.0.weight." in text
    [warning] = said
    assert "a gradient of phase 'toy' was not finite (first parameter: N.0.weight)" in warning
    assert all(p.isfinite().all() for p in network.parameters())


def test_one_bad_gradient_is_survived():
    calls = []

    def sometimes(x):
        calls.append(0)
        return BadGradient.apply(x) if len(calls) % 3 == 0 else x

    trainer, network = _toy(sometimes)
    trainer.run(2 * 3 * PATIENCE)
    assert all(p.isfinite().all() for p in network.parameters())


def test_a_cause_that_does_not_repeat_is_said_to():
    calls = []

    def once(x):
        calls.append(0)
        return x * math.nan if len(calls) == 1 else x

    assert "A second run of the phase on the same numbers was finite" in _message(_toy(once)[0])


def test_the_second_run_sees_the_same_numbers():
    seen = []
    trainer, _ = _toy(lambda x: seen.append(x.detach().clone()) or x * math.nan)
    _message(trainer)
    assert len(seen) == 2
    assert torch.equal(seen[0], seen[1])


def test_a_layer_of_stylegan2_is_named(small_run):
    run = small_run()
    run.trainer.step()
    layer = run.discriminator.get_submodule("b8.conv1")
    layer.register_forward_hook(lambda module, inputs, output: output * math.nan)
    with pytest.raises(
        TrainingError, match=r"of phase 'generator' is nan at step 1 .* that of D\.b8\.conv1 \("
    ):
        run.trainer.step()


def test_the_last_good_checkpoint_stays_and_is_named(tmp_path, small_run):
    run = small_run()
    run.trainer.callbacks.append(Snapshots(tmp_path, run.average.average, 4, {}, {}))
    run.trainer.run(8)
    [good] = resume_files(tmp_path)
    kept = good.read_bytes()
    with torch.no_grad():
        next(run.discriminator.parameters())[:] = math.nan
    with pytest.raises(TrainingError, match=f"the last good one is {good}: go on from it"):
        run.trainer.run(16)
    assert good.read_bytes() == kept
    assert load_state(good)["trainer"]["step_number"] == 2


def test_a_checkpoint_that_is_not_finite_is_never_written(tmp_path, small_run):
    run = small_run()
    snapshots = Snapshots(tmp_path, run.average.average, 4, {}, {})
    snapshots.save(run.trainer)
    kept = {p: p.read_bytes() for p in tmp_path.iterdir()}
    with torch.no_grad():
        run.average.average.mapping.w_avg[0] = math.inf
    with pytest.raises(TrainingError, match=r"modules\.G_ema\.mapping\.w_avg holds 1 of 8 values"):
        snapshots.save(run.trainer)
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == kept


def test_first_not_finite_walks_nested_states():
    good, bad = torch.ones(2), torch.tensor([1.0, math.inf])
    assert first_not_finite({"a": [good, 3, "x"], "b": {"c": torch.tensor([1])}}) is None
    assert first_not_finite({"a": good, "b": {"c": (good, bad)}})[0] == "b.c.1"


def test_hooks_are_gone_after_the_block():
    _, network = _toy()
    with watched_layers({"N": network}) as record:
        network(torch.full((1, 3), math.nan))
    assert record.bad.layer == "N.0 (Linear)"
    assert "its inputs are not finite either" in record.text()
    assert not any(module._forward_hooks for module in network.modules())


def test_growth_is_told_once_long_before_the_end():
    growth = LossGrowth(factor=20, patience=16, window=256, floor=10)
    rng = torch.Generator().manual_seed(0)
    healthy = (torch.rand(500, generator=rng) * 4).tolist()
    assert not any(growth.add(value) for value in healthy)
    assert not any(growth.add(value) for value in [1000.0] * 15 + [1.0]), "a burst is not growth"
    told = [growth.add(100.0 * 1.1**i) for i in range(60)]
    assert told.count(True) == 1
    assert told.index(True) == 15
    assert growth.growing
    assert not growth.add(1.0)
    assert not growth.growing
    quiet = LossGrowth()
    assert not any(quiet.add(0.001 if i < 200 else 1.0) for i in range(400)), "small losses may move freely"


def test_a_growing_loss_warns_and_keeps_old_checkpoints(tmp_path):
    trainer, network = _toy()
    scale = [1.0]
    term = LossTerm("size", lambda batch: network(batch.draws.normal(3)).square().mean() * 0 + scale[0], 2.0)
    trainer.phases[0].terms = [term]
    said = []
    watch = LossWatch(lambda trainer, text: said.append(text))
    snapshots = Snapshots(tmp_path, nn.Identity(), 10**9, {}, {})
    snapshots.keep_all = watch.growing
    for name in ("resume-000001.pt", "resume-000002.pt", "resume-000003.pt"):
        (tmp_path / name).write_bytes(b"")
    for _ in range(80):
        watch.on_step(trainer, trainer.step())
    assert not said
    scale[0] = 500.0
    for _ in range(20):
        watch.on_step(trainer, trainer.step())
    [text] = said
    assert "loss 'size' of phase 'toy' has grown to 500" in text
    assert "median of its weighted size 2)" in text
    assert "At 1e+08 the run ends" in text
    assert snapshots.keep_all()
