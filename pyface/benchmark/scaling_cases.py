"""How the cost of synthesis grows: with the batch, with the resolution, with the threads.

Random weights, constant noise, one latent repeated for all layers. What is compared with the float64 truth is
the first image of a batch. Plain torch in float32 stands beside each case whose work it ends in a few
seconds.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyface.benchmark.case import EAGER, OURS, Case, Variant, Workload
from pyface.benchmark.plain_stylegan2 import plain_twin
from pyface.benchmark.synthesis_cases import SynthesisCounts
from pyface.errors import BackendError
from pyface.models import GeneratorConfig, StyleGAN2Generator

__all__ = ["channel_base_of", "scaling_cases", "scaling_workload", "thread_counts"]

DTYPES = ("float32", "bfloat16")
BATCHES = (1, 2, 4, 8, 16, 32, 64)
BATCH_SIDES = (64, 256)
SIDES = (64, 128, 256, 512, 1024)
THREAD_WORK = ((256, 8), (1024, 1))  # (resolution, batch)
_ROUNDS = 3
_PLAIN_LIMIT = 300e9  # operations of a run: about 5 seconds of plain torch on one core
_TOLERANCE = {"float32": 1e-4, "bfloat16": 0.1}
_truths: dict[str, Tensor] = {}


def scaling_cases() -> list[Case]:
    """Batch 1 to 64 at 64 and 256 px, 64 to 1024 px one by one, and 1 to all threads at 256 and 1024 px."""
    cases = []
    for dtype in DTYPES:
        for side in BATCH_SIDES:
            cases += [_case("batch", f"{batch} of {side} px", side, batch, dtype) for batch in BATCHES]
        cases += [_case("resolution", f"{side} px", side, 1, dtype) for side in SIDES]
        for side, batch in THREAD_WORK:
            cases += [
                _case("threads", f"{count} at {batch} of {side} px", side, batch, dtype, count)
                for count in thread_counts()
            ]
    return cases


def thread_counts(available: int | None = None) -> list[int]:
    """1, 2, 4, ... and the number of processors that this process may use.

    >>> thread_counts(6)
    [1, 2, 4, 6]
    """
    if available is None:
        available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    powers = [1 << power for power in range(available.bit_length())]
    return sorted({count for count in powers if count <= available} | {available})


def channel_base_of(side: int) -> int:
    """Channels times pixels of a side, as published for the resolution (Karras et al. 2020, appendix B)."""
    return 32768 if side >= 512 else 16384


def _case(axis: str, point: str, side: int, batch: int, dtype: str, count: int = 0) -> Case:
    return Case(
        f"scaling/{axis}/{point}/{dtype}",
        "scaling",
        axis,
        f"{batch}x3x{side}x{side}",
        dtype,
        "-",
        functools.partial(_build, side=side, batch=batch, dtype=dtype, threaded=count > 0),
        cold=False,
        rounds=_ROUNDS,
        threads=count,
        rivals=False,
    )


def _build(device: str, side: int, batch: int, dtype: str, threaded: bool) -> Workload:
    if threaded and device != "cpu":
        raise BackendError("threads are counted on the CPU alone")
    config = GeneratorConfig(side, channel_base=channel_base_of(side))
    return scaling_workload(config, batch, dtype, device)


def scaling_workload(config: GeneratorConfig, batch: int, dtype: str, device: str) -> Workload:
    """Synthesis of `batch` images by ours in `dtype`, and by plain torch where that is no long wait."""
    from pyface.training.allocator import keep_freed_memory

    keep_freed_memory()
    network = _network(config, device)
    ws = _latents(network, batch, device)

    def ours() -> Tensor:
        with torch.inference_mode():
            images: Tensor = network.synthesis(ws, noise_mode="const", precision=dtype)
            return images[:1]

    variants = {OURS: Variant(ours)}
    counts = SynthesisCounts.of(config)
    flops = 2 * counts.macs * batch
    if flops <= _PLAIN_LIMIT:
        variants[EAGER] = Variant(_plain(network, ws))
    return Workload(
        variants,
        reference=lambda: _truth(config, device),
        bytes=counts.bytes(batch, getattr(torch, dtype).itemsize),
        flops=flops,
        items=batch,
        tolerance=_TOLERANCE[dtype],
    )


def _network(config: GeneratorConfig, device: str) -> Any:
    torch.manual_seed(0)
    network: Any = StyleGAN2Generator(config).to(device).eval().requires_grad_(False)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("noise_strength"):
                parameter.fill_(0.1)
    return network


def _latents(network: Any, batch: int, device: str) -> Tensor:
    """The same first latents whatever the batch is."""
    most = max(batch, *BATCHES)
    w = torch.randn(most, 1, network.w_dim, generator=torch.Generator().manual_seed(0))[:batch]
    return w.to(device).expand(-1, network.num_ws, -1).contiguous()


def _plain(network: Any, ws: Tensor) -> Callable[[], Tensor]:
    twin: Any = plain_twin(network)

    def run() -> Tensor:
        with torch.inference_mode():
            images: Tensor = twin.synthesis(ws, "const")
            return images[:1]

    return run


def _truth(config: GeneratorConfig, device: str) -> Tensor:
    """The first image in float64, computed once for all cases of a configuration."""
    key = repr(config)
    if key not in _truths:
        network = _network(config, "cpu").double()
        twin: Any = plain_twin(network)
        with torch.inference_mode():
            _truths[key] = twin.synthesis(_latents(network, 1, "cpu").double(), "const")
    return _truths[key].to(device)
