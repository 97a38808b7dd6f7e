"""The ops against plain torch: the formula as one writes it down, and better forms of it.

Better forms work in place on the one tensor they have made, split the low-pass filter into its two axes, or
resample by a convolution with a stride or a transposed one. Each op takes fresh memory for its result; cases
named "preallocated" are the same work written into a tensor that is there already, by pyface and by torch
alike. Inputs are drawn on the CPU with a seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from pyface import ops
from pyface.benchmark.case import EAGER, OURS, Case, Formula, Variant, Workload, eager_form
from pyface.benchmark.op_formulas import (
    CLAMP,
    TAPS,
    BiasAct,
    ConvEpilogue,
    Filter,
    SynthesisLayer,
    demodulation,
    filter_formula,
    filter_separable,
    filter_strided,
    filter_transposed,
    filter_transposed_separable,
    grouped,
    leaky,
    leaky_in_place,
    per_sample_kernels,
    shared,
    taps,
)

__all__ = ["op_builders", "op_cases"]

IN_PLACE, SEPARABLE = eager_form("in place"), eager_form("separable")
STRIDED, TRANSPOSED = eager_form("strided"), eager_form("transposed")
PREALLOCATED = eager_form("preallocated")
SEPARABLE_FRESH = eager_form("separable, fresh")  # torch's convolutions take no output
LARGE: tuple[tuple[int, ...], ...] = ((4, 512, 32, 32), (1, 128, 256, 256), (1, 32, 1024, 1024))
FILTERED: tuple[tuple[int, ...], ...] = ((1, 128, 256, 256), (1, 8, 1024, 1024))
SIZES = {
    "bias_act": LARGE,
    "conv_epilogue": LARGE,
    "blur": FILTERED,
    "bias_act preallocated": LARGE,
    "conv_epilogue preallocated": LARGE,
    "blur preallocated": FILTERED,
    "upsample 2": FILTERED,
    "downsample 2": FILTERED,
    "modulated_conv2d": ((4, 128, 64, 64),),
    "modulated_conv2d up 2": ((4, 128, 32, 32),),
}
QUICK_SIZE = (1, 128, 256, 256)
SCREEN = {  # (op, type, layout) at that size -> label on the screen of `pyface bench`
    ("conv_epilogue", "float32", "nchw"): "epilogue of a layer, 256 px",
    ("conv_epilogue", "bfloat16", "nhwc"): "epilogue of a layer, 256 px",
    ("blur", "float32", "nchw"): "blur, 128 channels of 256 px",
    ("upsample 2", "float32", "nchw"): "upsampling 128 channels of 256 px",
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2}

Build = Callable[[tuple[int, ...], str, str, str], Workload]


def op_cases() -> list[Case]:
    """Every op at every size, element type and layout."""
    return [
        _case(op, build, size, dtype, layout)
        for op, build in op_builders().items()
        for size in SIZES[op]
        for dtype in DTYPES
        for layout in LAYOUTS
    ]


def op_builders() -> dict[str, Build]:
    """How the work of every op is set up: functions of (size, dtype, layout, device)."""
    return {
        "bias_act": _bias_act,
        "conv_epilogue": _conv_epilogue,
        "blur": _blur,
        "bias_act preallocated": partial(_bias_act, preallocated=True),
        "conv_epilogue preallocated": partial(_conv_epilogue, preallocated=True),
        "blur preallocated": _blur_preallocated,
        "upsample 2": _upsample,
        "downsample 2": _downsample,
        "modulated_conv2d": _modulated,
        "modulated_conv2d up 2": _modulated_up,
    }


def _case(op: str, build: Build, size: tuple[int, ...], dtype: str, layout: str) -> Case:
    text = "x".join(str(n) for n in size)
    return Case(
        name=f"{op}/{text}/{dtype}/{layout}",
        group="layers" if op.startswith("modulated") else "ops",
        op=op,
        size=text,
        dtype=dtype,
        layout=layout,
        build=lambda device: build(size, dtype, layout, device),
        screen=SCREEN.get((op, dtype, layout), "") if size == QUICK_SIZE else "",
        rivals=layout == "nchw",  # theirs choose a layout of their own
        quick=(size == QUICK_SIZE or op.startswith("modulated")) and layout == "nchw" and dtype == "float32",
    )


def _draw(*shape: int, dtype: str, layout: str = "nchw", device: str, seed: int = 0) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device, DTYPES[dtype])
    return x.contiguous(memory_format=LAYOUTS[layout]) if x.ndim == 4 else x


def _traffic(*tensors: Tensor) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def _bias_act(
    size: tuple[int, ...], dtype: str, layout: str, device: str, preallocated: bool = False
) -> Workload:
    x = _draw(*size, dtype=dtype, layout=layout, device=device)
    b = _draw(size[1], dtype=dtype, device=device, seed=1)
    b4 = b.view(1, -1, 1, 1)
    out = torch.empty_like(x) if preallocated else None
    variants = {OURS: Variant(lambda: ops.bias_act(x, b, act="lrelu", clamp=CLAMP, out=out))}
    if out is None:
        variants[EAGER] = Variant(lambda: leaky(x + b4))
        variants[IN_PLACE] = Variant(lambda: leaky_in_place(x + b4))
    else:
        variants[PREALLOCATED] = Variant(lambda: leaky_in_place(torch.add(x, b4, out=out)))
    return Workload(
        variants,
        reference=lambda: leaky(x.double() + b4.double()),
        bytes=_traffic(x, b, x),
        flops=5 * x.numel(),
        tolerance=TOLERANCE[dtype],
        formula=None if preallocated else Formula(BiasAct(b).eval(), (x,)),
    )


def _conv_epilogue(
    size: tuple[int, ...], dtype: str, layout: str, device: str, preallocated: bool = False
) -> Workload:
    n, c, h, w = size
    x = _draw(*size, dtype=dtype, layout=layout, device=device)
    demod = _draw(n, c, dtype="float32", device=device, seed=1).abs()
    noise = _draw(n, 1, h, w, dtype="float32", device=device, seed=2)
    b = _draw(c, dtype="float32", device=device, seed=3)
    d4, b4 = demod.view(n, c, 1, 1).to(x.dtype), b.view(1, c, 1, 1).to(x.dtype)
    noise_x = noise.to(x.dtype)
    out = torch.empty_like(x) if preallocated else None
    variants = {
        OURS: Variant(lambda: ops.conv_epilogue(x, demod, noise, b, act="lrelu", clamp=CLAMP, out=out))
    }
    if out is None:
        variants[EAGER] = Variant(lambda: leaky(x * d4 + noise_x + b4))
        variants[IN_PLACE] = Variant(lambda: leaky_in_place((x * d4).add_(noise_x).add_(b4)))
    else:
        variants[PREALLOCATED] = Variant(
            lambda: leaky_in_place(torch.mul(x, d4, out=out).add_(noise_x).add_(b4))
        )
    return Workload(
        variants,
        reference=lambda: leaky(
            x.double() * demod.double().view(n, c, 1, 1) + noise.double() + b.double().view(1, c, 1, 1)
        ),
        bytes=_traffic(x, demod, noise, b, x),
        flops=7 * x.numel(),
        tolerance=TOLERANCE[dtype],
        formula=None if preallocated else Formula(ConvEpilogue(b).eval(), (x, demod, noise)),
    )


def _filtered(
    size: tuple[int, ...],
    dtype: str,
    layout: str,
    device: str,
    ours: Callable[[Tensor, Tensor], Tensor],
    formula: Callable[[Tensor], Tensor],
    others: dict[str, Callable[[Tensor], Tensor]],
    module: Filter,
    multiplies: float,
) -> Workload:
    x = _draw(*size, dtype=dtype, layout=layout, device=device)
    f = ops.setup_filter(TAPS, device=device)
    out = formula(x)
    return Workload(
        {
            OURS: Variant(lambda: ours(x, f)),
            EAGER: Variant(lambda: formula(x)),
            **{name: Variant(partial(other, x)) for name, other in others.items()},
        },
        reference=lambda: formula(x.double()),
        bytes=_traffic(x, out),
        flops=int(2 * multiplies * out.numel()),
        tolerance=TOLERANCE[dtype],
        formula=Formula(module.eval(), (x,)),
    )


def _blur(size: tuple[int, ...], dtype: str, layout: str, device: str) -> Workload:
    return _filtered(
        size, dtype, layout, device,
        lambda x, f: ops.filter2d(x, f),
        lambda x: filter_formula(x, 1, 1, 2, 1),
        {SEPARABLE: lambda x: filter_separable(x, 1, 2, 1)},
        Filter(),
        multiplies=8,
    )  # fmt: skip


def _blur_preallocated(size: tuple[int, ...], dtype: str, layout: str, device: str) -> Workload:
    """The same with every tensor there already: torch adds up shifted images, one axis after the other."""
    n, c, h, w = size
    work = _blur(size, dtype, layout, device)
    x = _draw(*size, dtype=dtype, layout=layout, device=device)
    f = ops.setup_filter(TAPS, device=device)
    weights = taps(x.float()).tolist()
    tall, wide = (
        torch.empty(shape, dtype=x.dtype, device=device, memory_format=LAYOUTS[layout]).zero_()
        for shape in ((n, c, h + 3, w), (n, c, h, w + 3))
    )
    out = torch.empty_like(x)

    def shifted() -> Tensor:
        tall[:, :, 2 : h + 2].copy_(x)
        middle = torch.mul(tall[:, :, :h], weights[0], out=wide[..., 2 : w + 2])
        for i in range(1, 4):
            middle.add_(tall[:, :, i : i + h], alpha=weights[i])
        torch.mul(wide[..., :w], weights[0], out=out)
        for i in range(1, 4):
            out.add_(wide[..., i : i + w], alpha=weights[i])
        return out

    variants = {
        OURS: Variant(lambda: ops.upfirdn2d(x, f, padding=(2, 1, 2, 1), out=out)),
        PREALLOCATED: Variant(shifted),
        SEPARABLE_FRESH: work.variants[SEPARABLE],
    }
    return replace(work, variants=variants, formula=None)


def _upsample(size: tuple[int, ...], dtype: str, layout: str, device: str) -> Workload:
    return _filtered(
        size, dtype, layout, device,
        lambda x, f: ops.upsample2d(x, f),
        lambda x: filter_formula(x, 2, 1, 2, 1),
        {TRANSPOSED: filter_transposed, SEPARABLE: filter_transposed_separable},
        Filter(up=2),
        multiplies=3,  # two taps along the columns at half width, two along the rows
    )  # fmt: skip


def _downsample(size: tuple[int, ...], dtype: str, layout: str, device: str) -> Workload:
    return _filtered(
        size, dtype, layout, device,
        lambda x, f: ops.downsample2d(x, f),
        lambda x: filter_formula(x, 1, 2, 1, 1),
        {SEPARABLE: lambda x: filter_separable(x, 2, 1, 1), STRIDED: filter_strided},
        Filter(down=2),
        multiplies=12,  # four taps along the columns at full width, four along the rows
    )  # fmt: skip


def _modulated(size: tuple[int, ...], dtype: str, layout: str, device: str) -> Workload:
    return _layer(size, dtype, layout, device, up=1)


def _modulated_up(size: tuple[int, ...], dtype: str, layout: str, device: str) -> Workload:
    return _layer(size, dtype, layout, device, up=2)


def _layer(size: tuple[int, ...], dtype: str, layout: str, device: str, up: int) -> Workload:
    """A synthesis layer: modulated 3x3 convolution, demodulation, noise, bias, activation."""
    n, c, h, w = size
    x = _draw(*size, dtype=dtype, layout=layout, device=device)
    weight = _draw(c, c, 3, 3, dtype="float32", device=device, seed=1)
    styles = _draw(n, c, dtype="float32", device=device, seed=2)
    noise = _draw(n, 1, h * up, w * up, dtype="float32", device=device, seed=3)
    b = _draw(c, dtype="float32", device=device, seed=4)
    f = ops.setup_filter(TAPS, device=device)

    def ours() -> Tensor:
        return ops.modulated_conv2d_act(
            x, weight, styles, noise, up=up, padding=1, resample_filter=f, flip_weight=up == 1, bias=b,
            act="lrelu", clamp=CLAMP,
        )  # fmt: skip

    def formula(x: Tensor = x) -> Tensor:
        kernels = per_sample_kernels(weight.to(x.dtype), styles.to(x.dtype))
        y = grouped(x, kernels, up)
        return leaky(y + noise.to(x.dtype) + b.to(x.dtype).view(1, -1, 1, 1))

    def in_place() -> Tensor:
        kernel, style = weight.to(x.dtype), styles.to(x.dtype)
        d = demodulation(weight, styles).to(x.dtype)
        y = shared(x * style.view(n, c, 1, 1), kernel, up)
        return leaky_in_place(
            y.mul_(d.view(n, c, 1, 1)).add_(noise.to(x.dtype)).add_(b.to(x.dtype).view(1, -1, 1, 1))
        )

    return Workload(
        {OURS: Variant(ours), EAGER: Variant(formula), IN_PLACE: Variant(in_place)},
        reference=lambda: formula(x.double()),
        bytes=_traffic(x, weight, styles, noise, b) + x.element_size() * n * c * h * w * up * up,
        flops=2 * 9 * c * c * n * h * w,
        tolerance=TOLERANCE[dtype] * (1 if dtype == "float32" else 3),
        formula=Formula(SynthesisLayer(weight, b, up).eval(), (x, styles, noise)),
    )
