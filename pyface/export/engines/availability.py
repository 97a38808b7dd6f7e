"""Which engines can run what here, and which one is taken when none is named."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pyface.errors import ExportError, MissingExtraError, PyfaceError, ValueRangeError
from pyface.export.engines.fixed_batch import Settings
from pyface.export.engines.torch_engine import fused_refusal
from pyface.ops import backend

__all__ = ["ENGINES", "Choice", "absence", "check_name", "choose", "device_for", "require"]

# engine -> kind of device -> what it can compute in there
ENGINES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "torch": {"cpu": ("fp32", "fp16", "bf16"), "cuda": ("fp32", "fp16", "bf16")},
    "native": {"cpu": ("fp32", "bf16"), "cuda": ("fp32", "fp16", "bf16")},
    "onnxruntime": {"cpu": ("fp32", "fp16")},
    "openvino": {"cpu": ("fp32", "fp16", "bf16")},
    "tensorrt": {"cuda": ("fp32", "fp16", "bf16", "int8", "fp8")},
    "tensorrt-rtx": {"cuda": ("fp32", "fp16", "bf16", "int8", "fp8")},
}
# engine -> (packages it needs, the extras that bring them)
_NEEDS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "onnxruntime": (("onnxruntime", "onnx", "onnxscript"), "export"),
    "openvino": (("openvino", "onnx", "onnxscript"), "export,openvino"),
    "tensorrt": (("tensorrt", "onnx", "onnxscript"), "export,tensorrt-cu13"),
    "tensorrt-rtx": (("tensorrt_rtx", "onnx", "onnxscript"), "export,tensorrt-rtx"),
}
_ORDER = {"cpu": ("native", "openvino", "onnxruntime", "torch"), "cuda": ("native", "torch")}
_WHY = {
    "native": "the fused kernels of pyface run here, and were the fastest that we measured",
    "openvino": "OpenVINO was the fastest that we measured beside the native kernels",
    "onnxruntime": "ONNX Runtime was faster than plain torch in our measurements",
    "torch": "torch, layer by layer, runs everywhere",
}


@dataclass(frozen=True)
class Choice:
    """An engine by name, the precision it will compute in, and why it is this one."""

    name: str
    precision: str
    reason: str


def check_name(engine: str) -> None:
    """Raises ValueRangeError for a name that is neither an engine's nor "auto"."""
    if engine != "auto" and engine not in ENGINES:
        raise ValueRangeError(f"engine must be auto or one of {', '.join(ENGINES)}; got {engine!r}.")


def device_for(engine: str, name: str) -> torch.device:
    """The device called `name`; "auto" is a GPU where there is one and the engine runs on it.

    Raises:
        ValueRangeError: no such device.
    """
    kinds = ENGINES.get(engine, {"cpu": (), "cuda": ()})
    if name == "auto":
        return torch.device("cuda" if "cuda" in kinds and torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueRangeError(f"device must be cpu, cuda, cuda:1 or auto; got {name!r}.") from error
    if device.type not in ("cpu", "cuda"):
        raise ValueRangeError(f"device must be cpu, cuda, cuda:1 or auto; got {name!r}.")
    if device.type == "cuda" and not (device.index or 0) < torch.cuda.device_count():
        raise ValueRangeError(
            f"device {name!r} is not there: torch sees {torch.cuda.device_count()} CUDA devices. Use cpu."
        )
    return device


def absence(engine: str, kind: str) -> str | None:
    """Why an engine cannot run on a kind of device, with what to install, or None."""
    if kind not in ENGINES[engine]:
        absent = ", and no CUDA device is here" if kind == "cpu" and not torch.cuda.is_available() else ""
        return f"it runs on {' and '.join(ENGINES[engine])} alone{absent}"
    missing = _missing(engine)
    if missing:
        return f'{", ".join(missing)} not installed: pip install "pyface-synth[{_NEEDS[engine][1]}]"'
    if engine != "native":
        return None
    try:
        found = backend(kind)
    except PyfaceError as error:  # PYFACE_REQUIRE refuses it, or is no word that it may be
        return str(error).rstrip(".")
    return None if found == kind else f"the native kernels for {kind} are not built (pyface doctor says more)"


def require(engine: str, settings: Settings) -> None:
    """Raises MissingExtraError or ExportError where an engine cannot run with these settings."""
    reason = _refusal(engine, settings)
    if reason is None:
        return
    kind = MissingExtraError if settings.device.type in ENGINES[engine] and _missing(engine) else ExportError
    raise kind(f"the {engine} engine cannot run: {reason}. {_others(engine, settings)}")


def choose(network: Any, settings: Settings) -> Choice:
    """The first engine that can run `network` (None: any) with these settings.

    Raises:
        ExportError: there is none; the message has the reason of each.
    """
    passed: list[str] = []
    for name in _ORDER[settings.device.type]:
        reason = _refusal(name, settings)
        if reason is None and name == "native" and network is not None:
            reason = fused_refusal(network, settings)
        if reason is None:
            return Choice(name, settings.precision, "; ".join([_WHY[name], *passed]))
        passed.append(f"not {name}: {reason}")
    raise ExportError(
        f"no engine computes in {settings.precision} on {settings.device.type}: {'; '.join(passed)}."
    )


def _missing(engine: str) -> list[str]:
    find: Callable[[str], Any] = importlib.util.find_spec
    return [package for package in _NEEDS.get(engine, ((), ""))[0] if find(package) is None]


def _refusal(engine: str, settings: Settings) -> str | None:
    """Why an engine cannot run here or in this precision; None where it can."""
    kind = settings.device.type
    absent = absence(engine, kind)
    if absent is not None:
        return absent
    if settings.precision not in ENGINES[engine][kind]:
        return f"it computes in {', '.join(ENGINES[engine][kind])} on {kind}, not in {settings.precision}"
    return None


def _others(engine: str, settings: Settings) -> str:
    fit = [name for name in ENGINES if name != engine and _refusal(name, settings) is None]
    return f"Engines that can: {', '.join(fit)}." if fit else f"No engine here can do {settings.precision}."
