"""What a fresh process costs: seconds until it works, memory at its peak, bytes on the disk.

Each figure is taken in processes of its own (`process_child.py`); seconds are wall time, the median over a
few processes after one that warms the system's file cache.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import pyface
from pyface.benchmark.case import EAGER, OURS
from pyface.benchmark.document import reason_of
from pyface.benchmark.rivals import COMPILE, ONNX_RUNTIME, OPENVINO
from pyface.benchmark.scaling_cases import channel_base_of
from pyface.errors import BackendError

__all__ = ["ProcessCase", "child", "measure_processes", "process_cases"]

PEAKS = ((256, 8), (1024, 1))  # (resolution, batch)
_DISTRIBUTIONS = {"torch": "torch", OPENVINO: "openvino", ONNX_RUNTIME: "onnxruntime"}
_CHILD = Path(__file__).with_name("process_child.py")
_LONGEST = 300.0  # seconds of a child
Measured = tuple[list[dict[str, Any]], list[dict[str, str]], list[dict[str, str]]]
_MODULE = {COMPILE: "torch", OPENVINO: "openvino", ONNX_RUNTIME: "onnxruntime"}


@dataclass(frozen=True)
class ProcessCase:
    """One figure of one way.

    name: what is measured, the same for all ways of it, such as "process/memory/8x3x256x256 float32".
    variant: the way. unit: "s" or "MB". measure: gives the figure, from the number of threads and a folder
    for files that several ways need; raises ImportError or BackendError where it cannot be had. repeats:
    processes, of which the median counts. quick: measured in a quick run too. screen: not empty where it
    stands on the screen of `pyface bench`.
    """

    name: str
    variant: str
    unit: str
    measure: Callable[[int, Path], float] = field(repr=False)
    repeats: int = 1
    quick: bool = False
    screen: str = ""
    group: str = "process"


def process_cases() -> list[ProcessCase]:
    """Start-up, first image, first call, peak memory of synthesis, installed size; engines."""
    from pyface.benchmark.engine_cases import engine_process_cases  # which is made of ProcessCase

    return [*_start_cases(), *_first_cases(), *_memory_cases(), *_size_cases(), *engine_process_cases()]


def measure_processes(
    cases: Sequence[ProcessCase],
    threads: int,
    device: str = "cpu",
    quick: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> Measured:
    """(measurements, skipped, failed): [{name, value, unit, variant}] and twice [{name, reason}].

    Another way that cannot be measured is skipped; one of ours that cannot has failed. quick: one process for
    each figure.
    """
    if cases and torch.device(device).type != "cpu":
        return [], [{"name": "process", "reason": "fresh processes are measured on the CPU"}], []
    with tempfile.TemporaryDirectory(prefix="pyface-bench-") as folder:
        return _measured(cases, threads, Path(folder), quick, report)


def _measured(
    cases: Sequence[ProcessCase], threads: int, folder: Path, quick: bool, report: Callable[[str], None]
) -> Measured:
    measurements: list[dict[str, Any]] = []
    skipped: list[dict[str, str]] = []
    failed: list[dict[str, str]] = []
    for case in cases:
        try:
            if (module := _MODULE.get(case.variant)) and importlib.util.find_spec(module) is None:
                raise ImportError(f"{module} is not installed")
            values = [case.measure(threads, folder) for _ in range(1 if quick else case.repeats)]
        except Exception as error:  # whatever it is, the other figures are taken
            left_out = isinstance(error, (ImportError, BackendError)) and case.variant != OURS
            found = {"name": f"{case.name}, {case.variant}", "reason": reason_of(error)}
            (skipped if left_out else failed).append(found)
            report(f"{found['name']}: {'skipped' if left_out else 'failed'}, {found['reason']}")
            continue
        value = float(f"{statistics.median(values):.4g}")
        measurements.append({"name": case.name, "value": value, "unit": case.unit, "variant": case.variant})
        report(f"{case.name}, {case.variant}: {value:g} {case.unit}")
    return measurements, skipped, failed


def _start_cases() -> list[ProcessCase]:
    def started(*arguments: str) -> Callable[[int, Path], float]:
        def measure(threads: int, folder: Path) -> float:
            start = time.perf_counter()
            _run([sys.executable, *arguments], threads)
            return time.perf_counter() - start

        return measure

    name = "process/start/import"
    return [
        ProcessCase(name, OURS, "s", started("-c", "import pyface"), 5, quick=True, screen="import"),
        ProcessCase(name, "pyface.ops", "s", started("-c", "import pyface.ops"), 3),
        ProcessCase(name, "torch", "s", started("-c", "import torch"), 3),
        ProcessCase(name, "Python alone", "s", started("-c", "pass"), 5, quick=True, screen="Python"),
        ProcessCase("process/start/pyface --version", OURS, "s", started("-m", "pyface", "--version"), 5),
    ]


def _first_cases() -> list[ProcessCase]:
    image, call = "process/first/demo generator: load and first image", "process/first/call of bias_act"

    def task(kind: str, way: str, **more: Any) -> Callable[[int, Path], float]:
        return lambda threads, folder: child({"task": kind, "way": way, **more}, threads)

    return [
        ProcessCase(
            image, OURS, "s", task("first image", OURS, network="demo"), 5, quick=True, screen="image"
        ),
        ProcessCase(image, EAGER, "s", task("first image", EAGER, network="demo"), 5),
        ProcessCase(call, OURS, "s", task("first call", OURS), 3),
        ProcessCase(call, COMPILE, "s", _first_compiled_call),
    ]


def _first_compiled_call(threads: int, folder: Path) -> float:
    """What compiling costs a user who has not compiled this before: its cache is empty."""
    variables = {"TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled"), "TORCHINDUCTOR_FX_GRAPH_CACHE": "0"}
    return child({"task": "first call", "way": COMPILE}, threads, variables)


def _size_cases() -> list[ProcessCase]:
    name = "process/disk/installed"
    own = ProcessCase(name, OURS, "MB", lambda threads, folder: _own_size(len), quick=True, screen="disk")
    packed = ProcessCase(
        "process/disk/compressed",
        OURS,
        "MB",
        lambda threads, folder: _own_size(lambda x: len(zlib.compress(x))),
    )
    others = [ProcessCase(name, way, "MB", _size_of(package)) for way, package in _DISTRIBUTIONS.items()]
    return [own, *others, packed]


def _own_size(size: Callable[[bytes], int]) -> float:
    return sum(size(data) for data in _own_files()) / 1e6


def _own_files() -> Iterator[bytes]:
    for path in sorted(Path(pyface.__file__).parent.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path.read_bytes()


def _size_of(package: str) -> Callable[[int, Path], float]:
    """MB of all files of an installed distribution."""

    def measure(threads: int, folder: Path) -> float:
        try:
            files = importlib.metadata.files(package) or []
        except importlib.metadata.PackageNotFoundError as error:
            raise ImportError(f"{package} is not installed") from error
        paths = [Path(str(file.locate())) for file in files if "__pycache__" not in file.parts]
        return sum(path.stat().st_size for path in paths if path.is_file()) / 1e6

    return measure


def _memory_cases() -> list[ProcessCase]:
    ways = {"float32": (OURS, EAGER, OPENVINO, ONNX_RUNTIME), "bfloat16": (OURS, OPENVINO)}
    return [
        ProcessCase(
            f"process/memory/synthesis {batch}x3x{side}x{side} {dtype}",
            way,
            "MB",
            functools.partial(peak_memory, way, side, batch, dtype),
            quick=(way, side, dtype) == (OURS, 256, "bfloat16"),
            screen="memory" if (way, side, dtype) == (OURS, 256, "bfloat16") else "",
        )
        for side, batch in PEAKS
        for dtype, variants in ways.items()
        for way in variants
    ]


def peak_memory(
    way: str,
    side: int,
    batch: int,
    dtype: str,
    threads: int,
    folder: Path,
    settings: Mapping[str, Any] | None = None,
) -> float:
    """MB resident at the worst moment of a process that makes `batch` images of `side` px by one way.

    Args:
        folder: keeps the generator and its exported form for the other ways.
        settings: further fields of the generator's configuration.
    """
    network = folder / f"{side}.safetensors"
    if not network.exists():
        _save_generator(network, side, {"channel_base": channel_base_of(side), **(settings or {})})
    task: dict[str, Any] = {"task": "peak memory", "way": way, "dtype": dtype, "network": str(network)}
    task["batch"] = batch
    if way in (OPENVINO, ONNX_RUNTIME):
        task["model"] = str(_exported(network, batch, threads))
    return child(task, threads)


def _exported(network: Path, batch: int, threads: int) -> Path:
    """The synthesis as ONNX, made in a process of its own."""
    path = network.with_name(f"{network.stem}-{batch}") / "model.onnx"
    if not path.exists():
        path.parent.mkdir()
        task = {"task": "export", "network": str(network), "batch": batch, "model": str(path)}
        child(task, threads)
    return path


def _save_generator(path: Path, side: int, fields: Mapping[str, Any]) -> None:
    from pyface.io.checkpoint import save_model
    from pyface.models import GeneratorConfig, StyleGAN2Generator

    torch.manual_seed(0)
    save_model(path, StyleGAN2Generator(GeneratorConfig(side, **fields)))


def child(task: Mapping[str, Any], threads: int, variables: Mapping[str, str] | None = None) -> float:
    """The figure of a task of `process_child.py`.

    Raises BackendError with the last line that it wrote when the process fails.
    """
    found = _run(
        [sys.executable, "-P", str(_CHILD)], threads, json.dumps({**task, "threads": threads}), variables
    )
    return float(json.loads(found.splitlines()[-1]))


def _run(command: list[str], threads: int, text: str = "", variables: Mapping[str, str] | None = None) -> str:
    """What a new process writes."""
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": paths, **(variables or {})}
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, env=environment, timeout=_LONGEST
        )
    except subprocess.TimeoutExpired:
        raise BackendError(f"the process was not done within {_LONGEST:g} s") from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise BackendError(f"the process ended early: {reason}")
    return done.stdout
