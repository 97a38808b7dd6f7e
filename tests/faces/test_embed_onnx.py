"""Embedders in ONNX files: what is fed and found, in both layouts, and what is said of other files."""

from __future__ import annotations

import builtins
import pickle

import numpy as np
import pytest
import torch

from pyface.errors import CheckpointError, DTypeError, MissingExtraError, ShapeError, ValueRangeError
from pyface.faces import load_embedder
from pyface.faces.protocols import Embedder

onnx = pytest.importorskip("onnx", reason="onnx is not installed (extra export)")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra faces)")


def write(path, shape, *, axes, dim=3, extra_output=False, kind=onnx.TensorProto.FLOAT, inputs=1):
    """A graph that gives the mean of every channel over the picture, and the whole picture's sum if asked."""
    helper = onnx.helper
    nodes = [helper.make_node("ReduceMean", ["x"], ["y"], axes=axes, keepdims=0)]
    outputs = [helper.make_tensor_value_info("y", kind, [shape[0], dim])]
    if extra_output:
        nodes.append(helper.make_node("Flatten", ["x"], ["flat"], axis=1))
        outputs.append(helper.make_tensor_value_info("flat", kind, None))
    names = ["x", "other"][:inputs]
    infos = [helper.make_tensor_value_info(name, kind, shape) for name in names]
    graph = helper.make_graph(nodes, "g", infos, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)
    return path


def faces(n=5, size=16):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize(
    ("shape", "axes", "layout", "size"),
    [
        (["N", 3, 16, 16], [2, 3], "nchw", None),
        ([1, 3, 16, 16], [2, 3], "nchw", None),
        ([2, 3, 16, 16], [2, 3], "nchw", None),
        (["N", 16, 16, 3], [1, 2], "nhwc", None),
        ([4, 16, 16, 3], [1, 2], "nhwc", None),
        (["N", 3, "H", "W"], [2, 3], "nchw", 16),
        (["N", 3, None, 16], [2, 3], "nchw", None),
    ],
)
@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_what_is_fed(tmp_path, shape, axes, layout, size, order):
    path = write(tmp_path / "a.onnx", shape, axes=axes)
    options = {} if size is None else {"size": size}
    embedder = load_embedder(path, order=order, mean=(10, 20, 30), std=(2, 4, 8), threads=1, **options)
    assert isinstance(embedder, Embedder)
    facts = (embedder.dim, embedder.size, embedder.layout, embedder.template, embedder.metric)
    assert facts == (3, 16, layout, "arcface112", "cosine")
    assert not embedder.differentiable
    grey = (faces() + 1) * 127.5
    wanted = (grey.mean((2, 3)) - torch.tensor([10.0, 20, 30])) / torch.tensor([2.0, 4, 8])
    wanted = wanted.flip(1) if order == "bgr" else wanted
    found = embedder.embed(faces().requires_grad_(True))
    assert not found.requires_grad
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)
    assert embedder.embed(faces()[:0]).shape == (0, 3)


def test_defaults_are_those_of_arcface(tmp_path):
    embedder = load_embedder(write(tmp_path / "a.onnx", ["N", 3, 112, 112], axes=[2, 3]))
    images = faces(size=112)
    torch.testing.assert_close(embedder.embed(images), images.mean((2, 3)), rtol=0, atol=1e-5)
    assert embedder.threshold == 0.3


def test_pickles(tmp_path):
    """As workers that prepare photographs need it."""
    embedder = load_embedder(write(tmp_path / "a.onnx", [2, 3, 16, 16], axes=[2, 3]), order="bgr")
    again = pickle.loads(pickle.dumps(embedder))
    torch.testing.assert_close(again.embed(faces()), embedder.embed(faces()))
    assert (again.name, again.dim) == (embedder.name, embedder.dim)


def test_outputs_are_chosen(tmp_path):
    path = write(tmp_path / "a.onnx", ["N", 3, 16, 16], axes=[2, 3], extra_output=True)
    with pytest.raises(ValueRangeError, match="output must be one of y, flat; got None"):
        load_embedder(path)
    assert load_embedder(path, output="flat").dim == 3 * 16 * 16


def test_other_files(tmp_path):
    good = write(tmp_path / "good.onnx", ["N", 3, 16, 16], axes=[2, 3])
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(good.read_bytes()[:40])
    flat = write(tmp_path / "flat.onnx", ["N", 48], axes=[1])
    two = write(tmp_path / "two.onnx", ["N", 3, 16, 16], axes=[2, 3], inputs=2)
    whole = write(tmp_path / "whole.onnx", ["N", 3, 16, 16], axes=[0, 2, 3])
    five = write(tmp_path / "five.onnx", ["N", 5, 16, 16], axes=[2, 3])
    oblong = write(tmp_path / "oblong.onnx", ["N", 3, 16, 24], axes=[2, 3])
    free = write(tmp_path / "free.onnx", ["N", 3, "H", "W"], axes=[2, 3])
    cases = [
        (lambda: load_embedder(tmp_path / "none.onnx"), CheckpointError, "there is no file"),
        (lambda: load_embedder(damaged), CheckpointError, "damaged"),
        (lambda: load_embedder(flat), CheckpointError, "expected is one of float pictures"),
        (lambda: load_embedder(two), CheckpointError, "expected is one of float pictures"),
        (lambda: load_embedder(whole), CheckpointError, "one vector for each"),
        (lambda: load_embedder(five), ValueRangeError, "layout must be one of none"),
        (lambda: load_embedder(good, layout="nhwc"), ValueRangeError, "layout must be one of nchw"),
        (lambda: load_embedder(oblong), ValueRangeError, "square"),
        (lambda: load_embedder(good, size=20), ValueRangeError, "square"),
        (lambda: load_embedder(free), ValueRangeError, "size=112"),
        (lambda: load_embedder(good, order="grb"), ValueRangeError, "order"),
        (lambda: load_embedder(good, metric="dot"), ValueRangeError, "metric"),
        (lambda: load_embedder(good, std=0), ValueRangeError, "std must not be 0"),
        (lambda: load_embedder(good, mean=(1, 2)), ValueRangeError, "mean must be a number or three"),
        (lambda: load_embedder(good, device="cuda"), ValueRangeError, "onnxruntime-gpu"),
        (lambda: load_embedder(good).embed(faces(size=20)), ShapeError, "arcface112"),
        (lambda: load_embedder(good).embed(faces().byte()), DTypeError, "uint8"),
    ]
    for call, error, text in cases:
        with pytest.raises(error, match=text):
            call()


def test_without_onnxruntime(tmp_path, monkeypatch):
    path = write(tmp_path / "a.onnx", ["N", 3, 16, 16], axes=[2, 3])
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "onnxruntime":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"pyface-synth\[faces\]"):
        load_embedder(path)


def test_equals_the_network_it_was_made_from(tmp_path):
    """An IResNet as ONNX and as .pth gives the same vectors."""
    pytest.importorskip("onnxscript", reason="onnxscript is not installed (extra export)")
    from pyface.models import IResNet, IResNetConfig

    torch.manual_seed(0)
    network = IResNet(IResNetConfig((1, 1, 1, 1), (4, 4, 6, 6), 32, 7)).eval()
    torch.save(network.state_dict(), tmp_path / "a.pth")
    torch.onnx.export(network, (faces(1, 32),), tmp_path / "a.onnx", dynamo=True, verbose=False)
    found = [load_embedder(tmp_path / name).embed(faces(3, 32)) for name in ("a.pth", "a.onnx")]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-4)
