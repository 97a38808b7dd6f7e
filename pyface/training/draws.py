"""Random numbers of a training step that belong to samples, not to processes or micro-batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyface.errors import ShapeError, ValueRangeError
from pyface.io.rng import Domain, words

__all__ = ["Draws", "Rows", "rows_of_rank"]


@dataclass(frozen=True)
class Rows:
    """Which samples of a step's global batch these are.

    index: int64 [n], positions in the global batch, each in [0, total). total: size of the global batch.
    """

    index: Tensor
    total: int

    def __len__(self) -> int:
        return self.index.shape[0]

    def shrunk(self, factor: int) -> Rows:
        """The rows whose position is a multiple of `factor`, counted in a batch of total / factor.

        Where a batch is too small for that, its first sample stands for it.
        """
        if factor <= 1:
            return self
        if len(self) != self.total and len(self) % factor:
            raise ValueRangeError(
                f"every {factor}th sample of a batch of {self.total} cannot be taken from parts of "
                f"{len(self)}. Make the part of one process in one round a multiple of {factor}."
            )
        return Rows(self.index[self.index % factor == 0] // factor, -(-self.total // factor))


def rows_of_rank(total: int, rank: int, ranks: int, rounds: int, group: int) -> list[Rows]:
    """The global batch of `total` samples, split: the rows of each round of one rank.

    All ranks together take consecutive samples in a round, so that what a round computes over all ranks (the
    mean path length) does not depend on their number.
    A minibatch-std group is made of `group` consecutive samples, whatever the split. A network that groups a
    micro-batch of n by stride n / group (sample i with i + n / group, ...) therefore gets its samples in
    such an order that the strided groups are the consecutive ones.
    Raises ValueRangeError when the parts would not be equal or would cut a group.
    """
    parts = ranks * rounds
    whole = min(group, total)
    if total % (parts * whole):
        step = parts * whole
        legal = sorted({max(total // step, 1) * step, -(-total // step) * step})
        raise ValueRangeError(
            f"a batch of {total} cannot be split over {ranks} processes in {rounds} rounds with groups of "
            f"{group}. Use a batch of {' or '.join(map(str, legal))}."
        )
    size = total // parts
    found = []
    for turn in range(rounds):
        start = (turn * ranks + rank) * size
        own = torch.arange(start, start + size)
        found.append(Rows(own.reshape(-1, whole).t().reshape(-1), total))
    return found


class Draws:
    """The random numbers of one phase of one step, for some rows of the global batch.

    Every draw makes the numbers of the whole global batch and gives those of its own rows: a sample gets the
    same numbers however the batch is split over processes and rounds, on devices of one kind. The numbers of
    a whole batch cost a small part of a step; sequence and shapes of the draws must not depend on the split.

    key: (seed, step, phase), each 0 or more.
    """

    def __init__(self, key: tuple[int, int, int], rows: Rows, device: torch.device | str = "cpu") -> None:
        seed, step, phase = key
        low, high = words(seed, Domain.TRAINING, phase, step, 2)[0].tolist()
        self.rows = rows
        self.device = torch.device(device)
        self._generator = torch.Generator(self.device).manual_seed(high << 32 | low)

    def __len__(self) -> int:
        return len(self.rows)

    def _own(self, drawn: Tensor) -> Tensor:
        if len(self.rows) == self.rows.total and torch.equal(self.rows.index, torch.arange(self.rows.total)):
            return drawn
        return drawn[self.rows.index.to(self.device)]

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal numbers [n, *shape]."""
        full = (self.rows.total, *shape)
        return self._own(torch.randn(full, generator=self._generator, device=self.device, dtype=dtype))

    def uniform(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Numbers in [0, 1), [n, *shape]."""
        full = (self.rows.total, *shape)
        return self._own(torch.rand(full, generator=self._generator, device=self.device, dtype=dtype))

    def integers(self, high: int, *shape: int, low: int = 0) -> Tensor:
        """int64 in [low, high), [n, *shape]."""
        full = (self.rows.total, *shape)
        return self._own(torch.randint(low, high, full, generator=self._generator, device=self.device))

    def noise(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal numbers of a whole shape, of which the first axis must count the rows."""
        if shape[0] != len(self.rows):
            raise ShapeError(f"the first axis must be the {len(self.rows)} rows; got {list(shape)}.")
        return self.normal(*shape[1:], dtype=dtype)

    def shrunk(self, factor: int) -> Draws:
        """The same stream for every `factor`-th sample (`Rows.shrunk`)."""
        other = object.__new__(Draws)
        other.rows, other.device = self.rows.shrunk(factor), self.device
        other._generator = self._generator
        return other
