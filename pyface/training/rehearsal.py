"""A training step on tensors that hold no numbers: the real phases of a real trainer, for nothing but its
memory.

Networks, losses, optimisers and the trainer's loop run as they are, under torch's fake tensors, so a new
layer or a new recipe needs no formula here.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from pyface.errors import PyfaceError, TrainingError, ValueRangeError
from pyface.ops.rehearsal import rehearsal
from pyface.training.augment_control import AdaptiveAugment
from pyface.training.augment_filters import band_filters, wavelet_low_pass
from pyface.training.draws import Rows
from pyface.training.feed import TrainingSet, to_float
from pyface.training.loop import Trainer
from pyface.training.phases import Images, Phase
from pyface.training.tracking import Peak, StorageTracker, Workspace

__all__ = ["BETWEEN", "blank_set", "rehearse", "track_step"]

BETWEEN = "between phases"  # reading the batch, followers


@dataclass(frozen=True)
class _CountedRows(Rows):
    """Rows of which the number counts and not the values, since fake tensors have none."""

    start: int = 0

    def shrunk(self, factor: int) -> Rows:
        """As many rows as there are multiples of `factor` from `start` on."""
        if factor <= 1:
            return self
        first = -(-self.start // factor)
        count = -(-(self.start + len(self)) // factor) - first
        if count == 0:
            raise ValueRangeError(
                f"a micro-batch of {len(self)} holds none of every {factor}th sample. "
                f"Make the micro-batch a multiple of {factor}."
            )
        return _CountedRows(self.index[:count], -(-self.total // factor), first)


# What is read from tensors without numbers: zeros, and that two differ.
_READS: dict[Any, Callable[[torch.dtype], Any]] = {
    torch.ops.aten._local_scalar_dense.default: lambda dtype: 0.0 if dtype.is_floating_point else 0,
    torch.ops.aten.equal.default: lambda dtype: False,
}
_POINTWISE = (torch.ops.aten.mul.Tensor, torch.ops.aten.add.Tensor, torch.ops.aten.sub.Tensor)


class _FakeTracker(StorageTracker):
    """A tracker inside FakeTensorMode: numbers can be read, and layouts are those that real tensors get."""

    def execute(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """What an op gives."""
        if func in _READS and getattr(args[0], "constant", None) is None:
            return _READS[func](args[0].dtype)
        result = func(*args, **kwargs)
        return _laid_out(result, args) if func in _POINTWISE else result


def _laid_out(result: Tensor, arguments: Sequence[Any]) -> Tensor:
    """A sum or product of a channels_last tensor and an expanded one, which fake tensors make contiguous."""
    if result.ndim != 4 or not result.is_contiguous():
        return result
    images = [a for a in arguments if isinstance(a, Tensor) and a.ndim == 4]
    dense = [a for a in images if 0 not in a.stride()]
    if len(dense) != 1 or len(images) == 1 or dense[0].is_contiguous():
        return result
    if not dense[0].is_contiguous(memory_format=torch.channels_last):
        return result
    return result.contiguous(memory_format=torch.channels_last)


def blank_set(size: tuple[int, int], channels: dict[str, int], label_names: Sequence[str]) -> TrainingSet:
    """A training set of black images that are made when they are asked for."""

    def fetch(indices: Any) -> dict[str, Tensor]:
        return {
            name: torch.zeros(len(indices), count, *size, dtype=torch.uint8)
            for name, count in channels.items()
        }

    labels = torch.zeros(16, len(label_names))
    return TrainingSet(labels, tuple(label_names), "a blank set", dict(channels), size, fetch=fetch)


def rehearse(
    make: Callable[[], Trainer], *, native: bool = True, workspace: Workspace | None = None
) -> dict[str, Peak]:
    """The worst moment of each phase of a step in the middle of a run, by phase; no memory is taken for
    tensors.

    make: builds the trainer, on the CPU (sizes are those of every device). native: as the kernels' path does
    it, not the torch reference. workspace: see `StorageTracker`.

    Where the system can, it happens in a forked process: Python's garbage collector crashes on what torch's
    fake tensors leave behind (seen with torch 2.13), and there it never runs.
    """
    return _apart(lambda: _rehearsed(make, native, workspace))


def _apart(work: Callable[[], dict[str, Peak]]) -> dict[str, Peak]:
    """What `work` gives or raises, done in a process of its own that ends without tidying up."""
    if not hasattr(os, "fork"):
        return work()
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads; none of them is used
        child = os.fork()
    if child == 0:
        try:
            gc.disable()
            with os.fdopen(write, "wb") as pipe:
                pipe.write(_answer(work))
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    if not answer:
        raise TrainingError(
            f"the rehearsal of the training step ended without an answer (status {status}). "
            "Give the process more memory, or report the settings."
        )
    error, peaks = pickle.loads(answer)
    if error is not None:
        raise error
    found: dict[str, Peak] = peaks
    return found


def _answer(work: Callable[[], dict[str, Peak]]) -> bytes:
    try:
        return pickle.dumps((None, work()))
    except PyfaceError as error:
        return pickle.dumps((error, {}))
    except Exception as error:
        return pickle.dumps((TrainingError(f"the rehearsal failed: {type(error).__name__}: {error}"), {}))


def _rehearsed(make: Callable[[], Trainer], native: bool, workspace: Workspace | None) -> dict[str, Peak]:
    _fill_caches()
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(rehearsal(native))
        # Module.to swaps parameters, which fake ones refuse; they are where they should be already.
        stack.enter_context(mock.patch.object(nn.Module, "to", lambda module, *_, **__: module))
        tracker = stack.enter_context(_FakeTracker(workspace))
        trainer = make()
        start = 0
        for index, rows in enumerate(trainer.shares):
            trainer.shares[index] = _CountedRows(rows.index, rows.total, start)
            start += len(rows)
        return track_step(trainer, tracker)


def _fill_caches() -> None:
    """Make what is kept from call to call, so that no fake tensor is kept for real calls."""
    wavelet_low_pass(torch.device("cpu"))
    band_filters()


def track_step(trainer: Trainer, tracker: StorageTracker) -> dict[str, Peak]:
    """Run one step with every phase and the moments of Adam in place; the worst moment of each phase.

    The trainer is used up: its networks have moved. Parts: weights, gradients, Adam, running average,
    activations.
    """
    for module in trainer.modules.values():
        tracker.classify([*module.parameters(), *module.buffers()], "weights")
    for follower in trainer.followers:
        average = getattr(follower, "average", None)
        if isinstance(average, nn.Module):
            tracker.classify([*average.parameters(), *average.buffers()], "running average")
        if isinstance(follower, AdaptiveAugment):
            follower.pipe.p = torch.tensor(1.0)  # as far as it may go, where it takes most
    hooks = [
        _follow_gradient(parameter, tracker)
        for parameter in {id(p): p for phase in trainer.phases for p in phase.parameters}.values()
    ]
    trainer.step_number = 0
    trainer.images_seen = max(phase.start for phase in trainer.phases)
    with contextlib.ExitStack() as stack:
        for hook in hooks:
            stack.callback(hook.remove)
        for optimizer in {id(phase.optimizer): phase.optimizer for phase in trainer.phases}.values():
            _prepare(optimizer, tracker)
        for phase in trainer.phases:
            stack.enter_context(_watched(phase, tracker))
        stack.enter_context(mock.patch.object(trainer.feed, "next", _blank_batches(trainer.feed.data)))
        with tracker.section(BETWEEN):
            trainer.step()
    return dict(tracker.peaks)


def _blank_batches(data: TrainingSet) -> Callable[..., list[tuple[Images, Tensor]]]:
    """A `Feed.next` that reads nothing: images and labels of zeros."""

    def read(shares: Sequence[Rows], device: torch.device | str) -> list[tuple[Images, Tensor]]:
        found: list[tuple[Images, Tensor]] = []
        for rows in shares:
            images = {
                name: to_float(torch.zeros(len(rows), count, *data.size, dtype=torch.uint8))
                for name, count in data.channels.items()
            }
            one = next(iter(images.values())) if len(images) == 1 else images
            found.append((one, torch.zeros(len(rows), data.labels.shape[1])))
        return found

    return read


def _follow_gradient(parameter: nn.Parameter, tracker: StorageTracker) -> Any:
    wanted = parameter.requires_grad
    parameter.requires_grad_(True)
    hook = parameter.register_post_accumulate_grad_hook(
        lambda p: tracker.classify([cast(Tensor, p.grad)], "gradients")
    )
    parameter.requires_grad_(wanted)
    return hook


def _prepare(optimizer: torch.optim.Optimizer, tracker: StorageTracker) -> None:
    """One optimiser step on zero gradients: moments exist, and gradients of the step before are still
    there."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
            tracker.classify([parameter.grad], "gradients")
    optimizer.step()
    for state in optimizer.state.values():
        tracker.classify([value for value in state.values() if isinstance(value, Tensor)], "Adam")


@contextlib.contextmanager
def _watched(phase: Phase, tracker: StorageTracker) -> Iterator[None]:
    run = phase.run

    def watched(*arguments: Any, **options: Any) -> dict[str, float]:
        with tracker.section(phase.name):
            return run(*arguments, **options)

    with mock.patch.object(phase, "run", watched):
        yield
