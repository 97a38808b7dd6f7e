"""Artefacts on disk: a file for a runtime, its data files, and a JSON file beside it that says what they are.

The JSON file is called as the artefact with ".json" behind it:

    {"format": 1, "spec": {...}, "files": {"net.onnx": "<sha256>", "net.onnx.data": "<sha256>"},
     "parity": {...} or null}

Files appear complete or not at all: everything is made in a temporary folder beside the place where it is
wanted and moved from there, the JSON file last, so that whatever a killed process leaves is refused.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pyface.errors import DataError, ExportError
from pyface.export.spec import EngineSpec
from pyface.io.atomic import write_error
from pyface.io.hashing import sha256_of

__all__ = [
    "FORMAT",
    "Artefact",
    "attach_parity",
    "open_artefact",
    "seal",
    "sha256_of_network",
    "sidecar_path",
    "staged",
]

FORMAT = 1
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_YOUNG_S = 60.0  # a staging folder younger than this may not be locked yet
_AGAIN = "export the network again (pyface export)"


@dataclass(frozen=True)
class Artefact:
    """An exported network on disk.

    Attributes:
        path: of the file that the runtime opens.
        spec: what it computes and how it was made.
        files: name and SHA-256 of every file that belongs to it, `path` first; all lie in one folder.
        parity: its certificate, see `pyface.export.parity`; None where none was made.
    """

    path: Path
    spec: EngineSpec
    files: Mapping[str, str]
    parity: Mapping[str, Any] | None = None

    @property
    def sha256(self) -> str:
        """SHA-256 of the file that the runtime opens."""
        return self.files[self.path.name]

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum((self.path.parent / name).stat().st_size for name in self.files)

    def moved(self, path: str | os.PathLike[str]) -> Artefact:
        """The same artefact in another folder, under its name."""
        return replace(self, path=Path(path))


def sidecar_path(path: str | os.PathLike[str]) -> Path:
    """Where the description of an artefact lies.

    >>> sidecar_path("out/net.onnx").name
    'net.onnx.json'
    """
    target = Path(path)
    return target.with_name(target.name + ".json")


@contextlib.contextmanager
def staged(out: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a path of the name of `out` in a temporary folder beside it; what lies there appears at the end.

    Within the block write the artefact to that path and its data files beside it, then call `seal`. When the
    block ends well, all files of the folder move to where `out` lies, data files first, the description last;
    data files of the artefact that was there before are removed. When the block raises, nothing has changed.

    Raises:
        DataError: the folder of `out` does not exist or cannot be written, the disk is full, or `out` is a
            folder.
        ExportError: the block ended without `seal`.

    >>> target = Path(tempfile.mkdtemp()) / "net.onnx"
    >>> with staged(target) as path:
    ...     _ = path.write_bytes(b"graph")
    ...     artefact = seal(path, EngineSpec("onnx", "demo", "whole", "fp32", 20, "", (), ()))
    >>> open_artefact(target).sha256 == artefact.sha256
    True
    """
    target = Path(out)
    if target.is_dir():
        raise DataError(f"cannot write {target}: the path is a folder; give a file name")
    _remove_abandoned(target)
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise write_error(target, error) from error
    try:
        with _held(folder):
            yield folder / target.name
            _move(folder, target)
    except OSError as error:
        if error.errno in _FULL:
            raise write_error(target, error) from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def seal(path: Path, spec: EngineSpec, parity: Mapping[str, Any] | None = None) -> Artefact:
    """Describe the files that lie beside `path` in its staging folder: hash them, write the JSON file.

    Args:
        path: as `staged` gave it; the file is there, and so are its data files.
        spec: what the artefact is.
        parity: its certificate, where one is known already; `attach_parity` adds one later.
    """
    sidecar = sidecar_path(path)
    names = sorted(entry.name for entry in path.parent.iterdir() if entry != sidecar)
    names.sort(key=lambda name: name != path.name)
    files = {name: sha256_of(path.parent / name) for name in names}
    if path.name not in files:
        raise ExportError(f"nothing was written to {path.name}; this is a fault of the exporter")
    return attach_parity(Artefact(path, spec, files), parity)


def attach_parity(artefact: Artefact, parity: Mapping[str, Any] | None) -> Artefact:
    """The artefact with this certificate, written into its JSON file (in the staging folder)."""
    described = {
        "format": FORMAT,
        "spec": artefact.spec.to_dict(),
        "files": dict(artefact.files),
        "parity": parity,
    }
    sidecar_path(artefact.path).write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    return replace(artefact, parity=parity)


def open_artefact(path: str | os.PathLike[str], *, check: bool = True) -> Artefact:
    """The artefact at `path`, as its description says, its files being those that were written.

    Args:
        path: of the file that the runtime opens; the description lies beside it.
        check: compare the SHA-256 of every file. Without it they only have to be there.

    Raises:
        ExportError: the artefact, its description or a data file is missing, or damaged; says which.
    """
    target = Path(path)
    described = _read_sidecar(target)
    spec = EngineSpec.from_dict(described["spec"])
    files = described["files"]
    for name, digest in files.items():
        file = target.parent / name
        if not file.is_file():
            raise ExportError(
                f"{target} is incomplete: {name} is not beside it; copy the whole set ({', '.join(files)}, "
                f"{sidecar_path(target).name}) or {_AGAIN}"
            )
        if check and (found := sha256_of(file)) != digest:
            raise ExportError(
                f"{file} is not the file that was exported: its sha256 is {found[:16]}..., "
                f"{sidecar_path(target).name} says {digest[:16]}...; it is damaged or was changed, "
                f"copy it again or {_AGAIN}"
            )
    return Artefact(target, spec, files, described["parity"])


def sha256_of_network(network: nn.Module) -> str:
    """SHA-256 over names, element types, shapes and numbers of a network's tensors, in their order.

    >>> layer = nn.Linear(2, 2)
    >>> sha256_of_network(layer) == sha256_of_network(layer.double().float())
    True
    """
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {list(plain.shape)}\n".encode())
        if plain.numel():
            digest.update(plain.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _read_sidecar(path: Path) -> dict[str, Any]:
    sidecar = sidecar_path(path)
    if not path.is_file():
        raise ExportError(f"there is no file {path}")
    try:
        described = json.loads(sidecar.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ExportError(
            f"{path} has no description: {sidecar.name} is not beside it. Copy it with the artefact; for a "
            f"file that pyface did not write, or that was never finished, {_AGAIN}"
        ) from error
    except (OSError, ValueError) as error:
        raise ExportError(f"{sidecar} cannot be read ({error}); {_AGAIN}") from error
    if not isinstance(described, dict) or described.get("format") != FORMAT:
        found = described.get("format") if isinstance(described, dict) else None
        raise ExportError(
            f"{sidecar} has format {found!r}; this version of pyface reads format {FORMAT}; {_AGAIN}"
        )
    files = described.get("files")
    if not (isinstance(files, dict) and all(_plain(name, digest) for name, digest in files.items())):
        raise ExportError(f"{sidecar} is damaged: files must be names and hashes; {_AGAIN}")
    if path.name not in files:
        raise ExportError(
            f"{sidecar} describes {', '.join(files) or 'nothing'}, not {path.name}: was it renamed? "
            f"Give it its name back, or {_AGAIN}"
        )
    if not isinstance(described.get("spec"), dict) or "parity" not in described:
        raise ExportError(f"{sidecar} is damaged: it lacks spec or parity; {_AGAIN}")
    return described


def _plain(name: object, digest: object) -> bool:
    """Whether these are the name of a file in the same folder and a hash."""
    return isinstance(name, str) and Path(name).name == name and isinstance(digest, str)


def _move(folder: Path, target: Path) -> None:
    sidecar = sidecar_path(folder / target.name)
    if not sidecar.is_file():
        raise ExportError(f"{target.name} was not described; this is a fault of the exporter")
    stale = _data_files(target)
    entries = sorted(folder.iterdir(), key=lambda entry: (entry == sidecar, entry.name == target.name))
    for entry in entries:
        with entry.open("rb") as file:
            os.fsync(file.fileno())
    for entry in entries:
        entry.replace(target.parent / entry.name)
    for name in stale - {entry.name for entry in entries}:
        (target.parent / name).unlink(missing_ok=True)


def _data_files(target: Path) -> set[str]:
    """Names of the data files of the artefact that lies at `target`; none where there is none."""
    try:
        return set(_read_sidecar(target)["files"]) - {target.name}
    except ExportError:
        return set()


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Mark a staging folder as in use; the mark ends with the process."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _remove_abandoned(target: Path) -> None:
    """Remove staging folders of `target` whose process was killed."""
    for folder in target.parent.glob(f".{glob.escape(target.name)}.????????"):
        with contextlib.suppress(OSError):  # no folder, in use, or somebody else removes it
            if time.time() - folder.stat().st_mtime < _YOUNG_S:
                continue
            handle = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(handle)
