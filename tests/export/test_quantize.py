"""Quantised graphs: the rounding that was asked for, ranges from histograms, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from pyface.errors import ExportError, ValueRangeError
from pyface.export.quantize import METHODS, SizeHistogram, quantize_onnx

onnx = pytest.importorskip("onnx", reason='needs the extra "export"')
runtime = pytest.importorskip("onnxruntime", reason='needs the extra "export"')
ml_dtypes = pytest.importorskip("ml_dtypes", reason='needs the extra "export"')

from onnx import helper, numpy_helper  # noqa: E402

CHANNELS, SIDE = 6, 5
RANDOM = np.random.default_rng(5)


def weights(*shape, dtype=np.float32):
    return (RANDOM.standard_normal(shape) * 0.2).astype(dtype)


def conv_graph(path: Path, nodes, constants, *, opset=21, dtype=np.float32, outputs=("y",), functions=()):
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", element, ["batch", CHANNELS, SIDE, SIDE])],
        [helper.make_tensor_value_info(name, element, ["batch", None, None, None]) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset)] + [helper.make_opsetid("ours", 1)] * bool(functions)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=list(functions))
    onnx.save(model, str(path))
    return path


def conv(source, weight, to, **attributes):
    return helper.make_node("Conv", [source, weight], [to], name=f"conv_{to}", **attributes)


def run(path, x):
    return runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": x})


def inputs(count=3, dtype=np.float32):
    return [{"x": RANDOM.standard_normal((4, CHANNELS, SIDE, SIDE)).astype(dtype)} for _ in range(count)]


def convolve(x, w):
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return np.einsum("nchwij,ocij->nohw", windows, w.astype(np.float64))


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_graph_computes_the_formula_of_rounding(tmp_path, precision):
    w = weights(8, CHANNELS, 3, 3)
    w[2] = 0.0  # a channel without any range
    source = conv_graph(tmp_path / "a.onnx", [conv("x", "w", "y", pads=[1] * 4)], {"w": w})
    feeds = inputs()
    done = quantize_onnx(source, tmp_path / "b.onnx", precision, feeds, method="max", equalize=False)
    largest = max(float(np.abs(feed["x"]).max()) for feed in feeds)
    assert done.ranges == {"conv_y": pytest.approx(largest)}
    assert done.samples == 12
    assert done.precision == precision

    x = feeds[0]["x"]
    limit = {"int8": 127.0, "fp8": 448.0}[precision]

    def rounded(numbers, scale):
        levels = np.clip(numbers / scale, -limit, limit)
        small = np.rint(levels) if precision == "int8" else levels.astype(ml_dtypes.float8_e4m3fn)
        return small.astype(np.float64) * scale

    sizes = np.abs(w).max(axis=(1, 2, 3), keepdims=True)
    expected = convolve(
        rounded(x, largest / limit), rounded(w, np.where(sizes > 0, sizes, 1).astype(np.float32) / limit)
    )
    found = run(tmp_path / "b.onnx", x)[0]
    step = largest / 127 * np.abs(w).max() if precision == "int8" else largest / 16 * np.abs(w).max()
    assert np.abs(found - expected).max() < 1.5 * step  # a tie may fall to the other side
    assert np.abs(found - expected).mean() < 0.01 * expected.std()
    exact = convolve(x, w)
    assert np.abs(found - exact).std() < 0.05 * exact.std()


def test_weights_are_stored_small_and_stale_ones_leave(tmp_path):
    source = conv_graph(
        tmp_path / "a.onnx", [conv("x", "w", "y", pads=[1] * 4)], {"w": weights(64, CHANNELS, 3, 3)}
    )
    quantize_onnx(source, tmp_path / "b.onnx", "int8", inputs(1))
    model = onnx.load(str(tmp_path / "b.onnx"))
    onnx.checker.check_model(model, full_check=True)
    types = {entry.name: entry.data_type for entry in model.graph.initializer}
    assert types["w_int8"] == onnx.TensorProto.INT8
    assert "w" not in types


def test_only_plain_3x3_convolutions_are_touched(tmp_path):
    nodes = [
        conv("x", "w3", "a", pads=[1] * 4),
        conv("x", "w1", "b"),
        conv("x", "wd", "c", pads=[1] * 4, group=CHANNELS),
        conv("x", "ws", "d", pads=[1] * 4, strides=[2, 2]),
        conv("x", "w3b", "e", pads=[1] * 4),
    ]
    constants = {
        "w3": weights(4, CHANNELS, 3, 3),
        "w1": weights(4, CHANNELS, 1, 1),
        "wd": weights(CHANNELS, 1, 3, 3),
        "ws": weights(4, CHANNELS, 3, 3),
        "w3b": weights(4, CHANNELS, 3, 3),
    }
    source = conv_graph(tmp_path / "a.onnx", nodes, constants, outputs="abcde")
    done = quantize_onnx(source, tmp_path / "b.onnx", "int8", inputs(1))
    assert list(done.ranges) == ["conv_a", "conv_e"]
    kinds = [node.op_type for node in onnx.load(str(tmp_path / "b.onnx")).graph.node]
    assert kinds.count("QuantizeLinear") == 1  # one input, read by both
    assert kinds.count("DequantizeLinear") == 3
    done = quantize_onnx(source, tmp_path / "c.onnx", "int8", inputs(1), keep=lambda name: name == "conv_a")
    assert list(done.ranges) == ["conv_e"]
    before, after = run(source, inputs(1)[0]["x"]), run(tmp_path / "c.onnx", inputs(1)[0]["x"])
    assert [a.shape for a in before] == [a.shape for a in after]


def test_scales_of_float16_reach_the_limit_and_stay_normal(tmp_path):
    w = weights(3, CHANNELS, 3, 3, dtype=np.float16)
    w[1] *= 1e-5  # smaller than float16 has normal scales for
    source = conv_graph(tmp_path / "a.onnx", [conv("x", "w", "y", pads=[1] * 4)], {"w": w}, dtype=np.float16)
    quantize_onnx(source, tmp_path / "b.onnx", "int8", inputs(1, np.float16), method="max", equalize=False)
    constants = {
        entry.name: numpy_helper.to_array(entry)
        for entry in onnx.load(str(tmp_path / "b.onnx")).graph.initializer
    }
    scale = constants["w_scale"]
    assert scale.dtype == np.float16
    assert (scale >= np.finfo(np.float16).tiny).all()
    assert (scale.astype(np.float64) * 127 >= np.abs(w.astype(np.float64)).max(axis=(1, 2, 3))).all()
    assert np.isfinite(run(tmp_path / "b.onnx", inputs(1, np.float16)[0]["x"])[0]).all()


def test_functions_of_the_graph_are_written_out(tmp_path):
    body = helper.make_function(
        "ours",
        "Twice",
        ["a"],
        ["b"],
        [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 21)],
    )
    nodes = [
        helper.make_node("Twice", ["x"], ["t"], domain="ours"),
        conv("t", "w", "y", pads=[1] * 4),
    ]
    source = conv_graph(tmp_path / "a.onnx", nodes, {"w": weights(4, CHANNELS, 3, 3)}, functions=[body])
    feeds = inputs(1)
    done = quantize_onnx(source, tmp_path / "b.onnx", "int8", feeds, method="max", equalize=False)
    assert done.ranges["conv_y"] == pytest.approx(2 * np.abs(feeds[0]["x"]).max())


def test_the_same_latents_give_the_same_file(tmp_path):
    source = conv_graph(
        tmp_path / "a.onnx", [conv("x", "w", "y", pads=[1] * 4)], {"w": weights(4, CHANNELS, 3, 3)}
    )
    feeds = inputs(2)
    first = quantize_onnx(source, tmp_path / "b.onnx", "int8", feeds)
    assert quantize_onnx(source, tmp_path / "c.onnx", "int8", feeds) == first
    assert (tmp_path / "b.onnx").read_bytes() == (tmp_path / "c.onnx").read_bytes()
    assert quantize_onnx(source, tmp_path / "c.onnx", "int8", inputs(2)).sha256 != first.sha256


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_channels_of_different_size_are_brought_together(tmp_path, dtype):
    sizes = np.geomspace(0.02, 5.0, CHANNELS)[:, None, None]
    w = (weights(8, CHANNELS, 3, 3) / sizes[None]).astype(dtype)
    source = conv_graph(tmp_path / "a.onnx", [conv("x", "w", "y", pads=[1] * 4)], {"w": w}, dtype=dtype)
    feeds = [{"x": (feed["x"] * sizes).astype(dtype)} for feed in inputs(4)]
    exact = convolve(feeds[0]["x"], w)

    def error(**options):
        quantize_onnx(source, tmp_path / "b.onnx", "int8", feeds, **options)
        return float(np.abs(run(tmp_path / "b.onnx", feeds[0]["x"])[0] - exact).std() / exact.std())

    assert error() < 0.02
    assert error(equalize=False) > 5 * error()


def test_weights_that_are_read_twice_keep_their_channels(tmp_path):
    nodes = [conv("x", "w", "a", pads=[1] * 4), conv("a", "w", "y", pads=[1] * 4)]
    source = conv_graph(tmp_path / "a.onnx", nodes, {"w": weights(CHANNELS, CHANNELS, 3, 3)})
    quantize_onnx(source, tmp_path / "b.onnx", "int8", inputs(1))
    kinds = [node.op_type for node in onnx.load(str(tmp_path / "b.onnx")).graph.node]
    assert "Mul" not in kinds
    assert kinds.count("DequantizeLinear") == 3


def test_histogram_knows_sizes_within_two_percent():
    histogram = SizeHistogram()
    numbers = np.concatenate([np.linspace(-1, 1, 20001), np.zeros(7), [1000.0, 2.0**-140]])
    histogram.add(numbers[:5000])
    histogram.add(numbers[5000:].astype(np.float32))
    assert histogram.counts.sum() == len(numbers)
    assert histogram.largest == 1000.0
    assert histogram.percentile(1.0) == 1000.0
    assert histogram.percentile(0.5) == pytest.approx(0.5, rel=0.02)
    assert histogram.percentile(0.9999) == pytest.approx(1.0, rel=0.02)


def test_least_error_is_that_of_a_search_by_hand():
    numbers = np.random.default_rng(2).standard_normal(100_000) ** 3  # few large ones
    histogram = SizeHistogram()
    histogram.add(numbers)

    def error(limit):
        return np.mean((np.clip(np.rint(numbers / limit * 127), -127, 127) * limit / 127 - numbers) ** 2)

    best = min(error(histogram.largest * part) for part in np.geomspace(0.1, 1, 200))
    assert error(histogram.least_error(127)) < 1.05 * best
    assert error(histogram.largest) > 1.2 * best


@pytest.mark.parametrize("method", METHODS)
def test_an_input_of_zeros_has_a_range(tmp_path, method):
    source = conv_graph(
        tmp_path / "a.onnx", [conv("x", "w", "y", pads=[1] * 4)], {"w": weights(4, CHANNELS, 3, 3)}
    )
    zeros = [{"x": np.zeros((1, CHANNELS, SIDE, SIDE), np.float32)}]
    quantize_onnx(source, tmp_path / "b.onnx", "int8", zeros, method=method)
    assert not run(tmp_path / "b.onnx", zeros[0]["x"])[0].any()


def test_what_cannot_be_quantised_is_refused(tmp_path):
    w = {"w": weights(4, CHANNELS, 3, 3)}
    node = [conv("x", "w", "y", pads=[1] * 4)]
    source = conv_graph(tmp_path / "a.onnx", node, w)
    out = tmp_path / "b.onnx"
    with pytest.raises(ValueRangeError, match="int8 and fp8; got 'fp16'"):
        quantize_onnx(source, out, "fp16", inputs())
    with pytest.raises(ValueRangeError, match="error, percentile, max; got 'min'"):
        quantize_onnx(source, out, "int8", inputs(), method="min")
    with pytest.raises(ExportError, match="--opset 21"):
        quantize_onnx(conv_graph(tmp_path / "old.onnx", node, w, opset=20), out, "int8", inputs())
    with pytest.raises(ExportError, match="needs calibration latents"):
        quantize_onnx(source, out, "int8", [])
    with pytest.raises(ExportError, match="x is not finite"):
        quantize_onnx(source, out, "int8", [{"x": np.full((1, CHANNELS, SIDE, SIDE), np.inf, np.float32)}])
    with pytest.raises(ExportError, match="does not run on the calibration latents"):
        quantize_onnx(source, out, "int8", [{"x": np.zeros((1, 2, SIDE, SIDE), np.float32)}])
    small = conv_graph(tmp_path / "small.onnx", [conv("x", "w", "y")], {"w": weights(4, CHANNELS, 1, 1)})
    with pytest.raises(ExportError, match="no 3x3 convolution"):
        quantize_onnx(small, out, "int8", inputs())
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(ExportError, match="cannot be read as ONNX"):
        quantize_onnx(tmp_path / "text.onnx", out, "int8", inputs())
    assert not out.exists()
