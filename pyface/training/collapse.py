"""Notices a generator that makes the same pictures again and again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pyface.errors import ValueRangeError
from pyface.training.feed import Feed, to_float
from pyface.training.loop import Trainer
from pyface.training.phases import Images, as_spectra

__all__ = ["DiversityWatch", "diversity", "spread"]

SIDE = 16  # pixels at which pictures are compared: composition and colour count, fine grain does not


def spread(images: Images) -> float:
    """Mean distance of each image to its nearest neighbour in the batch, at 16 pixels a side.

    images: float [N, C, H, W] in [-1, 1], or such tensors by spectrum; N must be 2 or more. Distances are
    Euclidean. A batch that shows few pictures many times has a spread near 0, also when those few differ
    much, which a mean over all pairs would not show.
    """
    small = [_shrunk(t) for t in as_spectra(images).values()]
    flat = torch.cat(small, 1)
    if flat.shape[0] < 2:
        raise ValueRangeError(f"a spread needs 2 images or more; got {flat.shape[0]}.")
    distances = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")
    distances.fill_diagonal_(torch.inf)
    return float(distances.min(1).values.mean())


def _shrunk(images: Tensor) -> Tensor:
    side = (min(SIDE, images.shape[2]), min(SIDE, images.shape[3]))
    return F.adaptive_avg_pool2d(images.detach().clamp(-1, 1).float(), side).flatten(1)


def diversity(fakes: Images, reals: Images) -> float:
    """Spread of generated images as a share of that of as many real ones: about 1 is healthy, 0 is collapse.

    nan when the real images are all the same.
    """
    expected = spread(reals)
    return spread(fakes) / expected if expected > 0 else float("nan")


class DiversityWatch:
    """Measures `diversity` when statistics are written, and warns once when it stays low.

    generator: the network that is trained, without average. warn: called with the trainer and the text.
    Images are made from latents and labels that never change, so the value is a function of the weights.
    It warns after `patience` records in a row below `threshold`, and again only after a recovery (twice the
    threshold). With fewer than 4 real images nothing is measured.
    """

    def __init__(
        self,
        generator: Any,
        feed: Feed,
        warn: Callable[[Trainer, str], None],
        *,
        threshold: float = 0.2,
        patience: int = 3,
        images: int = 32,
        seed: int = 0,
    ) -> None:
        if not 0 < threshold < 1 or patience < 1 or images < 4:
            raise ValueRangeError(
                "a diversity watch needs a threshold between 0 and 1, a patience of 1 or more and 4 images "
                f"or more; got {threshold}, {patience} and {images}."
            )
        self.generator = generator
        self.warn = warn
        self.threshold = threshold
        self.patience = patience
        rng = torch.Generator().manual_seed(seed)
        count = min(images, len(feed.data))
        chosen = torch.randperm(len(feed.data), generator=rng)[:count]
        self.latents = torch.randn(count, generator.z_dim, generator=rng)
        self.labels = feed.data.labels[chosen]
        reals = {name: to_float(pixels) for name, pixels in feed.data.get(chosen.numpy()).items()}
        self.expected = spread(reals) if count >= 4 else 0.0
        self._low = 0
        self._warned = False

    def __call__(self, trainer: Trainer) -> dict[str, float]:
        """The column `diversity`; a source for `Statistics`."""
        if self.expected <= 0:
            return {}
        value = spread(self._fakes(trainer.device)) / self.expected
        self._judge(trainer, value)
        return {"diversity": round(value, 4)}

    @torch.no_grad()
    def _fakes(self, device: torch.device) -> Images:
        made: list[dict[str, Tensor]] = []
        for z, c in zip(self.latents.split(8), self.labels.split(8), strict=True):
            made.append(as_spectra(self.generator(z.to(device), c.to(device), noise_mode="const")))
        return {name: torch.cat([part[name] for part in made]) for name in made[0]}

    def _judge(self, trainer: Trainer, value: float) -> None:
        if value >= 2 * self.threshold:
            self._warned = False
        self._low = self._low + 1 if value < self.threshold else 0
        if self._low < self.patience or self._warned:
            return
        self._warned = True
        self.warn(
            trainer,
            f"the generator makes nearly the same pictures from different latents (diversity {value:.2f}, "
            f"below {self.threshold:g} for {self._low} records in a row; real images have 1). If the sheets "
            "show it too, the modes have collapsed: go back to a snapshot before it and raise --gamma, use "
            "more images, --mirror or --aug ada, or lower the learning rate.",
        )
