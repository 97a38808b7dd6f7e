"""Input checks of the ops. Each returns normalised arguments; texts are built only when a check fails."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor

from pyface.errors import DTypeError, ShapeError, ValueRangeError
from pyface.ops.activations import ACTIVATIONS, Activation

__all__ = [
    "DTYPES",
    "Resampling",
    "activation_settings",
    "bias_fits",
    "check_channels",
    "check_filter",
    "check_images",
    "check_input",
    "check_noise",
    "check_same_device",
    "check_weight",
    "factor",
    "filter_size",
    "pair",
    "parameter_dtype",
    "quadruple",
    "refuse_bias",
    "refuse_input",
    "resampled_size",
    "resampling",
    "round_to",
]

# Codes of the native modules (csrc/include/pyface/types.h).
DTYPES: dict[torch.dtype, int] = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
_MANTISSA_BITS = {torch.float32: 24, torch.float64: 53, torch.bfloat16: 8, torch.float16: 11}


def check_input(op: str, x: Tensor, name: str = "x") -> None:
    """Raise DTypeError unless `x` is a tensor of an element type that the ops take."""
    if not (isinstance(x, Tensor) and x.dtype in DTYPES):
        refuse_input(op, x, name)


def refuse_input(op: str, x: object, name: str = "x") -> NoReturn:
    """Say what is wrong with an input that is no tensor of a known element type."""
    if not isinstance(x, Tensor):
        raise DTypeError(f"{op}: {name} must be a torch.Tensor; got {type(x).__name__}.")
    raise DTypeError(
        f"{op}: {name} has dtype {x.dtype}; allowed: float32, float64, bfloat16, float16. "
        f"Convert it, for example {name}.float()."
    )


def check_images(op: str, x: Tensor, name: str = "x") -> None:
    """Raise unless `x` is a floating-point tensor [N, C, H, W]."""
    check_input(op, x, name)
    if x.ndim != 4:
        hint = f" Add a batch axis: {name}[None]." if x.ndim == 3 else ""
        raise ShapeError(f"{op}: {name} must be [N, C, H, W]; got {list(x.shape)}.{hint}")


def check_same_device(op: str, x: Tensor, other: Tensor, name: str) -> None:
    """Raise ValueRangeError unless `other` lies where `x` lies."""
    if other.device != x.device:
        raise ValueRangeError(
            f"{op}: {name} is on {other.device} but x is on {x.device}; all tensors must be on one device. "
            f"Move it: {name}.to(x.device)."
        )


def bias_fits(x: Tensor, b: Tensor, dim: int) -> bool:
    """Whether `b` is a vector with one element per index of x's axis `dim`, of x's dtype and device."""
    shape, length = x.shape, b.shape
    return (
        0 <= dim < len(shape)
        and len(length) == 1
        and length[0] == shape[dim]
        and b.dtype == x.dtype
        and b.device == x.device
    )


def refuse_bias(op: str, x: Tensor, b: Tensor, dim: int) -> NoReturn:
    """Say why `bias_fits` is false."""
    if not 0 <= dim < x.ndim:
        raise ValueRangeError(
            f"{op}: dim is {dim}; allowed: 0 to {x.ndim - 1} for x of shape {list(x.shape)}."
        )
    if b.ndim != 1 or b.shape[0] != x.shape[dim]:
        raise ShapeError(
            f"{op}: b must be [{x.shape[dim]}] to fit axis {dim} of x {list(x.shape)}; got {list(b.shape)}."
        )
    if b.dtype != x.dtype:
        raise DTypeError(
            f"{op}: b is {b.dtype} but x is {x.dtype}; both must be the same. Use b.to(x.dtype)."
        )
    check_same_device(op, x, b, "b")
    raise ShapeError(f"{op}: b {list(b.shape)} does not fit axis {dim} of x {list(x.shape)}.")


def activation_settings(
    op: str, act: str, alpha: float | None, gain: float | None, clamp: float | None
) -> tuple[Activation, float, float, float]:
    """The activation with its defaults filled in: (activation, alpha, gain, clamp), clamp -1 where absent."""
    spec = ACTIVATIONS.get(act)
    if spec is None:
        raise ValueRangeError(f"{op}: act is {act!r}; allowed: {', '.join(ACTIVATIONS)}.")
    if clamp is None:
        clamp = -1.0
    elif not clamp >= 0:
        raise ValueRangeError(f"{op}: clamp is {clamp}; allowed: a number >= 0, or None for no clamp.")
    return (
        spec,
        spec.alpha if alpha is None else float(alpha),
        spec.gain if gain is None else float(gain),
        float(clamp),
    )


def round_to(value: float, dtype: torch.dtype) -> float:
    """`value` as `dtype` can hold it, so that a clamped element equals the clamp exactly."""
    bits = _MANTISSA_BITS[dtype]
    if bits == 53 or value <= 0 or math.isinf(value):
        return value
    mantissa, exponent = math.frexp(value)
    return math.ldexp(round(mantissa * 2**bits) / 2**bits, exponent)


def parameter_dtype(x: Tensor) -> torch.dtype:
    """The dtype of per-channel factors, noise and filters that go with images `x`: float32, or float64."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def pair(op: str, name: str, value: int | Sequence[int]) -> tuple[int, int]:
    """(x, y) factors from one integer or two. Raises unless both are >= 1."""
    two = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(two) != 2 or not all(isinstance(v, int) for v in two):
        raise ValueRangeError(f"{op}: {name} is {value!r}; allowed: an integer or (x, y).")
    if two[0] < 1 or two[1] < 1:
        raise ValueRangeError(f"{op}: {name} is {value!r}; allowed: integers >= 1.")
    return two


def quadruple(op: str, value: int | Sequence[int]) -> tuple[int, int, int, int]:
    """Padding as (x0, x1, y0, y1) from an integer, (x, y) or (x0, x1, y0, y1). Negative numbers crop."""
    four = tuple(value) if isinstance(value, (tuple, list)) else (value,) * 4
    if len(four) == 2:
        four = (four[0], four[0], four[1], four[1])
    if len(four) != 4 or not all(isinstance(v, int) for v in four):
        raise ValueRangeError(f"{op}: padding is {value!r}; allowed: an integer, (x, y) or (x0, x1, y0, y1).")
    return four


def check_filter(op: str, x: Tensor, f: Tensor | None) -> tuple[int, int]:
    """(width, height) of filter `f`; (1, 1) for None. Raises unless it is a float32 constant, 1-D or 2-D."""
    if f is None:
        return 1, 1
    if not isinstance(f, Tensor) or f.dtype != torch.float32:
        got = f.dtype if isinstance(f, Tensor) else type(f).__name__
        raise DTypeError(f"{op}: f must be a float32 tensor or None; got {got}. Make it with setup_filter.")
    if f.ndim not in (1, 2) or f.numel() == 0:
        raise ShapeError(
            f"{op}: f must be [taps] (used on both axes) or [height, width]; got {list(f.shape)}."
        )
    if f.requires_grad:
        raise ValueRangeError(f"{op}: f requires grad, but filters are constants here. Pass f.detach().")
    check_same_device(op, x, f, "f")
    return filter_size(f)


def filter_size(f: Tensor | None) -> tuple[int, int]:
    """(width, height) of filter `f` in taps; (1, 1) for None."""
    return (1, 1) if f is None else (int(f.shape[-1]), int(f.shape[0]))


class Resampling(NamedTuple):
    """Checked arguments of upfirdn2d, and the size of its output."""

    up_x: int
    up_y: int
    down_x: int
    down_y: int
    pad_x0: int
    pad_x1: int
    pad_y0: int
    pad_y1: int
    flip: bool
    gain: float

    def output_size(self, height: int, width: int, f_w: int, f_h: int) -> tuple[int, int]:
        """(height, width) of the output for `height` x `width` input pixels and `f_w` x `f_h` taps."""
        out_h = (height * self.up_y + self.pad_y0 + self.pad_y1 - f_h) // self.down_y + 1
        out_w = (width * self.up_x + self.pad_x0 + self.pad_x1 - f_w) // self.down_x + 1
        return out_h, out_w

    def transposed(self, height: int, width: int, out_h: int, out_w: int, f_w: int, f_h: int) -> Resampling:
        """The resampling whose forward pass is the gradient of this one (up and down change places)."""
        x0, y0 = f_w - 1 - self.pad_x0, f_h - 1 - self.pad_y0
        x1 = width * self.up_x - out_w * self.down_x + self.pad_x0 - self.up_x + 1
        y1 = height * self.up_y - out_h * self.down_y + self.pad_y0 - self.up_y + 1
        return Resampling(
            self.down_x, self.down_y, self.up_x, self.up_y, x0, x1, y0, y1, not self.flip, self.gain
        )


def _settings(
    op: str,
    up: int | Sequence[int],
    down: int | Sequence[int],
    padding: int | Sequence[int],
    flip_filter: bool,
    gain: float,
) -> Resampling:
    factors = *pair(op, "up", up), *pair(op, "down", down)
    return Resampling(*factors, *quadruple(op, padding), bool(flip_filter), float(gain))


_known_settings = functools.lru_cache(maxsize=1024, typed=True)(_settings)


def resampling(
    op: str,
    x: Tensor,
    f: Tensor | None,
    up: int | Sequence[int],
    down: int | Sequence[int],
    padding: int | Sequence[int],
    flip_filter: bool,
    gain: float,
) -> Resampling:
    """Checked arguments of upfirdn2d. Raises unless at least one output pixel fits."""
    check_images(op, x)
    f_w, f_h = check_filter(op, x, f)
    known = not (torch.compiler.is_compiling() or list in (type(up), type(down), type(padding)))
    r = (_known_settings if known else _settings)(op, up, down, padding, flip_filter, gain)
    padded_h = x.shape[2] * r.up_y + r.pad_y0 + r.pad_y1
    padded_w = x.shape[3] * r.up_x + r.pad_x0 + r.pad_x1
    if padded_h < f_h or padded_w < f_w:
        raise ShapeError(
            f"{op}: x {list(x.shape)} after up and padding is {padded_h} x {padded_w} pixels, less than the "
            f"filter of {f_h} x {f_w} taps. Use more padding or a shorter filter."
        )
    return r


def factor(op: str, name: str, value: int) -> int:
    """`value`, an integer >= 1."""
    if not isinstance(value, int) or value < 1:
        raise ValueRangeError(f"{op}: {name} is {value!r}; allowed: an integer >= 1.")
    return value


def check_weight(op: str, x: Tensor, w: Tensor, groups: int, mixed: bool = False) -> None:
    """Raise unless `w` is [O, C / groups, kh, kw] for `x`, of its device and dtype (`mixed`: or float32)."""
    check_input(op, w, "weight")
    if w.ndim != 4 or 0 in w.shape:
        raise ShapeError(
            f"{op}: the weight must be [out_channels, in_channels / groups, kh, kw]; got {list(w.shape)}."
        )
    if not isinstance(groups, int) or groups < 1 or w.shape[0] % groups:
        raise ValueRangeError(
            f"{op}: groups is {groups!r}; allowed: a divisor of the {w.shape[0]} output channels."
        )
    if w.shape[1] * groups != x.shape[1]:
        raise ShapeError(
            f"{op}: weight {list(w.shape)} in {groups} group(s) takes {w.shape[1] * groups} channels; "
            f"x has {x.shape[1]} ({list(x.shape)})."
        )
    if w.dtype != x.dtype and not (mixed and w.dtype == torch.float32):
        allowed = f"{x.dtype} (as x)" + (" or float32" if mixed else "")
        raise DTypeError(f"{op}: the weight is {w.dtype}; allowed: {allowed}. Use weight.to(x.dtype).")
    check_same_device(op, x, w, "weight")


def resampled_size(
    op: str, x: Tensor, w: Tensor, up: int, down: int, pads: tuple[int, int, int, int]
) -> tuple[int, int]:
    """(height, width) that a resampling convolution gives. Raises ShapeError where nothing would be left."""
    height, width = x.shape[2] * up + pads[2] + pads[3], x.shape[3] * up + pads[0] + pads[1]
    out_h, out_w = (height - w.shape[2] + 1) // down, (width - w.shape[3] + 1) // down
    if out_h < 1 or out_w < 1:
        raise ShapeError(
            f"{op}: x {list(x.shape)} after up={up} and padding is {height} x {width} pixels, too few for "
            f"a kernel of {w.shape[2]} x {w.shape[3]} and down={down}. Use more padding or a smaller kernel."
        )
    return out_h, out_w


def check_channels(
    op: str, x: Tensor, v: Tensor, name: str, per_sample: bool, channels: int | None = None
) -> None:
    """Raise unless `v` is [N, C] (or [C]) for images `x`; `channels` where it is not x's own."""
    check_input(op, v, name)
    c = x.shape[1] if channels is None else channels
    want = (x.shape[0], c) if per_sample else (c,)
    if v.shape != want:
        raise ShapeError(f"{op}: {name} must be {list(want)} for x {list(x.shape)}; got {list(v.shape)}.")
    if v.dtype != x.dtype and v.dtype != parameter_dtype(x):
        raise DTypeError(f"{op}: {name} is {v.dtype}; allowed with x of {x.dtype}: {parameter_dtype(x)}.")
    check_same_device(op, x, v, name)


def check_noise(op: str, x: Tensor, noise: Tensor, size: tuple[int, int]) -> Tensor:
    """`noise` as [N or 1, 1, H, W]. Raises unless it is that, or [H, W], with the output's size."""
    check_input(op, noise, "noise")
    if noise.ndim == 2:
        noise = noise[None, None]
    n = x.shape[0]
    if noise.ndim != 4 or noise.shape[0] not in (1, n) or noise.shape[1] != 1 or noise.shape[2:] != size:
        raise ShapeError(
            f"{op}: noise must be [{n}, 1, {size[0]}, {size[1]}] or [{size[0]}, {size[1]}] to fit; "
            f"got {list(noise.shape)}."
        )
    if noise.dtype != x.dtype and noise.dtype != parameter_dtype(x):
        raise DTypeError(f"{op}: noise is {noise.dtype}; allowed with x of {x.dtype}: {parameter_dtype(x)}.")
    check_same_device(op, x, noise, "noise")
    return noise
