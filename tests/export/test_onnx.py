"""Networks as ONNX: every architecture, run by ONNX Runtime, equal to torch; and what is refused."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pyface.errors import DataError, ExportError, MissingExtraError, ShapeError, ValueRangeError
from pyface.export.artefact import Artefact, open_artefact, sha256_of_network
from pyface.export.onnx import export_onnx, form_of, highest_opset
from pyface.export.runners import obstacle
from pyface.io.checkpoint import save_model
from pyface.io.hashing import sha256_of
from pyface.io.images import to_uint8
from pyface.models import ARCHITECTURES, load

onnx = pytest.importorskip("onnx", reason="needs the extra export")
pytest.importorskip("onnxscript", reason="needs the extra export")
ort = pytest.importorskip("onnxruntime", reason="needs the extra export")

Small = Callable[..., Any]
export = functools.partial(export_onnx, certify=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("onnx")


@pytest.fixture(scope="module")
def generator(small_network: Small) -> Any:
    return small_network("stylegan2-generator")


@pytest.fixture(scope="module")
def plain(folder: Path, generator: Any) -> Artefact:
    return export(generator, folder / "plain.onnx")


def run(artefact: Artefact, tensors: list[torch.Tensor]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(artefact.path), options, providers=["CPUExecutionProvider"])
    feeds = {spec.name: x.numpy() for spec, x in zip(artefact.spec.inputs, tensors, strict=True)}
    return session.run([spec.name for spec in artefact.spec.outputs], feeds)


def check(artefact: Artefact) -> Any:
    """The model, valid, with axes named as described and nothing of this machine in it."""
    onnx.checker.check_model(str(artefact.path), full_check=True)
    model = onnx.load(artefact.path)
    for values, specs in (
        (model.graph.input, artefact.spec.inputs),
        (model.graph.output, artefact.spec.outputs),
    ):
        found = [
            (v.name, tuple(d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim)) for v in values
        ]
        batch = artefact.spec.batch
        assert found == [(s.name, s.concrete(batch) if batch else s.shape) for s in specs]
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert not model.metadata_props
    return model


def worst(found: list[np.ndarray], wanted: tuple[torch.Tensor, ...]) -> float:
    """Largest error, relative to the largest number where that is above 1."""
    pairs = zip(found, wanted, strict=True)
    return max(float(np.abs(x - y.numpy()).max() / y.abs().max().clamp(min=1)) for x, y in pairs)


def kinds_of_weights(model: Any, op_type: str) -> set[int]:
    """Element types of the weights of convolutions that are not applied to each channel by itself."""
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    return {
        kinds[node.input[1]]
        for node in model.graph.node
        if node.op_type == op_type and all(a.i == 1 for a in node.attribute if a.name == "group")
    }


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_every_architecture(
    name: str, folder: Path, small_network: Small, inputs_of: Small, request: pytest.FixtureRequest
) -> None:
    network = small_network(name)
    if name == "stylegan2-generator":
        artefact = request.getfixturevalue("plain")
    else:
        artefact = export(network, folder / f"{name}.onnx")
    model = check(artefact)
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    assert artefact.spec.architecture == name
    assert artefact.spec.weights_sha256 == sha256_of_network(network)
    form = form_of(network)
    for rows in (1, 3):
        given = inputs_of(form, rows)
        found = run(artefact, given)
        assert [x.shape for x in found] == [spec.concrete(rows) for spec in artefact.spec.outputs]
        if name == "stylegan2-generator":
            z, c, psi = given
            images = network(z, c, truncation_psi=psi.item(), noise_mode="const")
            wanted = tuple(images.values())
        else:
            wanted = form.expected(network, *given)
        assert worst(found, wanted) <= 2e-5


CONFIGURATIONS: list[dict[str, Any]] = [
    {"architecture": "resnet", "resample_filter": (1, 2, 1), "spectra": {"vis": 3}},
    {"architecture": "orig", "activation": "swish", "c_dim": 0, "w_avg_decay": 0.9},
    {"initial_size": (5, 4), "resolution": (20, 16), "activation": "relu", "conv_clamp": 0.5},
    {"num_16bit_res": 1, "use_noise": False, "resample_filter": (1, 3, 4, 2, 1, 1, 2, 5)},
]


@pytest.mark.slow
@pytest.mark.parametrize("functions", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("changes", CONFIGURATIONS, ids=str)
def test_every_kind_of_generator(
    changes: dict[str, Any],
    precision: str,
    functions: bool,
    tmp_path: Path,
    small_network: Small,
    inputs_of: Small,
) -> None:
    network = small_network("stylegan2-generator", **changes)
    artefact = export(network, tmp_path / "net.onnx", precision=precision, functions=functions)
    check(artefact)
    form = form_of(network)
    for rows in (1, 5):
        given = inputs_of(form, rows)
        assert worst(run(artefact, given), form(*given)) <= (5e-5 if precision == "fp32" else 0.05)


def test_artefact_describes_itself(plain: Artefact, generator: Any) -> None:
    found = open_artefact(plain.path)
    assert found == plain
    assert found.parity is None
    spec = found.spec
    assert (spec.format, spec.part, spec.precision, spec.opset) == ("onnx", "whole", "fp32", 20)
    assert [tensor.name for tensor in spec.inputs] == ["z", "c", "psi"]
    assert (spec.z_dim, spec.c_dim, spec.w_dim, spec.num_ws) == (8, 2, 8, generator.num_ws)
    assert (spec.resolution, dict(spec.spectra)) == ((8, 8), {"vis": 3, "nir": 1})
    assert sorted(spec.versions) == ["onnx", "onnxscript", "pyface", "torch"]


def test_weights_are_folded(plain: Artefact) -> None:
    model = onnx.load(plain.path)
    constants = {tensor.name for tensor in model.graph.initializer}
    constants |= {node.output[0] for node in model.graph.node if node.op_type == "Constant"}
    left = [node.op_type for node in model.graph.node if set(node.input) <= constants]
    assert left == []
    assert "Slice" not in {node.op_type for node in model.graph.node}


def test_what_keeps_normalisations_finite_is_not_optimised_away(
    plain: Artefact, generator: Any, inputs_of: Small
) -> None:
    z, c, psi = inputs_of(form_of(generator), 3)
    z[0], c[1] = 0, 0
    found = run(plain, [z, c, psi])
    images = generator(z, c, truncation_psi=psi.item(), noise_mode="const")
    assert worst(found, tuple(images.values())) <= 2e-5


def test_the_same_network_gives_the_same_bytes(plain: Artefact, generator: Any, folder: Path) -> None:
    assert export(generator, folder / "again.onnx").sha256 == plain.sha256


def test_uint8_pictures(folder: Path, generator: Any, plain: Artefact, inputs_of: Small) -> None:
    artefact = export(generator, folder / "uint8.onnx", uint8=True)
    model = check(artefact)
    producers = {output: node for node in model.graph.node for output in node.output}
    assert [producers[tensor.name].op_type for tensor in model.graph.output] == ["Cast", "Cast"]
    given = inputs_of(form_of(generator), 3)
    for pixels, images in zip(run(artefact, given), run(plain, given), strict=True):
        np.testing.assert_array_equal(pixels, to_uint8(images))


def test_half_precision_stores_halves(
    folder: Path, generator: Any, plain: Artefact, inputs_of: Small
) -> None:
    artefact = export(generator, folder / "half.onnx", precision="float16")
    model = check(artefact)
    assert artefact.spec.precision == "fp16"
    assert kinds_of_weights(model, "Conv") == {onnx.TensorProto.FLOAT16}
    assert kinds_of_weights(model, "ConvTranspose") == {onnx.TensorProto.FLOAT16}
    given = inputs_of(form_of(generator), 3)
    wanted = tuple(map(torch.from_numpy, run(plain, given)))
    assert worst(run(artefact, given), wanted) <= 0.01


def test_bfloat16_takes_opset_22(folder: Path, generator: Any) -> None:
    artefact = export(generator, folder / "brain.onnx", precision="bf16")
    model = check(artefact)
    assert artefact.spec.opset == 22 == model.opset_import[0].version
    assert artefact.spec.up_form == "phases"
    assert kinds_of_weights(model, "Conv") == {onnx.TensorProto.BFLOAT16}
    assert kinds_of_weights(model, "ConvTranspose") == set()  # TensorRT-RTX has none of bfloat16


def test_fixed_batch_and_noise_as_input(folder: Path, generator: Any, inputs_of: Small) -> None:
    artefact = export(
        generator, folder / "fixed.onnx", batch=2, inputs="ws", noise="input", opset=18, external_data=True
    )
    model = check(artefact)
    assert artefact.spec.batch == 2
    assert model.opset_import[0].version == 18
    form = form_of(generator, inputs="ws", noise="input")
    given = inputs_of(form, 2)
    assert worst(run(artefact, given), form(*given)) <= 2e-5


def test_parts_compose(folder: Path, generator: Any, plain: Artefact, inputs_of: Small) -> None:
    mapping = export(generator, folder / "mapping.onnx", part="mapping")
    synthesis = export(generator, folder / "synthesis.onnx", part="synthesis", opset=highest_opset())
    check(mapping), check(synthesis)
    given = inputs_of(form_of(generator), 3)
    (ws,) = run(mapping, given)
    found = run(synthesis, [torch.from_numpy(ws)])
    assert worst(found, tuple(map(torch.from_numpy, run(plain, given)))) <= 2e-5


def test_external_data(folder: Path, generator: Any, plain: Artefact, inputs_of: Small) -> None:
    artefact = export(generator, folder / "apart.onnx", external_data=True)
    assert list(artefact.files) == ["apart.onnx", "apart.onnx.data"]
    assert artefact.files["apart.onnx.data"] == sha256_of(folder / "apart.onnx.data")
    assert artefact.path.stat().st_size < plain.path.stat().st_size
    given = inputs_of(form_of(generator), 1)
    for x, y in zip(run(artefact, given), run(plain, given), strict=True):
        np.testing.assert_array_equal(x, y)


def test_weights_above_the_limit_go_apart(
    folder: Path, generator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyface.export.onnx._INLINE_LIMIT", 100)
    assert len(export(generator, folder / "large.onnx", part="mapping").files) == 2
    with pytest.raises(ExportError, match="one ONNX file holds 2; leave external_data out"):
        export(generator, folder / "inline.onnx", part="mapping", external_data=False)


def test_functions_carry_settings_and_bodies(
    folder: Path, generator: Any, plain: Artefact, inputs_of: Small
) -> None:
    artefact = export(generator, folder / "functions.onnx", functions=True)
    assert open_artefact(artefact.path).spec.functions
    assert obstacle(artefact.spec, "onnxruntime") is None
    assert "export without functions" in (obstacle(artefact.spec, "openvino") or "")
    model = check(artefact)
    nodes = [node for node in model.graph.node if node.domain == "pyface"]
    assert {node.op_type.split("_")[0] for node in nodes} == {"BiasAct", "Upfirdn2d"}
    assert {function.name for function in model.functions} == {node.op_type for node in nodes}
    settings = {entry.name: onnx.helper.get_attribute_value(entry) for entry in nodes[0].attribute}
    assert settings["act"] == b"lrelu"
    given = inputs_of(form_of(generator), 3)
    assert worst(run(artefact, given), tuple(map(torch.from_numpy, run(plain, given)))) <= 2e-5


def test_a_checkpoint_by_its_path(folder: Path, generator: Any, plain: Artefact) -> None:
    path = folder / "net.safetensors"
    save_model(path, generator)
    artefact = export(str(path), folder / "from-file.onnx")
    assert artefact.spec.weights_sha256 == sha256_of(path)
    assert artefact.sha256 == plain.sha256
    assert load(path).num_ws == artefact.spec.num_ws


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"opset": 17}, ExportError, "opset 17 is too low for fp32: it must be 18 to"),
        ({"opset": 99}, ExportError, "opset 99 is too high: the installed onnx"),
        ({"opset": 20, "precision": "bf16"}, ExportError, "too low for bf16: it must be 22 to .* bfloat16"),
        ({"precision": "fp64"}, ValueRangeError, "precision must be one of fp32"),
        ({"precision": "int8"}, ExportError, "pyface export tensorrt --precision int8"),
        ({"precision": "fp8"}, ExportError, "pyface export tensorrt --precision fp8"),
        ({"batch": 0}, ValueRangeError, "batch must be at least 1"),
        ({"part": "synthesis", "inputs": "z"}, ExportError, "the synthesis begins with ws"),
        ({"noise": "loud"}, ValueRangeError, "noise must be one of"),
    ],
)
def test_refused_options(
    options: dict[str, Any], error: type[Exception], message: str, tmp_path: Path, generator: Any
) -> None:
    with pytest.raises(error, match=message):
        export(generator, tmp_path / "net.onnx", **options)
    assert list(tmp_path.iterdir()) == []


def test_refused_networks_and_places(tmp_path: Path, small_network: Small, generator: Any) -> None:
    with pytest.raises(ExportError, match=r"a embedder has no uint8, noise 'input'; these belong to gen"):
        export(small_network("iresnet"), tmp_path / "net.onnx", uint8=True, noise="input")
    with pytest.raises(ExportError, match="Linear cannot be exported"):
        export(nn.Linear(2, 2), tmp_path / "net.onnx")
    with pytest.raises(ShapeError, match="the batch must be a multiple of the minibatch-std group"):
        export(small_network("stylegan2-discriminator"), tmp_path / "net.onnx", batch=5)
    with pytest.raises(DataError, match="the folder does not exist; make it first"):
        export(generator, tmp_path / "nowhere" / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_names_its_extra(
    tmp_path: Path, generator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr("pyface.export.onnx.importlib.import_module", absent)
    with pytest.raises(MissingExtraError, match=r'pip install "pyface-synth\[export\]"'):
        export(generator, tmp_path / "net.onnx")


def test_what_torch_cannot_translate_is_one_line(tmp_path: Path, small_network: Small) -> None:
    network = small_network("iresnet")
    network.prelu.forward = lambda x: x.log2_() if x.sum() > 0 else x
    with pytest.raises(ExportError, match=r"could not be translated to ONNX: \w+: .+") as caught:
        export(network, tmp_path / "net.onnx")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
