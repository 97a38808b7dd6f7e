"""Everything that is wrong with a generated dataset, found by reading all of it."""

from __future__ import annotations

import collections
import concurrent.futures
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyface.errors import DataError
from pyface.generation.folder import RECORDS, FolderStore, chunk_name, file_names
from pyface.generation.manifest import MANIFEST, Manifest, completed, open_store, read_manifest
from pyface.generation.plan import DatasetRecipe, Picture
from pyface.generation.records import LOCKS, Record, Store
from pyface.generation.shards import ShardStore, member_names, members, shard_name
from pyface.io.hashing import sha256_of
from pyface.io.images import image_shape, read_image

__all__ = ["FAULTS", "Fault", "Report", "verify_dataset"]

# kind -> what it means
FAULTS = {
    "manifest": "manifest.json is missing, damaged, or tells of other shards than there are",
    "shard-missing": "neither the shard nor its record is there: it was not made yet",
    "record-missing": "the shard is there without its record: a run was stopped in between",
    "record": "a record is damaged, of another recipe or shard, or has no shard",
    "size": "a file is gone, or not as long as its record says",
    "sha256": "the bytes of a file are not those that were written",
    "unreadable": "a tar or a picture cannot be read",
    "picture-missing": "a picture of the plan, or its labels, is not there",
    "picture-extra": "a picture is there that the plan has not",
    "picture-size": "a picture has another height, width, number of channels or format",
    "duplicate": "a picture is there twice",
    "order": "pictures or members stand in another order than the plan's",
    "labels": "identity, sample or conditions are not those of the picture",
    "extra-file": "a file or folder that belongs to no dataset",
    "leftover": "a temporary file of a run that goes on or was killed",
}
_LISTED = 10  # faults of one kind in one shard that are told one by one
_MAGIC = {"jpeg": b"\xff\xd8\xff", "png": b"\x89PNG\r\n\x1a\n"}


@dataclass(frozen=True)
class Fault:
    """Something wrong: in which file (or member of a shard), a key of `FAULTS`, and what exactly."""

    file: str
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.file}: {self.kind}: {self.text}"


@dataclass(frozen=True)
class Report:
    """What `verify_dataset` found.

    Attributes:
        folder: of the dataset.
        faults: in order of the shards, then shards that are missing, then of the whole dataset.
        shards, pictures, bytes: what was looked at and is there.
        complete: whether the manifest calls the dataset complete.
        decoded: whether pictures were decoded, and not only their headers read.
    """

    folder: Path
    faults: tuple[Fault, ...]
    shards: int
    pictures: int
    bytes: int
    complete: bool
    decoded: bool

    @property
    def sound(self) -> bool:
        """Whether the dataset is complete and nothing is wrong with it."""
        return self.complete and not self.faults


def verify_dataset(
    folder: str | os.PathLike[str],
    *,
    decode: bool = True,
    jobs: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Read a whole dataset and compare it with its records, manifest and plan.

    Args:
        folder: that `pyface generate dataset` has written, or is writing.
        decode: decode every picture; without it only headers are read. Damage is found by checksums too.
        jobs: threads; by default one for each CPU core.
        progress: called with the shards done and the shards in all.

    Raises:
        DataError: there is no such folder.
    """
    path = Path(folder)
    if not path.is_dir():
        raise DataError(f"{path} is no folder; give one that `pyface generate dataset` has begun")
    try:
        manifest = read_manifest(path)
    except DataError as error:
        fault = Fault(MANIFEST, "manifest", f"{error}. Nothing else can be checked without it.")
        return Report(path, (fault,), 0, 0, 0, False, decode)
    store = open_store(path, manifest.recipe)
    parts = _checked_parts(store, decode, jobs, progress)
    records = {shard: part.record for shard, part in enumerate(parts) if part.record is not None}
    faults = [fault for part in parts for fault in _cut(part.faults)]
    faults += _cut(Fault(name, "shard-missing", text) for part in parts for name, text in part.missing)
    faults += _of_manifest(manifest, store, records)
    faults += _cut(_of_folder(store, records))
    return Report(
        path,
        tuple(faults),
        len(records),
        sum(part.pictures for part in parts),
        sum(record.bytes for record in records.values()),
        manifest.complete,
        decode,
    )


def _checked_parts(
    store: Store, decode: bool, jobs: int | None, progress: Callable[[int, int], None] | None
) -> list[_Part]:
    """All shards, looked at by threads: hashes and decoders release the GIL."""
    parts = []
    pool = concurrent.futures.ThreadPoolExecutor(jobs or os.cpu_count() or 1)
    try:
        for part in pool.map(lambda shard: _check_part(store, shard, decode), range(store.plan.shards)):
            parts.append(part)
            if progress:
                progress(len(parts), store.plan.shards)
    finally:
        pool.shutdown(cancel_futures=True)  # so that an interrupt need not wait for all of them
    return parts


@dataclass
class _Part:
    """What one shard or chunk has: its record when that is sound, its pictures, what is wrong.

    missing: name and text of a shard that has not been made.
    """

    record: Record | None
    pictures: int
    faults: list[Fault]
    missing: tuple[tuple[str, str], ...] = ()


def _check_part(store: Store, shard: int, decode: bool) -> _Part:
    path = store.record_path(shard)
    name = path.relative_to(store.folder).as_posix()
    begun = _begun(store, shard)
    if not path.exists():
        if begun:
            return _Part(None, 0, [Fault(begun, "record-missing", f"its record {name} is not there")])
        text = f"it has not been made (neither it nor {name} is there)"
        return _Part(None, 0, [], ((path.stem, text),))
    try:
        record = Record.read(path)
        problem = store.unfit(shard, record)
    except DataError as error:
        problem = str(error)
    if problem:
        return _Part(None, 0, [Fault(name, "record", problem)])
    if isinstance(store, ShardStore):
        return _check_shard(store, record, decode)
    return _check_chunk(store, record, decode)


def _begun(store: Store, shard: int) -> str | None:
    """The file that says that a shard without record has been written in part or whole."""
    if isinstance(store, ShardStore):
        path = store.shard_path(shard)
        return path.name if path.exists() else None
    names = (n for p in store.plan.pictures(shard) for n in file_names(store.recipe, p).values())
    return next((name for name in names if (store.folder / name).exists()), None)


def _check_shard(store: ShardStore, record: Record, decode: bool) -> _Part:
    path = store.shard_path(record.shard)
    faults: list[Fault] = []
    if not path.is_file():
        text = f"its shard {path.name} is not there; remove the record to have the shard made anew"
        return _Part(None, 0, [Fault(store.record_path(record.shard).name, "record", text)])
    problem = store.lost(record)
    if problem:
        faults.append(Fault(path.name, "size", problem))
    elif sha256_of(path) != record.sha256:
        faults.append(Fault(path.name, "sha256", "its bytes are not those that were written"))
    expected = [
        (name, kind, picture)
        for picture in store.plan.pictures(record.shard)
        for kind, name in member_names(store.recipe, picture).items()
    ]
    meaning = {name: (kind, picture) for name, kind, picture in expected}
    names: list[str] = []
    try:
        for name, data in members(path):
            names.append(name)
            if name in meaning:
                kind, picture = meaning[name]
                faults += _of_member(store.recipe, f"{path.name}/{name}", kind, picture, data, decode)
    except DataError as error:
        faults.append(Fault(path.name, "unreadable", str(error)))
    faults += _of_names(store, path.name, names, list(meaning))
    images = {name for name, (kind, _) in meaning.items() if kind in store.recipe.spectra}
    return _Part(record, len(images & set(names)) // len(store.recipe.spectra), faults)


def _of_member(
    recipe: DatasetRecipe, place: str, kind: str, picture: Picture, data: bytes, decode: bool
) -> Iterator[Fault]:
    if kind == ".json":
        problem = _wrong_labels(recipe, picture, data)
        if problem:
            yield Fault(place, "labels", problem)
    elif kind == ".cls":
        if data != str(picture.identity).encode():
            yield Fault(place, "labels", f"is {data[:40]!r}, must be {picture.identity}")
    else:
        yield from _of_picture(recipe, place, kind, data, decode)


def _of_names(store: Store, shard: str, names: list[str], expected: list[str]) -> Iterator[Fault]:
    """Missing, doubled and strange members of a shard, and their order."""
    count = collections.Counter(names)
    for name in expected:
        if count[name] == 0:
            yield Fault(f"{shard}/{name}", "picture-missing", "is in the plan, but not in the shard")
        elif count[name] > 1:
            yield Fault(f"{shard}/{name}", "duplicate", f"is in the shard {count[name]} times")
    known = frozenset(expected)
    for name in count:
        if name not in known:
            home = _home(store, name)
            if home is None:
                yield Fault(f"{shard}/{name}", "picture-extra", "is not in the plan")
            else:
                yield Fault(f"{shard}/{name}", "duplicate", f"belongs to {shard_name(home)} alone")
    if names != expected and collections.Counter(expected) == count:
        yield Fault(shard, "order", "its members stand in another order than the plan's")


def _home(store: Store, name: str) -> int | None:
    """The shard that a member belongs to; None if it is of no picture of the dataset."""
    try:
        identity, sample = name.split(".")[0].split("_")
        picture = Picture(int(identity), int(sample))
        shard = store.plan.shard_of(picture)
    except ValueError:  # ValueRangeError too
        return None
    return shard if name in member_names(store.recipe, picture).values() else None


def _check_chunk(store: Store, record: Record, decode: bool) -> _Part:
    faults: list[Fault] = []
    whole = 0
    for entry in record.files:
        there = 0
        for spectrum, file in entry["files"].items():
            name = file["name"]
            try:
                data = (store.folder / name).read_bytes()
            except FileNotFoundError:
                faults.append(Fault(name, "picture-missing", "is in the record, but not in the folder"))
                continue
            except OSError as error:
                faults.append(Fault(name, "unreadable", str(error.strerror)))
                continue
            there += 1
            if len(data) != file["bytes"]:
                faults.append(Fault(name, "size", f"has {len(data)} bytes, its record {file['bytes']}"))
            elif hashlib.sha256(data).hexdigest() != file["sha256"]:
                faults.append(Fault(name, "sha256", "its bytes are not those that were written"))
            faults += _of_picture(store.recipe, name, spectrum, data, decode)
        whole += there == len(store.recipe.spectra)
    return _Part(record, whole, faults)


def _of_picture(
    recipe: DatasetRecipe, place: str, spectrum: str, data: bytes, decode: bool
) -> Iterator[Fault]:
    if not data.startswith(_MAGIC[recipe.image]):
        yield Fault(place, "picture-size", f"is no {recipe.image.upper()}")
        return
    try:
        if decode:
            pixels = read_image(data)
            shape = (*pixels.shape[:2], 1 if pixels.ndim == 2 else pixels.shape[2])
        else:
            shape = image_shape(data)
    except DataError as error:
        yield Fault(place, "unreadable", str(error))
        return
    wanted = (*recipe.resolution, recipe.spectra[spectrum])
    if shape != wanted:
        yield Fault(
            place, "picture-size", f"is {_shape(shape)}, must be {_shape(wanted)} (height, width, channels)"
        )


def _shape(shape: Iterable[int]) -> str:
    return " x ".join(str(n) for n in shape)


def _wrong_labels(recipe: DatasetRecipe, picture: Picture, data: bytes) -> str | None:
    """What is wrong with KEY.json, in words."""
    try:
        told = json.loads(data)
        said = Picture(told["identity"], told["sample"])
        conditions = told["conditions"]
        numbers = all(math.isfinite(value) for value in conditions.values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"is damaged ({error})"
    if said != picture:
        return f"is of identity {said.identity}, sample {said.sample}"
    if tuple(conditions) != recipe.conditions or not numbers:
        return f"must have numbers for the conditions {', '.join(recipe.conditions) or '(none)'}"
    return None


def _of_manifest(manifest: Manifest, store: Store, records: Mapping[int, Record]) -> Iterator[Fault]:
    """What a complete manifest says otherwise than the records."""
    if not manifest.complete:
        if len(records) == store.plan.shards:
            text = "says that the dataset is not complete, but all shards are; run the command again"
            yield Fault(MANIFEST, "manifest", text)
        return
    if len(manifest.shards) != store.plan.shards:
        text = f"lists {len(manifest.shards)} shards, the plan has {store.plan.shards}"
        yield Fault(MANIFEST, "manifest", text)
        return
    for shard, row in enumerate(manifest.shards):
        record = records.get(shard)
        if record and row != (record.name, record.pictures, record.bytes, record.sha256):
            yield Fault(MANIFEST, "manifest", f"tells of another {record.name} than its record does")
    if len(records) == store.plan.shards:
        wanted = completed(store.recipe, [records[shard] for shard in sorted(records)])
        if manifest.shards == wanted.shards and (store.folder / MANIFEST).read_text() != wanted.text():
            yield Fault(MANIFEST, "manifest", "totals, sha256 or made_by do not fit the records")


def _of_folder(store: Store, records: Mapping[int, Record]) -> Iterator[Fault]:
    """Labels of the whole dataset, and files that are not known."""
    known = {MANIFEST, LOCKS}
    if isinstance(store, FolderStore):
        known |= {f"{RECORDS}/{chunk_name(shard)}.json" for shard in range(store.plan.shards)}
        known |= {
            name
            for shard in range(store.plan.shards)
            for picture in store.plan.pictures(shard)
            for name in file_names(store.recipe, picture).values()
        }
        if len(records) == store.plan.shards:
            yield from _of_labels(store)
        known |= {"labels.jsonl", "dataset.json"}
    else:
        for shard in range(store.plan.shards):
            known |= {f"{shard_name(shard)}.json", f"{shard_name(shard)}.tar"}
    leftovers = store.leftovers()
    for path, shard in sorted(leftovers.items()):
        name = path.relative_to(store.folder).as_posix()
        yield Fault(name, "leftover", f"of {shard_name(shard)}; goes when the command is run again")
    for path in _files(store.folder, leftovers):
        name = path.relative_to(store.folder).as_posix()
        if name not in known:
            yield Fault(name, "extra-file", "belongs to no dataset; move it elsewhere")


def _of_labels(store: FolderStore) -> Iterator[Fault]:
    for name, wanted in store.labels().items():
        path = store.folder / name
        try:
            if path.read_bytes() != wanted.encode():
                yield Fault(name, "labels", "does not say what the records say; run the command again")
        except OSError as error:
            yield Fault(name, "labels", f"cannot be read ({error.strerror}); run the command again")


def _files(folder: Path, without: Mapping[Path, Any]) -> Iterator[Path]:
    """Files in a folder and the folders in it, in order; empty folders too, but nothing within `without`."""
    for path in sorted(folder.iterdir()):
        if path in without:
            continue
        if path.is_dir() and not path.is_symlink():
            inner = sorted(path.iterdir())
            yield from _files(path, without) if inner else [path]
        else:
            yield path


def _cut(faults: Iterable[Fault]) -> Iterator[Fault]:
    """The first faults of each kind, and how many more there are."""
    count: collections.Counter[str] = collections.Counter()
    last: dict[str, Fault] = {}
    for fault in faults:
        count[fault.kind] += 1
        last[fault.kind] = fault
        if count[fault.kind] <= _LISTED:
            yield fault
    for kind, fault in last.items():
        if count[kind] > _LISTED:
            place = fault.file.split("/")[0]
            yield Fault(place, kind, f"and {count[kind] - _LISTED} more of this kind, up to {fault.file}")
