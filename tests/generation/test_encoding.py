"""Encoded pictures read back; bytes depend on the codec alone."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from pyface.errors import MissingExtraError, ShapeError, ValueRangeError
from pyface.generation import encoding
from pyface.generation.encoding import LIBRARIES, Codec, Encoder
from pyface.io.images import read_image

CODECS = [(image, library) for image, libraries in LIBRARIES.items() for library in libraries]


def picture(height=37, width=52, channels=3, seed=0):
    """Smooth colours with grain, as a face has them."""
    draw = np.random.default_rng(seed)
    coarse = draw.integers(0, 256, (5, 5, 3), np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    noisy = np.clip(smooth + draw.normal(0, 1.5, smooth.shape), 0, 255).astype(np.uint8)
    return noisy[:, :, :channels]


def codec(image, library, **options):
    if library != "pillow":
        pytest.importorskip(library, reason="the extra fast is not installed")
    return Codec.of(image, library=library, **options)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("library", LIBRARIES["png"])
def test_png_keeps_every_pixel(library, channels):
    encoder = Encoder(codec("png", library))
    draw = np.random.default_rng(1)
    shapes = [(1, 1), (1, 7), (9, 1), (37, 52)]
    pictures = [draw.integers(0, 256, (*shape, channels), np.uint8) for shape in shapes]
    pictures += [np.zeros((8, 8, channels), np.uint8), picture(channels=channels)]
    for pixels in pictures:
        file = encoder.encode(pixels)
        with Image.open(io.BytesIO(file)) as opened:
            opened.load()
            assert (opened.format, opened.mode) == ("PNG", "L" if channels == 1 else "RGB")
            assert (np.asarray(opened).reshape(pixels.shape) == pixels).all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("library", LIBRARIES["jpeg"])
def test_jpeg_is_near_and_444_is_nearer(library, channels):
    pixels = picture(64, 64, channels)
    errors = {}
    for subsampling in ("4:2:0", "4:4:4"):
        file = Encoder(codec("jpeg", library, subsampling=subsampling)).encode(pixels)
        with Image.open(io.BytesIO(file)) as opened:
            assert opened.format == "JPEG"
            layers = [layer[1:3] for layer in opened.layer]
        assert layers[0] == ((2, 2) if channels == 3 and subsampling == "4:2:0" else (1, 1))
        read = read_image(file).reshape(pixels.shape).astype(float)
        errors[subsampling] = np.sqrt(((read - pixels) ** 2).mean())
    assert errors["4:4:4"] <= errors["4:2:0"] < 4
    better = Encoder(codec("jpeg", library, quality=100, subsampling="4:4:4")).encode(pixels)
    assert np.abs(read_image(better).reshape(pixels.shape).astype(int) - pixels).max() <= 5


@pytest.mark.parametrize(("image", "library"), CODECS)
def test_bytes_are_the_same_from_every_thread_and_memory_layout(image, library):
    encoder = Encoder(codec(image, library))
    pictures = [picture(seed=seed) for seed in range(8)]
    wanted = [encoder.encode(pixels) for pixels in pictures]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(encoder.encode, pictures)) == wanted
    strided = np.asfortranarray(pictures[0])
    assert encoder.encode(strided) == wanted[0]
    assert encoder.encode(pictures[0][:, :, :1]) == encoder.encode(pictures[0][:, :, 0])


def test_default_is_jpeg_95_by_pillow_whatever_is_installed():
    default = Codec.of()
    assert (default.image, default.quality, default.subsampling) == ("jpeg", 95, "4:2:0")
    assert default.library == "pillow"
    assert default.version.startswith(Image.__version__)
    assert default.suffix == ".jpg"
    png = Codec.of("png", quality=80)
    assert (png.quality, png.subsampling, png.suffix, png.library) == (0, "", ".png", "pillow")
    assert Codec(**png.to_dict()) == png
    assert Encoder(png).codec == png


def test_bad_codecs():
    for options, words in [
        ({"image": "webp"}, "image must be one of jpeg, png; got 'webp'"),
        ({"quality": 0}, "from 1 to 100; got 0"),
        ({"quality": 95.0}, "whole number"),
        ({"subsampling": "4:2:2"}, "one of 4:4:4, 4:2:0"),
        ({"library": "isal"}, "library of jpeg must be one of auto, pillow, imagecodecs; got 'isal'"),
    ]:
        with pytest.raises(ValueRangeError, match=words):
            Codec.of(**options)


def test_a_library_that_is_not_installed(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(encoding.importlib, "import_module", missing)
    with pytest.raises(
        MissingExtraError, match=r'isal, which is not installed; pip install "pyface-synth\[f'
    ):
        Codec.of("png", library="isal")


def test_bad_pixels():
    encoder = Encoder(Codec.of("png"))
    for pixels in (
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ):
        with pytest.raises(ShapeError, match=r"uint8 \[H, W, 3\] or \[H, W, 1\]; got"):
            encoder.encode(pixels)
