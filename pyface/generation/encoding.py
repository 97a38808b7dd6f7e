"""Pixels to the bytes of an image file, by a codec that says exactly which library made them."""

from __future__ import annotations

import dataclasses
import importlib
import io
import struct
import zlib
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image, features

from pyface.errors import MissingExtraError, ShapeError, ValueRangeError

__all__ = ["LIBRARIES", "Codec", "Encoder"]

Pixels = npt.NDArray[np.uint8]

# image -> the libraries that write it; the first is what "auto" means
LIBRARIES = {"jpeg": ("pillow", "imagecodecs"), "png": ("pillow", "isal")}
SUBSAMPLINGS = {"4:4:4": 0, "4:2:0": 2}  # as Pillow counts them
_ISAL_LEVEL = 1
_RLE = 3  # Z_RLE of zlib


@dataclasses.dataclass(frozen=True)
class Codec:
    """Which library writes which kind of image, with which settings: what the bytes depend on.

    `Codec.of` is the way to one of the libraries that are installed.

    Attributes:
        image: "jpeg" or "png".
        quality: of JPEG, 1 to 100; 0 for PNG.
        subsampling: of JPEG, "4:2:0" (colour at half the size) or "4:4:4"; "" for PNG.
        library: one of `LIBRARIES[image]`.
        version: of that library and of what it compresses with, such as "13.0.0 libjpeg-turbo 3.2.0".
    """

    image: str
    quality: int
    subsampling: str
    library: str
    version: str

    @classmethod
    def of(
        cls, image: str = "jpeg", *, quality: int = 95, subsampling: str = "4:2:0", library: str = "auto"
    ) -> Self:
        """The codec as it is installed here.

        Args:
            image: "jpeg" or "png".
            quality: of JPEG; PNG loses nothing and has none.
            subsampling: of JPEG; "4:4:4" keeps edges of colours sharp in files some 50 % larger.
            library: "auto" is Pillow, which is always there: bytes shall not depend on what happens to be
                installed. By name: "imagecodecs" (JPEG, somewhat faster), "isal" (PNG of the same pixels, up
                to eight times faster, some 15 % larger).

        Raises:
            ValueRangeError: an unknown image, quality, subsampling or library.
            MissingExtraError: the library is not installed.
        """
        if image not in LIBRARIES:
            raise ValueRangeError(f"image must be one of {', '.join(LIBRARIES)}; got {image!r}.")
        if library not in ("auto", *LIBRARIES[image]):
            raise ValueRangeError(
                f"library of {image} must be one of auto, {', '.join(LIBRARIES[image])}; got {library!r}."
            )
        library = LIBRARIES[image][0] if library == "auto" else library
        if image == "png":
            return cls(image, 0, "", library, _version(image, library))
        if isinstance(quality, bool) or not isinstance(quality, int) or not 1 <= quality <= 100:
            raise ValueRangeError(f"quality must be a whole number from 1 to 100; got {quality!r}.")
        if subsampling not in SUBSAMPLINGS:
            raise ValueRangeError(
                f"subsampling must be one of {', '.join(SUBSAMPLINGS)}; got {subsampling!r}."
            )
        return cls(image, quality, subsampling, library, _version(image, library))

    @property
    def suffix(self) -> str:
        """Of the files: ".jpg" or ".png"."""
        return ".jpg" if self.image == "jpeg" else ".png"

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return dataclasses.asdict(self)


class Encoder:
    """Makes image files in memory. Any number of threads may call one encoder: the libraries release the GIL.

    >>> encoder = Encoder(Codec.of("png"))
    >>> encoder.encode(np.zeros((4, 4, 3), np.uint8))[1:4]
    b'PNG'

    Args:
        codec: what to write with; its version is not asked for, the installed one is taken.

    Raises:
        MissingExtraError: the codec's library is not installed.
        ValueRangeError: the codec is none of `Codec.of`.
    """

    def __init__(self, codec: Codec) -> None:
        here = Codec.of(
            codec.image,
            quality=codec.quality,
            subsampling=codec.subsampling,
            library=codec.library,
        )
        self.codec = here
        self._encode = _WRITERS[here.image, here.library](here)

    def encode(self, pixels: Pixels) -> bytes:
        """The file of one picture.

        Args:
            pixels: uint8 [H, W, 3], or [H, W, 1] or [H, W] for a grey one.

        Raises:
            ShapeError: not such pixels.
        """
        array = np.asarray(pixels)
        if array.ndim == 3 and array.shape[2] == 1:
            array = array[:, :, 0]
        if (
            array.dtype != np.uint8
            or array.size == 0
            or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3))
        ):
            raise ShapeError(
                f"pixels must be uint8 [H, W, 3] or [H, W, 1]; got {array.dtype} {list(np.shape(pixels))}."
            )
        return self._encode(np.ascontiguousarray(array))


def _version(image: str, library: str) -> str:
    if library == "pillow":
        if image == "jpeg":
            name = "libjpeg-turbo" if features.check("libjpeg_turbo") else "libjpeg"
            below = features.version("libjpeg_turbo") or features.version("jpg")
        else:
            name = "zlib-ng" if features.check("zlib_ng") else "zlib"
            below = features.version("zlib_ng") or features.version("zlib")
        return f"{PIL.__version__} {name} {below}"
    module = _imported(library)
    version = getattr(module, "__version__", "unknown")
    return f"{version} {module.jpeg8_version()}" if library == "imagecodecs" else str(version)


def _imported(library: str) -> Any:
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise MissingExtraError(
            f"pictures shall be encoded by {library}, which is not installed; "
            'pip install "pyface-synth[fast]", or encode by pillow.'
        ) from error


def _pillow_jpeg(codec: Codec) -> Callable[[Pixels], bytes]:
    colour = SUBSAMPLINGS[codec.subsampling]

    def encode(pixels: Pixels) -> bytes:
        file = io.BytesIO()
        subsampling = colour if pixels.ndim == 3 else 0
        Image.fromarray(pixels).save(file, "JPEG", quality=codec.quality, subsampling=subsampling)
        return file.getvalue()

    return encode


def _imagecodecs_jpeg(codec: Codec) -> Callable[[Pixels], bytes]:
    jpeg8_encode = _imported("imagecodecs").jpeg8_encode
    subsampling = codec.subsampling.replace(":", "")

    def encode(pixels: Pixels) -> bytes:
        chosen = {"subsampling": subsampling} if pixels.ndim == 3 else {}
        return bytes(jpeg8_encode(pixels, level=codec.quality, **chosen))

    return encode


def _pillow_png(codec: Codec) -> Callable[[Pixels], bytes]:
    """Runs of equal bytes alone, behind filters that Pillow picks row by row.

    With the grain that faces have this beats searching for repetitions in both size and time.
    """

    def encode(pixels: Pixels) -> bytes:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG", compress_level=1, compress_type=_RLE)
        return file.getvalue()

    return encode


def _isal_png(codec: Codec) -> Callable[[Pixels], bytes]:
    """PNG (ISO/IEC 15948): the filter Average (its clause 9.2, type 3) for every row, compressed by igzip."""
    compress = importlib.import_module("isal.isal_zlib").compress

    def encode(pixels: Pixels) -> bytes:
        height, width = pixels.shape[:2]
        channels = pixels[0, 0].size
        rows = pixels.reshape(height, width * channels)
        above = np.zeros_like(rows)
        above[1:] = rows[:-1]
        left = np.zeros_like(rows)
        left[:, channels:] = rows[:, :-channels]
        filtered = np.empty((height, 1 + width * channels), np.uint8)
        filtered[:, 0] = 3
        # (above + left) // 2 without the ninth bit
        np.subtract(rows, (above & left) + ((above ^ left) >> 1), out=filtered[:, 1:])
        colour = 2 if channels == 3 else 0
        header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
        chunks = ((b"IHDR", header), (b"IDAT", compress(filtered, _ISAL_LEVEL)), (b"IEND", b""))
        return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)

    return encode


def _chunk(kind: bytes, data: bytes) -> bytes:
    check = zlib.crc32(data, zlib.crc32(kind))
    return b"".join((struct.pack(">I", len(data)), kind, data, struct.pack(">I", check)))


_WRITERS: dict[tuple[str, str], Callable[[Codec], Callable[[Pixels], bytes]]] = {
    ("jpeg", "pillow"): _pillow_jpeg,
    ("jpeg", "imagecodecs"): _imagecodecs_jpeg,
    ("png", "pillow"): _pillow_png,
    ("png", "isal"): _isal_png,
}
