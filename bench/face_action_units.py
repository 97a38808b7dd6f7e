"""How well action units are read: unseen rendered people, one photograph, and the time it takes.

`python bench/face_action_units.py [--identities 75] [--samples 2] [--size 128]` prints the tables;
`action_units()` is a section of bench/faces.py. Faces are found by the default detector and measured by the
default landmarker.
Needs `pyface models fetch default`, and scikit-image for the photograph.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pyface.data import ProceduralFaces
from pyface.faces import Face, load_action_units, load_detector, load_landmarker
from pyface.faces.action_units import facs_letter
from pyface.metrics import UnitAgreement, unit_agreement, unit_table

SEED = 1404  # a population that neither training nor the model card's checks have drawn from
MODELS = ("default", "mesh")

Photo = npt.NDArray[np.uint8]


def found_faces(photos: Sequence[Photo]) -> tuple[list[Face], list[int]]:
    """The best face of each picture with its mesh, and the indices of the pictures that have one."""
    best = [faces[0] if faces else None for faces in load_detector().detect(photos)]
    kept = [i for i, face in enumerate(best) if face is not None]
    faces = [face for face in best if face is not None]
    meshes = load_landmarker().landmarks([photos[i] for i in kept], faces)
    for face, mesh in zip(faces, meshes, strict=True):
        face.landmarks["mesh468"] = mesh
    return faces, kept


@dataclasses.dataclass(frozen=True)
class Reading:
    """How well one model reads rendered faces, and CPU milliseconds a face."""

    agreement: dict[str, UnitAgreement]
    milliseconds: float


def rendered(identities: int, samples: int, size: int) -> tuple[dict[str, int], dict[str, Reading]]:
    """How many faces were drawn and found, and the reading of each model."""
    data = ProceduralFaces(identities, samples, size=size, spectra=("vis",), seed=SEED)
    photos = list(data.images())
    faces, kept = found_faces(photos)
    photos = [photos[i] for i in kept]
    readings = {}
    for name in MODELS:
        model = load_action_units(name)
        started = time.process_time()
        read = model.intensities(photos, faces)
        cost = (time.process_time() - started) * 1e3 / len(faces)
        true = data.labels(model.units)[kept]
        readings[name] = Reading(unit_agreement(read, true, model.units), cost)
    counts = {"identities": identities, "size": size, "seed": SEED, "faces": len(data), "found": len(faces)}
    return counts, readings


def action_units(quick: bool, threads: int) -> dict[str, Any]:
    """The section "action units" of bench/faces.py."""
    torch.set_num_threads(threads)
    counts, readings = rendered(6 if quick else 75, 2, 128)
    models = {
        name: {
            "milliseconds": round(reading.milliseconds, 3),
            "units": {unit: agreement.to_dict() for unit, agreement in reading.agreement.items()},
        }
        for name, reading in readings.items()
    }
    return counts | {"models": models}


def rendered_tables(identities: int, samples: int, size: int) -> list[str]:
    """A table for each model: agreement with what was drawn, and milliseconds of one thread a face."""
    counts, readings = rendered(identities, samples, size)
    drawn = f"{counts['faces']} rendered faces of {identities} people at {size} px, {counts['found']} found"
    lines = [drawn, ""]
    for name, reading in readings.items():
        lines += [f"Model {name!r}, {reading.milliseconds:.2f} ms a face:", ""]
        lines += [unit_table(reading.agreement), ""]
    return lines


def photograph_table() -> list[str]:
    """What both models read off the smiling astronaut of scikit-image (public domain)."""
    import skimage.data

    image = skimage.data.astronaut()
    faces, _ = found_faces([image])
    lines = [
        "Astronaut (scikit-image), smiling with parted lips:",
        "",
        "| model | units present |",
        "|--|--|",
    ]
    for name in MODELS:
        model = load_action_units(name)
        read = dict(zip(model.units, model.intensities([image], faces)[0].tolist(), strict=True))
        letters = [f"{unit} {facs_letter(value)} ({value:.2f})" for unit, value in read.items()]
        shown = [text for text, value in zip(letters, read.values(), strict=True) if facs_letter(value)]
        lines.append(f"| {name} | {', '.join(shown) or 'none'} |")
    return lines


def action_unit_section(identities: int = 75, samples: int = 2, size: int = 128) -> str:
    """The section of a report: Markdown."""
    return "\n".join(
        ["## Action units", "", *rendered_tables(identities, samples, size), *photograph_table()]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--identities", type=int, default=75)
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--size", type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(action_unit_section(options.identities, options.samples, options.size))


if __name__ == "__main__":
    main()
