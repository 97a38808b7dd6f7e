"""Compiles and runs the ladders of this folder; writes bench/results/<device>/kernels.json.

    python bench/kernels/run.py [--device cpu|cuda] [--only bias_act ...] [--rounds 9] [--out FOLDER|FILE]

CPU ladders are built for the instruction set that pyface takes here, with the flags of CMakeLists.txt. A
ladder that cannot be built or run is listed with the reason. Ladders of an earlier run that are not run again
stay.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
FORMAT = 1
BUILD_TIMEOUT_S, RUN_TIMEOUT_S = 300, 300
INCLUDES = ["-I", str(ROOT / "csrc"), "-I", str(ROOT / "csrc/include")]
CPU_FLAGS = ["-std=gnu++17", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fopenmp"]
_AVX512 = ["-march=x86-64-v4", "-mprefer-vector-width=512"]
ISA_FLAGS = {
    "baseline": [],
    "avx2": ["-march=x86-64-v3"],
    "avx512": _AVX512,
    "amx": [*_AVX512, "-mavx512bf16", "-mamx-tile", "-mamx-bf16"],
}


@dataclass(frozen=True)
class Ladder:
    """One file: the shipped source it is linked with, and sizes at which it runs in no time."""

    name: str
    source: str
    small: tuple[str, ...]
    tiles: bool = False  # has versions for AMX

    @property
    def device(self) -> str:
        """ "cpu" or "cuda"."""
        return "cuda" if self.name.endswith(".cu") else "cpu"

    @property
    def stem(self) -> str:
        """The file's name without its ending."""
        return self.name.split(".")[0]


LADDERS = (
    Ladder("bias_act.cpp", "bias_act", ("n=2", "c=3", "h=9", "w=17")),
    Ladder("upfirdn2d.cpp", "upfirdn2d", ("planes=3", "h=9", "w=37")),
    Ladder("conv_epilogue.cpp", "modulated_conv2d", ("n=2", "c=35", "h=5", "w=7")),
    Ladder("styled_conv.cpp", "styled_conv", ("n=2", "in=64", "out=32", "h=5", "w=32"), tiles=True),
    Ladder("face_render.cpp", "face_render", ("size=40",)),
    Ladder("bias_act.cu", "bias_act", ("n=2", "c=5", "h=8", "w=16")),
    Ladder("upfirdn2d.cu", "upfirdn2d", ("planes=2", "h=21", "w=70")),
    Ladder("modulated_conv2d.cu", "modulated_conv2d", ("n=2", "c=16", "h=4", "w=8")),
    Ladder("conv2d.cu", "conv2d", ("n=1", "in=32", "out=24", "h=5", "w=6")),
    Ladder("conv2d_weight_grad.cu", "conv2d_weight_grad", ("n=1", "in=16", "out=24", "h=4", "w=5")),
    Ladder("upconv2d.cu", "upconv2d", ("n=2", "in=40", "out=24", "h=9", "w=5")),
)


class LadderError(RuntimeError):
    """A ladder could not be built or run, or a version is wrong; the text says why."""


def cpu_command(ladder: Ladder, isa: str, program: Path, optimize: str = "-O3") -> list[str]:
    """The g++ command line of a CPU ladder and the shipped source, both for one instruction set."""
    sources = [
        FOLDER / ladder.name,
        ROOT / f"csrc/cpu/{ladder.source}.cpp",
        ROOT / "csrc/cpu/dispatch/threads.cpp",
    ]
    flags = [*CPU_FLAGS, optimize, *ISA_FLAGS[isa], f"-DPYFACE_ISA_NS=isa_{isa}"]
    return ["g++", *flags, *INCLUDES, *map(str, sources), "-o", str(program)]


def cuda_command(ladder: Ladder, arch: str, program: Path, object_only: bool = False) -> list[str]:
    """The nvcc command line of a CUDA ladder; object_only: without the shipped source, not linked."""
    flags = [
        "-std=c++17",
        "-O3",
        "--expt-relaxed-constexpr",
        f"-arch={arch}",
        *INCLUDES,
        str(FOLDER / ladder.name),
    ]
    sources = ["-c"] if object_only else [str(ROOT / f"csrc/cuda/{ladder.source}.cu")]
    return ["nvcc", *flags, *sources, "-o", str(program)]


def emulator_command(ladder: Ladder, program: Path) -> list[str]:
    """The g++ command line that runs a CUDA ladder in the emulator: whether it is right, not how fast."""
    sources = [str(FOLDER / ladder.name), str(ROOT / f"csrc/emu/{ladder.source}.cpp")]
    return ["g++", "-std=gnu++17", "-O0", "-pthread", "-x", "c++", *INCLUDES, *sources, "-o", str(program)]


def said(command: list[str], timeout: float) -> str:
    """Standard output of a command. Raises LadderError with the end of its errors."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except FileNotFoundError as error:
        raise LadderError(f"{command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise LadderError(f"{Path(command[0]).name} took more than {timeout:.0f} s") from error
    if done.returncode != 0:
        raise LadderError(f"{Path(command[0]).name} gave {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.stdout


def versions_of(program: Path, arguments: Iterable[str]) -> list[dict[str, Any]]:
    """What a built ladder prints, one entry a version. Raises LadderError when a version is wrong."""
    return [json.loads(line) for line in said([str(program), *arguments], RUN_TIMEOUT_S).splitlines()]


def relative(command: list[str]) -> str:
    """A command as one would type it in the folder of the project."""
    return shlex.join(part.replace(f"{ROOT}/", "") for part in command[:-1]) + f" {Path(command[-1]).name}"


def measure(ladder: Ladder, target: str, arguments: list[str], folder: Path) -> dict[str, Any]:
    """One ladder's part of the document. target: instruction set, or architecture of the GPU for nvcc."""
    program = folder / f"{ladder.stem}_{ladder.device}"
    target = "avx512" if target == "amx" and not ladder.tiles else target
    command = (cpu_command if ladder.device == "cpu" else cuda_command)(ladder, target, program)
    said(command, BUILD_TIMEOUT_S)
    versions = versions_of(program, arguments)
    return {
        "name": ladder.name,
        "kernel": versions[0]["kernel"],
        "device": ladder.device,
        "target": target,
        "command": relative(command),
        "versions": versions,
    }


def target_of(device: str) -> str:
    """The instruction set that pyface takes here, or the architecture of the first GPU."""
    if device == "cpu":
        from pyface import _cpu

        return str(_cpu.isa())
    import torch

    if not torch.cuda.is_available():
        raise LadderError("there is no usable NVIDIA GPU here; CUDA ladders were not measured")
    major, minor = torch.cuda.get_device_capability()
    return f"sm_{major}{minor}{'a' if (major, minor) == (9, 0) else ''}"


def compilers(device: str) -> dict[str, str]:
    """The compilers that were used, by name, with the line that tells the version."""
    found = {}
    for name in ("g++", "nvcc") if device == "cuda" else ("g++",):
        if shutil.which(name):
            lines = said([name, "--version"], 30).splitlines()
            found[name] = next((line for line in lines if "release" in line), lines[0])
    return found


def merged(document: dict[str, Any], earlier: dict[str, Any] | None) -> dict[str, Any]:
    """`document` with the ladders of an earlier one that it does not hold, in the order of LADDERS."""
    if earlier is None or earlier.get("format") != FORMAT:
        return document
    done = {entry["name"] for entry in [*document["ladders"], *document["skipped"]]}
    order = [ladder.name for ladder in LADDERS]
    kept = [entry for entry in earlier["ladders"] if entry["name"] not in done and entry["name"] in order]
    ladders = sorted([*document["ladders"], *kept], key=lambda entry: order.index(entry["name"]))
    return {**document, "ladders": ladders}


def run(
    ladders: Iterable[Ladder], device: str, rounds: int | None, quick: bool, tell: Any = print
) -> dict[str, Any]:
    """Builds and runs ladders of one device; gives the document (schema.json)."""
    from pyface.benchmark.machine import machine_facts

    measured: list[dict[str, Any]] = []
    skipped: list[dict[str, str]] = []
    target = target_of(device)
    facts = machine_facts(device, 1)
    with tempfile.TemporaryDirectory(prefix="pyface-ladders-") as folder:
        for ladder in ladders:
            arguments = list(ladder.small) if quick else []
            arguments += [f"rounds={rounds}"] if rounds else []
            try:
                entry = measure(ladder, target, arguments, Path(folder))
            except LadderError as error:
                skipped.append({"name": ladder.name, "reason": str(error)})
                tell(f"{ladder.name}: {error}")
                continue
            measured.append({**entry, "date": facts["date"], "commit": facts["commit"]})
            for version in entry["versions"]:
                ms = "not measured" if version["ms"] is None else f"{version['ms']:.4g} ms"
                tell(f"{ladder.name} {version['version']}: {ms}, {version['what']}")
    return {
        "format": FORMAT,
        "kind": "pyface-kernel-ladders",
        "machine": facts,
        "compilers": compilers(device),
        "ladders": measured,
        "skipped": skipped,
    }


def main(arguments: list[str] | None = None) -> int:
    """Runs ladders and writes the file; gives 1 when one of them could not be built or is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--only", action="append", metavar="NAME", help="ladders whose name has this in it")
    parser.add_argument("--rounds", type=int, help="samples of each version; 9 unless given")
    parser.add_argument("--quick", action="store_true", help="small sizes: to see that everything runs")
    parser.add_argument("--out", type=Path, default=ROOT / "bench/results", help="folder, or a .json file")
    options = parser.parse_args(arguments)
    of_device = [ladder for ladder in LADDERS if ladder.device == options.device]
    chosen = [
        ladder
        for ladder in of_device
        if not options.only or any(word in ladder.name for word in options.only)
    ]
    if not chosen:
        parser.error(f"--only matches none of {', '.join(ladder.name for ladder in of_device)}")
    from pyface.benchmark.machine import device_slug

    try:
        document = run(chosen, options.device, options.rounds, options.quick)
    except LadderError as error:
        print(f"not measured: {error}")
        return 0
    path = options.out
    if path.suffix != ".json":
        path = path / device_slug(document["machine"]) / "kernels.json"
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(merged(document, earlier), indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
    print(f"wrote {path}")
    return 1 if document["skipped"] else 0


if __name__ == "__main__":
    sys.exit(main())
