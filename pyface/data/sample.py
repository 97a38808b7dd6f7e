"""The words of this floor: `Sample`, one face with all that is known of it, and `FaceDataset`, many."""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from pyface.data.balance import Share, balance_of
from pyface.data.labels import LabelSchema, schema_of
from pyface.errors import DataError, ValueRangeError
from pyface.io.rng import Domain, permutation

__all__ = ["FaceDataset", "Sample", "Subset", "collate"]

Pixels = npt.NDArray[np.uint8]
Annotations = Mapping[str, npt.NDArray[Any]]


@dataclasses.dataclass
class Sample:
    """One face. Whatever is not known is None or an empty dictionary.

    Attributes:
        image: visible light, uint8 [H, W, 3], or [H, W, 1] of a grey picture.
        nir: near infrared, uint8 [H, W], registered to `image` pixel by pixel.
        segmentation: uint8 [H, W], classes of `pyface.data.SEGMENTATION_CLASSES`.
        depth: float32 [H, W] in head units from the camera plane, +inf where there is nothing.
        landmarks: scheme -> float32 [K, 2] in pixels, x right, y down, pixel centres at +0.5. Schemes:
            "ibug68" (68 points of the iBUG 300-W annotation) and "5pt" (eyes, nose tip, mouth corners; image
            left first).
        attributes: CelebA name -> whether it holds. "Male" means: drawn as male.
        identity: number of the person, unique within the dataset.
        action_units: "AU12" -> intensity from 0 (absent) to 1 (maximum); FACS letters A to E are 0.2 to 1;
            NaN is present with an intensity that nobody has noted. A unit that is not here is not known.
        emotion: one of `pyface.data.EMOTIONS`, or "contempt", which photographs are labelled with too.
        conditions: name -> number in [0, 1], see `pyface.data.CONDITIONS`.
        pose: "yaw", "pitch", "roll" in radians.
        parameters: what the renderer was given, name -> number.
        path: file of `image`, or a name that is unique within the dataset.
    """

    image: Pixels | None = None
    nir: Pixels | None = None
    segmentation: Pixels | None = None
    depth: npt.NDArray[np.float32] | None = None
    landmarks: dict[str, npt.NDArray[np.float32]] = dataclasses.field(default_factory=dict)
    attributes: dict[str, bool] = dataclasses.field(default_factory=dict)
    identity: int | None = None
    action_units: dict[str, float] = dataclasses.field(default_factory=dict)
    emotion: str | None = None
    conditions: dict[str, float] = dataclasses.field(default_factory=dict)
    pose: dict[str, float] = dataclasses.field(default_factory=dict)
    parameters: dict[str, float] = dataclasses.field(default_factory=dict)
    path: str | None = None


class FaceDataset(Dataset[Sample], abc.ABC):
    """Faces by index, with a table of annotations that is read without loading one picture.

    A map-style torch dataset: give it to a `DataLoader` with `collate_fn=pyface.data.collate`. It can be
    pickled and used in forked or spawned workers.

    Attributes:
        spectra: which pictures a sample has: ("vis",), ("nir",) or ("vis", "nir").
        image_shape: height, width and channels of one picture of the first spectrum.
        label_names: columns that a conditional model is trained on unless others are named.
    """

    spectra: tuple[str, ...]
    image_shape: tuple[int, int, int]
    label_names: tuple[str, ...] = ()

    @property
    @abc.abstractmethod
    def annotations(self) -> Annotations:
        """Columns by name, each [N]: identity, emotion, attributes, action units, conditions, pose."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Samples of several indices at once, as DataLoader asks for a batch."""

    def __getitem__(self, index: int) -> Sample:
        return self.__getitems__([self._checked_index(index)])[0]

    @abc.abstractmethod
    def images(self, indices: Iterable[int] | None = None, spectrum: str = "vis") -> Pixels:
        """Pictures alone: uint8 [n, H, W, C]; all of them when `indices` is None."""

    def labels(self, names: Sequence[str] | None = None) -> npt.NDArray[np.float32]:
        """Columns of the annotations as numbers: float32 [N, len(names)].

        Args:
            names: columns with numbers or truth values; `emotion=happy` is 1 where the emotion is that one.
                By default `label_names`.

        Raises:
            ValueRangeError: a column that is not there or has no numbers (the message lists those that are),
                or whose number is not known (NaN) of a picture.
        """
        names = self.label_names if names is None else tuple(names)
        table = self.annotations if names else {}
        columns = []
        for name in names:
            column, _, wanted = name.partition("=")
            values = self._column(table, column)
            if wanted:
                values = values == wanted
            elif values.dtype.kind not in "biuf":
                raise ValueRangeError(
                    f"column {name!r} has words, not numbers; ask for one of them, as in "
                    f"{name}={values[0] if len(values) else 'word'!s}."
                )
            elif values.dtype.kind == "f" and np.isnan(values).any():
                raise ValueRangeError(
                    f"column {name!r} is not known of {int(np.isnan(values).sum())} of {len(self)} pictures; "
                    f"leave them out, as in filter({name}=(0, 1)), or take another column."
                )
            columns.append(values.astype(np.float32))
        return np.stack(columns, axis=1) if columns else np.zeros((len(self), 0), np.float32)

    @property
    def label_schema(self) -> LabelSchema:
        """What `labels()` are: a class, multi-hot or a vector, and the names of their entries."""
        return schema_of(self.labels(), self.label_names)

    def name_of(self, index: int) -> str:
        """What a picture is called in a message."""
        return f"picture {index}"

    def fingerprint(self) -> str:
        """Text that changes when a picture does, without reading one; empty when nothing is known."""
        return ""

    def filter(self, **conditions: Any) -> Subset:
        """The samples for which every condition holds.

        A condition compares one column of the annotations with a value, a (low, high) tuple (both ends
        included), a list or set of allowed values, or a function that takes the column and returns
        truth values.

        >>> faces.filter(Smiling=True, identity=range(10), AU12=(0.4, 1.0))   # doctest: +SKIP

        Raises:
            ValueRangeError: an unknown column.
        """
        keep = np.ones(len(self), bool)
        table = self.annotations
        for name, condition in conditions.items():
            keep &= _holds(self._column(table, name), condition)
        return Subset(self, np.flatnonzero(keep))

    def split(self, fractions: Sequence[float], seed: int = 0) -> tuple[Subset, ...]:
        """Parts that share no identity, sized as near to `fractions` as whole identities allow.

        The order of identities is drawn with (seed, Domain.SPLIT); every part keeps the dataset's order.
        Without an identity column each sample counts as a person of its own.

        Args:
            fractions: positive numbers with a sum of at most 1; what they leave over belongs to no part.
            seed: of the order of identities.

        Raises:
            ValueRangeError: bad fractions, or fewer identities than parts.
        """
        shares = [float(f) for f in fractions]
        if not shares or min(shares) <= 0 or sum(shares) > 1 + 1e-9:
            raise ValueRangeError(
                f"fractions must be positive with a sum of at most 1; got {list(fractions)}."
            )
        people, member, counts = self._people()
        if len(people) < len(shares):
            raise ValueRangeError(f"{len(shares)} parts need as many identities; there are {len(people)}.")
        order = permutation(seed, Domain.SPLIT, len(people))
        ends = np.cumsum(shares) * len(self)
        filled = np.cumsum(counts[order])
        cuts = [0]
        for k, end in enumerate(ends):
            cut = int(np.searchsorted(filled, end - 0.5 * counts.mean(), side="left")) + 1
            cut = len(people) if end > len(self) - 1e-6 else cut
            cuts.append(min(max(cut, cuts[-1] + 1), len(people) - (len(shares) - 1 - k)))
        parts = []
        for start, stop in itertools.pairwise(cuts):
            chosen = np.zeros(len(people), bool)
            chosen[order[start:stop]] = True
            parts.append(Subset(self, np.flatnonzero(chosen[member])))
        return tuple(parts)

    def folds(self, k: int = 10, seed: int = 0) -> list[tuple[Subset, Subset]]:
        """k pairs (training, test) for cross-validation: each picture is in one test part, nobody in both.

        The order of identities is drawn with (seed, Domain.SPLIT); then each person in turn joins
        the smallest test part. Without an identity column each sample counts as a person. With as many folds
        as identities each test part is one person.

        Raises:
            ValueRangeError: k is below 2 or above the number of identities.
        """
        people, member, counts = self._people()
        if not 2 <= k <= len(people):
            raise ValueRangeError(f"k must lie in [2, {len(people)}], the number of identities; got {k}.")
        order = permutation(seed, Domain.SPLIT, len(people))
        fold = np.empty(len(people), np.int64)
        filled = np.zeros(k, np.int64)
        for person in order:
            fold[person] = filled.argmin()
            filled[fold[person]] += counts[person]
        of_picture = fold[member]
        return [
            (Subset(self, np.flatnonzero(of_picture != i)), Subset(self, np.flatnonzero(of_picture == i)))
            for i in range(k)
        ]

    def balance(self, columns: Sequence[str] | None = None) -> dict[str, list[Share]]:
        """The class balance: of each column, how many pictures and how many people have each value.

        See `pyface.data.balance.balance_of` for the columns that are taken when none are named, for bins of
        numbers, and for what counts as not known. `pyface data info` prints it.
        """
        return balance_of(self.annotations, len(self), columns)

    def _people(self) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Identities [P], the place of each sample's identity among them [N], samples of each [P]."""
        identity = self.annotations.get("identity", np.arange(len(self)))
        people, member, counts = np.unique(identity, return_inverse=True, return_counts=True)
        return people, member.reshape(-1), counts

    def _shape_of(self, indices: npt.NDArray[np.int64]) -> tuple[int, int, int]:
        """Height, width and channels that all pictures of `indices` have."""
        return self.image_shape

    def _checked_index(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} samples")
        return int(index) % len(self)

    def _checked_indices(self, indices: Iterable[int] | None) -> npt.NDArray[np.int64]:
        if indices is None:
            return np.arange(len(self))
        chosen = np.fromiter((int(i) for i in indices), np.int64)
        if chosen.size and not (-len(self) <= chosen.min() and chosen.max() < len(self)):
            raise IndexError(f"indices must lie in [0, {len(self)}); got {chosen.min()} to {chosen.max()}")
        return chosen % max(len(self), 1)

    def _checked_spectrum(self, spectrum: str) -> str:
        if spectrum not in self.spectra:
            raise ValueRangeError(f"spectrum must be one of {', '.join(self.spectra)}; got {spectrum!r}.")
        return spectrum

    @staticmethod
    def _column(table: Annotations, name: str) -> npt.NDArray[Any]:
        if name not in table:
            raise ValueRangeError(
                f"there is no column {name!r}; there are {', '.join(sorted(table)) or 'none'}."
            )
        return table[name]


def _holds(values: npt.NDArray[Any], condition: Any) -> npt.NDArray[np.bool_]:
    test: Callable[..., Any] | None = condition if callable(condition) else None
    if test is not None:
        return np.asarray(test(values), bool)
    if isinstance(condition, tuple) and len(condition) == 2:
        return (values >= condition[0]) & (values <= condition[1])
    if isinstance(condition, list | set | frozenset | range | tuple | np.ndarray):
        return np.isin(values, list(condition))
    return np.asarray(values == condition, bool)


class Subset(FaceDataset):
    """Some samples of a dataset, in the given order.

    Args:
        dataset: where they come from.
        indices: whole numbers into it.
    """

    def __init__(self, dataset: FaceDataset, indices: Iterable[int]) -> None:
        self.dataset = dataset
        self.indices = dataset._checked_indices(indices)
        self.spectra = dataset.spectra
        self.label_names = dataset.label_names

    @property
    def image_shape(self) -> tuple[int, int, int]:  # type: ignore[override]  # photographs may have many sizes
        return self.dataset._shape_of(self.indices)

    def _shape_of(self, indices: npt.NDArray[np.int64]) -> tuple[int, int, int]:
        return self.dataset._shape_of(self.indices[indices])

    @property
    def label_schema(self) -> LabelSchema:
        return self.dataset.label_schema

    def name_of(self, index: int) -> str:
        return self.dataset.name_of(int(self.indices[index]))

    def fingerprint(self) -> str:
        whole = self.dataset.fingerprint()
        chosen = hashlib.blake2b(self.indices.tobytes(), digest_size=16).hexdigest()
        return f"{chosen} of {whole}" if whole else ""

    @property
    def annotations(self) -> Annotations:
        return {name: values[self.indices] for name, values in self.dataset.annotations.items()}

    def __len__(self) -> int:
        return len(self.indices)

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        return self.dataset.__getitems__(self.indices[self._checked_indices(indices)].tolist())

    def images(self, indices: Iterable[int] | None = None, spectrum: str = "vis") -> Pixels:
        return self.dataset.images(self.indices[self._checked_indices(indices)].tolist(), spectrum)


def collate(samples: Sequence[Sample]) -> dict[str, Any]:
    """One batch of samples as tensors and lists, for `DataLoader(collate_fn=...)`.

    Returns:
        "image" uint8 [N, C, H, W] and "nir" uint8 [N, 1, H, W] where samples have them, "segmentation" uint8
        [N, H, W], "depth" float32 [N, H, W], "identity" int64 [N] (-1: unknown), "landmarks" scheme ->
        float32 [N, K, 2], and "samples", the list itself without its pictures.

    Raises:
        DataError: no sample, or pictures of different sizes.
    """
    if not samples:
        raise DataError("a batch needs at least one sample; got none")
    batch: dict[str, Any] = {}
    for name in ("image", "nir", "segmentation", "depth"):
        planes = [getattr(sample, name) for sample in samples]
        if any(plane is None for plane in planes):
            continue
        if len({plane.shape for plane in planes}) > 1:
            raise DataError(f"{name} differs in size within a batch: {sorted({p.shape for p in planes})}")
        stacked = torch.from_numpy(np.stack(planes))
        if name == "image":
            stacked = stacked.permute(0, 3, 1, 2).contiguous()
        batch[name] = stacked[:, None] if name == "nir" else stacked
    batch["identity"] = torch.tensor([-1 if s.identity is None else s.identity for s in samples])
    schemes = set.intersection(*(set(sample.landmarks) for sample in samples))
    batch["landmarks"] = {
        scheme: torch.from_numpy(np.stack([s.landmarks[scheme] for s in samples]))
        for scheme in sorted(schemes)
    }
    batch["samples"] = [
        dataclasses.replace(sample, image=None, nir=None, segmentation=None, depth=None) for sample in samples
    ]
    return batch
