"""Identity features of a dataset's pictures: what identity-conditioned generators are trained on.

Files beside the pictures: `identity_features.json`, file name -> numbers, the convention of paired VIS/NIR
sets, and `identity_features.safetensors`, the same with names and people (`FeatureStore`).
"""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from pyface.data.face_crops import colour_photo
from pyface.data.features import write_features
from pyface.data.files import IMAGE_SUFFIXES, DatasetFiles, open_files
from pyface.data.ordered import in_order
from pyface.data.problems import OnProblem, Problem, Problems
from pyface.data.spectra import NAME_PATTERN, name_expression, name_fields
from pyface.data.tree import FOLDERS
from pyface.errors import DataError, ValueRangeError
from pyface.faces import load_embedder
from pyface.faces.analyzer import FaceAnalyzer, aligned_tensor
from pyface.faces.licences import licences_of_models
from pyface.faces.protocols import Embedder, Photo
from pyface.io.atomic import write_text
from pyface.io.images import read_image

__all__ = ["IdentityFeatures", "identity_features", "most_typical", "write_identity_features"]

_TOGETHER = 16
MODES = ("all", "one")


@dataclasses.dataclass
class IdentityFeatures:
    """Features of pictures and whom they show.

    Attributes:
        names: files of the pictures, within the folder VIS where there is one.
        identities: who is shown, one word for each picture.
        vectors: float32 [N, dim], as the embedder gives them (not normalised).
        problems: pictures that were left out, with reasons.
    """

    names: list[str]
    identities: list[str]
    vectors: npt.NDArray[np.float32]
    problems: Problems


def identity_features(
    path: str | os.PathLike[str],
    mode: str = "all",
    *,
    embedder: Embedder | None = None,
    analyzer: Callable[[], FaceAnalyzer] = FaceAnalyzer,
    aligned: bool = False,
    pattern: str = NAME_PATTERN,
    on_problem: OnProblem = "skip",
    workers: int = 1,
    progress: Callable[[int], None] | None = None,
) -> IdentityFeatures:
    """Identity features of the pictures of a folder or zip (of its VIS, where it has VIS and NIR).

    Args:
        path: folder or .zip file.
        mode: "all": each picture its own vector. "one": all pictures of a person get the vector of the most
            typical one, see `most_typical`.
        embedder: by default the offline default.
        analyzer: makes what finds the faces; called once in each thread.
        aligned: the pictures are aligned already: they are resized to the embedder's size, no face is looked
            for. Otherwise the largest face is found and aligned.
        pattern: of the names, without suffix, with {identity}; "/" stands for folders.
        on_problem: "skip" leaves out pictures without a face or with an odd name, "stop" ends with a list.
        workers: threads.
        progress: called with the number of pictures finished since the last call.

    Raises:
        DataError: nothing to read, every picture was left out, or, with "stop", any was.
        ValueRangeError: another mode, or a pattern without {identity}.
    """
    if mode not in MODES:
        raise ValueRangeError(f"mode must be one of {', '.join(MODES)}; got {mode!r}.")
    files, problems = open_files(path), Problems(path, on_problem)
    pictures = dict(_pictures(files))
    people = _people(pictures, pattern, problems)
    reader = _Reader(files, embedder or load_embedder(), None if aligned else analyzer)
    chunks = [list(people)[i : i + _TOGETHER] for i in range(0, len(people), _TOGETHER)]
    vectors: dict[str, npt.NDArray[np.float32]] = {}
    for names, found in zip(chunks, in_order(reader, chunks, workers), strict=True):
        for name, outcome in zip(names, found, strict=True):
            if isinstance(outcome, Problem):
                problems.extend([outcome])
            else:
                vectors[name] = outcome
        if progress is not None:
            progress(len(names))
    problems.settle()
    if not vectors:
        reason = f": {problems.message()}" if len(problems) else ""
        raise DataError(f"{path} has no picture with identity features{reason}")
    table, identities = np.stack(list(vectors.values())), [people[name] for name in vectors]
    if mode == "one":
        table = table[most_typical(table, identities)]
    return IdentityFeatures([pictures[name] for name in vectors], identities, table, problems)


def _people(pictures: dict[str, str], pattern: str, problems: Problems) -> dict[str, str]:
    """Who is shown on each picture whose name fits the pattern."""
    expression, people = name_expression(pattern), {}
    for name, inner in pictures.items():
        fields = name_fields(expression, inner)
        if fields:
            people[name] = fields["identity"]
        else:
            problems.add(name, None, "name", f"its name is not {pattern}")
    return people


def most_typical(vectors: npt.NDArray[np.floating[Any]], identities: Sequence[str]) -> npt.NDArray[np.int64]:
    """For each picture the row of the picture of the same person that has the highest mean cosine to that
    person's other pictures: int64 [N]; the first of equals."""
    units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    _, member = np.unique(np.asarray(identities), return_inverse=True)
    chosen = np.zeros(len(units), np.int64)
    for person in range(member.max() + 1 if len(member) else 0):
        rows = np.flatnonzero(member == person)
        cosines = units[rows] @ units[rows].sum(axis=0)  # a picture's cosine to itself is the same for all
        chosen[rows] = rows[int(np.argmax(np.round(cosines, 9)))]
    return chosen


def write_identity_features(
    found: IdentityFeatures, out: str | os.PathLike[str], embedder: Embedder, mode: str
) -> tuple[Path, Path]:
    """Write both files into the folder `out`; gives their paths.

    Raises DataError when they cannot be written.
    """
    folder = Path(out)
    plain, table = folder / "identity_features.json", folder / "identity_features.safetensors"
    lines = [
        f"{json.dumps(name)}: {json.dumps([float(str(v)) for v in vector])}"
        for name, vector in zip(found.names, found.vectors, strict=True)
    ]
    write_text(plain, "{\n" + ",\n".join(lines) + "\n}\n")
    facts: dict[str, Any] = {
        "mode": mode,
        "embedder": embedder.name,
        "template": embedder.template,
        "metric": embedder.metric,
    }
    people = sorted(set(found.identities))
    numbers = np.array([people.index(word) for word in found.identities], np.int64)
    facts |= {"people": people, "models": licences_of_models([embedder])}
    write_features(table, found.names, {"embedding": found.vectors, "person": numbers}, facts)
    return plain, table


def _pictures(files: DatasetFiles) -> list[tuple[str, str]]:
    """(file, its name within VIS) of the pictures of visible light."""
    names = [name for name in files.names() if name.lower().endswith(IMAGE_SUFFIXES)]
    folder = FOLDERS["vis"] + "/"
    inside = [(name, name.removeprefix(folder)) for name in names if name.startswith(folder)]
    return inside or [(name, name) for name in names]


class _Reader:
    """Vectors of a few pictures, or the reason why there is none; `analyzer` None: they are aligned."""

    def __init__(
        self, files: DatasetFiles, embedder: Embedder, analyzer: Callable[[], FaceAnalyzer] | None
    ) -> None:
        self.files, self.embedder, self.analyzer = files, embedder, analyzer
        self._own = threading.local()

    def __call__(self, names: Sequence[str]) -> list[npt.NDArray[np.float32] | Problem]:
        outcome: dict[str, npt.NDArray[np.float32] | Problem] = {}
        photos: dict[str, Photo] = {}
        for name in names:
            try:
                photos[name] = colour_photo(read_image(self.files.read(name), upright=True))
            except DataError as error:
                outcome[name] = Problem(name, None, "not-image", f"cannot be read: {error}")
        chips, who = self._chips(photos)
        if len(who):
            with torch.inference_mode():
                outcome |= zip(who, self.embedder.embed(chips).float().cpu().numpy(), strict=True)
        nothing = "no face was found; give --aligned if it is aligned already"
        return [outcome.get(name, Problem(name, None, "no-face", nothing)) for name in names]

    def _chips(self, photos: dict[str, Photo]) -> tuple[torch.Tensor, list[str]]:
        size = self.embedder.size
        if self.analyzer is None:
            small = [
                np.asarray(Image.fromarray(p).resize((size, size), Image.Resampling.BOX))
                for p in photos.values()
            ]
            stacked = torch.from_numpy(np.stack(small)) if small else torch.zeros([0, size, size, 3])
            return stacked.permute(0, 3, 1, 2).float().div(127.5).sub(1.0), list(photos)
        if not hasattr(self._own, "analyzer"):
            self._own.analyzer = self.analyzer()
        found = self._own.analyzer.analyze(list(photos.values()))
        largest = {
            n: max(faces, key=lambda f: f.size) for n, faces in zip(photos, found, strict=True) if faces
        }
        images = [photos[name] for name in largest]
        return aligned_tensor(images, list(largest.values()), self.embedder.template, size), list(largest)
