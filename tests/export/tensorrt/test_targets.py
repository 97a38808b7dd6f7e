"""What is refused before an engine is built, each with its remedy; what a graph tells."""

from types import SimpleNamespace

import numpy as np
import pytest

from pyface.errors import ExportError, MissingExtraError, ValueRangeError
from pyface.export.spec import TensorSpec
from pyface.export.tensorrt.graph_facts import GraphFacts, graph_facts
from pyface.export.tensorrt.library import Library, find_library, import_library
from pyface.export.tensorrt.targets import (
    check_graph,
    check_profile,
    choose_targets,
    parse_capability,
)

WS = (TensorSpec("ws", "float32", ("batch", 8, 16)),)


def library(flavour="tensorrt-rtx", targets=(75, 80, 86, 89, 120, 121)):
    members = {f"SM{target}": target for target in targets} | {"CURRENT": 1, "NONE": 0}
    config = {"set_compute_capability": None} if targets else {}
    return Library(
        flavour,
        SimpleNamespace(
            __version__="1.2.3",
            IBuilderConfig=SimpleNamespace(**config),
            ComputeCapability=SimpleNamespace(**members),
        ),
    )


RTX, FULL = library(), library("tensorrt", ())


def facts(**changes):
    return GraphFacts(**{"opset": 20, "inputs": WS, "outputs": (), "batch": None, **changes})


@pytest.mark.parametrize(
    ("text", "number"), [("89", 89), ("8.9", 89), ("sm_120", 120), ("SM75", 75), (121, 121), ("12.0", 120)]
)
def test_capabilities_are_read_in_every_common_form(text, number):
    assert parse_capability(text) == number


@pytest.mark.parametrize("text", ["ampere", "8", "8.9.1", "", -89, 8.95])
def test_other_forms_are_refused(text):
    with pytest.raises(ValueRangeError, match="written as 89"):
        parse_capability(text)


def test_targets_are_the_asked_for_then_the_present_then_all():
    assert choose_targets(RTX, ["sm_120", 89, "8.9"], "fp16", None) == (89, 120)
    assert choose_targets(RTX, (), "fp16", 86) == (86,)
    assert choose_targets(RTX, (), "fp16", None) == (80, 86, 89, 120, 121)
    assert choose_targets(RTX, (), "fp8", None) == (89, 120, 121)
    assert choose_targets(RTX, (), "int8", 90) == (80, 86, 89, 120, 121)  # a data-centre GPU is no target
    assert choose_targets(FULL, (), "fp16", 90) == (90,)
    assert choose_targets(FULL, (90,), "fp16", 90) == (90,)


@pytest.mark.parametrize(
    ("of", "wanted", "precision", "present", "text"),
    [
        (RTX, (90,), "fp16", None, r"compute capability 90; it knows 75, 80.*full TensorRT.*native engine"),
        (RTX, (91,), "fp16", None, r"compute capability 91; it knows 75, 80.*Choose from these"),
        (RTX, (86, 89), "fp8", None, r"fp8 needs compute capability 89 or more.*86\. Leave them out.*int8"),
        (RTX, (75,), "bf16", None, r"bf16 needs compute capability 80.*take fp16"),
        (RTX, (), "fp8", 86, "fp8 needs compute capability 89"),
        (FULL, (), "fp16", None, r"no CUDA device here.*--rtx.*tensorrt-rtx"),
        (FULL, (89,), "fp16", 90, r"builds for the GPU present alone, compute capability 90.*--rtx"),
        (FULL, (), "fp16", 61, r"61, and TensorRT runs on 75.*native engine"),
        (FULL, (), "fp8", 80, "fp8 needs compute capability 89"),
    ],
)
def test_targets_that_cannot_be_are_refused(of, wanted, precision, present, text):
    with pytest.raises(ExportError, match=text):
        choose_targets(of, wanted, precision, present)


def test_unknown_precision_is_refused():
    with pytest.raises(ValueRangeError, match="fp32, fp16, bf16, int8, fp8; got 'fp4'"):
        choose_targets(RTX, (), "fp4", None)


@pytest.mark.parametrize("sizes", [(8, 1, 32), (1, 32, 8), (0, 1, 2), (1, 8), (1, 2.5, 3), (1, 1, True), ()])
def test_profiles_out_of_order_are_refused(sizes):
    with pytest.raises(ValueRangeError, match="with 1 <= smallest <= best <= largest, such as 1,8,32"):
        check_profile(sizes)


def test_profiles_in_order_are_taken():
    assert check_profile([1, 8, 32]) == (1, 8, 32)
    assert check_profile((4, 4, 4)) == (4, 4, 4)
    assert check_profile(None) is None


@pytest.mark.parametrize(
    ("changes", "targets", "profile", "text"),
    [
        ({"float32_products": ("fc0", "fc1", "fc2", "fc3")}, (75, 89), (1, 2, 3),
         r"no float32 matrix product.* 75.*fc0, fc1, fc2 and 1 more.*Leave 75 out.*full TensorRT"),
        ({"bfloat16_transposed": ("up1",)}, (89,), (1, 2, 3), r'no transposed conv.*up1.*up form "phases"'),
        ({"types": frozenset({"float8_e4m3fn"})}, (86,), (1, 2, 3), r"fp8 needs compute capability 89"),
        ({"types": frozenset({"bfloat16"})}, (75,), (1, 2, 3), r"bf16 needs compute capability 80"),
        ({}, (89,), None, r"needs a profile.*--profile 1,8,32"),
        ({"batch": 4}, (89,), (1, 8, 32), r"batches of 4 alone; got the profile 1,8,32\. Give no profile"),
        ({"other_free_axes": ("x[2]",)}, (89,), (1, 2, 3), r"axes besides the batch are free: x\[2\]"),
        ({"foreign": ("pyface::bias_act",)}, (89,), (1, 2, 3), r"pyface::bias_act.*without functions"),
        ({"uint8_inside": ("pixels",)}, (89,), (1, 2, 3), r"uint8.*pixels.*last node"),
    ],
)  # fmt: skip
def test_graphs_that_cannot_be_built_are_refused(changes, targets, profile, text):
    with pytest.raises(ExportError, match=text):
        check_graph(facts(**changes), RTX, targets, profile)


def test_full_tensorrt_takes_what_only_rtx_lacks():
    check_graph(facts(float32_products=("fc",), bfloat16_transposed=("up",)), FULL, (75,), (1, 2, 3))
    check_graph(facts(batch=4), FULL, (90,), None)
    check_graph(facts(batch=4), RTX, (89,), (4, 4, 4))


@pytest.mark.parametrize(
    ("kind", "dtype", "found"),
    [
        ("Conv", "float32", {}),
        ("Conv", "float16", {}),
        ("MatMul", "float32", {"float32_products": ("layer",)}),
        ("MatMul", "float16", {}),
        ("ConvTranspose", "float16", {}),
        ("ConvTranspose", "bfloat16", {"bfloat16_transposed": ("layer",)}),
        ("Ours", "float32", {"foreign": ("ours::Ours",)}),
    ],
)
def test_facts_of_graphs(tiny_graph, kind, dtype, found):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    path = tiny_graph("net.onnx", kind, getattr(ml_dtypes, dtype, None) or np.dtype(dtype))
    told = graph_facts(path)
    assert told.batch is None
    assert told.inputs[0].shape[0] == "batch"
    assert told.opset == 22
    assert dtype in told.types
    assert told.precision == {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}[dtype]
    for field in ("float32_products", "bfloat16_transposed", "foreign", "uint8_inside"):
        assert getattr(told, field) == found.get(field, ())


def test_facts_of_a_fixed_batch_and_of_other_free_axes(tiny_graph):
    assert graph_facts(tiny_graph(batch=4)).batch == 4
    assert graph_facts(tiny_graph(side="side")).other_free_axes == ("x[2]", "x[3]")


def test_uint8_inside_a_graph_is_seen(tmp_path):
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    nodes = [
        helper.make_node("Cast", ["x"], ["pixels"], to=onnx.TensorProto.UINT8),
        helper.make_node("Transpose", ["pixels"], ["y"], perm=[0, 2, 1]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 2, 3])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.UINT8, ["n", 3, 2])],
    )
    onnx.save(helper.make_model(graph, ir_version=10), str(tmp_path / "a.onnx"))
    assert graph_facts(tmp_path / "a.onnx").uint8_inside == ("pixels",)


def test_what_is_no_graph_is_refused(tmp_path):
    pytest.importorskip("onnx")
    with pytest.raises(ExportError, match="there is no file"):
        graph_facts(tmp_path / "a.onnx")
    (tmp_path / "a.onnx").write_text("no graph")
    with pytest.raises(ExportError, match="cannot be read as ONNX"):
        graph_facts(tmp_path / "a.onnx")


def test_missing_libraries_are_named_with_their_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    monkeypatch.setitem(__import__("sys").modules, "tensorrt_rtx", None)
    with pytest.raises(MissingExtraError, match=r'pip install "pyface-synth\[tensorrt-cu13\]"'):
        import_library("tensorrt")
    with pytest.raises(MissingExtraError, match=r'pip install "pyface-synth\[tensorrt-rtx\]"'):
        find_library(True)
    with pytest.raises(MissingExtraError, match=r"neither .*tensorrt-rtx\].*tensorrt-cu13\]"):
        find_library()
    with pytest.raises(ValueRangeError, match="tensorrt-rtx, tensorrt; got 'trt'"):
        import_library("trt")


def test_the_library_that_fits_is_found(tensorrt_double):
    tensorrt_double("11")
    tensorrt_double("rtx")
    assert find_library().flavour == "tensorrt-rtx"
    assert find_library(present=89).flavour == "tensorrt-rtx"
    assert find_library(present=90).flavour == "tensorrt"
    assert find_library(present=90, wanted=(89,)).flavour == "tensorrt-rtx"
    assert find_library(present=89, wanted=(89, 90)).flavour == "tensorrt"
    assert find_library(False).flavour == "tensorrt"
    assert find_library(True, present=90).flavour == "tensorrt-rtx"


@pytest.mark.parametrize(
    ("kind", "flags", "cache", "runtime_cache"),
    [("10", 2, True, False), ("11", 0, True, False), ("rtx", 2, False, True)],
)
def test_capabilities_are_asked_of_the_module(tensorrt_double, kind, flags, cache, runtime_cache):
    tensorrt_double(kind)
    found = find_library(kind == "rtx")
    assert found.network_flags == flags
    assert found.has_timing_cache == cache
    assert found.has_runtime_cache == runtime_cache
    assert found.has_validity == (kind == "rtx")
    assert found.targets == ((75, 86, 89, 120) if kind == "rtx" else ())
