"""Datasets from latents to shards on the disk, against the engine alone.

"pyface" is what `pyface generate dataset` does once it runs: latents, engine, encoders and the writer of
shards at the same time. "engine alone" makes the same pictures of latents that are there, in the same
batches, and forgets them. "one after the other" does the same work as ours without overlap. On one thread the
time is that of the processor, so the difference of the first two is what the rest of the work costs; on more
it is the wall clock, and the difference is what the engine has to wait for.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pyface.benchmark.case import OURS, Case, Variant, Workload
from pyface.export.engine import Engine, open_engine
from pyface.generation.dataset import EngineSettings
from pyface.generation.encoding import Codec, Encoder
from pyface.generation.pipeline import chunks_of, write_shards
from pyface.generation.plan import DatasetRecipe, Plan
from pyface.generation.sampling import Sampler
from pyface.generation.shards import ShardStore, members

__all__ = ["ALONE", "SERIAL", "dataset_cases", "dataset_workload"]

ALONE, SERIAL = "engine alone", "one after the other"
_SIDES = {64: 512, 256: 32}  # resolution -> pictures of a run; 64 is the generator that ships
_IMAGES = ("jpeg", "png")
_BATCH = 16
_TOLERANCE = 0.0  # an engine repeats itself, and so does an encoder
_ROUNDS = 5


def dataset_cases() -> list[Case]:
    """64 and 256 px, float32 and bfloat16, JPEG and PNG."""
    cases = []
    for side, count in _SIDES.items():
        for dtype in ("float32", "bfloat16"):
            for image in _IMAGES:
                name = f"dataset/{side} px {image}/{dtype}"
                cases.append(
                    Case(
                        name, "dataset", f"dataset of {image}", f"{count} of {side} px", dtype, "-",
                        build=lambda device, side=side, count=count, dtype=dtype, image=image: (  # type: ignore[misc]
                            dataset_workload(side, count, dtype, image, device)
                        ),
                        cold=False, quick=side == 64 and image == "jpeg", rounds=_ROUNDS,
                    )
                )  # fmt: skip
    return cases


def dataset_workload(side: int, count: int, dtype: str, image: str, device: str, **settings: Any) -> Workload:
    """`count` pictures of the shipped generator (64 px) or of random weights, in one shard.

    settings: fields of the configuration of random weights.
    """
    from pyface.benchmark.scaling_cases import channel_base_of
    from pyface.benchmark.synthesis_cases import random_generator

    network: Any = "demo"
    if side != 64 or settings:
        network = random_generator(side, **{"channel_base": channel_base_of(side), **settings})
    how = EngineSettings(precision=dtype, batch=_BATCH, device=device, threads=torch.get_num_threads())
    engine = open_engine(network, precision=dtype, batch=_BATCH, device=device)
    work = _Work(engine, _recipe(engine, count, image), how.encoders_beside(device))
    variants = {
        OURS: Variant(work.overlapped, result=work.written),
        SERIAL: Variant(work.serial, result=work.written),
        ALONE: Variant(work.alone),
    }
    return Workload(variants, reference=work.pictures, items=count, tolerance=_TOLERANCE, errors=False)


def _recipe(engine: Engine, count: int, image: str) -> DatasetRecipe:
    names = tuple(f"c{i}" for i in range(engine.c_dim))
    codec = Codec.of(image)
    return DatasetRecipe(
        network="benchmark",
        network_sha256="0" * 64,
        seed=0,
        identities=count,
        samples_per_identity=1,
        resolution=engine.resolution,
        spectra=engine.spectra,
        conditions=names,
        condition_rule="fair" if names else "none",
        engine=engine.name,
        precision=engine.precision,
        batch=engine.batch,
        shard_size=count,
        image=image,
        quality=codec.quality,
        subsampling=codec.subsampling,
        encoder=codec.library,
        encoder_version=codec.version,
    )


class _Work:
    """One shard, made in three ways."""

    def __init__(self, engine: Engine, recipe: DatasetRecipe, encoders: int) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="pyface-bench-dataset-")
        self.store = ShardStore(self._scratch.name, recipe)
        self.engine, self.recipe, self.encoders = engine, recipe, encoders
        self.sampler = Sampler(recipe, engine.z_dim)
        self.encode = Encoder(Codec.of(recipe.image)).encode
        self.drawn = [
            (self.sampler.latents(chunk), self.sampler.conditions(chunk))
            for chunk in chunks_of(Plan(recipe), 0)
        ]

    def overlapped(self) -> None:
        writer, folder = ShardStore.writer, self.store.folder
        write_shards(
            [0],
            self.store.plan,
            self.sampler,
            self.engine,
            lambda shard: writer(folder, self.recipe, shard, {}),
            self.encode,
            encoders=self.encoders,
        )

    def serial(self) -> None:
        with ShardStore.writer(self.store.folder, self.recipe, 0, {}) as writer:
            for chunk in chunks_of(self.store.plan, 0):
                z, c = self.sampler.latents(chunk), self.sampler.conditions(chunk)
                pixels = self._pixels(z, c)
                for i, (picture, row) in enumerate(zip(chunk, c.tolist(), strict=True)):
                    files = {name: self.encode(images[i].numpy()) for name, images in pixels.items()}
                    writer.add(picture, files, dict(zip(self.recipe.conditions, row, strict=True)))
            writer.commit()

    def alone(self) -> None:
        for z, c in self.drawn:
            self._pixels(z, c)

    def _pixels(self, z: Tensor, c: Tensor) -> dict[str, Tensor]:
        with torch.inference_mode():
            return self.engine.pixels(self.engine.mapping(z, c))

    def pictures(self) -> Tensor:
        """Levels float64 [N, H, W, C] of what the engine makes, encoded and decoded."""
        first = next(iter(self.recipe.spectra))
        made = (pixels for z, c in self.drawn for pixels in self._pixels(z, c)[first].numpy())
        return _levels(map(self.encode, made))

    def written(self) -> Tensor:
        """What lies in the shard, in the same form."""
        found = members(Path(self.store.shard_path(0)))
        return _levels(data for name, data in found if name.endswith(self.recipe.suffix))


def _levels(files: Iterable[bytes]) -> Tensor:
    return torch.from_numpy(np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])).double()
