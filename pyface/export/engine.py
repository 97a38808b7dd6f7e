"""A generator on the runtime of your choice, or on the fastest that is here.

>>> from pyface.export import open_engine
>>> with open_engine("demo", batch=4) as engine:                  # doctest: +SKIP
...     ws = engine.mapping(z, c, truncation_psi=0.7)
...     engine.pixels(ws)["vis"].shape
torch.Size([10, 64, 64, 3])
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pyface.errors import BackendError, ExportError, ValueRangeError
from pyface.export.engines.fixed_batch import Engine, GeneratorFacts, Settings
from pyface.export.engines.torch_engine import NativeEngine, TorchEngine, fused_refusal
from pyface.io.hashing import sha256_of
from pyface.models import StyleGAN2Generator, find_checkpoint, load
from pyface.ops import backend

__all__ = ["ENGINES", "Choice", "Engine", "available_engines", "choose_engine", "open_engine"]

Source = nn.Module | str | os.PathLike[str]

# engine -> kind of device -> what it can compute in there
ENGINES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "torch": {"cpu": ("fp32", "fp16", "bf16"), "cuda": ("fp32", "fp16", "bf16")},
    "native": {"cpu": ("fp32", "bf16"), "cuda": ("fp32", "fp16", "bf16")},
}
_ORDER = {"cpu": ("native", "torch"), "cuda": ("native", "torch")}
_WHY = {
    "native": "the fused kernels of pyface run here, and were the fastest that we measured",
    "torch": "torch, layer by layer, runs everywhere",
}


@dataclass(frozen=True)
class Choice:
    """An engine by name, the precision it will compute in, and why it is this one."""

    name: str
    precision: str
    reason: str


def available_engines(device: str = "auto") -> dict[str, str | None]:
    """For each engine None where it can run on `device`, else the reason why not, with what to install.

    device: "cpu", "cuda", "cuda:1", or "auto" for a GPU where there is one. Whether an engine can run a
    particular generator, `open_engine` says.

    >>> available_engines("cpu")["torch"] is None
    True
    """
    kind = _device(device).type
    return {name: _absence(name, kind) for name in ENGINES}


def choose_engine(
    network: Source | None = None, *, precision: str = "fp32", device: str = "auto", batch: int = 8
) -> Choice:
    """The engine that `open_engine(network, "auto")` takes, and why.

    On a GPU and on a CPU: the fused kernels of pyface; they were faster than all other runtimes in our
    measurements (`pyface bench --only engines`). Where they cannot run this network or precision, torch.

    Args:
        network: a generator or its checkpoint; None says what suits the machine.
        precision: what to compute in.

    Raises:
        ExportError: no engine here computes in this precision.
    """
    settings = Settings(precision, batch, _device(device))
    own = None if network is None else _own_network(network, settings.device)
    return _choose(own, settings)


def open_engine(
    source: Source,
    engine: str = "auto",
    *,
    precision: str = "fp32",
    batch: int = 8,
    device: str = "auto",
    threads: int | None = None,
    noise: str = "const",
) -> Engine:
    """The generator `source` on an engine.

    Args:
        source: a generator, or its checkpoint: a path, or the name of one that comes with pyface.
        engine: "torch", "native", or "auto" for the first of `choose_engine`.
        precision: "fp32", "fp16", "bf16" or the long names such as "float32".
        batch: images that the runtime makes at a time; any number can be asked for.
        device: "cpu", "cuda", "cuda:1", or "auto" for a GPU where there is one.
        threads: CPU threads; None takes as many as torch does.
        noise: "const" (the network's own) or "none".

    Raises:
        ValueRangeError: an unknown engine, precision or noise, a batch or number of threads below 1.
        MissingExtraError: a package is needed; the message names the extra.
        ExportError: the engine cannot run here, or not this network or precision.
        CheckpointError: no generator in the file.
    """
    check_name(engine)
    settings = Settings(precision, batch, _device(device), noise, threads)
    network = _own_network(source, settings.device)
    reason = ""
    if engine == "auto":
        choice = _choose(network, settings)
        engine, reason = choice.name, choice.reason
    _require(engine, settings)
    facts = GeneratorFacts.of(network, _weights_sha256(source))
    opened = _open(engine, network, facts, settings)
    opened.reason = reason
    return opened


def check_name(engine: str) -> None:
    """Raises ValueRangeError for a name that is neither an engine's nor "auto"."""
    if engine != "auto" and engine not in ENGINES:
        raise ValueRangeError(f"engine must be auto or one of {', '.join(ENGINES)}; got {engine!r}.")


def _open(engine: str, network: Any, facts: GeneratorFacts, settings: Settings) -> Engine:
    if engine == "native":
        return NativeEngine(network, facts, settings)
    return TorchEngine(network, facts, settings)


def _device(name: str) -> torch.device:
    """Raises ValueRangeError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
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


def _absence(engine: str, kind: str) -> str | None:
    """Why an engine cannot run on a kind of device, or None."""
    if kind not in ENGINES[engine]:
        return f"it runs on {' and '.join(ENGINES[engine])} alone"
    if engine != "native":
        return None
    try:
        found = backend(kind)
    except BackendError as error:
        return str(error)
    return None if found == kind else f"the native kernels for {kind} are not built (pyface doctor says more)"


def _refusal(engine: str, network: Any, settings: Settings) -> str | None:
    """Why an engine cannot run here, in this precision, or this network; None where it can."""
    kind = settings.device.type
    absent = _absence(engine, kind)
    if absent is not None:
        return absent
    if settings.precision not in ENGINES[engine][kind]:
        return f"it computes in {', '.join(ENGINES[engine][kind])} on {kind}, not in {settings.precision}"
    return fused_refusal(network, settings) if engine == "native" and network is not None else None


def _require(engine: str, settings: Settings) -> None:
    reason = _refusal(engine, None, settings)
    if reason is not None:
        raise ExportError(f"the {engine} engine cannot run: {reason}. {_others(engine, settings)}")


def _others(engine: str, settings: Settings) -> str:
    fit = [name for name in ENGINES if name != engine and _refusal(name, None, settings) is None]
    return f"Engines that can: {', '.join(fit)}." if fit else f"No engine here can do {settings.precision}."


def _choose(network: Any, settings: Settings) -> Choice:
    passed: list[str] = []
    for name in _ORDER[settings.device.type]:
        reason = _refusal(name, network, settings)
        if reason is None:
            why = "; ".join([_WHY[name], *passed])
            return Choice(name, settings.precision, why)
        passed.append(f"not {name}: {reason}")
    raise ExportError(
        f"no engine computes in {settings.precision} on {settings.device.type}: {'; '.join(passed)}."
    )


def _own_network(source: Source, device: torch.device) -> Any:
    """A generator that belongs to the engine alone, frozen, float32, on `device`."""
    network: Any
    if isinstance(source, nn.Module):
        if not isinstance(source, StyleGAN2Generator):
            raise ExportError(
                f"an engine runs a generator of pyface; got a {type(source).__name__}. Give a "
                "StyleGAN2Generator, its checkpoint, or the path of an exported one."
            )
        network = copy.deepcopy(source)
    else:
        network = load(source, kind="generator")
    return network.float().to(device).eval().requires_grad_(False)


def _weights_sha256(source: Source) -> str:
    """Of the checkpoint file, or of the tensors of a network."""
    if isinstance(source, nn.Module):
        from pyface.export.artefact import sha256_of_network

        return sha256_of_network(source)
    return sha256_of(find_checkpoint(source))
