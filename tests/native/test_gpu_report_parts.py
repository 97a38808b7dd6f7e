"""Parts of tools/gpu_report.py that need a GPU, as far as they can be seen without: small shapes on the
emulator, the choice table, and which tests are run."""

from __future__ import annotations

import ast
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pyface.ops import _kernels, _native, convolution_choice

ROOT = Path(__file__).resolve().parents[2]
ROW = {
    **{"op": "conv", "dtype": "float16", "n": 8, "in_channels": 64, "out_channels": 32, "height": 257},
    **{"width": 257, "kernel": 3, "stride": 2, "transposed": True, "pyface_ms": 0.1, "torch_ms": 0.2},
}
TABLE = {
    **{"format": 1, "capability": [9, 0], "machine": {"gpu": "NVIDIA Test 1"}, "settings": {"rounds": 7}},
    "shapes": [ROW, {**ROW, "n": 1, "torch_ms": 0.05}, {**ROW, "op": "weight_grad", "torch_ms": 0.1}],
}
MACHINE = {
    **{"driver": "1", "torch": "2", "cuda": "13", "python": "3.11"},
    **{"commit": "abc", "built_from": "abc", "date": "now"},
}
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here; it would be measured")


@pytest.fixture(scope="module", autouse=True)
def tools_on_path() -> Iterator[None]:
    """The tool's package can be imported, as from its script."""
    sys.path.insert(0, str(ROOT / "tools"))
    yield
    sys.path.remove(str(ROOT / "tools"))


def place_in(folder: Path, **settings: Any) -> Any:
    from gpu_report.processes import Place

    return Place(folder, {"PATH": "/usr/bin:/bin"}, **settings)


# ---- small shapes


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of the native functions that the emulator has run, those of conv2d with their tiles."""
    pytest.importorskip("pyface._emu", reason="built without PYFACE_EMU")
    seen: set[str] = set()
    run = _native._Emu.run

    def noted(k: Any, function: Any, x: torch.Tensor, *arguments: Any) -> None:
        seen.add(function.__name__)
        if function.__name__ in ("conv2d", "upconv2d"):
            tile = arguments[-2]
            seen.add(f"{function.__name__} {str(x.dtype).removeprefix('torch.')} {tile}")
        run(k, function, x, *arguments)

    monkeypatch.setattr(_native._Emu, "run", noted)
    return seen


def test_small_shapes_reach_every_kernel(launches: set[str]) -> None:
    from gpu_report.small_shapes import CONV_TILES, PATCH_TILES, UPCONV_TILES, run_small_shapes

    counts = run_small_shapes("emu")
    kinds = (
        "bias_act", "upfirdn2d", "modulated_conv2d", "conv2d", "conv2d heads", "upconv2d", "pack_weight",
        "unpack_weight", "conv2d_weight_grad", "conv_epilogue_grad", "synthesis", "training",
    )  # fmt: skip
    assert [kind for kind in kinds if not counts.get(kind)] == []
    kernels = {
        "bias_act", "bias_act_grad", "upfirdn2d", "modulate", "demodulate", "conv_epilogue", "pack_weight",
        "unpack_weight", "conv2d", "conv2d_heads", "upconv2d", "conv2d_weight_grad", "conv_epilogue_grad",
    }  # fmt: skip
    tiles = {
        f"{name} {dtype} {tile}"
        for dtype in ("float16", "bfloat16")
        for name, numbers in (("conv2d", (*CONV_TILES, *PATCH_TILES)), ("upconv2d", UPCONV_TILES))
        for tile in numbers
    }
    assert (kernels | tiles | {"conv2d float32 -1", "upconv2d float32 -1"}) - launches == set()
    assert _native._override is None
    assert convolution_choice.choose((7, 5), convolution_choice.ConvShape(
        "conv", "", 1, 8, 8, 4, 4, 3, 1, False), torch.float32) == "torch"  # fmt: skip


def test_a_wrong_result_of_a_small_shape_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyface._emu", reason="built without PYFACE_EMU")
    from gpu_report import small_shapes
    from gpu_report.record import PartError

    real = _kernels.conv2d

    def spoiled(*arguments: Any, **settings: Any) -> Any:
        y, image = real(*arguments, **settings)
        y[0, 0, 0, 0] += 1
        return y, image

    monkeypatch.setattr(small_shapes, "_public_ops", lambda t: None)
    monkeypatch.setattr(_kernels, "conv2d", spoiled)
    with pytest.raises(PartError, match=r"conv2d \(torch.float32, _ConvCase\(.*error .*, allowed 1e-05"):
        small_shapes.run_small_shapes("emu")


@no_gpu
def test_small_shapes_of_a_gpu_need_one() -> None:
    from gpu_report.record import PartError
    from gpu_report.small_shapes import run_small_shapes

    with pytest.raises(PartError, match="the small shapes cannot run: "):
        run_small_shapes("cuda")


def test_the_sanitizer_runs_the_small_shapes_of_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu_report import checks, small_shapes
    from gpu_report.record import PartError

    asked: list[str] = []
    monkeypatch.setattr(small_shapes, "run_small_shapes", lambda backend: asked.append(backend) or {})
    monkeypatch.setattr(checks, "compare_faces", lambda count, size: {"ok": not asked[1:]})
    checks.small_shapes_inner()
    assert asked == ["cuda"]
    with pytest.raises(PartError, match="faces differ"):
        checks.small_shapes_inner()


# ---- the choice table


def test_the_choice_table_lies_beside_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu_report import tuning
    from gpu_report.command import PARTS, run_part
    from gpu_report.document import Document, schema

    device = {"gpu": "NVIDIA Test 1", "capability": "9.0", "memory_gb": 1.0, "multiprocessors": 2}
    document = Document.of_device(tmp_path / "out", device)

    def measures(command: list[str], *, timeout: float, env: Any, cwd: Path) -> str:
        assert command[-2:] == ["--inner", "tune"]
        assert 0 < timeout <= 60
        (cwd / "choice_table.json").write_text(json.dumps(TABLE))
        return ""

    monkeypatch.setattr(tuning, "said", measures)
    part = next(part for part in PARTS if part.name == "tune")
    entry = run_part(part, place_in(tmp_path, results=document.path.parent), document, MACHINE, 60)
    assert (entry["state"], entry["failed"]) == ("done", {})
    found = entry["items"]["choice table"]
    assert (found["path"], found["pyface"], found["torch"]) == ("sm_90.json", 2, 1)
    assert found["rows"] == TABLE["shapes"]
    rows = convolution_choice.read_table(document.path.with_name("sm_90.json"), (9, 0))
    assert list(rows.values()) == ["pyface", "torch", "pyface"]
    assert sorted(path.name for path in document.path.parent.iterdir()) == ["report.json", "sm_90.json"]
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema checks the documents")
    validator = jsonschema.Draft202012Validator(schema())
    validator.validate(document.values)
    found["rows"] = [{**ROW, "torch_ms": 0}]
    assert not validator.is_valid(document.values)


def test_tuning_stops_at_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu_report import tuning
    from gpu_report.record import Deadline, Record

    slow = tmp_path / "slow.py"
    slow.write_text("import time; time.sleep(60)")
    monkeypatch.setattr(tuning, "SCRIPT", slow)
    record = Record()
    tuning.tune(place_in(tmp_path), record, Deadline(0.5))
    assert record.items == {}
    assert "took more than 0 s, and a table holds all or nothing" in record.failed["choice table"]


@no_gpu
def test_tuning_without_a_gpu_says_so(tmp_path: Path) -> None:
    from gpu_report.processes import Place
    from gpu_report.record import Deadline, Record
    from gpu_report.tuning import tune

    record = Record()
    env = {**os.environ, "PYTHONPATH": str(Path(_native.__file__).parents[2])}
    tune(Place(tmp_path, env, results=tmp_path / "out"), record, Deadline(120))
    assert record.items == {}
    assert "reference for CUDA tensors" in record.failed["choice table"]
    assert list(tmp_path.iterdir()) == []


def test_the_process_that_tunes_writes_what_pyface_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpu_report import tuning

    from pyface.benchmark import convolution_tuning
    from pyface.errors import DataError

    table = dict(TABLE)

    def measures(out: Path, report: Any) -> Path:
        report("conv up float16")
        out.write_text(json.dumps(table))
        return out

    monkeypatch.setattr(tuning, "require_kernels", lambda: None)
    monkeypatch.setattr(convolution_tuning, "tune", measures)
    tuning.tune_inner(None, None, "", place_in(tmp_path))
    assert json.loads((tmp_path / "choice_table.json").read_text()) == TABLE
    table["shapes"] = [{**ROW, "stride": 0}]
    with pytest.raises(DataError, match=r"choice_table\.json is damaged"):
        tuning.tune_inner(None, None, "", place_in(tmp_path))


# ---- the tests that need a GPU


def test_the_synthesis_is_tested_beside_the_ops() -> None:
    from gpu_report.checks import test_files as files

    found = files()
    assert found["ops/test_golden.py"] == found["ops/test_native_convolution.py"] == "cuda"
    (models,) = (name for name in found if not name.startswith("ops/"))
    assert models == "models/test_stylegan2_cuda.py"
    tree = ast.parse((ROOT / "tests" / models).read_text())
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    chosen = [name for name in names if name.startswith("test_") and found[models] in name]
    assert len(chosen) >= 2
    takes_gpu = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)
                 and "gpu" in [argument.arg for argument in node.args.args]]  # fmt: skip
    assert chosen == takes_gpu


def test_files_are_run_with_their_keyword(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu_report import checks
    from gpu_report.record import Deadline, Record

    ran: list[tuple[str, str]] = []

    def said(command: list[str], *, cwd: Path, **_: Any) -> str:
        ran.append((Path(command[3]).relative_to(ROOT / "tests").as_posix(), command[5]))
        (cwd / "tests.xml").write_text('<testsuites><testsuite tests="1"/></testsuites>')
        return ""

    monkeypatch.setattr(checks, "said", said)
    record = Record()
    checks.tests(place_in(tmp_path), record, Deadline(60))
    assert dict(ran) == checks.test_files()
    assert list(record.items) == list(checks.test_files())
