"""Small datasets written without a generator, for the tests of what lies on the disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pyface.generation.encoding import Codec, Encoder
from pyface.generation.plan import DatasetRecipe, Picture, Plan
from pyface.generation.records import Store

MADE_BY = {"engine": "none", "versions": {"pyface": "0"}}


def recipe(**changes) -> DatasetRecipe:
    """Ten pictures of 12 x 16 px in shards of four, of five people with two conditions."""
    chosen = {
        "network": "net.safetensors",
        "network_sha256": "ab" * 32,
        "seed": 7,
        "identities": 5,
        "samples_per_identity": 2,
        "variation": 0.3,
        "resolution": (12, 16),
        "spectra": {"vis": 3},
        "conditions": ("smile", "glasses"),
        "condition_rule": "fair",
        "shard_size": 4,
    } | changes
    codec = Codec.of(chosen.get("image", "jpeg"))
    return DatasetRecipe(**{"encoder": codec.library, "encoder_version": codec.version} | chosen)


def pixels(made: DatasetRecipe, picture: Picture, spectrum: str) -> np.ndarray:
    """Noise that belongs to a picture."""
    number = [made.seed, picture.identity, picture.sample, *spectrum.encode()]
    return np.random.default_rng(number).integers(
        0, 256, (*made.resolution, made.spectra[spectrum]), np.uint8
    )


def conditions(picture: Picture) -> dict[str, float]:
    """Values that belong to a picture."""
    return {"smile": picture.identity / 7, "glasses": float(picture.sample)}


def encoded(made: DatasetRecipe, picture: Picture) -> dict[str, bytes]:
    """Its files by spectrum."""
    encoder = Encoder(Codec.of(made.image, subsampling=made.subsampling or "4:2:0"))
    return {spectrum: encoder.encode(pixels(made, picture, spectrum)) for spectrum in made.spectra}


def write_shards(store: Store, shards=None, **changes):
    """Write some shards of a store, by default all; returns their records."""
    records = []
    for shard in range(store.plan.shards) if shards is None else shards:
        with store.writer(store.folder, store.recipe, shard, changes.get("made_by", MADE_BY)) as writer:
            for picture in Plan(store.recipe).pictures(shard):
                writer.add(picture, encoded(store.recipe, picture), conditions(picture))
            records.append(writer.commit())
    return records


def tree(folder: Path) -> dict[str, bytes]:
    """Bytes of all files by name."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
