"""What one training step is made of: a batch, weighted loss terms, and the phases that minimise them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pyface.errors import ValueRangeError
from pyface.training.distributed import Ranks
from pyface.training.divergence import DivergenceError
from pyface.training.draws import Draws

__all__ = ["Batch", "Images", "LossTerm", "Phase", "adam", "as_spectra"]

# One spectrum: float32 [N, C, H, W] in [-1, 1]. Several: {spectrum: such a tensor}.
Images = Tensor | dict[str, Tensor]

EXPLODED = 1e8  # a loss beyond this is divergence, not learning
GRADIENT_LIMIT = 1e5  # infinite gradients become this (StyleGAN2-ADA, training loop)
PATIENCE = 16  # so many gradients in a row that are not finite are divergence


def as_spectra(images: Images) -> dict[str, Tensor]:
    """The images as a dictionary, whatever form they came in; a single tensor gets the key "vis"."""
    return images if isinstance(images, dict) else {"vis": images}


@dataclass
class Batch:
    """What the terms of a phase see: one micro-batch of one process.

    real: images of the training set, float32 in [-1, 1]; labels: float32 [N, c_dim] that belong to them;
    draws: the random numbers of this phase for these samples; label_of(draws): labels of training images
    drawn at random; ranks: the processes of the run; shared: values that the terms of one phase hand to each
    other (emptied before every phase).
    """

    real: Images
    labels: Tensor
    draws: Draws
    label_of: Callable[[Draws], Tensor]
    ranks: Ranks = field(default_factory=Ranks)
    shared: dict[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Number of images."""
        return next(iter(as_spectra(self.real).values())).shape[0]


@dataclass(frozen=True)
class LossTerm:
    """A named scalar loss and its weight."""

    name: str
    function: Callable[[Batch], Tensor]
    weight: float = 1.0


@dataclass
class Phase:
    """Parameters, the loss they minimise, and how often.

    A phase with `interval` n runs at every n-th step and counts n times ("lazy" regularisation, Karras et al.
    2020, appendix B). Phases of the same network share one optimiser object. `start` images are seen before
    the phase begins, which lets a new discriminator catch up before a finished generator moves.
    """

    name: str
    parameters: Sequence[nn.Parameter]
    terms: Sequence[LossTerm]
    optimizer: torch.optim.Optimizer
    interval: int = 1
    start: int = 0
    bad_gradients: int = field(default=0, init=False)  # how many in a row were not finite
    not_finite_gradient_seen: nn.Parameter | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.interval < 1:
            raise ValueRangeError(f"interval of phase {self.name!r} must be 1 or more; got {self.interval}.")
        self.parameters = list(self.parameters)
        if not self.parameters:
            raise ValueRangeError(
                f"phase {self.name!r} has no parameters to train; unfreeze some or drop the phase."
            )

    def due(self, step: int, images: int) -> bool:
        """Whether the phase runs at this step."""
        return step % self.interval == 0 and images >= self.start

    def run(
        self,
        batches: Sequence[Batch],
        step: int,
        ranks: Ranks | None = None,
        statistics: Sequence[Tensor] = (),
    ) -> dict[str, float]:
        """One optimiser step on the mean gradient of the micro-batches of all processes.

        statistics: buffers that networks and losses move (running means). Every micro-batch finds them as
        they were before the phase; afterwards they have moved by the mean of what each did to them.

        Returns the unweighted mean of every term. Raises DivergenceError, naming the phase, the term and the
        step, when a loss is not finite or has exploded, or when gradients were not finite for PATIENCE times
        in a row; the weights are then as they were before the step. Single gradients that are not finite are
        limited.
        """
        ranks = ranks or Ranks()
        values = self.gradients(batches, statistics)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        ranks.average([*gradients, values])
        *numbers, norm = [*values.tolist(), float(torch.nn.utils.get_total_norm(gradients))]
        self._refuse_divergence(numbers, step)
        self._count_bad_gradients(norm, step)
        for gradient in gradients:
            torch.nan_to_num(gradient, nan=0.0, posinf=GRADIENT_LIMIT, neginf=-GRADIENT_LIMIT, out=gradient)
        self.optimizer.step()
        return {term.name: number for term, number in zip(self.terms, numbers, strict=True)}

    def gradients(self, batches: Sequence[Batch], statistics: Sequence[Tensor] = ()) -> Tensor:
        """Leave the mean gradient of these micro-batches in the parameters; gives the unweighted terms,
        float64 [terms]. statistics: see `run`."""
        self.optimizer.zero_grad(set_to_none=True)
        moving = _MeanMove(statistics if len(batches) > 1 else ())
        rounds = []
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        try:
            for batch in batches:
                rounds.append(self._accumulate(batch, len(batches)))
                moving.end_round()
        finally:
            for parameter in self.parameters:
                parameter.requires_grad_(False)
        moving.apply(len(batches))
        return torch.stack(rounds).mean(0)

    def not_finite_gradient(self) -> nn.Parameter | None:
        """The first parameter whose gradient is not finite now."""
        for parameter in self.parameters:
            if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
                return parameter
        return None

    def _accumulate(self, batch: Batch, rounds: int) -> Tensor:
        """Add the gradient of one micro-batch; gives the unweighted terms, float64 [terms]."""
        batch.shared.clear()
        try:
            values = [term.function(batch) for term in self.terms]
            weighted = [v * t.weight for v, t in zip(values, self.terms, strict=True)]
            (torch.stack(weighted).sum() * (self.interval / rounds)).backward()
        finally:
            batch.shared.clear()
        return torch.stack([value.detach().double() for value in values])

    def _refuse_divergence(self, numbers: Iterable[float], step: int) -> None:
        for term, number in zip(self.terms, numbers, strict=True):
            if not abs(number * term.weight) < EXPLODED:  # also true for nan
                raise DivergenceError(
                    f"training diverged: loss {term.name!r} of phase {self.name!r} is {number:g} "
                    f"at step {step}"
                )

    def _count_bad_gradients(self, norm: float, step: int) -> None:
        if math.isfinite(norm):
            self.bad_gradients = 0
            return
        self.bad_gradients += 1
        self.not_finite_gradient_seen = self.not_finite_gradient()
        if self.bad_gradients >= PATIENCE:
            raise DivergenceError(
                f"training diverged: gradients of phase {self.name!r} were not finite for {PATIENCE} times "
                f"in a row, at step {step}"
            )


class _MeanMove:
    """Buffers that each of several micro-batches moves from the same start; then the mean of the moves."""

    def __init__(self, buffers: Sequence[Tensor]) -> None:
        self._starts = [(buffer, buffer._version, buffer.detach().clone()) for buffer in buffers]
        self._moves: dict[int, Tensor] = {}

    @torch.no_grad()
    def end_round(self) -> None:
        """Note how far the buffers have moved, and put them back."""
        for index, (buffer, version, start) in enumerate(self._starts):
            if buffer._version != version:
                move = buffer - start
                self._moves[index] = self._moves[index] + move if index in self._moves else move
                buffer.copy_(start)

    @torch.no_grad()
    def apply(self, rounds: int) -> None:
        """Move the buffers by the mean over the rounds."""
        for index, move in self._moves.items():
            buffer, _, start = self._starts[index]
            buffer.copy_(start + move / rounds)


def adam(
    parameters: Iterable[nn.Parameter], lr: float, betas: tuple[float, float], interval: float = 0
) -> torch.optim.Adam:
    """Adam for a network whose lazy regulariser runs every `interval` steps (0: it has none).

    The learning rate and the exponents of the moments are scaled by interval / (interval + 1), since the
    optimiser then steps interval + 1 times in interval steps (Karras et al. 2020, appendix B).
    """
    ratio = interval / (interval + 1) if interval else 1.0
    found = list(parameters)
    return torch.optim.Adam(
        found,
        lr=lr * ratio,
        betas=(float(betas[0]) ** ratio, float(betas[1]) ** ratio),
        eps=1e-8,
        fused=all(p.dtype in (torch.float32, torch.float64) for p in found),
    )
