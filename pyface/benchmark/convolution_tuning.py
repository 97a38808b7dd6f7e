"""Measures on a GPU which convolutions are faster by our kernels and which by torch's: the table of
`pyface.ops.convolution_choice`.

Every convolution of the networks of 256 and 1024 pixels and the gradient of its weight run by both, in rounds
that take turns, the L2 cache overwritten before each; the medians are kept, and the faster one is taken from
then on.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyface.benchmark.machine import machine_facts
from pyface.errors import BackendError
from pyface.models import GeneratorConfig
from pyface.ops import _gradient_kernels, _kernels, _native, convolution_choice
from pyface.ops._composition import Conv
from pyface.ops.convolution_choice import ConvShape

__all__ = ["conv_shapes", "measure_shape", "tune"]

ROUNDS, WARM_UP = 7, 2
BATCHES = (1, 8)
_EVICTION_BYTES = 256 << 20
_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}

Clock = Callable[[list[Callable[[], Any]]], list[float]]  # the median time of each in ms


def tune(out: Path | None = None, report: Callable[[str], None] = print) -> Path:
    """Measure the first GPU's table, write it and use it from now on; the file.

    Args:
        out: where to write; None: the user's table, which later calls of pyface find.
        report: is given a line for every shape.

    Raises:
        BackendError: the CUDA kernels are not built, or there is no GPU.
    """
    k = _native._load("cuda")
    if isinstance(k, str):
        raise BackendError(
            f"convolutions are tuned on a GPU, and {k}. Build the CUDA module on a machine with one."
        )
    device = torch.device("cuda", 0)
    capability = k.capability(device)
    if capability is None:
        raise BackendError("the CUDA kernels name no compute capability. Build the CUDA module anew.")
    rows = []
    with torch.inference_mode():
        for shape in conv_shapes():
            rows.append(measure_shape(k, shape, device, device_times))
            report(
                f"{_words(shape)}: pyface {rows[-1]['pyface_ms']:.3f} ms, torch {rows[-1]['torch_ms']:.3f} ms"
            )
    path = convolution_choice.user_table(capability) if out is None else out
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "format": convolution_choice.FORMAT,
        "capability": list(capability),
        "machine": machine_facts("cuda", 1),
        "settings": {"rounds": ROUNDS, "warm_up": WARM_UP, "eviction_bytes": _EVICTION_BYTES},
        "shapes": rows,
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    convolution_choice.reload()
    return path


def conv_shapes() -> list[ConvShape]:
    """Convolutions of generator and discriminator, and their weight gradients, in 16 bits and float32."""
    found: dict[ConvShape, None] = {}
    for resolution, base in ((256, 16384), (1024, 32768)):
        config = GeneratorConfig(resolution, channel_base=base)
        for n in BATCHES:
            for dtype in _DTYPES:
                for shape in _layer_shapes(config, n, dtype):
                    found[shape] = None
                    found[shape._replace(op="weight_grad")] = None
    return list(found)


def _layer_shapes(config: GeneratorConfig, n: int, dtype: str) -> list[ConvShape]:
    found: list[ConvShape] = []
    before: tuple[int, int] | None = None
    for size in config.sizes:
        channels, (h, w) = config.channels(size), size
        found.append(ConvShape("conv", dtype, n, channels, channels, h, w, 3, 1, False))
        if before is not None:
            wider = config.channels(before)
            found.append(ConvShape("conv", dtype, n, wider, channels, h + 1, w + 1, 3, 2, True))
            found.append(ConvShape("conv", dtype, n, channels, wider, before[0], before[1], 3, 2, False))
        before = size
    return found


def _words(shape: ConvShape) -> str:
    kind = "up" if shape.transposed else "down" if shape.stride == 2 else "plain"
    return (
        f"{shape.op} {kind} {shape.dtype} {shape.n} x {shape.in_channels} -> {shape.out_channels} at "
        f"{shape.height} x {shape.width}"
    )


def _input_size(size: int, shape: ConvShape, padding: int) -> int:
    """The side of what a convolution reads to write `size`."""
    if shape.transposed:
        return (size + 2 * padding - shape.kernel) // shape.stride + 1
    return (size - 1) * shape.stride + shape.kernel - 2 * padding


def measure_shape(k: _native.Backend, shape: ConvShape, device: torch.device, clock: Clock) -> dict[str, Any]:
    """The row of `shape`: its fields and both times in ms."""
    padding = shape.kernel // 2 if shape.stride == 1 else 0
    c = Conv((shape.stride,) * 2, (padding,) * 2, shape.transposed)
    generator = torch.Generator().manual_seed(0)

    def drawn(*size: int) -> Tensor:
        values = torch.randn(size, generator=generator).to(device, _DTYPES[shape.dtype])
        return values.contiguous(memory_format=torch.channels_last)

    height, width = (_input_size(size, shape, padding) for size in (shape.height, shape.width))
    x = drawn(shape.n, shape.in_channels, height, width)
    channels = shape.in_channels, shape.out_channels
    w = drawn(*(channels if shape.transposed else channels[::-1]), shape.kernel, shape.kernel)
    dy = drawn(shape.n, shape.out_channels, shape.height, shape.width)
    settings = (c.stride, c.padding, (1, 1), c.transposed, c.output_padding, c.groups)
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    if shape.op == "conv":
        packed = w.transpose(0, 1) if c.transposed else w
        ours = lambda: _kernels.conv2d(k, x, packed, c)  # noqa: E731
        theirs = lambda: torch.convolution(x, w, None, *settings)  # noqa: E731
    else:
        ours = lambda: _gradient_kernels.conv2d_weight_grad(k, dy, x, w.shape, c)  # noqa: E731
        theirs = lambda: torch.ops.aten.convolution_backward.default(  # noqa: E731
            dy, x, w, None, *settings, (False, True, False)
        )
    times = clock([ours, theirs])
    return {**shape._asdict(), "pyface_ms": times[0], "torch_ms": times[1]}


def device_times(runs: list[Callable[[], Any]]) -> list[float]:
    """Medians of the time between two events of the GPU, in ms."""
    eviction = torch.empty(_EVICTION_BYTES, dtype=torch.int8, device="cuda")
    times: list[list[float]] = [[] for _ in runs]
    for turn in range(WARM_UP + ROUNDS):
        for i, run in enumerate(runs):
            first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            eviction.zero_()
            first.record()
            run()
            last.record()
            last.synchronize()
            if turn >= WARM_UP:
                times[i].append(first.elapsed_time(last))
    return [statistics.median(series) for series in times]
