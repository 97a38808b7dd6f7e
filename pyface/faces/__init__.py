"""Faces in pictures: find, measure, align, cut out and put back, and tell people apart."""

from __future__ import annotations

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

__all__ = [
    "Face",
    "load_action_units",
    "load_attributes",
    "load_detector",
    "load_embedder",
    "load_features",
    "load_landmarker",
    "model_names",
    "register",
]
