"""What is finished of a dataset that several processes write: a record for each shard that is on the disk.

A record is written after its shard, so that a shard with a record is whole, whenever the power went. Which
process writes which part of the shards is told by locks on bytes of the file `.writers`, which end with the
process.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import fcntl
import json
import os
import re
import struct
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from pyface.errors import DataError, ValueRangeError
from pyface.generation.plan import DatasetRecipe, Picture, Plan
from pyface.io.atomic import make_folder, telling_why, write_text

__all__ = ["LOCKS", "Record", "Store", "StoredPicture", "Writer", "whole_file_lock", "writing_part"]

LOCKS = ".writers"
RECORD_FORMAT = 1
_LISTED = 5  # problems that one message names
# bytes of `.writers`: part i of n is n * 2^32 + i, divisions into n are 2^61 + n, then all of the dataset
_PART_BITS = 32
_DIVISIONS = 2**61
_WHOLE = 2**62
_FLOCK = struct.Struct("@hhqqi0q")  # struct flock of Linux: type, whence, start, length, process
_SPECTRUM = re.compile(r"[A-Za-z0-9_-]{1,40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Record:
    """One finished shard, or chunk of a folder.

    Attributes:
        shard: its number.
        name: of the shard's file; a chunk has none, and this is its record's name without suffix.
        pictures: how many it has, each in every spectrum.
        bytes: size of its files in all.
        sha256: of the shard; of a chunk, of the lines "sha256 name" of its files.
        recipe: sha256 of the recipe.
        made_by: engine, versions and what else of the machine the bytes depend on, as JSON takes it.
        files: of a chunk: for each picture what labels.jsonl says, and name, size and sha256 of its files.
    """

    shard: int
    name: str
    pictures: int
    bytes: int
    sha256: str
    recipe: str
    made_by: Mapping[str, Any]
    files: tuple[Mapping[str, Any], ...] = ()

    def write(self, path: Path) -> None:
        """Write it; the shard counts as finished from then on. Raises DataError as `write_text` does."""
        entry = {"format": RECORD_FORMAT} | dataclasses.asdict(self)
        if not self.files:
            del entry["files"]
        write_text(path, json.dumps(entry, indent=None if self.files else 1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """The record in a file.

        Raises:
            DataError: it cannot be read, or is none.
        """
        try:
            entry = json.loads(path.read_text(encoding="utf-8"))
            if entry.pop("format") != RECORD_FORMAT:
                raise ValueError("its format is of another version of pyface")
            entry["files"] = tuple(entry.get("files", ()))
            record = cls(**entry)
            record._check()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path} is no record of a shard ({error})") from error
        return record

    def _check(self) -> None:
        for name, least in (("shard", 0), ("pictures", 1), ("bytes", 1)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ValueError(f"{name} is {value!r}")
        for name in ("sha256", "recipe"):
            if not _SHA256.fullmatch(getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)!r}")
        if not isinstance(self.name, str) or not isinstance(self.made_by, dict):
            raise ValueError("name or made_by is of another kind")


@dataclass(frozen=True)
class StoredPicture:
    """A picture as it lies in a dataset: encoded `files` by spectrum, and its `conditions` by name."""

    files: Mapping[str, bytes]
    conditions: Mapping[str, float]


class Writer(abc.ABC):
    """Writes one shard: `add` every picture of the plan in order, then `commit`, within a `with` block.

    A block that is left without `commit` leaves nothing behind.

    Args:
        folder: of the dataset.
        recipe: of the dataset.
        shard: number of the shard.
        made_by: goes into the record.
    """

    def __init__(
        self, folder: Path, recipe: DatasetRecipe, shard: int, made_by: Mapping[str, Any] | None = None
    ) -> None:
        self.folder = Path(folder)
        self.recipe = recipe
        self.shard = shard
        self.made_by = dict(made_by or {})
        self._spectra = checked_spectra(recipe)
        self._plan = Plan(recipe).pictures(shard)
        self._added = 0

    def add(
        self, picture: Picture, files: Mapping[str, bytes], conditions: Mapping[str, float] | None = None
    ) -> None:
        """Append one picture.

        Args:
            picture: the next one of the plan.
            files: encoded pictures by spectrum.
            conditions: by name; kept to six decimals.

        Raises:
            ValueRangeError: another picture's turn, or spectra or conditions other than the recipe's.
            OSError, DataError: the disk is full; leaving the `with` block makes it a DataError.
        """
        wanted = self._plan[self._added] if self._added < len(self._plan) else None
        if picture != wanted:
            raise ValueRangeError(
                f"shard {self.shard} takes {wanted.key if wanted else 'no further picture'} next; "
                f"got {picture.key}."
            )
        if set(files) != set(self._spectra):
            raise ValueRangeError(
                f"picture {picture.key} needs the spectra {', '.join(self._spectra)}; got {', '.join(files)}."
            )
        given = conditions or {}
        if set(given) != set(self.recipe.conditions):
            raise ValueRangeError(
                f"picture {picture.key} needs the conditions {_listed(self.recipe.conditions)}; "
                f"got {_listed(given)}."
            )
        rounded = {name: round(float(given[name]), 6) for name in self.recipe.conditions}
        self._write(picture, files, rounded)
        self._added += 1

    def commit(self) -> Record:
        """Make what was added part of the dataset, on the disk when this returns.

        Raises:
            ValueRangeError: pictures of the plan are missing.
            DataError: it cannot be written.
        """
        if self._added != len(self._plan):
            raise ValueRangeError(
                f"shard {self.shard} needs {len(self._plan)} pictures; {self._added} were added."
            )
        return self._commit()

    @abc.abstractmethod
    def __enter__(self) -> Self: ...

    @abc.abstractmethod
    def __exit__(self, *error: Any) -> None: ...

    @abc.abstractmethod
    def _write(
        self, picture: Picture, files: Mapping[str, bytes], conditions: Mapping[str, float]
    ) -> None: ...

    @abc.abstractmethod
    def _commit(self) -> Record: ...


class Store(abc.ABC):
    """Where and how the pictures of a dataset lie.

    Args:
        folder: of the dataset.
        recipe: of the dataset.
    """

    writer: ClassVar[type[Writer]]

    def __init__(self, folder: str | os.PathLike[str], recipe: DatasetRecipe) -> None:
        self.folder = Path(folder)
        self.recipe = recipe
        self.plan = Plan(recipe)

    @abc.abstractmethod
    def record_path(self, shard: int) -> Path:
        """The file whose existence says that the shard is whole."""

    @abc.abstractmethod
    def record_files(self) -> dict[int, Path]:
        """All files that have the name of a record, by number of the shard."""

    @abc.abstractmethod
    def lost(self, record: Record) -> str | None:
        """What is wrong with names and sizes of a finished shard's files, in words."""

    @abc.abstractmethod
    def read(self, picture: Picture) -> StoredPicture:
        """A picture of a finished shard. Raises DataError when it is not there."""

    @abc.abstractmethod
    def leftovers(self) -> dict[Path, int]:
        """Temporary files and folders of processes that write or were killed, with the shard of each."""

    @abc.abstractmethod
    def finish(self) -> None:
        """Write what tells of all pictures, once all shards are there."""

    def committed(self, shards: Collection[int] | None = None) -> dict[int, Record]:
        """Records of the finished shards, without `files`; names and sizes of their files are checked.

        Args:
            shards: those to look at; by default all.

        Raises:
            DataError: a record is damaged or of another recipe, or its shard is not as it says.
        """
        found: dict[int, Record] = {}
        problems: list[tuple[str, Path]] = []
        wanted = None if shards is None else frozenset(shards)
        for shard, path in sorted(self.record_files().items()):
            if wanted is not None and shard not in wanted:
                continue
            try:
                record = Record.read(path)
                problem = self.unfit(shard, record) or self.lost(record)
            except DataError as error:
                problem = str(error)
            if problem:
                problems.append((problem, path))
            else:
                found[shard] = dataclasses.replace(record, files=())
        if problems:
            more = f"; and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
            raise DataError(
                f"{self.folder} is damaged: {'; '.join(text for text, _ in problems[:_LISTED])}{more}. "
                f"`pyface generate verify {self.folder}` lists everything. Remove the record of a damaged "
                f"shard, such as {problems[0][1].name}, to have the shard made anew."
            )
        return found

    def unfit(self, shard: int, record: Record) -> str | None:
        """What is wrong with a record that was read from the file of number `shard`, in words."""
        name = self.record_path(shard).name
        if record.recipe != self.recipe.sha256:
            return f"{name} is of another recipe"
        if shard >= self.plan.shards:
            return f"{name} is of no shard of the plan, which has {self.plan.shards}"
        if record.shard != shard or Path(record.name).stem != Path(name).stem:
            return f"{name} is the record of shard {record.shard}, {record.name}"
        size = self.recipe.shard_size
        planned = min(size, self.recipe.count - shard * size)
        if record.pictures != planned:
            return f"{name} has {record.pictures} pictures, the plan {planned}"
        return None


def _listed(names: Collection[str]) -> str:
    return ", ".join(names) or "none"


def checked_spectra(recipe: DatasetRecipe) -> list[str]:
    """Names of the spectra, which become parts of file names.

    Raises:
        ValueRangeError: a name with other characters than letters, digits, "_" and "-", or two that differ
            in upper and lower case alone.
    """
    if len({name.upper() for name in recipe.spectra}) < len(recipe.spectra):
        raise ValueRangeError(f"spectra must differ in their letters; got {', '.join(recipe.spectra)}.")
    for name in recipe.spectra:
        if not _SPECTRUM.fullmatch(name):
            raise ValueRangeError(
                f"spectra must be named by up to 40 letters, digits, _ and -, as they become parts of file "
                f"names; got {name!r}."
            )
    return list(recipe.spectra)


@contextlib.contextmanager
def writing_part(folder: str | os.PathLike[str], index: int = 0, of: int = 1) -> Iterator[None]:
    """Let no second process, nor a second block of this one, into the block for the same part of a dataset.

    Processes with other parts are not in each other's way, as long as all divide the dataset into as many.
    The locks end with the process, however it ends. On a file system without locks nobody is kept out; two
    processes then write the same bytes twice.

    Args:
        folder: of the dataset; made when it is not there.
        index: of the part, see `Plan.share`.
        of: how many parts there are.

    Raises:
        DataError: another process writes this part, or divides the dataset otherwise; or the folder cannot be
            written.
    """
    with _locks(folder) as handle:
        if not _lock(handle, of << _PART_BITS | index, 1):
            part = f"part {index} of {of} of {folder}" if of > 1 else f"{folder}"
            raise DataError(
                f"another process is writing {part}; wait for it, choose another folder, or divide the work "
                "with --shard-index and --num-shards"
            )
        _lock(handle, _DIVISIONS + of, 1, shared=True)  # first hold, then look: so of two one is refused
        others = ((_DIVISIONS, of), (_DIVISIONS + of + 1, _DIVISIONS - of - 1))
        if any(_locked(handle, first, count) for first, count in others):
            raise DataError(
                f"another process that writes to {folder} divides the work otherwise than into {of}; give "
                "all the same --num-shards, or wait for it"
            )
        yield


@contextlib.contextmanager
def whole_file_lock(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Wait until no other process writes the files that tell of the whole dataset, and keep others out."""
    with _locks(folder) as handle:
        _lock(handle, _WHOLE, 1, wait=True)
        yield


@contextlib.contextmanager
def _locks(folder: str | os.PathLike[str]) -> Iterator[int]:
    """An open file whose locks are this block's own."""
    path = make_folder(folder) / LOCKS
    with telling_why(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        yield handle
    finally:
        os.close(handle)


def _lock(handle: int, first: int, count: int, *, shared: bool = False, wait: bool = False) -> bool:
    """Lock bytes of an open file for this opening of it (man 2 fcntl, "Open file description locks")."""
    request = _FLOCK.pack(fcntl.F_RDLCK if shared else fcntl.F_WRLCK, os.SEEK_SET, first, count, 0)
    try:
        fcntl.fcntl(handle, fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK, request)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _locked(handle: int, first: int, count: int) -> bool:
    """Whether somebody else holds a lock on some of these bytes."""
    request = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, first, count, 0)
    try:
        answer = fcntl.fcntl(handle, fcntl.F_OFD_GETLK, request)
    except OSError:
        return False
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)
