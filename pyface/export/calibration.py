"""A generator as a quantised ONNX graph, with ranges from pictures that it generates itself."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy.typing as npt
from torch import nn

from pyface.errors import ExportError, ValueRangeError
from pyface.export.artefact import Artefact, seal, staged
from pyface.export.onnx import certified, export_onnx, network_and_hash
from pyface.export.quantize import QUANTIZED_OPSET, quantize_onnx
from pyface.export.spec import EngineSpec
from pyface.export.truth import GeneratorTruth
from pyface.models import StyleGAN2Generator

__all__ = ["FIRST_SEED", "calibration_feeds", "export_quantized"]

FIRST_SEED = 1_000_000  # of latents for ranges, apart from those of certificates
_PSIS = (1.0, 0.7)  # by turns
_PIXELS_AT_ONCE = 8 * 256 * 256


def calibration_feeds(
    network: StyleGAN2Generator, spec: EngineSpec, count: int
) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """What `count` pictures take as inputs, in batches: latents of seeds of their own, conditions, psi.

    Half of the batches are drawn with psi 1 and half with 0.7.

    Args:
        network: on the CPU, in evaluation mode.
        spec: whose inputs they are, with a free batch.
        count: of pictures.
    """
    height, width = network.resolution
    truth, step = GeneratorTruth(network, spec), max(1, min(8, _PIXELS_AT_ONCE // (height * width)))
    for number, start in enumerate(range(0, count, step)):
        seeds = range(FIRST_SEED + start, FIRST_SEED + min(start + step, count))
        yield truth.inputs(seeds, truth.psi(_PSIS[number % len(_PSIS)]))


def export_quantized(
    network: nn.Module | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    precision: str = "int8",
    base: str = "fp16",
    uint8: bool = False,
    inputs: str | None = None,
    part: str = "whole",
    noise: str = "const",
    calibration: int = 64,
    method: str = "error",
    weights_sha256: str | None = None,
    certify: bool = True,
    force: bool = False,
) -> Artefact:
    """Write a generator as an ONNX file whose 3x3 convolutions are quantised, with its description.

    Args:
        network: a StyleGAN2Generator, or its checkpoint's path or name.
        out: the file to make, or to replace; its folder exists.
        precision: "int8" or "fp8".
        base: "fp16" or "fp32", what everything else computes in.
        uint8, inputs, part, noise, weights_sha256, certify, force: as for `export_onnx`.
        calibration: pictures that set the ranges.
        method: how, see `quantize_onnx`.

    Raises:
        ExportError: no generator, nothing to quantise, or not equal enough to the network.
        ValueRangeError: an unknown word, or fewer than 1 picture.
        MissingExtraError: onnx, onnxscript or onnxruntime is missing.
    """
    if calibration < 1:
        raise ValueRangeError(f"calibration must be 1 picture or more; got {calibration}")
    if base not in ("fp16", "fp32"):
        raise ValueRangeError(f"base must be fp16 or fp32; got {base!r}")
    module, digest = network_and_hash(network, weights_sha256)
    if not isinstance(module, StyleGAN2Generator) or part == "mapping":
        what = "the mapping alone" if part == "mapping" else f"a {type(module).__name__}"
        raise ExportError(
            f"{precision} is for generators, whose pictures set the ranges; got {what}. Use fp16 or bf16"
        )
    own = copy.deepcopy(module).cpu().float().eval().requires_grad_(False)
    with staged(out) as path, tempfile.TemporaryDirectory(prefix="pyface-graph-") as folder:
        graph = export_onnx(
            own, Path(folder) / "graph.onnx", precision=base, opset=QUANTIZED_OPSET, uint8=uint8,
            inputs=inputs, part=part, noise=noise, weights_sha256=digest, certify=False,
        )  # fmt: skip
        feeds = calibration_feeds(own, graph.spec, calibration)
        done = quantize_onnx(graph.path, path, precision, feeds, method=method)
        spec = replace(graph.spec, precision=precision, calibration_sha256=done.sha256)
        artefact = seal(path, spec)
        if certify:
            artefact = certified(artefact, own, Path(out).name, force)
    return artefact.moved(out)
