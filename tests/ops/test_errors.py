"""Every refusal of the ops: the class, and a text that says what was wrong, what came and what to do."""

# ruff: noqa: E501 (one refusal a line)

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from pyface import ops
from pyface.errors import DTypeError, PyfaceError, ShapeError, ValueRangeError

X = torch.zeros(2, 3, 8, 8)
W = torch.zeros(4, 3, 3, 3)
S = torch.zeros(2, 3)
F4 = ops.setup_filter([1, 3, 3, 1])

REFUSALS: list[tuple[Callable[[], Any], type[PyfaceError], str]] = [
    (lambda: ops.bias_act([1.0]), DTypeError, "bias_act: x must be a torch.Tensor; got list."),
    (lambda: ops.bias_act(X.long()), DTypeError, "bias_act: x has dtype torch.int64; allowed: float32,"),
    (lambda: ops.bias_act(X, torch.zeros(4)), ShapeError, "b must be [3] to fit axis 1 of x [2, 3, 8, 8]; got [4]."),
    (lambda: ops.bias_act(X, torch.zeros(3, 1)), ShapeError, "got [3, 1]."),
    (lambda: ops.bias_act(X, torch.zeros(3).double()), DTypeError, "b is torch.float64 but x is torch.float32"),
    (lambda: ops.bias_act(X, torch.zeros(3), dim=4), ValueRangeError, "dim is 4; allowed: 0 to 3"),
    (lambda: ops.bias_act(X, torch.zeros(3), dim=-3), ValueRangeError, "dim is -3; allowed: 0 to 3"),
    (lambda: ops.bias_act(X, torch.zeros(3, device="meta")), ValueRangeError, "b is on meta but x is on cpu"),
    (lambda: ops.bias_act(X, act="gelu"), ValueRangeError, "act is 'gelu'; allowed: linear, relu, lrelu,"),
    (lambda: ops.bias_act(X, clamp=-1), ValueRangeError, "clamp is -1; allowed: a number >= 0, or None"),
    (lambda: ops.bias_act(X, clamp=float("nan")), ValueRangeError, "clamp is nan"),
    (lambda: ops.upfirdn2d(X[0], F4), ShapeError, "x must be [N, C, H, W]; got [3, 8, 8]. Add a batch axis: x[None]."),
    (lambda: ops.upfirdn2d(X, F4.double()), DTypeError, "f must be a float32 tensor or None; got torch.float64."),
    (lambda: ops.upfirdn2d(X, [1, 2]), DTypeError, "got list. Make it with setup_filter."),
    (lambda: ops.upfirdn2d(X, F4[None]), ShapeError, "f must be [taps] (used on both axes) or [height, width]"),
    (lambda: ops.upfirdn2d(X, F4[:0]), ShapeError, "got [0, 4]."),
    (lambda: ops.upfirdn2d(X, F4.clone().requires_grad_()), ValueRangeError, "Pass f.detach()."),
    (lambda: ops.upfirdn2d(X, F4.to("meta")), ValueRangeError, "f is on meta but x is on cpu"),
    (lambda: ops.upfirdn2d(X, F4, up=0), ValueRangeError, "up is 0; allowed: integers >= 1."),
    (lambda: ops.upfirdn2d(X, F4, down=(1, 2, 3)), ValueRangeError, "down is (1, 2, 3); allowed: an integer or (x, y)"),
    (lambda: ops.upfirdn2d(X, F4, up=1.5), ValueRangeError, "up is 1.5; allowed: an integer or (x, y)"),
    (lambda: ops.upfirdn2d(X, F4, padding=(1, 2, 3)), ValueRangeError, "padding is (1, 2, 3); allowed: an integer,"),
    (lambda: ops.upfirdn2d(X, F4, padding="1"), ValueRangeError, "padding is '1'; allowed: an integer,"),
    (lambda: ops.upfirdn2d(X, F4, padding=-3), ShapeError, "is 2 x 2 pixels, less than the filter of 4 x 4 taps"),
    (lambda: ops.filter2d(X, F4.double()), DTypeError, "filter2d: f must be a float32 tensor"),
    (lambda: ops.upsample2d(X, F4, up=0), ValueRangeError, "upsample2d: up is 0"),
    (lambda: ops.downsample2d(X, F4, down=-1), ValueRangeError, "downsample2d: down is -1"),
    (lambda: ops.setup_filter([[[1.0]]]), ShapeError, "f must be a number, [taps] or [height, width]; got [1, 1, 1]."),
    (lambda: ops.setup_filter([]), ShapeError, "got [0]."),
    (lambda: ops.setup_filter([1, -1]), ValueRangeError, "the taps sum to 0"),
    (lambda: ops.setup_filter([[1, 2]], separable=True), ValueRangeError, "separable is True but f is a matrix"),
    (lambda: ops.conv2d_resample(X, W[0]), ShapeError, "the weight must be [out_channels, in_channels / groups, kh, kw]"),
    (lambda: ops.conv2d_resample(X, W[:, :2]), ShapeError, "in 1 group(s) takes 2 channels; x has 3"),
    (lambda: ops.conv2d_resample(X, W, groups=3), ValueRangeError, "groups is 3; allowed: a divisor of the 4"),
    (lambda: ops.conv2d_resample(X, W.double()), DTypeError, "the weight is torch.float64; allowed: torch.float32 (as x)"),
    (lambda: ops.conv2d_resample(X, W.to("meta")), ValueRangeError, "weight is on meta but x is on cpu"),
    (lambda: ops.conv2d_resample(X, W, up=(2, 2)), ValueRangeError, "up is (2, 2); allowed: an integer >= 1."),
    (lambda: ops.conv2d_resample(X, W, down=0), ValueRangeError, "down is 0; allowed: an integer >= 1."),
    (lambda: ops.conv2d_resample(X, W, padding=-4), ShapeError, "is 0 x 0 pixels, too few for a kernel of 3 x 3"),
    (lambda: ops.modulated_conv2d(X, W, S[:1]), ShapeError, "styles must be [2, 3] for x [2, 3, 8, 8]; got [1, 3]."),
    (lambda: ops.modulated_conv2d(X, W, S.double()), DTypeError, "styles is torch.float64; allowed with x"),
    (lambda: ops.modulated_conv2d(X, W, S, torch.zeros(8, 8)), ShapeError, "noise must be [2, 1, 6, 6] or [6, 6] to fit"),
    (lambda: ops.modulated_conv2d(X.half(), W.double(), S), DTypeError, "torch.float16 (as x) or float32"),
    (lambda: ops.modulated_conv2d_act(X, W, S, bias=torch.zeros(3)), ShapeError, "bias must be [4]"),
    (lambda: ops.modulated_conv2d_act(X, W, S, act="x"), ValueRangeError, "modulated_conv2d_act: act is 'x'"),
    (lambda: ops.conv_epilogue(X, S.long()), DTypeError, "demod has dtype torch.int64"),
    (lambda: ops.conv_epilogue(X, bias=S), ShapeError, "bias must be [3] for x [2, 3, 8, 8]; got [2, 3]."),
    (lambda: ops.conv_epilogue(X, next_style=S[:, :2]), ShapeError, "next_style must be [2, 3]"),
    (lambda: ops.conv_epilogue(X, noise=torch.zeros(3, 1, 8, 8)), ShapeError, "noise must be [2, 1, 8, 8] or [8, 8]"),
    (lambda: ops.conv_epilogue(X, noise=torch.zeros(8, 8).double()), DTypeError, "noise is torch.float64"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "text"), REFUSALS, ids=[text[:40] for _, _, text in REFUSALS])
def test_refusal(call: Callable[[], Any], error: type[PyfaceError], text: str) -> None:
    with pytest.raises(error, match=re.escape(text)):
        call()
