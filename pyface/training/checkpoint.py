"""Files of a run: snapshots that people use, and the state that a resumed run needs."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyface.errors import CheckpointError
from pyface.io.atomic import atomic_write, remove_leftovers
from pyface.io.checkpoint import save_model
from pyface.training.divergence import refuse_not_finite
from pyface.training.loop import Callback, Trainer

__all__ = ["Snapshots", "load_state", "newest_state", "restore_state", "resume_files", "save_state"]

FORMAT = 2  # 2: random numbers are keyed by step and sample, no generator is stored


def save_state(
    path: Path, trainer: Trainer, recipe: dict[str, Any], facts: dict[str, Any] | None = None
) -> None:
    """Write the whole state of a run as tensors and plain values; the file is complete or absent.

    Raises TrainingError, and writes nothing, when a number of the state is not finite.
    """
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "format": FORMAT,
        "recipe": recipe,
        "facts": facts or {},
        "trainer": trainer.state_dict(),
        "torch_rng": torch.get_rng_state(),
        "numpy_rng": [
            kind,
            torch.from_numpy(np.asarray(keys, np.int64)),
            int(position),
            int(has_gauss),
            float(gauss),
        ],
    }
    refuse_not_finite(trainer, state["trainer"])
    with atomic_write(path) as temporary:
        torch.save(state, temporary)


def load_state(path: Path) -> dict[str, Any]:
    """Read what `save_state` wrote, executing nothing that the file holds.

    Raises CheckpointError for a missing, damaged or foreign file.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist. Give a resume-*.pt or a .safetensors file.") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} is not a resume file of pyface, or it is damaged.") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT or "trainer" not in state:
        raise CheckpointError(f"{path} is not a resume file of this version of pyface (format {FORMAT}).")
    return state


def newest_state(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest resume file of a run that can be read, and its state; None when the run has none yet.

    A damaged file (a failing disk, a copy that was cut off) is passed over with a warning for the one before
    it. Raises CheckpointError when none of several can be read.
    """
    errors: list[CheckpointError] = []
    for path in reversed(resume_files(folder)):
        try:
            return path, load_state(path)
        except CheckpointError as error:
            warnings.warn(f"{error} It is passed over.", stacklevel=2)
            errors.append(error)
    if errors:
        raise CheckpointError(
            f"none of the {len(errors)} resume files in {folder} can be read. Start anew in another folder, "
            "or from a snapshot: --start-from snapshot-*.safetensors."
        ) from errors[0]
    return None


def restore_state(trainer: Trainer, state: dict[str, Any]) -> None:
    """Put a state from `load_state` into a trainer and into the global random generators."""
    trainer.load_state_dict(state["trainer"])
    torch.set_rng_state(state["torch_rng"])
    kind, keys, position, has_gauss, gauss = state["numpy_rng"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))


class Snapshots(Callback):
    """Writes `snapshot-000123.safetensors` (thousands of images seen) and the resume file every `interval`
    images.

    model: what a snapshot holds, usually the running average of the generator. facts: goes into the
    snapshot's metadata. keep: resume files to keep, all of them while `keep_all()`; snapshots are all kept.
    Resume files of another run in the folder, or of the part of this one that is done again, would count as
    newer: they get the name `previous-resume-*.pt` at the start.
    """

    def __init__(
        self,
        folder: Path,
        model: Any,
        interval: int,
        recipe: dict[str, Any],
        facts: dict[str, Any],
        keep: int = 2,
    ) -> None:
        self.folder = folder
        self.model = model
        self.interval = interval
        self.recipe = recipe
        self.facts = facts
        self.keep = keep
        self.keep_all: Callable[[], bool] = lambda: False
        self._next = 0
        self._saved_at = -1

    def on_start(self, trainer: Trainer) -> None:
        remove_leftovers(self.folder)
        self._next = (trainer.images_seen // self.interval + 1) * self.interval
        for path in resume_files(self.folder):
            if trainer.images_seen and int(path.stem.split("-")[1]) <= trainer.images_seen // 1000:
                trainer.last_checkpoint = path
            else:
                path.replace(path.with_name(f"previous-{path.name}"))

    def on_step(self, trainer: Trainer, losses: dict[str, float]) -> None:
        if trainer.images_seen >= self._next:
            self._next = (trainer.images_seen // self.interval + 1) * self.interval
            self.save(trainer)

    def on_end(self, trainer: Trainer) -> None:
        if self._saved_at != trainer.images_seen:
            self.save(trainer)

    def save(self, trainer: Trainer) -> Path:
        """Write both files now; returns the snapshot's path."""
        label = f"{trainer.images_seen // 1000:06d}"
        state = self.folder / f"resume-{label}.pt"
        save_state(state, trainer, self.recipe, self.facts)
        path = self.folder / f"snapshot-{label}.safetensors"
        training = {**self.facts, "kimg": trainer.images_seen / 1000, "recipe": self.recipe}
        save_model(path, self.model, extra={"training": training})
        self._saved_at = trainer.images_seen
        trainer.last_checkpoint = state
        for old in resume_files(self.folder)[: -self.keep] if not self.keep_all() else ():
            old.unlink(missing_ok=True)
        return path


def resume_files(folder: Path) -> list[Path]:
    """The resume files of a run, oldest first."""
    found = (p for p in folder.glob("resume-*.pt") if re.fullmatch(r"resume-\d+\.pt", p.name))
    return sorted(found, key=lambda p: int(p.stem.split("-")[1]))
