"""Datasets of faces: rendered ones that need no files, and folders of pictures with labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyface.data.celeba import CelebA
from pyface.data.ckplus import CKPlus
from pyface.data.emotions import ACTION_UNITS, EMOTIONS
from pyface.data.face_attributes import ATTRIBUTES, CONDITIONS
from pyface.data.folder import ImageFolder
from pyface.data.mtfl import MTFL
from pyface.data.problems import Problem, Problems
from pyface.data.sample import FaceDataset, Sample, Subset, collate
from pyface.data.spectra import PairedSpectra

__all__ = [
    "ACTION_UNITS",
    "ATTRIBUTES",
    "CONDITIONS",
    "EMOTIONS",
    "MTFL",
    "SEGMENTATION_CLASSES",
    "CKPlus",
    "CelebA",
    "FaceDataset",
    "ImageFolder",
    "PairedSpectra",
    "Problem",
    "Problems",
    "ProceduralFaces",
    "Sample",
    "Subset",
    "collate",
    "condition_vector",
    "draw_faces",
    "face_parameters_for",
]

if TYPE_CHECKING:
    from pyface.data.procedural import (
        SEGMENTATION_CLASSES,
        ProceduralFaces,
        condition_vector,
        draw_faces,
        face_parameters_for,
    )

# the renderer is loaded when it is wanted: a folder of pictures does not need it
_RENDERED = (
    "SEGMENTATION_CLASSES",
    "ProceduralFaces",
    "condition_vector",
    "draw_faces",
    "face_parameters_for",
)


def __getattr__(name: str) -> Any:
    """Load what needs the renderer on first use."""
    if name in _RENDERED:
        from pyface.data import procedural

        return getattr(procedural, name)
    raise AttributeError(f"module 'pyface.data' has no attribute {name!r}")
