"""One picture made as a training set wants it: upright, RGB or grey, of one size."""

from __future__ import annotations

import dataclasses
import hashlib
import io
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from pyface.data.inspection import Picture, judge

__all__ = ["RESIZE_FILTERS", "Redrawn", "redraw", "redraw_levels"]

RESIZE_FILTERS = {"lanczos": Image.Resampling.LANCZOS, "box": Image.Resampling.BOX}


@dataclasses.dataclass(frozen=True)
class Redrawn:
    """What became of a picture.

    Attributes:
        content: the new file, a PNG; None when the old one is right as it is.
        actions: what was done, in words.
        digest: of the new file.
        moved: left, top, scale of x and of y by which its points moved; None when they stayed.
        turned: whether it was turned or mirrored.
        lost: whether it cannot be repaired.
    """

    content: bytes | None
    actions: tuple[str, ...] = ()
    digest: bytes = b""
    moved: tuple[float, float, float, float] | None = None
    turned: bool = False
    lost: bool = False


def redraw(
    data: bytes, picture: Picture, size: tuple[int, int], grey: bool, resize_filter: str, anew: bool = False
) -> Redrawn:
    """A picture at (height, width), upright, RGB or grey; untouched when nothing is wrong with it.

    The part of the wanted shape at the centre is kept. Transparent pixels are laid over white. With `anew` it
    becomes a PNG in any case.
    """
    fine = not any(judge(picture, grey)) and (picture.height, picture.width) == size
    if fine and not anew:
        return Redrawn(None)
    actions = []
    with Image.open(io.BytesIO(data)) as opened:
        if picture.frames > 1:
            opened.seek(0)
            actions.append(f"first of {picture.frames} frames")
        image: Image.Image = opened
        if picture.orientation != 1:
            image = ImageOps.exif_transpose(opened)
            actions.append("turned upright")
        image, converted = _converted(image, picture, "L" if grey else "RGB")
    actions += converted
    box = _centre(image.height, image.width, *size)
    left, top, right, bottom = box
    if (right - left, bottom - top) != image.size:
        actions.append(f"cut to {right - left} x {bottom - top}")
    if (bottom - top, right - left) != size:
        larger = "enlarged" if size[0] > bottom - top else "resized"
        actions.append(f"{larger} to {size[1]} x {size[0]} ({resize_filter})")
        image = image.resize((size[1], size[0]), RESIZE_FILTERS[resize_filter], box=box)
    elif (right - left, bottom - top) != image.size:
        image = image.crop(box)
    moved = (float(left), float(top), size[1] / (right - left), size[0] / (bottom - top))
    return _saved(image, picture, actions, None if moved == (0, 0, 1, 1) else moved)


def _saved(
    image: Image.Image, picture: Picture, actions: list[str], moved: tuple[float, float, float, float] | None
) -> Redrawn:
    if picture.format != "PNG" or PurePosixPath(picture.name).suffix != ".png":
        actions.append(f"{picture.format} written as .png")
    image.info = {}
    content = io.BytesIO()
    image.save(content, "PNG")
    digest = hashlib.blake2b(content.getvalue(), digest_size=16).digest()
    return Redrawn(content.getvalue(), tuple(actions), digest, moved, picture.orientation != 1)


def _converted(image: Image.Image, picture: Picture, mode: str) -> tuple[Image.Image, list[str]]:
    actions = []
    if picture.sixteen:
        actions.append("16 bits to 8" if image.mode != "F" else "numbers cut to 0..255")
        if image.mode not in ("RGB", "RGBA", "LA"):
            values: Any = np.asarray(image)
            levels = values.astype(np.int64) // 257 if image.mode != "F" else np.rint(np.nan_to_num(values))
            image = Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))
    if image.mode in ("P", "PA"):
        actions.append("palette resolved")
        image = image.convert("RGBA" if image.mode == "PA" or "transparency" in image.info else "RGB")
    if image.mode in ("RGBA", "LA", "La", "RGBa"):
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            actions.append("laid over white")
            white = Image.new("RGBA", image.size, (255, 255, 255, 255))
            image = Image.alpha_composite(white, image)
        else:
            actions.append("alpha left out")
    if image.mode != mode:
        if picture.mode.removesuffix(";16") not in ("P", "PA", "RGBA", "LA") or mode == "L":
            actions.append(f"{picture.mode} to {'grey' if mode == 'L' else 'RGB'}")
        image = image.convert(mode)
    else:
        image.load()
    return image.copy(), actions


def _centre(height: int, width: int, wanted_height: int, wanted_width: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the largest part at the centre that has the wanted shape."""
    if height * wanted_width > width * wanted_height:
        part = max(round(width * wanted_height / wanted_width), 1)
        top = (height - part) // 2
        return 0, top, width, top + part
    part = max(round(height * wanted_width / wanted_height), 1)
    left = (width - part) // 2
    return left, 0, left + part, height


def redraw_levels(data: bytes, picture: Picture, size: tuple[int, int], anew: bool = False) -> Redrawn:
    """A picture of classes or of depth at (height, width): cut as pictures are, the nearest pixel taken."""
    deep = picture.kind == "depth"
    if deep and not picture.mode.startswith("I"):
        return Redrawn(None, (f"left out: is {picture.mode}, and depth is 16-bit grey",), lost=True)
    if not deep and (picture.sixteen or picture.mode not in ("L", "P", "1")):
        return Redrawn(None, (f"left out: is {picture.mode}, and classes are grey levels",), lost=True)
    right = (picture.height, picture.width) == size and picture.orientation == 1 and picture.format == "PNG"
    if right and not any(judge(picture, True)) and not anew:
        return Redrawn(None)
    with Image.open(io.BytesIO(data)) as opened:
        levels = np.asarray(ImageOps.exif_transpose(opened))
    left, top, end_x, end_y = _centre(levels.shape[0], levels.shape[1], *size)
    rows = top + (np.arange(size[0]) * 2 + 1) * (end_y - top) // (2 * size[0])
    columns = left + (np.arange(size[1]) * 2 + 1) * (end_x - left) // (2 * size[1])
    actions = [] if levels.shape == size else [f"cut and resized to {size[1]} x {size[0]} (nearest)"]
    moved = levels[np.ix_(rows, columns)]
    return _saved(Image.fromarray(moved.astype(np.uint16 if deep else np.uint8)), picture, actions, None)
