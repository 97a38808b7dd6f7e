"""Sections of bench/faces.py: how many rendered faces are found, landmark errors, milliseconds.

Errors are shares of the distance between the eyes (the normalised mean error of the literature); of a turned
head, of the distance that they would have from the front. Milliseconds are those of the process on the CPU,
which other processes hardly change, and by the clock.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pyface.data import ProceduralFaces
from pyface.faces import Face, convert, load_detector, load_landmarker
from pyface.faces.face import Photo
from pyface.faces.mesh import FaceMesh
from pyface.faces.protocols import Detector

SEED = 2025
SIZE = 256
# what is held fixed -> overrides of the renderer; pose in radians
POSES: dict[str, dict[str, float]] = {
    "yaw 0": {"yaw": 0.0},
    "yaw 0.3": {"yaw": 0.3},
    "yaw 0.6": {"yaw": 0.6},
    "yaw 0.9": {"yaw": 0.9},
    "yaw 1.2": {"yaw": 1.2},
    "pitch -0.5": {"pitch": -0.5},
    "pitch 0.5": {"pitch": 0.5},
    "roll 0.4": {"roll": 0.4},
    "roll 0.8": {"roll": 0.8},
}
OTHERS: dict[str, dict[str, float]] = {
    "no glasses": {"glasses": 0.0},
    "glasses": {"glasses": 1.0, "glasses_tint": 0.05},
    "sunglasses": {"glasses": 1.0, "glasses_tint": 1.0},
    "light from the front": {"key_azimuth": 0.0, "key_softness": 0.8},
    "hard light from the side": {"key_azimuth": 1.4, "key_softness": 0.0, "fill_strength": 0.1},
    "dark": {"exposure": 0.5},
    "bright": {"exposure": 1.6},
    "pale skin": {"melanin": 0.05},
    "very dark skin": {"melanin": 0.95},
}

Floats = npt.NDArray[np.float32]


@dataclasses.dataclass
class Truth:
    """Rendered pictures uint8 [N, S, S, 3], landmarks "ibug68" [N, 68, 2] and "5pt" [N, 5, 2], yaw [N]."""

    images: list[Photo]
    ibug68: Floats
    five: Floats
    yaw: Floats

    def first(self, count: int) -> Truth:
        return Truth(self.images[:count], self.ibug68[:count], self.five[:count], self.yaw[:count])

    def error(self, points: Floats, truth: Floats, chosen: Sequence[int]) -> Floats:
        """Error of each chosen face: [len(chosen)]."""
        eyes = np.linalg.norm(self.five[chosen, 1] - self.five[chosen, 0], axis=1) / np.cos(self.yaw[chosen])
        return np.linalg.norm(points - truth[chosen], axis=-1).mean(axis=1) / eyes


def rendered(count: int, overrides: Mapping[str, float] | None = None) -> Truth:
    """The first `count` people with these parameters; drawn once, as several sections want them."""
    return _rendered(count, tuple(sorted((overrides or {}).items())))


@functools.cache
def _rendered(count: int, overrides: tuple[tuple[str, float], ...]) -> Truth:
    faces = ProceduralFaces(count, 1, SIZE, spectra=("vis",), seed=SEED, **dict(overrides))
    parts = [faces.render(range(i, min(i + 64, count))) for i in range(0, count, 64)]
    images = np.concatenate([part["vis"] for part in parts])
    points = np.concatenate([part["landmarks"] for part in parts])
    return Truth(list(images), points[:, :68], points[:, 68:], faces.draw().columns["yaw"])


def found_in_place(truth: Truth, found: list[list[Face]]) -> list[Face | None]:
    """The best face of each picture whose box holds the middle of the true five points."""
    places = truth.five.mean(axis=1)
    return [
        next((f for f in faces if (f.box[:2] < place).all() and (place < f.box[2:]).all()), None)
        for faces, place in zip(found, places, strict=True)
    ]


def detection(quick: bool, threads: int) -> dict[str, Any]:
    """Share of faces found and of pictures with a false one, by pose and looks, and by size of the face."""
    cv2.setNumThreads(threads)
    count = 2 if quick else 12
    detectors = {
        "blazeface": load_detector("blazeface"),
        "centerface": load_detector("centerface", size=SIZE, threads=threads),
    }
    rows: dict[str, Any] = {}
    for name, overrides in {"as drawn": {}, **POSES, **OTHERS}.items():
        truth = rendered(count if overrides else 5 * count, overrides)
        few = truth.first(count // 2)  # CenterFace takes ten times as long
        rows[name] = {"blazeface": rates(truth, detectors["blazeface"])}
        rows[name]["centerface"] = rates(few, detectors["centerface"])
    return {"threshold": 0.5, "by looks": rows, "by size": sizes(count, detectors)}


def rates(truth: Truth, detector: Detector) -> dict[str, float]:
    found = detector.detect(truth.images)
    hits = found_in_place(truth, found)
    extra = sum(len(faces) > (hit is not None) for faces, hit in zip(found, hits, strict=True))
    five = [i for i, hit in enumerate(hits) if hit is not None]
    points = np.stack([face.landmarks["5pt"] for face in hits if face is not None])
    return {
        "faces": len(hits),
        "found": round(len(five) / len(hits), 4),
        "pictures with another box": round(extra / len(hits), 4),
        "5pt error": round(float(truth.error(points, truth.five, five).mean()), 4),
    }


def sizes(count: int, detectors: Mapping[str, Detector]) -> dict[str, Any]:
    """Share found of faces of so many pixels (longer side of the box) in a picture of 1024 x 1024.

    BlazeFace without and with windows for faces of 24 pixels; CenterFace sees the picture at 640 x 640.
    """
    truth = rendered(count)
    side = float(
        np.mean([face.size for faces in detectors["blazeface"].detect(truth.images) for face in faces])
    )
    tried = {**detectors, "blazeface, smallest=24": load_detector("blazeface", smallest=24)}
    tried["centerface"] = load_detector("centerface", size=640)
    rng = np.random.default_rng(SEED)
    rows: dict[str, Any] = {}
    for pixels in (24, 36, 48, 64, 96, 192):
        small = round(SIZE * pixels / side)
        pictures, five = [], []
        for image, points in zip(truth.images[: max(count // 2, 2)], truth.five, strict=False):
            canvas = np.full((1024, 1024, 3), 120, np.uint8)
            x, y = rng.integers(0, 1024 - small, 2)
            canvas[y : y + small, x : x + small] = cv2.resize(
                image, (small, small), interpolation=cv2.INTER_AREA
            )
            pictures.append(canvas)
            five.append(points * small / SIZE + [x, y])
        part = dataclasses.replace(truth.first(len(five)), images=pictures, five=np.array(five, np.float32))
        rows[f"{pixels} px"] = {
            name: round(float(np.mean([f is not None for f in found_in_place(part, d.detect(pictures))])), 4)
            for name, d in tried.items()
        }
    return rows


def landmarks(quick: bool, threads: int) -> dict[str, Any]:
    """Error of the mesh as 5pt and as ibug68, by pose and looks; and with boxes of another kind."""
    cv2.setNumThreads(threads)
    count = 2 if quick else 12
    detector, landmarker = load_detector("blazeface"), load_landmarker("facemesh")
    rows: dict[str, Any] = {}
    for name, overrides in {"as drawn": {}, **POSES, **OTHERS}.items():
        truth = rendered(count if overrides else 5 * count, overrides)
        hits = found_in_place(truth, detector.detect(truth.images))
        rows[name] = errors(truth, hits, lambda images, faces: landmarker.landmarks(images, faces))
    truth = rendered(2 * count)
    hits = [other_box(hit, i) for i, hit in enumerate(found_in_place(truth, detector.detect(truth.images)))]
    boxes = {}
    for passes in (1, 2, 3):
        mesh = load_landmarker("facemesh", max_passes=passes)
        boxes[f"max_passes={passes}"] = errors(truth, hits, mesh.landmarks)
    return {"by looks": rows, "boxes 0.75 to 1.4 times as large, moved, without eyes": boxes}


def errors(
    truth: Truth, hits: Sequence[Face | None], place: Callable[[list[Photo], list[Face]], Floats]
) -> dict[str, Any]:
    chosen = [i for i, hit in enumerate(hits) if hit is not None]
    mesh = place([truth.images[i] for i in chosen], [face for face in hits if face is not None])
    ibug = convert(mesh, "mesh468", "ibug68")
    five = truth.error(convert(mesh, "mesh468", "5pt"), truth.five, chosen)
    whole = truth.error(ibug, truth.ibug68, chosen)
    inner = truth.error(ibug[:, 17:], truth.ibug68[:, 17:], chosen)
    return {
        "faces": len(chosen),
        "5pt": round(float(five.mean()), 4),
        "5pt, 95th percentile": round(float(np.percentile(five, 95)), 4),
        "ibug68": round(float(whole.mean()), 4),
        "ibug68 without the jaw": round(float(inner.mean()), 4),
    }


def other_box(face: Face | None, seed: int) -> Face | None:
    """The face as a detector with other habits would give it: a scaled, moved box alone."""
    if face is None:
        return None
    rng = np.random.default_rng(seed)
    middle, size = (face.box[:2] + face.box[2:]) / 2, face.box[2:] - face.box[:2]
    half = size / 2 * np.exp(rng.uniform(np.log(0.75), np.log(1.4)))
    middle = middle + rng.uniform(-0.125, 0.125, 2) * size
    return Face(np.concatenate([middle - half, middle + half]).astype(np.float32), 1.0)


def timing(quick: bool, threads: int) -> dict[str, Any]:
    """Milliseconds for a picture or face: the median of rounds, with the share that the network takes."""
    cv2.setNumThreads(threads)
    rounds = 2 if quick else 5
    truth = rendered(16)
    large = [cv2.resize(image, (2048, 2048)) for image in truth.images[:4]]
    blaze, center = load_detector("blazeface"), load_detector("centerface", size=640, threads=threads)
    fine = load_detector("blazeface", smallest=96)
    mesh: Any = load_landmarker("facemesh")
    faces = [several[0] for several in blaze.detect(truth.images)]
    blank = np.zeros((8, 3, 256, 256), np.float32)
    crops = np.zeros((16, 3, 192, 192), np.float32)
    network: Any = blaze
    cases: dict[str, tuple[int, Callable[[], Any]]] = {
        "blazeface, one picture of 256": (1, lambda: blaze.detect(truth.images[:1])),
        "blazeface, 16 pictures of 256": (16, lambda: blaze.detect(truth.images)),
        "blazeface, its network alone, 8": (8, lambda: network._network(blank)),
        "blazeface, 4 pictures of 2048": (4, lambda: blaze.detect(large)),
        "blazeface, smallest=96, picture of 2048": (1, lambda: fine.detect(large[:1])),
        "centerface, picture of 256 at 640": (1, lambda: center.detect(truth.images[:1])),
        "facemesh, one face": (1, lambda: mesh.landmarks(truth.images[:1], faces[:1])),
        "facemesh, 16 faces": (16, lambda: mesh.landmarks(truth.images, faces)),
        "facemesh, its network alone, 16": (16, lambda: mesh._network(crops)),
    }
    if not isinstance(mesh, FaceMesh):
        raise TypeError(f"the landmarker facemesh is a {type(mesh).__name__}")
    return {"milliseconds each": {name: measured(rounds, each, run) for name, (each, run) in cases.items()}}


def measured(rounds: int, each: int, run: Callable[[], Any]) -> dict[str, float]:
    run()
    clock, cpu = [], []
    for _ in range(rounds):
        start = time.perf_counter(), time.process_time()
        run()
        clock.append((time.perf_counter() - start[0]) * 1e3 / each)
        cpu.append((time.process_time() - start[1]) * 1e3 / each)
    return {"cpu": round(statistics.median(cpu), 3), "clock": round(statistics.median(clock), 3)}
