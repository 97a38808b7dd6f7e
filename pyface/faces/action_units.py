"""Action units of faces: a network over picture and mesh, and a transparent model of the mesh alone.

Both give intensities from 0 (absent) to 1 (maximum), as `pyface.data.Sample` holds them.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pyface.errors import CheckpointError, ShapeError, ValueRangeError
from pyface.faces.expression_geometry import (
    GEOMETRY,
    RIGID_POINTS,
    RIGID_SHAPE,
    checked_meshes,
    expression_geometry,
)
from pyface.faces.face import Face, Photo, checked_photo
from pyface.faces.templates import similarity
from pyface.faces.warp import warp_image
from pyface.models import ActionUnitNetwork, load

__all__ = [
    "MESH_RULES",
    "PRESENCE",
    "MeshActionUnits",
    "MeshRule",
    "NetworkActionUnits",
    "expression_picture",
    "facs_letter",
    "meshes_of",
    "presence",
]

Floats = npt.NDArray[np.float32]
Grey = npt.NDArray[np.uint8]

_LETTERS = ("", "A", "B", "C", "D", "E")
_USUAL_PRESENCE = 0.3  # letter B or more: what is clearly visible in FACS

# Intensity from which a unit counts as present: what the attributes of rendered faces say (Smiling,
# Mouth_Slightly_Open, Narrow_Eyes; see pyface.data.ATTRIBUTES), else letter B of FACS.
PRESENCE: Mapping[str, float] = {"AU12": 0.3, "AU25": 0.25, "AU26": 0.15, "AU43": 0.4}

_EYES_DOWN = 0.3  # of the middle between the eyes in the aligned picture, as a share of its height
_FLAT_POINTS = 10  # so many of RIGID_POINTS, the temples and sides left out, turn little out of the picture
_AT_ONCE = 64
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


def presence(unit: str) -> float:
    """The intensity from which an action unit such as "AU12" counts as present."""
    return PRESENCE.get(unit, _USUAL_PRESENCE)


def facs_letter(intensity: float) -> str:
    """The FACS letter of an intensity: "A" (trace) to "E" (maximum), "" for an absent unit.

    The letters stand for 0.2, 0.4, 0.6, 0.8 and 1, the nearest is given; below 0.1 the unit is absent.

    >>> [facs_letter(v) for v in (0.05, 0.1, 0.45, 1.0)]
    ['', 'A', 'B', 'E']

    Raises:
        ValueRangeError: the intensity is not in [0, 1].
    """
    if not 0.0 <= intensity <= 1.0:
        raise ValueRangeError(
            f"intensity must lie in [0, 1]; got {intensity!r}. Numbers of FACS from 0 to 5 are divided by 5."
        )
    return _LETTERS[int(np.floor(5.0 * float(intensity) + 0.5 + 1e-9))]


def meshes_of(faces: Sequence[Face]) -> Floats:
    """Landmarks "mesh468" of faces: float32 [N, 468, 3].

    Raises:
        ValueRangeError: a face has none; the message says which landmarker to run.
        ShapeError, DTypeError: they are not floating-point points with a depth.
    """
    for i, face in enumerate(faces):
        if "mesh468" not in face.landmarks:
            raise ValueRangeError(
                f"face {i} has no landmarks 'mesh468', which action units are read from; it has "
                f"{', '.join(face.landmarks) or 'none'}. Run FaceMesh first: face.landmarks['mesh468'] = "
                "pyface.faces.load_landmarker('facemesh').landmarks([image], [face])[0]."
            )
    if not faces:
        return np.zeros((0, 468, 3), np.float32)
    shapes = {face.landmarks["mesh468"].shape for face in faces}
    if len(shapes) > 1:
        raise ShapeError(
            f"landmarks 'mesh468' must be [468, 3] for every face; got {sorted(shapes)}. "
            "Run FaceMesh for those without a depth."
        )
    meshes = np.stack([face.landmarks["mesh468"] for face in faces])
    return checked_meshes(meshes).astype(np.float32)


def expression_picture(
    image: Photo, mesh: npt.ArrayLike, size: int = 80, eye_distance: float = 0.375, margin: int = 0
) -> Grey:
    """The grey picture that the network reads: uint8 [size + 2 margin, size + 2 margin].

    One similarity brings the corners of the eyes, the bridge and the base of the nose to their usual places;
    beyond the photograph its edge goes on.

    Args:
        image: uint8 [H, W, 3], RGB.
        mesh: "mesh468" of the face, [468, 3] in pixels of `image`.
        size: height and width.
        eye_distance: distance of the eyes' centres as a share of `size`.
        margin: more pixels on every side.

    Raises:
        ShapeError, DTypeError: not such an image or mesh.
    """
    points = checked_meshes(np.asarray(mesh)[None])[0, RIGID_POINTS[:_FLAT_POINTS], :2]
    target = np.asarray(RIGID_SHAPE)[:_FLAT_POINTS, :2] * (eye_distance * size)
    target = target + np.array([margin + size / 2, margin + _EYES_DOWN * size])
    matrix = similarity(points, target)
    side = size + 2 * margin
    colour = warp_image(checked_photo(image), matrix, side, border="edge")
    return np.rint(colour.astype(np.float32) @ _LUMA).astype(np.uint8)


class NetworkActionUnits:
    """Action units by the network `action-units`: eyes, mouth and the geometry of the mesh together.

    It was trained on rendered faces as the default detector and FaceMesh find them; its model card
    (docs/model-cards/action-units.md) has its figures, and what it was not tested on.

    Args:
        path: a checkpoint, or the name of the network that comes with pyface.
        device: where it runs.

    Raises:
        CheckpointError: no such file, another kind of network, or one for other geometric features.
    """

    name = "default"

    def __init__(
        self, path: str | os.PathLike[str] = "action-units", device: str | torch.device = "cpu"
    ) -> None:
        self.network: ActionUnitNetwork = load(path, device=device, kind="action-unit reader")
        self.device = torch.device(device)
        config = self.network.config
        unknown = [name for name in config.geometry if name not in GEOMETRY]
        if unknown:
            raise CheckpointError(
                f"{path} was trained on features that this version does not measure: "
                f"{', '.join(unknown[:3])}. Use the network that comes with this version."
            )
        self.units: tuple[str, ...] = tuple(config.units)
        self._columns = [GEOMETRY.index(name) for name in config.geometry]

    def intensities(self, images: Sequence[Photo], faces: Sequence[Face]) -> Floats:
        """float32 [N, len(units)] in [0, 1]; face i, with landmarks "mesh468", is in image i.

        Raises:
            ValueRangeError: a face has no such landmarks.
            ShapeError, DTypeError: not one uint8 RGB picture for each face, or landmarks of another kind.
        """
        _check_pairs(images, faces)
        meshes = meshes_of(faces)
        geometry = torch.from_numpy(expression_geometry(meshes)[:, self._columns])
        config = self.network.config
        found = np.empty((len(faces), len(self.units)), np.float32)
        for start in range(0, len(faces), _AT_ONCE):
            some = range(start, min(start + _AT_ONCE, len(faces)))
            crops = [expression_picture(images[i], meshes[i], config.size, config.eye_distance) for i in some]
            pictures = torch.from_numpy(np.stack(crops))[:, None].to(self.device).float() / 127.5 - 1.0
            with torch.inference_mode():
                read = self.network.intensities(pictures, geometry[some.start : some.stop].to(self.device))
            found[some.start : some.stop] = read.cpu().numpy()
        return found


@dataclasses.dataclass(frozen=True)
class MeshRule:
    """An action unit as one measure of the mesh: 0 at `rest`, 1 at `full`, a straight line between.

    feature: one of `pyface.faces.expression_geometry.GEOMETRY`, in units of the distance between the eyes.
    """

    feature: str
    rest: float
    full: float

    def intensities(self, values: npt.NDArray[np.floating[Any]]) -> Floats:
        """float32 [N] in [0, 1] of values [N] of the feature."""
        share = (values.astype(np.float64) - self.rest) / (self.full - self.rest)
        return np.clip(share, 0.0, 1.0).astype(np.float32)


# Least-squares lines over rendered faces as FaceMesh measures them, fitted anew by
# `tools/make_action_units.py --stage rules`. AU12 and AU26 stand out of the mesh's noise, brows hardly; the
# model card has the figures.
MESH_RULES: Mapping[str, MeshRule] = {
    "AU1": MeshRule("inner brow height", 0.340, 0.353),
    "AU2": MeshRule("outer brow height", 0.305, 0.319),
    "AU4": MeshRule("brow to lid", 0.304, 0.273),
    "AU12": MeshRule("lip corner lift", 0.037, 0.067),
    "AU15": MeshRule("lip corner lift", 0.037, 0.021),
    "AU25": MeshRule("lip opening", 0.033, 0.054),
    "AU26": MeshRule("lip opening", 0.033, 0.137),
}


class MeshActionUnits:
    """Action units by one measured distance each: nothing is learnt but the two ends of each line.

    People differ at rest, so a measure says less about one picture than about pictures of one person. Give
    `neutral` where a neutral picture of the person is known: the line then starts at that person's rest.

    Args:
        rules: unit -> its rule.

    Raises:
        ValueRangeError: a rule names an unknown feature, or has no slope.
    """

    name = "mesh"

    def __init__(self, rules: Mapping[str, MeshRule] = MESH_RULES) -> None:
        for unit, rule in rules.items():
            if rule.feature not in GEOMETRY:
                raise ValueRangeError(
                    f"the rule of {unit} names {rule.feature!r}; features are {', '.join(GEOMETRY[:6])} ... "
                    "(pyface.faces.expression_geometry.GEOMETRY)."
                )
            if rule.full == rule.rest:
                raise ValueRangeError(
                    f"the rule of {unit} needs two different ends; got {rule.rest:g} twice."
                )
        self.rules = dict(rules)
        self.units: tuple[str, ...] = tuple(rules)

    def intensities(
        self, images: Sequence[Photo], faces: Sequence[Face], neutral: Face | None = None
    ) -> Floats:
        """float32 [N, len(units)] in [0, 1]; the pictures are not looked at.

        Args:
            images: one for each face, as every action-unit model takes them.
            faces: with landmarks "mesh468".
            neutral: the same person without expression; all faces are then compared with it.

        Raises:
            ValueRangeError: a face has no such landmarks.
            ShapeError, DTypeError: not one picture for each face, or landmarks of another kind.
        """
        _check_pairs(images, faces)
        geometry = expression_geometry(meshes_of(faces))
        own = None if neutral is None else expression_geometry(meshes_of([neutral]))[0]
        columns = []
        for rule in self.rules.values():
            column = GEOMETRY.index(rule.feature)
            shift = 0.0 if own is None else float(own[column]) - rule.rest
            columns.append(rule.intensities(geometry[:, column] - shift))
        return np.stack(columns, axis=1) if columns else np.zeros((len(faces), 0), np.float32)


def _check_pairs(images: Sequence[Photo], faces: Sequence[Face]) -> None:
    if len(images) != len(faces):
        raise ShapeError(
            f"intensities wants one picture for each face; got {len(images)} pictures and "
            f"{len(faces)} faces. Repeat a picture that has several faces."
        )
    for i, image in enumerate(images):
        checked_photo(image, f"images[{i}]")
