"""Datasets as tar files of some thousand pictures each, which WebDataset reads as they are.

Each picture has the members KEY.jpg (KEY.SPECTRUM.jpg where there are several spectra), KEY.json (identity,
sample, conditions) and KEY.cls (identity), one after the other; KEY is the `key` of a `Picture`. The tar file
is plain USTAR (POSIX.1-1988) without anything of the machine or the time in it, so that equal pictures make
equal bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from pyface.errors import DataError
from pyface.generation.plan import DatasetRecipe, Picture
from pyface.generation.records import Record, Store, StoredPicture, Writer
from pyface.io.atomic import atomic_write

__all__ = ["ShardStore", "ShardWriter", "member_names", "shard_name", "ustar_header"]

_BUFFER = 2**20
_BLOCK = 512
_MAGIC = b"ustar\x0000"
# between name and size: mode 644, owner 0, group 0; between size and checksum: time 0; behind the checksum: a
# plain file, no link, magic, no names of owner and group, no device, no prefix
_OWNER = b"0000644\x00" + b"0000000\x00" * 2
_TIME = b"00000000000\x00"
_TAIL = b"0" + bytes(100) + _MAGIC + bytes(64) + b"0000000\x00" * 2 + bytes(155 + 12)
_SUM = sum(_OWNER + _TIME + b" " * 8 + _TAIL)  # the checksum counts its own place as blanks
_RECORD = re.compile(r"shard-(\d{6,})\.json")
_LEFTOVER = re.compile(r"\.shard-(\d{6,})\.[a-z0-9_]{8}\.(?:tar|json)")


def shard_name(shard: int) -> str:
    """ "shard-000012" of 12."""
    return f"shard-{shard:06d}"


def ustar_header(name: str, size: int) -> bytes:
    """The 512 bytes before a file in a tar: mode 644, owner, group and time 0.

    Args:
        name: ASCII, at most 100 characters.
        size: of the file in bytes, less than 8 GiB.
    """
    label = name.encode("ascii")
    length = b"%011o\x00" % size
    check = b"%06o\x00 " % (_SUM + sum(label) + sum(length))
    return b"".join((label.ljust(100, b"\x00"), _OWNER, length, _TIME, check, _TAIL))


def member_names(recipe: DatasetRecipe, picture: Picture) -> dict[str, str]:
    """Names in the shard: of each spectrum's picture, then of "json" and "cls", in order."""
    several = len(recipe.spectra) > 1
    images = {
        s: f"{picture.key}.{s}{recipe.suffix}" if several else f"{picture.key}{recipe.suffix}"
        for s in recipe.spectra
    }
    return images | {".json": f"{picture.key}.json", ".cls": f"{picture.key}.cls"}


class _NotCommittedError(Exception):
    """Tells the file that it shall not appear."""


class ShardWriter(Writer):
    """Writes shard-000012.tar and, when it is on the disk, its record shard-000012.json; see `Writer`."""

    def __enter__(self) -> Self:
        self._hash = hashlib.sha256()
        self._size = 0
        self._opened = contextlib.ExitStack()
        temporary = self._opened.enter_context(atomic_write(self.folder / f"{shard_name(self.shard)}.tar"))
        self._file = self._opened.enter_context(temporary.open("wb", buffering=_BUFFER))
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if error is None:
            error = _NotCommittedError()  # undoes what was written, unless `commit` has closed it
        self._opened.__exit__(type(error), error, trace)

    def _write(self, picture: Picture, files: Mapping[str, bytes], conditions: Mapping[str, float]) -> None:
        labels = {"identity": picture.identity, "sample": picture.sample, "conditions": conditions}
        contents = {**files, ".json": json.dumps(labels).encode(), ".cls": str(picture.identity).encode()}
        blocks = []
        for kind, name in member_names(self.recipe, picture).items():
            data = contents[kind]
            blocks += [ustar_header(name, len(data)), data, bytes(-len(data) % _BLOCK)]
        self._append(b"".join(blocks))

    def _append(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self._size += len(data)

    def _commit(self) -> Record:
        self._append(bytes(2 * _BLOCK))  # the end of a tar
        self._opened.close()
        record = Record(
            shard=self.shard,
            name=f"{shard_name(self.shard)}.tar",
            pictures=self._added,
            bytes=self._size,
            sha256=self._hash.hexdigest(),
            recipe=self.recipe.sha256,
            made_by=self.made_by,
        )
        record.write(self.folder / f"{shard_name(self.shard)}.json")
        return record


class ShardStore(Store):
    """A dataset in tar files; see `Store`."""

    writer = ShardWriter

    def record_path(self, shard: int) -> Path:
        return self.folder / f"{shard_name(shard)}.json"

    def shard_path(self, shard: int) -> Path:
        """The tar file of a shard."""
        return self.folder / f"{shard_name(shard)}.tar"

    def record_files(self) -> dict[int, Path]:
        matches = ((_RECORD.fullmatch(path.name), path) for path in self.folder.iterdir())
        return {int(match[1]): path for match, path in matches if match}

    def lost(self, record: Record) -> str | None:
        path = self.shard_path(record.shard)
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return f"{path.name} is gone, but its record is there"
        except OSError as error:
            return f"{path.name} cannot be read ({error.strerror})"
        return None if size == record.bytes else f"{path.name} has {size} bytes, its record {record.bytes}"

    def leftovers(self) -> dict[Path, int]:
        matches = ((_LEFTOVER.fullmatch(path.name), path) for path in self.folder.iterdir())
        return {path: int(match[1]) for match, path in matches if match}

    def read(self, picture: Picture) -> StoredPicture:
        path = self.shard_path(self.plan.shard_of(picture))
        wanted = member_names(self.recipe, picture)
        found: dict[str, bytes] = {}
        for name, data in members(path, set(wanted.values())):
            found[name] = data
        missing = [name for name in wanted.values() if name not in found]
        if missing:
            raise DataError(
                f"{path} has no {', '.join(missing)}; `pyface generate verify` lists what is wrong"
            )
        try:
            conditions = json.loads(found[wanted[".json"]])["conditions"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: {wanted['.json']} is damaged ({error})") from error
        return StoredPicture({s: found[wanted[s]] for s in self.recipe.spectra}, conditions)

    def finish(self) -> None:
        """Nothing: every shard tells of its own pictures."""


def members(path: Path, wanted: set[str] | None = None) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of the files in a tar, in order; of those named `wanted` alone, if it is given.

    Raises:
        DataError: the tar is missing, damaged or cut off.
    """
    left = None if wanted is None else set(wanted)
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if left is not None and member.name not in left:
                    continue
                plain = member.isfile() and not member.issparse()  # a sparse one claims any size
                file = archive.extractfile(member) if plain else None
                if file is None:
                    raise DataError(f"{path}: {member.name} is no file")
                data = file.read()
                if len(data) != member.size:
                    raise DataError(f"{path} is cut off within {member.name}")
                yield member.name, data
                if left is not None:
                    left.discard(member.name)
                    if not left:
                        return
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is no readable tar ({error})") from error
