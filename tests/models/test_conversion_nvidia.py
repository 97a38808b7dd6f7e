"""NVIDIA snapshots: the converted networks give the pictures and logits that NVIDIA's own code gave."""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import pyface
from pyface.cli.convert import command
from pyface.errors import CheckpointError, PyfaceError, ValueRangeError
from pyface.io.checkpoint import read_header
from pyface.models import (
    DiscriminatorConfig,
    GeneratorConfig,
    StyleGAN2Discriminator,
    StyleGAN2Generator,
    nvidia_name_map,
)
from pyface.models.conversion import convert_checkpoint, read_networks

_spec = importlib.util.spec_from_file_location(
    "snapshot_writer", Path(__file__).parents[1] / "snapshot_writer.py"
)
writer = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(writer)

SMALL = {"channel_base": 128, "channel_max": 16}


@pytest.fixture
def snapshot(golden_path):
    return golden_path("tiny_nv_layout.pkl")


@pytest.mark.parametrize("which", ["G", "G_ema"])
def test_golden_generator_pictures(snapshot, golden, which, tmp_path):
    convert_checkpoint(snapshot, tmp_path / "g.safetensors", which)
    G = pyface.load(tmp_path / "g.safetensors", kind="generator")
    data = golden("generator_c4.npz")
    if which == "G_ema":  # the golden file's averaged generator is 0.99 times the other
        with torch.no_grad():
            for parameter in G.parameters():
                parameter.div_(0.99)
    z, c = torch.from_numpy(data["z"]).float(), torch.from_numpy(data["c"]).float()
    for psi, cutoff, name in ((1.0, None, "psi1"), (0.7, None, "psi07"), (0.7, 3, "psi07_cut3")):
        with torch.no_grad():
            ws = G.mapping(z, c, psi, cutoff)
            image = G.synthesis(ws, noise_mode="const")
        np.testing.assert_allclose(ws, data[f"{name}/ws"], atol=2e-5)
        np.testing.assert_allclose(image, data[f"{name}/img_const"], atol=3e-5)


def test_golden_discriminator_logits(snapshot, golden, tmp_path):
    convert_checkpoint(snapshot, tmp_path / "d.safetensors", "D")
    D = pyface.load(tmp_path / "d.safetensors", kind="discriminator")
    data = golden("discriminator_c4.npz")
    with torch.no_grad():
        logits = D(torch.from_numpy(data["img"]).float(), torch.from_numpy(data["c"]).float())
    np.testing.assert_allclose(logits, data["logits"], atol=3e-5)


def test_golden_configuration(snapshot):
    networks = read_networks(snapshot, "all")
    assert list(networks) == ["G_ema", "G", "D"]
    config = networks["G"].config
    assert config == GeneratorConfig(
        32, z_dim=64, w_dim=64, c_dim=4, mapping_layers=4, channel_base=1024, channel_max=64
    )
    assert networks["D"].config.mapping_layers == 2
    assert networks["D"].config.resample_filter == (1, 3, 3, 1)


def as_snapshot(network: torch.nn.Module, attributes: dict | None = None, taps=(1, 3, 3, 1)):
    """One of our networks as a module tree of NVIDIA's layout."""
    state = network.state_dict()
    tensors = {theirs: state[ours] for theirs, ours in nvidia_name_map(network.config).items()}
    kernel = torch.tensor(taps, dtype=torch.float32)
    is_generator = isinstance(network, StyleGAN2Generator)
    block = "synthesis.b8" if is_generator else "b8"
    tensors[f"{block}.resample_filter"] = torch.outer(kernel, kernel) / kernel.sum() ** 2
    classes = {"": "Generator" if is_generator else "Discriminator"}
    lr = network.config.mapping_lr_multiplier
    return writer.module_tree(
        tensors, {"mapping.fc0": {"bias_gain": np.float64(lr)}, **(attributes or {})}, classes
    )


def write(tmp_path: Path, value: object, protocol: int = 3, **options) -> Path:
    path = tmp_path / "network-snapshot.pkl"
    path.write_bytes(writer.dumps(value, protocol, **options))
    return path


@pytest.mark.parametrize(
    ("protocol", "numpy_module"),
    [(3, "numpy.core.multiarray"), (4, "numpy.core.multiarray"), (4, "numpy._core.multiarray")],
)
@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
def test_round_trip_of_every_architecture(protocol, numpy_module, architecture, tmp_path):
    torch.manual_seed(0)
    config = GeneratorConfig(
        16, z_dim=8, w_dim=12, c_dim=3, mapping_layers=2, architecture=architecture, activation="relu",
        conv_clamp=200, mapping_lr_multiplier=0.02, w_avg_decay=0.9, spectra={"vis": 2},
        resample_filter=(1, 2, 1), **SMALL,
    )  # fmt: skip
    critic = DiscriminatorConfig(
        16,
        c_dim=3,
        cmap_dim=16,
        mapping_layers=3,
        architecture=architecture,
        mbstd_group_size=2,
        mbstd_channels=2,
        **SMALL,
    )
    G, D = StyleGAN2Generator(config).eval(), StyleGAN2Discriminator(critic).eval()
    relu = {"activation": "relu", "conv_clamp": 200}
    G_tree = as_snapshot(
        G,
        {
            "mapping": {"w_avg_beta": 0.9},
            "mapping.fc0": {"activation": "relu", "bias_gain": 0.02},
            "synthesis.b4.conv1": relu,
            "synthesis.b8.conv0": relu,
            "synthesis.b16": {"use_fp16": True},
        },
        taps=(1, 2, 1),
    )
    D_tree = as_snapshot(D)
    D_tree.args[0]["state"]["_modules"]["b4"].args[0]["state"]["_modules"]["mbstd"] = writer.module(
        "MinibatchStdLayer", group_size=2
    )
    path = write(tmp_path, {"G_ema": G_tree, "D": D_tree, "G": None}, protocol, numpy_module=numpy_module)
    networks = read_networks(path, "all")
    assert networks["G_ema"].config == config
    assert networks["D"].config == critic
    assert "float16" in networks["G_ema"].notes[0]
    z, c = torch.randn(2, 8), torch.randn(2, 3)
    with torch.no_grad():
        image = G(z, c, noise_mode="const")
        assert torch.equal(networks["G_ema"].build()(z, c, noise_mode="const"), image)
        assert torch.equal(networks["D"].build()(image[:, :1].expand(-1, 3, -1, -1), c),
                           D(image[:, :1].expand(-1, 3, -1, -1), c))  # fmt: skip


def small_generator(**fields) -> StyleGAN2Generator:
    torch.manual_seed(1)
    return StyleGAN2Generator(GeneratorConfig(8, z_dim=4, w_dim=4, mapping_layers=1, **{**SMALL, **fields}))


def test_bare_module_and_missing_networks(tmp_path):
    tree = as_snapshot(small_generator())
    assert read_networks(write(tmp_path, tree))["G_ema"].config.resolution == (8, 8)
    with pytest.raises(CheckpointError, match="has no D; it has G_ema"):
        read_networks(write(tmp_path, {"G_ema": tree}), "D")
    with pytest.raises(ValueRangeError, match="which must be one of"):
        read_networks(write(tmp_path, {"G_ema": tree}), "E")


def edit(tensors: dict[str, torch.Tensor | None]):
    """A snapshot of a small generator with tensors replaced, added or (None) removed."""
    network = small_generator()
    state = network.state_dict()
    named = {theirs: state[ours] for theirs, ours in nvidia_name_map(network.config).items()} | tensors
    return {
        "G_ema": writer.module_tree({k: v for k, v in named.items() if v is not None}, {}, {"": "Generator"})
    }


WRONG = {
    "missing": ({"synthesis.b8.conv0.bias": None}, "missing synthesis.b8.conv0.bias"),
    "unknown": ({"synthesis.b8.conv7.bias": torch.zeros(3)}, "unknown synthesis.b8.conv7.bias"),
    "no const": ({"synthesis.b4.const": None}, "no StyleGAN2"),
    "shape": ({"synthesis.b8.conv0.weight": torch.zeros(16, 16, 1, 1)}, r"needed is \[16, 16, 3, 3\]"),
    "widths": ({"synthesis.b4.conv1.weight": torch.zeros(7, 16, 3, 3)}, "do not follow"),
    "integers": ({"mapping.fc0.bias": torch.zeros(4, dtype=torch.int64)}, "int64"),
    "gap": ({"synthesis.b32.conv1.weight": torch.zeros(4, 4, 3, 3)}, "resolutions 4, 8, 32"),
    "scalar weight": ({"mapping.fc0.weight": torch.tensor(1.0)}, "has shape"),
    "empty": ({"mapping.fc0.weight": torch.zeros(4, 0)}, "has shape"),
    "filter": ({"synthesis.b8.resample_filter": torch.zeros(4, 4)}, "sums to zero"),
    "anisotropic filter": ({"synthesis.b8.resample_filter": torch.rand(4, 4)}, "both axes"),
    "channels": ({"synthesis.b8.torgb.weight": torch.zeros(65, 16, 1, 1)}, "65 channels"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_networks_are_refused_and_nothing_is_written(name, tmp_path):
    tensors, match = WRONG[name]
    path = write(tmp_path, edit(tensors))
    with pytest.raises(CheckpointError, match=match):
        convert_checkpoint(path, tmp_path / "out.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_shared_modules_do_not_multiply(tmp_path):
    """Seven modules, each of which holds the next one thirty times: 30**7 paths."""
    module = writer.module("Layer", {"weight": torch.nn.Parameter(torch.zeros(1))})
    for _ in range(7):
        module = writer.module("Layer", children={str(k): module for k in range(30)})
    path = write(tmp_path, {"G_ema": module}, 4)
    with pytest.raises(CheckpointError, match="more modules"):
        read_networks(path)


@pytest.mark.parametrize("value", [{"a": 1}, [], 3, {}, {"G_ema": 1}, {"g_ema": {}}])
def test_other_pickles_are_refused(value, tmp_path):
    path = tmp_path / "other.pkl"
    path.write_bytes(pickle.dumps(value, 4))
    with pytest.raises(CheckpointError, match="none of them a network"):
        read_networks(path)


def test_command(tmp_path):
    tree = as_snapshot(small_generator())
    path = write(tmp_path, {"G_ema": tree, "G": tree})
    run = CliRunner().invoke(command, [str(path), str(tmp_path / "face.safetensors"), "--dtype", "float16"])
    assert run.exit_code == 0, run.output
    assert "generator G_ema, 8x8" in run.output
    header = read_header(tmp_path / "face.safetensors")
    assert header["card"] == {"converted_from": "NVIDIA network snapshot", "network": "G_ema", "notes": []}
    run = CliRunner().invoke(command, [str(path), str(tmp_path / "all"), "--which", "all"])
    assert run.exit_code == 0, run.output
    assert sorted(p.name for p in (tmp_path / "all").iterdir()) == ["G.safetensors", "G_ema.safetensors"]
    for arguments in (
        [str(path), str(tmp_path / "x.pt")],
        [str(tmp_path / "no.pkl"), str(tmp_path / "x.safetensors")],
    ):
        run = CliRunner().invoke(command, arguments)
        assert isinstance(run.exception, PyfaceError)
