"""A generator, or any ONNX graph of pyface, as an engine of TensorRT or TensorRT-RTX.

Everything that can be known beforehand is checked first: library, targets, precision, profile, and what the
graph holds. Then a process of its own builds, since a parser that ends its process and a build that hangs are
both known to happen. The engine appears with its description beside it, or not at all.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pyface import __version__
from pyface.errors import DataError, ExportError, ValueRangeError
from pyface.export.artefact import Artefact, open_artefact, seal, sidecar_path, staged
from pyface.export.calibration import export_quantized
from pyface.export.onnx import export_onnx, network_and_hash
from pyface.export.spec import BATCH, EngineSpec, TensorSpec, precision_name
from pyface.export.tensorrt.caches import timing_cache_file
from pyface.export.tensorrt.graph_facts import GraphFacts, graph_facts
from pyface.export.tensorrt.library import Library, find_library
from pyface.export.tensorrt.targets import (
    check_generator,
    check_graph,
    check_profile,
    choose_targets,
    parse_capability,
    present_capability,
)
from pyface.io.atomic import atomic_write
from pyface.io.hashing import sha256_of
from pyface.models import StyleGAN2Generator

__all__ = ["CHILD", "Built", "build_engine", "build_graph", "run_child"]

CHILD = Path(__file__).with_name("build_child.py")
_TAIL = 12  # lines of what a failed build wrote

Source = nn.Module | str | os.PathLike[str]


@dataclass(frozen=True)
class Built:
    """What a build said: seconds of the build itself, layers of the network it read, warnings."""

    seconds: float
    layers: int
    warnings: tuple[str, ...] = ()


def build_engine(
    source: Source,
    out: str | os.PathLike[str],
    *,
    precision: str | None = None,
    profile: Sequence[int] | None = (1, 8, 32),
    compute_capabilities: Sequence[str | int] = (),
    rtx: bool | None = None,
    uint8: bool | None = None,
    inputs: str | None = None,
    noise: str = "const",
    timeout_s: float = 1800.0,
    timing_cache: str | os.PathLike[str] | None = None,
    calibration: int = 64,
    graph: str | os.PathLike[str] | None = None,
    force: bool = False,
) -> Artefact:
    """Build the engine file `out`, with its description in `<out>.json`.

    Args:
        source: a network, its checkpoint (path or name), or an ONNX file of `pyface export onnx`.
        precision: "fp32", "fp16" (the default), "bf16", "int8" or "fp8"; of an ONNX file that of its graph.
        profile: smallest, best and largest batch that the engine takes; None for a graph of a fixed batch.
        compute_capabilities: GPUs to build for, such as (89, 120) or ("8.9",). None means the GPU present,
            else with TensorRT-RTX all of its targets from 8.0 on. TensorRT builds for the GPU present alone.
        rtx: TensorRT-RTX (True) or TensorRT (False); None takes the one that fits, see `find_library`.
        uint8: of a generator's pictures, uint8 [N, H, W, C] (None, True) or float32 [N, C, H, W] (False).
        inputs, noise: of a generator, as for `GeneratorForm`; inputs None means "ws".
        timeout_s: seconds after which the build is ended.
        timing_cache: file for measurements of full TensorRT; None takes one in the cache folder of pyface.
        calibration: pictures that set the ranges of int8 and fp8.
        graph: where to keep the ONNX file that the engine is made of; None keeps none. Not for ONNX files.
        force: build although the graph does not agree with the network.

    Raises:
        DataError: the folder of `out` does not exist or cannot be written.
        ValueRangeError: a profile that is not ordered, an unknown word, a calibration or time below 1.
        ExportError: refused before the build (see `pyface.export.tensorrt.targets`), the graph does not agree
            with the network, or the build failed, died or took too long; with the end of what it wrote.
        MissingExtraError: TensorRT, onnx or onnxruntime is missing; names the extra.
    """
    _check(out, timeout_s, calibration)
    sizes, wanted = check_profile(profile), [parse_capability(word) for word in compute_capabilities]
    library = find_library(rtx, present := present_capability(), wanted)
    if (given := _onnx_file(source)) is not None:
        made, facts = _described(given, precision)
        targets = choose_targets(library, wanted, made.spec.precision, present)
        return build_graph(made, out, library, targets, sizes, facts, timeout_s, timing_cache)
    precision = precision_name(precision or "fp16")
    targets = choose_targets(library, wanted, precision, present)
    with tempfile.TemporaryDirectory(prefix="pyface-graph-") as folder:
        network, digest = network_and_hash(source)
        if isinstance(network, StyleGAN2Generator):
            check_generator(library, targets)
        place = Path(graph or Path(folder) / "graph.onnx")
        options = {"uint8": uint8, "inputs": inputs, "noise": noise, "force": force}
        made = _exported(network, place, precision, calibration, {**options, "weights_sha256": digest})
        return build_graph(
            made, out, library, targets, sizes, graph_facts(made.path), timeout_s, timing_cache
        )


def _check(out: str | os.PathLike[str], timeout_s: float, calibration: int) -> None:
    if not Path(out).parent.is_dir():
        raise DataError(f"cannot write {os.fspath(out)}: the folder does not exist; make it first")
    if timeout_s <= 0 or calibration < 1:
        raise ValueRangeError(
            f"timeout_s and calibration must be more than 0; got {timeout_s:g} s and {calibration} pictures"
        )


def build_graph(
    graph: Artefact,
    out: str | os.PathLike[str],
    library: Library,
    targets: tuple[int, ...],
    profile: tuple[int, int, int] | None,
    facts: GraphFacts,
    timeout_s: float = 1800.0,
    timing_cache: str | os.PathLike[str] | None = None,
) -> Artefact:
    """The engine of an ONNX artefact; arguments are those of `build_engine`, already checked.

    Raises:
        ExportError: as `build_engine`.
    """
    check_graph(facts, library, targets, profile)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    cache = Path(timing_cache) if timing_cache else timing_cache_file(library, gpu)
    with staged(out) as path:
        job: dict[str, Any] = {
            "flavour": library.flavour,
            "onnx": str(graph.path.resolve()),
            "out": str(path),
            "profile": _shapes(facts.inputs, profile),
            "capabilities": list(targets),
        }
        if library.has_timing_cache:
            _build_with_cache(job, cache, timeout_s)
        else:
            run_child(job, timeout_s)
        spec = replace(
            graph.spec,
            format=library.flavour,
            profile=profile,
            compute_capabilities=targets,
            onnx_sha256=sha256_of(graph.path),
            versions={**graph.spec.versions, library.flavour: library.version, **_of_gpu(library, gpu)},
        )
        return seal(path, spec, graph.parity).moved(out)


def run_child(job: Mapping[str, Any], timeout_s: float, *, script: Path = CHILD) -> Built:
    """Do a job of `build_child.py` in a process of its own, and say what came of it.

    Args:
        job: as that module says, without "report".
        timeout_s: seconds after which it is ended, with all processes that it started.
        script: what is run.

    Raises:
        ExportError: it failed, died or took too long; the text ends with the last lines that it wrote.
    """
    with tempfile.TemporaryDirectory(prefix="pyface-build-") as folder:
        report, written = Path(folder) / "report.json", Path(folder) / "output.txt"
        told = Path(folder) / "job.json"
        told.write_text(json.dumps({**job, "report": str(report)}), encoding="utf-8")
        with written.open("wb") as log:
            status = _wait(_start([sys.executable, "-P", str(script), str(told)], log), timeout_s)
        tail = _tail(written)
        if status is None:
            raise ExportError(
                f"the engine was not built within {timeout_s:g} s, and was ended; give it more time "
                f"(--timeout), a smaller profile or fewer targets.{tail}"
            )
        if not report.is_file():
            raise ExportError(f"the process that built the engine {_end(status)}.{tail}")
        told_back = json.loads(report.read_text(encoding="utf-8"))
    if not told_back["ok"]:
        verb = "read the graph" if told_back["stage"] == "parse" else "build the engine"
        reasons = "; ".join(told_back["errors"][:3]) or "it gave no reason"
        raise ExportError(f"{job['flavour']} could not {verb}: {reasons}.{tail}")
    return Built(told_back["seconds"], told_back["layers"], tuple(told_back["warnings"]))


def _start(command: list[str], log: Any) -> subprocess.Popen[bytes]:
    paths = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": paths},
        start_new_session=True,
    )


def _wait(process: subprocess.Popen[bytes], timeout_s: float) -> int | None:
    """Its exit status, or None when it took too long; it has ended either way, also on an interrupt."""
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # it leads a group of its own
            process.wait()


def _end(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    hint = ", most likely for lack of memory" if name == "SIGKILL" else ""
    return f"was ended by {name}{hint}"


def _tail(path: Path) -> str:
    lines = [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return "\nThe last lines that it wrote:\n" + "\n".join(lines[-_TAIL:]) if lines else ""


def _build_with_cache(job: dict[str, Any], cache: Path, timeout_s: float) -> None:
    """The build writes to a copy, which takes the cache's place when all went well."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(cache, sync=False) as temporary:
        temporary.write_bytes(cache.read_bytes() if cache.is_file() else b"")
        run_child({**job, "timing_cache": str(temporary)}, timeout_s)


def _shapes(
    inputs: Sequence[TensorSpec], profile: tuple[int, int, int] | None
) -> dict[str, list[tuple[int, ...]]] | None:
    """Smallest, best and largest shape of every input that has a free batch."""
    if profile is None:
        return None
    free = [tensor for tensor in inputs if BATCH in tensor.shape]
    return {tensor.name: [tensor.concrete(size) for size in profile] for tensor in free}


def _of_gpu(library: Library, gpu: str) -> dict[str, str]:
    """Full TensorRT measures on one GPU, and its engine belongs to it."""
    return {} if library.targets else {"gpu": gpu}


def _exported(
    network: nn.Module, place: Path, precision: str, calibration: int, options: dict[str, Any]
) -> Artefact:
    """The ONNX artefact of a network; of a generator uint8 pictures of ws, unless asked for otherwise."""
    if isinstance(network, StyleGAN2Generator):
        options |= {"uint8": options["uint8"] is not False, "inputs": options["inputs"] or "ws"}
    options["uint8"] = bool(options["uint8"])
    if precision in ("int8", "fp8"):
        return export_quantized(network, place, precision=precision, calibration=calibration, **options)
    return export_onnx(network, place, precision=precision, **options)


def _onnx_file(source: Source) -> Path | None:
    """The path, where the source is an ONNX file."""
    if isinstance(source, nn.Module) or Path(source).suffix.lower() != ".onnx":
        return None
    return Path(source)


def _described(path: Path, precision: str | None) -> tuple[Artefact, GraphFacts]:
    """An ONNX file as an artefact; one without a description is described by its graph."""
    facts = graph_facts(path)
    if sidecar_path(path).is_file():
        artefact = open_artefact(path)
    else:
        artefact = Artefact(path, _spec_of(facts), {path.name: sha256_of(path)})
    found = artefact.spec.precision
    if precision is not None and precision_name(precision) != found:
        raise ExportError(
            f"{path.name} computes in {found}, asked for was {precision}. The precision lies in the graph: "
            "leave it out, or build from the network"
        )
    return artefact, facts


def _spec_of(facts: GraphFacts) -> EngineSpec:
    return EngineSpec(
        format="onnx",
        architecture="",
        part="whole",
        precision=facts.precision,
        opset=facts.opset,
        up_form="",
        inputs=facts.inputs,
        outputs=facts.outputs,
        uint8=any(tensor.dtype == "uint8" for tensor in facts.outputs),
        batch=facts.batch,
        versions={"pyface": __version__},
    )
