"""Modulated convolution: scale by styles, convolve with shared weights, finish in one fused pass."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pyface.ops import _composition
from pyface.ops._checks import (
    check_channels,
    check_filter,
    check_images,
    check_noise,
    check_weight,
    factor,
    quadruple,
    resampled_size,
)
from pyface.ops._composition import Epilogue
from pyface.ops._dispatch import epilogue_settings, primitives, writers
from pyface.ops._output import check_out
from pyface.ops.activations import ACTIVATIONS

__all__ = ["conv_epilogue", "modulated_conv2d", "modulated_conv2d_act"]

_NO_EPILOGUE = Epilogue(ACTIVATIONS["linear"], 0.0, 1.0, -1.0)


def conv_epilogue(
    x: Tensor,
    demod: Tensor | None = None,
    noise: Tensor | None = None,
    bias: Tensor | None = None,
    next_style: Tensor | None = None,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    *,
    backend: str = "auto",
    out: Tensor | None = None,
) -> Tensor:
    """next_style * clamp(gain * act(x * demod + noise + bias)) in one pass, of x's shape, dtype and layout.

    x: [N, C, H, W]; float32, float64, bfloat16 or float16. demod, next_style: [N, C]. bias: [C].
    noise: [N, 1, H, W] or [H, W]. All four are float32 (float64 with float64 x; x's own dtype is taken too),
    or None.
    act, alpha, gain, clamp: as for bias_act. Gradients of any order reach every tensor.
    out: takes the result and is returned, in eager calls that need no gradient; of x's shape, dtype, device
    and dense memory layout; may be `x` itself.

    Raises ShapeError, DTypeError or ValueRangeError on bad input, BackendError where `backend` cannot run.
    Source: Karras et al. 2020 (StyleGAN2), figure 2.
    """
    op = "conv_epilogue"
    check_images(op, x)
    for v, name, per_sample in (
        (demod, "demod", True),
        (bias, "bias", False),
        (next_style, "next_style", True),
    ):
        if v is not None:
            check_channels(op, x, v, name, per_sample)
    if noise is not None:
        noise = check_noise(op, x, noise, (x.shape[2], x.shape[3]))
    e = epilogue_settings(op, act, alpha, gain, clamp)
    if out is None:
        return primitives(x, backend, e).epilogue(x, demod, noise, bias, next_style, e)
    writer = writers(op, x, out, backend, e)
    check_out(op, out, x, x.shape, (demod, noise, bias, next_style), in_place=True)
    return writer.epilogue(x, demod, noise, bias, next_style, e, out=out)


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    noise: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    resample_filter: Tensor | None = None,
    demodulate: bool = True,
    flip_weight: bool = True,
    *,
    backend: str = "auto",
) -> Tensor:
    """`x` convolved with `weight` scaled per sample by `styles` (and normalised), plus noise: [N, O, H', W'].

    x: [N, C, H, W]. weight: [O, C, kh, kw]. styles: [N, C]. noise: [N, 1, H', W'] or [H', W'], added to the
    result.
    weight, styles and noise are of x's dtype or float32. up, down, padding, resample_filter, flip_weight: as
    for conv2d_resample. demodulate: give every filter unit norm after scaling. float16 is normalised
    beforehand, so that nothing overflows. Gradients of any order reach x, weight, styles and noise.

    Raises ShapeError, DTypeError or ValueRangeError on bad input, BackendError where `backend` cannot run.
    Source: Karras et al. 2020 (StyleGAN2), section 2.2, equations 1 and 3.
    """
    return _modulated(
        "modulated_conv2d", x, weight, styles, noise, None, up, down, padding, resample_filter, demodulate,
        flip_weight, _NO_EPILOGUE, backend,
    )  # fmt: skip


def modulated_conv2d_act(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    noise: Tensor | None = None,
    up: int = 1,
    padding: int | Sequence[int] = 0,
    resample_filter: Tensor | None = None,
    demodulate: bool = True,
    flip_weight: bool = True,
    bias: Tensor | None = None,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    *,
    backend: str = "auto",
) -> Tensor:
    """A whole synthesis layer: clamp(gain * act(modulated_conv2d(...) + bias)), [N, O, H', W'].

    Demodulation, noise, bias, activation, gain and clamp are one pass over the convolution's output.
    bias: [O], float32 or x's dtype. Other arguments as for modulated_conv2d and bias_act.

    Raises ShapeError, DTypeError or ValueRangeError on bad input, BackendError where `backend` cannot run.
    Source: Karras et al. 2020 (StyleGAN2), figure 2d.
    """
    e = epilogue_settings("modulated_conv2d_act", act, alpha, gain, clamp)
    return _modulated(
        "modulated_conv2d_act", x, weight, styles, noise, bias, up, 1, padding, resample_filter, demodulate,
        flip_weight, e, backend,
    )  # fmt: skip


def _modulated(
    op: str,
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    noise: Tensor | None,
    bias: Tensor | None,
    up: int,
    down: int,
    padding: int | Sequence[int],
    resample_filter: Tensor | None,
    demodulate: bool,
    flip_weight: bool,
    e: Epilogue,
    backend: str,
) -> Tensor:
    check_images(op, x)
    check_weight(op, x, weight, 1, mixed=True)
    check_channels(op, x, styles, "styles", per_sample=True)
    check_filter(op, x, resample_filter)
    up, down = factor(op, "up", up), factor(op, "down", down)
    pads = quadruple(op, padding)
    size = resampled_size(op, x, weight, up, down, pads)
    if noise is not None:
        noise = check_noise(op, x, noise, size)
    if bias is not None:
        check_channels(op, x, bias, "bias", per_sample=False, channels=weight.shape[0])
    return _composition.modulated_conv2d(
        primitives(x, backend, e), x, weight, styles, noise, bias, up, down, pads, resample_filter,
        demodulate, flip_weight, e,
    )  # fmt: skip
