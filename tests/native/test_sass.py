"""What nvcc makes of the kernels, without a GPU: registers, spills and instructions, against a budget.

The budget holds one row for each kernel (element types and architectures merged, registers rounded up to 8).
PYFACE_WRITE_BUDGET=1 rewrites it from the architectures tested.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUDGET = Path(__file__).with_name("register_budget.json")
OPS = (
    "bias_act",
    "channel_dot",
    "conformance",
    "conv2d",
    "conv2d_weight_grad",
    "face_render",
    "modulated_conv2d",
    "upconv2d",
    "upfirdn2d",
)
ARCHITECTURES = os.environ.get("PYFACE_SASS_ARCHS", "80,90a,120").split(",")
USAGE = re.compile(
    r"Function properties for (?P<name>\S+)\n"
    r"\s*(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads\n"
    r".*?Used (?P<registers>\d+) registers"
)

pytestmark = [
    pytest.mark.skipif(
        shutil.which("nvcc") is None, reason="nvcc is not installed; kernels cannot be compiled"
    ),
    pytest.mark.skipif(
        shutil.which("c++filt") is None, reason="c++filt is not installed; names stay mangled"
    ),
    pytest.mark.xdist_group("sass"),
]


@dataclass(frozen=True)
class Usage:
    """What ptxas says about one kernel."""

    name: str
    registers: int
    spilled_bytes: int
    stack_bytes: int


@dataclass(frozen=True)
class Compiled:
    """The kernels of one architecture."""

    usage: dict[str, Usage]
    cubins: list[Path]


def demangle(names: list[str]) -> list[str]:
    """Readable kernel names without parameters, e.g. elementwise_kernel<ModulateBody<float>, 4, ...>."""
    done = subprocess.run(
        ["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True, timeout=60
    )
    texts = [
        re.sub(r"^void |\(anonymous namespace\)::|pyface::dev::", "", t) for t in done.stdout.splitlines()
    ]
    return [re.sub(r"\((?!(Access|Sums)\)).*$", "", text) for text in texts]


def merged(name: str) -> str:
    """The budget row of a kernel: its name with the element type left open."""
    return re.sub(r"\b(float|double|__half|__nv_bfloat16)\b", "T", name)


def compile_op(arch: str, op: str, folder: Path) -> tuple[Path, str]:
    """The cubin of one source for one architecture, and what ptxas said."""
    cubin = folder / f"{op}_{arch}.cubin"
    command = ["nvcc", "-std=c++17", "-O3", f"-arch=sm_{arch}", "--expt-relaxed-constexpr", "-cubin"]
    command += ["-Xptxas", "-v,-warn-spills,-warn-lmem-usage", f"-I{ROOT}/csrc", f"-I{ROOT}/csrc/include"]
    command += [str(ROOT / f"csrc/cuda/{op}.cu"), "-o", str(cubin)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    return cubin, done.stderr


@pytest.fixture(scope="session", params=ARCHITECTURES)
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """The kernels compiled for one architecture."""
    folder = tmp_path_factory.mktemp(f"sm_{request.param}")
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda op: compile_op(request.param, op, folder), OPS))
    found = [match for _, log in results for match in USAGE.finditer(log)]
    usage = {}
    for match, name in zip(found, demangle([match["name"] for match in found]), strict=True):
        spilled = int(match["stores"]) + int(match["loads"])
        usage[name] = Usage(name, int(match["registers"]), spilled, int(match["stack"]))
    return Compiled(usage, [cubin for cubin, _ in results])


@pytest.fixture(scope="session")
def sass(compiled: Compiled) -> dict[str, str]:
    """The instructions of each kernel as text."""
    tool = Path(sysconfig.get_paths()["purelib"]) / "nvidia/cu13/bin/nvdisasm"
    program = str(tool) if tool.exists() else shutil.which("nvdisasm")
    if program is None:
        pytest.skip("nvdisasm is not installed; pip install nvidia-cuda-nvdisasm")
    texts: dict[str, str] = {}
    for cubin in compiled.cubins:
        done = subprocess.run(
            [program, "-c", str(cubin)], capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr[-2000:]
        parts = re.split(r"^\s*\.section\s+\.text\.([^,\s]+).*$", done.stdout, flags=re.MULTILINE)
        names = demangle(parts[1::2])
        texts |= dict(zip(names, parts[2::2], strict=True))
    return texts


def kernels(sass: dict[str, str], pattern: str) -> Iterator[tuple[str, str]]:
    """The kernels whose name matches; at least one must."""
    matches = [(name, text) for name, text in sass.items() if re.search(pattern, name)]
    assert matches, f"no kernel matches {pattern}; there are {sorted(sass)[:5]} and more"
    yield from matches


def test_registers_stay_in_budget(compiled: Compiled) -> None:
    needed: dict[str, int] = {}
    for usage in compiled.usage.values():
        row = merged(usage.name)
        needed[row] = max(needed.get(row, 0), -(-usage.registers // 8) * 8)
    budget = json.loads(BUDGET.read_text()) if BUDGET.exists() else {}
    if os.environ.get("PYFACE_WRITE_BUDGET") == "1":
        budget = {row: max(needed.get(row, 0), budget.get(row, 0)) for row in {*needed, *budget}}
        BUDGET.write_text(json.dumps(budget, indent=1, sort_keys=True) + "\n")
    over = {row: (count, budget.get(row)) for row, count in needed.items() if count > budget.get(row, 0)}
    assert not over, f"registers used and allowed: {over}"
    assert set(budget) == set(needed), "the budget names other kernels; rewrite it with PYFACE_WRITE_BUDGET=1"


def test_nothing_spills(compiled: Compiled) -> None:
    assert len(compiled.usage) > 100
    spilled = [usage for usage in compiled.usage.values() if usage.spilled_bytes or usage.stack_bytes]
    assert not spilled


def test_elementwise_kernels_move_16_bytes(sass: dict[str, str]) -> None:
    for name, text in kernels(sass, r"elementwise_kernel<.*, (4|8), "):
        assert "LDG.E.128" in text, name
        assert "STG.E.128" in text, name


def test_elementwise_kernels_divide_by_multiplication(sass: dict[str, str]) -> None:
    for name, text in kernels(
        sass, r"elementwise_kernel<(ModulateBody<(float|__half|__nv_bfloat16)>|\w+<\w+, false>)"
    ):
        assert "MUFU.RCP" not in text, f"{name} divides"
        assert "__cuda_sm" not in text, f"{name} calls a subroutine, as 64-bit division does"


def test_channels_last_upfirdn2d_moves_vectors(sass: dict[str, str]) -> None:
    for name, text in kernels(sass, r"upfirdn2d_pixels_kernel<float"):
        assert "LDG.E.128" in text, name
    for name, text in kernels(sass, r"upfirdn2d_pixels_kernel<__half"):
        assert "LDG.E.64" in text, name


def test_no_kernel_uses_local_memory(sass: dict[str, str]) -> None:
    users = [name for name, text in sass.items() if re.search(r"\b(LDL|STL)\b", text)]
    assert not users


def test_primitives_become_their_instructions(sass: dict[str, str]) -> None:
    for pattern, instruction in (
        (r"^mma_kernel<false>", "HMMA.16816.F32 "),
        (r"^mma_kernel<true>", "HMMA.16816.F32.BF16"),
        (r"^ldmatrix_kernel<false>", "LDSM.16.M88.4"),
        (r"^ldmatrix_kernel<true>", "LDSM.16.MT88.4"),
        (r"^async_copy_kernel", "LDGSTS.E"),
        (r"^shuffles_kernel", "SHFL.BFLY"),
    ):
        for name, text in kernels(sass, pattern):
            assert instruction in text, name


def test_weight_gradients_take_tensor_cores(sass: dict[str, str]) -> None:
    for name, text in kernels(sass, r"^conv2d_weight_grad_kernel<"):
        products = "HMMA.16816.F32.BF16" if "bfloat16" in name else "HMMA.16816.F32 "
        assert text.count(products) >= 16, name
        assert "LDSM.16.MT88.4" in text, name
        single = re.search(r", false, (true|false)>$", name)
        assert single or "LDGSTS.E.BYPASS.128" in text, name
    for name, text in kernels(sass, r"^conv2d_weight_grad_f32_kernel<true"):
        assert "LDGSTS.E.BYPASS.128" in text, name
        assert text.count("FFMA") >= 512, name


def test_reductions_read_16_bytes(sass: dict[str, str]) -> None:
    for name, text in kernels(sass, r"^reduction_kernel<\w+, (4|8), "):
        assert "LDG.E.128" in text, name
        assert "SHFL.BFLY" in text, name


def test_convolutions_run_on_tensor_cores_through_asynchronous_copies(sass: dict[str, str]) -> None:
    found = 0
    for name, text in kernels(sass, r"^conv2d_(patch_)?kernel<"):
        found += 1
        sums = re.search(r"MmaTile<(\d+), (\d+), (\d+), (\d+),", name)
        assert sums is not None
        _, _, warp_rows, warp_columns = map(int, sums.groups())
        product = "HMMA.16816.F32.BF16" if "bfloat16" in name else "HMMA.16816.F32 "
        # Two steps of 16 a turn, and the heads.
        steps = warp_rows // 16 * (warp_columns // 8)
        assert text.count(product) == 2 * steps + steps // 2, name
        assert "LDSM.16.M88.4" in text, name
        assert "LDGSTS.E.BYPASS.128" in text, name
        assert "STG.E.128" in text, name
    assert found == 8 + 6


def test_upconv2d_runs_on_tensor_cores_through_asynchronous_copies(sass: dict[str, str]) -> None:
    found = 0
    for name, text in kernels(sass, r"^upconv2d_kernel<"):
        found += 1
        product = "HMMA.16816.F32.BF16" if "bfloat16" in name else "HMMA.16816.F32 "
        # One to three fragments of positions: nine taps of two fragments of channels; x at four shifts, and
        # the weight of nine taps.
        assert text.count(product) == (1 + 2 + 3) * 9 * 2, name
        assert text.count("LDSM.16.M88.4") == (1 + 2 + 3) * 4 + 3 * 9, name
        assert text.count("LDGSTS.E.BYPASS.128") >= 4, name
        assert "STS" in text, name
        assert "LDS.128" in text, name
        assert "STG.E.128" in text, name
    assert found == 6
    for name, text in kernels(sass, r"^upconv2d_simt_kernel<"):
        assert "HMMA" not in text, name
        assert "LDS.128" in text, name
