"""What one picture file is: its format, size and mode, how it is turned, and whether it can be decoded."""

from __future__ import annotations

import dataclasses
import hashlib
import io
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from PIL import Image, UnidentifiedImageError

from pyface.data.files import IMAGE_SUFFIXES, DatasetFiles
from pyface.errors import DataError
from pyface.io.images import MAX_PIXELS

__all__ = ["PICTURE_SUFFIXES", "Picture", "inspect", "judge", "looks_like_picture"]

# suffixes of pictures that are not read, but that a repair converts
PICTURE_SUFFIXES = (
    *IMAGE_SUFFIXES, ".jpe", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".jp2", ".ppm", ".pgm", ".pbm", ".tga",
    ".ico", ".avif", ".heic", ".heif",
)  # fmt: skip
_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\x00", b"MM\x00*")
# formats whose readers in Pillow start no other program
_FORMATS = ("PNG", "JPEG", "WEBP", "MPO", "GIF", "BMP", "TIFF", "JPEG2000", "PPM", "TGA", "ICO", "AVIF")
_SUFFIXES = {"PNG": (".png",), "JPEG": (".jpg", ".jpeg"), "MPO": (".jpg", ".jpeg"), "WEBP": (".webp",)}
_ORIENTATION = 0x0112
_TURNS = {
    2: "mirrored", 3: "turned by 180 degrees", 4: "upside down", 5: "mirrored and turned by 90 degrees",
    6: "turned by 90 degrees", 7: "mirrored and turned by 270 degrees", 8: "turned by 270 degrees",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Picture:
    """One picture file as it was found.

    Attributes:
        name: relative to the dataset.
        kind: "vis", "nir", "segmentation" or "depth".
        length: of the file in bytes.
        format: "PNG", "JPEG"...; "" when it is no picture.
        mode: Pillow's: "RGB", "L", "RGBA", "P"...; "RGB;16" for 16 bits per colour.
        width, height: in pixels, as stored (before a turn that EXIF asks for).
        orientation: EXIF, 1 to 8; 1 is upright.
        frames: more than 1 when it is animated.
        digest: of the bytes.
        error: (code, reason) when its pixels cannot be had.
    """

    name: str
    kind: str
    length: int = 0
    format: str = ""
    mode: str = ""
    width: int = 0
    height: int = 0
    orientation: int = 1
    frames: int = 1
    digest: bytes = b""
    error: tuple[str, str] | None = None

    @property
    def sixteen(self) -> bool:
        """Whether it has more than 8 bits per value."""
        return self.mode.startswith("I") or self.mode.endswith(";16") or self.mode == "F"

    @property
    def grey(self) -> bool:
        return self.mode in ("1", "L", "LA", "La", "F") or self.mode.startswith("I")


def inspect(files: DatasetFiles, name: str, kind: str) -> Picture:
    """Read and decode one file. Never raises for what is in the file."""
    try:
        data = files.read(name)
    except DataError as error:
        return Picture(name, kind, error=("unreadable", str(error).removeprefix(f"{name} ")))
    digest = hashlib.blake2b(data, digest_size=16).digest()
    found = Picture(name, kind, len(data), digest=digest)
    if not data:
        return dataclasses.replace(found, error=("empty", "has zero bytes"))
    try:
        with Image.open(io.BytesIO(data), formats=_formats()) as image:
            return _decoded(found, image, data)
    except UnidentifiedImageError:
        what = "is not an image" if not data.startswith(_MAGIC) else "has a damaged header"
        return dataclasses.replace(found, error=("not-image", what))
    except Image.DecompressionBombError as error:
        return dataclasses.replace(found, error=("too-large", f"is too large: {error}"))
    except Exception as error:  # a decoder raises whatever damage leads to: SyntaxError, struct.error...
        return dataclasses.replace(found, error=("unreadable", f"is truncated or damaged: {error}"))


def _formats() -> list[str]:
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def _decoded(found: Picture, image: Image.Image, data: bytes) -> Picture:
    kind = image.format or ""
    mode = image.mode
    if kind == "PNG" and mode in ("RGB", "RGBA", "LA") and data[24:25] == b"\x10":
        mode += ";16"
    seen = dataclasses.replace(found, format=kind, mode=mode, width=image.width, height=image.height)
    if image.width * image.height > MAX_PIXELS:
        return dataclasses.replace(
            seen,
            error=("too-large", f"has {image.width} x {image.height} pixels; at most {MAX_PIXELS} are read"),
        )
    try:
        frames = 1 if kind == "MPO" else getattr(image, "n_frames", 1)
        image.load()
        orientation = int(image.getexif().get(_ORIENTATION, 1))
    except Exception as error:
        return dataclasses.replace(seen, error=("unreadable", f"is truncated or damaged: {error}"))
    return dataclasses.replace(seen, frames=frames, orientation=orientation if orientation in _TURNS else 1)


def looks_like_picture(files: DatasetFiles, name: str) -> bool:
    """Whether a file of another suffix begins as a picture does."""
    try:
        data = files.head(name, 16)
    except DataError:
        return False
    return data.startswith(_MAGIC) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")


def judge(picture: Picture, grey: bool) -> Iterator[tuple[str, str]]:
    """(code, reason) of everything wrong with a picture but its size.

    Args:
        picture: as inspected.
        grey: whether the pictures of its kind are grey.
    """
    if picture.error is not None:
        yield picture.error
        return
    suffix = PurePosixPath(picture.name).suffix
    fitting: Any = _SUFFIXES.get(picture.format, ())
    if not fitting:
        yield "format", f"is a {picture.format} file; PNG, JPEG and WebP are read"
    elif suffix.lower() not in fitting:
        read = "" if suffix.lower() in IMAGE_SUFFIXES else "; it is not read under this name"
        yield "suffix", f"is a {picture.format} file named {suffix or 'without suffix'}{read}"
    if picture.frames > 1:
        yield "animated", f"is animated: {picture.frames} frames"
    if picture.orientation != 1:
        yield "rotated", f"is stored {_TURNS[picture.orientation]} (EXIF orientation {picture.orientation})"
    if picture.kind == "depth":
        if not picture.mode.startswith("I"):
            yield "mode", f"is {picture.mode}; depth is 16-bit grey"
        return
    if picture.sixteen:
        yield "16-bit", f"has 16 bits per value ({picture.mode})"
    yield from _judged_mode(picture.mode.removesuffix(";16"), picture, grey)


def _judged_mode(mode: str, picture: Picture, grey: bool) -> Iterator[tuple[str, str]]:
    if mode in ("P", "PA"):
        yield "palette", "has a palette"
    elif mode in ("RGBA", "LA", "La", "RGBa"):
        yield "alpha", f"has an alpha channel ({mode})"
    elif mode == "CMYK":
        yield "cmyk", "has printing colours (CMYK)"
    elif mode == "1":
        yield "1-bit", "is black and white, 1 bit per pixel"
    elif mode not in ("RGB", "L") and not picture.sixteen:
        yield "mode", f"has the mode {mode}; RGB and grey are read"
    if mode in ("P", "PA"):
        return
    if picture.grey and not grey:
        yield "grey", "is grey, most are in colour"
    elif grey and not picture.grey:
        why = {
            "vis": "most are grey",
            "nir": "near infrared is grey",
            "segmentation": "classes are grey levels",
        }
        yield "colour", f"is in colour, {why[picture.kind]}"
