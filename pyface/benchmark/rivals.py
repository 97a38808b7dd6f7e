"""The same work in other runtimes: torch.compile, OpenVINO and ONNX Runtime, made from the plain formula.

Each is set up as its own documentation says for lowest latency, with the threads that torch is set to:
weights are constants, the model is converted and compiled once, inputs are read where they lie and every call
writes into fresh memory. torch.compile and OpenVINO compute in the precision of the case (OpenVINO by its
precision hint; both read and write bfloat16 where the formula's tensors are), ONNX Runtime in float32, the
only one its CPU kernels are complete in. What a runtime cannot do is left out with the reason.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import logging
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyface.benchmark.case import Formula, Variant
from pyface.benchmark.document import reason_of
from pyface.errors import BackendError

__all__ = ["COMPILE", "ONNX_RUNTIME", "OPENVINO", "RIVALS", "build_rivals", "export_onnx", "forget_rivals"]

COMPILE, OPENVINO, ONNX_RUNTIME = "torch.compile", "OpenVINO", "ONNX Runtime"
_EXTRA = 'pip install "pyface-synth[bench]"'

Build = Callable[[Formula, str], Callable[[], Tensor]]


def build_rivals(
    formula: Formula, dtype: str = "float32", device: str = "cpu", names: Collection[str] | None = None
) -> tuple[dict[str, Variant], dict[str, str]]:
    """(variants by name, reasons by name of the runtimes that cannot do it here).

    Each variant has run once when this returns. dtype: the precision of the case, "float32" or "bfloat16".
    names: of the runtimes that are wanted; all when None.
    """
    built: dict[str, Variant] = {}
    reasons: dict[str, str] = {}
    wanted = [(name, name, formula.better.get(name, formula.module)) for name in RIVALS]
    wanted += [(label, name, module) for label, (name, module) in formula.also.items()]
    for label, name, module in wanted:
        if names is not None and name not in names:
            continue
        try:
            if torch.device(device).type != "cpu" and name != COMPILE:
                raise BackendError("measured on the CPU only")
            if dtype not in ("float32", "bfloat16"):
                raise BackendError(f"measured in float32 and bfloat16 only; this case is {dtype}")
            with _quiet(), torch.no_grad():
                run = RIVALS[name](replace(formula, module=module), dtype)
                run()
        except Exception as error:  # converters raise types of their own, and any of them is a reason
            reasons[label] = reason_of(error)
        else:
            built[label] = Variant(run)
    return built, reasons


def forget_rivals() -> None:
    """Drop what torch.compile keeps of the models it has compiled."""
    if "torch._dynamo" in sys.modules:  # nothing was compiled before it is imported
        torch.compiler.reset()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Converters write progress and warnings to the screen; inside, they do not."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _package(name: str) -> Any:
    """The module `name`. Raises ImportError with the extra that brings it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"{name} cannot be imported ({error}): {_EXTRA}") from error


class _InPrecision(nn.Module):
    """A module that computes in `dtype` whatever arrives, and gives the type of its first input."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).to(dtype).eval().requires_grad_(False)
        self.dtype = dtype

    def forward(self, *inputs: Tensor) -> Tensor:
        """The module's result."""
        cast = [x.to(self.dtype) if x.is_floating_point() else x for x in inputs]
        result: Tensor = self.module(*cast)
        return result.to(inputs[0].dtype) if inputs[0].is_floating_point() else result


def _compiled(formula: Formula, dtype: str) -> Callable[[], Tensor]:
    """By inductor, with frozen weights, so that they are packed for the convolutions once."""
    if formula.inputs[0].device.type == "cpu":
        _require_compiler()
    module = _InPrecision(formula.module, getattr(torch, dtype))
    module(*formula.inputs)
    options: dict[str, Any] = {"freezing": True, "compile_threads": 1}
    forward = torch.compile(module, fullgraph=True, dynamic=False, options=options)

    def run() -> Tensor:
        with torch.no_grad():
            result: Tensor = forward(*formula.inputs)
            return result

    return run


def _require_compiler() -> None:
    names = [os.environ.get("CXX", ""), "g++", "clang++"]
    if not any(name and shutil.which(name) for name in names):
        raise BackendError(
            "no C++ compiler was found (g++, clang++ or $CXX); torch.compile needs one on a CPU"
        )


def _openvino(formula: Formula, dtype: str) -> Callable[[], Tensor]:
    """On the CPU plugin, one request, latency hint, bfloat16 where the case is."""
    inputs = _plain_inputs(formula)
    with _unreported():
        ov = _package("openvino")
        model = ov.convert_model(_float32(formula.module), example_input=tuple(x.float() for x in inputs))
    model.reshape({port: list(x.shape) for port, x in zip(model.inputs, inputs, strict=True)})
    halves = formula.inputs[0].dtype == torch.bfloat16
    if halves:
        model = _in_bfloat16(ov, model, inputs)
    compiled = ov.Core().compile_model(
        model,
        "CPU",
        {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if dtype == "bfloat16" else "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "ENABLE_CPU_PINNING": False,
        },
    )
    request = compiled.create_infer_request()
    for index, x in enumerate(inputs):
        request.set_input_tensor(index, _shared(ov, x))
    shape = tuple(compiled.output(0).shape)
    given = torch.bfloat16 if halves else torch.float32

    def run(_read: Sequence[Tensor] = inputs) -> Tensor:  # the runtime reads their memory by address
        result = torch.empty(shape, dtype=given)
        request.set_output_tensor(0, _shared(ov, result))
        request.infer()
        return result

    return run


@contextlib.contextmanager
def _unreported() -> Iterator[None]:
    """OpenVINO's converter tells its maker of each use over the network, except under CI=true."""
    before = os.environ.get("CI")
    os.environ["CI"] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ["CI"]
        else:
            os.environ["CI"] = before


def _shared(ov: Any, x: Tensor) -> Any:
    """An OpenVINO tensor over the memory of `x`."""
    if x.dtype == torch.bfloat16:
        return ov.Tensor(x.view(torch.int16).numpy(), list(x.shape), ov.Type.bf16)
    return ov.Tensor(x.numpy(), shared_memory=True)


def _in_bfloat16(ov: Any, model: Any, inputs: Sequence[Tensor]) -> Any:
    """The model with bfloat16 at its door wherever the inputs are."""
    steps = importlib.import_module("openvino.preprocess").PrePostProcessor(model)
    for index, x in enumerate(inputs):
        if x.dtype == torch.bfloat16:
            steps.input(index).tensor().set_element_type(ov.Type.bf16)
    steps.output(0).tensor().set_element_type(ov.Type.bf16)
    return steps.build()


def _plain_inputs(formula: Formula) -> list[Tensor]:
    """The inputs in row-major memory, as other runtimes take it."""
    return [x.detach().contiguous() for x in formula.inputs]


def _float32(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module).float().eval().requires_grad_(False)


def _onnx_runtime(formula: Formula, dtype: str) -> Callable[[], Tensor]:
    """On its CPU kernels in float32, all graph optimisations; threads stop spinning when a run ends."""
    _package("onnx")
    runtime = _package("onnxruntime")
    inputs = [x.float() for x in _plain_inputs(formula)]
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory(prefix="pyface-onnx-") as folder:
        path = export_onnx(_float32(formula.module), inputs, Path(folder))
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        shape = tuple(formula.module(*inputs).shape)
    binding = session.io_binding()
    for argument, x in zip(session.get_inputs(), inputs, strict=True):
        binding.bind_input(argument.name, "cpu", 0, _element(x), tuple(x.shape), x.data_ptr())
    output = session.get_outputs()[0].name

    def run(_read: Sequence[Tensor] = inputs) -> Tensor:  # the runtime reads their memory by address
        result = torch.empty(shape)
        binding.bind_output(output, "cpu", 0, _element(result), shape, result.data_ptr())
        session.run_with_iobinding(binding)
        return result

    return run


def _element(x: Tensor) -> Any:
    return x.numpy().dtype.type


def export_onnx(module: nn.Module, inputs: Sequence[Tensor], folder: Path) -> Path:
    """A file in `folder` with the module in ONNX: by the exporter of graphs, or else the one that traces."""
    path = folder / "model.onnx"
    try:
        _package("onnxscript")
        torch.onnx.export(module, tuple(inputs), path, dynamo=True, verbose=False)
    except Exception as first:  # exporters raise types of their own
        try:
            torch.onnx.export(module, tuple(inputs), path, dynamo=False)
        except Exception as second:
            raise second from first
    return path


RIVALS: dict[str, Build] = {COMPILE: _compiled, OPENVINO: _openvino, ONNX_RUNTIME: _onnx_runtime}
