"""Work on fixed tensors, recorded once and replayed from then on: CUDA graphs, apart from torch.cuda."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Protocol

import torch

__all__ = ["CudaRecorder", "Recorder", "Replayed"]


class Recorder(Protocol):
    """What turns work into something that repeats it."""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record `work`, which need not take place; what is returned makes it take place."""


class CudaRecorder:
    """Records the kernels that work launches on a device into a CUDA graph."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """A graph of `work`, which must have run before: libraries set themselves up at first use."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device):
            stream = torch.cuda.Stream()
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                work()
        replay: Callable[[], None] = graph.replay
        return replay


class Replayed:
    """`work`, which runs as it is at its first call, is recorded at its second, and replayed from then.

    Where recording fails it goes on running as it is, with a warning.

    Args:
        work: launches on tensors that stay where they are.
        recorder: None: never record.
    """

    def __init__(self, work: Callable[[], None], recorder: Recorder | None) -> None:
        self._work, self._recorder = work, recorder
        self._has_run = False
        self._replay: Callable[[], None] | None = None

    @property
    def is_recorded(self) -> bool:
        """Whether calls replay."""
        return self._replay is not None

    def __call__(self) -> None:
        if self._replay is None and self._has_run and self._recorder is not None:
            try:
                self._replay = self._recorder.record(self._work)
            except RuntimeError as error:
                self._recorder = None
                warnings.warn(
                    f"the synthesis could not be recorded as a CUDA graph ({error}); it runs without one. "
                    "Set `cuda_graphs = False` on the synthesis network to leave it at that.",
                    RuntimeWarning,
                    stacklevel=4,
                )
        if self._replay is not None:
            self._replay()
        else:
            self._work()
        self._has_run = True
