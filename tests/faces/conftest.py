"""Rendered faces with known landmarks, and the one photograph: what detectors and landmarkers are held to."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from pyface.data import ProceduralFaces

_spec = importlib.util.spec_from_file_location("photographs", Path(__file__).with_name("photographs.py"))
_photographs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_photographs)


@dataclasses.dataclass
class Renders:
    """`images` uint8 [N, S, S, 3], `ibug68` [N, 68, 2], `five` [N, 5, 2], `iod` [N] distance of the eyes."""

    images: np.ndarray
    ibug68: np.ndarray
    five: np.ndarray

    @property
    def iod(self):
        return np.linalg.norm(self.five[:, 1] - self.five[:, 0], axis=1)

    def nme(self, points, truth):
        """Mean error of each face [N] as a share of the distance of the eyes."""
        return np.linalg.norm(points - truth, axis=-1).mean(axis=1) / self.iod


def rendered(count, size=256, seed=31, **overrides):
    faces = ProceduralFaces(count, 1, size, spectra=("vis",), seed=seed, **overrides)
    drawn = faces.render()
    return Renders(drawn["vis"], drawn["landmarks"][:, :68], drawn["landmarks"][:, 68:])


@pytest.fixture(scope="session")
def render():
    """`render(count, size=256, seed=31, **overrides)`: people with these face parameters."""
    return rendered


@pytest.fixture(scope="session")
def graphs():
    """The module `onnx_graphs` beside this file."""
    pytest.importorskip("onnx", reason="onnx writes the graphs (extra export)")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra faces)")
    spec = importlib.util.spec_from_file_location("onnx_graphs", Path(__file__).with_name("onnx_graphs.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def renders():
    """40 people as the dataset draws them."""
    return rendered(40)


@pytest.fixture(scope="session")
def astronaut():
    """Eileen Collins, NASA, public domain: uint8 [512, 512, 3]."""
    skimage_data = pytest.importorskip("skimage.data", reason="the photograph comes with scikit-image")
    return skimage_data.astronaut()


@pytest.fixture(scope="session")
def photographs():
    """The module tests/faces/photographs.py."""
    return _photographs


@pytest.fixture(scope="session")
def party():
    """A photograph with four faces, (photo, faces, areas): large and turned, turned, at the edge, small."""
    places = [
        (1.0, 0.3, (170, 190)),
        (0.5, -0.5, (400, 120)),
        (1.0, 0.1, (610, 300)),
        (0.25, 0.0, (330, 330)),
    ]
    return _photographs.photograph(places, 400, 640)
