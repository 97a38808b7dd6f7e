"""Models by name: the defaults, what users register, and what other packages offer as entry points.

An entry point of the group `pyface.detector` (or landmarker, embedder, attributes, action_units, features)
names a factory; a path instead of a name is given to the factory that takes its ending.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from pyface.errors import ValueRangeError
from pyface.faces.protocols import (
    ActionUnitModel,
    AttributeModel,
    Detector,
    Embedder,
    FeatureExtractor,
    Landmarker,
    protocols,
)

__all__ = [
    "KINDS",
    "load_action_units",
    "load_attributes",
    "load_detector",
    "load_embedder",
    "load_features",
    "load_landmarker",
    "model_names",
    "register",
]

Factory = Callable[..., Any]

KINDS = tuple(protocols())

# kind -> name or ".ending" -> "module:factory", imported when it is asked for
_BUILT_IN: dict[str, dict[str, str]] = {kind: {} for kind in KINDS}
_BUILT_IN["embedder"] = {
    "default": "pyface.faces.embed:dlib",
    "dlib": "pyface.faces.embed:dlib",
    "dlib-rendered": "pyface.faces.embed:dlib_rendered",
    "dlib-resnet": "pyface.faces.embed:dlib",
    "recognition-64": "pyface.faces.embed:recognition_64",
    ".dat": "pyface.faces.embed:dlib",
    ".onnx": "pyface.faces.embed_onnx:OnnxEmbedder",
    ".pt": "pyface.faces.embed:iresnet",
    ".pth": "pyface.faces.embed:iresnet",
    ".safetensors": "pyface.faces.embed:saved",
}
_BUILT_IN["features"] = {
    "default": "pyface.faces.perceptual:dlib_features",
    "dlib": "pyface.faces.perceptual:dlib_features",
    "recognition-64": "pyface.faces.perceptual:recognition_features",
}
_BUILT_IN["attributes"] = {
    "default": "pyface.faces.attributes:default",
    "age-gender": "pyface.faces.attributes:AgeGender",
    "fer": "pyface.faces.attributes:Expression",
}
_BUILT_IN["detector"] = {
    "default": "pyface.faces.blazeface:load_blazeface",
    "blazeface": "pyface.faces.blazeface:load_blazeface",
    "centerface": "pyface.faces.onnx_detectors:load_centerface",
    ".onnx": "pyface.faces.onnx_detectors:OnnxDetector",
}
_BUILT_IN["landmarker"] = {
    "default": "pyface.faces.mesh:load_facemesh",
    "facemesh": "pyface.faces.mesh:load_facemesh",
}
_BUILT_IN["action_units"] = {
    "default": "pyface.faces.action_units:NetworkActionUnits",
    "mesh": "pyface.faces.action_units:MeshActionUnits",
    ".safetensors": "pyface.faces.action_units:NetworkActionUnits",
}
_REGISTERED: dict[str, dict[str, Factory]] = {kind: {} for kind in KINDS}


def register(kind: str, name: str, factory: Factory) -> None:
    """Make `load_<kind>(name, **options)` call `factory(**options)`.

    A name that begins with a dot is the ending of a file: the factory gets the path as its first argument. A
    later registration of a name replaces the earlier one.

    Raises:
        ValueRangeError: there is no such kind.
    """
    _REGISTERED[_checked_kind(kind)][name] = factory


def model_names(kind: str) -> list[str]:
    """Names that `load_<kind>` knows, with those of `pyface models add`, and endings of files."""
    from pyface.faces import model_store

    added = (entry for entry in model_store.model_entries().values() if not entry.shipped)
    return sorted(code_names(_checked_kind(kind)) | {entry.name for entry in added if entry.kind == kind})


def code_names(kind: str) -> set[str]:
    """Names and endings of the kind that code stands for; they go before models of the store."""
    return {*_BUILT_IN[kind], *_REGISTERED[kind], *_entry_points(kind)}


def load_detector(name: str | os.PathLike[str] = "default", **options: Any) -> Detector:
    """The detector of this name or file; options go to it."""
    return cast(Detector, _load("detector", name, options))


def load_landmarker(name: str | os.PathLike[str] = "default", **options: Any) -> Landmarker:
    """The landmarker of this name or file; options go to it."""
    return cast(Landmarker, _load("landmarker", name, options))


def load_embedder(name: str | os.PathLike[str] = "default", **options: Any) -> Embedder:
    """The embedder of this name or file (.onnx, .pth); options go to it."""
    return cast(Embedder, _load("embedder", name, options))


def load_attributes(name: str | os.PathLike[str] = "default", **options: Any) -> AttributeModel:
    """The attribute model of this name or file; options go to it."""
    return cast(AttributeModel, _load("attributes", name, options))


def load_action_units(name: str | os.PathLike[str] = "default", **options: Any) -> ActionUnitModel:
    """The action-unit model of this name or file; options go to it."""
    return cast(ActionUnitModel, _load("action_units", name, options))


def load_features(name: str | os.PathLike[str] = "default", **options: Any) -> FeatureExtractor:
    """The feature extractor of this name or file; options go to it."""
    return cast(FeatureExtractor, _load("features", name, options))


def _load(kind: str, name: str | os.PathLike[str], options: dict[str, Any]) -> Any:
    text = os.fspath(name)
    factory = None if text.startswith(".") else _factory(kind, text)
    if factory is not None:
        made = factory(**options)
    else:
        path, options = _file_and_options(kind, text, options)
        added = path != Path(text)
        factory = _factory(kind, path.suffix.lower()) if path.suffix else None
        if factory is None or not (path.is_file() or path.parent != Path()):
            raise ValueRangeError(
                f"there is no {kind} {text!r}; there are {', '.join(model_names(kind)) or 'none'} "
                "(a name with a dot stands for files of that ending)."
            )
        made = factory(path, **options)
        if added:
            made.name = text  # by which reports find its licence
    if not isinstance(made, protocols()[kind]):
        raise ValueRangeError(
            f"{text!r} gives a {type(made).__name__}, which is no {protocols()[kind].__name__} "
            "(pyface.faces.protocols says what it must have)."
        )
    return made


def _file_and_options(kind: str, name: str, options: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """The path itself, or file and options of a model of this name from `pyface models add`."""
    from pyface.faces import model_store

    entry = model_store.registered_entry(name)
    if entry is None or entry.kind != kind:
        return Path(name), options
    return model_store.model_file(name), {**entry.options, **options}


def _factory(kind: str, name: str) -> Factory | None:
    if name in _REGISTERED[kind]:
        return _REGISTERED[kind][name]
    if name in _BUILT_IN[kind]:
        module, _, attribute = _BUILT_IN[kind][name].partition(":")
        return cast(Factory, getattr(importlib.import_module(module), attribute))
    found = _entry_points(kind).get(name)
    return None if found is None else cast(Factory, found.load())


def _entry_points(kind: str) -> dict[str, importlib.metadata.EntryPoint]:
    return {point.name: point for point in importlib.metadata.entry_points(group=f"pyface.{kind}")}


def _checked_kind(kind: str) -> str:
    if kind not in KINDS:
        raise ValueRangeError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}.")
    return kind
