"""New datasets on disk: a folder, or a zip in the layout of the StyleGAN tools; there whole or not at all."""

from __future__ import annotations

import abc
import contextlib
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from pyface.data.check import check
from pyface.data.files import open_files
from pyface.data.folder import ImageFolder
from pyface.data.labels import dataset_json
from pyface.data.tree import DATASET_JSON, bare_name
from pyface.errors import DataError
from pyface.io.atomic import atomic_write, make_folder

__all__ = ["DatasetSink", "new_dataset", "pack"]

_LISTED = 20


class DatasetSink(abc.ABC):
    """Takes the files of a dataset that is being written."""

    @abc.abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Put one file there; `name` is relative, with forward slashes."""


class _FolderSink(DatasetSink):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, content: bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


class _ZipSink(DatasetSink):
    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive

    def write(self, name: str, content: bytes) -> None:
        entry = zipfile.ZipInfo(name)  # dated 1980: the same files give the same bytes
        entry.external_attr = 0o644 << 16
        self.archive.writestr(entry, content, zipfile.ZIP_STORED)


@contextlib.contextmanager
def new_dataset(out: str | os.PathLike[str], source: str | os.PathLike[str]) -> Iterator[DatasetSink]:
    """A sink whose files become the folder `out`, or the uncompressed zip when it ends with .zip.

    They appear when the block ends well; otherwise nothing is left.

    Args:
        out: must not exist yet, or be an empty folder.
        source: the dataset that is read; `out` may neither be it, nor lie in it, nor hold it.

    Raises:
        DataError: such an `out`, or one that cannot be written.
    """
    target = Path(out)
    _refuse_overlap(target.resolve(), Path(source).resolve())
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise DataError(f"{target} is there already; choose a new name, nothing is written over")
    parent = make_folder(target.parent)
    if target.suffix.lower() == ".zip":
        with (
            atomic_write(target) as temporary,
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
        ):
            yield _ZipSink(archive)
        return
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name[:80]}.", dir=parent))
    try:
        yield _FolderSink(folder)
        folder.chmod(parent.stat().st_mode & 0o777)
        folder.replace(target)
    except OSError as error:
        raise DataError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _refuse_overlap(target: Path, source: Path) -> None:
    if target == source or source in target.parents or target in source.parents:
        raise DataError(
            f"{target} would be written into or over {source}; choose a place outside of it, the original is "
            "never touched"
        )


def pack(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    spectrum: str | None = None,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Write a sound dataset into a zip (or folder) that other StyleGAN trainers read; returns the pictures.

    Uncompressed, the pictures byte for byte as they are, dataset.json with a class or a vector for each.

    Args:
        source: folder or zip without faults.
        out: new .zip file, or new folder.
        spectrum: "vis" or "nir" of a dataset that has both; by default "vis".
        workers: threads that check the pictures.
        progress: called with the number of pictures checked since the last call.

    Raises:
        DataError: the source has faults (all are named by `pyface data check`), or `out` cannot be written.
    """
    report = check(source, workers=workers, progress=progress)
    if not report.ok:
        told = "; ".join(f"{fault.file or source}: {fault.reason}" for fault in report.faults[:_LISTED])
        more = f"; and {len(report.faults) - _LISTED} more" if len(report.faults) > _LISTED else ""
        raise DataError(
            f"{source} has {len(report.faults)} faults: {told}{more}. `pyface data check {source} --fix NEW` "
            "writes a repaired copy."
        )
    dataset = ImageFolder(source)
    names = dataset.file_names(spectrum or dataset.spectra[0])
    labels, schema = dataset.labels(), dataset.label_schema
    files = open_files(source)
    with new_dataset(out, source) as sink:
        for name in names:
            sink.write(bare_name(name), files.read(name))
        rows = list(zip(map(bare_name, names), labels, strict=True))
        sink.write(DATASET_JSON, dataset_json(rows, schema).encode())
    return len(names)
