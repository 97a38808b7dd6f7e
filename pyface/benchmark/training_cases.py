"""A full training step of StyleGAN2, with both regularisers, against the same networks in plain torch.

Plain torch computes in float32, and by autocast in bfloat16. Each phase is timed by itself. A regulariser
that is due at every n-th step counts 1/n, as in "lazy" regularisation (Karras et al. 2020, appendix B).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pyface.benchmark.arithmetic import count_flops
from pyface.benchmark.case import EAGER, OURS, Case, Part, Variant, Workload, eager_form
from pyface.benchmark.plain_stylegan2 import plain_twin

__all__ = ["AUTOCAST", "PHASES", "PRECISIONS", "training_cases", "training_workload"]

PHASES = ("Gmain", "Gpl", "Dmain", "Dr1")
AUTOCAST = eager_form("autocast")
PRECISIONS = {OURS: "bfloat16", f"{OURS} float32": "float32"}
_SIZES = ((64, 8), (256, 2))  # (resolution, batch)


def training_cases() -> list[Case]:
    """A step at 64 and at 256 px with channel_base 16384: bfloat16 and float32, ours and plain."""
    return [
        Case(
            f"training step/{batch}x3x{side}x{side}", "training", "training step", f"{batch}x3x{side}x{side}",
            "bfloat16", "-", cold=False, rounds=2,
            build=lambda device, side=side, batch=batch: training_workload(side, batch, device),  # type: ignore[misc]
        )
        for side, batch in _SIZES
    ]  # fmt: skip


def training_workload(side: int, batch: int, device: str, **settings: Any) -> Workload:
    """The phases of a step of `batch` images of `side` px; settings: further fields of StyleGAN2Recipe.

    Freed memory is kept in the process for every variant alike, as `pyface train` does it.
    """
    from pyface.training.allocator import keep_freed_memory
    from pyface.training.recipes.stylegan2 import StyleGAN2Recipe

    keep_freed_memory()
    variants = {}
    for name, precision in PRECISIONS.items():
        recipe = StyleGAN2Recipe(resolution=(side, side), batch=batch, precision=precision, **settings)
        variants[name] = _variant(recipe, device, plain=False)
    variants[EAGER] = _variant(recipe, device, plain=True)
    variants[AUTOCAST] = _variant(recipe, device, plain=True, autocast=True)
    flops = sum(part.weight * count_flops(part.run) for part in variants[OURS].parts.values())
    return Workload(variants, flops=round(flops), items=batch)


def _variant(recipe: Any, device: str, plain: bool, autocast: bool = False) -> Variant:
    from pyface.models import StyleGAN2Discriminator, StyleGAN2Generator

    torch.manual_seed(0)
    generator: nn.Module = StyleGAN2Generator(recipe.generator()).to(device).train()
    discriminator: nn.Module = StyleGAN2Discriminator(recipe.discriminator()).to(device).train()
    if plain:
        generator, discriminator = plain_twin(generator), plain_twin(discriminator)
    generator.requires_grad_(False)
    discriminator.requires_grad_(False)
    runs = _phases(recipe, generator, discriminator, device)
    if autocast:
        runs = [_autocast(run, device) for run in runs]
    weights = (1.0, 1 / recipe.path_length_interval, 1.0, 1 / recipe.r1_interval)
    parts = {name: Part(run, weight) for name, run, weight in zip(PHASES, runs, weights, strict=True)}

    def step() -> None:
        for run in runs:
            run()

    return Variant(step, parts=parts)


def _autocast(run: Callable[[], None], device: str) -> Callable[[], None]:
    def cast() -> None:
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            run()

    return cast


def _phases(
    recipe: Any, generator: nn.Module, discriminator: nn.Module, device: str
) -> list[Callable[[], None]]:
    """The phases of the recipe on these networks, each with its backward pass and its optimiser step."""
    from pyface.training.draws import Draws, Rows
    from pyface.training.phases import Batch, LossTerm, Phase, adam
    from pyface.training.recipes.stylegan2 import StyleGAN2Losses

    losses = StyleGAN2Losses(generator, discriminator, recipe)
    losses.path_length.to(device)
    g, d = list(generator.parameters()), list(discriminator.parameters())
    g_adam = adam(g, recipe.lr_generator, recipe.betas, recipe.path_length_interval)
    d_adam = adam(d, recipe.lr_discriminator, recipe.betas, recipe.r1_interval)
    phases = (
        Phase("generator", g, [LossTerm("adversarial", losses.adversary.generator)], g_adam),
        Phase(
            "path length", g, [LossTerm("path_length", losses.length, recipe.path_length_weight)], g_adam,
            recipe.path_length_interval,
        ),
        Phase("discriminator", d, losses.adversary.discriminator_terms(), d_adam),
        Phase("r1", d, [LossTerm("r1", losses.adversary.r1, recipe.r1_gamma)], d_adam, recipe.r1_interval),
    )  # fmt: skip
    rows = Rows(torch.arange(recipe.batch), recipe.batch)
    real = Draws((0, 0, 0), rows, device).uniform(3, *recipe.resolution) * 2 - 1

    def no_labels(draws: Draws) -> Tensor:
        return torch.zeros(len(draws), 0, device=device)

    def runner(number: int, phase: Phase) -> Callable[[], None]:
        def run() -> None:
            draws = Draws((0, 1, number), rows, device)
            phase.run([Batch(real, no_labels(draws), draws, no_labels)], 0)

        return run

    return [runner(number, phase) for number, phase in enumerate(phases)]
