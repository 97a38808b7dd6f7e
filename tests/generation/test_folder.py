"""Datasets as folders: the layout that the loaders read, chunk by chunk."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource

import numpy as np
import pytest

from pyface.data.layouts import layout_of, open_dataset
from pyface.errors import DataError
from pyface.generation.folder import FolderStore
from pyface.generation.plan import Picture
from pyface.generation.records import Record
from pyface.io import atomic
from pyface.io.images import read_image


@pytest.fixture
def made(storage):
    return storage.recipe(storage="folder", image="png", spectra={"vis": 3, "nir": 1})


@pytest.fixture
def store(tmp_path, made):
    return FolderStore(tmp_path, made)


def names(folder):
    """All files and folders but the records."""
    found = [p.relative_to(folder).as_posix() for p in folder.rglob("*")]
    return sorted(n for n in found if not n.startswith("records"))


def test_the_layout(store, storage):
    storage.write_shards(store)
    store.finish()
    pictures = [f"{i:06d}_{s:03d}.png" for i in range(5) for s in range(2)]
    wanted = [f"{folder}/{name}" for folder in ("NIR", "VIS") for name in pictures]
    assert names(store.folder) == sorted(["NIR", "VIS", *wanted, "dataset.json", "labels.jsonl"])
    lines = [json.loads(line) for line in (store.folder / "labels.jsonl").read_text().splitlines()]
    content = json.loads((store.folder / "dataset.json").read_text())
    assert content["label_names"] == ["smile", "glasses"]
    for line, (file, vector), name in zip(lines, content["labels"], pictures, strict=True):
        identity, sample = int(name[:6]), int(name[7:10])
        values = storage.conditions(Picture(identity, sample))
        values = {key: round(value, 6) for key, value in values.items()}
        assert line == {
            "file": f"VIS/{name}",
            "identity": identity,
            "sample": sample,
            "conditions": values,
        }
        assert (file, vector) == (f"VIS/{name}", list(values.values()))
        for spectrum in ("vis", "nir"):
            pixels = read_image(store.folder / spectrum.upper() / name).reshape(12, 16, -1)
            assert (pixels == storage.pixels(store.recipe, Picture(identity, sample), spectrum)).all()


@pytest.mark.parametrize("spectra", [{"vis": 3}, {"nir": 1}, {"vis": 3, "nir": 1}])
@pytest.mark.parametrize("image", ["png", "jpeg"])
def test_the_loaders_read_it(tmp_path, storage, spectra, image):
    store = FolderStore(tmp_path, storage.recipe(storage="folder", image=image, spectra=spectra))
    storage.write_shards(store)
    store.finish()
    assert layout_of(tmp_path) == "folder"
    dataset = open_dataset(tmp_path)
    assert (len(dataset), dataset.spectra) == (10, tuple(spectra))
    assert dataset.label_names == ("smile", "glasses")
    assert dataset.annotations["identity"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    np.testing.assert_allclose(dataset.annotations["smile"], np.repeat(np.arange(5), 2) / 7, atol=1e-6)
    sample = dataset[7]
    assert (sample.identity, sample.conditions["glasses"]) == (3, 1.0)
    if image == "png":
        for spectrum in spectra:
            wanted = np.stack([storage.pixels(store.recipe, p, spectrum) for p in all_pictures(store)])
            assert (dataset.images(spectrum=spectrum) == wanted).all()


def all_pictures(store):
    return [picture for shard in range(store.plan.shards) for picture in store.plan.pictures(shard)]


def test_without_conditions(tmp_path, storage, monkeypatch):
    monkeypatch.setattr(storage, "conditions", lambda picture: {})
    made = storage.recipe(storage="folder", conditions=(), condition_rule="none")
    store = FolderStore(tmp_path, made)
    storage.write_shards(store)
    store.finish()
    assert json.loads((tmp_path / "dataset.json").read_text()) == {"labels": None, "label_names": []}
    assert open_dataset(tmp_path).label_names == ()


def test_a_record_lists_the_files(store, storage):
    written = storage.write_shards(store, [1])[0]
    record = Record.read(store.record_path(1))
    assert record == written
    files = [file for entry in record.files for file in entry["files"].values()]
    lines = []
    for file in files:
        data = (store.folder / file["name"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file["bytes"], file["sha256"])
        lines.append(f"{file['sha256']}  {file['name']}\n")
    assert (record.shard, record.name, record.pictures) == (1, "chunk-000001", 4)
    assert record.bytes == sum(file["bytes"] for file in files)
    assert record.sha256 == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert store.committed()[1].files == ()


def test_pictures_appear_with_their_chunk(store, storage):
    with store.writer(store.folder, store.recipe, 0) as writer:
        for picture in store.plan.pictures(0):
            writer.add(picture, storage.encoded(store.recipe, picture), storage.conditions(picture))
            assert [n for n in names(store.folder) if not n.startswith(".")] == []
        assert list(store.leftovers().values()) == [0]
        writer.commit()
    assert len([n for n in names(store.folder) if n.endswith(".png")]) == 8
    assert store.leftovers() == {}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, DataError])
def test_a_block_that_fails_leaves_nothing(store, storage, error):
    def fail():
        with store.writer(store.folder, store.recipe, 0) as writer:
            picture = store.plan.pictures(0)[0]
            writer.add(picture, storage.encoded(store.recipe, picture), storage.conditions(picture))
            raise error

    with pytest.raises(error):
        fail()
    assert list(store.folder.iterdir()) == []


def test_bytes_depend_on_the_pictures_alone(tmp_path, storage, made):
    for name, order in (("a", [0, 1, 2]), ("b", [2, 0, 1, 1])):
        (tmp_path / name).mkdir()
        store = FolderStore(tmp_path / name, made)
        storage.write_shards(store, order)
        store.finish()
    assert storage.tree(tmp_path / "a") == storage.tree(tmp_path / "b")


def test_a_picture_is_found_again(store, storage):
    storage.write_shards(store)
    stored = store.read(Picture(3, 1))
    assert dict(stored.files) == storage.encoded(store.recipe, Picture(3, 1))
    assert stored.conditions == {"smile": round(3 / 7, 6), "glasses": 1.0}
    (store.folder / "NIR" / "000003_001.png").unlink()
    with pytest.raises(DataError, match=r"NIR/000003_001\.png cannot be read"):
        store.read(Picture(3, 1))
    store.record_path(0).unlink()
    with pytest.raises(DataError, match=r"chunk-000000\.json is no record"):
        store.read(Picture(0, 0))


def test_what_does_not_fit_its_record_is_refused(store, storage):
    storage.write_shards(store)
    picture, record = store.folder / "VIS" / "000002_000.png", store.record_path(1)
    whole, text = picture.read_bytes(), record.read_text()

    def refused(words):
        with pytest.raises(DataError, match=words):
            store.committed()
        assert list(store.committed([0, 2])) == [0, 2]

    picture.write_bytes(whole[:-1])
    refused(r"VIS/000002_000\.png has \d+ bytes, its record \d+\. `pyface")
    picture.unlink()
    (store.folder / "NIR" / "000003_001.png").unlink()
    refused(r"VIS/000002_000\.png cannot be read .* and 1 more files")
    record.write_text(text.replace('"VIS/000002_000.png"', '"../000002_000.png"'))
    refused(r"chunk-000001\.json has other pictures than the plan")
    record.write_text(text.replace('"identity": 2', '"identity": 9'))
    refused("has other pictures than the plan")
    record.write_text(text.replace('"smile"', '"smiles"'))
    refused("has other conditions than the recipe")
    entry = json.loads(text)
    entry["files"][2]["files"]["vis"]["sha256"] = "0" * 64
    record.write_text(json.dumps(entry))
    refused("does not fit itself")
    record.write_text(text.replace('"files": {', '"fils": {'))
    refused(r"chunk-000001\.json is damaged \('files'\)")


def test_a_full_disk_loses_nothing_that_is_finished(tmp_path, storage):
    made = storage.recipe(storage="folder", image="png", resolution=(300, 400))
    store = FolderStore(tmp_path, made)
    storage.write_shards(store, [0])
    before = storage.tree(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        with pytest.raises(DataError, match=r"VIS/000002_000\.png: the file would be larger"):
            storage.write_shards(store, [1])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert storage.tree(tmp_path) == before
    storage.write_shards(store, [1, 2])
    assert list(store.committed()) == [0, 1, 2]


@pytest.mark.parametrize("failing", [1, 8, 12])
def test_a_disk_that_is_full_at_a_flush(store, storage, monkeypatch, failing):
    """Flushes of a commit: eight pictures, two folders, ..., the record."""
    storage.write_shards(store, [0])
    calls = []

    def full(handle):
        calls.append(handle)
        if len(calls) == failing or len(calls) > 10:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(DataError, match="disk is full"):
        storage.write_shards(store, [1])
    monkeypatch.undo()
    assert list(store.committed()) == [0]
    assert store.leftovers() == {}
    storage.write_shards(store, [1, 2])
    assert list(store.committed()) == [0, 1, 2]


def test_a_folder_that_cannot_be_written(store, monkeypatch):
    def refuse(*args, **kwargs):  # simulated: root, as in many containers, may write everywhere
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(atomic.tempfile, "mkdtemp", refuse)
    with pytest.raises(DataError, match="the file system is read-only"):
        store.writer(store.folder, store.recipe, 0).__enter__()


def test_a_killed_writer(store, storage):
    child = os.fork()
    if child == 0:
        with store.writer(store.folder, store.recipe, 1) as writer:
            for picture in store.plan.pictures(1)[:2]:
                writer.add(picture, storage.encoded(store.recipe, picture), storage.conditions(picture))
            os._exit(0)
    os.waitpid(child, 0)
    assert store.committed() == {}
    assert list(store.leftovers().values()) == [1]
