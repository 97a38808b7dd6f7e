"""Rendered faces. Nothing else renders them, so that there is nothing to compare with."""

from __future__ import annotations

import numpy as np
import torch

from pyface.benchmark.case import OURS, Case, Variant, Workload

__all__ = ["render_cases", "render_workload"]

_SIZES = ((8, 128), (8, 256))  # faces, side


def render_cases() -> list[Case]:
    """8 faces of 128 and of 256 px, in visible light and near infrared."""
    return [
        Case(
            f"render faces/{count}x{side}x{side}", "renderer", "VIS + NIR", f"{count}x{side}x{side}",
            "float32", "-",
            build=lambda device, count=count, side=side: render_workload(count, side, device),  # type: ignore[misc]
            cold=False, quick=side == 128, screen=f"render {side} px, 2 spectra" if side == 128 else "",
        )
        for count, side in _SIZES
    ]  # fmt: skip


def render_workload(count: int, side: int, device: str) -> Workload:
    """`count` faces of `side` px."""
    from pyface.data.procedural import face_parameters_for
    from pyface.ops.face_render import face_render

    parameters = torch.from_numpy(face_parameters_for(0, np.arange(count), 0)).to(device)

    def ours() -> None:
        face_render(parameters, side, ("vis", "nir"))

    return Workload({OURS: Variant(ours)}, items=count)
