"""Images by seed. A seed means numpy.random.RandomState(seed).randn(1, z_dim), as users of StyleGAN2
expect."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyface.errors import ValueRangeError
from pyface.io.atomic import make_folder
from pyface.io.images import contact_sheet, to_uint8, write_image

__all__ = [
    "as_pixels",
    "images_of_seeds",
    "latents_of_seeds",
    "parse_numbers",
    "synthesis_options",
    "write_images",
]

MAX_NUMBERS = 10_000_000
LARGEST_SEED = 2**32 - 1  # of numpy's RandomState


def parse_numbers(text: str, name: str = "seeds", largest: int = LARGEST_SEED) -> list[int]:
    """[0, 1, 2, 100] of the text "0-2,100". Raises ValueRangeError for anything else."""
    found: list[int] = []
    for part in (p.strip() for p in text.split(",")):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last or last > largest:
            raise ValueRangeError(
                f"{name} must be numbers and ranges from 0 to {largest} such as 0-63,100; "
                f"got {part!r} in {text!r}."
            )
        if len(found) + last - first >= MAX_NUMBERS:
            raise ValueRangeError(f"{name} {text!r} are more than {MAX_NUMBERS}; ask for fewer at a time.")
        found.extend(range(first, last + 1))
    return found


def latents_of_seeds(seeds: Sequence[int], z_dim: int) -> Tensor:
    """z float32 [len(seeds), z_dim], each row numpy.random.RandomState(seed).randn(1, z_dim)."""
    rows = [np.random.RandomState(seed).randn(1, z_dim) for seed in seeds]
    return torch.from_numpy(np.concatenate(rows).astype(np.float32)) if rows else torch.zeros(0, z_dim)


def as_pixels(images: Tensor | dict[str, Tensor]) -> list[dict[str, np.ndarray]]:
    """One dictionary {spectrum: uint8 [H, W, C]} for each image of a generator's output."""
    spectra = images if isinstance(images, dict) else {"vis": images}
    pixels = {name: to_uint8(image) for name, image in spectra.items()}
    count = len(next(iter(pixels.values())))
    return [{name: image[i] for name, image in pixels.items()} for i in range(count)]


def synthesis_options(noise_mode: str, precision: str | None) -> dict[str, Any]:
    """What a generator's `synthesis` is called with; precision None leaves it to the network."""
    return {"noise_mode": noise_mode} | ({} if precision is None else {"precision": precision})


@torch.inference_mode()
def images_of_seeds(
    generator: Any,
    seeds: Sequence[int],
    c: Tensor | None = None,
    *,
    truncation_psi: float = 1.0,
    noise_mode: str = "const",
    batch: int = 16,
    device: str = "cpu",
    precision: str | None = None,
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """(seed, {spectrum: uint8 [H, W, C]}) for each seed.

    c: [c_dim] for all images or [len(seeds), c_dim]; zeros when absent. noise_mode "random" draws the noise
    of each batch from its first seed, so the same seeds and batch give the same images. precision: element
    type of the synthesis, "float32", "bfloat16" or "float16"; None: as the network is configured.
    """
    if c is None:
        c = torch.zeros(generator.c_dim)
    rows = c.expand(len(seeds), -1) if c.ndim == 1 else c
    for start in range(0, len(seeds), batch):
        part = seeds[start : start + batch]
        z = latents_of_seeds(part, generator.z_dim).to(device)
        options = synthesis_options(noise_mode, precision)
        if noise_mode == "random":
            options["generator"] = torch.Generator(device).manual_seed(part[0])
        ws = generator.mapping(z, rows[start : start + batch].to(device), truncation_psi=truncation_psi)
        yield from zip(part, as_pixels(generator.synthesis(ws, **options)), strict=True)


def write_images(
    folder: Path,
    images: Iterator[tuple[int, dict[str, np.ndarray]]],
    *,
    grid: bool = False,
    suffix: str = ".png",
) -> list[Path]:
    """Write `seed000123.png` for each image (`seed000123-nir.png` for a further spectrum), or one `grid.png`
    of all.

    Returns the files. Each is complete or absent.
    """
    make_folder(folder)
    written: list[Path] = []
    tiles: dict[str, list[np.ndarray]] = {}
    for seed, spectra in images:
        for name, pixels in spectra.items():
            if grid:
                tiles.setdefault(name, []).append(pixels)
                continue
            label = "" if name == "vis" or len(spectra) == 1 else f"-{name}"
            written.append(folder / f"seed{seed:06d}{label}{suffix}")
            write_image(written[-1], pixels)
    for name, pictures in tiles.items():
        label = "" if name == "vis" or len(tiles) == 1 else f"-{name}"
        written.append(folder / f"grid{label}.png")
        contact_sheet(pictures, gap=0, path=written[-1])
    return written
