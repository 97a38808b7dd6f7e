"""A folder that a dataset is written into: one writer, one recipe, and a stopped run goes on where it was."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pyface.data.tree import CARD
from pyface.errors import DataError
from pyface.io.atomic import make_folder, only_writer, remove_leftovers, write_text

__all__ = ["output_folder"]


@contextlib.contextmanager
def output_folder(
    out: str | os.PathLike[str], recipe: Mapping[str, Any], *, command: str | None = None
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The folder, and an empty dictionary for what card.json shall say of the finished dataset.

    The recipe is noted in card.json when the block begins and marked as complete when it ends well. Within
    the block no other process writes there. Files that the folder has are those of a run that was stopped.

    Args:
        out: new, empty, or begun with the same recipe.
        recipe: all that decides the bytes, as JSON takes it.
        command: the command line, noted in card.json.

    Raises:
        DataError: the folder holds something else, cannot be written, or another process writes to it.
    """
    folder = make_folder(out)
    told: dict[str, Any] = {}
    card: dict[str, Any] = {"recipe": dict(recipe), "command": command, "complete": False}
    with only_writer(folder):
        _claim(folder, card)
        yield folder, told
        write_text(folder / CARD, json.dumps(card | {"complete": True} | told, indent=1) + "\n")


def _claim(folder: Path, card: Mapping[str, Any]) -> None:
    """Note the recipe in an empty folder, or make sure that the folder was begun with the same one."""
    path = folder / CARD
    remove_leftovers(folder)
    if not path.exists():
        strange = [p.name for p in folder.iterdir() if not p.name.startswith(".")]
        if strange:
            raise DataError(
                f"{folder} is not empty and has no {CARD} (it has {', '.join(sorted(strange)[:3])}); "
                "choose a new folder"
            )
        write_text(path, json.dumps(card, indent=1) + "\n")
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))["recipe"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read as a recipe ({error}); choose a new folder") from error
    wanted = card["recipe"]
    changed = [k for k in wanted | before if wanted.get(k) != before.get(k)]
    if changed:
        difference = "; ".join(f"{k} was {before.get(k)}, now {wanted.get(k)}" for k in changed)[:300]
        raise DataError(f"{folder} holds a dataset of another recipe ({difference}); choose a new folder")
