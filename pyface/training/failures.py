"""What a user is told when a training step fails: where, why, and what to change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from pyface.errors import TrainingError
from pyface.training.divergence import DivergenceError, diagnosis, go_on_from

if TYPE_CHECKING:
    from pyface.training.loop import Trainer
    from pyface.training.phases import Batch, Phase

__all__ = ["explained", "is_out_of_memory", "out_of_memory"]

# How allocators say it: torch's for CPUs and CUDA, cuDNN and cuBLAS, the C++ library.
_WORDS = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "cudnn_status_alloc_failed",
    "cublas_status_alloc_failed",
    "bad_alloc",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch or Python means that memory ran out, on the CPU or on a GPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, TrainingError) or not isinstance(error, RuntimeError):
        return False
    return any(word in str(error).lower() for word in _WORDS)


def out_of_memory(error: Exception, trainer: Trainer, phase: Phase | None = None) -> TrainingError:
    """The error to raise instead: where memory ran out, what for, and what to change."""
    height, width = trainer.feed.data.size
    size = max(len(rows) for rows in trainer.shares)
    lines = str(error).strip().splitlines()
    reason = (lines[0] if lines else type(error).__name__).rstrip(".")
    where = f"in phase {phase.name!r} of step {trainer.step_number}" if phase else "between two steps"
    return TrainingError(
        f"out of memory on {trainer.device}, {where} ({trainer.images_seen / 1000:g} kimg): {reason}. "
        f"{size} of the {trainer.feed.batch} images of a batch were computed at once, at {height}x{width}. "
        "What to change, in this order: lower --batch-gpu (the same training in smaller pieces); "
        "--precision bfloat16; --pl-interval 0 (path length needs most memory); lower --cbase or --cmax "
        "(other networks). `pyface plan` predicts what each of them saves."
    )


def explained(
    error: Exception,
    trainer: Trainer,
    phase: Phase | None = None,
    batches: Callable[[], Sequence[Batch]] | None = None,
) -> Exception:
    """The error to raise for one of a step: divergence names the layer, lack of memory says what to change.

    phase: in which the step failed; batches: makes its batches again, with their draws at the beginning. Any
    other error comes back as it is.
    """
    if is_out_of_memory(error):
        return out_of_memory(error, trainer, phase)
    if isinstance(error, DivergenceError) and phase is not None and batches is not None:
        found = trainer.ranks.agree(diagnosis(trainer, phase, batches()))
        where = (
            found or "A second run of the phase on the same numbers was finite: the cause does not repeat."
        )
        kept = trainer.ranks.agree(f"Of the checkpoints {go_on_from(trainer)}")
        return TrainingError(f"{error} ({trainer.images_seen / 1000:g} kimg). {where} {kept}")
    return error
