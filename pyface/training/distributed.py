"""The processes of a run: what they must share, so that they stay one training."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

__all__ = ["Ranks"]


class Ranks:
    """A run of one process. Every exchange with others is nothing."""

    rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        """Whether this process writes the files of the run."""
        return self.rank == 0

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over the processes."""

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a value over the processes, without gradient."""
        return value.detach()

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Give every process the tensors of process 0."""

    def agree(self, text: str) -> str:
        """The first text that is not empty, by rank; empty when no process has one."""
        return text

    def check_equal(self, named: dict[str, Tensor], step: int) -> None:
        """Raise TrainingError when the processes do not hold the same bits."""
