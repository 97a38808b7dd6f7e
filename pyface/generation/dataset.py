"""A folder of generated images with their conditions as labels, in the layout that `ImageFolder` reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyface.errors import DataError, ValueRangeError
from pyface.generation.images import as_pixels, synthesis_options
from pyface.io.atomic import make_folder, write_text
from pyface.io.images import write_image
from pyface.io.rng import Domain, normals, uniforms

__all__ = ["draw_conditions", "draw_latents", "write_dataset"]

CARD = "card.json"


def draw_latents(seed: int, first: int, count: int, z_dim: int) -> torch.Tensor:
    """z float32 [count, z_dim] of images first, first + 1, ...; each depends on (seed, its number) alone."""
    numbers = np.arange(first, first + count)
    return torch.from_numpy(np.asarray(normals(seed, Domain.LATENT, numbers, 0, z_dim), np.float32))


def draw_conditions(
    seed: int, first: int, count: int, choices: np.ndarray | None, c_dim: int
) -> torch.Tensor:
    """c float32 [count, c_dim]: rows of `choices` drawn at random, or independent fair 0/1 when there are
    none.

    choices: [K, c_dim] vectors that occur in training, such as those a checkpoint carries.
    """
    numbers = np.arange(first, first + count)
    if choices is not None and len(choices):
        u = np.asarray(uniforms(seed, Domain.CONDITION, numbers, 0, 1), np.float64)[:, 0]
        rows = np.minimum((u * len(choices)).astype(np.int64), len(choices) - 1)
        return torch.from_numpy(np.asarray(choices, np.float32)[rows])
    u = np.asarray(uniforms(seed, Domain.CONDITION, numbers, 0, max(c_dim, 1)), np.float64)[:, :c_dim]
    return torch.from_numpy((u >= 0.5).astype(np.float32))


def _prepare(folder: Path, card: dict[str, Any]) -> None:
    """Make the folder and write its card, or check that it holds the same dataset."""
    make_folder(folder)
    path = folder / CARD
    if path.exists():
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise DataError(f"{path} cannot be read ({error}). Choose an empty folder.") from error
        if known != card:
            differing = sorted(k for k in {*known, *card} if known.get(k) != card.get(k))
            raise DataError(
                f"{folder} holds a dataset made otherwise ({', '.join(differing)} differ). "
                "Choose another folder."
            )
        return
    write_text(path, json.dumps(card, indent=1) + "\n")


def write_dataset(
    folder: Path,
    generator: Any,
    count: int,
    *,
    seed: int = 0,
    names: Sequence[str] = (),
    choices: np.ndarray | None = None,
    truncation_psi: float = 1.0,
    batch: int = 16,
    device: str = "cpu",
    precision: str | None = None,
    facts: dict[str, Any] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Path]:
    """Write `count` images with labels; images that are already there are kept, so an interrupted run goes
    on.

    Layout: VIS/000000_000.png (one folder for each spectrum), labels.jsonl with one record for each image,
    dataset.json with the conditions as vectors, card.json with all that is needed to make the same folder
    again. names: of the conditions. choices: see `draw_conditions`. precision: as in `images_of_seeds`.
    progress: called with the number of images done. Returns the files of the first spectrum. Raises
    DataError when the folder holds another dataset.
    """
    if count < 1 or batch < 1:
        raise ValueRangeError(f"count and batch must be 1 or more; got {count} and {batch}.")
    card = {
        **(facts or {}),
        "count": count,
        "seed": seed,
        "truncation_psi": truncation_psi,
        "conditions": list(names),
        "label_choices": len(choices) if choices is not None else 0,
        **({} if precision is None else {"precision": precision}),
    }
    _prepare(folder, card)
    for spectrum in generator.spectra:
        make_folder(folder / spectrum.upper())
    main = next(iter(generator.spectra)).upper()
    records: list[str] = []
    labels: list[list[Any]] = []
    for first in range(0, count, batch):
        number = min(batch, count - first)
        c = draw_conditions(seed, first, number, choices, generator.c_dim)
        files = [f"{i:06d}_000.png" for i in range(first, first + number)]
        if not all((folder / s.upper() / file).exists() for s in generator.spectra for file in files):
            z = draw_latents(seed, first, number, generator.z_dim)
            drawn = _draw(generator, z, c, truncation_psi, device, precision)
            for file, pixels in zip(files, drawn, strict=True):
                for spectrum, image in pixels.items():
                    write_image(folder / spectrum.upper() / file, image, sync=False)
        for i, (file, row) in enumerate(zip(files, c.tolist(), strict=True)):
            records.append(_record(f"{main}/{file}", first + i, names, row))
            labels.append([f"{main}/{file}", [round(v, 6) for v in row]])
        if progress:
            progress(first + number)
    write_text(folder / "labels.jsonl", "\n".join(records) + "\n")
    content = {"labels": labels if names else None, "label_names": list(names)}
    write_text(folder / "dataset.json", json.dumps(content) + "\n")
    return [folder / main / f"{i:06d}_000.png" for i in range(count)]


def _record(file: str, identity: int, names: Sequence[str], row: Sequence[float]) -> str:
    """A line of labels.jsonl."""
    conditions = dict(zip(names, (round(v, 6) for v in row), strict=True))
    return json.dumps({"file": file, "identity": identity, "sample": 0, "conditions": conditions})


@torch.inference_mode()
def _draw(
    generator: Any, z: torch.Tensor, c: torch.Tensor, psi: float, device: str, precision: str | None
) -> list[dict[str, np.ndarray]]:
    ws = generator.mapping(z.to(device), c.to(device), truncation_psi=psi)
    return as_pixels(generator.synthesis(ws, **synthesis_options("const", precision)))
