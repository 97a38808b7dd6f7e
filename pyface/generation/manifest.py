"""The file that says what a dataset is: manifest.json, begun with it and completed with its last shard."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyface.errors import DataError
from pyface.generation.folder import FolderStore
from pyface.generation.plan import DatasetRecipe, Plan
from pyface.generation.records import Record, Store, whole_file_lock, writing_part
from pyface.generation.shards import ShardStore
from pyface.io.atomic import make_folder, telling_why, write_text

__all__ = [
    "MANIFEST",
    "STORES",
    "Manifest",
    "begin_manifest",
    "complete_manifest",
    "dataset_part",
    "open_store",
    "read_manifest",
]

MANIFEST = "manifest.json"
MANIFEST_FORMAT = 1
STORES: dict[str, type[Store]] = {"shards": ShardStore, "folder": FolderStore}
_LEFTOVER = re.compile(r"\.(?:manifest|labels|dataset)\.[a-z0-9_]{8}\.jsonl?")


@dataclass(frozen=True)
class Manifest:
    """What manifest.json says.

    Attributes:
        recipe: all that was chosen.
        made_by: engines and versions that made the shards, each once: of the process that began the dataset,
            and when it is complete of all records.
        complete: whether every shard is there.
        shards: of a complete dataset: name, pictures, bytes and sha256 of each.
    """

    recipe: DatasetRecipe
    made_by: tuple[Mapping[str, Any], ...]
    complete: bool = False
    shards: tuple[tuple[str, int, int, str], ...] = ()

    @property
    def totals(self) -> dict[str, int]:
        """Numbers of `shards`, `pictures` and `bytes`."""
        return {
            "shards": len(self.shards),
            "pictures": sum(row[1] for row in self.shards),
            "bytes": sum(row[2] for row in self.shards),
        }

    @property
    def sha256(self) -> str:
        """Of the whole dataset: of the lines "sha256  name" of its shards."""
        lines = "".join(f"{sha256}  {name}\n" for name, _, _, sha256 in self.shards)
        return hashlib.sha256(lines.encode()).hexdigest()

    def text(self) -> str:
        """The file: JSON, one line for each shard."""
        plan = Plan(self.recipe)
        entry = {
            "format": MANIFEST_FORMAT,
            "recipe": self.recipe.to_dict(),
            "recipe_sha256": self.recipe.sha256,
            "plan": {"pictures": self.recipe.count, "shards": plan.shards},
            "made_by": list(self.made_by),
            "complete": self.complete,
        }
        if not self.complete:
            return json.dumps(entry, indent=1) + "\n"
        entry |= {"totals": self.totals, "sha256": self.sha256}
        rows = ",\n".join(f"  {json.dumps(list(row))}" for row in self.shards)
        return json.dumps(entry, indent=1)[:-2] + f',\n "shards": [\n{rows}\n ]\n}}\n'


def read_manifest(folder: str | os.PathLike[str]) -> Manifest:
    """The manifest of a dataset.

    Raises:
        DataError: there is none, or it is damaged or of another version.
    """
    path = Path(folder) / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(
            f"{folder} has no {MANIFEST}; give a folder that `pyface generate dataset` has begun"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error})") from error
    try:
        entry = json.loads(text)
        if entry["format"] != MANIFEST_FORMAT:
            raise ValueError(f"its format is {entry['format']!r}, this pyface knows {MANIFEST_FORMAT}")
        rows = tuple((str(n), int(p), int(b), str(s)) for n, p, b, s in entry.get("shards", ()))
        recipe = DatasetRecipe.from_dict(entry["recipe"])
        manifest = Manifest(recipe, tuple(entry["made_by"]), bool(entry["complete"]), rows)
        if entry["recipe_sha256"] != recipe.sha256:
            raise ValueError("its recipe and recipe_sha256 do not fit each other")
    except (ValueError, KeyError, TypeError, AttributeError, DataError) as error:
        raise DataError(f"{path} is damaged or no manifest of a dataset ({error})") from error
    return manifest


def open_store(folder: str | os.PathLike[str], recipe: DatasetRecipe | None = None) -> Store:
    """The pictures of a dataset, by the recipe that its manifest tells unless one is given.

    Raises:
        DataError: the manifest is missing or damaged.
    """
    recipe = read_manifest(folder).recipe if recipe is None else recipe
    return STORES[recipe.storage](folder, recipe)


@contextlib.contextmanager
def dataset_part(
    folder: str | os.PathLike[str],
    recipe: DatasetRecipe,
    *,
    index: int = 0,
    of: int = 1,
    made_by: Mapping[str, Any] | None = None,
) -> Iterator[Store]:
    """The store of a dataset of which this process writes part `index` of `of`.

    On entry the manifest is begun, or the one that is there is compared with the recipe, and what killed runs
    left of this part is removed. When the block ends well and every shard of the dataset is there, whichever
    process wrote it, the dataset is completed; so the last of several processes does it.

    Args:
        folder: new, empty, or begun with the same recipe.
        recipe: of the dataset.
        index: of the part, see `Plan.share`.
        of: how many parts.
        made_by: engine and versions here, for the manifest.

    Raises:
        DataError: the folder holds something else, cannot be written, or another process writes this part.
        ValueRangeError: there is no such part.
    """
    share = frozenset(Plan(recipe).share(index, of))
    store = STORES[recipe.storage](make_folder(folder), recipe)
    with writing_part(folder, index, of):
        begin_manifest(store, made_by or {})
        _sweep(store, share)
        yield store
        _sweep(store, share)  # what workers left that died on the way
        complete_manifest(store)


def _sweep(store: Store, shards: Collection[int]) -> None:
    """Remove temporary files of shards that nobody writes now."""
    for path, shard in store.leftovers().items():
        if shard in shards:
            _remove(path)


def begin_manifest(store: Store, made_by: Mapping[str, Any]) -> None:
    """Note the recipe in an empty folder, or make sure that its dataset has the same one.

    Raises:
        DataError: the folder holds something else, or cannot be written.
    """
    folder, recipe = store.folder, store.recipe
    begun = Manifest(recipe, (dict(made_by),) if made_by else ())
    with whole_file_lock(folder):
        for path in _strangers(folder, hidden=True):
            if _LEFTOVER.fullmatch(path.name):
                _remove(path)
        if not (folder / MANIFEST).exists():
            strange = sorted(path.name for path in _strangers(folder))
            if strange:
                raise DataError(
                    f"{folder} is not empty and has no {MANIFEST} (it has {', '.join(strange[:3])}); "
                    "choose a new folder"
                )
            write_text(folder / MANIFEST, begun.text())
            return
        known = read_manifest(folder)
        _same_recipe(folder, known.recipe, recipe)
        if known.complete and len(store.record_files()) < store.plan.shards:
            write_text(folder / MANIFEST, dataclasses.replace(known, complete=False, shards=()).text())


def complete_manifest(store: Store) -> Manifest | None:
    """Write what tells of the whole dataset if all shards are there; None if some are not yet.

    Any number of processes may call it; all write the same.

    Raises:
        DataError: a record or shard is damaged, or files cannot be written.
    """
    if len(store.record_files()) < store.plan.shards:
        return None
    with whole_file_lock(store.folder):
        records = store.committed()
        if len(records) < store.plan.shards:
            return None
        store.finish()
        manifest = completed(store.recipe, [records[shard] for shard in sorted(records)])
        write_text(store.folder / MANIFEST, manifest.text())
        return manifest


def completed(recipe: DatasetRecipe, records: Sequence[Record]) -> Manifest:
    """The manifest of a dataset with these records, in the order of shards."""
    made_by = {json.dumps(record.made_by, sort_keys=True): record.made_by for record in records}
    rows = tuple((r.name, r.pictures, r.bytes, r.sha256) for r in records)
    return Manifest(recipe, tuple(made_by[text] for text in sorted(made_by)), True, rows)


def _same_recipe(folder: Path, before: DatasetRecipe, now: DatasetRecipe) -> None:
    fields = now.differences(before)
    if fields:
        changes = "; ".join(_told(f, getattr(before, f), getattr(now, f)) for f in fields)
        raise DataError(
            f"{folder} holds a dataset of another recipe ({changes}). Choose a new folder, or give what "
            "the dataset was begun with."
        )


def _told(name: str, before: Any, now: Any) -> str:
    return f"{name} was {_cut(before)}, now {_cut(now)}"


def _cut(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 64 else f"{text[:60]}..."


def _strangers(folder: Path, *, hidden: bool = False) -> Iterable[Path]:
    return [path for path in folder.iterdir() if path.name.startswith(".") == hidden]


def _remove(path: Path) -> None:
    with telling_why(path):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
