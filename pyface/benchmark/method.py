"""How time is measured: warm-up, interleaved samples, cold caches, median and quartiles.

Each round takes one sample of every variant, in an order that changes from round to round, so that a
disturbance of the machine meets all of them. Ratios are taken within a round, between neighbours in time.

The clock. With one thread on the CPU a sample is the processor time of the whole process (what other
programs took does not count) beside the wall clock. It is the process's and not the calling thread's because
OpenVINO works in threads of its own even when it is given only one: their time is work too. The same clock
serves every variant of a case. For that, nothing may spin while another variant is measured: ONNX Runtime's
pool is told to stop at the end of a run, OpenVINO's (TBB) sleeps when it has nothing to do. With more than
one thread only the wall clock counts, since processor time would count waiting threads that spin, and each
sample begins after a pause in which the threads of the one before fall asleep (OpenMP's and TBB's spin for
milliseconds and would take a core from their neighbour). On a GPU a sample lies between two events on the
stream.

What is the same for all variants of a case: weights and inputs, the number of threads, an allocator that
keeps freed memory (`pyface.training.allocator`, set once for a whole run), a freshly allocated result in
every call unless the name says otherwise, two samples to warm up, and no thread pinned to a core. Conversion
and compilation happen before, outside of the measured time. Where a case has a reference, results are
compared with it first: a case in which ours is wrong has failed, another way that is wrong is written down
and not timed.

Cold caches: a buffer of 96 MiB is overwritten before each sample. Last levels that are larger keep part of
the data, of every variant alike.
"""

from __future__ import annotations

import contextlib
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch

from pyface.benchmark.case import Variant

__all__ = ["Quartiles", "Sampler", "Timing", "measure", "threads"]

_Key = TypeVar("_Key")

_EVICTION_BYTES = 96 << 20
_ORDER_SEED = 0
_PAUSE_S = 0.01


@dataclass(frozen=True)
class Quartiles:
    """Median and the quartiles around it."""

    median: float
    q1: float
    q3: float

    @classmethod
    def of(cls, values: list[float]) -> Quartiles:
        """Of at least one value."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, q1, q3)

    def to_dict(self) -> dict[str, float]:
        """Rounded to what a measurement can tell: six digits."""
        return {name: float(f"{getattr(self, name):.6g}") for name in ("median", "q1", "q3")}


@dataclass(frozen=True)
class Timing:
    """Times of one variant in milliseconds per run, one entry per round.

    cpu: processor time of the process, measured with one thread only; empty on a GPU. wall: wall clock, or
    the GPU's events.
    """

    cpu: list[float]
    wall: list[float]

    @property
    def best(self) -> list[float]:
        """The times that comparisons are made with: processor time where it was measured."""
        return self.cpu or self.wall


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Inside, torch and pyface compute with `count` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure(
    variants: Mapping[_Key, Variant],
    *,
    rounds: int = 15,
    warmup: int = 2,
    calls: int = 1,
    cold: bool = True,
    device: str = "cpu",
    budget_s: float = 20.0,
) -> dict[_Key, Timing]:
    """Times of every variant, by its key.

    Args:
        variants: what to measure.
        rounds: samples of each.
        warmup: samples of each that do not count, before the rest.
        calls: runs per sample.
        cold: overwrite a buffer of 96 MiB before every sample.
        device: "cpu" or "cuda".
        budget_s: stop after the round in which so many seconds have passed; at least three rounds are made.
    """
    eviction = torch.zeros(_EVICTION_BYTES // 4, device=device) if cold else None
    sample = Sampler(device)
    for variant in variants.values():
        for _ in range(warmup):
            sample(variant, calls)
    order = list(variants)
    shuffle = random.Random(_ORDER_SEED).shuffle
    found: dict[_Key, Timing] = {name: Timing([], []) for name in order}
    start = time.perf_counter()
    for done in range(rounds):
        if done >= 3 and time.perf_counter() - start > budget_s:
            break
        shuffle(order)
        for name in order:
            if eviction is not None:
                eviction.add_(1.0)
            cpu, wall = sample(variants[name], calls)
            found[name].wall.append(wall)
            if cpu is not None:
                found[name].cpu.append(cpu)
    return found


class Sampler:
    """Takes samples on a device: (processor time or None, wall time) of a run in milliseconds."""

    def __init__(self, device: str) -> None:
        self._time = _between_events if torch.device(device).type == "cuda" else _by_clock

    def __call__(self, variant: Variant, calls: int) -> tuple[float | None, float]:
        if variant.prepare is not None:
            variant.prepare()
        return self._time(variant.run, calls)

    def milliseconds(self, run: Callable[[], object], calls: int) -> float:
        """The time that comparisons are made with: processor time where it is measured."""
        cpu, wall = self._time(run, calls)
        return wall if cpu is None else cpu


def _by_clock(run: Callable[[], object], calls: int) -> tuple[float | None, float]:
    alone = torch.get_num_threads() == 1
    if not alone:
        time.sleep(_PAUSE_S)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(calls):
        run()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return (1e3 * cpu / calls if alone else None), 1e3 * wall / calls


def _between_events(run: Callable[[], object], calls: int) -> tuple[float | None, float]:
    """The launches hide behind what is queued before."""
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    first.record()
    for _ in range(calls):
        run()
    last.record()
    torch.cuda.synchronize()
    return None, first.elapsed_time(last) / calls
