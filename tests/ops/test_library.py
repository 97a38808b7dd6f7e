"""The registered ops: torch.compile, torch.export, fake tensors, torch.func and torch.jit.trace."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.library import opcheck

from pyface import ops
from pyface.ops import _native

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning:torch")

FILTER = ops.setup_filter([1, 3, 3, 1])


def leaf(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    g = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=g, dtype=dtype).requires_grad_()


class Layers(nn.Module):
    """Every op once, in the shape of a small network."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(8, 8, 3, 3, generator=g))
        self.bias = nn.Parameter(torch.randn(8, generator=g))
        self.register_buffer("filter", FILTER)

    def forward(self, x: Tensor, styles: Tensor) -> Tensor:
        act: dict[str, Any] = {"bias": self.bias, "act": "lrelu", "clamp": 256}
        x = ops.modulated_conv2d_act(
            x, self.weight, styles, None, 2, 1, self.filter, flip_weight=False, **act
        )
        x = ops.conv_epilogue(x, styles, bias=self.bias, next_style=styles, act="swish")
        x = ops.conv2d_resample(x, self.weight, self.filter, down=2, padding=1)
        return ops.upsample2d(ops.bias_act(x, self.bias, act="softplus"), self.filter)


ACT = (0.2, 1.3, 0.7)


@pytest.mark.parametrize("code", [0, 2, 3, 8])
def test_opcheck_bias_act(code: int) -> None:
    b = leaf(3) if code == 8 else None
    opcheck(torch.ops.pyface.bias_act.default, (leaf(2, 3, 4, 5), leaf(3), 1, code, *ACT))
    opcheck(torch.ops.pyface.bias_act_grad.default, (leaf(2, 3, 4, 5), leaf(2, 3, 4, 5), b, 1, code, *ACT))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_opcheck_upfirdn2d(layout: torch.memory_format) -> None:
    x = leaf(2, 3, 6, 5).detach().contiguous(memory_format=layout).requires_grad_()
    opcheck(torch.ops.pyface.upfirdn2d.default, (x, FILTER, [2, 1, 1, 2], [2, 1, 0, 3], False, 1.5))
    opcheck(torch.ops.pyface.upfirdn2d.default, (x, None, [1, 1, 1, 1], [-1, 1, 0, 3], True, 1.0))


@pytest.mark.parametrize("code", [0, 2, 8])
def test_opcheck_epilogue_and_modulate(code: int) -> None:
    x, s, b, noise = leaf(2, 3, 4, 5), leaf(2, 3), leaf(3), leaf(1, 1, 4, 5)
    opcheck(torch.ops.pyface.conv_epilogue.default, (x, s, noise, b, None, code, *ACT))
    opcheck(torch.ops.pyface.conv_epilogue.default, (x, None, None, b, s, code, *ACT))
    opcheck(torch.ops.pyface.modulate.default, (x, s))


@pytest.mark.parametrize("compiler", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compile_without_graph_breaks(compiler: str) -> None:
    torch._dynamo.reset()
    net = Layers()
    compiled = torch.compile(net, fullgraph=True, backend=compiler)
    for batch in (2, 3):
        x, s = leaf(batch, 8, 6, 6), leaf(batch, 8)
        want, got = net(x, s), compiled(x, s)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-4)
        wanted = [x, s, *net.parameters()]
        expected = torch.autograd.grad(want.square().mean(), wanted)
        for a, b in zip(torch.autograd.grad(got.square().mean(), wanted), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("strict", [False, True])
def test_export_with_a_dynamic_batch(strict: bool) -> None:
    net = Layers().eval()
    n = torch.export.Dim("n", min=1, max=64)
    with torch.no_grad():
        args = (leaf(2, 8, 6, 6).detach(), leaf(2, 8).detach())
        dims = {"x": {0: n}, "styles": {0: n}}
        program = torch.export.export(net, args, dynamic_shapes=dims, strict=strict)
        called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
        for op in ("bias_act", "upfirdn2d", "modulate", "conv_epilogue"):
            assert f"pyface.{op}.default" in called
        x, s = leaf(5, 8, 6, 6).detach(), leaf(5, 8).detach()
        torch.testing.assert_close(program.module()(x, s), net(x, s), rtol=1e-5, atol=1e-5)


def test_export_of_the_reference_holds_torch_ops_only() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = ops.bias_act(x, act="lrelu", clamp=1, backend="reference")
            return ops.upsample2d(y, FILTER, backend="reference")

    with torch.no_grad():
        program = torch.export.export(Net(), (leaf(1, 3, 4, 4).detach(),))
    assert not [node for node in program.graph.nodes if "pyface" in str(node.target)]


def test_registered_ops_run_on_the_reference_where_nothing_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, s = Layers(), leaf(2, 8, 6, 6), leaf(2, 8)
    want = net(x, s)
    expected = torch.autograd.grad(want.square().mean(), [x, s])
    monkeypatch.setattr(_native, "_chosen", {("cpu", "auto"): None})
    torch._dynamo.reset()
    got = torch.compile(net, fullgraph=True, backend="aot_eager")(x, s)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-4)
    for a, b in zip(torch.autograd.grad(got.square().mean(), [x, s]), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_second_gradients_of_registered_ops() -> None:
    x, s, b = (leaf(*shape, dtype=torch.float64) for shape in ((1, 2, 3, 3), (1, 2), (2,)))
    for code in (2, 3, 8):

        def run(x: Tensor, s: Tensor, b: Tensor, code: int = code) -> Tensor:
            y: Tensor = torch.ops.pyface.conv_epilogue.default(x, s, None, b, None, code, 0.2, 1.5, -1.0)
            return y

        assert torch.autograd.gradcheck(run, (x, s, b))
        assert torch.autograd.gradgradcheck(run, (x, s, b))


def test_fake_and_meta_tensors() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        x = torch.empty(2, 3, 8, 8)
        assert ops.upsample2d(x, torch.empty(4, 4)).shape == (2, 3, 16, 16)
    meta = ops.bias_act(torch.empty(2, 3, device="meta"), act="relu")
    assert meta.is_meta
    assert meta.shape == (2, 3)


def test_torch_func_and_jit_trace_see_through_the_reference() -> None:
    x = leaf(4, 3, 5, 5).detach()
    each = torch.vmap(lambda v: ops.bias_act(v[None], act="lrelu")[0])(x)
    torch.testing.assert_close(each, ops.bias_act(x, act="lrelu"))
    slope = torch.func.grad(lambda v: ops.bias_act(v, act="tanh").sum())(x)
    torch.testing.assert_close(slope, 1 - torch.tanh(x) ** 2)
    traced = torch.jit.trace(lambda v: ops.upsample2d(v, FILTER), (x,))
    torch.testing.assert_close(traced(x * 2), ops.upsample2d(x * 2, FILTER))
