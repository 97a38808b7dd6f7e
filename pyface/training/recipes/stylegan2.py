"""StyleGAN2: lazy R1 and path length, style mixing, running average (Karras et al. 2020), and its relatives:
other adversarial losses and penalties, a second discriminator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from pyface.errors import ValueRangeError
from pyface.models import (
    PatchCritic,
    PatchCriticConfig,
    StyleGAN2Discriminator,
    StyleGAN2Generator,
    mix_styles,
)
from pyface.ops import downsample2d, setup_filter
from pyface.training.adversary import Adversary, lazy_phases
from pyface.training.augment import AugmentPipe
from pyface.training.augment_control import AdaptiveAugment
from pyface.training.configuration import from_plain
from pyface.training.distributed import Ranks
from pyface.training.draws import Draws
from pyface.training.ema import ExponentialAverage
from pyface.training.feed import Feed, TrainingSet
from pyface.training.loop import Trainer
from pyface.training.phases import Batch, Images, LossTerm, Phase, as_spectra
from pyface.training.recipes.stylegan2_config import StyleGAN2Recipe
from pyface.training.regularizers import PathLength
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
        second: nn.Module | None = None,
        augment: Callable[[Images, Draws], Images] | None = None,
        observe: Callable[[Tensor], None] | None = None,
    ) -> None:
        self.generator: Any = generator
        self.discriminator = discriminator
        self.recipe = recipe
        self.path_length = PathLength()
        self.augment = augment
        self.adversary = Adversary(self.discriminate, self.generated, self.real, recipe.loss, observe=observe)
        self.second_adversary: Adversary | None = None
        if second is not None:
            look = second_look(second)
            self.second_adversary = Adversary(
                lambda images, labels, batch: look(self.augmented(images, batch), labels),
                self.generated,
                self.real,
                recipe.loss,
                suffix="_2",
            )

    @property
    def _dtype(self) -> torch.dtype:
        """The type of the weights: float32, or float64 in a run that is checked."""
        found: torch.dtype = next(self.discriminator.parameters()).dtype
        return found

    def real(self, batch: Batch) -> tuple[Images, Tensor]:
        """Training images and their labels, in the precision of the weights."""
        images = {name: image.to(self._dtype) for name, image in as_spectra(batch.real).items()}
        return images if isinstance(batch.real, dict) else images["vis"], batch.labels.to(self._dtype)

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
            drawn = batch.labels if self.recipe.matched else batch.label_of(batch.draws)
            labels = drawn.to(self._dtype)
            batch.shared["generated"] = (
                self.synthesis(self.styles(labels, batch.draws), batch.draws),
                labels,
            )
        found: tuple[Images, Tensor] = batch.shared["generated"]
        return found

    def augmented(self, images: Images, batch: Batch) -> Images:
        """What a discriminator sees of images: augmented where the run has an augmentation."""
        return images if self.augment is None else self.augment(images, batch.draws)

    def discriminate(self, images: Images, labels: Tensor, batch: Batch) -> Tensor:
        """Logits [N, 1] of images, augmented where the run has an augmentation."""
        logits: Tensor = self.discriminator(self.augmented(images, batch), labels)
        return logits

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


def second_look(network: nn.Module) -> Callable[[Images, Tensor], Tensor]:
    """What a second discriminator says of full-size images: it sees them at its own resolution."""
    taps = setup_filter([1, 3, 3, 1])
    size = tuple(cast(Any, network).resolution)

    def look(images: Images, labels: Tensor) -> Tensor:
        seen = as_spectra(images)
        if tuple(next(iter(seen.values())).shape[2:]) != size:
            seen = {name: downsample2d(image, taps.to(image.device)) for name, image in seen.items()}
        logits: Tensor = network(seen if isinstance(images, dict) else seen["vis"], labels)
        return logits

    return look


@dataclass
class StyleGAN2Run:
    """A trainer and the parts of it that callers show or save."""

    trainer: Trainer
    generator: StyleGAN2Generator
    discriminator: StyleGAN2Discriminator
    average: ExponentialAverage
    recipe: StyleGAN2Recipe
    second: nn.Module | None = None

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
        if self.second is not None:
            targets["D2"] = self.second
        return transfer_run(targets, read_sources(source, discriminator, _networks))


def _networks(stored: dict[str, Any]) -> dict[str, nn.Module]:
    """The networks of a stored recipe, by their names in a resume file."""
    recipe = from_plain(StyleGAN2Recipe, stored)
    generator = StyleGAN2Generator(recipe.generator())
    average = StyleGAN2Generator(recipe.generator())
    found: dict[str, nn.Module] = {"G": generator, "G_ema": average}
    found["D"] = StyleGAN2Discriminator(recipe.discriminator())
    second = _second(recipe)
    return found if second is None else {**found, "D2": second}


def _second(recipe: StyleGAN2Recipe) -> nn.Module | None:
    config = recipe.second()
    if isinstance(config, PatchCriticConfig):
        return PatchCritic(config)
    return None if config is None else StyleGAN2Discriminator(config)


def _phases(
    recipe: StyleGAN2Recipe,
    losses: StyleGAN2Losses,
    second: nn.Module | None,
    image_losses: Sequence[tuple[str, float, ImageLoss]],
) -> list[Phase]:
    terms = losses.adversary.generator_terms()
    if losses.second_adversary is not None:
        terms += losses.second_adversary.generator_terms(recipe.second_weight)
    terms += [LossTerm(name, losses.on_images(loss), weight) for name, weight, loss in image_losses]
    length = LossTerm("path_length", losses.length, recipe.path_length_weight)
    phases = lazy_phases(
        "generator",
        list(losses.generator.parameters()),
        terms,
        [(recipe.path_length_interval, length)] if recipe.path_length_interval else [],
        lr=recipe.lr_generator,
        betas=recipe.betas,
        start=int(recipe.warmup_kimg * 1000),
    )
    share = 0.25 if recipe.second_discriminator == "half" else 1.0
    critics = [("discriminator", losses.discriminator, losses.adversary, 1.0)]
    if second is not None and losses.second_adversary is not None:
        critics.append(("second discriminator", second, losses.second_adversary, share))
    for name, network, adversary, seen in critics:
        phases += lazy_phases(
            name,
            [p for p in network.parameters() if p.requires_grad],
            adversary.discriminator_terms(),
            adversary.penalties(**recipe.penalties(seen)),
            lr=recipe.lr_discriminator,
            betas=recipe.betas,
        )
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


def _check_data(recipe: StyleGAN2Recipe, data: TrainingSet) -> None:
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
    _check_data(recipe, data)
    state = torch.get_rng_state()
    torch.manual_seed(recipe.seed)
    generator = StyleGAN2Generator(recipe.generator()).to(device).train()
    discriminator = StyleGAN2Discriminator(recipe.discriminator()).to(device).train()
    second = _second(recipe)
    second = second if second is None else second.to(device).train()
    torch.set_rng_state(state)
    pipe, control = _augmentation(recipe, device)
    observe = control.observe if control else None
    losses = StyleGAN2Losses(generator, discriminator, recipe, second, augment=pipe, observe=observe)
    losses.path_length.to(device)
    phases = _phases(recipe, losses, second, image_losses)
    half_life = 1000 * (recipe.ema_kimg if recipe.ema_kimg is not None else recipe.batch * 10 / 32)
    average = ExponentialAverage(generator, half_life, recipe.ema_rampup)
    modules: dict[str, nn.Module] = {
        "G": generator,
        "D": discriminator,
        "G_ema": average.average,
        "path_length": losses.path_length,
    }
    if pipe is not None:
        modules["augment"] = control or pipe
    if second is not None:
        modules["D2"] = second
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
    return StyleGAN2Run(trainer, generator, discriminator, average, recipe, second)
