"""The training loop: runs phases over batches, and tells callbacks what happened."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pyface.errors import CheckpointError, ValueRangeError
from pyface.training.distributed import Ranks
from pyface.training.draws import Draws, rows_of_rank
from pyface.training.failures import explained
from pyface.training.feed import Feed
from pyface.training.phases import Batch, Images, Phase

__all__ = ["Callback", "EqualityCheck", "Follower", "Trainer"]

EQUALITY_STEPS = 200  # the processes of a run are compared every so many steps
SAME_SIGNAL_SECONDS = 5.0  # signals to several processes within this time are one request


class Callback:
    """Something that watches a run. Each method may be left as it is.

    every_rank: whether it runs in all processes of a run; without it, in the first alone.
    """

    every_rank = False

    def on_start(self, trainer: Trainer) -> None:
        """Before the first step."""

    def on_step(self, trainer: Trainer, losses: dict[str, float]) -> None:
        """After every step, with the value of each loss term that was computed in it."""

    def on_end(self, trainer: Trainer) -> None:
        """After the last step, also when the run was interrupted; not after an error."""

    def on_error(self, trainer: Trainer, error: Exception) -> None:
        """After an error, which is raised again when all callbacks have heard of it."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs of this callback, as tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""


class Follower(Protocol):
    """Something that moves with the networks: a running average, a controller."""

    def after_step(self, trainer: Trainer) -> None:
        """Follow a step that `trainer` has finished."""


class Trainer:
    """Minimises phases over the batches of a feed.

    modules: every network or buffer holder whose state belongs to the run, by name. followers: running
    averages and controllers that move after each step, in this order; what `figures()` of one gives
    (name -> float) is added to the losses of the step. ranks: the processes of the run, of which each takes
    its part of every batch, in `rounds` micro-batches; `group` consecutive samples stay together
    (minibatch-std).

    Every random number belongs to (seed, step, phase, sample) or to the feed's position, so `state_dict` is
    the whole run, and it does not depend on the number of processes.
    """

    def __init__(
        self,
        phases: Sequence[Phase],
        modules: dict[str, nn.Module],
        feed: Feed,
        *,
        followers: Sequence[Follower] = (),
        callbacks: Sequence[Callback] = (),
        ranks: Ranks | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        rounds: int = 1,
        group: int = 1,
    ) -> None:
        self.phases = list(phases)
        self.modules = modules
        self.feed = feed
        self.followers = list(followers)
        self.callbacks = list(callbacks)
        self.ranks = ranks or Ranks()
        self.seed = seed
        self.device = torch.device(device)
        self.shares = rows_of_rank(feed.batch, self.ranks.rank, self.ranks.size, rounds, group)
        self.step_number = 0
        self.images_seen = 0
        self.interrupted = ""
        self.last_checkpoint: Path | None = None
        names = [phase.name for phase in self.phases]
        if len(set(names)) != len(names):
            raise ValueRangeError(f"phases must have different names; got {names}.")
        for module in modules.values():
            module.requires_grad_(False)

    def step(self) -> dict[str, float]:
        """Run every phase that is due on the next batch; returns the loss terms by name."""
        self.ranks.at_step(self.step_number)
        parts = self.feed.next(self.shares, self.device)
        losses: dict[str, float] = {}
        buffers = self._statistics() if self.ranks.size > 1 or len(self.shares) > 1 else []
        versions = [b._version for b in buffers]
        for number, phase in enumerate(self.phases):
            if phase.due(self.step_number, self.images_seen):
                losses.update(self._run_phase(phase, number, parts, buffers))
        # Running statistics move by the mean of what the processes saw; constants are left alone.
        self.ranks.average([b for b, v in zip(buffers, versions, strict=True) if b._version != v])
        self.step_number += 1
        self.images_seen += self.feed.batch
        for follower in self.followers:
            follower.after_step(self)
            figures = getattr(follower, "figures", None)
            losses.update(figures() if figures else {})
        return losses

    def _run_phase(
        self,
        phase: Phase,
        number: int,
        parts: Sequence[tuple[Images, Tensor]],
        statistics: Sequence[Tensor],
    ) -> dict[str, float]:
        try:
            return phase.run(self._batches(parts, number), self.step_number, self.ranks, statistics)
        except Exception as error:
            told = explained(error, self, phase, lambda: self._batches(parts, number))
            if told is error:
                raise
            raise told from error

    def _batches(self, parts: Sequence[tuple[Images, Tensor]], phase: int) -> list[Batch]:
        key = (self.seed % 2**64, self.step_number, phase)
        return [
            Batch(real, labels, Draws(key, rows, self.device), self.feed.draw_labels, self.ranks)
            for rows, (real, labels) in zip(self.shares, parts, strict=True)
        ]

    def _statistics(self) -> list[Tensor]:
        """The floating-point buffers of all modules, each once: running means and constants."""
        found = {id(b): b for m in self.modules.values() for b in m.buffers() if b.is_floating_point()}
        return list(found.values())

    def run(self, images: int) -> None:
        """Train until `images` images were seen in all, or SIGINT or SIGTERM asks to stop after the current
        step; a signal to one process of a run stops all in the same step.

        A second signal stops at once.
        """
        previous = self._watch_signals()
        callbacks = [c for c in self.callbacks if c.every_rank or self.ranks.main]
        try:
            self._begin_together()
            for callback in callbacks:
                callback.on_start(self)
            # A signal may come between agreeing and the next look: only what all have heard may end the loop.
            agreed = self.ranks.agree(self.interrupted)
            while self.images_seen < images and not agreed:
                losses = self.step()
                for callback in callbacks:
                    callback.on_step(self, losses)
                agreed = self.ranks.agree(self.interrupted)
                if self.step_number % EQUALITY_STEPS == 0:
                    self.check_ranks()
            self.interrupted = agreed or self.interrupted
            for callback in callbacks:
                callback.on_end(self)
        except Exception as error:
            told = explained(error, self)
            self._tell_of_error(callbacks, told)
            if told is error:
                raise
            raise told from error
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _tell_of_error(self, callbacks: Sequence[Callback], error: Exception) -> None:
        """Let the callbacks hear of an error; one that fails in turn does not hide it."""
        for callback in callbacks:
            try:
                callback.on_error(self, error)
            except Exception as second:
                error.add_note(f"After that, {type(callback).__name__} failed too: {second!r}")

    def _begin_together(self) -> None:
        """Weights of process 0 for all, since other processors may have drawn others from the same seed."""
        if self.ranks.size > 1:
            tensors = [t for m in self.modules.values() for t in m.state_dict().values()]
            self.ranks.broadcast(tensors)
            self.check_ranks()

    def check_ranks(self) -> None:
        """Raise TrainingError, in all processes, when they do not hold the same weights, optimiser states and
        position. All must call it."""
        if self.ranks.size == 1:
            return
        named = {
            "number of steps": torch.tensor(self.step_number),
            "number of images": torch.tensor([self.images_seen, self.feed.position]),
        }
        for name, module in self.modules.items():
            named |= {f"{name}.{key}": tensor for key, tensor in module.state_dict().items()}
        for name, optimizer in self._optimizers().items():
            for index, values in optimizer.state_dict()["state"].items():
                found = {key: v for key, v in values.items() if isinstance(v, Tensor)}
                named |= {f"optimizer of {name}, parameter {index}, {key}": v for key, v in found.items()}
        self.ranks.check_equal(named, self.step_number)

    def _watch_signals(self) -> dict[int, Any]:
        previous: dict[int, Any] = {}
        first = 0.0

        def ask_to_stop(number: int, _frame: FrameType | None) -> None:
            nonlocal first
            now = time.monotonic()
            if first and self.ranks.size > 1 and now - first < SAME_SIGNAL_SECONDS:
                return  # torchrun passes on what the terminal has sent to every process already
            if first:
                for each, handler in previous.items():
                    signal.signal(each, handler)
                signal.raise_signal(number)
                return
            first = now
            self.interrupted = signal.Signals(number).name

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
            "seed": self.seed,
            "step_number": self.step_number,
            "images_seen": self.images_seen,
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self._optimizers().items()},
            "callbacks": {type(c).__name__: c.state_dict() for c in self.callbacks},
            "feed": self.feed.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken. Raises CheckpointError when it belongs to another kind of run.

        Callbacks that the state does not know, or that this run does not have, are left as they are.
        """
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
        self.feed.load_state_dict(state["feed"])
        for callback in self.callbacks:
            callback.load_state_dict(state["callbacks"].get(type(callback).__name__, {}))
        self.seed = int(state["seed"])
        self.step_number = int(state["step_number"])
        self.images_seen = int(state["images_seen"])


class EqualityCheck(Callback):
    """Compares the processes every `interval` images and at the end: place it before what saves then."""

    every_rank = True

    def __init__(self, interval: int) -> None:
        self.interval = interval
        self._next = 0

    def on_start(self, trainer: Trainer) -> None:
        self._next = (trainer.images_seen // self.interval + 1) * self.interval

    def on_step(self, trainer: Trainer, losses: dict[str, float]) -> None:
        if trainer.images_seen >= self._next:
            self._next = (trainer.images_seen // self.interval + 1) * self.interval
            trainer.check_ranks()

    def on_end(self, trainer: Trainer) -> None:
        trainer.check_ranks()
