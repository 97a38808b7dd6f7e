"""dlib's file format: what is read of good files, and that bad ones give CheckpointError and nothing else."""

from __future__ import annotations

import importlib.util
import random
import re
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from pyface.errors import CheckpointError
from pyface.io.dlib_file import read_dlib_network

_spec = importlib.util.spec_from_file_location("dlib_writer", Path(__file__).parents[1] / "dlib_writer.py")
dlib_writer = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(dlib_writer)


def layers():
    draw = np.random.default_rng(0)
    return [
        dlib_writer.con(draw.normal(size=(4, 3, 3, 5)).astype("f4"), np.arange(4, dtype="f4"), 2, 1),
        dlib_writer.affine(np.full(4, 2.0, "f4"), np.arange(4, dtype="f4") / 8),
        dlib_writer.text("relu_"),
        dlib_writer.pool("max_pool_2", 3, 2),
        dlib_writer.pool("avg_pool_2", 0, 1),
        dlib_writer.text("add_prev_"),
        dlib_writer.full(draw.normal(size=(4, 2)).astype("f4"), np.array([5.0, 6.0], "f4")),
        dlib_writer.full(draw.normal(size=(2, 3)).astype("f4")),
    ]


def read(tmp_path, data):
    path = tmp_path / "a.dat"
    path.write_bytes(data)
    return read_dlib_network(path)


@pytest.mark.parametrize("tags", [0, 2])
def test_layers_with_their_numbers(tmp_path, tags):
    found = read(tmp_path, dlib_writer.network(layers(), 150, tags=tags))
    assert found.loss == "loss_metric_2"
    assert (found.input.rows, found.input.columns) == (150, 150)
    np.testing.assert_allclose(found.input.mean, (122.782, 117.001, 104.298), rtol=1e-7)
    names = ["con", "affine", "relu", "max_pool", "avg_pool", "add_prev", "fc", "fc"]
    assert [layer.name for layer in found.layers] == names
    con, affine, _, maximum, average, _, full, unbiased = found.layers
    assert list(con.sizes.values()) == [4, 3, 5, 2, 2, 1, 1]
    weight = np.random.default_rng(0).normal(size=(4, 3, 3, 5)).astype("f4")
    np.testing.assert_array_equal(con.parameters["weight"], weight)
    np.testing.assert_array_equal(con.parameters["bias"], [0, 1, 2, 3])
    np.testing.assert_array_equal(affine.parameters["scale"], [2, 2, 2, 2])
    np.testing.assert_array_equal(affine.parameters["shift"], [0, 0.125, 0.25, 0.375])
    assert list(maximum.sizes.values()) == [3, 3, 2, 2, 0, 0]
    assert list(average.sizes.values()) == [0, 0, 1, 1, 0, 0]
    assert (full.parameters["weight"].shape, list(full.parameters["bias"])) == ((4, 2), [5.0, 6.0])
    assert unbiased.sizes == {"outputs": 3, "inputs": 2}
    assert list(unbiased.parameters) == ["weight"]
    with pytest.raises(ValueError, match="read-only"):
        con.parameters["weight"][:] = 0


@pytest.mark.parametrize("value", [0.0, 1.0, -3.5, 122.782, 1e-30, -1e30])
def test_numbers(tmp_path, value):
    found = read(tmp_path, dlib_writer.network(layers(), 32, mean=(value, 0, 0)))
    assert found.input.mean == (float(np.float32(value)), 0.0, 0.0)


def good():
    return dlib_writer.network(layers(), 150, tags=1)


HUGE = dlib_writer.integer(1 << 39)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda d: b"", "1 bytes are needed and 0 are left"),
        (lambda d: d[:-1], "needed"),
        (lambda d: d + b"\0", "1 bytes are left behind"),
        (lambda d: d[:500], "needs 736 bytes"),
        (lambda d: b"\x80\x02" + d, "no integer begins with"),
        (lambda d: b"\x01\x07" + d[2:], "version of the loss is 7"),
        (lambda d: d.replace(b"loss_metric_2", b"loss_metric_9"), "'loss_metric_9'"),
        (lambda d: d.replace(b"input_rgb_image_sized", b"input_rgb_image_other"), "'input_rgb_image_other'"),
        (lambda d: d.replace(b"con_4", b"con_9"), "a layer is 'con_9'"),
        (lambda d: d.replace(b"con_4", b"con\n4"), "a name is expected"),
        (lambda d: d.replace(b"110\x01\x02", b"1?0\x01\x02", 1), "truth value"),
        (lambda d: d.replace(b"relu_", b"relu_" + b"110" + b"\x01\x02" + HUGE * 4, 1), "needs"),
        (lambda d: d[:4] + b"\x01\x02" * 20_000, "is needed|wrappers deep|are needed|a name|no integer|size"),
        (lambda d: d.replace(struct.pack("<f", 0.375), b"\0\0\xc0\x7f"), "not finite"),
        (lambda d: d.replace(dlib_writer.alias(4, 3, 3, 5), dlib_writer.alias(4, 3, 5, 3)), "a convolution"),
        (
            lambda d: d.replace(dlib_writer.alias(1, 4, 1, 1) * 2, dlib_writer.alias(1, 3, 1, 1) * 2),
            "scale 3",
        ),
        (lambda d: d.replace(dlib_writer.alias(2, 3, 1, 1), dlib_writer.alias(3, 3, 1, 1)), "a full layer"),
        (lambda d: b"version https://git-lfs.github.com/spec/v1\n", "no integer begins"),
        (lambda d: b"PK\x03\x04" + bytes(50), "no integer begins|version"),
    ],
)
def test_what_is_said_of_damage(tmp_path, damage, text):
    with pytest.raises(
        CheckpointError, match="no dlib network that pyface reads, or it is damaged"
    ) as caught:
        read(tmp_path, damage(good()))
    assert re.search(text, str(caught.value)), str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(CheckpointError, match="there is no file"):
        read_dlib_network(tmp_path / "none.dat")
    with pytest.raises(CheckpointError, match="cannot read"):
        read_dlib_network(tmp_path)
    large = tmp_path / "large.dat"
    with large.open("wb") as file:
        file.truncate((1 << 30) + 1)  # a hole: no disk is used
    with pytest.raises(CheckpointError, match="more than"):
        read_dlib_network(large)


def test_truncated_files(tmp_path):
    data = good()
    for length in [*range(0, len(data), 11), *range(len(data) - 150, len(data))]:
        with pytest.raises(CheckpointError):
            read(tmp_path, data[:length])


def test_mutations_raise_checkpoint_error_or_nothing_and_take_no_memory(tmp_path):
    data, draw = good(), random.Random(0)
    structure = [i for i, _ in enumerate(data)]
    refused = 0
    tracemalloc.start()
    for _ in range(600):
        changed = bytearray(data)
        for _ in range(draw.randint(1, 4)):
            place = draw.choice(structure)
            kind = draw.randrange(4)
            if kind == 0:
                changed[place % len(changed)] = draw.randrange(256)
            elif kind == 1:
                del changed[place : place + draw.randint(1, 9)]
            elif kind == 2:
                changed[place:place] = draw.randbytes(draw.randint(1, 9))
            else:
                changed[place:place] = b"\x08" + b"\xff" * 8
        try:
            read(tmp_path, bytes(changed))
        except CheckpointError:
            refused += 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused > 300
    assert peak < 5_000_000
