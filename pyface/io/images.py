"""Image files: read, write atomically, lay out contact sheets."""

from __future__ import annotations

import contextlib
import io
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageOps, UnidentifiedImageError

from pyface.errors import DataError, ShapeError
from pyface.io.atomic import atomic_write

__all__ = [
    "contact_sheet",
    "image_shape",
    "read_image",
    "read_image16",
    "to_uint8",
    "write_image",
    "write_image16",
]

Pixels = npt.NDArray[np.uint8]

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
WRITTEN_SUFFIXES = tuple(_FORMATS)
_DEEP_GREY = ("I;16", "I;16B", "I;16L", "I")
_GREY = ("1", "L", "LA", *_DEEP_GREY)
MAX_PIXELS = (
    64 * 2**20
)  # larger than any face picture; a small file that claims more is an attack or a mistake


def read_image(source: str | os.PathLike[str] | bytes, *, upright: bool = False) -> Pixels:
    """Pixels of an image file: uint8, [H, W] when it is grey, [H, W, 3] when it has colours.

    Palettes are resolved and an alpha channel is dropped; 16-bit grey is scaled to 8 bits. Only PNG, JPEG
    and WebP are read.

    Args:
        source: a path, or the bytes of the file.
        upright: turn it as the camera noted (EXIF orientation), as viewers show it. Pictures of datasets have
            none, and their annotations refer to the pixels as stored.

    Raises:
        DataError: the file is missing, damaged, too large, or of another kind.
    """
    with _opened(source) as image:
        if upright:
            ImageOps.exif_transpose(image, in_place=True)
        if image.mode in _DEEP_GREY:
            return np.clip(np.asarray(image).astype(np.int64) // 257, 0, 255).astype(np.uint8)
        return np.array(image.convert("L" if image.mode in _GREY else "RGB"))


def read_image16(source: str | os.PathLike[str] | bytes) -> npt.NDArray[np.uint16]:
    """Levels of a 16-bit grey PNG as they are: uint16 [H, W].

    Raises:
        DataError: as `read_image`, or the file has not 16 bits of grey.
    """
    with _opened(source) as image:
        if image.mode not in _DEEP_GREY:
            raise DataError(f"{_name(source)} must be a 16-bit grey PNG; its mode is {image.mode}")
        return np.asarray(image).astype(np.uint16)


def image_shape(source: str | os.PathLike[str] | bytes) -> tuple[int, int, int]:
    """Height, width and channels (1 or 3) that `read_image` would give, from the file's header alone.

    Raises:
        DataError: as `read_image`; damage behind the header is not seen.
    """
    with _opened(source) as image:
        return image.height, image.width, 1 if image.mode in _GREY else 3


def _name(source: str | os.PathLike[str] | bytes) -> str:
    return "image" if isinstance(source, bytes) else str(source)


@contextlib.contextmanager
def _opened(source: str | os.PathLike[str] | bytes) -> Iterator[Image.Image]:
    """An opened image; every failure inside the block becomes a DataError that names the file."""
    name = _name(source)
    opened: Any = io.BytesIO(source) if isinstance(source, bytes) else Path(source)
    try:
        with Image.open(opened, formats=("PNG", "JPEG", "WEBP")) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(
                    f"{name} claims {image.width} x {image.height} pixels; at most {MAX_PIXELS} are read"
                )
            yield image
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"{name} is not a PNG, JPEG or WebP image, or its header is damaged") from error
    except FileNotFoundError as error:
        raise DataError(f"{name} does not exist") from error
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"{name} cannot be read: {error}") from error


def _check_pixels(pixels: Any, name: str) -> Pixels:
    array = np.asarray(pixels)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise ShapeError(
            f"{name} must be uint8 [H, W], [H, W, 1] or [H, W, 3]; got {array.dtype} {list(array.shape)}. "
            "For float tensors in [-1, 1] call to_uint8 first."
        )
    return array


def write_image(
    path: str | os.PathLike[str],
    pixels: npt.ArrayLike,
    *,
    quality: int = 95,
    compression: int = 6,
    sync: bool = True,
) -> None:
    """Write pixels to a .png, .jpg or .webp file; the file is there whole or not at all.

    Args:
        path: its suffix chooses the format.
        pixels: uint8 [H, W], [H, W, 1] or [H, W, 3].
        quality: of JPEG and WebP, 1 to 100; 100 makes WebP lossless.
        compression: of PNG, 0 to 9; 4 takes about half the time of 6, for files some 5 % larger.
        sync: as in `atomic_write`.

    Raises:
        DataError: unknown suffix, unwritable folder, full disk.
        ShapeError: not such pixels.
    """
    target = Path(path)
    kind = _FORMATS.get(target.suffix.lower())
    if kind is None:
        raise DataError(f"cannot write {target}: the suffix must be one of {', '.join(_FORMATS)}")
    image = Image.fromarray(_check_pixels(pixels, "pixels"))
    options: dict[str, Any] = {"quality": quality, "lossless": quality >= 100} if kind == "WEBP" else {}
    if kind == "PNG":
        options = {"compress_level": compression}
    if kind == "JPEG":
        options = {"quality": quality, "subsampling": 0}
    with atomic_write(target, sync=sync) as temporary:
        image.save(temporary, kind, **options)


def write_image16(path: str | os.PathLike[str], levels: npt.NDArray[np.uint16], *, sync: bool = True) -> None:
    """Write levels uint16 [H, W] to a 16-bit grey PNG; the file is there whole or not at all.

    Raises:
        DataError: another suffix than .png, unwritable folder, full disk.
        ShapeError: not such levels.
    """
    if levels.dtype != np.uint16 or levels.ndim != 2:
        raise ShapeError(f"levels must be uint16 [H, W]; got {levels.dtype} {list(levels.shape)}.")
    target = Path(path)
    if target.suffix.lower() != ".png":
        raise DataError(f"cannot write {target}: 16-bit levels need the suffix .png")
    with atomic_write(target, sync=sync) as temporary:
        Image.fromarray(levels).save(temporary, "PNG")


def to_uint8(images: Any) -> Pixels:
    """Pixels of a float batch: [N, C, H, W] in [-1, 1] becomes uint8 [N, H, W, C].

    -1 becomes 0 and 1 becomes 255, rounded to the nearest level; values outside are clipped, NaN becomes 0.

    Args:
        images: torch tensor on any device, or array.
    """
    if hasattr(images, "detach"):
        images = images.detach().float().cpu().numpy()
    array = np.asarray(images)
    if array.ndim != 4:
        raise ShapeError(f"images must be [N, C, H, W]; got {list(array.shape)}. Add a batch axis: x[None].")
    levels = np.nan_to_num(np.rint((array.astype(np.float32) + 1) * 127.5), nan=0.0, posinf=255.0, neginf=0.0)
    return np.ascontiguousarray(np.clip(levels, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1))


def contact_sheet(
    images: Sequence[npt.ArrayLike] | npt.NDArray[Any],
    *,
    columns: int | None = None,
    gap: int = 2,
    background: int = 255,
    captions: Sequence[str] | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Pixels:
    """One picture that shows all `images` in rows: uint8 [H, W, 3].

    Args:
        images: uint8 pictures, each [h, w], [h, w, 1] or [h, w, 3], in reading order; smaller ones
            are centred.
        columns: pictures per row; by default a sheet about as wide as high.
        gap: pixels between pictures and around the sheet.
        background: grey level of the gaps, 0 to 255.
        captions: a short line under each picture.
        path: also write the sheet to this file.

    Raises:
        DataError: no image, or as many captions as images are not there.
        ShapeError: an image that is not such pixels.
    """
    tiles = [_check_pixels(image, f"images[{i}]") for i, image in enumerate(images)]
    if not tiles:
        raise DataError("a contact sheet needs at least one image; got none")
    if captions is not None and len(captions) != len(tiles):
        raise DataError(f"captions must be as many as images ({len(tiles)}); got {len(captions)}")
    columns = columns or math.ceil(math.sqrt(len(tiles)))
    if columns < 1 or gap < 0:
        raise DataError(f"columns must be at least 1 and gap at least 0; got {columns} and {gap}")
    rows = math.ceil(len(tiles) / columns)
    height, width = max(t.shape[0] for t in tiles), max(t.shape[1] for t in tiles)
    text = 12 if captions is not None else 0
    sheet = np.full(
        (gap + rows * (height + text + gap), gap + columns * (width + gap), 3), background, np.uint8
    )
    corners = []
    for i, tile in enumerate(tiles):
        top = gap + (i // columns) * (height + text + gap)
        left = gap + (i % columns) * (width + gap)
        corners.append((left + 1, top + height))
        y, x = top + (height - tile.shape[0]) // 2, left + (width - tile.shape[1]) // 2
        colour = tile if tile.ndim == 3 else tile[:, :, None]
        sheet[y : y + tile.shape[0], x : x + tile.shape[1]] = colour
    if captions is not None:
        sheet = _with_captions(sheet, corners, captions, width, background)
    if path is not None:
        write_image(path, sheet)
    return sheet


def _with_captions(
    sheet: Pixels, corners: list[tuple[int, int]], captions: Sequence[str], width: int, background: int
) -> Pixels:
    image = Image.fromarray(sheet)
    draw = ImageDraw.Draw(image)
    ink = (0, 0, 0) if background > 127 else (255, 255, 255)
    for corner, caption in zip(corners, captions, strict=True):
        line = caption
        while line and draw.textlength(line) > width:
            line = line[:-1]
        draw.text(corner, line, fill=ink)
    return np.array(image)
