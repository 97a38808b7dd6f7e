"""A small network that reads conditions off images: it guides a generator in training, or judges it after."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyface.errors import ValueRangeError
from pyface.training.feed import Feed, TrainingSet, to_float
from pyface.training.loop import Trainer
from pyface.training.phases import Batch, Images, LossTerm, Phase, adam, as_spectra

__all__ = ["ConditionClassifier", "condition_loss", "predictions", "train_classifier"]


class ConditionClassifier(nn.Module):
    """Logits [N, conditions] of images [N, C, H, W]; a logit's sigmoid estimates the condition in [0, 1].

    One branch of strided convolutions sees the whole portrait, another the region of the mouth at full
    resolution: at 64 pixels a smile is a pixel or two at the corners of the lips. precision: "float32" or
    "bfloat16", of the convolutions.
    """

    def __init__(self, conditions: int, channels: int = 3, precision: str = "float32") -> None:
        super().__init__()
        if precision not in ("float32", "bfloat16"):
            raise ValueRangeError(f"precision must be float32 or bfloat16; got {precision!r}.")
        self.precision = precision
        self.mouth = _convolutions([channels, 24, 48, 64, 96, 96], [1, 2, 1, 2, 2])
        self.whole = _convolutions([channels, 16, 32, 64, 96], [2, 2, 2, 2])
        self.head = nn.Sequential(nn.Linear(2 * 96 * 16, 128), nn.LeakyReLU(0.1), nn.Linear(128, conditions))

    def forward(self, images: Images) -> Tensor:
        x = torch.cat(list(as_spectra(images).values()), 1).contiguous(memory_format=torch.channels_last)
        height, width = x.shape[2:]
        mouth = x[:, :, height * 7 // 16 : height * 15 // 16, width // 4 : width * 3 // 4]
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            features = [self.mouth(mouth), self.whole(x)]
        pooled = [F.adaptive_avg_pool2d(f.float(), 4).flatten(1) for f in features]
        logits: Tensor = self.head(torch.cat(pooled, 1))
        return logits


def _convolutions(channels: Sequence[int], strides: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for (before, after), stride in zip(itertools.pairwise(channels), strides, strict=True):
        layers += [nn.Conv2d(before, after, 3, stride=stride, padding=1), nn.GroupNorm(after // 8, after)]
        layers.append(nn.LeakyReLU(0.1))
    return nn.Sequential(*layers)


@dataclass(frozen=True)
class ClassifierRecipe:
    """How the classifier is trained.

    noise: standard deviation added to the images, so that it does not rely on faint traces that a generator
    could imitate without drawing the feature. mirror: half of the images are mirrored; not where a label has
    a side.
    """

    kimg: float = 120.0
    batch: int = 64
    lr: float = 0.002
    noise: float = 0.03
    mirror: bool = True
    seed: int = 0
    precision: str = "float32"


def train_classifier(
    data: TrainingSet,
    recipe: ClassifierRecipe | None = None,
    *,
    loss: Callable[[Tensor, Tensor], Tensor] = F.binary_cross_entropy_with_logits,
    progress: Callable[[int], None] | None = None,
) -> ConditionClassifier:
    """A classifier of the labels of `data`, trained by cross-entropy against labels in [0, 1].

    With another `loss` of outputs and labels [N, c_dim] it reads any numbers off images, such as
    `F.mse_loss`.
    """
    recipe = recipe or ClassifierRecipe()
    state = torch.get_rng_state()
    torch.manual_seed(recipe.seed)
    network = ConditionClassifier(data.labels.shape[1], sum(data.channels.values()), recipe.precision)
    torch.set_rng_state(state)
    parameters = list(network.parameters())

    def error(batch: Batch) -> Tensor:
        x = torch.cat(list(as_spectra(batch.real).values()), 1)
        noise = batch.draws.noise(x.shape)
        return loss(network(x + recipe.noise * noise), batch.labels)

    optimizer = adam(parameters, recipe.lr, (0.9, 0.99))
    total = int(recipe.kimg * 1000)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(total // recipe.batch, 1))
    phase = Phase("classifier", parameters, [LossTerm("error", error)], optimizer)
    feed = Feed(data, recipe.batch, seed=recipe.seed, mirror=recipe.mirror)
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
