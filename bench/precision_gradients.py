"""How far bfloat16 gradients are from float32 ones: of both networks, R1 and path length.

`python bench/precision_gradients.py [--resolution 64] [--batch 4]`: random weights, one table on the screen.
Relative error is the norm of the difference by the norm of the float32 gradient, over all weights together;
"cosine" is the angle between the two; "worst layer" is the largest error of a single parameter.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pyface.models import StyleGAN2Discriminator, StyleGAN2Generator
from pyface.training.draws import Draws, Rows
from pyface.training.losses import logistic_generator, logistic_real
from pyface.training.recipes.stylegan2 import StyleGAN2Recipe
from pyface.training.regularizers import PathLength, r1_penalty

PRECISIONS = ("float32", "bfloat16")


def weight_gradients(loss: Tensor, network: nn.Module) -> list[Tensor]:
    """Gradients of `loss` for every parameter of `network`; zeros where there is none."""
    parameters = list(network.parameters())
    found = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=False)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def losses(resolution: int, batch: int, precision: str) -> dict[str, tuple[float, list[Tensor]]]:
    """Value and weight gradients of each loss, with weights and inputs that depend on the seed alone."""
    recipe = StyleGAN2Recipe(resolution=(resolution, resolution), batch=batch, precision=precision)
    torch.manual_seed(0)
    generator = StyleGAN2Generator(recipe.generator())
    discriminator = StyleGAN2Discriminator(recipe.discriminator())
    draws = Draws((0, 0, 0), Rows(torch.arange(batch), batch))
    real = draws.uniform(3, resolution, resolution) * 2 - 1
    z = draws.normal(recipe.z_dim)

    def images(ws: Tensor) -> Tensor:
        made: Any = generator.synthesis(ws, noise_mode="const")
        found: Tensor = made
        return found

    def r1() -> Tensor:
        seen = real.clone().requires_grad_(True)
        return r1_penalty(seen, discriminator(seen)).mean() / 2

    def path_length() -> Tensor:
        ws = generator.mapping(z)
        lengths = PathLength().lengths(
            images(ws), ws, draws=Draws((0, 0, 1), Rows(torch.arange(batch), batch))
        )
        return lengths.square().mean()

    terms: dict[str, tuple[Callable[[], Tensor], nn.Module]] = {
        "Gmain": (lambda: logistic_generator(discriminator(images(generator.mapping(z)))), generator),
        "Gpl": (path_length, generator),
        "Dmain (real)": (lambda: logistic_real(discriminator(real)), discriminator),
        "Dr1": (r1, discriminator),
    }
    found = {}
    for name, (term, network) in terms.items():
        value = term()
        found[name] = (float(value.detach()), weight_gradients(value, network))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Relative error of bfloat16 gradients, on random weights.")
    parser.add_argument("--resolution", type=int, default=64, help="height and width of the images (64)")
    parser.add_argument("--batch", type=int, default=4, help="images (4)")
    options = parser.parse_args()
    full, half = (losses(options.resolution, options.batch, precision) for precision in PRECISIONS)
    print("| loss | float32 | bfloat16 | relative error of gradient | cosine | worst layer | finite |")
    print("|---|---|---|---|---|---|---|")
    for name, (value, gradients) in full.items():
        other_value, others = half[name]
        a = torch.cat([g.flatten() for g in gradients]).double()
        b = torch.cat([g.flatten() for g in others]).double()
        floor = 1e-6 * float(a.norm())
        worst = max(
            float((g - o).norm() / g.norm())
            for g, o in zip(gradients, others, strict=True)
            if float(g.norm()) > floor
        )
        error, cosine = float((a - b).norm() / a.norm()), float(a @ b / (a.norm() * b.norm()))
        cells = [f"{value:.5g}", f"{other_value:.5g}", f"{error:.3g}", f"{cosine:.6f}", f"{worst:.3g}"]
        print(f"| {name} | {' | '.join(cells)} | {bool(b.isfinite().all())} |")


if __name__ == "__main__":
    main()
