"""dlib's face recognition network: against dlib, against its layers one by one, gradients, cache."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pyface.errors import CheckpointError, DTypeError, ShapeError, ValueRangeError
from pyface.io.dlib_file import read_dlib_network
from pyface.models import ARCHITECTURES, create
from pyface.models.dlib_resnet import DlibResNetConfig, load_dlib_resnet

GOLDEN = Path(__file__).parents[1] / "golden" / "dlib_resnet.npz"

_spec = importlib.util.spec_from_file_location("dlib_writer", Path(__file__).parents[1] / "dlib_writer.py")
dlib_writer = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(dlib_writer)


def random_file(path, change=lambda layers: layers):
    """dlib's network with random numbers, in dlib's format."""
    draw = np.random.default_rng(1)

    def con(before, after, size, stride, padding):
        weight = draw.normal(size=(after, before, size, size)) * (2 / (before * size * size)) ** 0.5
        scale, shift = draw.uniform(0.5, 1.0, after), draw.normal(size=after) * 0.1
        first = dlib_writer.con(
            weight.astype("f4"), draw.normal(size=after).astype("f4") * 0.1, stride, padding
        )
        return [first, dlib_writer.affine(scale.astype("f4"), shift.astype("f4"))]

    relu = dlib_writer.text("relu_")
    layers = [*con(3, 32, 7, 2, 0), relu, dlib_writer.pool("max_pool_2", 3, 2)]
    channels = 32
    for after, blocks, halves in (
        (32, 3, False),
        (64, 4, True),
        (128, 3, True),
        (256, 3, True),
        (256, 1, True),
    ):
        for block in range(blocks):
            down = halves and block == 0
            layers += [
                *con(channels, after, 3, 2 if down else 1, 0 if down else 1),
                relu,
                *con(after, after, 3, 1, 1),
            ]
            layers += [dlib_writer.pool("avg_pool_2", 2, 2)] if down else []
            layers += [dlib_writer.text("add_prev_"), relu]
            channels = after
    layers.append(dlib_writer.pool("avg_pool_2", 0, 1))
    layers.append(dlib_writer.full(draw.normal(size=(256, 128)).astype("f4") / 16))
    path.write_bytes(dlib_writer.network(change(layers), 150))
    return path


def layer_by_layer(file, pixels):
    """The network as dlib describes it, in float64: layer by layer, what is missing in a sum is zero."""
    x = (pixels.double() - torch.tensor(file.input.mean).double().reshape(3, 1, 1)) / 256
    kept = x
    layers = list(file.layers)
    for i, layer in enumerate(layers):
        numbers = {
            name: torch.from_numpy(values.copy()).double() for name, values in layer.parameters.items()
        }
        sizes = list(layer.sizes.values())
        if layer.name == "con":
            second = i >= 3 and layers[i - 1].name == "relu" and layers[i - 2].name == "affine"
            if not second and i > 0:
                kept = x  # the branch begins at the first convolution of a block
            x = F.conv2d(x, **numbers, stride=sizes[3:5], padding=sizes[5:])
        elif layer.name == "affine":
            x = x * numbers["scale"][:, None, None] + numbers["shift"][:, None, None]
        elif layer.name == "relu":
            x = x.clamp(min=0)
        elif layer.name == "max_pool":
            x = F.max_pool2d(x, sizes[:2], sizes[2:4])
        elif layer.name == "avg_pool" and sizes[0]:
            kept = F.avg_pool2d(kept, sizes[:2], sizes[2:4])
        elif layer.name == "avg_pool":
            x = x.mean((2, 3))
        elif layer.name == "add_prev":
            whole = x.new_zeros([max(a, b) for a, b in zip(x.shape, kept.shape, strict=True)])
            for part in (x, kept):
                whole[:, : part.shape[1], : part.shape[2], : part.shape[3]] += part
            x = whole
        else:
            x = x @ numbers["weight"]
    return x


@pytest.fixture(scope="module")
def random_path(tmp_path_factory):
    return random_file(tmp_path_factory.mktemp("dlib") / "random.dat")


@pytest.fixture(scope="module")
def network(random_path):
    return load_dlib_resnet(random_path)


def pixels(n=2, seed=0):
    return torch.randint(0, 256, (n, 3, 150, 150), generator=torch.Generator().manual_seed(seed)).float()


def test_equals_the_layers_one_by_one(random_path, network):
    wanted = layer_by_layer(read_dlib_network(random_path), pixels())
    found = network(pixels() / 127.5 - 1)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


def test_stages(network):
    stages = network.features(pixels() / 127.5 - 1)
    sizes = [(2, 32, 35, 35), (2, 64, 17, 17), (2, 128, 8, 8), (2, 256, 4, 4), (2, 256, 2, 2)]
    assert [tuple(stage.shape) for stage in stages] == sizes
    torch.testing.assert_close(network.embedding_of(stages), network(pixels() / 127.5 - 1))


def test_a_picture_does_not_depend_on_its_batch(network):
    images = pixels(5) / 127.5 - 1
    alone = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(network(images), alone, rtol=1e-4, atol=1e-5)
    strided = images.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(network(strided), alone, rtol=1e-4, atol=1e-5)
    assert network(images[:0]).shape == (0, 128)


def test_gradients_reach_the_images(random_path):
    network = load_dlib_resnet(random_path).double()
    images = (pixels(1) / 127.5 - 1).double().requires_grad_(True)
    target = network((pixels(1, seed=9) / 127.5 - 1).double())
    loss = (network(images) - target).square().sum()
    (gradient,) = torch.autograd.grad(loss, images)
    direction = torch.randn(images.shape, generator=torch.Generator().manual_seed(0)).double()
    step = 1e-7
    with torch.no_grad():
        ends = [(network(images + s * direction) - target).square().sum() for s in (step, -step)]
    torch.testing.assert_close(
        (gradient * direction).sum(), (ends[0] - ends[1]) / (2 * step), rtol=1e-3, atol=0
    )
    assert not any(p.requires_grad for p in network.parameters())


def test_the_cache_holds_half_the_bytes_and_the_same_network(random_path, network, tmp_path):
    cache = tmp_path / "made" / "here"
    state = torch.get_rng_state()
    first = load_dlib_resnet(random_path, cache)
    (file,) = cache.iterdir()
    assert torch.equal(torch.get_rng_state(), state)
    assert file.stat().st_size < 0.51 * random_path.stat().st_size
    written = file.stat().st_mtime_ns
    again = load_dlib_resnet(random_path, cache)
    assert file.stat().st_mtime_ns == written
    images = pixels() / 127.5 - 1
    assert torch.equal(first(images), again(images))
    assert F.cosine_similarity(first(images), network(images)).min() > 0.99999
    file.write_bytes(file.read_bytes()[:1000])
    assert torch.equal(load_dlib_resnet(random_path, cache)(images), again(images))
    other = random_path.parent / "other.dat"
    other.write_bytes(random_path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"other\.dat"):
        load_dlib_resnet(other, cache)
    assert [f.name for f in cache.iterdir()] == [file.name]
    (tmp_path / "file").write_text("")
    assert torch.equal(load_dlib_resnet(random_path, tmp_path / "file")(images), network(images))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda layers: layers[:-1], "layer 107 is nothing; expected is fc 128 256"),
        (lambda layers: [*layers, dlib_writer.text("relu_")], "layer 108 is relu; expected is nothing"),
        (
            lambda layers: layers[:3] + layers[4:],
            "layer 3 is con 32 3 3 1 1 1 1; expected is max_pool 3 3 2 2 0 0",
        ),
        (lambda layers: [layers[0], layers[26], *layers[2:]], "stem is .* with 64 scales"),
    ],
)
def test_other_networks_are_refused(tmp_path, change, text):
    path = random_file(tmp_path / "a.dat", change)
    with pytest.raises(CheckpointError, match=text):
        load_dlib_resnet(path)


def test_bad_calls_and_configurations(network, tmp_path):
    cases = [
        (lambda: network(torch.zeros(3, 150, 150)), ShapeError, "dlib150"),
        (lambda: network(torch.zeros(1, 3, 112, 112)), ShapeError, r"got \[1, 3, 112, 112\]"),
        (lambda: network(torch.zeros(1, 3, 150, 150, dtype=torch.uint8)), DTypeError, "uint8"),
        (lambda: load_dlib_resnet(tmp_path / "none.dat"), CheckpointError, "there is no file"),
        (lambda: load_dlib_resnet(tmp_path / "none.dat", tmp_path), CheckpointError, "cannot read"),
        (lambda: DlibResNetConfig(blocks=(1, 2)), ValueRangeError, "one number for each stage"),
        (lambda: DlibResNetConfig(size=80), ValueRangeError, "at least 135"),
        (lambda: DlibResNetConfig(channels=(0,), blocks=(1,)), ValueRangeError, "channels"),
    ]
    for call, error, text in cases:
        with pytest.raises(error, match=text):
            call()


def test_registry_builds_and_describes():
    network = create("dlib-resnet", channels=(4, 6), blocks=(1, 2), size=40, embedding_dim=5)
    architecture = ARCHITECTURES["dlib-resnet"]
    assert (network.architecture, network.kind) == ("dlib-resnet", architecture.kind)
    assert architecture.config.from_dict(network.config.to_dict()) == network.config
    assert network(torch.zeros(2, 3, 40, 40)).shape == (2, 5)


def test_equals_dlib(model):
    with np.load(GOLDEN) as file:
        chips, wanted = file["chips"], torch.from_numpy(file["descriptors"])
    images = torch.from_numpy(chips).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        found = load_dlib_resnet(model("dlib-resnet"))(images)
    assert (found - wanted).norm(dim=1).max() < 2e-5


def test_equals_dlib_from_the_cache_too(model, tmp_path):
    with np.load(GOLDEN) as file:
        chips, wanted = file["chips"], torch.from_numpy(file["descriptors"])
    images = torch.from_numpy(chips).permute(0, 3, 1, 2).float() / 127.5 - 1
    found = load_dlib_resnet(model("dlib-resnet"), tmp_path)(images)
    assert (found - wanted).norm(dim=1).max() < 3e-3  # people are told apart at 0.6
    assert F.cosine_similarity(found, wanted).min() > 0.999995
