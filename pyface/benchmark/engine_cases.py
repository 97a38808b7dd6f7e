"""Engines of `pyface.export` side by side: pictures a second, start-up and memory.

The ways are those of the other tables: "pyface" is the native engine, "torch eager" the torch engine, layer
by layer. What is timed is `Engine.pixels`, ws to uint8, as datasets are made; what is compared, also as PSNR
over the range [-1, 1], are the float images, with the torch engine in float32. Networks have random weights;
exported files are made once for a run. All engines at once need more memory than many machines have for 8
pictures of 1024 px: there each has processes of its own, one after the other.
"""

from __future__ import annotations

import functools
import math
import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyface.benchmark.case import EAGER, OURS, Case, Variant, Workload
from pyface.benchmark.document import reason_of
from pyface.benchmark.process_cases import ProcessCase, child
from pyface.benchmark.rivals import ONNX_RUNTIME, OPENVINO
from pyface.benchmark.scaling_cases import channel_base_of
from pyface.benchmark.synthesis_cases import TOLERANCE, SynthesisCounts, random_generator
from pyface.errors import BackendError, PyfaceError
from pyface.export.engines.availability import require
from pyface.export.engines.fixed_batch import Settings
from pyface.models import GeneratorConfig, Images
from pyface.training.allocator import keep_freed_memory

__all__ = [
    "WAYS",
    "EngineWork",
    "engine_cases",
    "engine_process_cases",
    "engine_workload",
    "measured_in_process",
]

# name in tables -> engine; ours first
WAYS: Mapping[str, str] = {
    OURS: "native",
    EAGER: "torch",
    OPENVINO: "openvino",
    ONNX_RUNTIME: "onnxruntime",
}
_FILES = {"openvino": "generator.xml", "onnxruntime": "generator.onnx"}
_SIDES, _BATCHES = (256, 1024), (1, 8)
_DTYPES = ("float32", "bfloat16")
_ROUNDS = 5
_PEAK = 2.0  # images are in [-1, 1]
_ALONE = (1024, 8)  # side and batch that engines are measured in processes of their own
_GB_PER_PIXEL = 24 / (8 * 1024**2)  # of memory, all engines together
_LEAST_GB = 2.0


class EngineWork:
    """A random generator on the disk, and the files that engines make of it.

    Args:
        side: of the pictures, in pixels.
        settings: further fields of its configuration.
    """

    def __init__(self, side: int, **settings: Any) -> None:
        self.side, self.settings = side, {"channel_base": channel_base_of(side), **settings}
        self._scratch = tempfile.TemporaryDirectory(prefix="pyface-bench-engines-")
        self.folder = Path(self._scratch.name)

    @property
    def checkpoint(self) -> Path:
        """The generator, written when it is first asked for."""
        from pyface.io.checkpoint import save_model

        path = self.folder / "generator.safetensors"
        if not path.exists():
            save_model(path, random_generator(self.side, **self.settings))
        return path

    def exported(self, engine: str, dtype: str) -> Path | None:
        """What an engine runs in this precision; None where it runs the network itself."""
        if engine not in _FILES:
            return None
        path = self.folder / engine / dtype / _FILES[engine]
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            options: dict[str, Any] = {"precision": dtype, "inputs": "ws", "certify": False}
            if engine == "openvino":
                from pyface.export import export_openvino

                export_openvino(self.checkpoint, path, **options)
            else:
                from pyface.export import export_onnx

                export_onnx(self.checkpoint, path, **options)
        return path

    def opened(self, engine: str, dtype: str, batch: int, device: str = "cpu") -> Any:
        """The engine. Raises ImportError or a PyfaceError where it cannot run."""
        from pyface.export import open_engine

        require(engine, Settings(dtype, batch, torch.device(device)))
        exported = self.exported(engine, dtype)
        if exported is None:
            return open_engine(self.checkpoint, engine, precision=dtype, batch=batch, device=device)
        return open_engine(exported, engine, network=self.checkpoint, batch=batch, device=device, force=True)


@functools.cache
def _work(side: int) -> EngineWork:
    return EngineWork(side)


def engine_cases() -> list[Case]:
    """256 px one by one and 8 at a time, 1024 px one by one, in each precision of several engines."""
    cases = []
    for side in _SIDES:
        for batch in _BATCHES:
            for dtype in _DTYPES if (side, batch) != _ALONE else ():
                size = f"{batch}x3x{side}x{side}"
                build = functools.partial(_build, side, batch, dtype)
                cases.append(
                    Case(
                        f"engines/{size}/{dtype}", "engines", "engines", size, dtype, "-", build,
                        cold=False, quick=(side, batch) == (256, 1), rounds=_ROUNDS, rivals=False,
                    )
                )  # fmt: skip
    return cases


def _build(side: int, batch: int, dtype: str, device: str) -> Workload:
    needed, free = max(_LEAST_GB, batch * side**2 * _GB_PER_PIXEL), _free_gb()
    if device == "cpu" and free < needed:
        raise BackendError(
            f"all engines at once may need {needed:.0f} GB of memory; {free:.0f} GB are available."
        )
    return engine_workload(_work(side), batch, dtype, device)


def _free_gb() -> float:
    found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"))
    return int(found[1]) * 1024 / 1e9 if found else math.inf


def engine_workload(work: EngineWork, batch: int, dtype: str, device: str = "cpu") -> Workload:
    """`batch` pictures of `work` by every engine that can run here.

    Raises BackendError where ours cannot.
    """
    keep_freed_memory()
    engines: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for way, name in WAYS.items():
        try:
            engines[way] = work.opened(name, dtype, batch, device)
        except (ImportError, PyfaceError) as error:
            if way == OURS:
                raise BackendError(str(error)) from error
            left_out[way] = reason_of(error)
    with work.opened("torch", "float32", batch, device) as plain:
        ws = plain.mapping(torch.randn(batch, plain.z_dim, generator=torch.Generator().manual_seed(0)))
        truth = _joined(plain.synthesis(ws)).cpu()
    counts = SynthesisCounts.of(GeneratorConfig(work.side, **work.settings))
    return Workload(
        {way: _variant(engine, ws) for way, engine in engines.items()},
        reference=truth.double,
        flops=2 * counts.macs * batch,
        bytes=counts.bytes(batch, getattr(torch, dtype).itemsize),
        items=batch,
        tolerance=TOLERANCE[dtype],
        peak=_PEAK,
        left_out=left_out,
    )


def _variant(engine: Any, ws: Tensor) -> Variant:
    def run() -> Tensor:
        pixels: Tensor = next(iter(engine.pixels(ws).values()))
        return pixels

    return Variant(run, result=lambda: _joined(engine.synthesis(ws)).cpu())


def _joined(images: Images) -> Tensor:
    return images if isinstance(images, Tensor) else torch.cat(list(images.values()), dim=1)


def engine_process_cases() -> list[ProcessCase]:
    """Seconds from the start of a process to its first picture, the memory of one that goes on, and pictures
    a second where engines are too large to run side by side."""
    return [
        ProcessCase(
            f"engines/{what}/{batch}x3x{side}x{side} {dtype}",
            way,
            unit,
            functools.partial(_measured, what, name, side, batch, dtype),
            repeats=3 if what == "start" else 1,
            quick=(way, side, batch, dtype) == (OURS, 256, 1, "float32"),
            group="engines",
        )
        for side in _SIDES
        for what, unit, batches in (
            ("start", "s", (1,)),
            ("memory", "MB", _BATCHES),
            ("speed", "img/s", tuple(batch for batch in _BATCHES if (side, batch) == _ALONE)),
        )
        for batch in batches
        for dtype in _DTYPES
        for way, name in WAYS.items()
    ]


def _measured(what: str, engine: str, side: int, batch: int, dtype: str, threads: int, folder: Path) -> float:
    """folder: not used, the cases of the clock have made the files already."""
    return measured_in_process(_work(side), what, engine, batch, dtype, threads)


def measured_in_process(
    work: EngineWork, what: str, engine: str, batch: int, dtype: str, threads: int
) -> float:
    """Seconds ("start"), MB ("memory") or pictures a second ("speed") of a process of its own that makes
    `batch` pictures at a time by `engine`.

    Raises BackendError or ImportError where the engine cannot run, or not in this precision.
    """
    try:
        if engine != "native":  # ours has to run: what stops it is a failure
            require(engine, Settings(dtype, batch))
        exported = work.exported(engine, dtype)
    except PyfaceError as error:
        raise BackendError(str(error)) from error
    task = {
        "started": time.time(),
        "task": f"engine {what}",
        "engine": engine,
        "checkpoint": str(work.checkpoint),
        "exported": None if exported is None else str(exported),
        "dtype": dtype,
        "batch": batch,
    }
    return child(task, threads)
