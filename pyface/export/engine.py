"""A generator on the runtime of your choice, or on the fastest that is here.

>>> from pyface.export import open_engine
>>> with open_engine("demo", batch=4) as engine:                  # doctest: +SKIP
...     ws = engine.mapping(z, c, truncation_psi=0.7)
...     engine.pixels(ws)["vis"].shape
torch.Size([10, 64, 64, 3])
"""

from __future__ import annotations

from typing import Any

from pyface.errors import ExportError
from pyface.export.engines.availability import (
    ENGINES,
    Choice,
    absence,
    check_name,
    choose,
    device_for,
    require,
)
from pyface.export.engines.fixed_batch import Engine, GeneratorFacts, Settings
from pyface.export.engines.sources import (
    TENSORRT,
    Source,
    artefact_settings,
    cached_tensorrt,
    engine_of_artefact,
    is_artefact,
    made_artefact,
    own_network,
    require_same_weights,
    usable_artefact,
    weights_sha256,
)
from pyface.export.engines.torch_engine import NativeEngine, TorchEngine

__all__ = ["ENGINES", "Choice", "Engine", "available_engines", "choose_engine", "open_engine"]


def available_engines(device: str = "auto") -> dict[str, str | None]:
    """For each engine None where it can run on `device`, else the reason why not, with what to install.

    device: "cpu", "cuda", "cuda:1", or "auto" for a GPU where there is one. Whether an engine can run a
    particular generator, `open_engine` says.

    >>> available_engines("cpu")["torch"] is None
    True
    """
    kind = device_for("auto", device).type
    return {name: absence(name, kind) for name in ENGINES}


def choose_engine(
    network: Source | None = None, *, precision: str = "fp32", device: str = "auto", batch: int = 8
) -> Choice:
    """The engine that `open_engine(network, "auto")` takes, and why.

    On a GPU an engine of TensorRT, where one was built for this network and GPU before. Else the fused
    kernels of pyface, which were faster than all other runtimes on a CPU in our measurements
    (`pyface bench --only engines`). Where they cannot run this network or precision, the fastest of the
    others that are installed; on a CPU: OpenVINO, ONNX Runtime, torch.

    Args:
        network: a generator or its checkpoint; None says what suits the machine.
        precision: what to compute in.
        device: as in `open_engine`.
        batch: images at a time.

    Raises:
        ExportError: no engine here computes in this precision.
    """
    settings = Settings(precision, batch, device_for("auto", device))
    return _choice(None if network is None else own_network(network, settings.device), settings)


def open_engine(
    source: Source,
    engine: str = "auto",
    *,
    precision: str | None = None,
    batch: int | None = None,
    device: str = "auto",
    threads: int | None = None,
    noise: str | None = None,
    network: Source | None = None,
    cache: bool = True,
    force: bool = False,
) -> Engine:
    """The generator `source` on an engine.

    Engines other than torch and native run a file; it is exported and certified when it is first needed, and
    kept in `pyface.export.engine_cache`.

    Args:
        source: a generator, its checkpoint (a path, or the name of one that comes with pyface), or the path
            of an exported file.
        engine: a key of `ENGINES`, or "auto" for what `choose_engine` says; of an exported file, what runs
            its format.
        precision: "fp32", "fp16", "bf16" or the long names such as "float32". None: fp32; of an exported
            file, its own.
        batch: images that the runtime makes at a time; any number can be asked for. None: 8; of an exported
            file with a fixed batch, that one.
        device: "cpu", "cuda", "cuda:1", or "auto" for a GPU where there is one and the engine runs on it.
        threads: CPU threads; None takes as many as torch does.
        noise: "const" (the network's own, also where None is given) or "none".
        network: of an exported file that takes ws, the generator it was made of, for its mapping.
        cache: keep the file that is made. Without it, it is removed when the engine is closed.
        force: run files that failed their certificate or have none.

    Raises:
        ValueRangeError: an unknown engine, precision or noise, a batch or number of threads below 1, or what
            an exported file was not made for.
        MissingExtraError: a package is needed; the message names the extra.
        ExportError: the engine cannot run here, or not this network or precision; or an exported file is
            damaged, of other weights, or not certified.
        CheckpointError: no generator in the file.
    """
    check_name(engine)
    if is_artefact(source):
        asked = (precision, batch, noise)
        return _open_artefact(source, engine, asked, device, threads, network, force)
    if network is not None:
        raise ExportError("network goes with an exported file as source; here the source is a generator.")
    batch = 8 if batch is None else batch
    settings = Settings(precision or "fp32", batch, device_for(engine, device), noise or "const", threads)
    if engine != "auto":
        require(engine, settings)
    own = own_network(source, settings.device)
    choice = _choice(own, settings) if engine == "auto" else Choice(engine, settings.precision, "")
    facts = GeneratorFacts.of(own, weights_sha256(source))
    opened = _open_network(choice.name, own, facts, settings, cache, force)
    opened.reason = choice.reason
    return opened


def _choice(network: Any, settings: Settings) -> Choice:
    built = None if network is None else cached_tensorrt(network, settings)
    return built or choose(network, settings)


def _open_network(
    engine: str, network: Any, facts: GeneratorFacts, settings: Settings, cache: bool, force: bool
) -> Engine:
    if engine == "native":
        return NativeEngine(network, facts, settings)
    if engine == "torch":
        return TorchEngine(network, facts, settings)
    artefact, scratch = made_artefact(engine, network, facts, settings, cache=cache, force=force)
    try:
        opened: Engine = _file_engine(engine)(artefact, facts, settings, network.mapping)
    except BaseException:
        if scratch is not None:
            scratch.cleanup()
        raise
    opened.scratch = scratch
    return opened


def _open_artefact(
    source: Any,
    engine: str,
    asked: tuple[str | None, int | None, str | None],
    device: str,
    threads: int | None,
    network: Source | None,
    force: bool,
) -> Engine:
    artefact = usable_artefact(source, force)
    name = engine_of_artefact(artefact.spec, engine)
    settings = artefact_settings(artefact.spec, *asked, device_for(name, device), threads)
    mapping = None
    if network is not None:
        own = own_network(network, settings.device)
        require_same_weights(artefact, own, network)
        mapping = own.mapping
    opened: Engine = _file_engine(name)(artefact, GeneratorFacts.of(artefact.spec), settings, mapping)
    opened.reason = f"{artefact.path.name} is made for {artefact.spec.format}" if engine == "auto" else ""
    return opened


def _file_engine(name: str) -> Any:
    """The class of an engine that runs files."""
    if name in TENSORRT:
        from pyface.export.engines.tensorrt_engine import TensorRTEngine, TensorRTRTXEngine

        return TensorRTEngine if name == "tensorrt" else TensorRTRTXEngine
    from pyface.export.engines.runner_engine import OnnxRuntimeEngine, OpenVinoEngine

    return OnnxRuntimeEngine if name == "onnxruntime" else OpenVinoEngine
