"""Whole networks, the renderer, and the cost of a call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pyface import ops
from pyface.benchmark.case import Case, Variant, Workload

__all__ = ["network_cases"]

OURS, PLAIN = "pyface", "torch reference"
BATCH = 16
_NETWORK: dict[str, Any] = {"channel_base": 4096, "channel_max": 128}


def network_cases() -> list[Case]:
    """Synthesis at 64 px, rendered faces at 128 px, tiny calls."""
    cases = []
    for dtype in ("float32", "bfloat16"):
        size = f"{BATCH}x3x64x64"
        cases.append(
            Case(
                f"synthesis/{size}/{dtype}", "networks", "synthesis", size, dtype, "-",
                build=lambda device, dtype=dtype: _synthesis(dtype, device),  # type: ignore[misc]
                cold=False, quick=dtype == "float32",
            )
        )  # fmt: skip
    cases.append(
        Case(
            "render faces/8x128x128",
            "renderer",
            "VIS + NIR",
            "8x128x128",
            "float32",
            "-",
            _render,
            cold=False,
        )
    )
    for grad in (False, True):
        cases.append(
            Case(
                f"call/bias_act/{'grad' if grad else 'no grad'}", "calls",
                f"bias_act, {'with gradient' if grad else 'no gradient'}", "1x8x4x4", "float32", "nchw",
                build=lambda device, grad=grad: _call(grad, device),  # type: ignore[misc]
                calls=200, cold=False, quick=not grad,
            )
        )  # fmt: skip
    return cases


def _generator(dtype: str, device: str, backend: str) -> Any:
    from pyface.models import GeneratorConfig, StyleGAN2Generator
    from pyface.nn import set_backend

    bits: dict[str, Any] = {} if dtype == "float32" else {"num_16bit_res": 4, "precision_16bit": dtype}
    torch.manual_seed(0)
    network = StyleGAN2Generator(GeneratorConfig(64, z_dim=128, w_dim=128, **_NETWORK, **bits))
    network = network.to(device).eval().requires_grad_(False)
    set_backend(network, backend)
    return network


def _synthesis(dtype: str, device: str) -> Workload:
    networks = {OURS: _generator(dtype, device, "auto"), PLAIN: _generator(dtype, device, "reference")}
    ws = torch.randn(BATCH, 1, 128, generator=torch.Generator().manual_seed(0)).to(device)
    ws = ws.expand(-1, networks[OURS].num_ws, -1).contiguous()

    def run(network: Any) -> Callable[[], Tensor]:
        def synthesise() -> Tensor:
            with torch.inference_mode():
                image: Tensor = network.synthesis(ws, noise_mode="const")
                return image

        return synthesise

    def reference() -> Tensor:
        image: Tensor = _generator("float32", device, "reference").double().synthesis(ws.double(), "const")
        return image

    return Workload(
        {name: Variant(run(network)) for name, network in networks.items()},
        reference=reference,
        items=BATCH,
        tolerance=1e-4 if dtype == "float32" else 0.1,
    )


def _render(device: str) -> Workload:
    import numpy as np

    from pyface.data.procedural import face_parameters_for
    from pyface.ops.face_render import face_render

    parameters = torch.from_numpy(face_parameters_for(0, np.arange(8), 0)).to(device)
    return Workload({OURS: Variant(lambda: _first(face_render(parameters, 128, ("vis", "nir"))))}, items=8)


def _first(rendered: Any) -> None:
    del rendered


def _call(grad: bool, device: str) -> Workload:
    """The whole way of a call on 128 numbers: what is left when the arithmetic is free."""
    x = torch.randn(1, 8, 4, 4, generator=torch.Generator().manual_seed(0)).to(device).requires_grad_(grad)
    b = torch.zeros(8, device=device)

    def ours() -> Tensor:
        y = ops.bias_act(x, b, act="lrelu")
        if grad:
            torch.autograd.grad(y, x, y.detach())
        return y.detach()

    def plain() -> Tensor:
        y = F.leaky_relu(x + b.view(1, -1, 1, 1), 0.2) * 2**0.5
        if grad:
            torch.autograd.grad(y, x, y.detach())
        return y.detach()

    reference = F.leaky_relu(x.detach().double(), 0.2) * 2**0.5
    return Workload(
        {OURS: Variant(ours), "torch formula": Variant(plain)}, reference=lambda: reference, tolerance=1e-6
    )
