"""Images come back as they were written; bad files and bad arrays are named."""

import numpy as np
import pytest
import torch
from PIL import Image

from pyface.errors import DataError, ShapeError
from pyface.io.images import (
    contact_sheet,
    image_shape,
    read_image,
    read_image16,
    to_uint8,
    write_image,
    write_image16,
)


def picture(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("shape", [(9, 7), (9, 7, 3), (1, 1, 3)])
@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_lossless_round_trip(tmp_path, shape, suffix):
    pixels = picture(*shape)
    write_image(tmp_path / f"a{suffix}", pixels, quality=100)
    back = read_image(tmp_path / f"a{suffix}")
    if suffix == ".webp" and pixels.ndim == 2:  # WebP has no grey
        back = back[:, :, 0]
    np.testing.assert_array_equal(back, pixels)
    np.testing.assert_array_equal(read_image((tmp_path / f"a{suffix}").read_bytes()).shape[:2], shape[:2])


def test_jpeg_is_close_and_channel_axis_of_one_is_grey(tmp_path):
    ramp = np.linspace(0, 255, 64 * 64).reshape(64, 64, 1).astype(np.uint8)
    write_image(tmp_path / "a.jpg", ramp)
    back = read_image(tmp_path / "a.jpg")
    assert back.shape == (64, 64)
    assert np.abs(back.astype(int) - ramp[:, :, 0]).max() < 8


def test_modes_are_resolved(tmp_path):
    Image.fromarray(picture(4, 5, 4)).save(tmp_path / "rgba.png")
    assert read_image(tmp_path / "rgba.png").shape == (4, 5, 3)
    Image.fromarray(picture(4, 5)).convert("P").save(tmp_path / "palette.png")
    assert read_image(tmp_path / "palette.png").shape == (4, 5, 3)
    Image.fromarray(np.array([[0, 65535, 32896]], np.uint16)).save(tmp_path / "deep.png")
    assert read_image(tmp_path / "deep.png").tolist() == [[0, 255, 128]]


def test_sixteen_bits_round_trip_and_headers(tmp_path):
    levels = np.random.default_rng(0).integers(0, 65536, (5, 7), dtype=np.uint16)
    write_image16(tmp_path / "a.png", levels)
    np.testing.assert_array_equal(read_image16(tmp_path / "a.png"), levels)
    assert image_shape(tmp_path / "a.png") == (5, 7, 1)
    write_image(tmp_path / "b.png", picture(4, 6, 3))
    assert image_shape((tmp_path / "b.png").read_bytes()) == (4, 6, 3)
    with pytest.raises(DataError, match="16-bit"):
        read_image16(tmp_path / "b.png")
    with pytest.raises(ShapeError, match="uint16"):
        write_image16(tmp_path / "c.png", picture(2, 2))
    with pytest.raises(DataError, match="suffix"):
        write_image16(tmp_path / "c.jpg", levels)


def test_bad_files_are_named(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_image(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("words")
    with pytest.raises(DataError, match="not a PNG"):
        read_image(tmp_path / "text.png")
    write_image(tmp_path / "whole.png", picture(64, 64, 3))
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:3000])
    with pytest.raises(DataError, match=r"cut\.png cannot be read"):
        read_image(tmp_path / "cut.png")
    with pytest.raises(DataError, match="cannot be read"):
        read_image(tmp_path)
    with pytest.raises(DataError, match="suffix"):
        write_image(tmp_path / "a.bmp", picture(2, 2))
    with pytest.raises(DataError, match="does not exist"):
        write_image(tmp_path / "no" / "a.png", picture(2, 2))
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("bad", [picture(2, 2, 4), picture(2, 2).astype(np.float32), picture(2)])
def test_bad_pixels_are_refused(tmp_path, bad):
    with pytest.raises(ShapeError, match="uint8"):
        write_image(tmp_path / "a.png", bad)
    assert not list(tmp_path.iterdir())


def test_to_uint8():
    x = torch.tensor([-1.0, -2.0, 0.0, 1.0, 3.0, float("nan")]).reshape(1, 1, 1, 6)
    assert to_uint8(x).ravel().tolist() == [0, 0, 128, 255, 255, 0]
    levels = torch.arange(256.0) / 127.5 - 1
    assert to_uint8(levels.reshape(1, 1, 16, 16)).ravel().tolist() == list(range(256))
    assert to_uint8(torch.zeros(2, 3, 4, 5, dtype=torch.bfloat16)).shape == (2, 4, 5, 3)
    with pytest.raises(ShapeError, match="batch axis"):
        to_uint8(torch.zeros(3, 4, 5))


def test_contact_sheet_places_images_in_reading_order(tmp_path):
    tiles = [np.full((4, 6, 3), 10 * i, np.uint8) for i in range(5)]
    sheet = contact_sheet(tiles, columns=3, gap=1, path=tmp_path / "sheet.png")
    assert sheet.shape == (1 + 2 * 5, 1 + 3 * 7, 3)
    for i in range(5):
        top, left = 1 + (i // 3) * 5, 1 + (i % 3) * 7
        assert (sheet[top : top + 4, left : left + 6] == 10 * i).all()
    assert (sheet[-1] == 255).all()
    np.testing.assert_array_equal(read_image(tmp_path / "sheet.png"), sheet)


def test_contact_sheet_takes_grey_mixed_sizes_and_captions():
    sheet = contact_sheet([picture(4, 4), picture(8, 30, 3)], columns=2, captions=["a", "b" * 400])
    assert sheet.shape == (2 + 8 + 12 + 2, 2 + 2 * 32, 3)
    with pytest.raises(DataError, match="captions"):
        contact_sheet([picture(4, 4)], captions=[])
    with pytest.raises(DataError, match="at least one"):
        contact_sheet([])
