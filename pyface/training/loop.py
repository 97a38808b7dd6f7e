"""The training loop: runs phases over batches, and tells callbacks what happened."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from types import FrameType
from typing import Any

import torch
from torch import nn

from pyface.errors import CheckpointError, ValueRangeError
from pyface.training.ema import ExponentialAverage
from pyface.training.feed import Feed
from pyface.training.phases import Batch, Phase

__all__ = ["Callback", "Trainer"]


class Callback:
    """Something that watches a run. Each method may be left as it is."""

    def on_start(self, trainer: Trainer) -> None:
        """Before the first step."""

    def on_step(self, trainer: Trainer, losses: dict[str, float]) -> None:
        """After every step, with the value of each loss term that was computed in it."""

    def on_end(self, trainer: Trainer) -> None:
        """After the last step, also when the run was interrupted; not after an error."""


class Trainer:
    """Minimises phases over the batches of a feed.

    modules: every network or buffer holder whose state belongs to the run, by name. averages: running
    averages that follow after each step. All randomness comes from `rng` and the feed's position, so
    `state_dict` is the whole run.
    """

    def __init__(
        self,
        phases: Sequence[Phase],
        modules: dict[str, nn.Module],
        feed: Feed,
        *,
        averages: Sequence[ExponentialAverage] = (),
        callbacks: Sequence[Callback] = (),
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.phases = list(phases)
        self.modules = modules
        self.feed = feed
        self.averages = list(averages)
        self.callbacks = list(callbacks)
        self.device = torch.device(device)
        self.rng = torch.Generator(self.device).manual_seed(seed)
        self.step_number = 0
        self.images_seen = 0
        self.interrupted = ""
        names = [phase.name for phase in self.phases]
        if len(set(names)) != len(names):
            raise ValueRangeError(f"phases must have different names; got {names}.")
        for module in modules.values():
            module.requires_grad_(False)

    def step(self) -> dict[str, float]:
        """Run every phase that is due on the next batch; returns the loss terms by name."""
        real, labels = self.feed.next(self.device)
        batch = Batch(real, labels, lambda n: self.feed.draw_labels(n, self.rng), self.rng)
        losses: dict[str, float] = {}
        for phase in self.phases:
            if phase.due(self.step_number, self.images_seen):
                losses.update(phase.run(batch, self.step_number))
        for average in self.averages:
            average.update(self.images_seen, self.feed.batch)
        self.step_number += 1
        self.images_seen += self.feed.batch
        return losses

    def run(self, images: int) -> None:
        """Train until `images` images were seen in all, or SIGINT or SIGTERM asks to stop after the current
        step.

        A second signal stops at once.
        """
        previous = self._watch_signals()
        try:
            for callback in self.callbacks:
                callback.on_start(self)
            while self.images_seen < images and not self.interrupted:
                losses = self.step()
                for callback in self.callbacks:
                    callback.on_step(self, losses)
            for callback in self.callbacks:
                callback.on_end(self)
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _watch_signals(self) -> dict[int, Any]:
        previous: dict[int, Any] = {}

        def ask_to_stop(number: int, _frame: FrameType | None) -> None:
            self.interrupted = signal.Signals(number).name
            for each, handler in previous.items():
                signal.signal(each, handler)

        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                previous[number] = signal.signal(number, ask_to_stop)
            except ValueError:  # not the main thread: signals are somebody else's
                return previous
        return previous

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Each optimiser once, under the name of the first phase that uses it."""
        found: dict[str, torch.optim.Optimizer] = {}
        for phase in self.phases:
            if all(phase.optimizer is not optimizer for optimizer in found.values()):
                found[phase.name] = phase.optimizer
        return found

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs, as tensors and plain values."""
        return {
            "step_number": self.step_number,
            "images_seen": self.images_seen,
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self._optimizers().items()},
            "rng": self.rng.get_state(),
            "feed": self.feed.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken. Raises CheckpointError when it belongs to another kind of run."""
        optimizers = self._optimizers()
        for kind, ours in (("modules", set(self.modules)), ("optimizers", set(optimizers))):
            if set(state[kind]) != ours:
                raise CheckpointError(
                    f"the resume file holds {kind} {sorted(state[kind])}; this run has {sorted(ours)}. "
                    "Resume with the options that the run was started with."
                )
        try:
            for name, module in self.modules.items():
                module.load_state_dict(state["modules"][name])
            for name, optimizer in optimizers.items():
                optimizer.load_state_dict(state["optimizers"][name])
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(
                f"the resume file does not fit the networks of this run ({reason}). "
                "Resume with the options that the run was started with."
            ) from error
        self.rng.set_state(state["rng"].cpu())
        self.feed.load_state_dict(state["feed"])
        self.step_number = int(state["step_number"])
        self.images_seen = int(state["images_seen"])
