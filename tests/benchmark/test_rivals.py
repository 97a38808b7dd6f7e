"""The same work in other runtimes: right in both precisions, or left out with a reason."""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import sys
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyface.benchmark import Case, Ceilings, Formula, Variant, Workload, run_suite, schema
from pyface.benchmark import rivals as rivals_module
from pyface.benchmark import suite as suite_module
from pyface.benchmark.rivals import COMPILE, ONNX_RUNTIME, OPENVINO, RIVALS, build_rivals, forget_rivals

CEILINGS = {1: Ceilings(10.0, 80.0, 100.0, 1000.0, None, 900.0)}
NEEDS = {COMPILE: (), OPENVINO: ("openvino",), ONNX_RUNTIME: ("onnx", "onnxruntime", "onnxscript")}


class Layer(nn.Module):
    """A convolution whose input and output are scaled, with noise that lies in the module."""

    def __init__(self) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(8, 8, 3, 3, generator=random))
        self.register_buffer("noise", torch.randn(1, 1, 12, 16, generator=random))

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        y = F.conv2d(x * scale[:, :, None, None], self.weight, padding=1)
        return F.leaky_relu(y + self.noise, 0.2)


def formula(arrives: torch.dtype = torch.float32) -> Formula:
    random = torch.Generator().manual_seed(1)
    x = torch.randn(2, 8, 12, 16, generator=random).to(arrives)
    return Formula(Layer().eval(), (x, torch.randn(2, 8, generator=random)))


def truth(work: Formula) -> Tensor:
    with torch.no_grad():
        return Layer().double()(*[x.double() for x in work.inputs])


def require(name: str) -> None:
    for package in NEEDS[name]:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    if name == COMPILE:
        try:
            rivals_module._require_compiler()
        except Exception as error:
            pytest.skip(str(error))


def only(monkeypatch: pytest.MonkeyPatch, **builds: Callable[..., Callable[[], Tensor]]) -> None:
    for module in (rivals_module, suite_module):
        monkeypatch.setattr(module, "RIVALS", builds)


@pytest.mark.parametrize(
    ("dtype", "arrives", "limit"),
    [
        ("float32", torch.float32, 1e-5),
        ("bfloat16", torch.float32, 0.03),
        ("bfloat16", torch.bfloat16, 0.03),
    ],
)
@pytest.mark.parametrize("name", RIVALS)
def test_result(monkeypatch, capfd, name, dtype, arrives, limit):
    require(name)
    work = formula(arrives)
    monkeypatch.setattr(rivals_module, "RIVALS", {name: RIVALS[name]})
    built, reasons = build_rivals(work, dtype)
    forget_rivals()
    assert not reasons
    assert list(built) == [name]
    gc.collect()
    reference = truth(work)
    first, second = built[name].run(), built[name].run()
    assert first.data_ptr() != second.data_ptr()  # fresh memory in every call
    assert first.dtype == (torch.float32 if name == ONNX_RUNTIME else arrives)
    for result in (first, second):
        error = float((result.double() - reference).abs().max() / reference.abs().max())
        assert error <= (1e-5 if name == ONNX_RUNTIME else limit)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("package", ["openvino", "onnx", "onnxruntime"])
def test_a_missing_package_is_named_with_its_extra(monkeypatch, package):
    name = OPENVINO if package == "openvino" else ONNX_RUNTIME
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(rivals_module, "RIVALS", {name: RIVALS[name]})
    built, reasons = build_rivals(formula())
    assert not built
    assert package in reasons[name]
    assert 'pip install "pyface-synth[bench]"' in reasons[name]


def test_no_compiler_is_a_reason(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(rivals_module, "RIVALS", {COMPILE: RIVALS[COMPILE]})
    assert "C++ compiler" in build_rivals(formula())[1][COMPILE]


def test_what_cannot_be_converted_is_a_reason(monkeypatch):
    def build(work: Formula, dtype: str) -> Callable[[], Tensor]:
        raise RuntimeError("no such operator\n" * 100)

    only(monkeypatch, broken=build)
    built, reasons = build_rivals(formula())
    assert not built
    assert reasons["broken"].startswith("RuntimeError: no such operator no such")
    assert len(reasons["broken"]) == 300


def test_other_devices_and_types_are_reasons():
    pretended = Formula(nn.Identity(), (torch.zeros(1, device="meta"),))
    _, reasons = build_rivals(pretended, device="cuda")
    assert reasons[OPENVINO] == reasons[ONNX_RUNTIME] == "measured on the CPU only"
    _, reasons = build_rivals(formula(), "uint8")
    assert set(reasons) == set(RIVALS)
    assert "uint8" in reasons[COMPILE]


@pytest.mark.parametrize("before", [None, "false"])
def test_the_converter_runs_as_in_ci_and_nothing_after_it(monkeypatch, before):
    if before is None:
        monkeypatch.delenv("CI", raising=False)
    else:
        monkeypatch.setenv("CI", before)
    with rivals_module._unreported():
        assert os.environ["CI"] == "true"
    assert os.environ.get("CI") == before


def case(**settings: bool) -> Case:
    def build(device: str) -> Workload:
        work = formula()
        reference = truth(work)

        def run() -> Tensor:
            with torch.inference_mode():
                return work.module(*work.inputs)

        ways = {"pyface": Variant(run), "torch eager": Variant(run)}
        return Workload(ways, lambda: reference, 1000, 1000, tolerance=1e-5, formula=work)

    return Case("layer/2", "ops", "layer", "2", "float32", "-", build, cold=False, **settings)


def run(monkeypatch: pytest.MonkeyPatch, chosen: Case, **settings: bool) -> dict:
    jsonschema = pytest.importorskip("jsonschema")
    monkeypatch.setattr(suite_module, "all_cases", lambda: [chosen])
    monkeypatch.setattr(suite_module, "process_cases", list)
    found = run_suite(ceilings=CEILINGS, **settings)
    jsonschema.validate(json.loads(json.dumps(found)), schema())
    return found["cases"][0]


def test_a_run_with_every_rival(monkeypatch):
    for name in RIVALS:
        require(name)
    entry = run(monkeypatch, case())
    assert list(entry["variants"]) == ["pyface", "torch eager", *RIVALS]
    assert entry["left_out"] == {}
    assert set(entry["speedup"]) == {"torch eager", *RIVALS}
    for name, times in entry["variants"].items():
        assert times["cpu_ms"]["median"] > 0, name
        assert times["error"]["max"] <= 1e-5, name


def test_a_wrong_rival_gets_no_ratio(monkeypatch):
    def build(work: Formula, dtype: str) -> Callable[[], Tensor]:
        return lambda: truth(work).float().flip(3)

    def other_shape(work: Formula, dtype: str) -> Callable[[], Tensor]:
        return lambda: truth(work)[0]

    only(monkeypatch, mirrored=build, smaller=other_shape)
    entry = run(monkeypatch, case())
    assert list(entry["variants"]) == ["pyface", "torch eager"]
    assert list(entry["speedup"]) == ["torch eager"]
    assert "wrong result: off by" in entry["left_out"]["mirrored"]
    assert "shape" in entry["left_out"]["smaller"]


def test_rivals_are_left_away_when_asked(monkeypatch):
    def build(work: Formula, dtype: str) -> Callable[[], Tensor]:
        raise AssertionError("built")

    only(monkeypatch, unwanted=build)
    for entry in (run(monkeypatch, case(rivals=False)), run(monkeypatch, case(), rivals=False)):
        assert list(entry["variants"]) == ["pyface", "torch eager"]
        assert entry["left_out"] == {}
