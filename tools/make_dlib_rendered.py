"""Fits the projection of the embedder `dlib-rendered`: pyface/faces/dlib_rendered.safetensors.

    python tools/make_dlib_rendered.py

Rendered faces lie close together in the 128 numbers of dlib's network, which was trained on photographs, and
pose, light and glasses move them as much as who is shown. Fisher's linear discriminant of other rendered
people finds the directions in which people differ (Fisher 1936, "The use of multiple measurements in
taxonomic problems"; Rao 1948 for many classes): eigenvectors of the scatter between people against that
within them. Every picture is taken four times, as it is and mirrored, each with landmarks moved a little, so
that how it was aligned counts as a difference within people.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch

from pyface.data import ProceduralFaces
from pyface.faces import load_embedder
from pyface.faces.align import align_batch
from pyface.faces.model_store import model_entry
from pyface.io.atomic import atomic_write

TARGET = Path(__file__).parents[1] / "pyface" / "faces" / "dlib_rendered.safetensors"
PEOPLE, SAMPLES, SIZE, SEED = 300, 4, 160, 99
FIRST_PERSON = 10_000
MOVED = 0.02  # standard deviation of a landmark, in distances between the eyes
DIM = 32
SHRINKAGE = 0.3  # of the scatter within people towards a multiple of the unit matrix

Matrix = npt.NDArray[np.float64]


def training_vectors() -> tuple[Matrix, npt.NDArray[np.int64]]:
    """dlib's vectors float64 [N, 128] of rendered people, and who is on each."""
    faces = ProceduralFaces(
        range(FIRST_PERSON, FIRST_PERSON + PEOPLE), SAMPLES, size=SIZE, spectra=("vis",), seed=SEED
    )
    embedder = load_embedder("dlib")
    draw = np.random.default_rng(SEED)
    vectors, people = [], []
    for start in range(0, len(faces), 50):
        part = faces.render(range(start, min(start + 50, len(faces))))
        points = part["landmarks"][:, 68:].astype(np.float64)
        eyes = np.linalg.norm(points[:, 1] - points[:, 0], axis=1)[:, None, None]
        for _ in range(2):
            moved = points + draw.normal(0, MOVED, points.shape) * eyes
            chips, _ = align_batch(list(part["vis"]), moved, embedder.template, embedder.size)
            with torch.inference_mode():
                vectors += [embedder.embed(chips), embedder.embed(chips.flip(3))]
            people += [np.arange(start, start + len(points)) // SAMPLES] * 2
        print(f"{start + len(points)} of {len(faces)} pictures", file=sys.stderr)
    return torch.cat(vectors).double().numpy(), np.concatenate(people)


def discriminant(vectors: Matrix, people: npt.NDArray[np.int64]) -> tuple[Matrix, Matrix]:
    """Mean [D] and projection [D, DIM]; the scatter within people is about the unit matrix afterwards."""
    mean = vectors.mean(0)
    centres = np.stack([vectors[people == person].mean(0) for person in np.unique(people)])
    apart = vectors - centres[people]
    within = apart.T @ apart / (len(vectors) - len(centres))
    within += SHRINKAGE * np.trace(within) / len(within) * np.eye(len(within))
    between = np.cov(centres.T)
    lower = np.linalg.inv(np.linalg.cholesky(within))
    _, directions = np.linalg.eigh(lower @ between @ lower.T)
    return mean, lower.T @ directions[:, ::-1][:, :DIM]


def main() -> None:
    """Render, embed, fit, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=TARGET)
    out = parser.parse_args().out
    mean, projection = discriminant(*training_vectors())
    about = {
        "network": "dlib-resnet",
        "network_sha256": model_entry("dlib-resnet").file().sha256,
        "data": f"procedural:{PEOPLE}x{SAMPLES}@{SIZE}, seed {SEED}, people from {FIRST_PERSON}",
        "command": "python tools/make_dlib_rendered.py",
    }
    tensors = {
        "mean": torch.from_numpy(mean).float(),
        "projection": torch.from_numpy(projection).float().contiguous(),
    }
    with atomic_write(out) as temporary:
        safetensors.torch.save_file(tensors, temporary, metadata={"pyface": json.dumps(about)})


if __name__ == "__main__":
    main()
