"""A recipe of a few lines, as somebody outside the package would write it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from pyface.models import PatchCritic, PatchCriticConfig
from pyface.training import Feed, LossTerm, Trainer
from pyface.training.adversary import lazy_phases
from pyface.training.configuration import check_fields, plain, setting


@dataclass(frozen=True)
class ToyRecipe:
    resolution: tuple[int, int] = setting((32, 32), "height and width of the images")
    kimg: float = setting(1.0, "length of training, in 1000 images", above=0, changeable=True)
    batch: int = setting(4, "images in a step", least=1)
    strength: float = setting(1.0, "weight of the loss", least=0)
    seed: int = setting(0, "of weights and order", least=0)

    def __post_init__(self):
        check_fields(self)

    def plain(self):
        return plain(self)


@dataclass
class ToyRun:
    trainer: Trainer
    recipe: ToyRecipe
    saved: Any
    generator: Any = None

    def start_from(self, source: Path, discriminator: Path | None = None):
        raise NotImplementedError


def build(recipe, data, *, device="cpu", ranks=None, rounds=1):
    torch.manual_seed(recipe.seed)
    network = PatchCritic(
        PatchCriticConfig(recipe.resolution, data.channels, channel_base=128, channel_max=8)
    )

    def error(batch):
        return F.mse_loss(network(batch.real).mean((1, 2, 3)), batch.real.mean((1, 2, 3)))

    terms = [LossTerm("error", error, recipe.strength)]
    phases = lazy_phases("critic", list(network.parameters()), terms, lr=0.01)
    feed = Feed(data, recipe.batch, seed=recipe.seed)
    options = {"ranks": ranks, "rounds": rounds, "device": device, "seed": recipe.seed}
    return ToyRun(Trainer(phases, {"network": network}, feed, **options), recipe, network)
