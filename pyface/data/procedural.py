"""Rendered faces: a dataset without files, each picture made when it is asked for.

Every picture is set by (seed, identity, sample) alone, see `face_distribution`. No photograph of anybody is
involved.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import pyface
from pyface.data.emotions import ACTION_UNITS, EMOTIONS
from pyface.data.face_attributes import CONDITIONS, attribute_table, condition_table
from pyface.data.face_distribution import DISTRIBUTION_VERSION, draw_identities, draw_samples
from pyface.data.sample import Annotations, FaceDataset, Pixels, Sample
from pyface.errors import ValueRangeError
from pyface.ops.face_render import FaceParameter, face_parameters, face_render

__all__ = [
    "SEGMENTATION_CLASSES",
    "DrawnFaces",
    "ProceduralFaces",
    "condition_vector",
    "draw_faces",
    "face_parameters_for",
]

# value of the segmentation output -> what is there
SEGMENTATION_CLASSES = (
    "background", "skin", "eye", "hair", "clothes", "glasses",
    "mouth", "teeth", "lips", "brows", "neck", "ears",
)  # fmt: skip

SPECTRA = ("vis", "nir")
_RENDER_BATCH = 64
_POSE = ("yaw", "pitch", "roll")

Override = float | int | str | tuple[float, float]


@dataclasses.dataclass(frozen=True)
class DrawnFaces:
    """Drawn parameters of some faces.

    Attributes:
        parameters: float32 [N, P] in the order of `pyface.ops.face_parameters()`.
        emotions: index into EMOTIONS, int64 [N].
        identities: int64 [N].
        samples: int64 [N].
    """

    parameters: npt.NDArray[np.float32]
    emotions: npt.NDArray[np.int64]
    identities: npt.NDArray[np.int64]
    samples: npt.NDArray[np.int64]

    @property
    def columns(self) -> dict[str, npt.NDArray[np.float32]]:
        """Parameters by name, each float32 [N]."""
        return {p.name: self.parameters[:, i] for i, p in enumerate(face_parameters())}


def draw_faces(
    seed: int,
    identities: npt.ArrayLike,
    samples: npt.ArrayLike,
    overrides: Mapping[str, Override] | None = None,
) -> DrawnFaces:
    """Parameters and emotions of the pictures (identity, sample).

    Args:
        seed: of the dataset, in [0, 2^64).
        identities: whole number or array [N].
        samples: whole number or array [N], broadcast against `identities`.
        overrides: parameter name -> the number it always has, or (low, high): the drawn value is moved
            linearly from the parameter's limits into this interval. `emotion` -> one of EMOTIONS for all
            pictures.

    Raises:
        ValueRangeError: an unknown name, or a number outside the parameter's limits.
    """
    table = face_parameters()
    fixed = _checked_overrides(overrides or {}, table)
    people, pictures = (
        np.ascontiguousarray(a.reshape(-1))
        for a in np.broadcast_arrays(np.asarray(identities), np.asarray(samples))
    )
    wanted = fixed.pop("emotion", None)
    emotion = None if wanted is None else np.full(len(people), EMOTIONS.index(str(wanted)))
    columns, emotion = draw_samples(seed, people, pictures, draw_identities(seed, people), emotion)
    parameters = np.empty((len(people), len(table)), np.float64)
    for i, parameter in enumerate(table):
        values = columns.get(parameter.name, np.full(len(people), parameter.default, np.float64))
        override = fixed.get(parameter.name)
        if isinstance(override, tuple):
            share = (values - parameter.low) / (parameter.high - parameter.low)
            values = override[0] + np.clip(share, 0.0, 1.0) * (override[1] - override[0])
        elif override is not None:
            values = np.full(len(people), float(override))
        parameters[:, i] = np.clip(values, parameter.low, parameter.high)
    # the nearest float32 of a limit such as 0.7 may lie beyond it; the renderer compares in float32 too
    return DrawnFaces(
        parameters.astype(np.float32), emotion, people.astype(np.int64), pictures.astype(np.int64)
    )


def face_parameters_for(
    seed: int,
    identities: npt.ArrayLike,
    samples: npt.ArrayLike,
    overrides: Mapping[str, Override] | None = None,
) -> npt.NDArray[np.float32]:
    """Renderer parameters of the pictures (identity, sample): float32 [N, P]. See `draw_faces`."""
    return draw_faces(seed, identities, samples, overrides).parameters


def _checked_overrides(
    overrides: Mapping[str, Override], table: Sequence[FaceParameter]
) -> dict[str, Override]:
    limits = {p.name: (p.low, p.high) for p in table}
    for name, value in overrides.items():
        if name == "emotion":
            if value not in EMOTIONS:
                raise ValueRangeError(f"emotion must be one of {', '.join(EMOTIONS)}; got {value!r}.")
            continue
        if name not in limits:
            raise ValueRangeError(
                f"there is no face parameter {name!r}; pyface.ops.face_parameters() lists {len(limits)}, "
                f"such as {', '.join(list(limits)[:6])}."
            )
        numbers = value if isinstance(value, tuple) else (value,)
        low, high = limits[name]
        proper = len(numbers) in (1, 2) and all(isinstance(v, int | float) for v in numbers)
        if not proper or not all(low <= float(v) <= high for v in numbers):
            raise ValueRangeError(
                f"{name} must be a number or a (low, high) pair in [{low}, {high}]; got {value!r}."
            )
    return dict(overrides)


class ProceduralFaces(FaceDataset):
    """Rendered faces of people who do not exist; picture i is sample i % S of identity i // S.

    >>> faces = ProceduralFaces(identities=4, samples_per_identity=2, size=64)
    >>> faces[5].identity, faces[5].image.shape
    (2, (64, 64, 3))

    Args:
        identities: how many people, or their numbers.
        samples_per_identity: pictures of each.
        size: height and width in pixels, 16 to 1024.
        spectra: any of "vis" and "nir".
        seed: of the dataset.
        extras: further outputs of each sample, any of "segmentation" and "depth".
        **overrides: parameter name -> number or (low, high) pair, and `emotion`; see `draw_faces`.

    Raises:
        ValueRangeError: a bad number or name.
    """

    label_names = CONDITIONS

    def __init__(
        self,
        identities: int | Iterable[int],
        samples_per_identity: int,
        size: int = 128,
        spectra: Sequence[str] = SPECTRA,
        seed: int = 0,
        extras: Sequence[str] = (),
        **overrides: Override,
    ) -> None:
        people = np.arange(identities) if isinstance(identities, int) else np.fromiter(identities, np.int64)
        if not len(people) or samples_per_identity < 1:
            raise ValueRangeError(
                "identities and samples_per_identity must be at least 1; "
                f"got {len(people)} and {samples_per_identity}."
            )
        if not 16 <= size <= 1024:
            raise ValueRangeError(f"size must lie in [16, 1024]; got {size}.")
        for given, allowed, name in (
            (spectra, SPECTRA, "spectra"),
            (extras, ("segmentation", "depth"), "extras"),
        ):
            if (
                set(given) - set(allowed)
                or len(set(given)) != len(given)
                or (name == "spectra" and not given)
            ):
                raise ValueRangeError(
                    f"{name} must be different ones of {', '.join(allowed)}; got {list(given)}."
                )
        self.identities = people
        self.samples_per_identity = int(samples_per_identity)
        self.size = int(size)
        self.spectra = tuple(spectra)
        self.seed = int(seed)
        self.extras = tuple(extras)
        self.overrides = _checked_overrides(overrides, face_parameters())
        self.image_shape = (self.size, self.size, 3 if self.spectra[0] == "vis" else 1)
        self._annotations: Annotations | None = None

    def __len__(self) -> int:
        return len(self.identities) * self.samples_per_identity

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_annotations": None}  # made again in a worker when it is wanted

    def fingerprint(self) -> str:
        """Everything that decides the pictures."""
        people = hashlib.blake2b(self.identities.tobytes(), digest_size=16).hexdigest()
        renderer = (pyface.__version__, DISTRIBUTION_VERSION, [p.name for p in face_parameters()])
        who = (people, self.samples_per_identity, self.size, self.seed, sorted(self.overrides.items()))
        return json.dumps([*renderer, *who])

    def draw(self, indices: Iterable[int] | None = None) -> DrawnFaces:
        """Parameters and emotions of some pictures, without rendering them."""
        chosen = self._checked_indices(indices)
        people = self.identities[chosen // self.samples_per_identity]
        return draw_faces(self.seed, people, chosen % self.samples_per_identity, self.overrides)

    def render(
        self, indices: Iterable[int] | None = None, outputs: Sequence[str] | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        """Several pictures in one go.

        Args:
            indices: which; all when None.
            outputs: any of vis, nir, segmentation, depth, landmarks; by default `spectra`, `extras` and
                landmarks.

        Returns:
            vis uint8 [N, H, W, 3], nir uint8 [N, H, W], segmentation uint8 [N, H, W], depth float32
            [N, H, W], landmarks float32 [N, 73, 2]: those asked for.
        """
        return self._rendered(self.draw(indices), outputs)

    def _rendered(
        self, drawn: DrawnFaces, outputs: Sequence[str] | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        outputs = (*self.spectra, *self.extras, "landmarks") if outputs is None else tuple(outputs)
        rendered = face_render(torch.from_numpy(drawn.parameters), self.size, outputs, backend="cpu")
        return {name: tensor.numpy() for name, tensor in rendered.items()}

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        drawn = self.draw(indices)
        return samples_of(drawn, self._rendered(drawn))

    def images(self, indices: Iterable[int] | None = None, spectrum: str = "vis") -> Pixels:
        self._checked_spectrum(spectrum)
        chosen = self._checked_indices(indices)
        shape = (len(chosen), self.size, self.size, 3 if spectrum == "vis" else 1)
        pixels = np.empty(shape, np.uint8)
        for start in range(0, len(chosen), _RENDER_BATCH):
            part = self.render(chosen[start : start + _RENDER_BATCH], (spectrum,))[spectrum]
            pixels[start : start + _RENDER_BATCH] = part if part.ndim == 4 else part[..., None]
        return pixels

    @property
    def annotations(self) -> Annotations:
        """Columns of all pictures; drawn once, nothing is rendered."""
        if self._annotations is None:
            parts = [
                annotations_of(self.draw(range(start, min(start + 8192, len(self)))))
                for start in range(0, len(self), 8192)
            ]
            self._annotations = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return self._annotations


def annotations_of(drawn: DrawnFaces) -> dict[str, npt.NDArray[Any]]:
    """Columns [N] of drawn faces: identity, sample, emotion, years, pose, AU1..., attributes, conditions.

    `years` is the age as drawn; pose in radians; action units from 0 to 1.
    """
    parameters = drawn.columns
    table: dict[str, npt.NDArray[Any]] = {
        "identity": drawn.identities,
        "sample": drawn.samples,
        "emotion": np.array(EMOTIONS)[drawn.emotions],
        "years": np.rint(20 + 55 * parameters["age"]).astype(np.int64),
    }
    table |= {name: parameters[name] for name in _POSE}
    table |= {f"AU{unit}": parameters[f"au{unit}"] for unit in ACTION_UNITS}
    return table | attribute_table(parameters) | condition_table(parameters)


def samples_of(drawn: DrawnFaces, rendered: Mapping[str, npt.NDArray[Any]]) -> list[Sample]:
    """Samples of drawn faces and what was rendered of them."""
    parameters = drawn.columns
    attributes = attribute_table(parameters)
    conditions = condition_table(parameters)
    samples = []
    for i, (identity, number) in enumerate(
        zip(drawn.identities.tolist(), drawn.samples.tolist(), strict=True)
    ):
        sample = Sample(
            image=rendered["vis"][i] if "vis" in rendered else None,
            nir=rendered["nir"][i] if "nir" in rendered else None,
            segmentation=rendered["segmentation"][i] if "segmentation" in rendered else None,
            depth=rendered["depth"][i] if "depth" in rendered else None,
            attributes={name: bool(values[i]) for name, values in attributes.items()},
            identity=identity,
            action_units={f"AU{unit}": float(parameters[f"au{unit}"][i]) for unit in ACTION_UNITS},
            emotion=EMOTIONS[drawn.emotions[i]],
            conditions={name: float(values[i]) for name, values in conditions.items()},
            pose={name: float(parameters[name][i]) for name in _POSE},
            parameters={name: float(values[i]) for name, values in parameters.items()},
            path=f"{identity:06d}_{number:03d}",
        )
        if "landmarks" in rendered:
            points = rendered["landmarks"][i]
            sample.landmarks = {"ibug68": points[:68], "5pt": points[68:73]}
        samples.append(sample)
    return samples


def condition_vector(sample: Sample, names: Sequence[str] = CONDITIONS) -> npt.NDArray[np.float32]:
    """The sample's conditions as numbers: float32 [len(names)] in [0, 1].

    Raises:
        ValueRangeError: the sample has no such condition.
    """
    missing = [name for name in names if name not in sample.conditions]
    if missing:
        raise ValueRangeError(
            f"the sample has no condition {missing[0]!r}; it has {sorted(sample.conditions)}."
        )
    return np.array([sample.conditions[name] for name in names], np.float32)
