"""A folder with every kind of fault, each made on purpose, and what the check must say of it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 32
SOUND = ["CASE.png", *(f"sound/{i}.png" for i in range(8))]

# file -> codes that the check gives it
FAULTS: dict[str, set[str]] = {
    "alpha.png": {"alpha"},
    "animated.webp": {"animated"},
    "apng.png": {"animated"},
    "bits16.png": {"16-bit", "grey"},
    "bitmap.bmp": {"format"},
    "case.png": {"case"},
    "cmyk.jpg": {"cmyk"},
    "colours16.png": {"16-bit"},
    "copy.png": {"duplicate"},
    "empty.png": {"empty"},
    "grey.png": {"grey"},
    "greyalpha.png": {"alpha", "grey"},
    "large.png": {"size"},
    "long.png": {"label-length"},
    "nan.png": {"label-not-finite"},
    "noname": {"suffix"},
    "one.png": {"1-bit", "grey"},
    "palette.png": {"palette"},
    "see-through.png": {"alpha"},
    "text.png": {"not-image"},
    "truncated.jpg": {"unreadable"},
    "truncated.png": {"unreadable"},
    "turned.jpg": {"rotated", "size"},
    "unlabelled.png": {"label-missing"},
    "wide.png": {"size"},
    "wrong.png": {"suffix"},
}
GONE = "gone.png"


def pixels(seed: int, height: int = SIZE, width: int = SIZE, channels: int = 3) -> np.ndarray:
    """Soft random colours, so that JPEG keeps them roughly."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, channels), dtype=np.uint8)
    planes = [Image.fromarray(small[..., c]).resize((width, height), Image.BICUBIC) for c in range(channels)]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def _sixteen_colours(values: np.ndarray) -> bytes:
    """A PNG with 16 bits per colour, which Pillow reads but does not write."""
    import struct
    import zlib

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def make_faulty(folder: Path) -> None:
    """Write SOUND and FAULTS with a dataset.json of classes as vectors, itself with faults."""
    seeds = iter(range(100, 1000))

    def colour(height: int = SIZE, width: int = SIZE) -> Image.Image:
        return Image.fromarray(pixels(next(seeds), height, width))

    files = {name: encoded(colour(), "PNG") for name in SOUND}
    alpha = Image.fromarray(np.dstack([pixels(1), np.full((SIZE, SIZE), 255, np.uint8)]))
    clear = Image.fromarray(np.dstack([pixels(2), pixels(3, channels=1)[..., 0]]))
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [colour(), colour()]
    grey = pixels(4, channels=1)[..., 0]
    jpeg, png = encoded(colour(), "JPEG"), encoded(colour(), "PNG")
    files |= {
        "alpha.png": encoded(alpha, "PNG"),
        "animated.webp": encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        "apng.png": encoded(frames[1], "PNG", save_all=True, append_images=frames[:1]),
        "bits16.png": encoded(Image.fromarray(grey.astype(np.uint16) * 257), "PNG"),
        "bitmap.bmp": encoded(colour(), "BMP"),
        "case.png": encoded(colour(), "PNG"),
        "cmyk.jpg": encoded(colour().convert("CMYK"), "JPEG"),
        "colours16.png": _sixteen_colours(pixels(5).astype(np.uint16) * 257),
        "copy.png": files["CASE.png"],
        "empty.png": b"",
        "grey.png": encoded(Image.fromarray(pixels(6, channels=1)[..., 0]), "PNG"),
        "greyalpha.png": encoded(Image.fromarray(pixels(7, channels=1)[..., 0]).convert("LA"), "PNG"),
        "large.png": encoded(colour(2 * SIZE, 2 * SIZE), "PNG"),
        "long.png": encoded(colour(), "PNG"),
        "nan.png": encoded(colour(), "PNG"),
        "noname": encoded(colour(), "PNG"),
        "one.png": encoded(colour().convert("1"), "PNG"),
        "palette.png": encoded(colour().convert("P", palette=Image.ADAPTIVE), "PNG"),
        "see-through.png": encoded(clear, "PNG"),
        "text.png": b"words and words",
        "truncated.jpg": jpeg[: len(jpeg) // 2],
        "truncated.png": png[: len(png) // 2],
        "turned.jpg": encoded(colour(SIZE // 2, SIZE), "JPEG", exif=exif),
        "unlabelled.png": encoded(colour(), "PNG"),
        "wide.png": encoded(colour(SIZE, SIZE + 10), "PNG"),
        "wrong.png": encoded(colour(), "JPEG"),
        "notes.txt": b"a note",
    }
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    labels = {
        name: [i % 2, 1]
        for i, name in enumerate(sorted(files))
        if name not in ("unlabelled.png", "notes.txt")
    }
    labels |= {"long.png": [1, 0, 1], "nan.png": [float("nan"), 1], GONE: [0, 1]}
    content = {"labels": [[k, v] for k, v in labels.items()], "label_names": ["smile", "glasses"]}
    (folder / "dataset.json").write_text(json.dumps(content, indent=1))
