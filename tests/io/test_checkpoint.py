"""Checkpoints: round trips, and what is said of files that cannot be loaded."""

from __future__ import annotations

import json
import random
import struct

import pytest
import torch
from safetensors.torch import save_file

import pyface
from pyface.errors import CheckpointError, DataError, PyfaceError, ValueRangeError
from pyface.io.checkpoint import load_tensors, read_header, save_model
from pyface.models import ARCHITECTURES, create

SMALL = {"resolution": 16, "channel_base": 256, "channel_max": 8, "mapping_layers": 2, "c_dim": 2}


@pytest.fixture
def network():
    return create("stylegan2-generator", **SMALL, z_dim=4, w_dim=6, spectra={"vis": 3, "nir": 1})


@pytest.fixture
def saved(network, tmp_path):
    path = tmp_path / "network.safetensors"
    save_model(path, network, extra={"training": {"kimg": 3}, "card": {"data": "rendered"}})
    return path


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [None, "float32", "float16"])
def test_round_trip(tmp_path, name, dtype):
    small = {
        "patch-critic": {"resolution": 16, "channel_base": 256, "channel_max": 8},
        "dlib-resnet": {"channels": (4, 6), "blocks": (1, 2), "size": 40},
        "action-units": {"geometry": ("jaw", "turn"), "odd_geometry": 1, "hidden": 8},
        "iresnet": {"blocks": (1, 1, 1, 1), "channels": (4, 4, 6, 6), "size": 32},
    }
    network = create(name, **(SMALL if name.startswith("stylegan2") else small.get(name, {})))
    path = tmp_path / "a.safetensors"
    save_model(path, network, dtype=dtype)
    state = torch.get_rng_state()
    loaded = pyface.load(path)
    assert torch.equal(torch.get_rng_state(), state)
    assert type(loaded) is type(network)
    assert loaded.config == network.config
    assert not loaded.training
    for key, tensor in network.state_dict().items():
        found = loaded.state_dict()[key]
        assert found.dtype == tensor.dtype
        halved = dtype == "float16" and tensor.is_floating_point()
        assert torch.equal(found, tensor.half().float() if halved else tensor)
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_half_storage_halves_the_file(network, tmp_path):
    sizes = {}
    for dtype in ("float32", "float16"):
        save_model(tmp_path / "a.safetensors", network, dtype=dtype)
        sizes[dtype] = (tmp_path / "a.safetensors").stat().st_size
    data = sum(t.numel() for t in network.state_dict().values()) * 2
    assert abs(sizes["float32"] - sizes["float16"] - data) <= 128


def test_header(saved, network):
    header = read_header(saved)
    assert header["architecture"] == "stylegan2-generator"
    assert header["kind"] == "generator"
    assert header["training"] == {"kimg": 3}
    assert header["card"] == {"data": "rendered"}
    assert header["config"]["resolution"] == [16, 16]
    assert header["config"] == network.config.to_dict()
    assert set(load_tensors(saved)) == set(network.state_dict())


def test_loaded_network_makes_the_same_pictures(saved, network):
    z, c = torch.randn(2, 4), torch.rand(2, 2)
    wanted, found = network(z, c, noise_mode="const"), pyface.load(saved)(z, c, noise_mode="const")
    assert all(torch.equal(wanted[name], found[name]) for name in ("vis", "nir"))


def test_kind_is_checked(saved):
    assert pyface.load(saved, kind="generator").kind == "generator"
    with pytest.raises(CheckpointError, match="holds a generator; a discriminator is needed"):
        pyface.load(saved, kind="discriminator")


def rewrite(path, change):
    """Change header and tensors of a checkpoint by hand."""
    header, tensors = read_header(path), load_tensors(path)
    change(header, tensors)
    save_file(tensors, path, metadata={"pyface": json.dumps(header)})


def drop(header, tensors):
    del tensors["mapping.w_avg"]


def add(header, tensors):
    tensors["extra"] = torch.zeros(1)


def reshape(header, tensors):
    tensors["mapping.w_avg"] = torch.zeros(7)


EDITS = [
    (drop, "missing mapping.w_avg"),
    (add, "unexpected extra"),
    (reshape, r"mapping.w_avg is \[7\], needed is \[6\]"),
    (lambda h, t: h.update(architecture="stylegan9"), "'stylegan9', which this version"),
    (lambda h, t: h["config"].update(resolution=[17, 17]), "configuration that does not work: resolution"),
    (lambda h, t: h["config"].update(wings=2), "has no wings"),
    (lambda h, t: h["config"].update(spectra=3), "does not work"),
    (lambda h, t: h.update(config=[]), "configuration is no object"),
    (lambda h, t: h.update(format=99), "format 99"),
    (lambda h, t: h.pop("kind"), "lacks kind"),
]


@pytest.mark.parametrize(("change", "text"), EDITS)
def test_files_that_do_not_fit(saved, change, text):
    rewrite(saved, change)
    with pytest.raises(CheckpointError, match=text):
        pyface.load(saved)


def test_files_that_are_no_checkpoints(saved, tmp_path):
    whole = saved.read_bytes()
    other = tmp_path / "other.safetensors"
    contents = [
        (b"", "only 0 bytes"),
        (b"PK\x03\x04" + bytes(100), "pyface convert"),
        (b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x01\x8c" + bytes(100), "pyface convert"),
        (b"hello world, this is text", "does not begin like one"),
        (whole[: len(whole) // 2], "truncated: it should have"),
        (whole[:100], "truncated"),
        (struct.pack("<Q", 4) + b"\xff\xfe{}", "index is damaged"),
        (struct.pack("<Q", 4) + b"[1] ", "index is damaged"),
        (struct.pack("<Q", 2) + b"{}", "without pyface's description"),
    ]
    for content, text in contents:
        other.write_bytes(content)
        with pytest.raises(CheckpointError, match=text):
            pyface.load(other)
    with pytest.raises(CheckpointError, match="there is no file"):
        pyface.load(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="cannot read"):
        pyface.load(tmp_path)
    for suffix in (".pkl", ".pt", ".pth"):
        foreign = tmp_path / f"network{suffix}"
        torch.save({"a": torch.zeros(1)}, foreign)
        with pytest.raises(CheckpointError, match=f"pyface convert .*network{suffix} .*network.safetensors"):
            pyface.load(foreign)


def test_damage_is_always_a_checkpoint_error(saved):
    """Bytes changed anywhere in the index give the network back or one clear error."""
    whole = bytearray(saved.read_bytes())
    index = struct.unpack("<Q", whole[:8])[0] + 8
    dice = random.Random(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(dice.randint(1, 4)):
            damaged[dice.randrange(index)] = dice.randrange(256)
        saved.write_bytes(damaged)
        try:
            pyface.load(saved)
        except CheckpointError:
            refused += 1
    assert refused > 100


def test_bad_saves_leave_the_old_file(saved, network, tmp_path):
    before = saved.read_bytes()
    with torch.no_grad():
        network.mapping.fc0.weight[0, 0] = 1e5
    bad = [
        ({"dtype": "float16"}, CheckpointError, r"mapping.fc0.weight holds 1e\+05"),
        ({"dtype": "int8"}, ValueRangeError, "float32, float16"),
        ({"extra": {"config": {}}}, ValueRangeError, "config"),
        ({"extra": {"card": torch.zeros(1)}}, ValueRangeError, "plain JSON"),
        ({"extra": {"card": float("nan")}}, ValueRangeError, "plain JSON"),
    ]
    for options, error, text in bad:
        with pytest.raises(error, match=text):
            save_model(saved, network, **options)
    with pytest.raises(ValueRangeError, match="Linear cannot be saved: it has no architecture, kind, config"):
        save_model(saved, torch.nn.Linear(2, 2))
    with pytest.raises(CheckpointError, match=r"ends in \.safetensors"):
        save_model(tmp_path / "a.pt", network)
    with pytest.raises(DataError, match="does not exist"):
        save_model(tmp_path / "none" / "a.safetensors", network)
    assert saved.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [saved.name]
    assert issubclass(CheckpointError, PyfaceError)
