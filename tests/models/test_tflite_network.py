"""Networks of TensorFlow Lite files in torch against OpenCV, which runs the same files."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyface.errors import CheckpointError, ShapeError
from pyface.io.tflite import TfliteGraph, TfliteOperation, TfliteTensor
from pyface.models.tflite_network import TfliteNetwork, load_tflite

cv2 = pytest.importorskip("cv2")

WINDOW = {"padding": 0, "stride_w": 2, "stride_h": 2, "activation": 0}


@pytest.mark.parametrize("name", ["blazeface", "facemesh"])
def test_outputs_equal_those_of_opencv_for_each_of_a_batch(name, model):
    network = load_tflite(model(name))
    torch.manual_seed(0)
    images = torch.rand(2, *network.input_shape) * 2 - 1
    with torch.no_grad():
        found = network(images)
    oracle = cv2.dnn.readNetFromTFLite(str(model(name)))
    for i in range(2):
        oracle.setInput(images[i : i + 1].numpy())
        names = oracle.getUnconnectedOutLayersNames()
        assert set(names) == set(network.output_names)
        for output, values in zip(names, oracle.forward(names), strict=True):
            ours = found[network.output_names.index(output)][i].numpy()
            scale = np.abs(values).max()
            np.testing.assert_allclose(ours.ravel(), values.ravel(), atol=1e-5 * max(scale, 1))


def test_one_network_serves_batches_gradients_and_doubles(model):
    network = load_tflite(model("fer")).double()
    torch.manual_seed(0)
    images = torch.rand(3, 1, 64, 64, dtype=torch.float64, requires_grad=True)
    (table,) = network(images)
    torch.testing.assert_close(table.sum(1), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(network(images[1:2])[0], table[1:2])
    (slope,) = torch.autograd.grad(table[:, 3].sum(), images)
    direction = torch.randn_like(images)
    with torch.no_grad():
        step = 1e-6
        ahead, behind = (network(images + s * step * direction)[0][:, 3].sum() for s in (1, -1))
    torch.testing.assert_close((ahead - behind) / (2 * step), (slope * direction).sum(), rtol=1e-4, atol=1e-9)


def test_images_of_another_size_are_refused(model):
    network = load_tflite(model("fer"))
    for shape in ((1, 3, 64, 64), (1, 1, 48, 48), (1, 64, 64)):
        with pytest.raises(ShapeError, match=r"must be \[N, 1, 64, 64\]"):
            network(torch.zeros(shape))


def graph(code, options, constants=(), shape=(1, 5, 6, 2)):
    """A graph of one operation on one input; N, H, W, C as in a file."""
    tensors = [TfliteTensor("in", shape, None), *(TfliteTensor("c", c.shape, c) for c in constants)]
    tensors.append(TfliteTensor("out", (1,), None))
    last = len(tensors) - 1
    operation = TfliteOperation(code, tuple(range(last)), (last,), options)
    return TfliteGraph(tuple(tensors), (operation,), (0,), (last,))


def test_same_padding_puts_the_odd_pixel_behind():
    image = torch.arange(30.0).reshape(1, 1, 5, 6)
    facts = {**WINDOW, "width": 3, "height": 2}
    (pooled,) = TfliteNetwork(graph("MAX_POOL_2D", facts, shape=(1, 5, 6, 1)))(image)
    # width 6, window 3, stride 2: one pixel behind; height 5, window 2, stride 2: one below
    assert pooled.tolist() == [[[[8.0, 10.0, 11.0], [20.0, 22.0, 23.0], [26.0, 28.0, 29.0]]]]
    kernel = np.ones((1, 2, 3, 1), np.float32)
    facts = {**WINDOW, "dilation_w": 1, "dilation_h": 1}
    network = TfliteNetwork(graph("CONV_2D", facts, [kernel, np.zeros(1, np.float32)], shape=(1, 5, 6, 1)))
    (sums,) = network(torch.ones(1, 1, 5, 6))
    assert sums.tolist() == [[[[6.0, 6.0, 4.0], [6.0, 6.0, 4.0], [3.0, 3.0, 2.0]]]]


def test_means_and_shapes_count_axes_as_the_file_does():
    image = torch.arange(60.0).reshape(1, 2, 5, 6)
    axes = np.array([1, 2], np.int32)
    (mean,) = TfliteNetwork(graph("MEAN", {"keep_dims": False}, [axes]))(image)
    assert mean.tolist() == [[14.5, 44.5]]
    (mean,) = TfliteNetwork(graph("MEAN", {"keep_dims": True}, [axes]))(image)
    assert mean.shape == (1, 2, 1, 1)
    pads = np.array([[0, 0], [1, 0], [0, 2], [0, 3]], np.int32)
    (padded,) = TfliteNetwork(graph("PAD", {}, [pads]))(image)
    assert padded.shape == (1, 5, 6, 8)
    assert padded[0, :2, 1:, :6].equal(image[0])


def test_what_cannot_be_run_is_refused():
    with pytest.raises(CheckpointError, match="FULLY_CONNECTED cannot be run"):
        TfliteNetwork(graph("FULLY_CONNECTED", {}))
    with pytest.raises(CheckpointError, match="one image"):
        TfliteNetwork(graph("RELU", {}, shape=(1, 5)))
    with pytest.raises(CheckpointError, match="slopes"):
        TfliteNetwork(graph("PRELU", {}, [np.zeros((5, 6, 2), np.float32)]))
    with pytest.raises(CheckpointError, match="fused activation 5"):
        TfliteNetwork(graph("ADD", {"activation": 5}, [np.zeros(2, np.float32)]))(torch.zeros(1, 2, 5, 6))
