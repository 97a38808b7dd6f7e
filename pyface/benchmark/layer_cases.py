"""Every styled convolution of the 256 px synthesis, those of 512 and 1024 px, and convolutions alone.

A layer of ours is one native call on activations as the layer before leaves them (blocked, times the style)
and leaves them so for the next one; the styles are given to all. Larger layers take images one by one, as in
the network. "convolutions" is the sum over the layers of a network of the time of its convolutions: ours with
all that is fused into them, but without noise; torch's as the bare convolution. The fastest kind that was
found is "torch eager, best form" (NHWC, four phase convolutions for up-sampling, not laid into each other);
"torch eager" is float32 and NCHW with the transposed convolution. The arithmetic counted is that of the
convolutions alone, without the filter of ours.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pyface.benchmark.case import (
    BEST_FORM,
    EAGER,
    OURS,
    Case,
    Formula,
    Part,
    Variant,
    Workload,
    eager_form,
    inferred,
)
from pyface.benchmark.plain_stylegan2 import PlainStyledConv
from pyface.benchmark.shared_stylegan2 import SharedLayer
from pyface.errors import BackendError
from pyface.ops import styled_conv as engine
from pyface.ops._checks import DTYPES
from pyface.training.allocator import keep_freed_memory

__all__ = ["LayerSize", "convolutions_workload", "layer_cases", "layer_workload", "network_layers"]

TOLERANCE = {"float32": 2e-5, "bfloat16": 0.03}
_DTYPES = ("float32", "bfloat16")
_SLOPE, SQRT_2 = 0.2, math.sqrt(2)
_POSITION_BYTES = 64  # of a block at one position


@dataclass(frozen=True)
class LayerSize:
    """A styled convolution: channels in and out, side of its input, and 1 or 2 times that of its output."""

    inputs: int
    outputs: int
    side: int
    up: int

    @property
    def macs(self) -> int:
        """Multiply-adds of the convolution for one image, 9 per input pixel and pair of channels."""
        return 9 * self.inputs * self.outputs * self.side**2

    @property
    def text(self) -> str:
        """Such as "128 to 64 channels, up to 256 px"."""
        size = f"up to {2 * self.side} px" if self.up == 2 else f"{self.side} px"
        return f"{self.inputs} to {self.outputs} channels, {size}"


def network_layers(side: int, channel_base: int, smallest: int = 4) -> list[LayerSize]:
    """The styled convolutions of a synthesis of `side` px, from outputs of `smallest` px on."""
    from pyface.models import GeneratorConfig

    config = GeneratorConfig(side, channel_base=channel_base)
    found = []
    before = None
    for size in config.sizes:
        channels = config.channels(size)
        if before is not None:
            found.append(LayerSize(config.channels(before), channels, before[0], 2))
        found.append(LayerSize(channels, channels, size[0], 1))
        before = size
    return [layer for layer in found if layer.side * layer.up >= smallest]


def layer_cases() -> list[Case]:
    """Layers of 4 to 256 px for 1 and 8 images, of 512 and 1024 px for one, and convolutions alone."""
    work = [(layer, batch) for layer in network_layers(256, 16384) for batch in (1, 8)]
    work += [(layer, 1) for layer in network_layers(1024, 32768, smallest=512)]
    cases = [_case(layer, batch, dtype) for layer, batch in work for dtype in _DTYPES]
    for side, base, batch in ((256, 16384, 1), (256, 16384, 8), (1024, 32768, 1)):
        layers, size = network_layers(side, base), f"{batch} x {side} px"
        for dtype in _DTYPES:
            cases.append(
                Case(
                    f"convolutions/{size}/{dtype}",
                    "layers",
                    "convolutions alone",
                    size,
                    dtype,
                    "-",
                    partial(convolutions_workload, layers, batch, dtype),
                    cold=False,
                )
            )
    return cases


def _case(layer: LayerSize, batch: int, dtype: str) -> Case:
    size = f"{batch} x {layer.text}"
    return Case(
        f"layer/{size}/{dtype}",
        "layers",
        "styled convolution",
        size,
        dtype,
        "-",
        partial(layer_workload, layer, batch, dtype),
        quick=(layer.side, layer.up, batch, dtype) == (64, 1, 1, "float32"),
        rivals=batch == 8 or layer.side * layer.up > 256,
    )


class _Fused:
    """A layer of ours on `batch` images, with memory of its own for what it reads and writes.

    weight: [O, I, 3, 3]. bias: [O]. noise: [H', W'], scaled. Raises BackendError where it cannot run.
    """

    def __init__(
        self,
        layer: LayerSize,
        batch: int,
        dtype: str,
        weight: Tensor,
        bias: Tensor,
        noise: Tensor | None = None,
    ) -> None:
        found = engine.engine_dtype(weight, getattr(torch, dtype))
        if found is None:
            raise BackendError("fused layers need the CPU kernels, which are not built")
        self.layer, self.batch, self.dtype = layer, batch, found
        self.weight = engine.PackedWeight(layer.up)
        (self.packed,) = engine.packed_weights([weight.contiguous()], [self.weight], found)
        side = layer.side * layer.up
        self.choice = engine.best_choice(found, layer.up, weight.shape, (side, side))
        self.together = self.choice.takes_together(side, side)
        self.bias = _padded(bias * SQRT_2)
        self.noise = None if noise is None else (noise * SQRT_2).contiguous()
        self.next_style = _padded(torch.ones(batch, layer.outputs))
        self.x = self._activations("x", layer.inputs, layer.side)
        self.y = self._activations("y", layer.outputs, side)
        engine.release_memory()  # this layer holds its own

    def _activations(self, name: str, channels: int, side: int) -> engine.Blocked:
        return engine.Blocked.new(f"benchmark {name}", self.dtype, self.batch, channels, (side, side))

    def read(self, x: Tensor, styles: Tensor) -> None:
        """Takes x [N, I, H, W] times `styles` [N, I] for its input."""
        scale = _padded(styles)
        engine.block_activations(x, scale.data_ptr(), self.x, self.dtype)

    def demodulation(self, styles: Tensor) -> Tensor:
        """What `run` takes, of styles [N, I]."""
        return self.weight.demodulation(_padded(styles), SQRT_2)

    def run(self, demod: Tensor) -> None:
        """The layer, images together or one by one as the network does it."""
        at_once = self.batch if self.together else 1
        rows = np.zeros(self.batch // at_once, dtype=engine.STYLED_CONV)
        fields = {
            "x": self.x.data.data_ptr(), "weight": self.packed.data_ptr(), "bias": self.bias.data_ptr(),
            "noise": 0 if self.noise is None else self.noise.data_ptr(), "y": self.y.data.data_ptr(),
            "next_style": self.next_style.data_ptr(), "n": at_once, "x_batch": self.batch,
            "y_batch": self.batch, "in_channels": self.layer.inputs, "out_channels": self.layer.outputs,
            "in_h": self.layer.side, "in_w": self.layer.side, "alpha": _SLOPE, "noise_gain": 1.0,
            "clamp": -1.0, "chunk_bytes": self.choice.chunk_bytes, "up": self.layer.up,
            "groups_inside": self.choice.groups_inside, "dtype": DTYPES[self.dtype],
        }  # fmt: skip
        for name, value in fields.items():
            rows[name] = value
        rows["x_first"] = rows["y_first"] = np.arange(len(rows))
        rows["demod"] = demod.data_ptr() + np.arange(len(rows)) * demod.stride(0) * demod.itemsize
        engine.styled_convs(rows, demod)

    def result(self) -> Tensor:
        """What the last run wrote: [N, O, H', W']."""
        return from_blocked(self.y, self.dtype)


def _padded(values: Tensor) -> Tensor:
    """`values` with zeros behind, as many along the last axis as layers take."""
    return F.pad(values, (0, engine.padded(values.shape[-1]) - values.shape[-1])).contiguous()


def from_blocked(x: engine.Blocked, dtype: torch.dtype) -> Tensor:
    """[N, C, H, W] in `dtype` of blocked activations (their order: csrc/include/pyface/styled_conv.h)."""
    parts = 3 if engine.number_bytes(dtype) == 3 * torch.bfloat16.itemsize else 1
    stored = torch.bfloat16 if parts == 3 else dtype
    block = _POSITION_BYTES // stored.itemsize
    rows, columns = x.height + 1, x.width + 1
    blocks = engine.padded(x.channels) // block
    size = x.data.numel() // (blocks * parts * _POSITION_BYTES) * (blocks * parts * _POSITION_BYTES)
    values = x.data[:size].view(stored).view(blocks, parts, -1, block)[:, :, : x.batch * rows * columns]
    whole = values.to(dtype).sum(dim=1)
    inside = whole.reshape(blocks, x.batch, rows, columns, block)[:, :, 1:, 1:]
    return inside.permute(1, 0, 4, 2, 3).reshape(x.batch, -1, x.height, x.width)[:, : x.channels]


def layer_workload(layer: LayerSize, batch: int, dtype: str, device: str) -> Workload:
    """One styled convolution on `batch` images: ours, grouped, and with shared weights."""
    keep_freed_memory()
    plain = _plain_layer(layer).to(device)
    kind = getattr(torch, dtype)
    numbers = torch.Generator().manual_seed(1)
    x = torch.randn(batch, layer.inputs, layer.side, layer.side, generator=numbers).to(kind).float()
    styles = torch.rand(batch, layer.inputs, generator=numbers) + 0.5
    x, styles = x.to(device), styles.to(device)
    variants = {OURS: _ours(layer, plain, x, styles, dtype)}
    variants[EAGER] = Variant(inferred(plain.styled, x, styles))
    last = x.to(kind, memory_format=torch.channels_last)
    forms = (
        {BEST_FORM: "phases", eager_form("transposed"): "transposed"}
        if layer.up == 2
        else {BEST_FORM: "phases"}
    )
    for name, form in forms.items():
        module = SharedLayer(plain, up_form=form, dtype=kind, channels_last=True, in_place=True).to(device)
        variants[name] = Variant(inferred(module, last, styles))
    area = layer.side**2
    traffic = batch * area * (layer.inputs + layer.outputs * layer.up**2) + 9 * layer.inputs * layer.outputs
    return Workload(
        variants,
        reference=lambda: copy.deepcopy(plain).double().styled(x.double(), styles.double()),
        bytes=traffic * kind.itemsize,
        flops=2 * batch * (layer.macs + (16 * layer.outputs * area * 4 if layer.up == 2 else 0)),
        items=batch,
        tolerance=TOLERANCE[dtype],
        formula=Formula(SharedLayer(plain).to(device).eval(), (x.to(kind), styles)),
    )


def _plain_layer(layer: LayerSize) -> PlainStyledConv:
    """Of random weights, with bias and noise."""
    from pyface.models import GeneratorConfig

    side = layer.side * layer.up
    config = GeneratorConfig(8, w_dim=1)
    plain = PlainStyledConv(config, layer.inputs, layer.outputs, side, up=layer.up == 2)
    numbers = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, values in [*plain.named_parameters(), *plain.named_buffers()]:
            if name != "taps":
                values.copy_(torch.randn(values.shape, generator=numbers) * (0.1 if name == "bias" else 1.0))
        plain.noise_strength.fill_(0.1)
    return plain.eval().requires_grad_(False)


def _ours(layer: LayerSize, plain: PlainStyledConv, x: Tensor, styles: Tensor, dtype: str) -> Variant:
    if not x.is_cpu:
        raise BackendError("fused layers run on the CPU")
    noise = plain.noise_const * plain.noise_strength
    with torch.inference_mode():
        fused = _Fused(layer, len(x), dtype, plain.weight, plain.bias, noise)
        fused.read(x, styles)

    def run() -> None:
        with torch.inference_mode():
            fused.run(fused.demodulation(styles))

    return Variant(run, result=fused.result)


def convolutions_workload(layers: Sequence[LayerSize], batch: int, dtype: str, device: str) -> Workload:
    """The convolutions of `layers` on `batch` images, each a part; the whole is their sum."""
    keep_freed_memory()
    if torch.device(device).type != "cpu":
        raise BackendError("fused layers run on the CPU")
    kind = getattr(torch, dtype)
    parts: dict[str, dict[str, Part]] = {OURS: {}, EAGER: {}, BEST_FORM: {}}
    numbers = torch.Generator().manual_seed(0)
    for layer in layers:
        weight = torch.randn(layer.outputs, layer.inputs, 3, 3, generator=numbers) / layer.inputs**0.5
        x = torch.randn(batch, layer.inputs, layer.side, layer.side, generator=numbers)
        with torch.inference_mode():
            fused = _Fused(layer, batch, dtype, weight, torch.zeros(layer.outputs))
            fused.read(x, torch.ones(batch, layer.inputs))
            demod = fused.demodulation(torch.ones(batch, layer.inputs))
        runs: dict[str, Callable[[], Tensor | None]] = {
            OURS: partial(fused.run, demod),
            EAGER: _convolution(layer, x, weight),
            BEST_FORM: _phased(layer, x.to(kind), weight.to(kind)),
        }
        for name, run in runs.items():
            parts[name][layer.text] = Part(run)
    variants = {name: Variant(_each([p.run for p in own.values()]), parts=own) for name, own in parts.items()}
    return Workload(variants, flops=2 * batch * sum(layer.macs for layer in layers), items=batch)


def _each(runs: Sequence[Callable[[], object]]) -> Callable[[], None]:
    def run() -> None:
        for part in runs:
            part()

    return run


def _convolution(layer: LayerSize, x: Tensor, weight: Tensor) -> Callable[[], Tensor]:
    """NCHW, transposed where it up-samples."""
    if layer.up == 1:
        return inferred(partial(F.conv2d, padding=1), x, weight)
    return inferred(partial(F.conv_transpose2d, stride=2), x, weight.transpose(0, 1).contiguous())


def _phased(layer: LayerSize, x: Tensor, weight: Tensor) -> Callable[[], None]:
    """NHWC; four small convolutions, one for each parity of row and column, where it up-samples."""
    last = torch.channels_last
    x = x.contiguous(memory_format=last)
    kernels = [(weight, (1, 1))]
    if layer.up == 2:
        kernels = [
            (weight[:, :, row::2, column::2].flip([2, 3]), (1 - row, 1 - column))
            for row in (0, 1)
            for column in (0, 1)
        ]
    work = [(kernel.contiguous(memory_format=last), padding) for kernel, padding in kernels]

    def run() -> None:
        with torch.inference_mode():
            for kernel, padding in work:
                F.conv2d(x, kernel, padding=padding)

    return run
