"""The network of action units: what it takes, what it does not look at, its file."""

from __future__ import annotations

import pytest
import torch

from pyface.errors import CheckpointError, DTypeError, ShapeError, ValueRangeError
from pyface.io.checkpoint import save_model
from pyface.models import ActionUnitConfig, ActionUnitNetwork, create, load

CONFIG = ActionUnitConfig(
    units=("AU12", "AU26"), geometry=("a", "b", "c"), odd_geometry=1, size=32, channels=(8, 8, 8, 8), hidden=8
)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return ActionUnitNetwork(CONFIG).eval()


def faces(count=3, seed=1):
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(count, 1, 32, 32, generator=rng) * 0.8 - 0.4, torch.randn(count, 3, generator=rng)


def test_intensities_lie_between_0_and_1(network):
    found = network.intensities(*faces())
    assert found.shape == (3, 2)
    assert found.dtype == torch.float32
    assert 0 <= found.min() <= found.max() <= 1


@pytest.mark.parametrize(("contrast", "brightness"), [(1.5, 0.0), (1.0, 0.4), (0.7, -0.3)])
def test_brightness_and_contrast_hardly_matter(network, contrast, brightness):
    pictures, geometry = faces()
    plain = network(pictures, geometry)
    other = network(pictures, geometry + 1)
    changed = network(contrast * pictures + brightness, geometry)
    assert (changed - plain).abs().max() < 0.2 * (other - plain).abs().max()


def test_it_reads_both_regions_and_the_geometry(network):
    pictures, geometry = faces()
    plain = network(pictures, geometry)
    upper, lower = pictures.clone(), pictures.clone()
    upper[:, :, :12] = faces(seed=2)[0][:, :, :12]
    lower[:, :, 20:] = faces(seed=2)[0][:, :, 20:]
    for changed in ((upper, geometry), (lower, geometry), (pictures, geometry + 0.5)):
        assert (network(*changed) - plain).abs().min() > 1e-6


def test_what_is_hidden_does_not_count(network):
    pictures, geometry = faces()
    other_pictures, other_geometry = faces(seed=9)
    no_pictures, no_geometry = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    assert torch.equal(
        network(pictures, geometry, no_pictures.expand(3, 2)),
        network(other_pictures, geometry, no_pictures.expand(3, 2)),
    )
    assert torch.equal(
        network(pictures, geometry, no_geometry.expand(3, 2)),
        network(pictures, other_geometry, no_geometry.expand(3, 2)),
    )


def test_geometry_is_standardised(network):
    pictures, geometry = faces()
    moved = ActionUnitNetwork(CONFIG).eval()
    moved.load_state_dict(network.state_dict())
    moved.geometry_mean.fill_(10.0)
    moved.geometry_spread.fill_(2.0)
    torch.testing.assert_close(moved(pictures, geometry * 2 + 10), network(pictures, geometry))


def test_rounded_input_is_refused(network):
    pictures, geometry = faces()
    with pytest.raises(DTypeError, match=r"127\.5"):
        network((pictures * 127).to(torch.uint8), geometry)
    with pytest.raises(DTypeError, match="never be rounded"):
        network(pictures, geometry.to(torch.int64))


def test_other_shapes_are_refused(network):
    pictures, geometry = faces()
    with pytest.raises(ShapeError, match="expression_picture"):
        network(pictures.expand(-1, 3, -1, -1), geometry)
    with pytest.raises(ShapeError, match="expression_geometry"):
        network(pictures, geometry[:, :2])
    with pytest.raises(ShapeError, match="geometry"):
        network(pictures, geometry[:1])


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"size": 40}, "size"),
        ({"channels": (8, 8)}, "channels"),
        ({"units": ()}, "units"),
        ({"geometry": ()}, "geometry"),
        ({"odd_geometry": 4}, "odd_geometry"),
        ({"eye_distance": 2.0}, "eye_distance"),
    ],
)
def test_bad_configurations_are_refused(fields, what):
    with pytest.raises(ValueRangeError, match=what):
        ActionUnitConfig.from_dict(CONFIG.to_dict() | fields)


def test_it_comes_back_from_its_file(network, tmp_path):
    path = tmp_path / "units.safetensors"
    save_model(path, network)
    again = load(path, kind="action-unit reader")
    assert again.config == CONFIG
    assert torch.equal(again(*faces()), network(*faces()))
    with pytest.raises(CheckpointError, match="action-unit reader"):
        load(path, kind="generator")


def test_by_name():
    made = create("action-units", geometry=("lip opening",), channels=(8, 8, 8, 8))
    assert len(made.config.units) == 13
