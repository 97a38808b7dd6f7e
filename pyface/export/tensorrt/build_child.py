"""Builds one engine, in a process of its own: `python build_child.py JOB.json`.

A parser of TensorRT can end its process, and a build can hang; the process that waits for this one survives
both. The job is written by `pyface.export.tensorrt.build`:

    {"flavour", "onnx", "out", "report", "profile": {input: [[smallest], [best], [largest]]} or null,
     "capabilities": [89], "timing_cache": path or null}

What came of it is written to "report" as JSON: {"ok", "stage", "errors", "warnings", "seconds", "layers"}.
Reads neither torch nor anything else that takes long to import.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyface.export.tensorrt.library import Library, import_library

__all__ = ["build", "end_with_parent", "main", "make_log"]

_KEPT = 20  # messages of each kind
_PR_SET_PDEATHSIG = 1


def build(job: Mapping[str, Any], library: Library) -> dict[str, Any]:
    """Write the engine to job["out"], and say what came of it."""
    trt = library.module
    log = make_log(trt)
    builder = trt.Builder(log)
    network = builder.create_network(library.network_flags)
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(job["onnx"]):
        errors = [_told(parser.get_error(index)) for index in range(parser.num_errors)]
        return {"ok": False, "stage": "parse", "errors": errors or log.errors, "warnings": log.warnings}
    config = builder.create_builder_config()
    _add_profile(builder, config, job.get("profile"))
    if library.targets:
        _set_targets(trt, config, job["capabilities"])
    cache = _timing_cache(config, job.get("timing_cache")) if library.has_timing_cache else None
    began = time.perf_counter()
    plan = builder.build_serialized_network(network, config)
    seconds = round(time.perf_counter() - began, 2)
    if plan is None:
        return {"ok": False, "stage": "build", "errors": log.errors, "warnings": log.warnings}
    Path(job["out"]).write_bytes(plan)
    if cache is not None:
        Path(job["timing_cache"]).write_bytes(config.get_timing_cache().serialize())
    layers = int(network.num_layers)
    return {
        "ok": True,
        "stage": "done",
        "errors": [],
        "warnings": log.warnings,
        "seconds": seconds,
        "layers": layers,
    }


def make_log(trt: Any) -> Any:
    """A logger that keeps errors and warnings and writes errors to stderr."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.warnings: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= int(trt.ILogger.ERROR):
                print(message, file=sys.stderr, flush=True)
                self.errors += [message] if len(self.errors) < _KEPT else []
            elif int(severity) == int(trt.ILogger.WARNING):
                self.warnings += [message] if len(self.warnings) < _KEPT else []

    return Log()


def _told(error: Any) -> str:
    return f"{error.desc()} (node {error.node_name() or error.node()}, {error.node_operator()})"


def _add_profile(builder: Any, config: Any, shapes: Mapping[str, Any] | None) -> None:
    if not shapes:
        return
    profile = builder.create_optimization_profile()
    for name, (smallest, best, largest) in shapes.items():
        profile.set_shape(name, tuple(smallest), tuple(best), tuple(largest))
    if config.add_optimization_profile(profile) < 0:
        raise ValueError(f"the profile {dict(shapes)} was not taken")


def _set_targets(trt: Any, config: Any, capabilities: list[int]) -> None:
    config.num_compute_capabilities = len(capabilities)
    for index, capability in enumerate(capabilities):
        config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{capability}"), index)


def _timing_cache(config: Any, path: str | None) -> Any:
    """The cache at `path` in use, or an empty one where there is none or it is of another GPU."""
    if path is None:
        return None
    kept = Path(path).read_bytes() if Path(path).is_file() else b""
    for data in dict.fromkeys([kept, b""]):
        cache = config.create_timing_cache(data)
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
    return None


def end_with_parent() -> None:
    """Let the kernel end this process when the one that started it ends, however that happens (Linux)."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))


def main(job_file: str) -> None:
    """Do the job in this file."""
    end_with_parent()
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    report = build(job, import_library(job["flavour"]))
    Path(job["report"]).write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
