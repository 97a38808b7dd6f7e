"""The package with native modules for the architecture of this GPU alone, and the emulator."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from gpu_report.document import commit
from gpu_report.processes import ROOT, Place, said
from gpu_report.record import Deadline, PartError, Record

__all__ = ["build", "built_from", "require_kernels", "site_of"]

_STEPS = ("configure", "compile", "install")


def site_of(folder: Path) -> Path:
    """Where the package is put."""
    return folder / "site"


def built_from(folder: Path) -> str | None:
    """The commit of the package that was built, or None where there is none."""
    note = site_of(folder) / "built_from"
    return note.read_text(encoding="utf-8") if note.exists() else None


def build(place: Place, record: Record, deadline: Deadline) -> None:
    """Puts the package into `site_of(folder)`. A build that was cut off goes on where it was."""
    if not record.left:
        record.plan(_STEPS)
    record.one_by_one(lambda step, limit: _step(step, place.folder, limit), deadline)


def _step(step: str, folder: Path, deadline: Deadline) -> dict[str, Any]:
    work, site = folder / "build", site_of(folder)
    if step == "configure":
        arch = _architecture()
        (site / "built_from").unlink(missing_ok=True)
        said(_configuration(work, arch), timeout=deadline.left())
        return {"architecture": arch, "nvcc": said(["nvcc", "--version"]).strip().splitlines()[-1]}
    if step == "compile":
        said(["cmake", "--build", str(work), "--parallel", str(os.cpu_count() or 1)], timeout=deadline.left())
        return {}
    shutil.rmtree(site, ignore_errors=True)
    shutil.copytree(ROOT / "pyface", site / "pyface", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    said(["cmake", "--install", str(work), "--prefix", str(site)], timeout=deadline.left())
    (site / "built_from").write_text(commit() or "unknown", encoding="utf-8")
    return {}


def _architecture() -> str:
    import torch

    major, minor = torch.cuda.get_device_capability()
    return f"{major}{minor}{'a' if (major, minor) == (9, 0) else ''}-real"


def _configuration(work: Path, arch: str) -> list[str]:
    try:
        import pybind11
    except ImportError as error:
        raise PartError(
            "pybind11 is not installed; the native modules cannot be built (pip install pybind11)"
        ) from error
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    return [
        "cmake", "-S", str(ROOT), "-B", str(work), *generator, "-DCMAKE_BUILD_TYPE=Release",
        "-DPYFACE_CUDA=ON", "-DPYFACE_EMU=ON", f"-DPYFACE_CUDA_ARCHS={arch}",
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}", f"-DPython_EXECUTABLE={sys.executable}",
    ]  # fmt: skip


def require_kernels() -> None:
    """Raises PartError where pyface would take its reference instead of its kernels."""
    import pyface

    found = pyface.backend("cuda")
    if found != "cuda":
        raise PartError(f"pyface takes its {found} for CUDA tensors: no CUDA module; run --part build first")
