"""A discriminator against a generator: the loss terms of both sides, whatever loss and networks they have."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pyface.training.losses import adversarial
from pyface.training.phases import Batch, Images, LossTerm, Phase, adam
from pyface.training.regularizers import interpolate, r1_penalty, r2_penalty, watched, wgan_gp

__all__ = ["Adversary", "lazy_phases"]


class Adversary:
    """The terms of one discriminator and of the generator that it judges, as functions of a batch.

    discriminate(images, labels, batch): logits [N, ...]. generated(batch), real(batch): images and the labels
    they show; generated images are made with gradient where torch records one. A paired loss compares sample
    i of both, which should then have the same label. loss: a name of `losses.ADVERSARIAL`. suffix: added to
    the names of the terms. observe: gets the logits of real images, for a paired loss what they have more
    than the generated ones; they are not to be changed.
    """

    def __init__(
        self,
        discriminate: Callable[[Images, Tensor, Batch], Tensor],
        generated: Callable[[Batch], tuple[Images, Tensor]],
        real: Callable[[Batch], tuple[Images, Tensor]],
        loss: str = "logistic",
        suffix: str = "",
        observe: Callable[[Tensor], None] | None = None,
    ) -> None:
        self.discriminate = discriminate
        self.generated = generated
        self.real_images = real
        self.loss = adversarial(loss)
        self.suffix = suffix
        self.observe = observe

    def generator(self, batch: Batch) -> Tensor:
        """What the generator pays for being recognised."""
        logits = self.discriminate(*self.generated(batch), batch)
        if self.loss.paired_generator is not None:
            with torch.no_grad():
                real = self.discriminate(*self.real_images(batch), batch)
            return self.loss.paired_generator(logits, real)
        return _of(self.loss.generator)(logits)

    def fake(self, batch: Batch) -> Tensor:
        """What the discriminator pays for generated images."""
        with torch.no_grad():
            images, labels = self.generated(batch)
        return _of(self.loss.fake)(self.discriminate(images, labels, batch))

    def real(self, batch: Batch) -> Tensor:
        """What the discriminator pays for real images."""
        logits = self.discriminate(*self.real_images(batch), batch)
        if self.observe is not None:
            self.observe(logits.detach())
        return _of(self.loss.real)(logits)

    def pair(self, batch: Batch) -> Tensor:
        """What the discriminator pays for pairs of a real and a generated image."""
        with torch.no_grad():
            images, labels = self.generated(batch)
        fake = self.discriminate(images, labels, batch)
        real = self.discriminate(*self.real_images(batch), batch)
        if self.observe is not None:
            self.observe((real - fake).detach())
        return _of(self.loss.paired_discriminator)(real, fake)

    def r1(self, batch: Batch) -> Tensor:
        """Half the mean squared gradient of the logits at real images."""
        images, labels = self.real_images(batch)
        seen = watched(images)
        return r1_penalty(seen, _one(self.discriminate(seen, labels, batch))).mean() / 2

    def r2(self, batch: Batch) -> Tensor:
        """Half the mean squared gradient of the logits at generated images."""
        with torch.no_grad():
            images, labels = self.generated(batch)
        seen = watched(images)
        return r2_penalty(seen, _one(self.discriminate(seen, labels, batch))).mean() / 2

    def gradient_penalty(self, batch: Batch) -> Tensor:
        """Mean squared distance of the gradient's norm to 1, between real and generated images (WGAN-GP)."""
        with torch.no_grad():
            fake, _ = self.generated(batch)
        real, labels = self.real_images(batch)
        seen = interpolate(real, fake, batch.draws.uniform())
        return wgan_gp(seen, _one(self.discriminate(seen, labels, batch))).mean()

    def generator_terms(self, weight: float = 1.0) -> list[LossTerm]:
        """The adversarial term of the generator."""
        return [LossTerm(f"adversarial{self.suffix}", self.generator, weight)]

    def discriminator_terms(self) -> list[LossTerm]:
        """The terms of the discriminator: "fake" and "real", or "pair"."""
        if self.loss.paired:
            return [LossTerm(f"pair{self.suffix}", self.pair)]
        return [LossTerm(f"fake{self.suffix}", self.fake), LossTerm(f"real{self.suffix}", self.real)]

    def penalties(
        self,
        r1: tuple[int, float] = (0, 0.0),
        r2: tuple[int, float] = (0, 0.0),
        gradient: tuple[int, float] = (0, 0.0),
    ) -> list[tuple[int, LossTerm]]:
        """(interval, term) of the penalties, each given as (interval, weight); interval 0 leaves one out."""
        found = (
            ("r1", self.r1, r1),
            ("r2", self.r2, r2),
            ("gradient_penalty", self.gradient_penalty, gradient),
        )
        return [
            (interval, LossTerm(f"{name}{self.suffix}", function, weight))
            for name, function, (interval, weight) in found
            if interval
        ]


def _of(function: Callable[..., Tensor] | None) -> Callable[..., Tensor]:
    if function is None:
        raise TypeError("a paired loss has no terms of single images; use pair")
    return function


def _one(logits: Tensor) -> Tensor:
    """One number for each sample: the mean over patches where there are several."""
    return logits.flatten(1).mean(1)


def lazy_phases(
    name: str,
    parameters: Sequence[nn.Parameter],
    terms: Sequence[LossTerm],
    lazy: Sequence[tuple[int, LossTerm]] = (),
    *,
    lr: float,
    betas: tuple[float, float] = (0.0, 0.99),
    start: int = 0,
) -> list[Phase]:
    """A phase of `terms` and one for each interval of the `lazy` terms, all with one Adam.

    lazy: (interval, term); those of interval 1 join the first phase. Other phases are named by their terms.
    The optimiser is slowed down for its additional steps, see `adam`.
    """
    groups: dict[int, list[LossTerm]] = {}
    for interval, term in lazy:
        groups.setdefault(interval, []).append(term)
    first = [*terms, *groups.pop(1, [])]
    effective = 1 / sum(1 / interval for interval in groups) if groups else 0
    optimizer = adam(parameters, lr, betas, effective)
    phases = [Phase(name, parameters, first, optimizer, start=start)]
    for interval, found in groups.items():
        label = " ".join(term.name for term in found)
        phases.append(Phase(label.replace("_", " "), parameters, found, optimizer, interval, start))
    return phases
