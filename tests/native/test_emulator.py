"""The CUDA kernel bodies in the emulator: plain, under sanitizers, and with planted bugs to be reported."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the emulator's fibers are written for x86-64"),
    pytest.mark.xdist_group("emulator"),
]

SANITIZER_ENV = {
    **os.environ,
    "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
    "TSAN_OPTIONS": "halt_on_error=0:report_signal_unsafe=0",
}
PROGRAMS = ["emu_suite", "emu_conv2d", "emu_upconv2d", "emu_gradients"]
SECOND_BARRIER = "    __syncthreads();\n  }\n}\n\n// NHWC"


def run(program: Path, *arguments: str, prefix: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    """The finished program, with its output as text."""
    command = [*(prefix or []), str(program), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=240, check=False, env=SANITIZER_ENV
    )


def run_race_check(emulator: Any, program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The same under ThreadSanitizer; skips where the machine does not let it start."""
    from sys import modules

    done = run(program, *arguments, prefix=modules["emulator_build"].unrandomized())
    if "unexpected memory mapping" in done.stderr:
        pytest.skip(
            "ThreadSanitizer cannot start here: the kernel refuses to switch off address randomization"
        )
    return done


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("flavour", ["plain", "address"])
def test_suite(emulator: Any, flavour: str, program: str) -> None:
    done = run(emulator.suite(flavour, program), "all")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert done.stdout.endswith(" 0 failures\n")


@pytest.mark.parametrize("program", PROGRAMS)
def test_suite_has_no_races(emulator: Any, program: str) -> None:
    done = run_race_check(emulator, emulator.suite("thread", program), "race")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "WARNING: ThreadSanitizer" not in done.stderr


@pytest.mark.parametrize(
    ("bug", "report"),
    [
        ("missing_barrier", "wrong value"),
        ("short_tile", "wrong value"),
        ("lax_wait", "wrong value"),
        ("divergent_barrier", "__syncthreads at LINE is not reached by 24 threads that have exited"),
        ("two_barriers", "thread 0 waits in __syncthreads at LINE"),
        ("divergent_shuffle", "waits in __shfl_xor_sync at LINE for lane 0, which has exited"),
        ("shuffle_outside_mask", "calls it, but its mask leaves that lane out"),
        ("uninitialised_shared", "wrong value"),
        ("misaligned_ldmatrix", "gives an address that is not 16-byte aligned"),
    ],
)
def test_planted_bug_is_reported(emulator: Any, bug: str, report: str) -> None:
    program = emulator.planted("plain")
    assert run(program, bug, "right").stdout == "no error\n" * 3
    said = run(program, bug, "wrong").stdout.splitlines()
    assert len(said) == 3
    for line in said:
        what, _, where = report.partition(" at LINE")
        assert what in line
        assert where in line
        if " at LINE" in report:
            assert "planted_bugs.cpp:" in line


def test_race_check_sees_a_missing_barrier(emulator: Any) -> None:
    program = emulator.planted("thread")
    right = run_race_check(emulator, program, "missing_barrier", "right")
    assert "WARNING: ThreadSanitizer" not in right.stderr
    wrong = run_race_check(emulator, program, "missing_barrier", "wrong")
    assert "WARNING: ThreadSanitizer: data race" in wrong.stderr
    assert "missing_barrier" in wrong.stderr


def test_address_check_sees_a_short_tile(emulator: Any) -> None:
    program = emulator.planted("address")
    assert run(program, "short_tile", "right").stdout == "no error\n" * 3
    wrong = run(program, "short_tile", "wrong")
    assert "heap-buffer-overflow" in wrong.stderr
    assert "planted_bugs.cpp" in wrong.stderr


def test_mutant_without_barrier_races(emulator: Any) -> None:
    mutant = emulator.mutant(
        "thread", "no_barrier", SECOND_BARRIER, SECOND_BARRIER.replace("__syncthreads();", "")
    )
    done = run_race_check(emulator, mutant, "race")
    assert "WARNING: ThreadSanitizer: data race" in done.stderr
    assert "upfirdn2d_planes_kernel" in done.stderr


def test_mutant_with_short_tile_overruns(emulator: Any) -> None:
    old = "kInW * kInH) * int(sizeof(float))"
    mutant = emulator.mutant("address", "short", old, old.replace("kInH)", "kInH - 1)"))
    done = run(mutant, "race")
    assert "heap-buffer-overflow" in done.stderr
    assert "upfirdn2d_planes_kernel" in done.stderr


STAGES_BARRIER = "    async_wait<kStages - 2>();\n    __syncthreads();"


def test_mutant_of_the_stages_without_barrier_races(emulator: Any) -> None:
    change = (STAGES_BARRIER, STAGES_BARRIER.replace("__syncthreads();", ""))
    where = {"program": "emu_conv2d", "op": "conv2d", "header": "mma_tiles"}
    done = run_race_check(emulator, emulator.mutant("thread", "no_stage_barrier", *change, **where), "race")
    assert "WARNING: ThreadSanitizer: data race" in done.stderr
    assert "conv2d_kernel" in done.stderr


def test_mutant_that_waits_one_group_too_lax_is_wrong(emulator: Any) -> None:
    change = (STAGES_BARRIER, STAGES_BARRIER.replace("kStages - 2", "kStages - 1"))
    where = {"program": "emu_conv2d", "op": "conv2d", "header": "mma_tiles"}
    done = run(emulator.mutant("plain", "lax_stages", *change, **where), "race")
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAIL conv2d")]
    assert len(failed) >= 4


UPCONV = {"program": "emu_upconv2d", "op": "upconv2d", "header": "upconv2d_steps"}


@pytest.mark.parametrize(
    ("name", "comment"),
    [
        ("no_filter_barrier", "  // all of u is there"),
        ("no_carry_barrier", "  // all have read the rows that are replaced"),
    ],
)
def test_mutant_of_upconv2d_without_a_barrier_races(emulator: Any, name: str, comment: str) -> None:
    change = ("__syncthreads();" + comment, comment)
    done = run_race_check(emulator, emulator.mutant("thread", name, *change, **UPCONV), "race")
    assert "WARNING: ThreadSanitizer: data race" in done.stderr
    assert "upconv2d_kernel" in done.stderr


@pytest.mark.parametrize(
    ("name", "header", "old", "new"),
    [
        (
            "early_filter",
            "upconv2d_steps",
            "__syncthreads();  // all of u is there",
            "// all of u is there",
        ),
        ("nothing_carried", "upconv2d_steps", "    carry<Step>(u);\n", ""),
        ("short_patch", "upconv2d", "kProductRows + Step::kWidth + 1;", "kProductRows + Step::kWidth - 2;"),
    ],
)
def test_mutant_of_upconv2d_is_wrong(emulator: Any, name: str, header: str, old: str, new: str) -> None:
    where = {**UPCONV, "header": header}
    done = run(emulator.mutant("plain", name, old, new, **where), "race")
    assert "FAIL upconv2d" in done.stdout


def test_module_rejects_unknown_schedule_and_primitive() -> None:
    emu = pytest.importorskip("pyface._emu", reason="built without PYFACE_EMU")
    with pytest.raises(ValueError, match=r"where is 3; allowed: 0 forward, 1 reverse, 2 random"):
        emu.conformance(4, 16, 16, 3)
    with pytest.raises(ValueError, match=r"primitive is 9; allowed: 0 to 5"):
        emu.conformance(9, 16, 16, 0)
    with pytest.raises(ValueError, match=r"demodulate: dtype is 3; allowed: 0 float32, 1 float64"):
        emu.demodulate(16, 16, 16, 3, 1, 1, 1, 1e-8, 0)


def test_module_rejects_tensors_that_indices_cannot_reach() -> None:
    emu = pytest.importorskip("pyface._emu", reason="built without PYFACE_EMU")
    side = 1 << 16
    message = r"bias_act: x is 4294967296 elements a sample; allowed: fewer than 2147483648"
    with pytest.raises(ValueError, match=message):
        emu.bias_act(16, 0, 16, 0, 1, side, side, 0, 0.0, 1.0, -1.0, 0)
    sizes = (side, side, side, side)
    with pytest.raises(
        ValueError, match=r"upfirdn2d: out_h \* out_w is 4294967296; allowed: 0 to 2147483647"
    ):
        emu.upfirdn2d(16, 16, 32, 0, 1, 1, *sizes, False, False, False, 1, 1, 1, 1, 1, 1, 0, 0, 1.0, 0)


def test_module_rejects_weight_gradients_that_do_not_fit() -> None:
    emu = pytest.importorskip("pyface._emu", reason="built without PYFACE_EMU")
    sizes = (1, 8, 8, 16, 8, 8, 16)  # n, in_h, in_w, in_channels, out_h, out_w, out_channels

    def call(dtype: int = 0, sizes: tuple[int, ...] = sizes, stride: int = 1, splits: int = 1) -> None:
        emu.conv2d_weight_grad(16, 16, 0, 0, 16, 0, dtype, *sizes, 3, 3, stride, 1, 1, False, splits, 0)

    with pytest.raises(ValueError, match=r"dtype is 1 float64; allowed: 0 float32, 2 bfloat16, 3 float16"):
        call(dtype=1)
    with pytest.raises(ValueError, match=r"stride is 3; allowed: 1 to 2"):
        call(stride=3)
    with pytest.raises(ValueError, match=r"out_h is 9 for an input of 8; allowed: the size that kernel 3"):
        call(sizes=(1, 8, 8, 16, 9, 8, 16))
    with pytest.raises(ValueError, match=r"workspace is a null pointer"):
        call(splits=2)
    with pytest.raises(ValueError, match=r"n \* in_h \* in_w is 4294967296; allowed: 0 to 2147483647"):
        call(sizes=(1, 65536, 65536, 16, 65536, 65536, 16))
    with pytest.raises(ValueError, match=r"x is a tensor without pixels"):
        call(sizes=(0, 8, 8, 16, 8, 8, 16))


def test_module_rejects_reductions_that_do_not_fit() -> None:
    emu = pytest.importorskip("pyface._emu", reason="built without PYFACE_EMU")
    with pytest.raises(ValueError, match=r"channel_dot: chunks is 5; allowed: 1 to 4"):
        emu.channel_dot(16, 16, 16, 0, 0, 16, 0, 1, 8, 4, True, 5, 0)
    with pytest.raises(ValueError, match=r"channel_dot: b is a null pointer"):
        emu.channel_dot(16, 0, 16, 0, 0, 16, 0, 1, 8, 4, True, 1, 0)
    with pytest.raises(ValueError, match=r"at an address that is no multiple of 16; allowed: 16-byte"):
        emu.channel_dot(20, 32, 16, 0, 0, 16, 0, 1, 8, 4, True, 1, 0)
    with pytest.raises(ValueError, match=r"conv_epilogue_grad: x is a null pointer"):
        emu.conv_epilogue_grad(
            16, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 16, 0, 1, 8, 4, True, 2, 0.2, 1.0, -1.0, 1, 0
        )
