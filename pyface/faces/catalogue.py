"""What is known of each network that pyface can use but does not ship: files, hashes, source, licence.

Two places hold entries: `catalogue.toml` in this package, and a `model.json` in the cache folder of every
model that a user added (`pyface models add`).
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from pyface.errors import CheckpointError, ValueRangeError

__all__ = [
    "ModelEntry",
    "ModelFile",
    "ModelLicence",
    "ModelSource",
    "cache_folder",
    "entry_as_json",
    "model_entries",
    "model_entry",
    "record_path",
    "registered_entry",
    "select",
    "shipped_entries",
]

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_RECORD = "model.json"


@dataclasses.dataclass(frozen=True)
class ModelFile:
    """One file of a model: name in the cache, hash, bytes, and its path inside the archive."""

    name: str
    sha256: str
    size: int
    inner: str = ""


@dataclasses.dataclass(frozen=True)
class ModelSource:
    """Where the files come from: an archive of a PyPI package at one version, a URL, or a path."""

    package: str = ""
    version: str = ""
    archive: str = ""
    sha256: str = ""
    size: int = 0
    url: str = ""
    path: str = ""

    def __str__(self) -> str:
        if self.package:
            return f"{self.archive} of PyPI package {self.package} {self.version}"
        return self.url or self.path


@dataclasses.dataclass(frozen=True)
class ModelLicence:
    """SPDX name, whom to name, the text to carry along, where that was read, and what to know besides."""

    spdx: str
    attribution: str = ""
    notice: str = ""
    read_in: str = ""
    remark: str = ""


@dataclasses.dataclass(frozen=True)
class ModelEntry:
    """A model by name. `kind` is one of pyface.faces.registry.KINDS; `options` go to its factory."""

    name: str
    kind: str
    purpose: str
    files: tuple[ModelFile, ...]
    source: ModelSource
    licence: ModelLicence
    sets: tuple[str, ...] = ()
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    shipped: bool = True

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.size for file in self.files)

    def file(self, name: str | None = None) -> ModelFile:
        """The file of this name; without a name the only one.

        Raises:
            ValueRangeError: there is no such file, or there are several and none was named.
        """
        chosen = [file for file in self.files if name in (None, file.name)]
        if len(chosen) != 1:
            names = ", ".join(file.name for file in self.files)
            asked = "no file was named" if name is None else f"got {name!r}"
            raise ValueRangeError(f"model {self.name} has the files {names}; {asked}. Name one of them.")
        return chosen[0]


def cache_folder() -> Path:
    """Where fetched models lie: `$PYFACE_HOME/models`, else `pyface/models` in the user's cache folder."""
    if home := os.environ.get("PYFACE_HOME"):
        return Path(home).expanduser() / "models"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pyface" / "models"


@functools.cache
def shipped_entries() -> dict[str, ModelEntry]:
    """The models of the catalogue that comes with pyface, by name."""
    text = resources.files("pyface.faces").joinpath("catalogue.toml").read_text(encoding="utf-8")
    catalogue = tomllib.loads(text)
    entries = {}
    for row in catalogue["model"]:
        licence = row["licence"]
        notice = catalogue["texts"][licence["spdx"]].strip()
        entries[row["name"]] = ModelEntry(
            name=row["name"],
            kind=row["kind"],
            purpose=row["purpose"],
            files=tuple(ModelFile(**file) for file in row["file"]),
            source=ModelSource(**catalogue["source"][row["source"]]),
            licence=ModelLicence(**licence, notice=notice),
            sets=tuple(row["sets"]),
        )
    return entries


def registered_entry(name: str) -> ModelEntry | None:
    """The model of this name that a user added, or None.

    Raises:
        CheckpointError: its record in the cache is damaged.
    """
    if not _NAME.fullmatch(name):
        return None
    record = cache_folder() / name / _RECORD
    try:
        facts = json.loads(record.read_text(encoding="utf-8"))
        return ModelEntry(
            name=name,
            kind=facts["kind"],
            purpose=facts["purpose"],
            files=tuple(ModelFile(**file) for file in facts["files"]),
            source=ModelSource(**facts["source"]),
            licence=ModelLicence(**facts["licence"]),
            options=dict(facts["options"]),
            shipped=False,
        )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{record} is damaged ({error}); add the model again: pyface models add {name} PATH --replace"
        ) from error


def entry_as_json(entry: ModelEntry) -> str:
    """The record of a user's model, as `registered_entry` reads it."""
    facts = dataclasses.asdict(entry)
    for key in ("name", "sets", "shipped"):
        del facts[key]
    return json.dumps(facts, indent=2) + "\n"


def record_path(name: str) -> Path:
    """Where the record of a user's model lies.

    Raises:
        ValueRangeError: the name cannot be that of a user's model.
    """
    if not _NAME.fullmatch(name):
        raise ValueRangeError(
            f"a model's name has 1 to 64 of a-z 0-9 . _ - and begins with a letter or digit; got {name!r}."
        )
    return cache_folder() / name / _RECORD


def model_entries() -> dict[str, ModelEntry]:
    """All models by name: those of the catalogue, then those that the user added, in alphabetic order."""
    entries = dict(shipped_entries())
    folder = cache_folder()
    for record in sorted(folder.glob(f"*/{_RECORD}")) if folder.is_dir() else []:
        name = record.parent.name
        if name not in entries and (entry := registered_entry(name)):
            entries[name] = entry
    return entries


def model_entry(name: str) -> ModelEntry:
    """The model of this name, from the catalogue or added by the user.

    Raises:
        ValueRangeError: there is none.
    """
    entry = shipped_entries().get(name) or registered_entry(name)
    if entry is None:
        raise ValueRangeError(
            f"there is no model {name!r}; there are {', '.join(model_entries())}. "
            "Your own is added with: pyface models add NAME PATH"
        )
    return entry


def select(names: list[str] | tuple[str, ...]) -> list[ModelEntry]:
    """The models that names, sets ("default") and "all" stand for; each once, in the order first named.

    Raises:
        ValueRangeError: a name stands for nothing.
    """
    chosen: dict[str, ModelEntry] = {}
    for name in names:
        if name == "all":
            group = list(model_entries().values())
        else:
            group = [entry for entry in shipped_entries().values() if name in entry.sets]
        for entry in group or [model_entry(name)]:
            chosen.setdefault(entry.name, entry)
    return list(chosen.values())
