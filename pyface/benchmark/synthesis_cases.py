"""The whole synthesis of StyleGAN2, from ws to the image, against the same weights in plain torch.

"torch eager" is the form that StyleGAN2's own code uses: modulated weights in grouped convolutions, float32,
NCHW (`plain_stylegan2`). Better forms share their weights and work in place, in NHWC and in the precision of
the case (`shared_stylegan2`): with the transposed convolution, which is best in float32; with four phase
convolutions, best in bfloat16; or with the filter folded into the weights. Other runtimes are given the
shared form, which exports: with the transposed convolution, except that in bfloat16 torch.compile gets the
phases, 6 to 10 % faster there. "OpenVINO, shuffled" has one convolution to four times the channels and a
shuffle: with OpenVINO 2025.4 that was up to 20 % faster than the transposed convolution, with 2026.4 no
longer. All add the network's own noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pyface.benchmark.case import (
    BEST_FORM,
    EAGER,
    OURS,
    Case,
    Formula,
    Variant,
    Workload,
    eager_form,
    inferred,
)
from pyface.benchmark.plain_stylegan2 import PlainGenerator, plain_twin
from pyface.benchmark.rivals import COMPILE, OPENVINO
from pyface.benchmark.shared_stylegan2 import SharedSynthesis
from pyface.training.allocator import keep_freed_memory

__all__ = ["SynthesisCounts", "best_forms", "random_generator", "synthesis_cases", "synthesis_workload"]

TOLERANCE = {"float32": 5e-5, "bfloat16": 0.05}
_DEMO_BATCH = 16
_SIZES = ((256, 16384, 1), (256, 16384, 8), (1024, 32768, 1))  # resolution, channel_base, batch
_REFERENCE_SIDE = 512  # above, float64 takes minutes
_SCREEN = {
    (256, 1, "bfloat16"): "synthesis 256 px",
    (256, 1, "float32"): "synthesis 256 px",
    (256, 8, "bfloat16"): "synthesis 256 px, batch 8",
    (1024, 1, "bfloat16"): "synthesis 1024 px",
}
_FORMS = {
    "float32": {BEST_FORM: "transposed", eager_form("four phases"): "phases"},
    "bfloat16": {BEST_FORM: "phases", eager_form("folded filter"): "folded"},
}


def synthesis_cases() -> list[Case]:
    """The shipped generator at 64 px, and random weights at 256 and 1024 px, in float32 and bfloat16."""
    cases = []
    for dtype in ("float32", "bfloat16"):
        size = f"{_DEMO_BATCH}x3x64x64"
        cases.append(
            Case(
                f"synthesis/{size} demo/{dtype}", "networks", "synthesis", f"{size} demo", dtype, "-",
                build=lambda device, dtype=dtype: _demo(dtype, device),  # type: ignore[misc]
                cold=False, quick=True, screen="demo generator 64 px, batch 16",
            )
        )  # fmt: skip
    for side, base, batch in _SIZES:
        for dtype in ("float32", "bfloat16"):
            size = f"{batch}x3x{side}x{side}"
            cases.append(
                Case(
                    f"synthesis/{size}/{dtype}", "networks", "synthesis", size, dtype, "-",
                    build=lambda device, side=side, base=base, batch=batch, dtype=dtype: synthesis_workload(  # type: ignore[misc]
                        random_generator(side, channel_base=base), batch, dtype, device
                    ),
                    cold=False, rounds=3 if side > _REFERENCE_SIDE else 0,
                    screen=_SCREEN.get((side, batch, dtype), ""),
                )
            )  # fmt: skip
    return cases


@dataclass(frozen=True)
class SynthesisCounts:
    """Multiply-adds of one image and the numbers that have to be read or written for it.

    convolutions: 3x3, the up-sampling ones at 9 per input pixel. heads: of the image's channels. filters: the
    low-pass of 4 x 4 taps behind every up-sampling convolution, and the image's own up-sampling at 4 per
    pixel. activations: inputs and outputs of layers, each convolution with its filter and its head being one
    layer. pixels: of the images at all sizes, in and out, always float32. weights: of convolutions and heads.
    """

    convolutions: int
    heads: int
    filters: int
    activations: int
    pixels: int
    weights: int

    @classmethod
    def of(cls, config: Any) -> SynthesisCounts:
        """Of a network of architecture "skip"."""
        colours = sum(config.spectra.values())
        convolutions = heads = filters = activations = pixels = weights = 0
        before: tuple[int, int] | None = None
        for size in config.sizes:
            area, channels = size[0] * size[1], config.channels(size)
            if before is not None:
                inputs, input_area = config.channels(before), before[0] * before[1]
                convolutions += 9 * inputs * channels * input_area
                filters += 16 * channels * area + 4 * colours * area
                activations += inputs * input_area + channels * area
                weights += 9 * inputs * channels
            convolutions += 9 * channels**2 * area
            heads += channels * colours * area
            activations += 2 * channels * area
            pixels += 2 * colours * area
            weights += channels * (9 * channels + colours)
            before = size
        return cls(convolutions, heads, filters, activations, pixels, weights)

    @property
    def macs(self) -> int:
        """All multiply-adds."""
        return self.convolutions + self.heads + self.filters

    def bytes(self, batch: int, itemsize: int) -> int:
        """Least traffic of a batch whose layers are fused and whose activations go through memory."""
        return batch * (self.activations * itemsize + self.pixels * 4) + self.weights * itemsize


def random_generator(side: int, **settings: Any) -> nn.Module:
    """A generator of random weights in which biases and noise matter; settings: of `GeneratorConfig`."""
    from pyface.models import GeneratorConfig, StyleGAN2Generator

    torch.manual_seed(0)
    network = StyleGAN2Generator(GeneratorConfig(side, **settings))
    with torch.no_grad():
        for name, parameter in network.synthesis.named_parameters():
            if name.endswith("noise_strength"):
                parameter.fill_(0.1)
            elif name.endswith("bias") and "affine" not in name:
                parameter.normal_(std=0.1)
    return network.eval().requires_grad_(False)


def _demo(dtype: str, device: str) -> Workload:
    import pyface

    network: nn.Module = pyface.load("demo-64").eval().requires_grad_(False)
    return synthesis_workload(network, _DEMO_BATCH, dtype, device)


def _ws(network: Any, batch: int) -> Tensor:
    """ws of random latents, and of conditions where the network has them."""
    numbers = torch.Generator().manual_seed(0)
    z = torch.randn(batch, network.z_dim, generator=numbers)
    c = torch.rand(batch, network.c_dim, generator=numbers) if network.c_dim else None
    with torch.no_grad():
        ws: Tensor = network.mapping(z, c).contiguous()
    return ws


def best_forms(plain: PlainGenerator, dtype: str, *, in_place: bool = True) -> dict[str, SharedSynthesis]:
    """The best plain forms in a precision by name, with the weights of `plain`."""
    kind = getattr(torch, dtype)
    return {
        name: SharedSynthesis(plain, up_form=form, dtype=kind, channels_last=True, in_place=in_place)
        for name, form in _FORMS[dtype].items()
    }


def synthesis_workload(network: Any, batch: int, dtype: str, device: str) -> Workload:
    """`batch` images of `network`, ours and plain, with its own noise.

    The result is compared with plain torch in float64; above 512 px in float32, since float64 takes minutes.
    """
    keep_freed_memory()
    ws = _ws(network, batch).to(device)
    network = network.to(device)
    plain: Any = plain_twin(network).requires_grad_(False)

    def ours() -> Tensor:
        with torch.inference_mode():
            image: Tensor = network.synthesis(ws, noise_mode="const", precision=dtype)
            return image

    def reference() -> Tensor:
        exact = torch.float32 if max(network.resolution) > _REFERENCE_SIDE else torch.float64
        twin: Any = plain_twin(network).to(exact)
        image: Tensor = twin.synthesis(ws.to(exact))
        return image

    variants = {OURS: Variant(ours), EAGER: Variant(inferred(plain.synthesis, ws))}
    for name, form in best_forms(plain, dtype).items():
        variants[name] = Variant(inferred(form.to(device), ws))
    counts = SynthesisCounts.of(network.config)
    return Workload(
        variants,
        reference=reference,
        bytes=counts.bytes(batch, getattr(torch, dtype).itemsize),
        flops=2 * counts.macs * batch,
        items=batch,
        tolerance=TOLERANCE[dtype],
        formula=_formula(plain, ws, dtype),
    )


def _formula(plain: PlainGenerator, ws: Tensor, dtype: str) -> Formula:
    def module(form: str) -> nn.Module:
        return SharedSynthesis(plain, up_form=form).to(ws.device).eval()

    if dtype != "bfloat16":
        return Formula(module("transposed"), (ws,))
    better = {COMPILE: module("phases")}
    also = {f"{OPENVINO}, shuffled": (OPENVINO, module("shuffled"))}
    return Formula(module("transposed"), (ws,), better, also)
