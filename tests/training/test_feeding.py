"""The stream of batches is the same from memory, from a mapped file and read ahead, and it resumes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

from pyface.data import ImageFolder, ProceduralFaces
from pyface.errors import DataError, PyfaceError, ShapeError, ValueRangeError
from pyface.io.images import write_image
from pyface.training import feed as feeding
from pyface.training import image_cache, source
from pyface.training.checkpoint import load_state, restore_state, save_state
from pyface.training.draws import rows_of_rank
from pyface.training.feed import Feed, TrainingSet
from pyface.training.image_cache import ImageStore, mapped_images
from pyface.training.read_ahead import ReadAhead
from pyface.training.recipes.stylegan2 import StyleGAN2Recipe, build
from pyface.training.source import from_dataset, open_training_set

COUNT = 23


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        write_image(folder / f"{i:02}.png", rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    rows = [f"{i:02}.png,{i % 3}" for i in range(COUNT)]
    (folder / "labels.csv").write_text("file,class\n" + "\n".join(rows))
    return folder


def opened(folder, tmp_path, how, workers=2):
    options = {"memory": {}, "file": {"cache": tmp_path / "cache"}, "streamed": {"streamed": True}}[how]
    return open_training_set(str(folder), workers=workers, **options)


def stream(feed, steps, shares=()):
    return [part for _ in range(steps) for part in feed.next(shares)]


def assert_same(a, b):
    assert len(a) == len(b)
    for (images, labels), (other_images, other_labels) in zip(a, b, strict=True):
        assert torch.equal(images, other_images)
        assert torch.equal(labels, other_labels)


@pytest.mark.parametrize("how", ["file", "streamed"])
@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("batch", [4, 60])
def test_the_stream_is_the_same_bit_for_bit(pictures, tmp_path, how, workers, batch):
    plain = Feed(opened(pictures, tmp_path, "memory"), batch, seed=4, mirror=True)
    other = Feed(opened(pictures, tmp_path, how, workers), batch, seed=4, mirror=True)
    assert (other._ahead is None) == (workers == 0)
    assert_same(stream(plain, 15), stream(other, 15))


@pytest.mark.parametrize("how", ["file", "streamed"])
def test_a_resumed_stream_goes_on_exactly(pictures, tmp_path, how):
    whole = stream(Feed(opened(pictures, tmp_path, "memory"), 4, seed=4, mirror=True), 20)
    first = Feed(opened(pictures, tmp_path, how), 4, seed=4, mirror=True)
    assert_same(stream(first, 9), whole[:9])
    state = json.loads(json.dumps(first.state_dict()))
    second = Feed(opened(pictures, tmp_path, how), 4, seed=0, mirror=True)
    stream(second, 2)
    second.load_state_dict(state)
    assert_same(stream(second, 11), whole[9:])
    first.load_state_dict({**state, "position": 0})
    assert_same(stream(first, 3), whole[:3])


def test_a_stream_in_shares_is_the_whole_stream(pictures, tmp_path):
    whole = stream(Feed(opened(pictures, tmp_path, "memory"), 8, seed=1, mirror=True), 12)
    parts = [rows_of_rank(8, rank, 2, 2, 2) for rank in range(2)]
    feeds = [Feed(opened(pictures, tmp_path, "streamed"), 8, seed=1, mirror=True) for _ in parts]
    for images, labels in whole:
        found = torch.empty_like(images)
        found_labels = torch.empty_like(labels)
        for feed, shares in zip(feeds, parts, strict=True):
            for rows, (own, own_labels) in zip(shares, feed.next(shares), strict=True):
                found[rows.index], found_labels[rows.index] = own, own_labels
        assert torch.equal(found, images)
        assert torch.equal(found_labels, labels)


def test_every_epoch_shows_every_image_once_also_when_read_ahead(pictures, tmp_path):
    data = opened(pictures, tmp_path, "streamed")
    feed = Feed(data, 5, seed=2)
    sums = torch.cat([images.double().sum((1, 2, 3)) for images, _ in stream(feed, COUNT)])
    every = feeding.to_float(data.get(np.arange(COUNT))["vis"]).double().sum((1, 2, 3)).sort().values
    for epoch in sums.reshape(5, COUNT):
        assert torch.equal(epoch.sort().values, every)


def test_images_are_read_before_they_are_wanted():
    asked = []

    def fetch(indices):
        asked.append((threading.current_thread().name, len(indices)))
        return {"vis": torch.zeros(len(indices), 3, 4, 4, dtype=torch.uint8)}

    data = TrainingSet(
        torch.zeros(100, 0), (), "x", {"vis": 3}, (4, 4), fetch=fetch, storage="streamed", workers=2
    )
    feed = Feed(data, 8)
    feed.next()
    deadline = time.time() + 30
    while sum(n for _, n in asked) < 8 * (1 + feeding.BATCHES_AHEAD) and time.time() < deadline:
        time.sleep(0.01)
    assert sum(n for _, n in asked) == 8 * (1 + feeding.BATCHES_AHEAD)
    assert all(name.startswith("read-ahead") for name, _ in asked)
    feed.next()
    while sum(n for _, n in asked) < 8 * (2 + feeding.BATCHES_AHEAD) and time.time() < deadline:
        time.sleep(0.01)
    assert sum(n for _, n in asked) == 8 * (2 + feeding.BATCHES_AHEAD), "each image is read once"


def test_wrong_guesses_are_dropped():
    ahead = ReadAhead(lambda indices: {"vis": torch.from_numpy(indices)}, 2)
    for step in range(20):
        wanted = [np.arange(step, step + 9), np.arange(3)]
        found = ahead.read(wanted, [np.arange(100 + step, 120 + step)])
        assert [f["vis"].tolist() for f in found] == [w.tolist() for w in wanted]
    assert len(ahead._begun) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_while_reading_names_the_file(pictures, tmp_path, workers):
    folder = tmp_path / "set"
    folder.mkdir()
    for file in pictures.glob("*.png"):
        (folder / file.name).write_bytes(file.read_bytes())
    data = open_training_set(str(folder), streamed=True, workers=workers)
    whole = (folder / "07.png").read_bytes()
    (folder / "07.png").write_bytes(whole[:-60])
    feed = Feed(data, 4)
    with pytest.raises(DataError, match=r"07\.png"):
        stream(feed, 6)
    (folder / "07.png").write_bytes(whole)
    for options in ({"cache": tmp_path / "cache"}, {}):
        (folder / "07.png").write_bytes(whole[:-60])
        with pytest.raises(DataError, match=r"07\.png"):
            open_training_set(str(folder), workers=workers, **options)
    assert list((tmp_path / "cache").iterdir()) == []


def test_any_error_of_a_decoder_names_the_file(pictures, monkeypatch):
    data = open_training_set(str(pictures), streamed=True, workers=2)
    original = ImageFolder.images

    def images(self, indices=None, spectrum="vis"):
        if 7 in list(indices):
            raise MemoryError("no room")
        return original(self, indices, spectrum)

    monkeypatch.setattr(ImageFolder, "images", images)
    with pytest.raises(DataError, match=r"07\.png .*no room"):
        stream(Feed(data, 4), 6)


def stamps(folder):
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}


def test_a_cache_file_is_made_once_and_again_when_a_picture_changes(pictures, tmp_path):
    folder, cache = tmp_path / "set", tmp_path / "cache"
    folder.mkdir()
    for file in pictures.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    first = open_training_set(str(folder), cache=cache)
    assert [first.storage] == [str(path) for path in cache.iterdir()]
    before = stamps(cache)
    again = open_training_set(str(folder), cache=cache)
    assert stamps(cache) == before
    kept = first.images["vis"].clone()
    assert torch.equal(again.images["vis"], kept)
    write_image(folder / "03.png", np.full((16, 16, 3), 7, np.uint8))
    third = open_training_set(str(folder), cache=cache)
    assert len(stamps(cache)) == 1
    assert stamps(cache) != before
    assert third.images["vis"][3].unique().tolist() == [7]
    assert torch.equal(first.images["vis"], kept), "what is mapped stays as it was"
    small = open_training_set(str(folder), cache=cache, resolution=(8, 8))
    assert small.size == (8, 8)
    assert len(stamps(cache)) == 2
    assert torch.equal(open_training_set(str(folder), cache=cache).images["vis"], third.images["vis"])


@pytest.mark.parametrize("damage", ["short", "header", "empty"])
def test_a_damaged_cache_file_is_made_again(pictures, tmp_path, damage):
    data = open_training_set(str(pictures), cache=tmp_path)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.unlink()  # a new file: the old one is still mapped
    file.write_bytes({"short": whole[:-1], "header": b"x" + whole[1:], "empty": b""}[damage])
    (tmp_path / ".leftover.abcdefgh.images").write_bytes(b"x")
    again = open_training_set(str(pictures), cache=tmp_path)
    assert torch.equal(again.images["vis"], data.images["vis"])
    assert file.read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_a_read_only_cache_can_be_used(pictures, tmp_path):
    data = open_training_set(str(pictures), cache=tmp_path)
    for path in (*tmp_path.iterdir(), tmp_path):
        path.chmod(0o555)
    try:
        assert torch.equal(open_training_set(str(pictures), cache=tmp_path).images["vis"], data.images["vis"])
    finally:
        tmp_path.chmod(0o755)


def test_processes_build_one_file_together(pictures, tmp_path):
    program = (
        "import sys, time\n"
        "from pyface.training import image_cache, source\n"
        "read = source._Reader._read\n"
        "def slow(self, indices):\n"
        "    open(sys.argv[3], 'a').write('x'); time.sleep(0.3); return read(self, indices)\n"
        "source._Reader._read = slow\n"
        "data = source.open_training_set(sys.argv[1], cache=sys.argv[2])\n"
        "print(data.images['vis'].long().sum().item())\n"
    )
    counter = tmp_path / "reads"
    command = [sys.executable, "-c", program, str(pictures), str(tmp_path / "cache"), str(counter)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    sums = {process.communicate(timeout=120)[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(sums) == 1
    assert int(sums.pop()) == open_training_set(str(pictures)).images["vis"].long().sum()
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert len(counter.read_text()) == 3 + 1, "each looks at one image, one reads them all"


def test_a_killed_builder_leaves_nothing_in_the_way(pictures, tmp_path):
    program = (
        "import os, sys\n"
        "from pyface.training import source\n"
        "read = source._Reader._read\n"
        "def killed(self, indices):\n"
        "    if len(indices) > 1: os.kill(os.getpid(), 9)\n"
        "    return read(self, indices)\n"
        "source._Reader._read = killed\n"
        "source.open_training_set(sys.argv[1], cache=sys.argv[2])\n"
    )
    cache = tmp_path / "cache"
    ended = subprocess.run([sys.executable, "-c", program, str(pictures), str(cache)], check=False)
    assert ended.returncode == -9
    assert all(path.name.startswith(".") for path in cache.iterdir())
    data = open_training_set(str(pictures), cache=cache)
    assert torch.equal(data.images["vis"], open_training_set(str(pictures)).images["vis"])
    assert [path.suffix for path in cache.iterdir()] == [".images"]


def test_a_full_disk_is_known_before_the_work(tmp_path, monkeypatch):
    def full(handle, offset, length):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    store = ImageStore("x", "", "y", 4, {"vis": (3, 8, 8)})
    with pytest.raises(DataError, match="do not fit on the disk"):
        mapped_images(tmp_path, store, pytest.fail)
    assert list(tmp_path.iterdir()) == []


def test_sets_too_large_for_memory_go_to_a_file_when_the_disk_has_room(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(source, "memory_for_images", lambda: 100)
    monkeypatch.setenv("PYFACE_CACHE", str(tmp_path / "own"))
    assert open_training_set(str(pictures)).storage.startswith(str(tmp_path / "own"))
    monkeypatch.setattr(source, "_has_room", lambda folder, size: False)
    data = open_training_set(str(pictures))
    assert data.storage == "streamed"
    assert data.images is None
    assert image_cache.cache_folder() == tmp_path / "own"


def test_rendered_faces_are_streamed_as_they_are_cached(tmp_path):
    name = "procedural:6x3@32"
    plain = Feed(open_training_set(name, seed=3, spectra=("vis", "nir")), 5, mirror=True)
    for options in ({"streamed": True, "workers": 2}, {"streamed": True, "workers": 0}, {"cache": tmp_path}):
        data = open_training_set(name, seed=3, spectra=("vis", "nir"), **options)
        assert data.label_kind == plain.data.label_kind == "vector"
        other = Feed(data, 5, mirror=True)
        plain.position = 0
        for _ in range(8):
            ((images, labels),), ((more, more_labels),) = plain.next(), other.next()
            assert torch.equal(images["vis"], more["vis"])
            assert torch.equal(images["nir"], more["nir"])
            assert torch.equal(labels, more_labels)
    assert len(list(tmp_path.iterdir())) == 1
    open_training_set(name, seed=4, spectra=("vis", "nir"), cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2, "another seed does not replace the file"


def _recipe(data):
    return StyleGAN2Recipe(
        resolution=(16, 16),
        kimg=1,
        batch=4,
        channel_base=64,
        channel_max=8,
        z_dim=8,
        w_dim=8,
        mapping_layers=2,
        mirror=True,
        conditions=data.label_names,
    )


def _weights(run):
    return torch.cat([tensor.flatten().double() for tensor in run.generator.state_dict().values()])


def test_training_from_memory_and_read_ahead_and_resumed_is_the_same(pictures, tmp_path):
    whole = build(_recipe(data := open_training_set(str(pictures))), data)
    for _ in range(6):
        whole.trainer.step()
    streamed = open_training_set(str(pictures), streamed=True, workers=2)
    first = build(_recipe(streamed), streamed)
    for _ in range(3):
        first.trainer.step()
    save_state(tmp_path / "resume-000000.pt", first.trainer, first.recipe.plain())
    mapped = open_training_set(str(pictures), cache=tmp_path, workers=1)
    second = build(_recipe(mapped), mapped)
    restore_state(second.trainer, load_state(tmp_path / "resume-000000.pt"))
    for _ in range(3):
        second.trainer.step()
    assert torch.equal(_weights(whole), _weights(second))


def test_endless_people_without_labels_cost_nothing_to_open():
    begun = time.perf_counter()
    data = open_training_set("procedural:1000000x2@32", conditions=(), streamed=True, workers=1)
    assert len(data) == 2_000_000
    assert data.labels.shape == (2_000_000, 0)
    images, _ = Feed(data, 2).next()[0]
    assert images.shape == (2, 3, 32, 32)
    assert time.perf_counter() - begun < 20


def test_label_schemas_reach_the_training_set(pictures, tmp_path):
    data = open_training_set(str(pictures))
    assert data.label_kind == "class"
    assert data.label_names == ("label0", "label1", "label2")
    assert open_training_set(str(pictures), conditions=()).label_kind == "none"
    assert open_training_set(str(pictures), conditions=("label1",)).label_kind == "multi-hot"
    subset = from_dataset(ImageFolder(pictures).filter(label1=1), "part", streamed=True)
    assert subset.label_kind == "class"
    arrays = TrainingSet.from_arrays(torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.rand(3, 512))
    assert arrays.label_kind == "vector"
    assert len(arrays.label_names) == 512
    with pytest.raises(ShapeError, match="label_names"):
        TrainingSet.from_arrays(torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.rand(3, 2), ["a"])


def test_fingerprints_tell_sets_apart(pictures):
    folder = ImageFolder(pictures)
    assert folder.fingerprint() == ImageFolder(pictures).fingerprint()
    part = folder.filter(label1=1)
    assert part.fingerprint() not in ("", folder.fingerprint())
    faces = [
        ProceduralFaces(4, 2, 32),
        ProceduralFaces(4, 2, 32, seed=1),
        ProceduralFaces(range(1, 5), 2, 32),
    ]
    faces.append(ProceduralFaces(4, 2, 32, yaw=0.0))
    assert len({f.fingerprint() for f in faces}) == 4
    assert ProceduralFaces(4, 2, 32).fingerprint() == faces[0].fingerprint()


def test_limits_of_containers_count(tmp_path):
    assert feeding._free_in_container(tmp_path) == 2**62
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("10\n")
    assert feeding._free_in_container(tmp_path) == 2**62
    (tmp_path / "memory.max").write_text("4096\n")
    assert feeding._free_in_container(tmp_path) == 4086
    (tmp_path / "memory.current").write_text("5000\n")
    assert feeding._free_in_container(tmp_path) == 0


def test_shares_of_processes(monkeypatch):
    alone = feeding.memory_for_images()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert feeding.memory_for_images() < alone / 3
    assert feeding.default_workers() >= 1
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "many")
    assert feeding.memory_for_images() > alone / 2


def test_bad_options(pictures, tmp_path):
    with pytest.raises(ValueRangeError, match="workers"):
        open_training_set(str(pictures), workers=-1)
    with pytest.raises(ValueRangeError, match="got both"):
        open_training_set(str(pictures), cache=tmp_path, streamed=True)
    (tmp_path / "file").write_text("x")
    with pytest.raises(PyfaceError):
        open_training_set(str(pictures), cache=tmp_path / "file")
