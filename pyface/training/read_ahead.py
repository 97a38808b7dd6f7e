"""Images of the coming batches, read by threads while a step runs."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["ReadAhead"]

Pixels = dict[str, Tensor]
Read = Callable[[np.ndarray], Pixels]


class ReadAhead:
    """Reads images by threads: those wanted now, and those that will be wanted.

    What comes out depends only on what is wanted, never on what was foreseen: a wrong guess costs time alone.
    Decoders and the renderer leave the interpreter free while they work, so that threads are enough.

    Args:
        read: images {spectrum: uint8 [n, C, H, W]} at given positions; called from several threads.
        workers: how many threads, 1 or more.
    """

    def __init__(self, read: Read, workers: int) -> None:
        self.read_now = read
        self.workers = workers
        self._pool: concurrent.futures.ThreadPoolExecutor | None = None
        self._begun: dict[bytes, list[concurrent.futures.Future[Pixels]]] = {}

    def read(self, wanted: Sequence[np.ndarray], later: Sequence[np.ndarray]) -> list[Pixels]:
        """The images at each of the `wanted` arrays of positions; those `later` are begun.

        An error of a thread is raised here, when its images are wanted.
        """
        if self._pool is None:  # only now: a process that was forked before has no threads
            self._pool = concurrent.futures.ThreadPoolExecutor(self.workers, thread_name_prefix="read-ahead")
        keys = [indices.tobytes() for indices in wanted]
        coming = [indices.tobytes() for indices in later]
        for key in self._begun.keys() - {*keys, *coming}:
            for future in self._begun.pop(key):
                future.cancel()
        for key, indices in zip([*keys, *coming], [*wanted, *later], strict=True):
            if key not in self._begun:
                self._begun[key] = [self._pool.submit(self.read_now, part) for part in self._parts(indices)]
        found = [_joined([future.result() for future in self._begun[key]]) for key in keys]
        for key in {*keys} - {*coming}:
            del self._begun[key]
        return found

    def _parts(self, indices: np.ndarray) -> list[np.ndarray]:
        """Positions in as many parts as there are threads, none smaller than 4 images."""
        return np.array_split(indices, max(min(self.workers, len(indices) // 4), 1))


def _joined(parts: Sequence[Pixels]) -> Pixels:
    if len(parts) == 1:
        return parts[0]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
