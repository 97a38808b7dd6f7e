"""A generator's images beside real ones: which real images, which conditions, and what lies nearest."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyface.data import FaceDataset, ProceduralFaces
from pyface.data.layouts import parse_named
from pyface.data.sample import Subset
from pyface.errors import DataError, ValueRangeError
from pyface.generation.network import condition_names, training_facts
from pyface.generation.sampling import draw_conditions, draw_latents
from pyface.io.images import to_uint8
from pyface.io.rng import Domain, permutation
from pyface.metrics import FeatureExtractor, NearestImages, nearest_sheet
from pyface.training.feed import box_shrink
from pyface.training.source import open_source

__all__ = [
    "GeneratedImages",
    "NearestTraining",
    "RealSets",
    "condition_choices",
    "image_batches",
    "real_sets",
]

_BLOCK = 256  # images read or rendered at a time


@dataclasses.dataclass(frozen=True)
class RealSets:
    """Real images to compare with.

    Attributes:
        training: all images of the source, among which neighbours are looked for.
        held_out: as many as will be generated.
        others: as many again, of other people.
        how: in words, where the two sets come from.
    """

    training: FaceDataset
    held_out: FaceDataset
    others: FaceDataset
    how: str


def real_sets(
    source: str, images: int, *, held_out: str | None = None, seed: int = 0, held_out_seed: int = 1
) -> RealSets:
    """Two sets of `images` real pictures without a person in common.

    Held-out pictures come from `held_out`; without it, of a rendered source they are other people, rendered
    with `held_out_seed`, and of files half of the people in `source`, which a network trained on all of
    `source` has seen.

    Raises:
        DataError: the source or one half of it has too few images.
        ValueRangeError: the held-out pictures would be those of the source.
    """
    rendered = [name.startswith("procedural:") for name in (source, held_out or source)]
    if seed == held_out_seed if all(rendered) else held_out is not None and _same(source, held_out):
        raise ValueRangeError(
            f"held-out images would show the people of {source}: the network has seen them. "
            + ("Give another --held-out-seed." if all(rendered) else "Name other data by --held-out.")
        )
    data = open_source(source, seed=seed)
    if held_out is not None:
        other = open_source(held_out, seed=held_out_seed)
        how = f"held out: {held_out}"
        return RealSets(data, _chosen(other, images, held_out), _chosen(data, images, source), how)
    if isinstance(data, ProceduralFaces):
        apart = ProceduralFaces(images, 1, size=data.size, spectra=("vis",), seed=held_out_seed)
        how = f"held out: {images} other people rendered with seed {held_out_seed}"
        return RealSets(data, apart, _chosen(data, images, source), how)
    first, second = data.split((0.5, 0.5))
    how = f"held out: half of the people of {source}; a network trained on it has seen them"
    name = f"one half of the people of {source}"
    return RealSets(data, _chosen(first, images, name), _chosen(second, images, name), how)


def _same(source: str, other: str) -> bool:
    """Whether two sources show the same people: one place, and not two parts of it."""
    (_, first, path), (_, second, place) = parse_named(source), parse_named(other)
    parts = first.get("split"), second.get("split")
    apart = not {None, "all"} & set(parts) and parts[0] != parts[1]
    return Path(path).resolve() == Path(place).resolve() and not apart


def _chosen(dataset: FaceDataset, images: int, name: str) -> FaceDataset:
    if len(dataset) < images:
        raise DataError(
            f"{name} holds {len(dataset)} images; {images} are needed. Lower --images, give more data, or "
            "name other data by --held-out."
        )
    return Subset(dataset, permutation(0, Domain.SHUFFLE, len(dataset))[:images].tolist())


def image_batches(
    dataset: FaceDataset, size: tuple[int, int], progress: Callable[[Any], Any] | None = None
) -> Iterator[Tensor]:
    """All pictures of the first spectrum as uint8 batches [n, C, H, W], shrunk to `size` as for training.

    progress: wraps the iterable of batches, like tqdm.
    """
    starts: Any = range(0, len(dataset), _BLOCK)
    for start in progress(starts) if progress else starts:
        pixels = dataset.images(range(start, min(start + _BLOCK, len(dataset))), dataset.spectra[0])
        small = box_shrink(pixels, *size, name="an image")
        yield torch.from_numpy(np.ascontiguousarray(small.transpose(0, 3, 1, 2)))


def condition_choices(
    network: str | Path, c_dim: int, data: FaceDataset, where: str = "data"
) -> npt.NDArray[np.float32] | None:
    """Vectors [K, c_dim] of which conditions are drawn; None for an unconditional network.

    Args:
        network: the checkpoint, whose header says what the entries of c mean.
        c_dim: how many there are.
        data: whose labels they are, for `where` "data".
        where: "data", or "network" for those that training stored in the checkpoint.

    Raises:
        ValueRangeError: the labels are not there.
    """
    if c_dim == 0:
        return None
    if where == "network":
        stored = np.asarray(training_facts(network).get("label_samples", []), np.float32)
        if stored.shape[1:] != (c_dim,):
            raise ValueRangeError(
                f"{network} carries no conditions of its training data; use --conditions-from data."
            )
        return stored
    names = condition_names(network, c_dim)
    try:
        return data.labels(names)
    except ValueRangeError as error:
        raise ValueRangeError(
            f"the data do not have the conditions of the network ({', '.join(names)}): {error} "
            "Use --conditions-from network to draw them as they were in training."
        ) from error


class GeneratedImages:
    """Images 0 to `count` - 1 of a generator as uint8 batches [n, C, H, W]; each depends on (seed, number).

    A generator of several spectra gives its first one. Iterating again makes the same images again.

    Args:
        generator: see `pyface.models.Generator`.
        count: how many.
        choices: [K, c_dim], see `condition_choices`.
        truncation_psi: of the mapping network.
        seed: of latents and conditions.
        batch: images drawn at a time.
        device: where the generator is.
    """

    def __init__(
        self,
        generator: Any,
        count: int,
        choices: npt.NDArray[np.float32] | None = None,
        *,
        truncation_psi: float = 1.0,
        seed: int = 0,
        batch: int = 32,
        device: str = "cpu",
    ) -> None:
        if count < 1 or batch < 1:
            raise ValueRangeError(f"images and batch must be 1 or more; got {count} and {batch}.")
        self.generator = generator
        self.count = count
        self.choices = choices
        self.truncation_psi = truncation_psi
        self.seed = seed
        self.batch = batch
        self.device = device

    def __len__(self) -> int:
        return -(-self.count // self.batch)

    def __iter__(self) -> Iterator[Tensor]:
        for first in range(0, self.count, self.batch):
            yield self.draw(first, min(self.batch, self.count - first))

    @torch.inference_mode()
    def draw(self, first: int, number: int) -> Tensor:
        """Images first, first + 1, ...: uint8 [number, C, H, W]."""
        numbers = np.arange(first, first + number)
        z = draw_latents(self.seed, numbers, z_dim=self.generator.z_dim)
        c = draw_conditions(self.seed, numbers, choices=self.choices, c_dim=self.generator.c_dim)
        z, c = z.to(self.device), c.to(self.device)
        ws = self.generator.mapping(z, c, truncation_psi=self.truncation_psi)
        made = self.generator.synthesis(ws, noise_mode="const")
        images = next(iter(made.values())) if isinstance(made, dict) else made
        return torch.from_numpy(to_uint8(images)).permute(0, 3, 1, 2)


@dataclasses.dataclass(frozen=True)
class NearestTraining:
    """What lies nearest to generated and to held-out images among the training images, in feature space.

    Attributes:
        indices: int64 [shown, k], training images nearest to the first generated ones, mirrored or not.
        generated, held_out: median distance to the nearest training image.
        ratio: generated / held_out; well below 1 means that training images were copied.
    """

    indices: npt.NDArray[np.int64]
    generated: float
    held_out: float

    @property
    def ratio(self) -> float:
        return self.generated / self.held_out if self.held_out > 0 else float("inf")

    @classmethod
    def search(
        cls,
        extractor: FeatureExtractor,
        generated: Tensor,
        held_out: Tensor,
        training: Iterator[Tensor],
        shown: int,
        neighbours: int = 3,
    ) -> NearestTraining:
        """Look through batches of training images, each also mirrored.

        generated, held_out: features [N, dim]. shown: for so many of the first generated images neighbours
        are kept.
        """
        one = NearestImages(torch.cat([generated, held_out]))
        several = NearestImages(
            generated[:shown], 2 * neighbours
        )  # a picture and its mirror image count once
        position = 0
        for batch in training:
            numbers = np.arange(position, position + len(batch))
            features = torch.cat([extractor(batch), extractor(batch.flip(3))])
            one.add(features, np.tile(numbers, 2))
            several.add(features, np.tile(numbers, 2))
            position += len(batch)
        if position < neighbours:
            raise DataError(f"there are {position} training images; {neighbours} are shown for each face.")
        rows = [list(dict.fromkeys(row[row >= 0].tolist()))[:neighbours] for row in several.indices]
        distances, made = one.distances[:, 0], len(generated)
        return cls(
            np.array(rows, np.int64), float(np.median(distances[:made])), float(np.median(distances[made:]))
        )


def training_sheet(
    images: Tensor, training: FaceDataset, indices: npt.NDArray[np.int64], size: tuple[int, int]
) -> npt.NDArray[np.uint8]:
    """Each generated image uint8 [n, C, H, W] beside its nearest training images: uint8 [H, W, 3]."""
    made = [image.permute(1, 2, 0).numpy() for image in images]
    found = [list(box_shrink(training.images(row.tolist(), training.spectra[0]), *size)) for row in indices]
    return nearest_sheet(made, found)
