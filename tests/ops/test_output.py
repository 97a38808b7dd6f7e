"""`out`: the result in memory that the caller brings, on every back-end, and everything that is refused."""

# ruff: noqa: E501 (one refusal a line)

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pyface import ops
from pyface.errors import DTypeError, PyfaceError, ShapeError, ValueRangeError

FILTER = ops.setup_filter([1, 3, 3, 1])
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
LAYOUTS = [torch.contiguous_format, torch.channels_last]
SIZES = [(2, 3, 5, 7), (1, 33, 4, 4), (1, 1, 1, 1), (2, 16, 9, 13), (0, 3, 5, 7), (1, 2, 63, 65)]


def draw(place: Any, size: tuple[int, ...], dtype: torch.dtype, layout: Any, seed: int = 0) -> Tensor:
    x = torch.randn(size, generator=torch.Generator().manual_seed(seed)).to(place.device, dtype)
    return x.contiguous(memory_format=layout)


def calls(place: Any, x: Tensor) -> dict[str, Callable[..., Tensor]]:
    """The three ops on `x` with everything else drawn; each takes x and out."""
    g = torch.Generator().manual_seed(1)
    n, c, h, w = x.shape
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    demod, noise, style, b = (
        torch.randn(s, generator=g).to(place.device, wide) for s in ((n, c), (n, 1, h, w), (n, c), (c,))
    )
    on = {"backend": place.backend}
    narrow, f = b.to(x.dtype), FILTER.to(place.device)
    return {
        "bias_act": lambda x, out: ops.bias_act(x, narrow, act="lrelu", clamp=1.0, out=out, **on),
        "swish": lambda x, out: ops.bias_act(x, act="swish", out=out, **on),
        "epilogue": lambda x, out: ops.conv_epilogue(
            x, demod, noise, b, style, act="lrelu", clamp=1.0, out=out, **on
        ),
        "mirrored": lambda x, out: ops.conv_epilogue(x, demod, act="relu", gain=-1.0, out=out, **on),
        "up": lambda x, out: ops.upfirdn2d(x, f, up=2, padding=(2, 1, 2, 1), gain=4, out=out, **on),
        "blur": lambda x, out: ops.upfirdn2d(x, f, padding=(2, 1, 2, 1), out=out, **on),
    }


@pytest.mark.parametrize("layout", LAYOUTS, ids=["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda t: str(t).removeprefix("torch."))
def test_the_result_is_that_of_a_fresh_call(dtype: torch.dtype, layout: Any, place: Any) -> None:
    for size in SIZES:
        x = draw(place, size, dtype, layout)
        before = x.clone()
        for name, call in calls(place, x).items():
            want = call(x, None)
            assert torch.equal(x, before), name
            out = torch.full_like(want, 7.0)
            assert call(x, out) is out
            assert torch.equal(out, want), (name, size)
            assert torch.equal(x, before), name
            if name not in ("up", "blur"):
                y = x.clone()
                assert call(y, y) is y
                assert torch.equal(y, want), (name, size)


def test_out_of_an_input_with_gaps_is_contiguous(place: Any) -> None:
    x = draw(place, (2, 3, 5, 14), torch.float32, torch.contiguous_format)[..., ::2]
    for call in calls(place, x).values():
        want = call(x, None)
        assert torch.equal(call(x, torch.empty_like(want)), want)
    with pytest.raises(ValueRangeError, match="allowed for this x: memory without gaps in contiguous_format"):
        ops.bias_act(x, out=x, backend=place.backend)


def test_autograd_hears_of_the_change(place: Any) -> None:
    x = draw(place, (2, 3, 4, 5), torch.float32, torch.contiguous_format)
    p = torch.ones_like(x).requires_grad_()
    y = (p * x).sum()
    with torch.no_grad():
        ops.bias_act(x, act="relu", out=x, backend=place.backend)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()
    with torch.inference_mode():
        z = x + 1
        assert ops.bias_act(z, act="relu", out=z, backend=place.backend) is z


def test_without_gradient_leaves_are_taken(place: Any) -> None:
    x = draw(place, (2, 3, 4, 5), torch.float32, torch.contiguous_format).requires_grad_()
    with torch.no_grad():
        want = ops.bias_act(x, act="relu", backend=place.backend)
        assert torch.equal(ops.bias_act(x, act="relu", out=torch.empty_like(x), backend=place.backend), want)
    with pytest.raises(ValueRangeError, match=re.escape("Call under torch.no_grad(), or leave out away")):
        ops.bias_act(x, act="relu", out=torch.empty(2, 3, 4, 5, device=x.device), backend=place.backend)


X = torch.zeros(2, 3, 8, 8)
LEAF = torch.zeros(2, 3, 8, 8, requires_grad=True)
LAST = torch.zeros(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
ROOM = torch.zeros(1 + X.numel())
S = torch.zeros(2, 3)

REFUSALS: list[tuple[Callable[[], Any], type[PyfaceError], str]] = [
    (lambda: ops.bias_act(X, out=[0.0]), DTypeError, "bias_act: out must be a torch.Tensor or None; got list."),
    (lambda: ops.bias_act(X, out=X[:1]), ShapeError, "out must be [2, 3, 8, 8], as the result is; got [1, 3, 8, 8]."),
    (lambda: ops.bias_act(X, out=X.double()), DTypeError, "out is torch.float64 but x is torch.float32"),
    (lambda: ops.bias_act(X, out=X.to("meta")), ValueRangeError, "out is on meta but x is on cpu"),
    (lambda: ops.bias_act(X, out=LAST), ValueRangeError, "allowed for this x: memory without gaps in contiguous_format"),
    (lambda: ops.bias_act(LAST, out=X), ValueRangeError, "allowed for this x: memory without gaps in channels_last"),
    (lambda: ops.bias_act(X, out=torch.zeros(1, 3, 8, 8).expand(2, -1, -1, -1)), ValueRangeError, "out has strides"),
    (lambda: ops.bias_act(X, out=LEAF), ValueRangeError, "out was given where a gradient is wanted"),
    (lambda: ops.bias_act(LEAF, out=X), ValueRangeError, "out was given where a gradient is wanted"),
    (lambda: ops.bias_act(X, LEAF[0, :, 0, 0], out=X), ValueRangeError, "out was given where a gradient is wanted"),
    (lambda: ops.bias_act(ROOM[1:].view_as(X), out=ROOM[:-1].view_as(X)), ValueRangeError, "allowed: x itself or memory of"),
    (lambda: ops.bias_act(X, X[0, 0, 0, :3], out=X), ValueRangeError, "out shares memory with an input"),
    (lambda: ops.conv_epilogue(X, out=X[:, :2]), ShapeError, "conv_epilogue: out must be [2, 3, 8, 8]"),
    (lambda: ops.conv_epilogue(X, noise=X[:1, :1], out=X), ValueRangeError, "conv_epilogue: out shares memory with an input"),
    (lambda: ops.conv_epilogue(X, S.clone().requires_grad_(), out=X), ValueRangeError, "where a gradient is wanted"),
    (lambda: ops.upfirdn2d(X, None, up=2, out=X), ShapeError, "upfirdn2d: out must be [2, 3, 16, 16], as the result"),
    (lambda: ops.upfirdn2d(X, None, out=X), ValueRangeError, "shares memory with an input; allowed: memory of its own"),
    (lambda: ops.upfirdn2d(LEAF, None, out=X), ValueRangeError, "out was given where a gradient is wanted"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "text"), REFUSALS, ids=[str(i) for i in range(len(REFUSALS))])
def test_refusal(call: Callable[[], Any], error: type[PyfaceError], text: str) -> None:
    with pytest.raises(error, match=re.escape(text)):
        call()


TRACED = "out was given under torch.compile, torch.export, torch.jit.trace, torch.func or a dispatch mode"


class Writing(torch.nn.Module):
    """One op that writes into `out`."""

    def __init__(self, backend: str = "auto") -> None:
        super().__init__()
        self.backend = backend

    def forward(self, x: Tensor, out: Tensor) -> Tensor:
        return ops.bias_act(x, act="relu", out=out, backend=self.backend)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning:torch")
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_tracing_is_refused(backend: str) -> None:
    x, out = torch.randn(2, 3, 4, 4), torch.empty(2, 3, 4, 4)
    net = Writing(backend)
    torch._dynamo.reset()
    with pytest.raises(Exception, match=TRACED):
        torch.compile(net, fullgraph=True, backend="eager")(x, out)
    for strict in (True, False):
        with pytest.raises(Exception, match=TRACED):
            torch.export.export(net, (x, out), strict=strict)
    with pytest.raises(ValueRangeError, match=TRACED):
        torch.jit.trace(net, (x, out))
    with pytest.raises(ValueRangeError, match=TRACED):
        torch.vmap(net)(x, out)
