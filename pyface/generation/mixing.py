"""Style-mixing sheets: the layout of one face with the styles of another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyface.errors import ValueRangeError
from pyface.generation.images import as_pixels, latents_of_seeds, synthesis_options
from pyface.io.images import contact_sheet

__all__ = ["mixed_styles", "style_mixing_sheet"]


def mixed_styles(row: Tensor, column: Tensor, styles: Sequence[int]) -> Tensor:
    """ws [num_ws, w_dim] of `row` with the entries `styles` taken from `column`.

    Source: Karras et al. 2019, "A style-based generator architecture", figure 3.
    """
    outside = [layer for layer in styles if not 0 <= layer < row.shape[0]]
    if outside:
        raise ValueRangeError(
            f"styles must be from 0 to {row.shape[0] - 1} for this generator; got {outside}."
        )
    mixed = row.clone()
    mixed[list(styles)] = column[list(styles)]
    return mixed


@torch.inference_mode()
def style_mixing_sheet(
    generator: Any,
    rows: Sequence[int],
    columns: Sequence[int],
    styles: Sequence[int],
    c: Tensor | None = None,
    *,
    truncation_psi: float = 1.0,
    noise_mode: str = "const",
    batch: int = 16,
    device: str = "cpu",
    precision: str | None = None,
) -> np.ndarray:
    """A uint8 sheet [H, W, 3]: row seeds down the left, column seeds along the top, mixtures inside.

    A mixture is the row's face with the layers `styles` from the column's. The first spectrum is shown.
    precision: as in `images_of_seeds`.
    """
    seeds = [*rows, *columns]
    z = latents_of_seeds(seeds, generator.z_dim).to(device)
    labels = torch.zeros(generator.c_dim) if c is None else c
    own = generator.mapping(z, labels.to(device).expand(len(seeds), -1), truncation_psi=truncation_psi)
    row_ws, column_ws = own[: len(rows)], own[len(rows) :]
    options = synthesis_options(noise_mode, precision)
    mixtures = [mixed_styles(r, k, styles) for r in row_ws for k in column_ws]
    ws = torch.cat([own, torch.stack(mixtures)])
    tiles = [
        next(iter(pixels.values()))
        for part in ws.split(batch)
        for pixels in as_pixels(generator.synthesis(part, **options))
    ]
    shown = [np.full_like(tiles[0], 255), *tiles[len(rows) : len(seeds)]]
    for i in range(len(rows)):
        first = len(seeds) + i * len(columns)
        shown += [tiles[i], *tiles[first : first + len(columns)]]
    return contact_sheet(shown, columns=len(columns) + 1, gap=0)
