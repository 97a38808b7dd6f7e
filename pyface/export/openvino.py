"""Networks as OpenVINO models: the float32 ONNX graph, read by OpenVINO and saved in its own format."""

from __future__ import annotations

import importlib
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from pyface.errors import ExportError, MissingExtraError
from pyface.export import onnx as onnx_export
from pyface.export.artefact import Artefact, seal, staged
from pyface.io.hashing import sha256_of

__all__ = ["export_openvino"]

_EXTRA = 'pip install "pyface-synth[openvino,export]"'


def export_openvino(
    network: nn.Module | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    precision: str = "fp32",
    uint8: bool = False,
    inputs: str | None = None,
    part: str = "whole",
    noise: str = "const",
    batch: int | None = None,
    weights_sha256: str | None = None,
    certify: bool = True,
    force: bool = False,
) -> Artefact:
    """Write a network as `<name>.xml` and `<name>.bin` with their JSON description, complete or not at all.

    Args:
        network, uint8, inputs, part, noise, batch, weights_sha256, certify, force: as for
            `pyface.export.onnx.export_onnx`.
        out: the file to make, or to replace; its name ends in .xml.
        precision: "fp32"; "fp16" stores weights in half the size and computes in float32; "bf16" stores
            float32, and `pyface.export.runners` lets CPUs that have bfloat16 compute convolutions in it.

    Raises:
        As `export_onnx`; ExportError for another ending of the name.
    """
    ov = _openvino()
    precision = onnx_export.floating_precision(precision)
    target = Path(out)
    if target.suffix != ".xml":
        raise ExportError(f"the name of an OpenVINO model ends in .xml; got {target.name!r}")
    with staged(target) as path:
        module, digest = onnx_export.network_and_hash(network, weights_sha256)
        form = onnx_export.form_of(module, uint8=uint8, inputs=inputs, part=part, noise=noise)
        onnx_export.check_batch(module, form, batch)
        opset = onnx_export.DEFAULT_OPSET
        graph = onnx_export.graph_of(form, opset, batch=batch)
        with tempfile.TemporaryDirectory(prefix="pyface-openvino-") as folder:
            source = Path(folder) / "network.onnx"
            onnx_export.save_graph(graph, source)
            try:
                model = ov.Core().read_model(str(source))
                ov.save_model(model, str(path), compress_to_fp16=precision == "fp16")
            except Exception as error:  # OpenVINO raises types of its own
                raise ExportError(f"OpenVINO could not convert the network: {error}") from error
            spec = onnx_export.describe(
                module, form, opset=opset, batch=batch, weights_sha256=digest, kind="openvino"
            )
            versions = {**spec.versions, "openvino": str(ov.__version__).split("-")[0]}
            spec = replace(spec, precision=precision, onnx_sha256=sha256_of(source), versions=versions)
        artefact = seal(path, spec)
        if certify:
            artefact = onnx_export.certified(artefact, module, target.name, force)
    return artefact.moved(target)


def _openvino() -> Any:
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise MissingExtraError(f"exporting to OpenVINO needs openvino ({error}): {_EXTRA}") from error
