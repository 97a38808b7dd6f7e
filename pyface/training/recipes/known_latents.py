"""Renders whose latents are known: pairs that show a generator all that the renderer varies.

An adversary forgives a generator that draws little of the variety of its data. Rendered faces come with the
numbers that made them; turned into latents, they say what the generator is to draw for which z. A loss on
such pairs asks for it: coarsely pixel by pixel, and in what a network reads off the image, where a pixel says
little (an expression, a gaze). The adversary still sees to the details, on latents drawn at random.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyface.errors import ShapeError
from pyface.training.feed import Feed, TrainingSet, to_float
from pyface.training.loop import Trainer
from pyface.training.phases import Batch, LossTerm, Phase
from pyface.training.recipes.condition_classifier import (
    ClassifierRecipe,
    ConditionClassifier,
    train_classifier,
)

__all__ = ["KnownLatents", "PairWeights", "ParameterReader", "latents_of", "learn_pairs", "train_reader"]

_CLIP = 4.0  # standard deviations beyond which a parameter is not followed
_SMALLEST_VARIANCE = 0.05  # of whitened scores; what varies less is nearly a copy of others


def latents_of(parameters: Tensor, labels: Tensor, z_dim: int, seed: int = 0) -> Tensor:
    """Latents float32 [N, z_dim] that hold the parameters [N, P], as if drawn from a standard normal.

    Each parameter becomes the normal score of its rank (equal ones in random order), less what a quadratic
    of the labels [N, c] predicts, so that z and labels stay independent; the scores are whitened together.
    The z_dim - P latents that are left are random.

    Raises ShapeError when there are more parameters than latents.
    """
    if parameters.shape[1] > z_dim or len(parameters) != len(labels):
        raise ShapeError(
            f"latents [{len(labels)}, {z_dim}] cannot hold parameters {list(parameters.shape)}; z_dim "
            "must be at least their number, and there must be labels for each row."
        )
    random = torch.Generator().manual_seed(seed)
    c = labels.double()
    products = (c[:, :, None] * c[:, None, :]).flatten(1)
    design = torch.cat([torch.ones(len(c), 1, dtype=torch.float64), c, (c > 0.02).double(), products], 1)
    scores = _normal_scores(parameters.double(), random)
    for _ in range(2):
        scores = scores - design @ torch.linalg.lstsq(design, scores, driver="gelsd").solution
        scores = _normal_scores(scores, random)
    variances, axes = torch.linalg.eigh(torch.cov(scores.T))
    whitened = scores @ (axes / variances.clamp(min=_SMALLEST_VARIANCE).sqrt()) @ axes.T
    rest = torch.randn(len(c), z_dim - scores.shape[1], generator=random, dtype=torch.float64)
    return torch.cat([whitened, rest], 1).float()


def _normal_scores(columns: Tensor, random: torch.Generator) -> Tensor:
    """Each column by its ranks; equal numbers in an order that is random for each column."""
    ranks = torch.empty_like(columns)
    for column, found in zip(columns.T, ranks.T, strict=True):
        order = torch.randperm(len(column), generator=random)
        found[order[column[order].argsort(stable=True)]] = torch.arange(len(column), dtype=columns.dtype)
    return torch.special.ndtri((ranks + 0.5) / len(columns))


class ParameterReader(nn.Module):
    """Reads the parameters of renders off images, in standard deviations from their means.

    weights: float32 [P], how far each can be trusted: large where the image tells it, 0 where it does not.
    """

    weights: Tensor
    mean: Tensor
    deviation: Tensor

    def __init__(self, count: int, precision: str = "float32") -> None:
        super().__init__()
        self.network = ConditionClassifier(count, precision=precision)
        for name, start in (("weights", 1.0), ("mean", 0.0), ("deviation", 1.0)):
            self.register_buffer(name, torch.full([count], start))

    def targets(self, parameters: Tensor) -> Tensor:
        """Parameters [N, P] as the network reads them."""
        return ((parameters - self.mean) / self.deviation).clamp(-_CLIP, _CLIP).float()

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.network(images)
        return found


def train_reader(
    images: Tensor,
    parameters: Tensor,
    recipe: ClassifierRecipe | None = None,
    progress: Callable[[int], None] | None = None,
) -> ParameterReader:
    """A reader trained on uint8 images [N, 3, H, W] and the parameters [N, P] they were rendered from.

    The last tenth is held out: it says how far each parameter can be trusted. With R2, the share of its
    variance that is read there, the weight is R2 / (1.03 - R2), over the mean, at most 4.
    """
    recipe = recipe or ClassifierRecipe(kimg=160.0, lr=0.003, mirror=False)
    reader = ParameterReader(parameters.shape[1], recipe.precision)
    known = len(images) - max(len(images) // 10, 1)
    reader.mean.copy_(parameters[:known].mean(0))
    reader.deviation.copy_(parameters[:known].std(0).clamp(min=1e-6))
    targets = reader.targets(parameters)
    data = TrainingSet.from_arrays(images[:known], targets[:known])
    reader.network = train_classifier(data, recipe, loss=F.mse_loss, progress=progress)
    with torch.inference_mode():
        read = torch.cat([reader(to_float(part)) for part in images[known:].split(256)])
    wrong = (read - targets[known:]).square().mean(0)
    told = (1 - wrong / targets[known:].var(0).clamp(min=1e-6)).clamp(0, 0.97)
    weights = told / (1.03 - told)
    reader.weights.copy_((weights / weights.mean().clamp(min=1e-6)).clamp(max=4))
    return reader.eval().requires_grad_(False)


@dataclass(frozen=True)
class PairWeights:
    """What a pair costs: mean absolute difference of means over 4x4 pixels (coarse), over 2x2 pixels (fine)
    and of pixels, and the difference in what is read."""

    coarse: float = 20.0
    fine: float = 5.0
    pixels: float = 0.5
    reading: float = 8.0


@dataclass
class KnownLatents:
    """Renders uint8 [N, 3, H, W], their labels [N, c], latents [N, z_dim], and the targets [N, P] of `reader`
    (None: only pixels are compared)."""

    images: Tensor
    labels: Tensor
    latents: Tensor
    reader: ParameterReader | None = None
    targets: Tensor | None = None
    weights: PairWeights = PairWeights()
    noise: float = 0.03

    def loss(self, generator: Any, batch: Batch, share: int = 1) -> Tensor:
        """Mean cost of random pairs, as many as batch.size / share."""
        draws = batch.draws.shrunk(share) if share > 1 else batch.draws
        chosen = draws.integers(len(self.images)).cpu()
        real = to_float(self.images[chosen]).to(batch.labels.device)
        noise = {name: draws.normal(1, *size) for name, size in generator.synthesis.noise_shapes().items()}
        z, c = self.latents[chosen].to(real.device), self.labels[chosen].to(real.device)
        made = generator.synthesis(generator.mapping(z, c), noise_mode="given", noise=noise).float()
        w, difference = self.weights, made - real
        cost = w.coarse * F.avg_pool2d(difference, 4).abs().mean() + w.pixels * difference.abs().mean()
        cost = cost + w.fine * F.avg_pool2d(difference, 2).abs().mean()
        if self.reader is None or self.targets is None or not w.reading:
            return cost
        with torch.no_grad():
            wanted = (self.reader(real) + self.targets[chosen].to(real.device)) / 2
        read = self.reader(made + self.noise * draws.noise(made.shape))
        apart = F.smooth_l1_loss(read, wanted, reduction="none", beta=0.5)
        reading: Tensor = cost + w.reading * (self.reader.weights * apart).mean()
        return reading


def learn_pairs(
    generator: Any,
    pairs: KnownLatents,
    kimg: float,
    *,
    batch: int = 32,
    lr: float = 0.004,
    mapping_lr: float = 1.0,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Train a generator on the pairs alone, until its faces are right but blurred.

    The mapping network needs its own, much larger rate: its weights are stored 1 / lr_multiplier times as
    large.
    """
    parameters = {id(p): p for p in generator.parameters()}
    mapping = [parameters.pop(id(p)) for p in generator.mapping.parameters()]
    groups = [{"params": list(parameters.values()), "lr": lr}, {"params": mapping, "lr": mapping_lr}]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    total = int(kimg * 1000)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(total // batch, 1))
    term = LossTerm("pairs", lambda found: pairs.loss(generator, found))
    phase = Phase("pairs", list(generator.parameters()), [term], optimizer)
    data = TrainingSet.from_arrays(pairs.images, pairs.labels)
    trainer = Trainer([phase], {"generator": generator}, Feed(data, batch, seed=seed), seed=seed)
    while trainer.images_seen < total:
        trainer.step()
        schedule.step()
        if progress:
            progress(trainer.images_seen)
