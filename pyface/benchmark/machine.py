"""What a figure was measured on."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pyface
from pyface.ops import describe_backends

__all__ = ["device_slug", "machine_facts"]


def machine_facts(device: str, threads: int) -> dict[str, Any]:
    """The machine, the versions and the commit, as JSON values."""
    return {
        "device": device,
        "cpu": _cpu_model(),
        "logical_cores": os.cpu_count() or 0,
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else None,
        "gpu_driver": _gpu_driver() if torch.device(device).type == "cuda" else None,
        "backends": describe_backends(),
        "threads": threads,
        "os": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "pyface": pyface.__version__,
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def device_slug(facts: dict[str, Any]) -> str:
    """A folder name for the device, such as "intel-xeon-processor"."""
    words = re.sub(r"\((r|tm|c)\)", " ", str(facts["gpu"] or facts["cpu"]).lower())
    return re.sub(r"[^a-z0-9]+", "-", words).strip("-") or "unknown"


def _cpu_model() -> str:
    """Name of the processor; its family and model number are added where the name says little."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(re.findall(r"^(model name|cpu family|model)\s*:\s*(.+)$", text, re.MULTILINE))
    name = fields.get("model name", platform.machine())
    if re.search(r"\d", name) or "model" not in fields:
        return name
    return f"{name} family {fields.get('cpu family', '?')} model {fields['model']}"


def _gpu_driver() -> str | None:
    return _output(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])


def _commit() -> str | None:
    """The commit of the source tree that pyface was imported from, or else of the one we stand in; with "+"
    when files differ from it; None outside a source tree."""
    trees = (Path(pyface.__file__).resolve().parents[1], Path.cwd())
    root = next((tree for tree in trees if (tree / "csrc/include/pyface").is_dir()), None)
    if root is None:
        return None
    commit = _output(["git", "-C", str(root), "rev-parse", "--short=12", "HEAD"])
    changed = _output(["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no"])
    return f"{commit}+" if commit and changed else commit


def _output(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
