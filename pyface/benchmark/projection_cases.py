"""One step of finding the latent of a picture, against the same step in plain torch.

The step optimises w, one for every layer, and the noise: synthesis, the perceptual distance of the network
that comes with pyface to the target, a term that keeps noise free of structure, the backward pass and Adam.
Source: Karras et al. 2020, "Analyzing and improving the image quality of StyleGAN", section 5 and appendix D.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pyface.benchmark.case import BEST_FORM, EAGER, OURS, Case, Variant, Workload
from pyface.benchmark.plain_stylegan2 import plain_twin
from pyface.benchmark.shared_stylegan2 import SharedSynthesis
from pyface.benchmark.synthesis_cases import SynthesisCounts, random_generator
from pyface.training.allocator import keep_freed_memory

__all__ = ["noise_structure", "projection_cases", "projection_workload"]

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.2}
NOISE_WEIGHT = 1e5
_SIDE, _BASE = 256, 16384
_LEARNING_RATE = 0.1
_SMALLEST = 8

Synthesis = Callable[[Tensor, dict[str, Tensor]], Tensor]


def projection_cases() -> list[Case]:
    """A step of one picture of 256 px with channel_base 16384, float32 and bfloat16."""
    return [
        Case(
            f"projection step/1x3x{_SIDE}x{_SIDE}/{dtype}", "projection", "projection step",
            f"1x3x{_SIDE}x{_SIDE}", dtype, "-", cold=False,
            build=lambda device, dtype=dtype: projection_workload(  # type: ignore[misc]
                _SIDE, dtype, device, channel_base=_BASE
            ),
            screen=f"projection step {_SIDE} px" if dtype == "bfloat16" else "",
        )
        for dtype in TOLERANCE
    ]  # fmt: skip


def noise_structure(noise: list[Tensor]) -> Tensor:
    """How much neighbouring values of noise maps go together, at every size down to 8 px.

    Source: Karras et al. 2020, appendix D, equation 2.
    """
    total = noise[0].new_zeros(())
    for each in noise:
        level = each[None, None]
        while True:
            for axis in (2, 3):
                total = total + (level * level.roll(1, axis)).mean().square()
            if level.shape[-1] <= _SMALLEST:
                break
            level = F.avg_pool2d(level, 2) * 2
    return total


def projection_workload(side: int, dtype: str, device: str, **settings: Any) -> Workload:
    """A step on one picture of `side` px; settings: of `GeneratorConfig`. Its result is the gradient of ws.

    The arithmetic counted is that of the synthesis forwards and of the gradients of its inputs; the weights
    need none. Traffic: the layers forwards, and the same again for what they kept and for the gradients.
    """
    from pyface.faces.perceptual import recognition_features

    keep_freed_memory()
    network: Any = random_generator(side, **settings).to(device)
    plain: Any = plain_twin(network).requires_grad_(False)
    kind = getattr(torch, dtype)
    best = SharedSynthesis(
        plain, up_form="transposed" if kind == torch.float32 else "phases", dtype=kind, channels_last=True
    ).to(device)
    features = recognition_features(device=device)
    start = torch.randn(1, network.num_ws, network.w_dim, generator=torch.Generator().manual_seed(1))
    target = network.synthesis(network.mapping(torch.zeros(1, network.z_dim, device=device)), "none").detach()
    with torch.no_grad():
        wanted = features.features(target)

    def step_of(synthesis: Synthesis, exact: torch.dtype = torch.float32) -> Variant:
        return _step(synthesis, plain, start.to(device, exact), features, wanted)

    def ours(ws: Tensor, noise: dict[str, Tensor]) -> Tensor:
        image: Tensor = network.synthesis(ws, "given", noise, precision=dtype)
        return image

    def eager(ws: Tensor, noise: dict[str, Tensor]) -> Tensor:
        image: Tensor = plain.synthesis(ws, "given", noise)
        return image

    def reference() -> Tensor:
        twin: Any = plain_twin(network).double().requires_grad_(False)
        with torch.enable_grad():
            variant = step_of(lambda ws, noise: twin.synthesis(ws, "given", noise), torch.float64)
            gradient = variant.run()
        if gradient is None:
            raise RuntimeError("a step gives a gradient")
        return gradient

    counts = SynthesisCounts.of(network.config)
    return Workload(
        {OURS: step_of(ours), EAGER: step_of(eager), BEST_FORM: step_of(best)},
        reference=reference,
        bytes=3 * counts.bytes(1, kind.itemsize),
        flops=2 * 2 * counts.macs,
        items=1,
        tolerance=TOLERANCE[dtype],
    )


def _step(synthesis: Synthesis, plain: Any, start: Tensor, features: Any, wanted: list[Tensor]) -> Variant:
    """The step from the same ws and noise each time; gives the gradient of ws."""
    ws = start.clone().requires_grad_(True)
    own = {
        name: plain.get_submodule(f"synthesis.{name}").noise_const.to(ws.dtype)
        for name in plain.synthesis.noise_shapes()
    }
    noise = {name: values.clone().requires_grad_(True) for name, values in own.items()}
    adam = torch.optim.Adam([ws, *noise.values()], lr=_LEARNING_RATE)

    def prepare() -> None:
        with torch.no_grad():
            ws.copy_(start)
            for name, values in noise.items():
                values.copy_(own[name])

    def run() -> Tensor:
        adam.zero_grad(set_to_none=True)
        with torch.enable_grad():
            image = synthesis(ws, noise)
            distance = features.feature_distance(features.features(image), wanted).sum()
            loss = distance + NOISE_WEIGHT * noise_structure(list(noise.values()))
            loss.backward()
        adam.step()
        if ws.grad is None:
            raise RuntimeError("the loss depends on ws")
        return ws.grad.detach()

    return Variant(run, prepare)
