"""Tar shards: what is in them, who can read them, and that they are there whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import resource
import shutil
import subprocess
import tarfile

import numpy as np
import pytest

from pyface.errors import DataError, ValueRangeError
from pyface.generation.plan import Picture
from pyface.generation.shards import ShardStore, member_names, ustar_header
from pyface.io import atomic
from pyface.io.images import read_image


@pytest.fixture
def store(tmp_path, storage):
    return ShardStore(tmp_path, storage.recipe())


def members(path):
    """Names and bytes, by tarfile."""
    with tarfile.open(path) as archive:
        return {m.name: archive.extractfile(m).read() for m in archive.getmembers()}


def test_headers_are_those_of_the_standard_library():
    for name, size in [("00000000_0000.jpg", 0), ("a" * 100, 8**11 - 1), ("00000012_0003.nir.png", 98765)]:
        info = tarfile.TarInfo.frombuf(ustar_header(name, size), "ascii", "strict")
        assert (info.name, info.size, info.mode, info.mtime) == (name, size, 0o644, 0)
        assert (info.uid, info.gid, info.uname, info.gname, info.isfile()) == (0, 0, "", "", True)
        theirs = tarfile.TarInfo(name)
        theirs.size = size
        mine, theirs = ustar_header(name, size), theirs.tobuf(tarfile.USTAR_FORMAT)
        assert [i for i in range(512) if mine[i] != theirs[i] and not 148 <= i < 156 and i < 329] == []


def test_what_a_shard_has(store, storage):
    records = storage.write_shards(store)
    assert [(r.shard, r.name, r.pictures) for r in records] == [
        (0, "shard-000000.tar", 4),
        (1, "shard-000001.tar", 4),
        (2, "shard-000002.tar", 2),
    ]
    seen = 0
    for record in records:
        path = store.folder / record.name
        data = path.read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (record.bytes, record.sha256)
        found = members(path)
        keys = [picture.key for picture in store.plan.pictures(record.shard)]
        assert list(found) == [f"{key}{end}" for key in keys for end in (".jpg", ".json", ".cls")]
        for picture in store.plan.pictures(record.shard):
            assert found[f"{picture.key}.jpg"] == storage.encoded(store.recipe, picture)["vis"]
            labels = json.loads(found[f"{picture.key}.json"])
            assert (labels["identity"], labels["sample"]) == (picture.identity, picture.sample)
            assert labels["conditions"] == {
                name: round(value, 6) for name, value in storage.conditions(picture).items()
            }
            assert found[f"{picture.key}.cls"] == str(picture.identity).encode()
            seen += 1
        assert json.loads(store.record_path(record.shard).read_text()) == {
            "format": 1,
            "shard": record.shard,
            "name": record.name,
            "pictures": record.pictures,
            "bytes": record.bytes,
            "sha256": record.sha256,
            "recipe": store.recipe.sha256,
            "made_by": storage.MADE_BY,
        }
    assert seen == 10
    assert len(storage.tree(store.folder)) == 6


def test_gnu_tar_reads_them(store, storage):
    if shutil.which("tar") is None:
        pytest.skip("there is no tar")
    storage.write_shards(store, [0])
    command = ["tar", "--extract", "--to-stdout", "--file", store.shard_path(0), "00000000_0001.json"]
    run = subprocess.run(command, capture_output=True, check=True)
    assert json.loads(run.stdout)["sample"] == 1
    assert run.stderr == b""


@pytest.mark.parametrize("spectra", [{"vis": 3}, {"vis": 3, "nir": 1}])
def test_webdataset_reads_them(tmp_path, storage, spectra):
    wds = pytest.importorskip("webdataset", reason="webdataset is not installed")
    store = ShardStore(tmp_path, storage.recipe(spectra=spectra, image="png"))
    storage.write_shards(store)
    shards = f"{tmp_path}/shard-{{000000..000002}}.tar"
    read = list(wds.WebDataset(shards, shardshuffle=False, empty_check=False).decode("rgb8"))
    assert [sample["__key__"] for sample in read] == [f"{i:08d}_{s:04d}" for i in range(5) for s in range(2)]
    for sample in read:
        picture = Picture(sample["json"]["identity"], sample["json"]["sample"])
        assert sample["cls"] == picture.identity
        for spectrum, channels in spectra.items():
            image = sample["png" if len(spectra) == 1 else f"{spectrum}.png"]
            wanted = storage.pixels(store.recipe, picture, spectrum)
            assert (image[..., :channels] == wanted).all()  # it makes grey pictures RGB


def test_bytes_depend_on_the_pictures_alone(tmp_path, storage):
    for name, order in (("a", [0, 1, 2]), ("b", [2, 0, 1])):
        (tmp_path / name).mkdir()
        storage.write_shards(ShardStore(tmp_path / name, storage.recipe()), order)
    assert storage.tree(tmp_path / "a") == storage.tree(tmp_path / "b")


def test_a_picture_is_found_again(tmp_path, storage):
    made = storage.recipe(spectra={"vis": 3, "nir": 1}, image="png")
    store = ShardStore(tmp_path, made)
    storage.write_shards(store)
    picture = Picture(3, 1)
    stored = store.read(picture)
    assert list(stored.files) == ["vis", "nir"]
    for spectrum, file in stored.files.items():
        assert (read_image(file).reshape(12, 16, -1) == storage.pixels(made, picture, spectrum)).all()
    assert stored.conditions == {"smile": round(3 / 7, 6), "glasses": 1.0}
    with pytest.raises(ValueRangeError, match="identity 5"):
        store.read(Picture(5, 0))
    store.shard_path(0).write_bytes(store.shard_path(0).read_bytes()[:1500])
    with pytest.raises(DataError, match=r"shard-000000.tar"):
        store.read(Picture(0, 1))
    store.shard_path(0).unlink()
    with pytest.raises(DataError, match=r"shard-000000.tar is no readable tar"):
        store.read(Picture(0, 0))


def test_only_the_pictures_of_the_plan_in_their_order(store, storage):
    first, second = store.plan.pictures(0)[:2]
    files, values = storage.encoded(store.recipe, first), storage.conditions(first)
    with store.writer(store.folder, store.recipe, 0) as writer:
        with pytest.raises(ValueRangeError, match="takes 00000000_0000 next; got 00000000_0001"):
            writer.add(second, files, values)
        with pytest.raises(ValueRangeError, match="needs the spectra vis; got nir"):
            writer.add(first, {"nir": b""}, values)
        with pytest.raises(ValueRangeError, match="needs the conditions smile, glasses; got none"):
            writer.add(first, files)
        writer.add(first, files, values)
        with pytest.raises(ValueRangeError, match="needs 4 pictures; 1 were added"):
            writer.commit()
    assert storage.tree(store.folder) == {}


def test_spectra_that_are_no_file_names(tmp_path, storage):
    for name in ("../out", "a.b", "", "a b", "x" * 41):
        with pytest.raises(ValueRangeError, match="spectra must be named"):
            ShardStore.writer(tmp_path, storage.recipe(spectra={"vis": 3, name: 1}), 0)
    with pytest.raises(ValueRangeError, match="spectra must differ"):
        ShardStore.writer(tmp_path, storage.recipe(spectra={"vis": 3, "Vis": 1}), 0)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, DataError])
def test_a_block_that_fails_leaves_nothing(store, storage, error):
    def fail():
        with store.writer(store.folder, store.recipe, 0) as writer:
            picture = store.plan.pictures(0)[0]
            writer.add(picture, storage.encoded(store.recipe, picture), storage.conditions(picture))
            raise error

    with pytest.raises(error):
        fail()
    assert storage.tree(store.folder) == {}


def test_a_full_disk_loses_nothing_that_is_finished(tmp_path, storage):
    store = ShardStore(tmp_path, storage.recipe(image="png", resolution=(600, 800)))  # more than buffers
    storage.write_shards(store, [0])
    before = storage.tree(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20 + 5000, hard))
        with pytest.raises(DataError, match=r"shard-000001.tar: the file would be larger.*raise ulimit"):
            storage.write_shards(store, [1])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert storage.tree(tmp_path) == before
    assert list(store.committed()) == [0]
    storage.write_shards(store, [1, 2])
    assert list(store.committed()) == [0, 1, 2]


@pytest.mark.parametrize("failing", [1, 2, 3, 4])
def test_a_disk_that_is_full_at_each_flush(tmp_path, storage, monkeypatch, failing):
    """Flushes of a commit: shard, folder, record, folder. A folder that cannot be flushed is no failure."""
    store = ShardStore(tmp_path, storage.recipe())
    storage.write_shards(store, [0])
    calls = []

    def full(handle):
        calls.append(handle)
        if len(calls) == failing:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    if failing in (1, 3):
        with pytest.raises(DataError, match="disk is full"):
            storage.write_shards(store, [1])
        assert list(store.committed()) == [0]
    else:
        storage.write_shards(store, [1])
    assert not store.leftovers()
    monkeypatch.undo()
    storage.write_shards(store, [1, 2])
    assert list(store.committed()) == [0, 1, 2]


def test_a_folder_that_cannot_be_written(store, storage, monkeypatch):
    def refuse(*args, **kwargs):  # simulated: root, as in many containers, may write everywhere
        raise OSError(errno.EROFS, "Read-only file system")

    storage.write_shards(store, [0])
    monkeypatch.setattr(atomic.tempfile, "mkstemp", refuse)
    with pytest.raises(DataError, match=r"shard-000001.tar: the file system is read-only"):
        storage.write_shards(store, [1])
    assert list(store.committed()) == [0]


@pytest.mark.parametrize("place", ["writing", "renamed"])
def test_a_killed_writer(store, storage, place, monkeypatch):
    """What SIGKILL leaves: a temporary file, or a shard without record."""
    storage.write_shards(store, [0])
    child = os.fork()
    if child == 0:
        with store.writer(store.folder, store.recipe, 1) as writer:
            for picture in store.plan.pictures(1):
                writer.add(picture, storage.encoded(store.recipe, picture), storage.conditions(picture))
            if place == "renamed":
                monkeypatch.setattr("pyface.generation.records.Record.write", lambda *args: os._exit(0))
                writer.commit()
            os._exit(0)
    os.waitpid(child, 0)
    assert list(store.committed()) == [0]
    leftovers = store.leftovers()
    assert list(leftovers.values()) == ([1] if place == "writing" else [])
    assert store.shard_path(1).exists() == (place == "renamed")
    for path in leftovers:
        path.unlink()
    storage.write_shards(store, [1, 2])
    assert len(storage.tree(store.folder)) == 6


def test_names_of_members(storage):
    several = storage.recipe(spectra={"vis": 3, "nir": 1}, image="png")
    assert list(member_names(several, Picture(12, 3)).values()) == [
        "00000012_0003.vis.png",
        "00000012_0003.nir.png",
        "00000012_0003.json",
        "00000012_0003.cls",
    ]


def test_a_large_member_comes_back(tmp_path, storage):
    """Sizes around the blocks of 512 bytes."""
    made = storage.recipe(identities=7, samples_per_identity=1, shard_size=7, variation=0.0)
    store = ShardStore(tmp_path, made)
    sizes = [0, 1, 511, 512, 513, 2**20, 3 * 2**20 + 17]
    with store.writer(tmp_path, made, 0) as writer:
        for picture, size in zip(store.plan.pictures(0), sizes, strict=True):
            writer.add(picture, {"vis": np.random.default_rng(size).bytes(size)}, storage.conditions(picture))
        writer.commit()
    with tarfile.open(fileobj=io.BytesIO(store.shard_path(0).read_bytes())) as archive:
        images = [m for m in archive.getmembers() if m.name.endswith(".jpg")]
        assert [m.size for m in images] == sizes
        for member, size in zip(images, sizes, strict=True):
            assert archive.extractfile(member).read() == np.random.default_rng(size).bytes(size)
