"""What the machine can do at most: the rates that measured times are held against (the roofline).

A rate is the best that a few shapes reach through torch and its libraries: matrix products and convolutions
of random data (matrix units run faster on zeros, which draw less power), copies of 128 MiB (1 GiB on a GPU),
which is beyond most caches, and of a buffer that fits into the second level. A kernel that is better than
theirs can reach more than the rate. Source of the model: Williams, Waterman and Patterson 2009, "Roofline: an
insightful visual performance model for multicore architectures", section 3.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pyface.benchmark.method import Sampler, threads
from pyface.errors import ValueRangeError

__all__ = ["Ceilings", "Roofline", "measure_ceilings"]

_CPU_COPY, _CUDA_COPY = 128 << 20, 1 << 30  # bytes of the source
_CPU_CACHE, _CUDA_CACHE = 256 << 10, 4 << 20  # the CPU's per thread
_SAMPLE_S = 2e-3  # a sample repeats its work for about this long
_BUDGET_S = 0.3  # per shape
_ROUNDS = (3, 40)

Matrix = tuple[int, int, int]  # rows, inner, columns
Layer = tuple[int, int, int, int]  # images, channels in and out, side: a 3x3 convolution
_CPU_PRODUCTS: tuple[Matrix, ...] = ((512, 512, 512), (1024, 1024, 1024), (4096, 512, 512))
_CPU_LAYERS: tuple[Layer, ...] = ((8, 512, 512, 16), (2, 256, 256, 32), (4, 256, 256, 64), (1, 128, 128, 64))
_CUDA_PRODUCTS: tuple[Matrix, ...] = ((4096, 4096, 4096), (8192, 8192, 8192))
_CUDA_LAYERS: tuple[Layer, ...] = ((32, 512, 512, 64), (16, 256, 256, 128), (16, 128, 128, 256))


@dataclass(frozen=True)
class Roofline:
    """The least time that the traffic and the arithmetic of a piece of work need, and which needs it."""

    floor_ms: float
    bound: str  # "memory" or "compute"


@dataclass(frozen=True)
class Ceilings:
    """The best rates of a device: GB/s (read and written bytes together) and GFLOP/s.

    copy_gb_s: a copy beyond the caches; cache_gb_s: one within. float32_gflops, bfloat16_gflops and
    float16_gflops: the best of matrix products and convolutions, with torch's own settings (on a GPU torch
    lets float32 convolutions use TF32); float16 is None on a CPU. bfloat16_conv_gflops: convolutions alone.
    """

    copy_gb_s: float
    cache_gb_s: float
    float32_gflops: float
    bfloat16_gflops: float
    float16_gflops: float | None
    bfloat16_conv_gflops: float

    def gflops(self, dtype: str) -> float:
        """The arithmetic rate for an element type; float32's for types that were not measured."""
        found = {"bfloat16": self.bfloat16_gflops, "float16": self.float16_gflops}.get(dtype)
        return found or self.float32_gflops

    def roofline(self, bytes: int, flops: int, dtype: str, cached: bool = False) -> Roofline:
        """The larger of bytes / bandwidth and flops / rate; cached: the bytes lie in the caches."""
        memory = bytes / (self.cache_gb_s if cached else self.copy_gb_s) / 1e6
        compute = flops / self.gflops(dtype) / 1e6
        return Roofline(max(memory, compute), "memory" if memory >= compute else "compute")

    def floor_ms(self, bytes: int, flops: int, dtype: str) -> float:
        """Least time in milliseconds."""
        return self.roofline(bytes, flops, dtype).floor_ms

    def bound(self, bytes: int, flops: int, dtype: str) -> str:
        """What the least time is due to: "memory" or "compute"."""
        return self.roofline(bytes, flops, dtype).bound

    def to_dict(self) -> dict[str, float | None]:
        """As JSON values, four digits."""
        return {
            name: None if value is None else float(f"{value:.4g}") for name, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Ceilings:
        """Of what `to_dict` gave."""
        return cls(**values)


def measure_ceilings(device: str = "cpu", num_threads: int = 1) -> Ceilings:
    """The best rates of `device` with `num_threads` CPU threads; takes a few seconds.

    Raises ValueRangeError for a device that is neither "cpu" nor "cuda".
    """
    kind = torch.device(device).type
    if kind not in ("cpu", "cuda"):
        raise ValueRangeError(f"ceilings are measured on cpu and cuda; got {device}.")
    cuda = kind == "cuda"
    with threads(num_threads), torch.inference_mode():
        rate = _Rates(device)
        copy, cache = (_CUDA_COPY, _CUDA_CACHE) if cuda else (_CPU_COPY, num_threads * _CPU_CACHE)
        products = {name: rate.best(rate.products(name)) for name in _dtypes(cuda)}
        layers = {name: rate.best(rate.layers(name)) for name in _dtypes(cuda)}
        best = {name: max(products[name], layers[name]) for name in products}
        return Ceilings(
            copy_gb_s=rate.copy(copy),
            cache_gb_s=rate.copy(cache),
            float32_gflops=best["float32"],
            bfloat16_gflops=best["bfloat16"],
            float16_gflops=best.get("float16"),
            bfloat16_conv_gflops=layers["bfloat16"],
        )


def _dtypes(cuda: bool) -> tuple[str, ...]:
    return ("float32", "bfloat16", "float16") if cuda else ("float32", "bfloat16")


def _packed_convolution(x: Tensor, weight: Tensor) -> Callable[[], object] | None:
    """A convolution whose weights lie in oneDNN's own order, as torch.compile makes it; None without oneDNN.

    `F.conv2d` brings the weights into that order in every call, a tenth of the time at these sizes.
    """
    one, pad = [1, 1], [1, 1]
    try:
        reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
        packed = reorder(weight.to_mkldnn(), pad, one, one, 1, list(x.shape))
        convolve = partial(
            torch.ops.mkldnn._convolution_pointwise, x, packed, None, pad, one, one, 1, "none", [], ""
        )
        convolve()
    except (AttributeError, RuntimeError):
        return None
    return convolve


class _Rates:
    """Rates of single pieces of work on a device."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.cuda = torch.device(device).type == "cuda"
        self.sample = Sampler(device)

    def random(self, *shape: int, dtype: str) -> Tensor:
        """Normal numbers; large tensors repeat a block of them."""
        count = torch.Size(shape).numel()
        block = torch.randn(min(count, 1 << 20), generator=torch.Generator().manual_seed(0))
        values = block.to(self.device, getattr(torch, dtype))
        return values.repeat(-(-count // values.numel()))[:count].view(shape)

    def copy(self, count: int) -> float:
        """GB/s of a copy of `count` bytes."""
        source = self.random(count // 4, dtype="float32")
        target = torch.zeros_like(source)
        return 2 * count / self._seconds(lambda: target.copy_(source)) / 1e9

    def products(self, dtype: str) -> Iterator[tuple[int, Callable[[], object]]]:
        """(FLOP, work) of matrix products."""
        for rows, inner, columns in _CUDA_PRODUCTS if self.cuda else _CPU_PRODUCTS:
            a, b = self.random(rows, inner, dtype=dtype), self.random(inner, columns, dtype=dtype)
            yield 2 * rows * inner * columns, partial(torch.mm, a, b, out=a.new_empty(rows, columns))

    def layers(self, dtype: str) -> Iterator[tuple[int, Callable[[], object]]]:
        """(FLOP, work) of 3x3 convolutions, channels last."""
        for images, inputs, outputs, side in _CUDA_LAYERS if self.cuda else _CPU_LAYERS:
            x = self.random(images, inputs, side, side, dtype=dtype)
            w = self.random(outputs, inputs, 3, 3, dtype=dtype)
            x, w = (t.contiguous(memory_format=torch.channels_last) for t in (x, w))
            flops = 18 * inputs * outputs * images * side * side
            yield flops, partial(F.conv2d, x, w, padding=1)
            packed = None if self.cuda else _packed_convolution(x, w)
            if packed is not None:
                yield flops, packed

    def best(self, work: Iterator[tuple[int, Callable[[], object]]]) -> float:
        """The highest GFLOP/s."""
        return max(flops / self._seconds(run) / 1e9 for flops, run in work)

    def _seconds(self, run: Callable[[], object]) -> float:
        """The least time of one run; short runs are repeated within a sample."""
        run()
        best, calls = math.inf, 1
        start = time.perf_counter()
        for done in range(_ROUNDS[1]):
            if done >= _ROUNDS[0] and time.perf_counter() - start > _BUDGET_S:
                break
            best = min(best, max(self.sample.milliseconds(run, calls), 1e-3))
            calls = max(1, min(1000, round(_SAMPLE_S * 1e3 / best)))
        return best / 1e3
