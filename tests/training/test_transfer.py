"""Weights of one network in another: the same picture where that is possible, and a report of the rest."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pyface
from pyface.errors import CheckpointError
from pyface.io.checkpoint import save_model
from pyface.models import DiscriminatorConfig, GeneratorConfig, StyleGAN2Discriminator, StyleGAN2Generator
from pyface.models.conversion import convert_checkpoint
from pyface.ops import upsample2d
from pyface.training import TrainingSet
from pyface.training.recipes.stylegan2 import StyleGAN2Recipe, build
from pyface.training.transfer import read_sources, transfer, transfer_run

SMALL = {"channel_base": 256, "channel_max": 16, "mapping_layers": 2}


def _generator(seed=0, resolution=32, **changes):
    torch.manual_seed(seed)
    made = StyleGAN2Generator(
        GeneratorConfig(resolution, **{**SMALL, "z_dim": 8, "w_dim": 8, **changes})
    ).double()
    for name, parameter in made.named_parameters():  # trained networks have biases and noise of their own
        if name.endswith(("bias", "noise_strength")):
            torch.nn.init.normal_(parameter, std=0.1)
    made.mapping.w_avg.normal_()
    return made.eval().requires_grad_(False)


def _discriminator(seed=0, resolution=32, **changes):
    torch.manual_seed(seed)
    made = StyleGAN2Discriminator(DiscriminatorConfig(resolution, **{**SMALL, **changes})).double()
    return made.eval().requires_grad_(False)


def _pictures(generator, c=None, noise_mode="none"):
    z = torch.randn(3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    return generator(z, c, noise_mode=noise_mode)


def test_equal_sizes_are_copied_to_the_bit():
    for make in (_generator, _discriminator):
        source, target = make(0), make(1)
        report = transfer(target, source)
        assert set(report.copied) == set(target.state_dict())
        assert not report.adapted + report.fresh + report.silent
        for name, tensor in source.state_dict().items():
            assert torch.equal(tensor, target.state_dict()[name]), name


def test_growing_keeps_the_picture():
    source, target = _generator(0, 32), _generator(1, 64)
    before = _pictures(target)
    report = transfer(target, source)
    wanted = upsample2d(_pictures(source), target.synthesis.b64.filter.taps)
    torch.testing.assert_close(_pictures(target), wanted, rtol=1e-10, atol=1e-10)
    assert (before - wanted).abs().max() > 0.1
    assert sorted(report.silent) == ["synthesis.b64.heads.vis.bias", "synthesis.b64.heads.vis.weight"]
    assert report.fresh
    assert all(name.startswith("synthesis.b64.") for name in report.fresh)
    assert "2 silent" in str(report)


def test_shrinking_keeps_the_lower_resolutions():
    source, target = _generator(0, 64), _generator(1, 32)
    report = transfer(target, source)
    assert not report.fresh + report.adapted + report.silent
    assert torch.equal(target.synthesis.b32.conv1.weight, source.synthesis.b32.conv1.weight)


def test_a_wider_generator_paints_the_same_picture():
    source = _generator(0)
    target = _generator(1, channel_base=1024, channel_max=24)
    report = transfer(target, source)
    torch.testing.assert_close(_pictures(target), _pictures(source), rtol=1e-6, atol=1e-6)
    assert not report.fresh
    assert "synthesis.b32.conv1.weight" in report.adapted
    assert "mapping.fc0.weight" in report.copied


def test_wider_and_larger_at_once():
    source = _generator(0)
    target = _generator(1, 64, channel_base=1024, channel_max=24)
    transfer(target, source)
    wanted = upsample2d(_pictures(source), target.synthesis.b64.filter.taps)
    torch.testing.assert_close(_pictures(target), wanted, rtol=1e-6, atol=1e-6)


def test_a_wider_w_paints_the_same_picture():
    source, target = _generator(0), _generator(1, w_dim=12)
    transfer(target, source)
    torch.testing.assert_close(_pictures(target), _pictures(source), rtol=1e-8, atol=1e-8)


def test_a_condition_where_there_was_none_changes_nothing_at_first():
    source, target = _generator(0), _generator(1, c_dim=3)
    report = transfer(target, source)
    labels = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(_pictures(target, labels), _pictures(source), rtol=1e-10, atol=1e-10)
    assert {"mapping.embed.weight", "mapping.embed.bias"} == set(report.fresh)
    assert report.adapted == ["mapping.fc0.weight"]


def test_labels_of_another_dimension_start_anew():
    source, target = _generator(0, c_dim=2), _generator(1, c_dim=5)
    report = transfer(target, source)
    assert report.fresh == ["mapping.embed.weight"]
    back = transfer(_generator(1), source)
    assert back.adapted == ["mapping.fc0.weight"]
    critic = transfer(_discriminator(1, c_dim=5), _discriminator(0))
    assert {"b4.out.weight", "b4.out.bias", "mapping.embed.weight"} <= set(critic.fresh)


def test_effective_weights_of_a_wider_discriminator():
    """Logits agree exactly where no statistic over new channels is looked at."""
    source = _discriminator(0, mbstd_channels=0)
    target = _discriminator(1, mbstd_channels=0, channel_base=1024, channel_max=24)
    report = transfer(target, source)
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(target(images), source(images), rtol=1e-9, atol=1e-9)
    assert not report.fresh


def test_the_statistic_keeps_its_own_weights():
    source, target = _discriminator(0), _discriminator(1, channel_base=1024, channel_max=24)
    transfer(target, source)
    ours, theirs = target.b4.conv.weight, source.b4.conv.weight
    gain = (ours.shape[1] / theirs.shape[1]) ** 0.5
    torch.testing.assert_close(ours[:16, -1], theirs[:, -1] * gain)
    assert not ours[:16, 16:-1].any()


def test_a_narrower_discriminator_keeps_effective_weights():
    source, target = _discriminator(0, channel_base=1024, channel_max=24), _discriminator(1)
    transfer(target, source)
    ours, theirs = target.b8.conv0, source.b8.conv0
    torch.testing.assert_close(ours.weight * ours.weight_gain, theirs.weight[:16, :16] * theirs.weight_gain)


def test_another_aspect_ratio_keeps_the_convolutions():
    source, target = _generator(0), _generator(1, (40, 32), initial_size=(5, 4))
    report = transfer(target, source)
    assert "synthesis.b5x4.const" in report.adapted
    assert "synthesis.b40x32.conv1.weight" in report.copied
    assert all(name.endswith("noise_const") for name in report.fresh)
    critic, wide = _discriminator(0), _discriminator(1, (40, 32), initial_size=(5, 4))
    report = transfer(wide, critic)
    assert "b5x4.fc.weight" in report.adapted
    flat = torch.full((2, 3, 32, 32), 0.3, dtype=torch.float64)
    tall = torch.full((2, 3, 40, 32), 0.3, dtype=torch.float64)
    torch.testing.assert_close(wide(tall), critic(flat), rtol=0.2, atol=0.2)


def test_averages_and_missing_networks():
    source = _generator(0)
    report = transfer_run(
        {"G": (G := _generator(1)), "G_ema": (average := _generator(2)), "D": _discriminator(0)},
        {"G_ema": (source, "here")},
    )
    for made in (G, average):
        assert torch.equal(made.synthesis.b4.const, source.synthesis.b4.const)
    assert [each.source for each in report.networks] == ["here", "here", "no source"]
    assert report.to_dict()["G"]["copied"] == len(source.state_dict())


def test_sources(tmp_path):
    save_model(tmp_path / "G_ema.safetensors", _generator(0).float())
    save_model(tmp_path / "D.safetensors", _discriminator(0).float())
    assert set(read_sources(tmp_path)) == {"G_ema", "D"}
    assert set(read_sources(tmp_path / "G_ema.safetensors")) == {"G_ema"}
    assert set(read_sources(tmp_path / "G_ema.safetensors", tmp_path / "D.safetensors")) == {"G_ema", "D"}
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="holds none of"):
        read_sources(tmp_path / "empty")
    with pytest.raises(CheckpointError, match="absent"):
        read_sources(tmp_path / "absent.pt")
    (tmp_path / "bad.pt").write_bytes(b"no archive")
    with pytest.raises(CheckpointError, match="not a resume file"):
        read_sources(tmp_path / "bad.pt")


def test_a_converted_snapshot_grows(tmp_path, golden_path):
    convert_checkpoint(golden_path("tiny_nv_layout.pkl"), tmp_path, "all")
    small = pyface.load(tmp_path / "G_ema.safetensors")
    assert (small.resolution, small.c_dim) == ((32, 32), 4)
    sizes = {"channel_base": 1024, "channel_max": 64, "z_dim": 64, "w_dim": 64}
    recipe = StyleGAN2Recipe(
        resolution=64, mapping_layers=4, conditions=("a", "b", "c", "d"), batch=4, **sizes
    )
    data = TrainingSet.from_arrays(torch.zeros(4, 3, 64, 64, dtype=torch.uint8), torch.zeros(4, 4), "abcd")
    run = build(recipe, data)
    report = run.start_from(tmp_path)
    z, labels = torch.randn(4, 64), torch.eye(4)
    with torch.no_grad():
        wanted = upsample2d(small(z, labels, noise_mode="const"), run.generator.synthesis.b64.filter.taps)
        torch.testing.assert_close(run.saved(z, labels, noise_mode="const"), wanted, rtol=1e-4, atol=1e-4)
    assert [each.source.rpartition("/")[2] for each in report.networks] == [
        "G.safetensors",
        "G_ema.safetensors",
        "D.safetensors",
    ]
    assert np.isfinite(list(run.trainer.step().values())).all()
