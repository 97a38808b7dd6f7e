"""Measures how the CPU best works through every synthesis layer: the table of `pyface.ops.engine_choice`.

Each layer shape of the networks of 64 to 1024 pixels runs with every candidate (how much is worked on at a
time, in which order, images together or one by one), in rounds that take turns, on one thread. torch's own
convolution of the same shape (oneDNN, channels_last) is the yardstick: it has neither style, noise, bias and
activation nor, in up-sampling layers, the filter.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pyface.benchmark.machine import machine_facts
from pyface.errors import BackendError
from pyface.models import GeneratorConfig
from pyface.ops import engine_choice
from pyface.ops._checks import DTYPES
from pyface.ops.engine_choice import Choice, LayerShape
from pyface.ops.styled_conv import (
    STYLED_CONV,
    Blocked,
    PackedWeight,
    block_activations,
    engine_dtype,
    engine_isa,
    packed_weights,
    padded,
    release_memory,
    styled_convs,
)

__all__ = ["decide", "layer_shapes", "measure_layer", "tune"]

IMAGES = 4  # of a batch that takes a layer together
ROUNDS = 5
HEAD_CHANNELS = 3
MARGIN = 0.03  # a candidate is taken for the rule only if it saves more than this part of the time
CHUNKS = tuple(size << 10 for size in (256, 512, 1024, 2048))
LARGEST_TOGETHER = 64  # outputs above this side are always taken one by one: batches would leave the cache


def tune(out: Path | None = None, report: Callable[[str], None] = print) -> Path:
    """Measure this machine's table, write it and use it from now on; the file.

    Takes minutes, and one thread.

    Args:
        out: where to write; None: the user's table, which later calls of pyface find.
        report: is given a line for every layer.

    Raises:
        BackendError: the CPU kernels are not built.
    """
    threads = torch.get_num_threads()
    dtypes = _dtypes()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            rows = [measure_layer(shape, report) for shape in layer_shapes(dtypes)]
        decide(rows)
    finally:
        torch.set_num_threads(threads)
        release_memory()
    path = engine_choice.user_table() if out is None else out
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "format": engine_choice.FORMAT,
        "isa": engine_isa(),
        "machine": machine_facts("cpu", 1),
        "settings": {
            "images": IMAGES,
            "rounds": ROUNDS,
            "margin": MARGIN,
            "unit": "ms an image, thread time",
        },
        "layers": rows,
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    engine_choice.reload()
    report(f"wrote {path}")
    return path


def _dtypes() -> list[torch.dtype]:
    """Element types that layers compute in on this CPU."""
    asked = (torch.bfloat16, torch.float32)
    found = dict.fromkeys(engine_dtype(torch.empty(0), dtype) for dtype in asked)
    dtypes = [dtype for dtype in found if dtype is not None]
    if not dtypes:
        raise BackendError(
            "the CPU kernels are not built, so there is nothing to tune. Build the native modules."
        )
    return dtypes


def layer_shapes(dtypes: list[torch.dtype]) -> list[LayerShape]:
    """Layers of the networks of 64 to 1024 pixels, with channel_base 16384 up to 256 and 32768."""
    found: dict[LayerShape, None] = {}
    for resolution, base in ((256, 16384), (1024, 32768)):
        config = GeneratorConfig(resolution, channel_base=base)
        for dtype in dtypes:
            name = "bfloat16" if dtype == torch.bfloat16 else "float32"
            before = None
            for size in config.sizes:
                channels = config.channels(size)
                if before is not None:
                    found[LayerShape(name, 2, config.channels(before), channels, *before)] = None
                found[LayerShape(name, 1, channels, channels, *size)] = None
                before = size
    return list(found)


@dataclass
class _Bench:
    """One layer with data to work on."""

    shape: LayerShape
    dtype: torch.dtype
    weight: Tensor
    weight_values: Tensor
    side: Tensor
    noise: Tensor
    heads: Tensor | None

    @property
    def size(self) -> tuple[int, int]:
        return self.shape.height * self.shape.up, self.shape.width * self.shape.up


def _bench(shape: LayerShape) -> _Bench:
    dtype = torch.bfloat16 if shape.dtype == "bfloat16" else torch.float32
    torch.manual_seed(0)
    values = torch.randn(shape.out_channels, shape.in_channels, 3, 3) / (3 * shape.in_channels**0.5)
    (weight,) = packed_weights([values], [PackedWeight(shape.up)], dtype)
    out = padded(shape.out_channels)
    side = torch.rand(IMAGES * max(out, padded(shape.in_channels))) + 0.5
    heads = torch.randn(IMAGES, HEAD_CHANNELS, out) if shape.up == 1 else None
    noise = torch.randn(shape.height * shape.up, shape.width * shape.up)
    return _Bench(shape, dtype, weight, values, side, noise, heads)


def _runner(bench: _Bench, n: int, choice: Choice) -> Callable[[], None]:
    """The layer on `n` images."""
    shape, address = bench.shape, bench.side.data_ptr()
    x = Blocked.new(f"tuning x {n}", bench.dtype, n, shape.in_channels, (shape.height, shape.width))
    y = Blocked.new(f"tuning y {n}", bench.dtype, n, shape.out_channels, bench.size)
    block_activations(torch.randn(n, shape.in_channels, shape.height, shape.width), address, x, bench.dtype)
    image = torch.zeros(n, HEAD_CHANNELS, *bench.size)
    row = np.zeros(1, dtype=STYLED_CONV)
    fields = {
        "x": x.data.data_ptr(), "weight": bench.weight.data_ptr(), "demod": address, "bias": address,
        "noise": bench.noise.data_ptr(), "next_style": address, "y": y.data.data_ptr(), "n": n, "x_batch": n,
        "y_batch": n, "in_channels": shape.in_channels, "out_channels": shape.out_channels,
        "in_h": shape.height, "in_w": shape.width, "alpha": 0.2, "noise_gain": 1.0, "clamp": -1.0,
        "chunk_bytes": choice.chunk_bytes, "groups_inside": choice.groups_inside,
        "dtype": DTYPES[bench.dtype], "up": shape.up,
    }  # fmt: skip
    if bench.heads is not None:
        heads = {"heads": bench.heads.data_ptr(), "head_bias": address, "image": image.data_ptr()}
        fields |= {**heads, "head_channels": HEAD_CHANNELS}
    for name, value in fields.items():
        row[name] = value
    return lambda: styled_convs(row, image)


def _yardstick(bench: _Bench) -> Callable[[], Tensor]:
    """torch's convolution of the shape on one image."""
    shape, form = bench.shape, torch.channels_last
    x = torch.randn(1, shape.in_channels, shape.height, shape.width).to(bench.dtype, memory_format=form)
    weight = bench.weight_values.to(bench.dtype, memory_format=form)
    if shape.up == 1:
        return lambda: F.conv2d(x, weight, padding=1)
    swapped = weight.transpose(0, 1).contiguous(memory_format=form)
    return lambda: F.conv_transpose2d(x, swapped, stride=2)


def _candidates(shape: LayerShape) -> Iterator[Choice]:
    batches = (True, False) if max(shape.height, shape.width) * shape.up <= LARGEST_TOGETHER else (False,)
    for together in batches:
        yield Choice(together=together)
        for chunk in CHUNKS:
            for inside in (0, 1) if shape.up == 2 else (-1,):
                yield Choice(chunk, inside, together)


def measure_layer(shape: LayerShape, report: Callable[[str], None]) -> dict[str, Any]:
    """The row of `shape` without the choice: times in ms an image."""
    bench = _bench(shape)
    candidates = list(_candidates(shape))
    runners: list[tuple[Callable[[], Any], int]] = [(_yardstick(bench), 1)]
    for candidate in candidates:
        n = IMAGES if candidate.together else 1
        runners.append((_runner(bench, n, candidate), n))
    yardstick, *measured = _medians(runners)
    flops = 2 * 9 * shape.in_channels * shape.out_channels * shape.height * shape.width
    report(
        f"{shape.dtype} up {shape.up} {shape.in_channels:>3} -> {shape.out_channels:>3} "
        f"{shape.height:>4} x {shape.width:<4} torch {yardstick:8.3f} ms, ours {min(measured):8.3f} to "
        f"{max(measured):8.3f} ms ({flops / min(measured) / 1e6:5.0f} GFLOP/s)"
    )
    timed = zip(candidates, measured, strict=True)
    return {
        **shape._asdict(),
        "torch_ms": round(yardstick, 4),
        "candidates": [{**asdict(candidate), "ms": round(ms, 4)} for candidate, ms in timed],
    }


def decide(rows: list[dict[str, Any]]) -> None:
    """Adds to each row the choice that makes all of them fastest.

    Images that once go one by one stay so, hence one largest size for each dtype up to which batches stay
    together. Where the rule's cut is hardly slower than the best one, it is taken.
    """
    for dtype in {row["dtype"] for row in rows}:
        own = [row for row in rows if row["dtype"] == dtype]
        sizes = sorted({0, *(size for row in own if (size := _largest_side(row)) <= LARGEST_TOGETHER)})
        costs = [sum(_best(row, _largest_side(row) <= size)["ms"] for row in own) for size in sizes]
        largest = sizes[costs.index(min(costs))]
        for row in own:
            found = dict(_best(row, _largest_side(row) <= largest))
            found.pop("ms")
            row["choice"] = found


def _largest_side(row: dict[str, Any]) -> int:
    return max(row["height"], row["width"]) * int(row["up"])


def _best(row: dict[str, Any], together: bool) -> dict[str, Any]:
    """The candidate of `row` to take."""
    found = [candidate for candidate in row["candidates"] if candidate["together"] == together]
    fastest = min(found, key=lambda candidate: float(candidate["ms"]))
    rule = next(candidate for candidate in found if candidate["chunk_bytes"] == 0)
    return rule if rule["ms"] * (1 - MARGIN) <= fastest["ms"] else fastest


def _medians(runners: list[tuple[Callable[[], Any], int]]) -> list[float]:
    """Median milliseconds an image of each, in rounds that take turns; CPU time of this thread."""
    taken: list[list[float]] = [[] for _ in runners]
    for _ in range(ROUNDS):
        for (run, n), times in zip(runners, taken, strict=True):
            run()  # what the one before left in the caches is not this one's fault
            begin = time.thread_time()
            run()
            times.append((time.thread_time() - begin) / n * 1e3)
    return [statistics.median(times) for times in taken]
