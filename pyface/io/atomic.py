"""Files that appear complete or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pyface.errors import DataError

__all__ = [
    "atomic_write",
    "make_folder",
    "only_writer",
    "remove_leftovers",
    "sync_folder",
    "sync_path",
    "telling_why",
    "write_bytes",
    "write_error",
    "write_text",
]

_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space or choose another disk",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another disk",
    errno.EFBIG: "the file would be larger than this process or file system allows; raise ulimit -f",
    errno.EACCES: "no permission to write there; choose another folder or change its permissions",
    errno.EPERM: "no permission to write there; choose another folder or change its permissions",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.ENOENT: "the folder does not exist; make it first",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another path",
    errno.EISDIR: "the path is a folder; give a file name",
    errno.EEXIST: "a file stands where a folder is needed; choose another path",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}


_LEFTOVER = re.compile(r"\..+\.[a-z0-9_]{8}(\.\w+)?")


def write_error(path: Path, error: OSError) -> DataError:
    """The error to raise where `path` could not be written: why, and what to do."""
    advice = _ADVICE.get(error.errno or 0, error.strerror or str(error))
    return DataError(f"cannot write {path}: {advice}")


@contextlib.contextmanager
def telling_why(path: str | os.PathLike[str]) -> Iterator[None]:
    """Make an `OSError` in the block a DataError that names `path` and says what to do."""
    try:
        yield
    except OSError as error:
        raise write_error(Path(path), error) from error


def _new_file_mode() -> int:
    """Permission bits that `open` would give a new file (mkstemp gives 0600)."""
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask


_MODE = _new_file_mode()  # at import: umask cannot be read without setting it, which threads must not see


def sync_path(path: str | os.PathLike[str]) -> None:
    """Flush a file to the disk. Raises OSError when it cannot be written there."""
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Make a rename in `folder` survive a power cut, where the file system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], *, sync: bool = True) -> Iterator[Path]:
    """Give a temporary path beside `path`; when the block ends well, it becomes `path` in one step.

    The temporary file exists (empty) and keeps the suffix of `path`, so that writers which look at the suffix
    work. When the block raises, it is removed and `path` is as it was.

    Args:
        path: the file to make or to replace.
        sync: flush the file and its folder to the disk before and after the rename. Switch it off only for
            files that can be made again, such as the single images of a dataset.

    Raises:
        DataError: the folder cannot be written, the disk is full, or `path` is a folder. Also when the block
            itself raises an `OSError` about this file (a full disk while writing).

    >>> import tempfile, pathlib
    >>> target = pathlib.Path(tempfile.mkdtemp()) / "words.txt"
    >>> with atomic_write(target) as temporary:
    ...     _ = temporary.write_text("whole")
    >>> target.read_text()
    'whole'
    """
    target = Path(path)
    if target.is_dir():
        raise DataError(f"cannot write {target}: {_ADVICE[errno.EISDIR]}")
    try:
        handle, name = tempfile.mkstemp(
            prefix=f".{target.stem[:40]}.", suffix=target.suffix, dir=target.parent
        )
    except OSError as error:
        raise write_error(target, error) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(_MODE)
        if sync:
            sync_path(temporary)
        temporary.replace(target)
        if sync:
            sync_folder(target.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _ADVICE:
            raise write_error(target, error) from error
        raise


def write_bytes(path: str | os.PathLike[str], data: bytes, *, sync: bool = True) -> None:
    """Write `data` to `path` atomically. Raises DataError as `atomic_write` does."""
    with atomic_write(path, sync=sync) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str, *, sync: bool = True) -> None:
    """Write `text` as UTF-8 to `path` atomically. Raises DataError as `atomic_write` does."""
    write_bytes(path, text.encode("utf-8"), sync=sync)


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Make `path` and its parents if needed, make sure that files can be made in it, and return it.

    Raises:
        DataError: it cannot be made or written.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise write_error(folder, error) from error
    return folder


@contextlib.contextmanager
def only_writer(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Let no second process into the same block for the same folder; ends with the process, however it ends.

    Raises:
        DataError: another process is there already.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(
                f"another process is writing to {folder}; wait for it, or choose another folder"
            ) from None
        except OSError:  # a file system without locks
            yield
            return
        yield
    finally:
        os.close(handle)


def remove_leftovers(folder: str | os.PathLike[str]) -> int:
    """Remove temporary files that killed processes left in `folder`, and say how many.

    Only for a folder that nobody else writes to, see `only_writer`.
    """
    leftovers = [path for path in Path(folder).iterdir() if _LEFTOVER.fullmatch(path.name) and path.is_file()]
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)
