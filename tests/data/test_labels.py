"""Labels of every form and file: the schema that they have, and each fault with its line."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest

from pyface.data import ImageFolder
from pyface.data.labels import LabelSchema, dataset_json, read_labels, schema_of
from pyface.errors import DataError, ValueRangeError
from pyface.io.images import write_image

NAMES = ["a.png", "b/1.png", "b/2.png"]


def read(name, content):
    return read_labels(name, content if isinstance(content, bytes) else content.encode(), NAMES)


def table(labels):
    return [labels.vector(labels.rows[name]).tolist() for name in NAMES]


def npy(array):
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


ONE_HOT = [[1, 0, 0], [0, 0, 1], [0, 1, 0]]
CLASSES = [["a.png", 0], ["b/1.png", 2], ["b/2.png", 1]]
HOT = [[1, 0], [1, 1], [0, 0]]
VECTORS = [[0.5, 1], [0.25, -3], [0, 0]]


@pytest.mark.parametrize(
    ("name", "content", "kind", "names", "rows"),
    [
        ("dataset.json", json.dumps({"labels": CLASSES}), "class", ["label0", "label1", "label2"], ONE_HOT),
        (
            "dataset.json",
            json.dumps({"labels": dict(CLASSES)}),
            "class",
            ["label0", "label1", "label2"],
            ONE_HOT,
        ),
        (
            "dataset.json",
            json.dumps({"labels": CLASSES, "label_names": ["x", "y", "z", "w"]}),
            "class",
            ["x", "y", "z", "w"],
            [[*row, 0] for row in ONE_HOT],
        ),
        (
            "dataset.json",
            json.dumps({"labels": list(zip(NAMES, ONE_HOT, strict=True))}),
            "class",
            ["label0", "label1", "label2"],
            ONE_HOT,
        ),
        (
            "dataset.json",
            json.dumps({"labels": list(zip(NAMES, ONE_HOT, strict=True)), "label_kind": "multi-hot"}),
            "multi-hot",
            ["label0", "label1", "label2"],
            ONE_HOT,
        ),
        (
            "dataset.json",
            json.dumps({"labels": list(zip(NAMES, HOT, strict=True)), "label_names": ["s", "g"]}),
            "multi-hot",
            ["s", "g"],
            HOT,
        ),
        (
            "dataset.json",
            json.dumps({"labels": list(zip(NAMES, VECTORS, strict=True))}),
            "vector",
            ["label0", "label1"],
            VECTORS,
        ),
        (
            "labels.json",
            json.dumps({"a.png": "cat", "b\\1.png": "dog", "./b/2.png": "cat"}),
            "class",
            ["cat", "dog"],
            [[1, 0], [0, 1], [1, 0]],
        ),
        ("labels.json", json.dumps(CLASSES), "class", ["label0", "label1", "label2"], ONE_HOT),
        (
            "labels.csv",
            "file,class\na.png,0\nb/1.png,2\nb/2.png,1\n",
            "class",
            ["label0", "label1", "label2"],
            ONE_HOT,
        ),
        (
            "labels.csv",
            "\ufefffile;animal\r\na.png;cat\r\nb/1.png;dog\r\nb/2.png;cat\r\n",
            "class",
            ["cat", "dog"],
            [[1, 0], [0, 1], [1, 0]],
        ),
        (
            "labels.csv",
            "file,smile\na.png,0\nb/1.png,1\nb/2.png,1\n",
            "multi-hot",
            ["smile"],
            [[0], [1], [1]],
        ),
        (
            "labels.csv",
            "file,smile,age\na.png,0.5,1\nb/1.png,.25,-3\nb/2.png,0,0\n",
            "vector",
            ["smile", "age"],
            VECTORS,
        ),
        ("labels.npy", npy(np.array([0, 2, 1])), "class", ["label0", "label1", "label2"], ONE_HOT),
        ("labels.npy", npy(np.array(HOT, bool)), "multi-hot", ["label0", "label1"], HOT),
        ("labels.npy", npy(np.array(VECTORS, np.float16)), "vector", ["label0", "label1"], VECTORS),
    ],
)
def test_every_form(name, content, kind, names, rows):
    labels = read(name, content)
    assert labels.faults == []
    assert labels.schema == LabelSchema(kind, tuple(names))
    assert table(labels) == rows
    again = read("dataset.json", dataset_json(list(labels.rows.items()), labels.schema))
    assert again.schema == labels.schema
    assert table(again) == rows


@pytest.mark.parametrize("text", ['{"labels": null}', '{"labels": []}', "{}"])
def test_no_labels(text):
    labels = read("dataset.json", text)
    assert (labels.rows, labels.faults, labels.schema) == ({}, [], LabelSchema())


@pytest.mark.parametrize(
    ("name", "content", "file", "code", "line", "words"),
    [
        ("dataset.json", '{"labels": [\n["a.png", 1],\n]}', "", "labels", 3, "not JSON"),
        ("dataset.json", "[" * 100000, "", "labels", None, "brackets"),
        ("dataset.json", b"\xff\xfe", "", "labels", 1, "UTF-8"),
        ("dataset.json", '{"a.png": 3}', "", "labels", None, '"labels"'),
        ("dataset.json", '{"labels": 3}', "", "labels", None, "list"),
        ("dataset.json", '{"labels": [3]}', "", "labels", None, "entry 1"),
        ("dataset.json", '{"labels": [["a.png",\n true]]}', "a.png", "label-form", 1, "True"),
        ("dataset.json", '{"labels": [\n["a.png", "cat"]]}', "a.png", "label-form", 2, "word"),
        ("dataset.json", '{"labels": [["a.png", []]]}', "a.png", "label-form", 1, "list of numbers"),
        (
            "dataset.json",
            '{"labels": [["a.png", 1],\n["a.png", 2]]}',
            "a.png",
            "label-twice",
            1,
            "first counts",
        ),
        ("dataset.json", '{"labels": [["a.png", 1e999]]}', "a.png", "label-form", 1, "inf"),
        ("dataset.json", '{"labels": [["a.png", [1e999]]]}', "a.png", "label-not-finite", 1, "inf"),
        ("dataset.json", '{"labels": [["a.png", [1e39]]]}', "a.png", "label-not-finite", 1, "1e+39"),
        (
            "dataset.json",
            f'{{"labels": [["a.png", [1{"0" * 400}]]]}}',
            "a.png",
            "label-not-finite",
            1,
            "label0",
        ),
        (
            "dataset.json",
            '{"labels": [["a.png", 2]], "label_names": ["x", "y"]}',
            "a.png",
            "label-range",
            1,
            "2 that",
        ),
        (
            "dataset.json",
            '{"labels": [["a.png", [2, 0]]], "label_kind": "multi-hot"}',
            "a.png",
            "label-range",
            1,
            "0 and 1",
        ),
        (
            "dataset.json",
            '{"labels": [["a.png", [1, 1]]], "label_kind": "class"}',
            "a.png",
            "label-range",
            1,
            "single 1",
        ),
        (
            "dataset.json",
            '{"labels": [["a.png", 1]], "label_kind": "vector"}',
            "",
            "labels",
            None,
            "label_kind",
        ),
        (
            "dataset.json",
            '{"labels": [["a.png", 1]], "label_kind": "size"}',
            "",
            "labels",
            None,
            "label_kind",
        ),
        (
            "dataset.json",
            '{"labels": [["a.png", [1, 2]]], "label_names": ["x", "x"]}',
            "",
            "labels",
            None,
            "different names",
        ),
        ("labels.csv", "", "", "labels", 1, "two columns"),
        ("labels.csv", "file\na.png\n", "", "labels", 1, "two columns"),
        ("labels.csv", "a.png,1\nb/1.png,2\n", "", "labels", 1, "names the columns"),
        ("labels.csv", "file,x,y\na.png,1,2\nb/1.png,1\n", "b/1.png", "label-length", 3, "2 cells"),
        ("labels.csv", "file,x,y\na.png,1,2\nb/1.png,1,tall\n", "b/1.png", "label-form", 3, "y is 'tall'"),
        ("labels.csv", "file,x,y\na.png,1,nan\nb/1.png,1,2\n", "a.png", "label-not-finite", 2, "y is nan"),
        ("labels.csv", "file,class\na.png,\nb/1.png,1\n", "a.png", "label-form", 2, "None"),
        ("labels.npy", b"no", "", "labels", None, "array"),
        ("labels.npy", npy(np.zeros((2, 2))), "", "labels", None, "2 rows for 3 pictures"),
        ("labels.npy", npy(np.array(["a", "b", "c"])), "", "labels", None, "numbers"),
        ("labels.npy", npy(np.array([0, 1, -1])), "b/2.png", "label-range", None, "negative"),
    ],
)
def test_every_fault(name, content, file, code, line, words):
    faults = read(name, content).faults
    assert [(f.file, f.code, f.line) for f in faults] == [(file, code, line)], faults
    assert words in faults[0].reason


def test_pickled_arrays_are_not_run():
    content = npy(np.array([{"a": 1}, 2, 3], object))
    assert "array" in read("labels.npy", content).faults[0].reason


def test_one_bad_entry_does_not_hide_the_others():
    labels = [[NAMES[0], [1, 2]], [NAMES[1], [1, 2, 3]], [NAMES[2], [4, 5]], ["c.png", 3], [7, 7]]
    found = read("dataset.json", json.dumps({"labels": labels}))
    assert set(found.rows) == {NAMES[0], NAMES[2]}
    assert {(f.file, f.code) for f in found.faults} == {
        (NAMES[1], "label-length"), ("c.png", "label-form"), ("", "labels"),
    }  # fmt: skip


def test_embeddings_survive_a_round_trip_exactly():
    rows = {
        f"{i}.png": row for i, row in enumerate(np.random.default_rng(0).normal(size=(3, 512)).astype("f4"))
    }
    names = [f"e{i}" for i in range(512)]
    text = dataset_json(list(rows.items()), LabelSchema("vector", tuple(names)))
    again = read_labels("dataset.json", text.encode(), list(rows))
    for name, row in rows.items():
        np.testing.assert_array_equal(again.vector(again.rows[name]), row)


def test_schemas():
    assert schema_of(np.zeros((3, 0)), ()).kind == "none"
    assert schema_of(np.ones((3, 1)), ("a",)).kind == "multi-hot"
    with pytest.raises(ValueRangeError):
        LabelSchema("class", ())
    with pytest.raises(ValueRangeError):
        LabelSchema("colour", ("a",))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "b").mkdir()
    for i, name in enumerate(NAMES):
        write_image(tmp_path / name, np.full((8, 8, 3), i, np.uint8))
    return tmp_path


def test_folders_take_all_of_them(folder):
    (folder / "labels.npy").write_bytes(npy(np.array([1, 0, 1])))
    data = ImageFolder(folder)
    assert data.label_schema == LabelSchema("class", ("label0", "label1"))
    np.testing.assert_array_equal(data.labels(), [[0, 1], [1, 0], [0, 1]])
    assert data.filter(label1=1).label_schema == data.label_schema
    (folder / "labels.csv").write_text("file,class\na.png,cat\nb/1.png,dog\nb/2.png,cat")
    with pytest.raises(DataError, match=r"labels\.csv and in labels\.npy; keep one"):
        ImageFolder(folder)
    (folder / "labels.npy").unlink()
    assert ImageFolder(folder).label_names == ("cat", "dog")
    (folder / "labels.csv").write_text("file,x,y\na.png,1,2\nb/1.png,1,z\nb/2.png,1,3")
    with pytest.raises(DataError, match=r"b/1\.png \(labels\.csv line 3\): y is 'z'"):
        ImageFolder(folder)
