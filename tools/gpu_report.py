"""Builds pyface for the NVIDIA GPU of this machine, checks it and measures it; one JSON file at the end.

    python tools/gpu_report.py [--out bench/results] [--steps build,primitives,...] [--no-build] [--quick]

Steps: build (for this GPU's architecture only), primitives (emulator against GPU, bit for bit), faces
(rendered faces, emulator against GPU, and faces per second), tests (the op suite on back-end cuda), sanitizer
(compute-sanitizer over small shapes), ceilings (copy and matrix product), benchmarks (`pyface bench` cases,
each with its share of the ceilings). Every step runs in its own process; a step that fails is written down
and the others go on. Nothing is downloaded. Without a GPU it says what was not measured, writes nothing and
exits with 0.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
STEPS = ("build", "primitives", "faces", "tests", "sanitizer", "ceilings", "benchmarks")
SANITIZER_TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
BENCHMARKS = (
    "bias_act/",
    "conv_epilogue/",
    "blur/",
    "upsample 2/",
    "downsample 2/",
    "modulated_conv2d",
    "render faces/",
    "call/",
)
STEP_TIMEOUT_S = {"build": 1800, "tests": 3600, "sanitizer": 1800, "benchmarks": 3600}


class StepError(RuntimeError):
    """A step could not be done; the text says why."""


def run(
    command: list[str], *, timeout: float = 600, env: dict[str, str] | None = None, cwd: Path | None = None
) -> str:
    """Standard output of a command. Raises StepError with the end of its output when it fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, check=False, env=env, cwd=cwd
        )
    except FileNotFoundError as error:
        raise StepError(f"{command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise StepError(f"{command[0]} took more than {timeout:.0f} s") from error
    if done.returncode != 0:
        raise StepError(
            f"{' '.join(command[:4])} ... gave {done.returncode}: {(done.stdout + done.stderr)[-3000:]}"
        )
    return done.stdout


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


# ---- build


def build(site: Path) -> dict[str, Any]:
    """Puts the package with modules for this GPU into `site`; gives the architecture and the time."""
    import torch

    try:
        import pybind11
    except ImportError as error:
        raise StepError(
            "pybind11 is not installed; the native modules cannot be built (pip install pybind11)"
        ) from error
    major, minor = torch.cuda.get_device_capability()
    arch = f"{major}{minor}{'a' if (major, minor) == (9, 0) else ''}-real"
    start = time.perf_counter()
    shutil.copytree(ROOT / "pyface", site / "pyface", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    folder = site.parent / "build"
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    run(
        [
            "cmake", "-S", str(ROOT), "-B", str(folder), *generator, "-DCMAKE_BUILD_TYPE=Release",
            "-DPYFACE_CUDA=ON", "-DPYFACE_EMU=ON", f"-DPYFACE_CUDA_ARCHS={arch}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}", f"-DPython_EXECUTABLE={sys.executable}",
        ]
    )  # fmt: skip
    run(
        ["cmake", "--build", str(folder), "--parallel", str(os.cpu_count() or 1)],
        timeout=STEP_TIMEOUT_S["build"],
    )
    run(["cmake", "--install", str(folder), "--prefix", str(site)])
    return {
        "architecture": arch,
        "seconds": round(time.perf_counter() - start, 1),
        "nvcc": run(["nvcc", "--version"]),
    }


# ---- primitives: emulator against GPU


def primitive_input(primitive: int, size: int) -> Any:
    """Bytes for a primitive. Sums of the matrix product are exact in float32 in any order of addition."""
    import numpy as np

    random = np.random.default_rng(primitive)
    if primitive > 1:
        return random.integers(1, 120, size, dtype=np.uint8)
    small = random.integers(-8, 9, 384).astype(np.float32)
    halves = small.astype(np.float16).view(np.uint16) if primitive == 0 else (small.view(np.uint32) >> 16)
    c = random.integers(-64, 65, 128).astype(np.float32)
    return np.concatenate([halves.astype(np.uint16).view(np.uint8), c.view(np.uint8)])


def primitives() -> dict[str, Any]:
    """Whether emulator and GPU agree on each hardware primitive, bit for bit."""
    import torch

    from pyface import _cuda, _emu

    names = ("mma f16", "mma bf16", "ldmatrix", "ldmatrix trans", "shuffles", "cp.async")
    result = {}
    for primitive, name in enumerate(names):
        in_bytes, out_bytes = _emu.conformance_bytes(primitive)
        given = torch.from_numpy(primitive_input(primitive, in_bytes))
        emulated = torch.zeros(out_bytes, dtype=torch.uint8)
        _emu.conformance(primitive, given.data_ptr(), emulated.data_ptr(), 2)
        on_gpu, measured = given.cuda(), torch.zeros(out_bytes, dtype=torch.uint8, device="cuda")
        _cuda.conformance(
            primitive, on_gpu.data_ptr(), measured.data_ptr(), torch.cuda.current_stream().cuda_stream
        )
        torch.cuda.synchronize()
        result[name] = "equal" if torch.equal(measured.cpu(), emulated) else "DIFFERENT"
    return result


# ---- faces


def compare_faces(count: int, size: int) -> dict[str, Any]:
    """Shares of pixels on which GPU and emulator agree, and the largest landmark distance in pixels."""
    import numpy as np
    import torch

    from pyface.data import draw_faces
    from pyface.ops import _native
    from pyface.ops.face_render import face_render

    rows = torch.from_numpy(draw_faces(0, np.arange(count), 0).parameters)
    with _native.use("emu", schedule=2):
        emulated = face_render(rows, size)
    measured = {name: value.cpu() for name, value in face_render(rows.cuda(), size, backend="cuda").items()}

    def share(same: Any) -> float:
        return float(same.double().mean())

    result = {
        name: share((emulated[name].int() - measured[name].int()).abs() <= 1) for name in ("vis", "nir")
    }
    result["segmentation"] = share(emulated["segmentation"] == measured["segmentation"])
    result["depth"] = share(torch.isclose(emulated["depth"], measured["depth"], rtol=0, atol=0.01))
    off = float((emulated["landmarks"] - measured["landmarks"]).abs().max())
    ok = min(result.values()) >= 0.999 and off <= 0.01
    return {"share_equal": result, "landmarks_off_px": off, "ok": ok}


def faces() -> dict[str, Any]:
    """Whether emulator and GPU draw the same small faces; faces per second at 128 px, all outputs and VIS."""
    import numpy as np
    import torch

    from pyface.data import draw_faces
    from pyface.ops.face_render import OUTPUTS, face_render

    count = 256
    rows = torch.from_numpy(draw_faces(0, np.arange(count), 0).parameters).cuda()
    speed = {
        name: count / event_ms(lambda wanted=wanted: face_render(rows, 128, wanted, backend="cuda")) * 1e3
        for name, wanted in (("all outputs", tuple(OUTPUTS)), ("vis", ("vis",)))
    }
    compared = {str(size): compare_faces(4, size) for size in (24, 33, 64)}
    return {
        "against_emulator": compared,
        "faces_per_s_128px": speed,
        "ok": all(found["ok"] for found in compared.values()),
    }


# ---- tests


def tests(folder: Path, env: dict[str, str]) -> dict[str, Any]:
    """Counts of the op suite on back-end cuda, and the names of failed tests."""
    if subprocess.run([sys.executable, "-c", "import pytest"], capture_output=True, check=False).returncode:
        raise StepError(
            "pytest is not installed; the op suite was not run (pip install pytest pytest-timeout)"
        )
    report = folder / "tests.xml"
    call = "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"  # -m pytest would import the source tree
    command = [sys.executable, "-c", call, str(ROOT / "tests/ops"), "-k", "cuda", "-q"]
    command += [f"--junitxml={report}"]
    command += [f"--rootdir={ROOT}", "-c", str(ROOT / "pyproject.toml"), "-p", "no:cacheprovider"]
    failure = None
    try:
        run(command, timeout=STEP_TIMEOUT_S["tests"], env=env, cwd=folder)
    except StepError as error:
        failure = str(error)
    if not report.exists():
        raise StepError(failure or "pytest wrote no report")
    suite = ElementTree.parse(report).getroot().find("testsuite")
    if suite is None:
        raise StepError("the report of pytest has no suite")
    counts = {key: int(suite.get(key, "0")) for key in ("tests", "failures", "errors", "skipped")}
    failed = [f"{case.get('name')}" for case in suite.iter("testcase") if case.find("failure") is not None]
    if counts["tests"] == counts["skipped"]:
        raise StepError(f"no test ran on the GPU: {counts}")
    return {**counts, "failed": failed, "ok": not counts["failures"] and not counts["errors"]}


# ---- sanitizer


def small_shapes() -> dict[str, Any]:
    """Every op once in small, odd and aligned shapes on the GPU, compared with the CPU; small faces too."""
    import torch

    from pyface import ops

    torch.manual_seed(0)
    worst = 0.0
    for dtype, slack in (
        (torch.float32, 1e-5),
        (torch.float16, 4e-3),
        (torch.bfloat16, 3e-2),
        (torch.float64, 1e-11),
    ):
        for shape in ((2, 8, 33, 40), (1, 3, 7, 9)):
            for layout in (torch.contiguous_format, torch.channels_last):
                x = torch.randn(shape).to(dtype).contiguous(memory_format=layout)
                b, w, s = (
                    torch.randn(shape[1]),
                    torch.randn(4, shape[1], 3, 3),
                    torch.randn(shape[0], shape[1]),
                )
                f = ops.setup_filter([1, 3, 3, 1])
                calls: list[Callable[..., Any]] = [
                    lambda x, b, w, s, f, to: ops.bias_act(
                        x, b.to(x.dtype), act="lrelu", clamp=2.0, backend=to
                    ),
                    lambda x, b, w, s, f, to: ops.bias_act(x, b.to(x.dtype), act="swish", backend=to),
                    lambda x, b, w, s, f, to: ops.upfirdn2d(
                        x, f, up=2, padding=[2, 1, 2, 1], gain=4, backend=to
                    ),
                    lambda x, b, w, s, f, to: ops.upfirdn2d(x, f, down=2, padding=1, backend=to),
                    lambda x, b, w, s, f, to: ops.upfirdn2d(x, f, padding=[2, 1, 2, 1], backend=to),
                    lambda x, b, w, s, f, to: ops.modulated_conv2d(
                        x, w.to(x.dtype), s.to(x.dtype), padding=1, backend=to
                    ),
                ]
                for index, call in enumerate(calls):
                    truth = call(x.double(), b.double(), w.double(), s.double(), f, "reference")
                    y = call(x.cuda(), b.cuda(), w.cuda(), s.cuda(), f.cuda(), "cuda").cpu().double()
                    error = float((y - truth).abs().max() / truth.abs().max())
                    worst = max(worst, error / slack)
                    if not error <= slack * (4 if index == 5 else 1):
                        raise StepError(f"case {index} {dtype} {shape} {layout}: error {error:.3g}")
    drawn = compare_faces(2, 33)
    if not drawn["ok"]:
        raise StepError(f"faces differ from the emulator's: {drawn}")
    return {"largest_error_of_allowed": worst}


def sanitizer(env: dict[str, str]) -> dict[str, Any]:
    """What each tool of compute-sanitizer says about the small shapes."""
    program = shutil.which("compute-sanitizer")
    if program is None:
        raise StepError("compute-sanitizer is not on PATH; memory and races on the GPU were not checked")
    command = [sys.executable, str(Path(__file__).resolve()), "--inner", "small_shapes"]
    result: dict[str, Any] = {}
    for tool in SANITIZER_TOOLS:
        try:
            text = run(
                [program, "--tool", tool, "--error-exitcode", "86", *command],
                timeout=STEP_TIMEOUT_S["sanitizer"], env=env,
            )  # fmt: skip
            summary = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: .*", text)
            result[tool] = summary[-1] if summary else "no summary"
        except StepError as error:
            result[tool] = f"failed: {error}"
    return {**result, "ok": not any(str(text).startswith("failed") for text in result.values())}


# ---- ceilings and benchmarks


def event_ms(work: Callable[[], object], rounds: int = 20) -> float:
    """Median time of `work` between two events, in milliseconds."""
    import torch

    times = []
    for turn in range(rounds + 3):
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        first.record()
        work()
        last.record()
        torch.cuda.synchronize()
        if turn >= 3:
            times.append(first.elapsed_time(last))
    return statistics.median(times)


def ceilings() -> dict[str, Any]:
    """Bytes per second of a large copy (read + write), FLOP per second of 8192^3 products of random data."""
    import torch

    free, _ = torch.cuda.mem_get_info()
    count = min(2 << 30, free // 4)
    source = torch.empty(count, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    copy_ms = event_ms(lambda: target.copy_(source))
    result: dict[str, Any] = {"copy_bytes": 2 * count, "copy_gb_per_s": 2 * count / copy_ms / 1e6}
    side = 8192
    for name, dtype in (("bfloat16", torch.bfloat16), ("float16", torch.float16), ("float32", torch.float32)):
        a, b = (torch.randn(side, side, device="cuda").to(dtype) for _ in range(2))
        result[f"matmul_{name}_tflop_per_s"] = 2 * side**3 / event_ms(lambda a=a, b=b: a @ b) / 1e9
    return result


def benchmarks(quick: bool) -> dict[str, Any]:
    """The cases of `pyface bench` on the GPU; a case that fails is listed with its error."""
    from pyface.benchmark import all_cases, run_suite

    documents, failed = [], {}
    for case in all_cases():
        if not case.name.startswith(BENCHMARKS) or (quick and not case.quick):
            continue
        try:
            documents.append(run_suite([case.name], quick=quick, device="cuda", report=print))
        except Exception as error:
            failed[case.name] = f"{type(error).__name__}: {error}"
    return {
        "machine": documents[0]["machine"] if documents else None,
        "cases": [case for document in documents for case in document["cases"]],
        "skipped": [case for document in documents for case in document["skipped"]],
        "failed": failed,
    }


def add_fractions(report: dict[str, Any]) -> None:
    """Adds to each case its floor max(bytes / bandwidth, FLOP / peak) and the share of it reached."""
    limits, cases = report.get("ceilings", {}), report.get("benchmarks", {}).get("cases", [])
    if "copy_gb_per_s" not in limits:
        return
    for case in cases:
        peak = limits.get(f"matmul_{case['dtype']}_tflop_per_s")
        floor_ms = case["bytes"] / limits["copy_gb_per_s"] / 1e6
        if peak and "conv2d" in case["op"]:
            floor_ms = max(floor_ms, case["flops"] / peak / 1e9)
        ours = next(iter(case["variants"].values()))["wall_ms"]["median"]
        if floor_ms and ours:
            case["floor_ms"], case["fraction_of_floor"] = floor_ms, floor_ms / ours


# ---- the report


INNER: dict[str, Callable[..., dict[str, Any]]] = {
    "primitives": primitives,
    "faces": faces,
    "small_shapes": small_shapes,
    "ceilings": ceilings,
    "benchmarks": lambda: benchmarks(os.environ.get("PYFACE_REPORT_QUICK") == "1"),
}


def inner(name: str, folder: Path, env: dict[str, str]) -> dict[str, Any]:
    """The result of a step in a process of its own: an error on the GPU ends that process only."""
    result = folder / f"{name}.json"
    command = [sys.executable, str(Path(__file__).resolve()), "--inner", name, "--result", str(result)]
    run(command, timeout=STEP_TIMEOUT_S.get(name, 600), env=env, cwd=folder)
    found: dict[str, Any] = json.loads(result.read_text())
    return found


def run_steps(wanted: list[str], folder: Path, quick: bool) -> dict[str, Any]:
    """Results of the steps by name; a failed one has {"error": why}."""
    site = folder / "site"
    env = dict(os.environ, PYFACE_REPORT_QUICK="1" if quick else "0")
    paths = [str(site if "build" in wanted else ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    env["PYTHONPATH"] = os.pathsep.join(paths)
    work: dict[str, Callable[[], dict[str, Any]]] = {
        "build": lambda: build(site),
        "tests": lambda: tests(folder, env),
        "sanitizer": lambda: sanitizer(env),
    }
    report: dict[str, Any] = {}
    for step in wanted:
        print(f"{step} ...", flush=True)
        try:
            report[step] = work[step]() if step in work else inner(step, folder, env)
        except Exception as error:
            report[step] = {
                "error": f"{error}" if isinstance(error, StepError) else f"{type(error).__name__}: {error}"
            }
            print(f"{step} failed: {report[step]['error'][-1500:]}")
    add_fractions(report)
    return report


def device_facts() -> dict[str, Any]:
    """The GPU, the driver, the versions and the commit."""
    import platform

    import torch

    def said(command: list[str]) -> str | None:
        try:
            return run(command, timeout=30).strip()
        except StepError:
            return None

    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_gb": round(properties.total_memory / 2**30, 1),
        "driver": said(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": said(["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"]),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def main(arguments: list[str] | None = None) -> int:
    """Runs the report; exits with 0 whenever a report, or the reason for none, was given."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results", help="folder of the results")
    parser.add_argument("--steps", default=",".join(STEPS), help=f"some of {','.join(STEPS)}")
    parser.add_argument("--no-build", action="store_true", help="use the modules in the source tree")
    parser.add_argument("--quick", action="store_true", help="few benchmark cases and rounds")
    parser.add_argument("--inner", choices=sorted(INNER), help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.inner:
        found = INNER[options.inner]()
        if options.result:
            options.result.write_text(json.dumps(found))
        return 0
    wanted = [step for step in options.steps.split(",") if not (options.no_build and step == "build")]
    unknown = sorted(set(wanted) - set(STEPS))
    if unknown:
        parser.error(f"unknown steps {', '.join(unknown)}; allowed: {', '.join(STEPS)}")
    reason = missing_gpu()
    if reason is not None:
        print(f"No GPU report: {reason}.")
        for step in wanted:
            print(f"  {step}: not measured")
        return 0
    facts = device_facts()
    with tempfile.TemporaryDirectory(prefix="pyface-gpu-report-") as temporary:
        report = {
            "format": 1,
            "kind": "pyface-gpu-report",
            "device": facts,
            **run_steps(wanted, Path(temporary), options.quick),
        }
    slug = re.sub(r"[^a-z0-9]+", "-", facts["gpu"].lower()).strip("-")
    # A folder of its own: every JSON file beside the device's ops.json counts as a run of `pyface bench`.
    path = options.out / slug / "gpu_report" / "report.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
