"""A small network that reads conditions off images: it guides a generator in training, or judges it after."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyface.training.feed import Feed, TrainingSet, to_float
from pyface.training.loop import Trainer
from pyface.training.phases import Batch, Images, LossTerm, Phase, adam, as_spectra

__all__ = ["ConditionClassifier", "condition_loss", "predictions", "train_classifier"]


class ConditionClassifier(nn.Module):
    """Logits [N, conditions] of images [N, C, H, W]; a logit's sigmoid estimates the condition in [0, 1].

    Five strided convolutions with group normalisation, mean over positions, one linear layer.
    """

    def __init__(self, conditions: int, channels: int = 3, width: int = 16) -> None:
        super().__init__()
        sizes = [channels, width, 2 * width, 4 * width, 8 * width, 8 * width]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(sizes):
            layers += [
                nn.Conv2d(before, after, 3, stride=2, padding=1),
                nn.GroupNorm(after // 8, after),
                nn.LeakyReLU(0.1),
            ]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(sizes[-1], conditions)

    def forward(self, images: Images) -> Tensor:
        x = torch.cat(list(as_spectra(images).values()), 1)
        logits: Tensor = self.head(self.features(x).mean((2, 3)))
        return logits


@dataclass(frozen=True)
class ClassifierRecipe:
    """How the classifier is trained.

    noise: standard deviation added to the images, so that it does not rely on faint traces that a generator
    could imitate without drawing the feature.
    """

    kimg: float = 60.0
    batch: int = 64
    lr: float = 0.002
    noise: float = 0.1
    seed: int = 0


def train_classifier(
    data: TrainingSet,
    recipe: ClassifierRecipe | None = None,
    *,
    progress: Callable[[int], None] | None = None,
) -> ConditionClassifier:
    """A classifier of the labels of `data`, trained by cross-entropy against labels in [0, 1]."""
    recipe = recipe or ClassifierRecipe()
    state = torch.get_rng_state()
    torch.manual_seed(recipe.seed)
    network = ConditionClassifier(data.labels.shape[1], sum(data.channels.values()))
    torch.set_rng_state(state)
    parameters = list(network.parameters())

    def error(batch: Batch) -> Tensor:
        x = torch.cat(list(as_spectra(batch.real).values()), 1)
        noise = torch.randn(x.shape, generator=batch.rng, device=x.device)
        return F.binary_cross_entropy_with_logits(network(x + recipe.noise * noise), batch.labels)

    optimizer = adam(parameters, recipe.lr, (0.9, 0.99))
    total = int(recipe.kimg * 1000)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(total // recipe.batch, 1))
    phase = Phase("classifier", parameters, [LossTerm("error", error)], optimizer)
    feed = Feed(data, recipe.batch, seed=recipe.seed, mirror=True)
    trainer = Trainer([phase], {"classifier": network}, feed, seed=recipe.seed)
    while trainer.images_seen < total:
        trainer.step()
        schedule.step()
        if progress:
            progress(trainer.images_seen)
    return network.eval()


def condition_loss(network: ConditionClassifier) -> Callable[[Images, Tensor], Tensor]:
    """A loss of images and the labels they should show: the cross-entropy of what `network` reads.

    As in Odena et al. 2017, "Conditional image synthesis with auxiliary classifier GANs", section 3. The
    entropy of the labels is subtracted, so that 0 means perfect agreement.
    """
    network.requires_grad_(False)

    def loss(images: Images, labels: Tensor) -> Tensor:
        p = labels.clamp(1e-4, 1 - 1e-4)
        entropy = -(p * p.log() + (1 - p) * (1 - p).log()).mean()
        return F.binary_cross_entropy_with_logits(network(images), p) - entropy

    return loss


@torch.inference_mode()
def predictions(network: ConditionClassifier, images: Tensor, batch: int = 256) -> Tensor:
    """Conditions [N, conditions] in [0, 1] read off uint8 images [N, C, H, W]."""
    return torch.cat([network(to_float(part)).sigmoid() for part in images.split(batch)])
