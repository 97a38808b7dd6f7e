"""What a generated dataset is made of: the recipe, the pictures it asks for, and the shards they lie in.

Nothing here draws a number or opens a file: who has the recipe knows every name in the dataset.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from pyface.errors import DataError, ValueRangeError

__all__ = ["CONDITION_RULES", "DatasetRecipe", "Picture", "Plan"]

# where conditions come from: nowhere, one vector for all, vectors that training stored in the checkpoint, or
# independent fair 0/1
CONDITION_RULES = ("none", "fixed", "samples", "fair")
STORAGES = ("shards", "folder")
IMAGES = ("jpeg", "png")
NOISES = ("const", "none")
SUBSAMPLINGS = ("4:2:0", "4:4:4")
_LARGEST = 2**32  # identities and samples are words of a Philox counter


@dataclass(frozen=True)
class DatasetRecipe:
    """All that decides the bytes of a dataset, as far as it is chosen; equal recipes make equal datasets.

    Attributes:
        network: name of the checkpoint or artefact.
        network_sha256: of its file.
        seed: of latents and conditions, in [0, 2^64).
        identities: how many people.
        samples_per_identity: pictures of each.
        variation: v in [0, 1]; a sample's z is sqrt(1 - v^2) of its identity's and v of its own.
        truncation_psi: of the mapping network; 1 leaves it off.
        noise: "const" or "none".
        conditions: names of the entries of c, in order; () for an unconditional network.
        condition_rule: one of `CONDITION_RULES`.
        varying: those of them that are drawn for each picture; the others are drawn once for an identity.
        condition: the vector of the rule "fixed".
        engine: name of the engine, such as "native".
        precision: of its synthesis, a key of `pyface.export.spec.PRECISIONS`.
        batch: of the engine: pictures that it makes at a time.
        resolution: (height, width) of the pictures.
        spectra: name and channels of every kind of picture.
        storage: "shards" or "folder".
        shard_size: pictures in a shard, or in a chunk of a folder; the last one may have fewer.
        image: "jpeg" or "png".
        quality: of JPEG, 1 to 100; 0 for PNG.
        subsampling: of JPEG, "4:2:0" or "4:4:4"; "" for PNG.
        encoder: library that encodes, such as "pillow".
        encoder_version: of that library, on which the bytes depend.
    """

    network: str
    network_sha256: str
    seed: int
    identities: int
    samples_per_identity: int
    resolution: tuple[int, int]
    spectra: Mapping[str, int]
    variation: float = 0.0
    truncation_psi: float = 1.0
    noise: str = "const"
    conditions: tuple[str, ...] = ()
    condition_rule: str = "none"
    varying: tuple[str, ...] = ()
    condition: tuple[float, ...] = ()
    engine: str = "native"
    precision: str = "fp32"
    batch: int = 8
    storage: str = "shards"
    shard_size: int = 1000
    image: str = "jpeg"
    quality: int = 95
    subsampling: str = "4:2:0"
    encoder: str = "pillow"
    encoder_version: str = ""

    def __post_init__(self) -> None:
        for name, text in (
            ("conditions", str),
            ("varying", str),
            ("condition", float),
            ("resolution", int),
        ):
            object.__setattr__(self, name, tuple(text(value) for value in getattr(self, name)))
        object.__setattr__(self, "spectra", dict(self.spectra))
        if self.image == "png":
            object.__setattr__(self, "quality", 0)
            object.__setattr__(self, "subsampling", "")
        self._check_numbers()
        self._check_words()
        if self.samples_per_identity > 1 and not self.samples_differ:
            raise ValueRangeError(
                f"the {self.samples_per_identity} samples of each identity would be the same picture: "
                "variation is 0 and no condition is drawn per picture. Give --variation more than 0, such as "
                "0.3."
            )

    def _check_numbers(self) -> None:
        whole = {
            "seed": (0, 2**64 - 1),
            "identities": (1, _LARGEST),
            "samples_per_identity": (1, _LARGEST),
            "batch": (1, 2**16),
            "shard_size": (1, 2**31),
        } | ({"quality": (1, 100)} if self.image == "jpeg" else {})
        for name, (low, high) in whole.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ValueRangeError(f"{name} must be a whole number from {low} to {high}; got {value!r}.")
        if not 0 <= self.variation <= 1:  # refuses NaN too
            raise ValueRangeError(f"variation must be from 0 to 1; got {self.variation}.")
        if not math.isfinite(self.truncation_psi):
            raise ValueRangeError(f"truncation_psi must be a finite number; got {self.truncation_psi}.")
        if self.condition_rule == "fixed" and not all(math.isfinite(v) for v in self.condition):
            raise ValueRangeError(f"condition must be finite numbers; got {list(self.condition)}.")

    def _check_words(self) -> None:
        allowed = {
            "storage": STORAGES,
            "image": IMAGES,
            "noise": NOISES,
            "condition_rule": CONDITION_RULES,
        } | ({"subsampling": SUBSAMPLINGS} if self.image == "jpeg" else {})
        for name, words in allowed.items():
            if getattr(self, name) not in words:
                raise ValueRangeError(f"{name} must be {' or '.join(words)}; got {getattr(self, name)!r}.")
        if (self.condition_rule == "none") != (not self.conditions):
            raise ValueRangeError(
                f"condition_rule is {self.condition_rule!r} with {len(self.conditions)} conditions; "
                '"none" belongs to an unconditional network.'
            )
        drawn = self.conditions if self.condition_rule in ("samples", "fair") else ()
        unknown = [name for name in self.varying if name not in drawn]
        if unknown:
            raise ValueRangeError(
                f"{', '.join(unknown)} cannot vary from picture to picture; conditions that are drawn: "
                f"{', '.join(drawn) or 'none'}."
            )
        if self.condition_rule == "fixed" and len(self.condition) != len(self.conditions):
            raise ValueRangeError(
                f"condition must have {len(self.conditions)} numbers; got {len(self.condition)}."
            )

    @property
    def samples_differ(self) -> bool:
        """Whether two samples of one identity are drawn with different numbers."""
        return self.variation > 0 or bool(self.varying)

    @property
    def count(self) -> int:
        """Pictures in all, each in every spectrum."""
        return self.identities * self.samples_per_identity

    @property
    def suffix(self) -> str:
        """Of a picture's file: ".jpg" or ".png"."""
        return ".jpg" if self.image == "jpeg" else ".png"

    @property
    def sha256(self) -> str:
        """Of the recipe as JSON with sorted names."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        entry = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in entry.items()}

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> Self:
        """What `to_dict` gave, also by way of JSON.

        Raises:
            DataError: fields are missing or unknown.
            ValueRangeError: a value that no recipe has.
        """
        try:
            return cls(**entry)
        except (KeyError, TypeError) as error:
            raise DataError(
                f"the recipe of the dataset is damaged or of another version of pyface ({error})."
            ) from error

    def differences(self, other: DatasetRecipe) -> list[str]:
        """Names of the fields in which two recipes differ, in the order of the fields."""
        names = [f.name for f in dataclasses.fields(self)]
        return [name for name in names if getattr(self, name) != getattr(other, name)]


@dataclass(frozen=True, order=True)
class Picture:
    """One picture of a dataset: sample number `sample` of identity number `identity`, both from 0."""

    identity: int
    sample: int

    @property
    def key(self) -> str:
        """Its name in a shard: "00000012_0003" is sample 3 of identity 12."""
        return f"{self.identity:08d}_{self.sample:04d}"


@dataclass(frozen=True)
class Plan:
    """Which pictures lie in which shard: identities in order, the samples of each together.

    >>> recipe = DatasetRecipe("net", "", 0, 3, 2, (64, 64), {"vis": 3}, variation=0.3, shard_size=4)
    >>> Plan(recipe).shards
    2
    >>> [picture.key for picture in Plan(recipe).pictures(1)]
    ['00000002_0000', '00000002_0001']
    """

    recipe: DatasetRecipe

    @property
    def shards(self) -> int:
        """How many there are; they are numbered from 0."""
        return -(-self.recipe.count // self.recipe.shard_size)

    def size(self, shard: int) -> int:
        """Pictures in one shard. Raises ValueRangeError for a shard that is not there."""
        if not 0 <= shard < self.shards:
            raise ValueRangeError(f"shard must be from 0 to {self.shards - 1}; got {shard}.")
        return min(self.recipe.shard_size, self.recipe.count - shard * self.recipe.shard_size)

    def pictures(self, shard: int) -> list[Picture]:
        """Those of one shard, in order. Raises ValueRangeError for a shard that is not there."""
        size, first = self.size(shard), shard * self.recipe.shard_size
        samples = self.recipe.samples_per_identity
        return [Picture(*divmod(number, samples)) for number in range(first, first + size)]

    def shard_of(self, picture: Picture) -> int:
        """The shard that a picture lies in. Raises ValueRangeError for one that is not of the dataset."""
        identities, samples = self.recipe.identities, self.recipe.samples_per_identity
        if not 0 <= picture.identity < identities or not 0 <= picture.sample < samples:
            raise ValueRangeError(
                f"the dataset has identities 0 to {identities - 1} with samples 0 to {samples - 1}; got "
                f"identity {picture.identity}, sample {picture.sample}."
            )
        return (picture.identity * samples + picture.sample) // self.recipe.shard_size

    def share(self, index: int, of: int) -> Sequence[int]:
        """Shards that process `index` of `of` writes when the work is divided beforehand: every `of`-th one.

        Raises:
            ValueRangeError: `of` is less than 1, or `index` is not from 0 to `of` - 1.
        """
        if of < 1:
            raise ValueRangeError(f"--num-shards must be 1 or more; got {of}.")
        if not 0 <= index < of:
            raise ValueRangeError(f"--shard-index must be from 0 to {of - 1}; got {index}.")
        return range(index, self.shards, of)
