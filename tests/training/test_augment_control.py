"""The controller of augmentation against a trace by hand; runs with it: resumed, split, two precisions."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from pyface.errors import ValueRangeError
from pyface.training.augment import AugmentPipe
from pyface.training.augment_control import AdaptiveAugment


def _trainer(batch=8):
    return SimpleNamespace(step_number=0, feed=SimpleNamespace(batch=batch))


def _follow(control, trainer, steps):
    """Feed the logits of each step to the controller; p after each step."""
    trace = []
    for parts in steps:
        for logits in parts:
            control.observe(torch.tensor(logits))
        trainer.step_number += 1
        control.after_step(trainer)
        trace.append(round(float(control.pipe.p), 6))
    return trace


def test_trace_by_hand():
    """A batch of 8, every 2 steps, 0.1 kimg from 0 to 1: p moves by 16 / 100 at a time."""
    control = AdaptiveAugment(AugmentPipe("blit"), target=0.6, kimg=0.1, interval=2)
    sure, unsure, none = [[3.0, 0.1]], [[1.0, -2.0]], [[0.0, 0.0]]
    steps = [sure, sure, sure, unsure, unsure, unsure, none, none, sure, sure]
    #              mean sign 1   (1 + 1 + 1 - 1) / 4 = 0.5   0        0, p stays at 0   1
    assert _follow(control, _trainer(), steps) == [0, 0.16, 0.16, 0, 0, 0, 0, 0, 0, 0.16]
    assert control.figures() == pytest.approx({"augment_p": 0.16, "real_sign": 1.0})


def test_exactly_on_target_does_not_move():
    control = AdaptiveAugment(AugmentPipe("blit", p=0.5), target=0.5, interval=1)
    assert _follow(control, _trainer(), [[[1.0, 1.0, 1.0, -1.0]]]) == [0.5]


def test_micro_batches_count_together():
    whole = AdaptiveAugment(AugmentPipe("blit", p=0.5), kimg=1, interval=1)
    parts = AdaptiveAugment(AugmentPipe("blit", p=0.5), kimg=1, interval=1)
    _follow(whole, _trainer(), [[[1.0, 1.0, 1.0, -1.0]]])
    _follow(parts, _trainer(), [[[1.0], [1.0, 1.0, -1.0]]])
    assert whole.figures() == parts.figures()
    assert whole.figures()["real_sign"] == 0.5
    assert float(parts.seen) == float(parts.sign_sum) == 0


def test_a_step_without_the_discriminator_moves_nothing():
    control = AdaptiveAugment(AugmentPipe("blit", p=0.3), interval=1)
    assert _follow(control, _trainer(), [[]]) == [0.3]


def test_state_goes_on_in_the_middle_of_an_interval():
    kinds = {"kimg": 0.1, "interval": 3}
    steps = [[[1.0, 1.0]], [[1.0, -1.0]], [[1.0, 1.0]], [[-1.0, -1.0]], [[1.0, 1.0]], [[-1.0, 1.0]]]
    whole = AdaptiveAugment(AugmentPipe("blit", p=0.5), **kinds)
    expected = _follow(whole, _trainer(), steps)
    half = AdaptiveAugment(AugmentPipe("blit", p=0.5), **kinds)
    trainer = _trainer()
    begun = _follow(half, trainer, steps[:2])
    other = AdaptiveAugment(AugmentPipe("blit"), **kinds)
    other.load_state_dict(half.state_dict())
    assert begun + _follow(other, trainer, steps[2:]) == expected
    assert set(half.state_dict()) == {"sign_sum", "seen", "step_signs", "steps", "real_sign", "pipe.p"}


def test_errors():
    pipe = AugmentPipe("blit")
    for changes, text in (
        ({"target": 1.0}, "between -1 and 1; got 1"),
        ({"kimg": 0}, "must be above 0; got 0"),
        ({"interval": 0}, "1 step or more; got 0"),
    ):
        with pytest.raises(ValueRangeError, match=text):
            AdaptiveAugment(pipe, **changes)
