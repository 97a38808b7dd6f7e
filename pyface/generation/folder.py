"""Datasets as a folder of picture files with labels, in the layout that `pyface.data.ImageFolder` reads.

VIS/000012_003.png (one folder for each spectrum), and when all pictures are there labels.jsonl with a line
for each and dataset.json with the conditions as vectors. Pictures are finished in chunks as large as a shard:
they appear together under their names, followed by records/chunk-000000.json.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from pyface.data.tree import DATASET_JSON, LABELS
from pyface.errors import DataError
from pyface.generation.plan import DatasetRecipe, Picture
from pyface.generation.records import Record, Store, StoredPicture, Writer
from pyface.io.atomic import make_folder, sync_folder, sync_path, telling_why, write_error, write_text

__all__ = ["RECORDS", "FolderStore", "FolderWriter", "chunk_name", "file_names"]

RECORDS = "records"
_FLUSHES = 16  # at a time: file systems then write them together, which takes a fifteenth of the time
_RECORD = re.compile(r"chunk-(\d{6,})\.json")
_LEFTOVER = re.compile(r"\.chunk-(\d{6,})\.[a-z0-9_]{8}(?:\.json)?")


def chunk_name(chunk: int) -> str:
    """ "chunk-000012" of 12."""
    return f"chunk-{chunk:06d}"


def file_names(recipe: DatasetRecipe, picture: Picture) -> dict[str, str]:
    """The file of each spectrum's picture, relative to the dataset, such as "VIS/000012_003.png"."""
    name = f"{picture.identity:06d}_{picture.sample:03d}{recipe.suffix}"
    return {spectrum: f"{spectrum.upper()}/{name}" for spectrum in recipe.spectra}


class FolderWriter(Writer):
    """Writes the pictures of one chunk, then its record records/chunk-000012.json; see `Writer`.

    Until `commit` they lie in a hidden folder of their own.
    """

    def __enter__(self) -> Self:
        self._entries: list[dict[str, Any]] = []
        with telling_why(self.folder):
            name = tempfile.mkdtemp(prefix=f".{chunk_name(self.shard)}.", dir=self.folder)
        self._hidden = Path(name)
        try:
            for spectrum in self.recipe.spectra:
                (self._hidden / spectrum.upper()).mkdir()
        except OSError as error:
            self.__exit__(type(error), error, error.__traceback__)
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        shutil.rmtree(self._hidden, ignore_errors=True)
        if isinstance(error, OSError):
            raise write_error(self.folder, error) from error

    def _write(self, picture: Picture, files: Mapping[str, bytes], conditions: Mapping[str, float]) -> None:
        told = {}
        for spectrum, name in file_names(self.recipe, picture).items():
            data = files[spectrum]
            with telling_why(self.folder / name):
                (self._hidden / name).write_bytes(data)
            told[spectrum] = {"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        self._entries.append(
            {
                "identity": picture.identity,
                "sample": picture.sample,
                "conditions": dict(conditions),
                "files": told,
            }
        )

    def _commit(self) -> Record:
        files = [file for entry in self._entries for file in entry["files"].values()]
        folders = [make_folder(self.folder / spectrum.upper()) for spectrum in self.recipe.spectra]
        with ThreadPoolExecutor(_FLUSHES) as pool:
            list(pool.map(self._flush, (file["name"] for file in files)))
        for file in files:
            with telling_why(self.folder / file["name"]):
                (self._hidden / file["name"]).replace(self.folder / file["name"])
        for folder in folders:
            sync_folder(folder)
        record = Record(
            shard=self.shard,
            name=chunk_name(self.shard),
            pictures=self._added,
            bytes=sum(file["bytes"] for file in files),
            sha256=listing_sha256(files),
            recipe=self.recipe.sha256,
            made_by=self.made_by,
            files=tuple(self._entries),
        )
        record.write(make_folder(self.folder / RECORDS) / f"{chunk_name(self.shard)}.json")
        return record

    def _flush(self, name: str) -> None:
        with telling_why(self.folder / name):
            sync_path(self._hidden / name)


def listing_sha256(files: Iterable[Mapping[str, Any]]) -> str:
    """SHA-256 of the lines "sha256  name", as the program sha256sum prints them."""
    lines = "".join(f"{file['sha256']}  {file['name']}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


class FolderStore(Store):
    """A dataset in a folder of pictures; see `Store`."""

    writer = FolderWriter

    def record_path(self, shard: int) -> Path:
        return self.folder / RECORDS / f"{chunk_name(shard)}.json"

    def record_files(self) -> dict[int, Path]:
        matches = ((_RECORD.fullmatch(path.name), path) for path in _listed(self.folder / RECORDS))
        return {int(match[1]): path for match, path in matches if match}

    def unfit(self, shard: int, record: Record) -> str | None:
        return super().unfit(shard, record) or self._unfit_files(shard, record)

    def _unfit_files(self, shard: int, record: Record) -> str | None:
        name = self.record_path(shard).name
        try:
            told = [
                (Picture(e["identity"], e["sample"]), {s: file["name"] for s, file in e["files"].items()})
                for e in record.files
            ]
            files = [file for e in record.files for file in e["files"].values()]
            digest, size = listing_sha256(files), sum(file["bytes"] for file in files)
            conditions = [tuple(e["conditions"]) for e in record.files]
        except (KeyError, TypeError, AttributeError) as error:
            return f"{name} is damaged ({error})"
        pictures = self.plan.pictures(shard)
        if told != [(picture, file_names(self.recipe, picture)) for picture in pictures]:
            return f"{name} has other pictures than the plan"
        if any(names != self.recipe.conditions for names in conditions):
            return f"{name} has other conditions than the recipe"
        if (digest, size) != (record.sha256, record.bytes):
            return f"{name} does not fit itself: its files have other sizes or sums than its total"
        return None

    def lost(self, record: Record) -> str | None:
        wrong = []
        for file in (f for entry in record.files for f in entry["files"].values()):
            path = self.folder / file["name"]
            try:
                size = path.stat().st_size
            except OSError as error:
                wrong.append(f"{file['name']} cannot be read ({error.strerror})")
                continue
            if size != file["bytes"]:
                wrong.append(f"{file['name']} has {size} bytes, its record {file['bytes']}")
        more = f" and {len(wrong) - 1} more files" if len(wrong) > 1 else ""
        return f"{wrong[0]}{more}" if wrong else None

    def leftovers(self) -> dict[Path, int]:
        listed = [*_listed(self.folder), *_listed(self.folder / RECORDS)]
        matches = ((_LEFTOVER.fullmatch(path.name), path) for path in listed)
        return {path: int(match[1]) for match, path in matches if match}

    def read(self, picture: Picture) -> StoredPicture:
        shard = self.plan.shard_of(picture)
        record = Record.read(self.record_path(shard))
        problem = self.unfit(shard, record)
        if problem:
            raise DataError(f"{self.folder}: {problem}; `pyface generate verify` lists what is wrong")
        entry = record.files[self.plan.pictures(shard).index(picture)]
        files = {}
        for spectrum, name in file_names(self.recipe, picture).items():
            try:
                files[spectrum] = (self.folder / name).read_bytes()
            except OSError as error:
                raise DataError(f"{self.folder / name} cannot be read ({error.strerror})") from error
        return StoredPicture(files, entry["conditions"])

    def finish(self) -> None:
        """Write labels.jsonl and dataset.json."""
        for name, text in self.labels().items():
            write_text(self.folder / name, text)

    def labels(self) -> dict[str, str]:
        """What labels.jsonl and dataset.json must hold, by name.

        Raises:
            DataError: a record is missing or damaged.
        """
        main = next(iter(self.recipe.spectra))
        lines, vectors = [], []
        for entry in self._entries():
            file = entry["files"][main]["name"]
            told = {name: entry[name] for name in ("identity", "sample", "conditions")}
            lines.append(json.dumps({"file": file} | told) + "\n")
            vectors.append([file, [entry["conditions"][name] for name in self.recipe.conditions]])
        content = {
            "labels": vectors if self.recipe.conditions else None,
            "label_names": list(self.recipe.conditions),
        }
        return {LABELS: "".join(lines), DATASET_JSON: json.dumps(content) + "\n"}

    def _entries(self) -> Iterator[Mapping[str, Any]]:
        for shard in range(self.plan.shards):
            record = Record.read(self.record_path(shard))
            problem = self.unfit(shard, record)
            if problem:
                raise DataError(f"{self.folder}: {problem}")
            yield from record.files


def _listed(folder: Path) -> list[Path]:
    """What lies in a folder; nothing if it is not there."""
    return list(folder.iterdir()) if folder.is_dir() else []
