"""pyface's ops in ONNX: each setting equal to the op itself, inline and as a function with a body."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pyface.export.translations import DOMAIN, Translations
from pyface.ops import ACTIVATIONS, bias_act, modulated_conv2d, setup_filter, upfirdn2d

onnx = pytest.importorskip("onnx", reason="needs the extra export")
pytest.importorskip("onnxscript", reason="needs the extra export")
ort = pytest.importorskip("onnxruntime", reason="needs the extra export")

CODES = {name: entry.code for name, entry in ACTIVATIONS.items()}
ops = torch.ops.pyface


class Calls(nn.Module):
    """Several calls of ops on the same input: one export holds them all to torch."""

    def __init__(self, calls: Sequence[Callable[..., Tensor]], tensors: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self.calls = list(calls)
        for index, tensor in enumerate(tensors):
            self.register_buffer(f"t{index}", tensor)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        given = list(self.buffers())
        return tuple(call(x, *given) for call in self.calls)


def exported(module: nn.Module, x: Tensor, functions: bool) -> Any:
    translations = Translations(functions)
    with torch.no_grad(), translations.registered():
        program = torch.export.export(
            module, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},), strict=False
        )
        written = torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=20,
            optimize=False,
            verbose=False,
            input_names=["x"],
            custom_translation_table=translations.table,
        )
        translations.add_functions(written.model, 20)
    return written.model_proto


def agree(module: nn.Module, x: Tensor, functions: bool, tmp_path: Path, limit: float = 2e-6) -> Any:
    """The model; its outputs are those of the module for a batch of 2 and one of 5, of the same type."""
    model = exported(module, x, functions)
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} <= {"", DOMAIN if functions else ""}
    onnx.save(model, tmp_path / "ops.onnx")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(tmp_path / "ops.onnx", options, providers=["CPUExecutionProvider"])
    for given in (x, torch.cat([x, x, x.flip(0)])[:5].contiguous()):
        found = session.run(None, {"x": given.numpy()})
        for index, (mine, truth) in enumerate(zip(found, module(given), strict=True)):
            assert mine.dtype == truth.numpy().dtype
            assert mine.shape == tuple(truth.shape), index
            if mine.size:
                error = np.abs(mine.astype(np.float64) - truth.double().numpy()).max()
                assert error <= limit * max(1.0, float(truth.abs().max())), index
    return model


@pytest.mark.parametrize("functions", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_activations(functions: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(0)
    calls: list[Callable[..., Tensor]] = []
    for act in ACTIVATIONS:
        calls.append(lambda x, b, act=act: bias_act(x, b, act=act, clamp=0.8))
        calls.append(lambda x, b, act=act: bias_act(x, act=act, alpha=0.1 if act == "lrelu" else None))
    calls.append(lambda x, b: bias_act(x, b[:5], dim=2, act="lrelu", gain=0.3))
    calls.append(lambda x, b: bias_act(x[:, :, 0, 0], b, act="swish"))
    calls.append(lambda x, b: bias_act(x[:, :, 0, 0], b[:2], dim=0) if x.shape[0] == 1 else x * 1)
    module = Calls(calls, [torch.randn(6, dtype=dtype)])
    limit = 2e-6 if dtype == torch.float32 else 3e-3
    model = agree(module, torch.randn(2, 6, 5, 4).to(dtype), functions, tmp_path, limit)
    nodes = [node for node in model.graph.node if node.domain == DOMAIN]
    assert len(nodes) == (2 * len(ACTIVATIONS) + 2 if functions else 0)
    if functions:
        settings = {entry.name: onnx.helper.get_attribute_value(entry) for entry in nodes[4].attribute}
        assert settings == {
            "act": b"lrelu",
            "alpha": pytest.approx(0.2),
            "gain": pytest.approx(2**0.5),
            "clamp": pytest.approx(0.8),
            "dim": 1,
        }


RESAMPLINGS: list[dict[str, Any]] = [
    {"up": 2, "padding": (2, 1, 2, 1), "gain": 4.0},
    {"up": 2, "padding": (2, 1, 2, 1), "flip_filter": True},
    {"down": 2, "padding": (1, 1, 1, 1)},
    {"down": (2, 1), "padding": (2, 0, 1, 3), "flip_filter": True},
    {"up": (1, 3), "padding": (0, 0, 5, 4)},
    {"up": 3, "down": 2, "padding": 4},
    {"up": 2, "padding": (-1, 2, 3, -2), "gain": 0.5},
    {"padding": (-1, -1, 3, -1)},
    {"padding": (6, 0, 0, 7)},
    {"up": 2, "down": (1, 2), "padding": (9, 8, 7, 9)},
]


@pytest.mark.parametrize("functions", [False, True])
@pytest.mark.parametrize("taps", [[[1.0, 2.0, 5.0], [3.0, 1.0, 0.0]], [1.0, 3.0, 4.0, 2.0], None], ids=str)
def test_resampling(functions: bool, taps: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    calls: list[Callable[..., Tensor]] = [
        lambda x, f=None, settings=settings: upfirdn2d(x, f, **settings) for settings in RESAMPLINGS
    ]
    filters = [] if taps is None else [setup_filter(taps, separable=isinstance(taps[0], float))]
    model = agree(Calls(calls, filters), torch.randn(2, 3, 6, 7), functions, tmp_path)
    assert len(model.functions) == (len(RESAMPLINGS) if functions else 0)


@pytest.mark.parametrize("functions", [False, True])
def test_halves_and_other_numbers_of_channels_have_bodies_of_their_own(
    functions: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    calls: list[Callable[..., Tensor]] = [
        lambda x, f: upfirdn2d(x, f, up=2, padding=2),
        lambda x, f: upfirdn2d(x[:, :2], f, up=2, padding=2),
        lambda x, f: upfirdn2d(x.half(), f, up=2, padding=2, gain=4.0).float(),
    ]
    module = Calls(calls, [setup_filter([1, 3, 3, 1])])
    model = agree(module, torch.randn(2, 3, 6, 7), functions, tmp_path, 1e-3)
    assert len(model.functions) == (3 if functions else 0)


@pytest.mark.parametrize("functions", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_modulated_convolutions(functions: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(0)
    weight, styles, next_styles = torch.randn(4, 3, 3, 3), torch.rand(1, 3) + 0.5, torch.rand(1, 4) + 0.5
    noise, bias = torch.randn(1, 1, 5, 4), torch.randn(4)
    code = CODES["lrelu"]

    def per_row(x: Tensor, v: Tensor) -> Tensor:
        return v.expand(x.shape[0], -1).contiguous()

    calls: list[Callable[..., Tensor]] = [
        lambda x, w, s, t, n, b: ops.modulate(x, per_row(x, s)),
        lambda x, w, s, t, n, b: modulated_conv2d(x, w.to(x.dtype), per_row(x, s), padding=1),
        lambda x, w, s, t, n, b: ops.conv_epilogue(
            x[:, :1].repeat(1, 4, 1, 1), per_row(x, t), n, b, per_row(x, t), code, 0.2, 1.4, 0.9
        ),
        lambda x, w, s, t, n, b: ops.conv_epilogue(x, None, None, None, None, code, 0.2, 1.0, -1.0),
    ]
    module = Calls(calls, [weight, styles, next_styles, noise, bias])
    limit = 5e-6 if dtype == torch.float32 else 5e-3
    model = agree(module, torch.randn(2, 3, 5, 4).to(dtype), functions, tmp_path, limit)
    if functions:
        names = {node.op_type.split("_")[0] for node in model.graph.node if node.domain == DOMAIN}
        assert names == {"Modulate", "ConvEpilogue"}


def test_schemas_are_forgotten_after_an_export_that_fails() -> None:
    translations = Translations(functions=True)
    module = Calls([bias_act, lambda x: torch.special.bessel_j0(bias_act(x, act="relu"))]).eval()

    def export() -> None:
        with translations.registered():
            torch.onnx.export(
                module,
                (torch.randn(2, 3, 3),),
                dynamo=True,
                verbose=False,
                custom_translation_table=translations.table,
            )

    for _ in range(2):
        with pytest.raises(Exception, match="bessel"):
            export()
        with pytest.raises(onnx.defs.SchemaError):
            onnx.defs.get_schema("BiasAct", 1, DOMAIN)
