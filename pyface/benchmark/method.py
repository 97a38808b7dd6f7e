"""How time is measured: warm-up, interleaved samples, cold caches, median and quartiles.

Each round takes one sample of every variant, in an order that changes from round to round, so that a
disturbance of the machine meets all of them. On the CPU a sample is the thread's own processor time (what
other programs took does not count) beside the wall clock; with more than one thread only the wall clock
counts. On a GPU a sample lies between two events on the stream.
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

__all__ = ["Quartiles", "Timing", "measure", "threads"]

_Key = TypeVar("_Key")

_EVICTION_BYTES = 96 << 20
_ORDER_SEED = 0


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

    cpu: processor time of the measuring thread; empty on a GPU. wall: wall clock, or the GPU's events.
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
        cold: overwrite a buffer larger than the caches before every sample.
        device: "cpu" or "cuda".
        budget_s: stop after the round in which so many seconds have passed; at least three rounds are made.
    """
    cuda = torch.device(device).type == "cuda"
    eviction = torch.zeros(_EVICTION_BYTES // 4, device=device) if cold else None
    sample = _cuda_sample if cuda else _cpu_sample
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
            if not cuda and torch.get_num_threads() == 1:
                found[name].cpu.append(cpu)
    return found


def _cpu_sample(variant: Variant, calls: int) -> tuple[float, float]:
    """(processor time, wall time) of a run in milliseconds."""
    if variant.prepare is not None:
        variant.prepare()
    run: Callable[[], object] = variant.run
    wall, cpu = time.perf_counter(), time.thread_time()
    for _ in range(calls):
        run()
    return 1e3 * (time.thread_time() - cpu) / calls, 1e3 * (time.perf_counter() - wall) / calls


def _cuda_sample(variant: Variant, calls: int) -> tuple[float, float]:
    """(0, time between two events) of a run in ms; the launches hide behind what is queued before."""
    if variant.prepare is not None:
        variant.prepare()
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    first.record()
    for _ in range(calls):
        variant.run()
    last.record()
    torch.cuda.synchronize()
    return 0.0, first.elapsed_time(last) / calls
