"""Builds the emulator's test programs with g++, plain and under sanitizers."""

from __future__ import annotations

import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Test programs, each of the source of its name, and the ops it runs.
PROGRAMS = {
    "emu_suite": ("bias_act", "conformance", "face_render", "modulated_conv2d", "upfirdn2d"),
    "emu_conv2d": ("conv2d",),
    "emu_upconv2d": ("upconv2d",),
    "emu_gradients": ("channel_dot", "conv2d_weight_grad"),
}
FLAVOURS = {
    "plain": [],
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"],
    "thread": ["-fsanitize=thread", "-DPYFACE_EMU_THREADS"],
}


def compile_command(flavour: str, source: Path, output: Path, first_include: Path | None = None) -> list[str]:
    """The g++ command line that makes an object file, or a program when `output` has no suffix."""
    includes = [
        *([f"-I{first_include}"] if first_include else []),
        f"-I{ROOT}/csrc",
        f"-I{ROOT}/csrc/include",
    ]
    mode = ["-c"] if output.suffix == ".o" else ["-pthread"]
    flags = ["-std=gnu++17", "-O1", "-g", "-Wall", "-Wextra", *FLAVOURS[flavour]]
    return ["g++", *flags, *includes, *mode, str(source), "-o", str(output)]


def run(command: list[str], timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """The finished process, with its output as text."""
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def must(command: list[str]) -> None:
    """Runs a build step; its errors fail the test."""
    done = run(command)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"


def unrandomized() -> list[str]:
    """A prefix that switches address randomization off for ThreadSanitizer; empty where refused."""
    prefix = ["setarch", platform.machine(), "-R"]
    if shutil.which("setarch") and run([*prefix, "true"]).returncode == 0:
        return prefix
    return []


@dataclass
class EmulatorBuild:
    """Test programs in `folder`, each built at its first use."""

    folder: Path
    built: dict[str, Path] = field(default_factory=dict)

    def objects(self, flavour: str, program: str) -> dict[Path, Path]:
        """Object file of each source of a program."""
        sources = [ROOT / f"tests/native/{program}.cpp"]
        sources += [ROOT / f"csrc/emu/{op}.cpp" for op in PROGRAMS[program]]
        return {source: self.folder / f"{flavour}_{source.stem}.o" for source in sources}

    def suite(self, flavour: str, program: str = "emu_suite") -> Path:
        """A program that runs ops in the emulator."""
        name = f"{program}_{flavour}"
        if name not in self.built:
            objects = self.objects(flavour, program)
            commands = [compile_command(flavour, source, to) for source, to in objects.items()]
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(must, commands))
            self.built[name] = self.link(flavour, list(objects.values()), name)
        return self.built[name]

    def link(self, flavour: str, objects: list[Path], name: str) -> Path:
        """A program made of object files."""
        program = self.folder / name
        must(["g++", "-pthread", *FLAVOURS[flavour], *map(str, objects), "-o", str(program)])
        return program

    def planted(self, flavour: str) -> Path:
        """The program with the planted bugs."""
        name = f"planted_{flavour}"
        if name not in self.built:
            program = self.folder / name
            must(compile_command(flavour, ROOT / "tests/native/planted_bugs.cpp", program))
            self.built[name] = program
        return self.built[name]

    def mutant(
        self,
        flavour: str,
        name: str,
        old: str,
        new: str,
        program: str = "emu_suite",
        op: str = "upfirdn2d",
        header: str = "upfirdn2d",
    ) -> Path:
        """A program with one change, `old` to `new`, in a header of the kernels of `op`."""
        self.suite(flavour, program)
        folder = self.folder / name
        (folder / "kernels").mkdir(parents=True, exist_ok=True)
        text = (ROOT / f"csrc/kernels/{header}.cuh").read_text()
        assert text.count(old) == 1, f"the kernel source has {text.count(old)} times {old!r}; one is needed"
        (folder / f"kernels/{header}.cuh").write_text(text.replace(old, new))
        object_file = folder / f"{op}.o"
        source = ROOT / f"csrc/emu/{op}.cpp"
        must(compile_command(flavour, source, object_file, first_include=folder))
        objects = {**self.objects(flavour, program), source: object_file}
        return self.link(flavour, list(objects.values()), f"mutant_{name}")
