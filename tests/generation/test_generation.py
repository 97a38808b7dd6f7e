"""Seeds, mixtures and walks: each against the plain formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import pyface
from pyface.errors import CheckpointError, DataError, ValueRangeError
from pyface.generation.images import images_of_seeds, parse_numbers, write_images
from pyface.generation.mixing import mixed_styles, style_mixing_sheet
from pyface.generation.network import (
    condition_names,
    condition_vector,
    load_network,
    parse_conditions,
    training_facts,
)
from pyface.generation.video import closed_curve, interpolated_frames, write_video
from pyface.io.images import to_uint8


@pytest.fixture(scope="module")
def generator(network):
    return load_network(network)


def test_a_seed_means_numpys_random_state(generator, network):
    c = torch.tensor([1.0, 0.0])
    got = dict(images_of_seeds(generator, [3, 7], c, truncation_psi=0.7))
    plain = pyface.load(network)
    for seed in (3, 7):
        z = torch.from_numpy(np.random.RandomState(seed).randn(1, 8)).float()
        ws = plain.mapping(z, c[None], truncation_psi=0.7)
        with torch.no_grad():
            wanted = to_uint8(plain.synthesis(ws, noise_mode="const"))[0]
        assert np.abs(got[seed]["vis"].astype(int) - wanted).max() <= 1


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_images_do_not_depend_on_the_batch(generator, batch):
    whole = [p["vis"] for _, p in images_of_seeds(generator, range(5), batch=5)]
    parts = [p["vis"] for _, p in images_of_seeds(generator, range(5), batch=batch)]
    assert max(np.abs(a.astype(int) - b).max() for a, b in zip(whole, parts, strict=True)) <= 1


def test_parse_numbers():
    assert parse_numbers("0-3, 9,5-5") == [0, 1, 2, 3, 9, 5]
    for bad in ("", "a", "3-1", "-1", "1,,2", "1.5", "99999999999", "0-99999999"):
        with pytest.raises(ValueRangeError, match=r"seeds"):
            parse_numbers(bad)


def test_conditions():
    assert parse_conditions("smile=1, glasses=.5") == {"smile": 1.0, "glasses": 0.5}
    for bad in ("smile", "smile=x", "smile=nan"):
        with pytest.raises(ValueRangeError, match="smile"):
            parse_conditions(bad)
    assert condition_vector({"b": 2.0}, ("a", "b")).tolist() == [0.0, 2.0]
    with pytest.raises(ValueRangeError, match="its conditions are a, b"):
        condition_vector({"c": 1.0}, ("a", "b"))


def test_names_come_from_the_header(network):
    assert condition_names(network, 2) == ("smile", "glasses")
    assert condition_names(network, 3) == ("c0", "c1", "c2")
    assert training_facts(network)["label_samples"] == [[1.0, 0.0], [0.0, 1.0]]


def test_bad_networks(tmp_path):
    with pytest.raises(CheckpointError):
        load_network(tmp_path / "absent.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(CheckpointError):
        load_network(tmp_path / "broken.safetensors")


def test_mixture_takes_exactly_the_named_layers():
    row, column = torch.zeros(6, 4), torch.ones(6, 4)
    mixed = mixed_styles(row, column, [0, 4])
    assert mixed[:, 0].tolist() == [1, 0, 0, 0, 1, 0]
    assert row.sum() == 0
    with pytest.raises(ValueRangeError, match="from 0 to 5"):
        mixed_styles(row, column, [6])


def test_style_mixing_sheet(generator):
    sheet = style_mixing_sheet(generator, [0, 1], [2, 3, 4], range(generator.num_ws))
    assert sheet.shape == (3 * 16, 4 * 16, 3)
    tile = lambda r, c: sheet[r * 16 : r * 16 + 16, c * 16 : c * 16 + 16].astype(int)  # noqa: E731
    assert (tile(0, 0) == 255).all()
    for row in (1, 2):
        for column in (1, 2, 3):
            difference = np.abs(tile(row, column) - tile(0, column)).max()
            assert difference <= 1, "with all layers taken the mixture is the column's face"


def test_walk_passes_through_every_seed(generator):
    points = torch.randn(4, 6, 8, dtype=torch.float64)
    curve = closed_curve(points, 10)
    torch.testing.assert_close(curve[::10], points)
    line = closed_curve(torch.arange(8.0)[:, None], 4)[4:24, 0]
    torch.testing.assert_close(line, torch.arange(1.0, 6.0, 0.25))
    frames = list(interpolated_frames(generator, [0, 1], 3))
    assert len(frames) == 6
    wanted = next(images_of_seeds(generator, [1]))[1]["vis"]
    assert np.abs(frames[3].astype(int) - wanted).max() <= 1
    with pytest.raises(ValueRangeError, match="2 or more seeds"):
        next(interpolated_frames(generator, [0], 3))


@pytest.mark.parametrize("suffix", [".webp", ".gif", ".apng"])
def test_pillow_videos(tmp_path, generator, suffix):
    path = tmp_path / f"walk{suffix}"
    write_video(path, interpolated_frames(generator, [0, 1], 4), fps=10)
    with Image.open(path) as file:
        assert file.n_frames == 8
        assert file.size == (16, 16)


def test_mp4(tmp_path):
    av = pytest.importorskip("av", reason="the extra video is not installed")
    frames = [np.full((33, 64, 3), 20 * i, np.uint8) for i in range(6)]
    write_video(tmp_path / "walk.mp4", frames, fps=12)
    with av.open(str(tmp_path / "walk.mp4")) as container:
        decoded = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
        assert float(container.streams.video[0].average_rate) == 12
    assert len(decoded) == 6
    assert abs(int(decoded[5].mean()) - 100) <= 4


def test_bad_videos_leave_nothing(tmp_path, generator):
    with pytest.raises(DataError, match=r"\.mp4, \.webp"):
        write_video(tmp_path / "walk.avi", [])
    with pytest.raises(ValueRangeError, match="at least one frame"):
        write_video(tmp_path / "walk.webp", [])
    assert not list(tmp_path.iterdir())


def test_write_images(tmp_path, generator):
    files = write_images(tmp_path / "a", images_of_seeds(generator, [1, 2]))
    assert [f.name for f in files] == ["seed000001.png", "seed000002.png"]
    grid = write_images(tmp_path / "b", images_of_seeds(generator, range(4)), grid=True)
    assert [f.name for f in grid] == ["grid.png"]
    assert Image.open(grid[0]).size == (32, 32)
