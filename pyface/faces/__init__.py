"""Faces in pictures: find, measure, align, cut out and put back, and tell people apart."""

from __future__ import annotations

from pyface.faces.align import AlignedFace, align, align_batch
from pyface.faces.analyzer import FaceAnalyzer
from pyface.faces.detect import as_rgb
from pyface.faces.extract import ExtractedFace, FaceExtractor
from pyface.faces.face import Face
from pyface.faces.registry import (
    load_action_units,
    load_attributes,
    load_detector,
    load_embedder,
    load_features,
    load_landmarker,
    model_names,
    register,
)
from pyface.faces.restore import FaceReconstructor
from pyface.faces.schemes import SCHEMES, convert, converted, mirror

__all__ = [
    "SCHEMES",
    "AlignedFace",
    "ExtractedFace",
    "Face",
    "FaceAnalyzer",
    "FaceExtractor",
    "FaceReconstructor",
    "align",
    "align_batch",
    "as_rgb",
    "convert",
    "converted",
    "load_action_units",
    "load_attributes",
    "load_detector",
    "load_embedder",
    "load_features",
    "load_landmarker",
    "mirror",
    "model_names",
    "register",
]
