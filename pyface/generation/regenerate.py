"""One picture of a dataset made again, and how near it comes to the one that lies there."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from pyface.errors import CheckpointError, DataError
from pyface.export.engine import Engine
from pyface.export.gates import gate_of
from pyface.generation.dataset import EngineSettings
from pyface.generation.encoding import Codec, Encoder
from pyface.generation.manifest import open_store
from pyface.generation.network import sha256_of
from pyface.generation.pipeline import chunks_of
from pyface.generation.plan import DatasetRecipe, Picture, Plan
from pyface.generation.records import Record
from pyface.generation.sampling import Sampler, label_samples
from pyface.io.atomic import make_folder, write_bytes
from pyface.io.images import write_image
from pyface.models import find_checkpoint

__all__ = ["Regenerated", "regenerate"]

Pixels = npt.NDArray[np.uint8]

_CODEC_ERROR = 1.0  # levels by which two encodings of nearly the same picture may differ more, as RMSE


@dataclass(frozen=True)
class Regenerated:
    """A picture made again.

    Attributes:
        picture: which one.
        pixels: uint8 [H, W, C] by spectrum.
        files: the same encoded as in the dataset.
        suffix: of such a file.
        same: whether it is the stored one: byte for byte, or where engine or machine are other ones, within
            what the precision allows.
        verdict: that in words.
    """

    picture: Picture
    pixels: Mapping[str, Pixels]
    files: Mapping[str, bytes]
    suffix: str
    same: bool
    verdict: str

    def write(self, path: str | os.PathLike[str]) -> list[Path]:
        """Write it: the dataset's bytes where the suffix is the dataset's, else the pixels.

        A second spectrum goes to a file with its name, such as face-nir.png beside face.png.
        """
        target, written = Path(path), []
        make_folder(target.parent)
        for number, (spectrum, pixels) in enumerate(self.pixels.items()):
            file = target.with_stem(f"{target.stem}-{spectrum}") if number else target
            if target.suffix.lower() == self.suffix:
                write_bytes(file, self.files[spectrum])
            else:
                write_image(file, pixels)
            written.append(file)
        return written


def regenerate(
    folder: str | os.PathLike[str],
    identity: int,
    sample: int = 0,
    *,
    network: str | Path | None = None,
    engine: str | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> Regenerated:
    """Make one picture of a dataset again and compare it with the stored one.

    Args:
        folder: of the dataset.
        identity, sample: numbers of the picture.
        network: the generator's file; by default the one named in the manifest, by that name in the current
            folder, in `folder` or beside it, or of those that come with pyface.
        engine: another one than the dataset's.
        device, threads: as in `pyface.export.engine.open_engine`; by default as many threads as made the
            picture.

    Raises:
        ValueRangeError: there is no such picture in the plan.
        DataError: the folder is no dataset, its shard is not there or damaged, or the network is not the one
            that the dataset was made with.
        CheckpointError: the network is missing.
    """
    store = open_store(folder)
    recipe, picture = store.recipe, Picture(identity, sample)
    shard = store.plan.shard_of(picture)
    if not store.record_path(shard).exists():
        raise DataError(
            f"{folder} does not have picture {picture.key} yet: shard {shard} is not complete. Give the "
            "command that began the dataset again."
        )
    stored, record = store.read(picture), Record.read(store.record_path(shard))
    file = _network_of(recipe, Path(folder), network)
    threads = threads or record.made_by.get("threads") or 1
    settings = EngineSettings(
        engine or recipe.engine, recipe.precision, recipe.batch, device, threads, force=True
    )
    with settings.open(file, recipe.noise) as opened:
        pixels = _made(opened, recipe, picture, file)
        facts = opened.describe()
    codec = Codec.of(
        recipe.image,
        quality=recipe.quality or 95,
        subsampling=recipe.subsampling or "4:2:0",
        library=recipe.encoder,
    )
    files = {spectrum: Encoder(codec).encode(image) for spectrum, image in pixels.items()}
    changed = sorted(k for k in {*facts, *record.made_by} if facts.get(k) != record.made_by.get(k))
    if codec.version != recipe.encoder_version:
        changed.append("encoder_version")
    same, verdict = _judged(files, stored.files, changed, recipe)
    return Regenerated(picture, pixels, files, recipe.suffix, same, f"picture {picture.key}: {verdict}")


def _network_of(recipe: DatasetRecipe, folder: Path, network: str | Path | None) -> str | Path:
    """The file of the recipe's network, checked by its hash."""
    places: list[str | Path] = [recipe.network, folder / recipe.network, folder.parent / recipe.network]
    for place in places if network is None else [network]:
        if not find_checkpoint(place).exists():
            continue
        found = sha256_of(place)
        if found == recipe.network_sha256:
            return place
        if network is not None:
            raise DataError(
                f"{network} is not the network of the dataset: its sha256 is {found[:16]}..., the dataset "
                f"was made with {recipe.network}, {recipe.network_sha256[:16]}..."
            )
    if network is not None:
        raise CheckpointError(f"{network} does not exist; name the generator's file.")
    raise CheckpointError(
        f"the network of the dataset, {recipe.network} with sha256 {recipe.network_sha256[:16]}..., is "
        f"neither here nor in or beside {folder}. Name it by --network."
    )


def _made(engine: Engine, recipe: DatasetRecipe, picture: Picture, network: str | Path) -> dict[str, Pixels]:
    """Its pixels, made among the pictures that it was made with the first time."""
    plan = Plan(recipe)
    chunk = next(part for part in chunks_of(plan, plan.shard_of(picture)) if picture in part)
    sampler = Sampler(recipe, engine.z_dim, label_samples(network, engine.c_dim))
    with torch.inference_mode():
        z, c = sampler.latents(chunk), sampler.conditions(chunk)
        made = engine.pixels(engine.mapping(z, c, truncation_psi=recipe.truncation_psi))
    return {spectrum: images[chunk.index(picture)].numpy() for spectrum, images in made.items()}


def _judged(
    files: Mapping[str, bytes], stored: Mapping[str, bytes], changed: list[str], recipe: DatasetRecipe
) -> tuple[bool, str]:
    """Whether the two are the same picture, and that in words. changed: facts that are not as they were."""
    if all(files[spectrum] == stored[spectrum] for spectrum in stored):
        return True, "byte for byte the stored one"
    errors = {spectrum: _difference(files[spectrum], stored[spectrum]) for spectrum in stored}
    rmse = max(error[0] for error in errors.values())
    largest = max(error[1] for error in errors.values())
    told = f"RMSE {rmse:.3f} levels, at most {largest:.0f}"
    if not changed:
        return False, f"differs from the stored one ({told}), though engine and versions are the same"
    limit = max(_limit(file, recipe) for file in stored.values())
    others = f"another {', '.join(changed)}"
    if rmse <= limit:
        return True, f"within {limit:.3f} levels, the tolerance of {recipe.precision} ({told}; {others})"
    return False, f"differs from the stored one by more than {limit:.3f} levels ({told}; {others})"


def _levels(file: bytes) -> npt.NDArray[np.float64]:
    try:
        with Image.open(io.BytesIO(file)) as image:
            return np.asarray(image, np.float64)
    except (OSError, ValueError) as error:
        raise DataError(f"the stored picture cannot be decoded ({error}).") from error


def _difference(made: bytes, stored: bytes) -> tuple[float, float]:
    """RMSE and largest difference of two encoded pictures, in levels; infinite for other sizes."""
    first, second = _levels(made), _levels(stored)
    if first.shape != second.shape:
        return math.inf, math.inf
    error = np.abs(first - second)
    return float(np.sqrt((error**2).mean())), float(error.max())


def _limit(stored: bytes, recipe: DatasetRecipe) -> float:
    """RMSE in levels that the certificate of the precision allows a picture of this contrast, rounded to
    whole levels and, if it is a JPEG, encoded."""
    levels = _levels(stored)
    scale = max(float(levels.std()), 1.0) / 127.5
    rmse = gate_of(recipe.precision).limits(scale, levels.size, uint8=True)[1] * scale * 127.5
    return rmse + (_CODEC_ERROR if recipe.image == "jpeg" else 0.0)
