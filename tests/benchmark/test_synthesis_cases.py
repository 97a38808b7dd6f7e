"""Plain forms of the synthesis give what ours gives, in other runtimes too; counts are the published ones."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pyface.benchmark import rivals
from pyface.benchmark.case import BEST_FORM, EAGER, OURS, Case, Formula
from pyface.benchmark.document import check_result
from pyface.benchmark.plain_stylegan2 import plain_twin
from pyface.benchmark.shared_stylegan2 import UP_FORMS, SharedSynthesis
from pyface.benchmark.synthesis_cases import (
    SynthesisCounts,
    random_generator,
    synthesis_cases,
    synthesis_workload,
)
from pyface.errors import PyfaceError
from pyface.models import GeneratorConfig

SMALL = {"channel_base": 512, "channel_max": 32, "w_dim": 16, "z_dim": 16, "mapping_layers": 2}


def any_case(dtype: str) -> Case:
    return Case("any/1", "networks", "any", "1", dtype, "-", lambda device: None)  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize("settings", [{}, {"conv_clamp": 0.5}, {"use_noise": False}, {"c_dim": 3}], ids=str)
def test_twin_follows_the_configuration(settings):
    network = random_generator(16, **SMALL, **settings).double()
    z = torch.randn(3, 16, dtype=torch.float64)
    c = torch.randn(3, 3, dtype=torch.float64) if "c_dim" in settings else None
    wanted = network(z, c, noise_mode="const")
    torch.testing.assert_close(plain_twin(network)(z, c), wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("up_form", UP_FORMS)
def test_shared_forms_equal_the_modulated_one(up_form, channels_last, in_place):
    plain = plain_twin(random_generator(32, **SMALL, conv_clamp=2.0)).requires_grad_(False)
    ws = torch.randn(3, plain.num_ws, 16)
    wanted = plain.synthesis(ws)
    for dtype, limit in ((torch.float32, 5e-6), (torch.bfloat16, 0.05)):
        form = SharedSynthesis(
            plain, up_form=up_form, dtype=dtype, channels_last=channels_last, in_place=in_place
        )
        image = form(ws)
        assert image.dtype == torch.float32
        assert (image - wanted).abs().max() <= limit * wanted.abs().max()


def test_shared_form_takes_noise_and_gives_gradients():
    plain = plain_twin(random_generator(16, **SMALL)).double().requires_grad_(False)
    shared = SharedSynthesis(plain, dtype=torch.float64)
    found = []
    for synthesis in (lambda ws, noise: plain.synthesis(ws, "given", noise), shared):
        torch.manual_seed(1)
        ws = torch.randn(2, plain.num_ws, 16, dtype=torch.float64, requires_grad=True)
        noise = {
            name: torch.randn(shape, dtype=torch.float64, requires_grad=True)
            for name, shape in plain.synthesis.noise_shapes().items()
        }
        image = synthesis(ws, noise)
        found.append([image, *torch.autograd.grad(image.square().mean(), [ws, *noise.values()])])
    for plainly, sharing in zip(*found, strict=True):
        torch.testing.assert_close(sharing, plainly, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_variant_gives_the_image(dtype):
    work = synthesis_workload(random_generator(32, **SMALL), 2, dtype, "cpu")
    assert list(work.variants)[:3] == [OURS, EAGER, BEST_FORM]
    checked = check_result(any_case(dtype), work)
    assert not checked.wrong
    assert set(checked.errors) == set(work.variants)
    assert work.items == 2
    assert work.formula is not None
    reference = work.reference()
    for module in (work.formula.module, *work.formula.better.values()):
        image = module(*work.formula.inputs)
        assert (image - reference).abs().max() <= 1e-5 * reference.abs().max()


def test_the_shipped_generator_is_built():
    case = next(case for case in synthesis_cases() if case.name == "synthesis/16x3x64x64 demo/float32")
    assert not check_result(case, case.build("cpu")).wrong


def test_counts_are_those_of_the_specification():
    """Multiply-adds in 1e9 and least float32 traffic in MB, each head reading its features once more."""
    for side, base, macs, megabytes in (
        (256, 16384, 15.03, 146),
        (256, 32768, 45.37, 276),
        (512, 32768, 60.18, 584),
        (1024, 32768, 75.33, 1213),
    ):
        config = GeneratorConfig(side, channel_base=base)
        counts = SynthesisCounts.of(config)
        assert counts.macs / 1e9 == pytest.approx(macs, abs=0.005)
        features = sum(config.channels(size) * size[0] * size[1] for size in config.sizes)
        traffic = counts.bytes(1, 4) + 4 * (features - counts.weights)
        assert traffic / 1e6 == pytest.approx(megabytes, abs=0.5)


def test_counts_are_what_torch_counts():
    network = random_generator(64, channel_base=1024, channel_max=64, w_dim=16, z_dim=16, mapping_layers=1)
    plain = plain_twin(network).requires_grad_(False)
    counts = SynthesisCounts.of(network.config)
    with FlopCounterMode(display=False) as counter:
        SharedSynthesis(plain)(torch.randn(1, plain.num_ws, 16))
    by_op = {str(op): flops for op, flops in counter.get_flop_counts()["Global"].items()}
    found = sum(flops for op, flops in by_op.items() if "convolution" in op)
    assert found == pytest.approx(2 * counts.macs, rel=1e-3)


@pytest.mark.parametrize(("runtime", "package"), [("OpenVINO", "openvino"), ("ONNX Runtime", "onnxruntime")])
def test_other_runtimes_give_the_same_image(runtime, package):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    plain = plain_twin(random_generator(8, **SMALL)).requires_grad_(False)
    ws = torch.randn(2, plain.num_ws, 16)
    wanted = plain.synthesis(ws)
    with torch.no_grad():
        image = rivals.RIVALS[runtime](Formula(SharedSynthesis(plain).eval(), (ws,)), "float32")()
    assert (image - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("up_form", ["transposed", "phases"])
def test_compiled_forms_give_the_same_image(up_form):
    plain = plain_twin(random_generator(16, **SMALL)).requires_grad_(False)
    ws = torch.randn(2, plain.num_ws, 16)
    wanted = plain.synthesis(ws)
    with torch.no_grad():
        formula = Formula(SharedSynthesis(plain, up_form=up_form).eval(), (ws,))
        image = rivals.RIVALS["torch.compile"](formula, "float32")()
    assert (image - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_a_runtime_is_given_its_better_form(monkeypatch):
    given = {}

    def build(formula, dtype):
        given[dtype] = formula.module
        raise PyfaceError("enough")

    monkeypatch.setattr(rivals, "RIVALS", {"one": build})
    usual, better = torch.nn.Identity(), torch.nn.Identity()
    _, reasons = rivals.build_rivals(Formula(usual, (torch.zeros(1),), {"one": better}), "float32")
    assert given["float32"] is better
    assert list(reasons) == ["one"]
    rivals.build_rivals(Formula(usual, (torch.zeros(1),), {"two": better}), "bfloat16")
    assert given["bfloat16"] is usual
