"""StyleGAN2: logistic loss, lazy R1 and path length, style mixing, running average (Karras et al. 2020)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyface.errors import ValueRangeError
from pyface.models import (
    StyleGAN2Discriminator,
    StyleGAN2Generator,
    mix_styles,
)
from pyface.training.augment import AugmentPipe
from pyface.training.augment_control import AdaptiveAugment
from pyface.training.configuration import from_plain
from pyface.training.distributed import Ranks
from pyface.training.draws import Draws
from pyface.training.ema import ExponentialAverage
from pyface.training.feed import Feed, TrainingSet
from pyface.training.loop import Trainer
from pyface.training.losses import logistic_fake, logistic_generator, logistic_real
from pyface.training.phases import Batch, Images, LossTerm, Phase, adam, as_spectra
from pyface.training.recipes.stylegan2_config import StyleGAN2Recipe
from pyface.training.regularizers import PathLength, r1_penalty
from pyface.training.transfer import TransferReport, read_sources, transfer_run

__all__ = ["StyleGAN2Losses", "StyleGAN2Recipe", "StyleGAN2Run", "build"]

# A loss on generated images and the labels they were made for, float scalar.
ImageLoss = Callable[[Images, Tensor], Tensor]


class StyleGAN2Losses:
    """The loss terms of StyleGAN2, each a function of the batch."""

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        recipe: StyleGAN2Recipe,
        augment: Callable[[Images, Draws], Images] | None = None,
        observe: Callable[[Tensor], None] | None = None,
    ) -> None:
        self.generator: Any = generator
        self.discriminator = discriminator
        self.recipe = recipe
        self.path_length = PathLength()
        self.augment = augment
        self.observe = observe

    @property
    def _dtype(self) -> torch.dtype:
        """The type of the weights: float32, or float64 in a run that is checked."""
        found: torch.dtype = next(self.discriminator.parameters()).dtype
        return found

    def _real(self, batch: Batch) -> Images:
        if isinstance(batch.real, dict):
            return {name: image.to(self._dtype) for name, image in batch.real.items()}
        return batch.real.to(self._dtype)

    def latents(self, draws: Draws) -> Tensor:
        """Standard normal z [n, z_dim], in the precision of the network."""
        return draws.normal(self.generator.z_dim).to(self._dtype)

    def styles(self, labels: Tensor, draws: Draws) -> Tensor:
        """ws [N, num_ws, w_dim] of random latents; a share `style_mixing` of samples takes its later layers
        from another latent."""
        ws: Tensor = self.generator.mapping(self.latents(draws), labels, update_w_avg=True)
        if self.recipe.style_mixing > 0 and ws.shape[1] > 1:
            other: Tensor = self.generator.mapping(self.latents(draws), labels)
            chosen = draws.integers(ws.shape[1], low=1)
            mixed = draws.uniform() < self.recipe.style_mixing
            ws = mix_styles(ws, other, torch.where(mixed, chosen, ws.shape[1]))
        return ws

    def synthesis(self, ws: Tensor, draws: Draws) -> Images:
        """Images of ws, with noise that belongs to the samples."""
        noise = {
            name: draws.normal(1, *size) for name, size in self.generator.synthesis.noise_shapes().items()
        }
        images: Images = self.generator.synthesis(ws, noise_mode="given", noise=noise)
        return images

    def generated(self, batch: Batch) -> tuple[Images, Tensor]:
        """Images of random latents and the labels they were made for; one set per phase."""
        if "generated" not in batch.shared:
            labels = batch.label_of(batch.draws).to(self._dtype)
            batch.shared["generated"] = (
                self.synthesis(self.styles(labels, batch.draws), batch.draws),
                labels,
            )
        found: tuple[Images, Tensor] = batch.shared["generated"]
        return found

    def discriminate(self, images: Images, labels: Tensor, batch: Batch) -> Tensor:
        """Logits [N, 1] of images, augmented where the run has an augmentation."""
        if self.augment is not None:
            images = self.augment(images, batch.draws)
        logits: Tensor = self.discriminator(images, labels)
        return logits

    def adversarial(self, batch: Batch) -> Tensor:
        """What the generator pays for being recognised."""
        return logistic_generator(self.discriminate(*self.generated(batch), batch))

    def on_images(self, loss: ImageLoss) -> Callable[[Batch], Tensor]:
        """A term of the generator that sees the same images as the adversarial one."""
        return lambda batch: loss(*self.generated(batch))

    def length(self, batch: Batch) -> Tensor:
        """Path-length penalty on a share of the batch."""
        draws = batch.draws.shrunk(self.recipe.path_length_batch_shrink)
        ws = self.styles(batch.label_of(draws).to(self._dtype), draws)
        images = self.synthesis(ws, draws)
        lengths = self.path_length.lengths(images, ws, draws=draws)
        return self.path_length(lengths, batch.ranks).mean()

    def fake(self, batch: Batch) -> Tensor:
        """What the discriminator pays for generated images."""
        with torch.no_grad():
            images, labels = self.generated(batch)
        return logistic_fake(self.discriminate(images, labels, batch))

    def real(self, batch: Batch) -> Tensor:
        """What the discriminator pays for real images."""
        logits = self.discriminate(self._real(batch), batch.labels.to(self._dtype), batch)
        if self.observe is not None:
            self.observe(logits.detach())
        return logistic_real(logits)

    def r1(self, batch: Batch) -> Tensor:
        """Half the mean squared gradient of the logits at real images."""
        real = self._real(batch)
        seen = {name: image.detach().requires_grad_(True) for name, image in as_spectra(real).items()}
        images: Images = seen if isinstance(real, dict) else seen["vis"]
        logits = self.discriminate(images, batch.labels.to(self._dtype), batch)
        return r1_penalty(images, logits).mean() / 2


@dataclass
class StyleGAN2Run:
    """A trainer and the parts of it that callers show or save."""

    trainer: Trainer
    generator: StyleGAN2Generator
    discriminator: StyleGAN2Discriminator
    average: ExponentialAverage
    recipe: StyleGAN2Recipe

    @property
    def saved(self) -> nn.Module:
        """The network in snapshots: the average."""
        return self.average.average

    def start_from(self, source: Path, discriminator: Path | None = None) -> TransferReport:
        """Begin with finished networks, also of other sizes: fine-tuning, transfer (`transfer.read_sources`
        says what `source` may be). For a run that has not begun.

        Raises CheckpointError for a file that cannot be used.
        """
        targets: dict[str, nn.Module] = {"G": self.generator, "G_ema": self.average.average}
        targets["D"] = self.discriminator
        return transfer_run(targets, read_sources(source, discriminator, _networks))


def _networks(stored: dict[str, Any]) -> dict[str, nn.Module]:
    """The networks of a stored recipe, by their names in a resume file."""
    recipe = from_plain(StyleGAN2Recipe, stored)
    generator = StyleGAN2Generator(recipe.generator())
    average = StyleGAN2Generator(recipe.generator())
    return {"G": generator, "G_ema": average, "D": StyleGAN2Discriminator(recipe.discriminator())}


def _phases(
    recipe: StyleGAN2Recipe, losses: StyleGAN2Losses, image_losses: Sequence[tuple[str, float, ImageLoss]]
) -> list[Phase]:
    generator = list(losses.generator.parameters())
    discriminator = [p for p in losses.discriminator.parameters() if p.requires_grad]
    g_adam = adam(generator, recipe.lr_generator, recipe.betas, recipe.path_length_interval)
    d_adam = adam(discriminator, recipe.lr_discriminator, recipe.betas, recipe.r1_interval)
    start = int(recipe.warmup_kimg * 1000)
    terms = [LossTerm("adversarial", losses.adversarial)]
    terms += [LossTerm(name, losses.on_images(loss), weight) for name, weight, loss in image_losses]
    phases = [Phase("generator", generator, terms, g_adam, start=start)]
    if recipe.path_length_interval:
        length = LossTerm("path_length", losses.length, recipe.path_length_weight)
        phases.append(Phase("path length", generator, [length], g_adam, recipe.path_length_interval, start))
    phases.append(
        Phase(
            "discriminator",
            discriminator,
            [LossTerm("fake", losses.fake), LossTerm("real", losses.real)],
            d_adam,
        )
    )
    if recipe.r1_interval:
        r1 = LossTerm("r1", losses.r1, recipe.r1_gamma)
        phases.append(Phase("r1", discriminator, [r1], d_adam, recipe.r1_interval))
    return phases


def _augmentation(
    recipe: StyleGAN2Recipe, device: torch.device | str
) -> tuple[AugmentPipe | None, AdaptiveAugment | None]:
    """The recipe's augmentation and what moves its probability."""
    if recipe.augment == "none":
        return None, None
    pipe = AugmentPipe(recipe.augment_set, recipe.augment_p).to(device)
    if recipe.augment == "fixed":
        return pipe, None
    control = AdaptiveAugment(
        pipe, target=recipe.ada_target, kimg=recipe.ada_kimg or 500.0, interval=recipe.ada_interval
    )
    return pipe, control.to(device)


def build(
    recipe: StyleGAN2Recipe,
    data: TrainingSet,
    *,
    device: torch.device | str = "cpu",
    image_losses: Sequence[tuple[str, float, ImageLoss]] = (),
    ranks: Ranks | None = None,
    rounds: int = 1,
) -> StyleGAN2Run:
    """Networks with weights from the recipe's seed, and the trainer that trains them on `data`.

    image_losses: further (name, weight, loss of images and labels) for the generator. ranks: the processes of
    the run; rounds: micro-batches in which each takes its part of a batch (gradient accumulation).
    Raises ValueRangeError when data and recipe do not fit.
    """
    if data.labels.shape[1] != len(recipe.conditions):
        raise ValueRangeError(
            f"{data.source} gives {data.labels.shape[1]} labels for each image; the recipe has "
            f"{len(recipe.conditions)} conditions ({', '.join(recipe.conditions) or 'none'})."
        )
    if tuple(data.size) != tuple(recipe.resolution) or data.channels != recipe.spectra:
        raise ValueRangeError(
            f"{data.source} has images {data.channels} of {data.size}; the recipe is for {recipe.spectra} of "
            f"{tuple(recipe.resolution)}."
        )
    state = torch.get_rng_state()
    torch.manual_seed(recipe.seed)
    generator = StyleGAN2Generator(recipe.generator()).to(device).train()
    discriminator = StyleGAN2Discriminator(recipe.discriminator()).to(device).train()
    torch.set_rng_state(state)
    pipe, control = _augmentation(recipe, device)
    observe = control.observe if control else None
    losses = StyleGAN2Losses(generator, discriminator, recipe, pipe, observe)
    losses.path_length.to(device)
    phases = _phases(recipe, losses, image_losses)
    half_life = 1000 * (recipe.ema_kimg if recipe.ema_kimg is not None else recipe.batch * 10 / 32)
    average = ExponentialAverage(generator, half_life, recipe.ema_rampup)
    modules = {
        "G": generator,
        "D": discriminator,
        "G_ema": average.average,
        "path_length": losses.path_length,
    }
    if pipe is not None:
        modules["augment"] = control or pipe
    trainer = Trainer(
        phases,
        modules,
        Feed(data, recipe.batch, seed=recipe.seed, mirror=recipe.mirror),
        followers=[average, control] if control else [average],
        ranks=ranks,
        seed=recipe.seed,
        device=device,
        rounds=rounds,
        group=min(recipe.mbstd_group, recipe.batch),
    )
    return StyleGAN2Run(trainer, generator, discriminator, average, recipe)
