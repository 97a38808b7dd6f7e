"""Networks as ONNX files: plain operators, weights folded, any batch, certified against float32 torch."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import pyface
from pyface.errors import ExportError, MissingExtraError, PyfaceError, ValueRangeError
from pyface.export.artefact import Artefact, attach_parity, seal, sha256_of_network, staged
from pyface.export.generator_form import GeneratorForm
from pyface.export.network_form import NetworkForm
from pyface.export.spec import BATCH, EngineSpec, precision_name
from pyface.export.translations import BASE_OPSET, Translations
from pyface.io.hashing import sha256_of
from pyface.models import StyleGAN2Generator, find_checkpoint, load

__all__ = [
    "DEFAULT_OPSET",
    "Form",
    "certified",
    "check_batch",
    "checked_opset",
    "describe",
    "export_onnx",
    "floating_precision",
    "form_of",
    "graph_of",
    "highest_opset",
    "network_and_hash",
    "package",
    "save_graph",
]

DEFAULT_OPSET = 20
_LEAST_OPSET = {"fp32": BASE_OPSET, "fp16": BASE_OPSET, "bf16": 22}
_WHY = {
    "fp32": "torch translates to operators of that opset",
    "fp16": "torch translates to operators of that opset",
    "bf16": "convolutions take bfloat16 from that opset on",
}
_EXTRA = 'pip install "pyface-synth[export]"'
_INLINE_LIMIT = 2**31 - 2**26  # a file of protocol buffers ends at 2 GiB; the graph needs some of it
_LAST = 2**63 - 1  # the end of a slice that goes on to the end
_EXAMPLE_ROWS = 3  # of the batch that is traced, where any is allowed: not 1, which would be taken for fixed

Form = GeneratorForm | NetworkForm


def export_onnx(
    network: nn.Module | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    precision: str = "fp32",
    opset: int | None = None,
    uint8: bool = False,
    inputs: str | None = None,
    part: str = "whole",
    noise: str = "const",
    batch: int | None = None,
    functions: bool = False,
    up_form: str | None = None,
    external_data: bool | None = None,
    weights_sha256: str | None = None,
    certify: bool = True,
    force: bool = False,
) -> Artefact:
    """Write a network as an ONNX file with its JSON description, complete or not at all.

    Args:
        network: any network of `pyface.models`, or a checkpoint's path or name as `pyface.load` takes it.
        out: the file to make, or to replace; its folder exists.
        precision: "fp32", "fp16" or "bf16" inside; inputs and outputs are float32 in any.
        opset: of the file; 20, or 22 for bf16, when None. See `highest_opset`.
        uint8, inputs, part, noise, up_form: of a generator, as for `GeneratorForm`.
        batch: a fixed number of rows; None for any.
        functions: keep pyface's ops as functions of the domain "pyface", see `Translations`.
        external_data: weights in a file of their own, `<name>.data`; None does so above 2 GB.
        weights_sha256: of the checkpoint that `network` came from; computed when None.
        certify: run the file and compare it with the network, see `pyface.export.parity.certify`.
        force: write the file although it fails; the certificate says that it did.

    Raises:
        ExportError: options that do not go together, a network that cannot be translated, or a file that is
            not equal enough to the network (nothing is written then).
        ValueRangeError: an unknown precision or word, or a batch below 1.
        MissingExtraError: onnx, onnxscript or the runtime that certifies is not installed.
        DataError: `out` cannot be written.

    >>> export_onnx("demo", "demo.onnx", precision="fp16", uint8=True).spec.opset  # doctest: +SKIP
    20
    """
    package("onnx"), package("onnxscript")
    precision = floating_precision(precision)
    opset = checked_opset(precision, opset)
    with staged(out) as path:
        module, digest = network_and_hash(network, weights_sha256)
        form = form_of(
            module, precision=precision, uint8=uint8, inputs=inputs, part=part, noise=noise, up_form=up_form
        )
        check_batch(module, form, batch)
        model = graph_of(form, opset, batch=batch, functions=functions)
        save_graph(model, path, external_data)
        spec = describe(module, form, opset=opset, batch=batch, weights_sha256=digest)
        artefact = seal(path, replace(spec, functions=functions))
        if certify:
            artefact = certified(artefact, module, Path(out).name, force)
    return artefact.moved(out)


def network_and_hash(
    network: nn.Module | str | os.PathLike[str], weights_sha256: str | None = None
) -> tuple[Any, str]:
    """The network itself, in evaluation mode where it is read from a file, and the SHA-256 of its weights."""
    if isinstance(network, nn.Module):
        return network, weights_sha256 or sha256_of_network(network)
    module = load(network)
    return module, weights_sha256 or sha256_of(find_checkpoint(network))


def form_of(
    network: nn.Module,
    *,
    precision: str = "fp32",
    uint8: bool = False,
    inputs: str | None = None,
    part: str = "whole",
    noise: str = "const",
    up_form: str | None = None,
) -> Form:
    """The network in the form in which it is exported. Arguments as for `export_onnx`.

    Raises:
        ExportError: an option that only generators have, or a network without a form.
    """
    if isinstance(network, StyleGAN2Generator):
        return GeneratorForm(
            network,
            part=part,
            inputs=inputs,
            precision=precision,
            up_form=up_form,
            noise=noise,
            uint8=uint8,
        )
    given = {
        f"part {part!r}": part != "whole",
        f"inputs {inputs!r}": inputs is not None,
        "uint8": uint8,
        f"noise {noise!r}": noise == "input",
        f"up_form {up_form!r}": up_form is not None,
    }
    if refused := [name for name, is_given in given.items() if is_given]:
        kind = getattr(network, "kind", type(network).__name__)
        raise ExportError(f"a {kind} has no {', '.join(refused)}; these belong to generators. Leave them out")
    return NetworkForm(network, precision=precision)


def check_batch(network: nn.Module, form: Form, batch: int | None) -> None:
    """Raise ValueRangeError or ShapeError for a fixed number of rows that the network does not take."""
    if batch is None:
        return
    if batch < 1:
        raise ValueRangeError(f"batch must be at least 1, or None for any; got {batch}")
    if isinstance(form, NetworkForm):
        form.expected(network, *_example(form, batch))


def checked_opset(precision: str, opset: int | None) -> int:
    """The opset to write. Raises ExportError where it does not fit the precision or the exporter."""
    least, most = _LEAST_OPSET[precision], highest_opset()
    if opset is None:
        return max(DEFAULT_OPSET, least)
    if opset < least:
        raise ExportError(
            f"opset {opset} is too low for {precision}: it must be {least} to {most}, since {_WHY[precision]}"
        )
    if opset > most:
        raise ExportError(
            f"opset {opset} is too high: the installed onnx {_version('onnx')} and onnxscript "
            f"{_version('onnxscript')} write opsets up to {most}; most runtimes read {DEFAULT_OPSET}"
        )
    return opset


def highest_opset() -> int:
    """The newest opset that the installed packages write."""
    onnx = package("onnx")
    package("onnxscript")
    converter: Any = None
    with contextlib.suppress(ImportError):
        converter = importlib.import_module("onnxscript.version_converter._version_converter")
    return min(onnx.defs.onnx_opset_version(), getattr(converter, "SUPPORTED_MAX_ONNX_OPSET", 23))


def graph_of(form: Form, opset: int, *, batch: int | None = None, functions: bool = False) -> Any:
    """The `onnx_ir.Model` of a form, with constants folded.

    Raises:
        ExportError: torch or onnx cannot translate it.
    """
    example = tuple(_example(form, batch or _EXAMPLE_ROWS))
    translations = Translations(functions)
    try:
        with _quiet(), torch.no_grad(), translations.registered():
            program = torch.export.export(
                form, example, dynamic_shapes=None if batch else _free_batch(form), strict=False
            )
            written = torch.onnx.export(
                program,
                (),
                dynamo=True,
                opset_version=opset,
                optimize=False,
                verbose=False,
                input_names=[tensor.name for tensor in form.inputs],
                output_names=[tensor.name for tensor in form.outputs],
                custom_translation_table=translations.table,
            )
            if written is None:
                raise ExportError("torch.onnx gave no model")
            model = _folded(written.model)
            translations.add_functions(model, opset)
    except PyfaceError:
        raise
    except Exception as error:  # torch, onnx and onnxscript raise types of their own
        raise ExportError(f"the network could not be translated to ONNX: {_first_line(error)}") from error
    _tidy(model, form, opset, batch)
    return model


def describe(
    network: Any, form: Form, *, opset: int, batch: int | None, weights_sha256: str, kind: str = "onnx"
) -> EngineSpec:
    """What an artefact of this form is."""
    pictures = next((tensor.shape for tensor in form.inputs if len(tensor.shape) == 4), (0, 0, 0, 0))
    return EngineSpec(
        kind,
        network.architecture,
        form.part,
        form.precision,
        opset,
        form.up_form,
        form.inputs,
        form.outputs,
        noise_mode=form.noise_mode,
        uint8=form.uint8,
        batch=batch,
        z_dim=getattr(network, "z_dim", 0),
        c_dim=getattr(network, "c_dim", 0),
        w_dim=getattr(network, "w_dim", 0),
        num_ws=getattr(network, "num_ws", 0),
        resolution=tuple(getattr(network, "resolution", pictures[2:])),
        spectra=dict(getattr(network, "spectra", {})),
        weights_sha256=weights_sha256,
        versions={
            "pyface": pyface.__version__,
            "torch": torch.__version__,
            **{name: _version(name) for name in ("onnx", "onnxscript")},
        },
    )


def certified(artefact: Artefact, network: nn.Module, name: str, force: bool) -> Artefact:
    """The artefact with its certificate. Raises ExportError where it failed and `force` is off."""
    from pyface.export import parity

    certificate = parity.certify(artefact, network, artefact.spec)
    if not (certificate.passed or force):
        why = next(iter(certificate.failures()), "no runtime has run it")
        raise ExportError(
            f"{name} was not written: it differs too much from the network ({why}). "
            "Use a higher precision, or write it all the same with force (--force)"
        )
    return attach_parity(artefact, certificate.to_dict())


def floating_precision(precision: str) -> str:
    """The short name of a precision that a network itself computes in. Raises ExportError for int8, fp8."""
    name = precision_name(precision)
    if name not in _LEAST_OPSET:
        raise ExportError(
            f"{name} needs ranges that are measured on generated pictures: `pyface export tensorrt "
            f"--precision {name}` does that and writes the ONNX graph too; in Python "
            f"pyface.export.quantize.quantize_onnx. Here precision is {', '.join(_LEAST_OPSET)}"
        )
    return name


def package(name: str) -> Any:
    """A module of the extra `export`. Raises MissingExtraError."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(f"exporting to ONNX needs {name} ({error}): {_EXTRA}") from error


def _version(name: str) -> str:
    return str(getattr(package(name), "__version__", "unknown"))


def _example(form: Form, rows: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    for spec in form.inputs:
        yield torch.rand(spec.concrete(rows), generator=generator)


def _free_batch(form: Form) -> Any:
    """The dynamic_shapes of `torch.export` for `forward(*tensors)`."""
    batch = torch.export.Dim(BATCH, min=1)
    axes = [
        {axis: batch for axis, size in enumerate(spec.shape) if size == BATCH} or None for spec in form.inputs
    ]
    return (tuple(axes),)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Converters write what they skip to the log and to warnings; inside, they do not."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _folded(model: Any) -> Any:
    """The model with everything computed that depends on weights alone.

    onnxscript's `optimize` does more, and too much: its rules take `x + 1e-8` for x + 0 and leave it out,
    and with it what keeps normalisations finite.
    """
    optimizer = importlib.import_module("onnxscript.optimizer")
    size = max((value.const_value.size for value in model.graph.initializers.values()), default=1)
    for _ in range(2):  # what was folded first may let shapes be known
        optimizer.fold_constants(model, input_size_limit=size, output_size_limit=size)
        _bypass_idle_slices(model)
        optimizer.remove_unused_nodes(model)
    with contextlib.suppress(ImportError, AttributeError):  # for readability alone
        passes = importlib.import_module("onnx_ir.passes.common")
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        passes.DeduplicateInitializersPass()(model)
        passes.CommonSubexpressionEliminationPass()(model)
    return model


def _bypass_idle_slices(model: Any) -> None:
    """Let readers of slices that take everything, as x[:, None] makes one, read what these read."""
    convenience = importlib.import_module("onnxscript").ir.convenience
    for node in model.graph:
        if node.op_type != "Slice" or node.outputs[0].is_graph_output():
            continue
        starts, ends, *rest = (None if v is None else v.const_value for v in node.inputs[1:])
        steps = rest[1] if len(rest) > 1 else 1
        if starts is None or ends is None or steps is None:
            continue
        bounds = (np.asarray(starts), np.asarray(ends), np.asarray(steps))
        if (bounds[0] == 0).all() and (bounds[1] == _LAST).all() and (bounds[2] == 1).all():
            convenience.replace_all_uses_with(node.outputs[0], node.inputs[0])


def _tidy(model: Any, form: Form, opset: int, batch: int | None) -> None:
    """Name axes, and leave out what tells of the machine: stack traces and names of files."""
    found = model.graph.opset_imports.get("")
    if found != opset:
        raise ExportError(
            f"the graph could not be converted to opset {opset}: it stays at {found}. Leave opset out, or "
            f"use {DEFAULT_OPSET}"
        )
    ir = importlib.import_module("onnxscript").ir
    model.producer_name, model.producer_version = "pyface", pyface.__version__
    model.doc_string, model.graph.name = None, "pyface"
    model.metadata_props.clear()
    for node in model.graph:
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
            if not value.is_graph_output():
                value.shape = None
    for values, specs in ((model.graph.inputs, form.inputs), (model.graph.outputs, form.outputs)):
        for value, spec in zip(values, specs, strict=True):
            value.metadata_props.clear()
            value.shape = ir.Shape(spec.concrete(batch) if batch else spec.shape)


def save_graph(model: Any, path: Path, external_data: bool | None = None) -> None:
    """Write an `onnx_ir.Model`; weights lie beside it in `<name>.data` above 2 GB, or where asked."""
    ir = importlib.import_module("onnxscript").ir
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    apart = size > _INLINE_LIMIT if external_data is None else external_data
    if not apart and size > _INLINE_LIMIT:
        raise ExportError(
            f"the weights are {size / 2**30:.1f} GiB and one ONNX file holds 2; leave external_data out, so "
            "that they get a file of their own"
        )
    ir.save(model, path, external_data=f"{path.name}.data" if apart else None)


def _first_line(error: BaseException) -> str:
    causes: Sequence[BaseException] = (error.__cause__ or error,)
    lines = [line.strip() for cause in causes for line in str(cause).splitlines() if line.strip()]
    return f"{type(causes[0]).__name__}: {lines[0] if lines else ''}"
