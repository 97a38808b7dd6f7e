"""The one JSON file of a device: every part writes its entry into it (schema.json)."""

from __future__ import annotations

import json
import os
import platform
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpu_report.processes import ROOT, said
from gpu_report.record import PartError, Record

__all__ = ["FORMAT", "Document", "device_facts", "entry_of", "machine_facts", "missing_gpu", "schema"]

FORMAT = 2
_KIND = "pyface-gpu-report"


def missing_gpu() -> str | None:
    """Why nothing can be measured here, or None."""
    try:
        import torch
    except ImportError as error:
        return f"torch cannot be imported: {error}"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} finds no usable NVIDIA GPU or driver"
    return None


def device_facts() -> dict[str, Any]:
    """The GPU itself."""
    import torch

    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_gb": round(properties.total_memory / 2**30, 1),
        "multiprocessors": properties.multi_processor_count,
    }


def machine_facts(built_from: str | None) -> dict[str, Any]:
    """Versions and commit at the time of a part; built_from: the commit of the modules that it used."""
    import torch

    return {
        "driver": _line(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "commit": commit(),
        "built_from": built_from,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def commit() -> str | None:
    """The commit of the source tree, with "+" when files differ from it."""
    found = _line(["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"])
    changed = _line(["git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no"])
    return f"{found}+" if found and changed else found


def _line(command: list[str]) -> str | None:
    try:
        return said(command, timeout=30).strip() or None
    except PartError:
        return None


def schema() -> dict[str, Any]:
    """The JSON schema of a document."""
    found: dict[str, Any] = json.loads(Path(__file__).with_name("schema.json").read_text(encoding="utf-8"))
    return found


def entry_of(record: Record, machine: Mapping[str, Any], seconds: float, error: str | None) -> dict[str, Any]:
    """A part's entry. state: "failed" when the part could not be done, "stopped" when its time was over."""
    state = "failed" if error else "stopped" if record.left else "done"
    return {
        "state": state,
        "error": error,
        "seconds": round(seconds, 1),
        "machine": dict(machine),
        **record.to_dict(),
    }


class Document:
    """The file of one device."""

    def __init__(self, path: Path, device: Mapping[str, Any]) -> None:
        self.path = path
        self.values: dict[str, Any] = {"format": FORMAT, "kind": _KIND, "device": dict(device), "parts": {}}
        if path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            if found.get("format") == FORMAT and found.get("device") == dict(device):
                self.values = found

    @classmethod
    def of_device(cls, out: Path, device: Mapping[str, Any]) -> Document:
        """In its place below `out`: a folder of its own, since files beside ops.json count as benchmarks."""
        slug = re.sub(r"[^a-z0-9]+", "-", str(device["gpu"]).lower()).strip("-")
        return cls(out / slug / "gpu_report/report.json", device)

    def record_of(self, part: str, machine: Mapping[str, Any], again: bool) -> Record:
        """The record to go on with: that of a stopped run with the same versions and commit, or a new one."""
        earlier = self.values["parts"].get(part)
        if earlier is None or again or earlier["state"] != "stopped":
            return Record()
        same = {**earlier["machine"], "date": None} == {**machine, "date": None}
        return Record.of(earlier) if same else Record()

    def put(self, part: str, entry: Mapping[str, Any]) -> None:
        """Replaces the entry of a part and writes the file, whole or not at all."""
        self.values["parts"][part] = dict(entry)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(json.dumps(self.values, indent=1) + "\n", encoding="utf-8")
        partial.replace(self.path)
