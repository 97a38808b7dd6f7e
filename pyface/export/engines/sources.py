"""What an engine is made of: a generator of its own, or an exported file that fits."""

from __future__ import annotations

import copy
import importlib.metadata
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pyface import __version__
from pyface.errors import ExportError, PyfaceError, ValueRangeError
from pyface.export.artefact import Artefact, open_artefact, sha256_of_network, sidecar_path
from pyface.export.engine_cache import Recipe, find, obtain
from pyface.export.engines.availability import Choice, require
from pyface.export.engines.fixed_batch import GeneratorFacts, Settings
from pyface.export.runners import default_runtime, obstacle
from pyface.export.spec import EngineSpec, precision_name
from pyface.io.hashing import sha256_of
from pyface.models import ARCHITECTURES, StyleGAN2Generator, find_checkpoint, load

__all__ = [
    "TENSORRT",
    "Source",
    "artefact_settings",
    "cached_tensorrt",
    "engine_of_artefact",
    "is_artefact",
    "made_artefact",
    "own_network",
    "require_same_weights",
    "usable_artefact",
    "weights_sha256",
]

Source = nn.Module | str | os.PathLike[str]

TENSORRT = ("tensorrt", "tensorrt-rtx")
MAKING = 1  # raised when artefacts come out differently from the same versions
_SUFFIXES = (".onnx", ".xml")
_BATCH = 8


def own_network(source: Source, device: torch.device) -> Any:
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


def weights_sha256(source: Source) -> str:
    """Of the checkpoint file, or of the tensors of a network."""
    return sha256_of_network(source) if isinstance(source, nn.Module) else sha256_of(find_checkpoint(source))


def is_artefact(source: Source) -> bool:
    """Whether a source is the path of an exported file."""
    if isinstance(source, nn.Module):
        return False
    path = Path(source)
    return path.suffix in _SUFFIXES or (path.is_file() and sidecar_path(path).is_file())


def usable_artefact(path: str | os.PathLike[str], force: bool) -> Artefact:
    """The artefact of a generator at `path`, whole and certified.

    Raises:
        ExportError: it is damaged, is no generator or its mapping alone, wants noise as an input, or, unless
            `force`, was not certified.
    """
    artefact = open_artefact(path)
    spec, name = artefact.spec, Path(path).name
    architecture = ARCHITECTURES.get(spec.architecture)
    if architecture is None or architecture.kind != "generator" or spec.part == "mapping":
        raise ExportError(
            f"{name} holds the {spec.part} of {spec.architecture}; an engine needs a generator, whole or its "
            "synthesis."
        )
    if spec.noise_mode == "input":
        raise ExportError(f"{name} takes its noise as an input; export it with noise const or none.")
    if not force and not (artefact.parity or {}).get("passed"):
        state = "was not certified" if artefact.parity is None else "failed its certificate"
        raise ExportError(
            f"{name} {state}, so that its pictures may not be those of the network. Export it again, "
            "look at pyface verify, or give force=True."
        )
    return artefact


def engine_of_artefact(spec: EngineSpec, engine: str) -> str:
    """The engine for an artefact: the one asked for, if it can, else that of its format.

    Raises:
        ExportError: that engine cannot run it.
    """
    runtimes = ("onnxruntime", "openvino")
    if engine == "auto":
        return spec.format if spec.format not in ("onnx", "openvino") else default_runtime(spec)
    if engine in runtimes:
        reason = obstacle(spec, engine)
    elif engine in ("torch", "native"):
        reason = "it runs networks in torch; give the checkpoint"
    else:
        reason = None if spec.format == engine else f"it runs engines built for {engine} alone"
    if reason is not None:
        raise ExportError(f"the {engine} engine cannot run this {spec.format} artefact: {reason}.")
    return engine


def artefact_settings(
    spec: EngineSpec,
    precision: str | None,
    batch: int | None,
    noise: str | None,
    device: torch.device,
    threads: int | None,
) -> Settings:
    """How an artefact runs; what was asked for has to be what it was made for.

    Raises:
        ValueRangeError: another precision, noise or batch than it was made for.
    """
    if precision is not None and precision_name(precision) != spec.precision:
        raise ValueRangeError(f"this artefact computes in {spec.precision}; got precision={precision!r}.")
    if noise not in (None, spec.noise_mode):
        raise ValueRangeError(f"this artefact was exported with noise {spec.noise_mode!r}; got {noise!r}.")
    smallest, _, largest = spec.profile or (1, _BATCH, batch or _BATCH)
    if batch is None:
        batch = spec.batch or min(_BATCH, largest)
    if spec.batch is not None and batch != spec.batch:
        raise ValueRangeError(f"this artefact was exported for a batch of {spec.batch}; got batch={batch}.")
    if not smallest <= batch <= largest:
        raise ValueRangeError(
            f"this engine was built for batches from {smallest} to {largest}; got batch={batch}. Build it "
            "with a wider profile."
        )
    return Settings(spec.precision, batch, device, spec.noise_mode, threads)


def require_same_weights(artefact: Artefact, network: Any, source: Source) -> None:
    """Raises ExportError when an artefact was not made of `network`, which was opened from `source`."""
    known = artefact.spec.weights_sha256
    if known not in (sha256_of_network(network), weights_sha256(source)):
        raise ExportError(
            f"{artefact.path.name} was made of other weights: sha256 {known[:16]}..., the generator's are "
            f"{weights_sha256(source)[:16]}.... Export this generator, or give the one that was exported."
        )


def made_artefact(
    engine: str, network: Any, facts: GeneratorFacts, settings: Settings, *, cache: bool, force: bool
) -> tuple[Artefact, tempfile.TemporaryDirectory[str] | None]:
    """(the file that an engine runs, a folder to remove after use or None): from the cache, or made now.

    cache: keep it for the next time. force: use it even if it fails its certificate.
    """
    recipe = _recipe(engine, network, settings, force)
    make = _maker(engine, network, facts, settings, force)
    if cache:
        return obtain(recipe, make), None
    scratch = tempfile.TemporaryDirectory(prefix="pyface-engine-")
    try:
        path = Path(scratch.name) / recipe.file
        make(path)
        return open_artefact(path, check=False), scratch
    except BaseException:
        scratch.cleanup()
        raise


def cached_tensorrt(network: Any, settings: Settings) -> Choice | None:
    """The engine of TensorRT that was built for this GPU before and is kept; None where there is none."""
    if settings.device.type != "cuda":
        return None
    for name in TENSORRT:
        try:
            require(name, settings)
            found = find(_recipe(name, network, settings, force=False))
        except PyfaceError:
            continue
        if found is not None:
            return Choice(name, settings.precision, "an engine built for this GPU is in the cache")
    return None


def _recipe(engine: str, network: Any, settings: Settings, force: bool) -> Recipe:
    form = {
        "weights": sha256_of_network(network),
        "engine": engine,
        "precision": settings.precision,
        "noise": settings.noise,
        "forced": force,
        "making": MAKING,
    }
    packages = ["onnx", "onnxscript", *(["openvino"] if engine == "openvino" else [])]
    versions = {"pyface": __version__, "torch": torch.__version__}
    versions |= {package: importlib.metadata.version(package) for package in packages}
    if engine not in TENSORRT:
        return Recipe("generator.xml" if engine == "openvino" else "generator.onnx", form, versions)
    from pyface.export.tensorrt.library import import_library

    versions[engine] = import_library(engine).version
    form |= {"largest batch": settings.batch, "gpu": torch.cuda.get_device_name(settings.device)}
    return Recipe("generator.engine", form, versions)


def _maker(
    engine: str, network: Any, facts: GeneratorFacts, settings: Settings, force: bool
) -> Callable[[Path], object]:
    options: dict[str, Any] = {
        "precision": settings.precision,
        "inputs": "ws",
        "noise": settings.noise,
        "weights_sha256": facts.weights_sha256,
        "force": force,
    }
    if engine == "openvino":
        from pyface.export.openvino import export_openvino

        return lambda path: export_openvino(network, path, **options)
    if engine in TENSORRT:
        from pyface.export.tensorrt import build_engine

        plain = copy.deepcopy(network).cpu()
        profile = (1, settings.batch, settings.batch)
        del options["weights_sha256"]
        return lambda path: build_engine(
            plain, path, profile=profile, rtx=engine == "tensorrt-rtx", uint8=False, **options
        )
    from pyface.export.onnx import export_onnx

    return lambda path: export_onnx(network, path, **options)
