"""A folder of photographs becomes a folder of aligned faces with features: what `pyface data prepare` does.

OUT/256/NAME.png        the aligned faces, named as their photographs; OUT/64/... further sizes
OUT/256/dataset.json    labels of the photographs, where they have some
OUT/features.safetensors  features by NAME.png, see `FeatureStore`
OUT/rejected.jsonl      photographs and faces that were left out, each with a code and a reason
OUT/faces.png, rejected.png   contact sheets
OUT/report.json         counts, rates, the share of each stage, the licences of the models
OUT/journal.jsonl       what is done: the same command goes on from here, also when photographs were added
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pyface
from pyface.data.face_crops import STAGES, Cropper, CropSettings, PhotoResult
from pyface.data.features import write_features
from pyface.data.files import IMAGE_SUFFIXES, DatasetFiles, open_files
from pyface.data.journal import Journal
from pyface.data.labels import LABEL_FILES, dataset_json, read_labels
from pyface.data.ordered import in_order
from pyface.data.output_folder import output_folder
from pyface.errors import DataError, PyfaceError, ValueRangeError
from pyface.faces import load_detector, load_embedder, load_landmarker
from pyface.faces.licences import licences_of_models
from pyface.io.atomic import make_folder, write_text
from pyface.io.hashing import sha256_of
from pyface.io.images import contact_sheet, read_image, write_image

__all__ = ["PrepareReport", "prepare"]

_TOGETHER = 16  # photographs that one thread takes at a time: enough for the networks, few to lose
_SHOWN = 64
_TILE = 96


@dataclasses.dataclass
class PrepareReport:
    """What `prepare` did.

    Attributes:
        photographs: in the source.
        faces: aligned faces in the output.
        rejected: code -> how many photographs or faces were left out.
        done_now: photographs that this call worked on; the others were done before.
        seconds: of this call.
        stages: stage -> seconds, summed over threads.
    """

    photographs: int
    faces: int
    rejected: dict[str, int]
    done_now: int
    seconds: float
    stages: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """For report.json: with the rate and the share of each stage."""
        whole = sum(self.stages.values()) or 1.0
        shares = {name: round(self.stages.get(name, 0.0) / whole, 4) for name in STAGES}
        rate = self.done_now / self.seconds if self.seconds > 0 else 0.0
        return dataclasses.asdict(self) | {"photographs_per_second": round(rate, 2), "stage_shares": shares}


def prepare(
    raw: str | os.PathLike[str],
    out: str | os.PathLike[str],
    settings: CropSettings | None = None,
    *,
    workers: int | None = None,
    command: str | None = None,
    progress: Callable[[int], None] | None = None,
    begun: Callable[[int, int], None] | None = None,
) -> PrepareReport:
    """Detect, align and measure the faces of a folder or zip of photographs.

    A stopped run is continued by the same call; a finished one takes up photographs that were added or have
    changed, and drops those that are gone. A photograph that cannot be used never ends the run: it is listed
    with its reason. The source is only read.

    Args:
        raw: folder or .zip of PNG, JPEG and WebP files.
        out: new, empty, or begun with the same settings; not inside `raw`.
        settings: how faces are found and cut out.
        workers: threads; all cores by default.
        command: the command line, noted in card.json.
        progress: called with the number of photographs finished since the last call.
        begun: called once with the number of photographs and how many of them were done before.

    Raises:
        DataError: nothing to read, or the output cannot be written or holds something else.
        ModelMissingError: a model has not been fetched.
    """
    settings = settings or CropSettings()
    workers = (os.cpu_count() or 1) if workers is None else workers
    if workers < 1:
        raise ValueRangeError(f"workers must be at least 1; got {workers}.")
    files = open_files(raw)
    if Path(raw).is_dir() and Path(out).resolve().is_relative_to(Path(raw).resolve()):
        raise DataError(
            f"{out} lies inside {raw}; its pictures would be taken for photographs. Choose another"
        )
    sources = output_names([name for name in files.names() if name.lower().endswith(IMAGE_SUFFIXES)])
    if not sources:
        raise DataError(f"{raw} has no photographs ({', '.join(IMAGE_SUFFIXES)})")
    recipe = {"format": "pyface-prepared-faces", "pyface": pyface.__version__, **_plain(settings)}
    begin = time.perf_counter()
    with output_folder(out, recipe, command=command) as (folder, told):
        job = _Job(files, folder, Journal(folder / "journal.jsonl"), settings)
        waiting = job.waiting(sources)
        if begun is not None:
            begun(len(sources), len(sources) - len(waiting))
        stages = job.run(waiting, sources, workers, progress)
        rejected, faces = job.finish(sources)
        codes = dict(collections.Counter(entry["code"] for entry in rejected).most_common())
        seconds = time.perf_counter() - begin
        report = PrepareReport(len(sources), faces, codes, len(waiting), seconds, stages)
        facts = report.to_dict() | {"models": _licences(settings)}
        write_text(folder / "report.json", json.dumps(facts, indent=1) + "\n")
        told |= {"photographs": report.photographs, "faces": report.faces}
    return report


def output_names(names: Iterable[str]) -> dict[str, str]:
    """photograph -> name of its first face, without the ending; those that would agree keep their ending.

    Nor does a name agree with one that a further face of another photograph may get. What a zip names from
    the root ("/a.png") goes into a folder "absolute".

    >>> output_names(["a.jpg", "a.png", "b.jpg", "b-face2.jpg"])
    {'a.jpg': 'a.jpg', 'a.png': 'a.png', 'b.jpg': 'b', 'b-face2.jpg': 'b-face2.jpg'}
    """
    safe = {name: "absolute" * name.startswith("/") + name for name in names}
    stems = {name: inside.rpartition(".")[0] for name, inside in safe.items()}
    counts = collections.Counter(stem.lower() for stem in stems.values())
    whole = {inside.lower() for inside in safe.values()}

    def free(stem: str) -> bool:
        first, further, _ = stem.rpartition("-face")
        taken = bool(further) and (first in counts or first in whole)
        return counts[stem] == 1 and stem not in whole and not taken

    return {name: stem if free(stem.lower()) else safe[name] for name, stem in stems.items()}


def _plain(settings: CropSettings) -> dict[str, Any]:
    """The settings as JSON takes them; a file of a network by its name and hash, not by where it lies."""
    models = {kind: getattr(settings, kind) for kind in ("detector", "landmarker", "embedder")}
    files = {kind: Path(name) for kind, name in models.items() if Path(name).is_file()}
    told = {kind: f"{path.name} sha256 {sha256_of(path)}" for kind, path in files.items()}
    return dataclasses.asdict(settings) | {"also": list(settings.also)} | told


def _licences(settings: CropSettings) -> list[dict[str, Any]]:
    """Licences of the models that made the result."""
    models: list[Any] = [load_detector(settings.detector), load_landmarker(settings.landmarker)]
    return licences_of_models([*models, load_embedder(settings.embedder)] if settings.embed else models)


class _Job:
    """One run: where it reads, where it writes, and what is done."""

    def __init__(self, files: DatasetFiles, folder: Path, journal: Journal, settings: CropSettings) -> None:
        self.files, self.folder, self.journal, self.settings = files, folder, journal, settings

    def waiting(self, sources: Mapping[str, str]) -> list[str]:
        """Photographs that are not done, have changed since, or whose faces have gone from the output."""
        done = self.journal.records
        return [
            name
            for name, stem in sources.items()
            if name not in done
            or done[name]["stamp"] != self._stamp(name)
            or done[name]["stem"] != stem
            or not all(self._is_there(face["name"]) for face in done[name]["faces"])
        ]

    def _is_there(self, name: str) -> bool:
        """Whether the pictures of a face have bytes; after a power cut they may have none."""
        paths = [self.folder / str(size) / name for size in self.settings.sizes]
        return all(path.is_file() and path.stat().st_size for path in paths)

    def _stamp(self, name: str) -> list[int]:
        try:
            return list(self.files.stamp(name))
        except (OSError, DataError):
            return []

    def run(
        self,
        waiting: Sequence[str],
        sources: Mapping[str, str],
        workers: int,
        progress: Callable[[int], None] | None,
    ) -> dict[str, float]:
        """Work on the photographs; gives the seconds of each stage."""
        if not waiting:
            return {}
        cropper = Cropper(self.settings)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the threads of this run are over photographs
        try:
            for records in in_order(
                lambda names: self._work(cropper, names, sources), _chunks(waiting), workers
            ):
                self.journal.add(records)
                if progress is not None:
                    progress(len(records))
        finally:
            torch.set_num_threads(threads)
        return dict(cropper.seconds)

    def _work(
        self, cropper: Cropper, names: Sequence[str], sources: Mapping[str, str]
    ) -> list[dict[str, Any]]:
        stamps = [self._stamp(name) for name in names]
        contents: list[bytes | DataError] = []
        for name in names:
            with cropper.timed("read"):
                try:
                    contents.append(self.files.read(name))
                except DataError as error:
                    contents.append(error)
        results = _sure(cropper, contents)
        records = []
        for name, stamp, result in zip(names, stamps, results, strict=True):
            with cropper.timed("write"):
                faces = [
                    {"name": self._write(sources[name], number, crop.pictures), **crop.features}
                    for number, crop in enumerate(result.crops, 1)
                ]
            records.append(
                {"key": name, "stem": sources[name], "stamp": stamp, "faces": faces}
                | {"rejected": result.rejected}
            )
        return records

    def _write(self, stem: str, number: int, pictures: Mapping[int, Any]) -> str:
        name = f"{stem}.png" if number == 1 else f"{stem}-face{number}.png"
        for size, pixels in pictures.items():
            path = self.folder / str(size) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_image(path, pixels, compression=4, sync=False)
        return name

    def finish(self, sources: Mapping[str, str]) -> tuple[list[dict[str, Any]], int]:
        """Write what belongs to the whole; gives what was rejected, and the number of faces."""
        records = self.settle(sources)
        rejected = [{"photograph": r["key"], **entry} for r in records for entry in r["rejected"]]
        write_text(self.folder / "rejected.jsonl", "".join(json.dumps(entry) + "\n" for entry in rejected))
        self.write_labels(records)
        self.write_sheets(records)
        return rejected, self.write_features(records)

    def settle(self, sources: Mapping[str, str]) -> list[dict[str, Any]]:
        """Records of the photographs that there are, by name; pictures of those that are gone are removed."""
        kept = {name: self.journal.records[name] for name in sorted(sources)}
        wanted = {face["name"] for record in kept.values() for face in record["faces"]}
        for size in self.settings.sizes:
            folder = make_folder(self.folder / str(size))
            for path in folder.rglob("*.png"):
                if path.relative_to(folder).as_posix() not in wanted:
                    path.unlink()
        return list(kept.values())

    def write_features(self, records: Sequence[dict[str, Any]]) -> int:
        """features.safetensors; gives the number of faces."""
        faces = sorted(itertools.chain.from_iterable(r["faces"] for r in records), key=lambda f: f["name"])
        tables = {
            feature: np.stack([face[feature] for face in faces])
            for feature in (faces[0] if faces else {})
            if feature != "name"
        }
        facts = {"photographs": {f["name"]: r["key"] for r in records for f in r["faces"]}}
        facts["settings"] = _plain(self.settings)
        write_features(self.folder / "features.safetensors", [f["name"] for f in faces], tables, facts)
        return len(faces)

    def write_labels(self, records: Sequence[dict[str, Any]]) -> None:
        """dataset.json beside the faces, when the photographs have labels."""
        names = self.files.names()
        source = next((file for file in LABEL_FILES if file in names), None)
        if source is None:
            return
        photographs = [record["key"] for record in records]
        labels = read_labels(source, self.files.read(source), photographs)
        if labels.schema.kind == "none":
            return
        find = labels.finder()
        rows = [
            (face["name"], value)
            for record in records
            if (value := find(record["key"])) is not None
            for face in record["faces"]
        ]
        for size in self.settings.sizes:
            write_text(self.folder / str(size) / "dataset.json", dataset_json(rows, labels.schema))

    def write_sheets(self, records: Sequence[dict[str, Any]]) -> None:
        """faces.png and rejected.png, each of up to 64 tiles spread over the whole."""
        smallest = self.folder / str(min(self.settings.sizes, key=lambda size: (size < _TILE, size)))
        faces = [face["name"] for record in records for face in record["faces"]]
        tiles = [_tile(read_image(smallest / name)) for name in _spread(faces)]
        _sheet(self.folder / "faces.png", tiles, None)
        left_out = [(r["key"], entry) for r in records for entry in r["rejected"]]
        shown = [(self._rejected_tile(name, entry), entry["code"]) for name, entry in _spread(left_out)]
        _sheet(self.folder / "rejected.png", [tile for tile, _ in shown], [code for _, code in shown])

    def _rejected_tile(self, name: str, entry: Mapping[str, Any]) -> Any:
        """The face, or the whole photograph; grey when it cannot be read."""
        try:
            pixels = read_image(self.files.read(name), upright=True)
        except DataError:
            return np.full((_TILE, _TILE), 128, np.uint8)
        if entry["box"] is not None:
            left, top, right, bottom = (max(round(v), 0) for v in entry["box"])
            pixels = pixels[top : max(bottom, top + 1), left : max(right, left + 1)]
        return _tile(pixels) if pixels.size else np.full((_TILE, _TILE), 128, np.uint8)


def _sure(cropper: Cropper, contents: Sequence[bytes | DataError]) -> list[PhotoResult]:
    """Results of all photographs; one on which the analysis itself fails is rejected alone."""
    try:
        return cropper(contents)
    except Exception as error:
        if isinstance(error, PyfaceError) and not isinstance(error, ValueError | DataError):
            raise  # a missing model or extra concerns every photograph
        if len(contents) == 1:
            result = PhotoResult()
            result.reject("failed", f"{type(error).__name__}: {error}")
            return [result]
        return [result for content in contents for result in _sure(cropper, [content])]


def _chunks(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), _TOGETHER):
        yield names[start : start + _TOGETHER]


def _spread(items: Sequence[Any]) -> list[Any]:
    return (
        [items[i] for i in np.unique(np.linspace(0, len(items) - 1, _SHOWN).round().astype(int))]
        if items
        else []
    )


def _tile(pixels: Any) -> Any:
    from PIL import Image, ImageOps

    return np.asarray(ImageOps.contain(Image.fromarray(pixels), (_TILE, _TILE)))


def _sheet(path: Path, tiles: Sequence[Any], captions: Sequence[str] | None) -> None:
    if tiles:
        contact_sheet(tiles, captions=captions, path=path)
    else:
        path.unlink(missing_ok=True)
