"""Pictures made again: equal, equal within the precision, or different, and who says which."""

from __future__ import annotations

import dataclasses
import io
import shutil

import numpy as np
import pytest
from PIL import Image

from pyface.errors import CheckpointError, DataError, ValueRangeError
from pyface.generation import regenerate as module
from pyface.generation.dataset import EngineSettings, write_dataset
from pyface.generation.manifest import open_store
from pyface.generation.plan import Picture
from pyface.generation.records import Record
from pyface.generation.regenerate import regenerate


@pytest.fixture(params=["png", "jpeg"])
def dataset(network, tmp_path, request):
    """A dataset whose shards end in the middle of a batch, its network beside it."""
    shutil.copy(network, tmp_path / network.name)
    settings = EngineSettings(batch=4)
    chosen = {"identities": 4, "samples_per_identity": 3, "shard_size": 7, "image": request.param}
    write_dataset(tmp_path / "set", network, settings=settings, **chosen)
    return tmp_path / "set"


def change_record(folder, shard, **made_by):
    """Let the record of a shard tell of another engine."""
    path = open_store(folder).record_path(shard)
    record = Record.read(path)
    dataclasses.replace(record, made_by=dict(record.made_by) | made_by).write(path)


@pytest.mark.parametrize(("identity", "sample"), [(0, 0), (1, 2), (2, 0), (3, 2)])
def test_a_picture_is_made_again_byte_for_byte(dataset, identity, sample):
    made = regenerate(dataset, identity, sample)
    stored = open_store(dataset).read(Picture(identity, sample))
    assert made.same
    assert made.verdict == f"picture {identity:08d}_{sample:04d}: byte for byte the stored one"
    assert made.files["vis"] == stored.files["vis"]
    assert made.pixels["vis"].shape == (16, 16, 3)


def test_it_is_written_as_asked(dataset, tmp_path):
    made = regenerate(dataset, 1, 1)
    assert [path.name for path in made.write(tmp_path / "new" / f"face{made.suffix}")] == [
        f"face{made.suffix}"
    ]
    assert (tmp_path / "new" / f"face{made.suffix}").read_bytes() == made.files["vis"]
    made.write(tmp_path / "face.webp")
    assert Image.open(tmp_path / "face.webp").size == (16, 16)
    both = dataclasses.replace(made, pixels={"vis": made.pixels["vis"], "nir": made.pixels["vis"]})
    assert [path.name for path in both.write(tmp_path / "pair.webp")] == ["pair.webp", "pair-nir.webp"]


def disturbed(monkeypatch, levels):
    """Let the engine make other pixels, by noise of so many levels at most."""
    inner = module._made

    def made(*arguments):
        noise = np.random.default_rng(0).integers(-levels, levels + 1, (16, 16, 3))
        return {n: np.clip(p + noise, 0, 255).astype(np.uint8) for n, p in inner(*arguments).items()}

    monkeypatch.setattr(module, "_made", made)


def test_the_same_engine_must_give_the_same_bytes(dataset, monkeypatch):
    disturbed(monkeypatch, 1)
    made = regenerate(dataset, 0, 0)
    assert not made.same
    assert "though engine and versions are the same" in made.verdict


def test_another_engine_has_a_tolerance(dataset, monkeypatch):
    change_record(dataset, 0, torch="2.6.0", processor="avx2")
    made = regenerate(dataset, 0, 0)
    assert made.verdict.endswith("byte for byte the stored one")
    inner, flipped = module._made, 1 if made.suffix == ".png" else 8

    def one_level(*arguments):
        pixels = {name: image.copy() for name, image in inner(*arguments).items()}
        pixels["vis"][3, 4 : 4 + flipped] ^= 1
        return pixels

    monkeypatch.setattr(module, "_made", one_level)
    made = regenerate(dataset, 0, 0)
    assert made.same
    assert "the tolerance of fp32" in made.verdict
    assert made.verdict.endswith("another processor, torch)")
    monkeypatch.setattr(module, "_made", inner)
    disturbed(monkeypatch, 30)
    made = regenerate(dataset, 0, 0)
    assert not made.same
    assert "by more than" in made.verdict


def test_another_engine_can_make_it(dataset):
    made = regenerate(dataset, 2, 1, engine="torch")
    assert made.same


def test_mistakes_are_named(dataset, network, tmp_path):
    with pytest.raises(ValueRangeError, match="identities 0 to 3 with samples 0 to 2"):
        regenerate(dataset, 4, 0)
    with pytest.raises(DataError, match="no manifest"):
        regenerate(tmp_path, 0, 0)
    with pytest.raises(DataError, match="is not the network of the dataset"):
        regenerate(dataset, 0, 0, network="demo")
    with pytest.raises(CheckpointError, match="does not exist"):
        regenerate(dataset, 0, 0, network=tmp_path / "absent.safetensors")
    (tmp_path / network.name).unlink()
    with pytest.raises(CheckpointError, match="Name it by --network"):
        regenerate(dataset, 0, 0)
    assert regenerate(dataset, 0, 0, network=network).same
    open_store(dataset).record_path(1).unlink()
    with pytest.raises(DataError, match="does not have picture 00000003_0000 yet"):
        regenerate(dataset, 3, 0, network=network)


def test_a_stored_picture_of_other_size_differs(dataset):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    same, told = module._judged(
        regenerate(dataset, 0, 0).files, {"vis": buffer.getvalue()}, ["torch"], open_store(dataset).recipe
    )
    assert not same
    assert "by more than" in told
    with pytest.raises(DataError, match="cannot be decoded"):
        module._judged({"vis": b"x"}, {"vis": b"y"}, [], open_store(dataset).recipe)
