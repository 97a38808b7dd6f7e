"""From photographs to aligned faces with their features, a few photographs at a time."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import math
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from pyface.errors import DataError, ValueRangeError
from pyface.faces import Face, load_detector, load_embedder, load_landmarker
from pyface.faces.align import align
from pyface.faces.analyzer import aligned_tensor
from pyface.faces.protocols import Detector, Embedder, Landmarker, Photo
from pyface.faces.schemes import convert
from pyface.faces.templates import load_template
from pyface.io.images import read_image

__all__ = ["STAGES", "CropSettings", "Cropper", "FaceCrop", "PhotoResult", "colour_photo"]

STAGES = ("read", "detect", "landmarks", "align", "embed", "write")
HISTOGRAM_BINS = 10
LOW_RESOLUTION = 8


@dataclasses.dataclass(frozen=True)
class CropSettings:
    """How faces are found, chosen and cut out.

    Attributes:
        size: height and width of the aligned faces in pixels.
        also: further sizes, each the area average of the first.
        align: template, see `pyface.faces.align`.
        faces: "largest" of a photograph among those with `min_score`, or "all".
        min_face: longer side of a face's box in pixels, below which it is rejected.
        min_score: of the detector, below which a face is rejected.
        min_inside: share of the aligned picture that must come from inside the photograph.
        embed: compute identity features.
        detector, landmarker, embedder: names or files, see `pyface.faces.registry`.
    """

    size: int = 256
    also: tuple[int, ...] = ()
    align: str = "ffhq"
    faces: str = "largest"
    min_face: float = 48.0
    min_score: float = 0.6
    min_inside: float = 0.6
    embed: bool = True
    detector: str = "default"
    landmarker: str = "default"
    embedder: str = "default"

    def __post_init__(self) -> None:
        for name, value in (("size", self.size), *(("also", size) for size in self.also)):
            if not 16 <= value <= 4096:
                raise ValueRangeError(f"{name} must lie in [16, 4096]; got {value}.")
        if any(size >= self.size for size in self.also) or len(set(self.also)) != len(self.also):
            raise ValueRangeError(
                f"further sizes must be different and below {self.size}; got {list(self.also)}."
            )
        load_template(self.align)  # raises for an unknown one
        if not 0 < self.min_face < math.inf:
            raise ValueRangeError(f"min_face must be a number of pixels above 0; got {self.min_face}.")
        if self.faces not in ("largest", "all"):
            raise ValueRangeError(f'faces must be "largest" or "all"; got {self.faces!r}.')
        for name, share in (("min_score", self.min_score), ("min_inside", self.min_inside)):
            if not 0 <= share <= 1:
                raise ValueRangeError(f"{name} must lie in [0, 1]; got {share}.")

    @property
    def sizes(self) -> tuple[int, ...]:
        """All sizes that are written."""
        return (self.size, *self.also)


@dataclasses.dataclass
class FaceCrop:
    """One aligned face: pictures by size, and what is known of it (rows of the tables of features)."""

    pictures: dict[int, Photo]
    features: dict[str, npt.NDArray[Any]]


@dataclasses.dataclass
class PhotoResult:
    """What became of one photograph: its aligned faces, and (code, reason, box) of all that was rejected."""

    crops: list[FaceCrop] = dataclasses.field(default_factory=list)
    rejected: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def reject(self, code: str, reason: str, face: Face | None = None) -> None:
        """Note why the photograph, or a face of it, is not used."""
        box = None if face is None else [round(float(v), 1) for v in face.box]
        self.rejected.append({"code": code, "reason": reason, "box": box})


class Cropper:
    """Cuts the faces out of photographs. Threads may share it: each has a detector and a landmarker.

    Attributes:
        seconds: spent in each of STAGES, summed over threads.
        models: detector, landmarker and embedder.
    """

    def __init__(self, settings: CropSettings) -> None:
        self.settings = settings
        self.seconds: dict[str, float] = collections.defaultdict(float)
        self._own = threading.local()
        self._lock = threading.Lock()
        self.embedder: Embedder | None = load_embedder(settings.embedder) if settings.embed else None
        # what is missing is said before work begins
        self.models: list[Any] = [*self._models(), *([self.embedder] if self.embedder is not None else [])]

    def _models(self) -> tuple[Detector, Landmarker]:
        if not hasattr(self._own, "models"):
            self._own.models = (
                load_detector(self.settings.detector),
                load_landmarker(self.settings.landmarker),
            )
        found: tuple[Detector, Landmarker] = self._own.models
        return found

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Count the time of the block as `stage`."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self.seconds[stage] += time.perf_counter() - begin

    def __call__(self, files: Sequence[bytes | DataError]) -> list[PhotoResult]:
        """Results of a few photographs, given as the bytes of files, or as the error of reading one."""
        results = [PhotoResult() for _ in files]
        photos: dict[int, Photo] = {}
        for index, content in enumerate(files):
            with self.timed("read"):
                try:
                    if isinstance(content, DataError):
                        raise content
                    photos[index] = colour_photo(read_image(content, upright=True))
                except DataError as error:
                    results[index].reject("unreadable", str(error).removeprefix("image "))
        chosen = self._found(photos, results)
        self._place(photos, chosen)
        made: list[tuple[int, Face, FaceCrop]] = []
        for index, face in chosen:
            with self.timed("align"):
                crop = self._crop(photos[index], face, results[index])
            if crop is not None:
                made.append((index, face, crop))
                results[index].crops.append(crop)
        self._embed(photos, made)
        return results

    def _found(self, photos: dict[int, Photo], results: list[PhotoResult]) -> list[tuple[int, Face]]:
        """(photograph, face) of every face that is taken."""
        if not photos:
            return []
        settings, chosen = self.settings, []
        with self.timed("detect"):
            found = self._models()[0].detect(list(photos.values()))
        for index, faces in zip(photos, found, strict=True):
            if not faces:
                results[index].reject("no-face", "no face was found")
            if settings.faces == "largest":
                # what the detector doubts does not stand before a face
                faces = sorted(faces, key=lambda f: (f.score < settings.min_score, -f.size))[:1]
            for face in faces:
                if face.size < settings.min_face:
                    reason = (
                        f"the face is {face.size:.0f} pixels large; at least {settings.min_face:g} are wanted"
                    )
                    results[index].reject("small", reason, face)
                elif face.score < settings.min_score:
                    reason = (
                        f"the detector's score is {face.score:.2f}; at least {settings.min_score:g} is wanted"
                    )
                    results[index].reject("score", reason, face)
                else:
                    chosen.append((index, face))
        return chosen

    def _place(self, photos: dict[int, Photo], chosen: list[tuple[int, Face]]) -> None:
        """Give the faces their landmarks."""
        if not chosen:
            return
        landmarker = self._models()[1]
        with self.timed("landmarks"):
            table = landmarker.landmarks([photos[i] for i, _ in chosen], [face for _, face in chosen])
        for (_, face), points in zip(chosen, table, strict=True):
            face.landmarks[landmarker.scheme] = points
            for scheme in ("5pt", "ibug68"):
                if scheme != landmarker.scheme:
                    face.landmarks[scheme] = convert(points, landmarker.scheme, scheme)

    def _crop(self, photo: Photo, face: Face, result: PhotoResult) -> FaceCrop | None:
        settings = self.settings
        aligned = align(photo, face, settings.align, settings.size)
        inside = float(np.mean(aligned.valid))
        if inside < settings.min_inside:
            reason = f"{inside:.0%} of the aligned face lie inside the photograph; at least "
            result.reject("cut-off", f"{reason}{settings.min_inside:.0%} are wanted", face)
            return None
        pictures = {settings.size: aligned.image}
        pictures |= {size: _shrunk(aligned.image, size) for size in settings.also}
        points = face.points("ibug68")[:, :2] @ aligned.matrix[:, :2].T + aligned.matrix[:, 2]
        return FaceCrop(pictures, _features(aligned.image, points, aligned.matrix, face))

    def _embed(self, photos: dict[int, Photo], made: list[tuple[int, Face, FaceCrop]]) -> None:
        if self.embedder is None or not made:
            return
        with self.timed("embed"), torch.inference_mode():
            images, faces = [photos[i] for i, _, _ in made], [face for _, face, _ in made]
            chips = aligned_tensor(images, faces, self.embedder.template, self.embedder.size)
            vectors = self.embedder.embed(chips).float().cpu().numpy()
        for (_, _, crop), vector in zip(made, vectors, strict=True):
            crop.features["embedding"] = vector


def colour_photo(pixels: Photo) -> Photo:
    """uint8 [H, W, 3] of [H, W] or [H, W, 3]."""
    return np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels


def _shrunk(image: Photo, size: int) -> Photo:
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BOX))


def _features(
    image: Photo, points: npt.NDArray[Any], matrix: npt.NDArray[np.float64], face: Face
) -> dict[str, npt.NDArray[Any]]:
    """landmarks: float32 [68, 2] in pixels of the aligned face; low_resolution: uint8 [8, 8, 3]; histogram:
    float32 [3, 10], shares of the levels of each channel; matrix: float64 [2, 3], photograph -> aligned face;
    box: float32 [4] in the photograph; score: of the detector."""
    levels = [np.histogram(image[..., c], HISTOGRAM_BINS, (0, 256))[0] for c in range(3)]
    return {
        "landmarks": points.astype(np.float32),
        "low_resolution": _shrunk(image, LOW_RESOLUTION),
        "histogram": (np.stack(levels) / image[..., 0].size).astype(np.float32),
        "matrix": np.asarray(matrix, np.float64),
        "box": np.asarray(face.box, np.float32),
        "score": np.asarray(face.score, np.float32),
    }
