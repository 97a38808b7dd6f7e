"""Writing pictures to files: `pyface.io.images` beside Pillow and OpenCV as they come.

Each writes to a folder of its own and does not wait for the disk (`sync=False`). Each library stands there
twice: with our settings, which compares the work, and with its own defaults, which tells what ours cost.
"""

from __future__ import annotations

import functools
import importlib
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyface.benchmark.case import OURS, Case, Variant, Workload
from pyface.errors import BackendError

__all__ = ["encoding_cases", "encoding_workload", "face_pixels"]

_SUFFIXES = {"jpeg": ".jpg", "png": ".png"}
_PILLOW: dict[str, dict[str, dict[str, int]]] = {  # names of the ways, and their options
    "jpeg": {"Pillow, same settings": {"quality": 95, "subsampling": 0}, "Pillow, quality 75, 4:2:0": {}},
    "png": {"Pillow, same settings": {"compress_level": 6}},
}
_OPENCV: dict[str, dict[str, dict[str, int]]] = {  # options by the names of OpenCV's constants, and values
    "jpeg": {
        "OpenCV, same settings": {
            "IMWRITE_JPEG_QUALITY": 95,
            "IMWRITE_JPEG_SAMPLING_FACTOR": 0x111111,  # 4:4:4
        },
        "OpenCV, quality 95, 4:2:0": {},
    },
    "png": {"OpenCV, same settings": {"IMWRITE_PNG_COMPRESSION": 6}, "OpenCV, level 1": {}},
}
_SIZES = (256, 1024)
_TOLERANCE = {"jpeg": 0.15, "png": 0.0}  # of decoded levels, by the largest

Pixels = npt.NDArray[np.uint8]


def encoding_cases() -> list[Case]:
    """JPEG and PNG of 256 and 1024 px."""
    return [
        Case(
            f"encode {kind}/{side}x{side}x3", "encoding", f"encode {kind}", f"{side}x{side}x3", "uint8", "-",
            build=lambda device, kind=kind, side=side: encoding_workload(kind, side, device),  # type: ignore[misc]
            cold=False, quick=side == 256, screen=f"write {kind.upper()} {side} px" if side == 256 else "",
        )
        for kind in _SUFFIXES
        for side in _SIZES
    ]  # fmt: skip


@functools.cache
def face_pixels(side: int) -> Pixels:
    """A rendered face with a little noise of a sensor: uint8 [side, side, 3]."""
    from pyface.data.procedural import face_parameters_for
    from pyface.ops.face_render import face_render

    parameters = torch.from_numpy(face_parameters_for(0, np.arange(1), 0))
    face: Pixels = face_render(parameters, side, ("vis",))["vis"][0].numpy()
    noise = np.random.default_rng(0).normal(0, 2, face.shape)
    return np.clip(face + noise, 0, 255).round().astype(np.uint8)


def encoding_workload(kind: str, side: int, device: str) -> Workload:
    """A face written as "jpeg" or "png"; the file, read again, is the result."""
    if torch.device(device).type != "cpu":
        raise BackendError("pictures are encoded on the CPU")
    from PIL import Image

    from pyface.io.images import read_image, write_image

    pixels = face_pixels(side)
    folder = tempfile.TemporaryDirectory(prefix="pyface-encoding-")
    suffix = _SUFFIXES[kind]
    root = Path(folder.name)
    image = Image.fromarray(pixels)

    def written(run: Callable[[Path], None], name: str) -> Variant:
        path = root / f"{name}{suffix}"

        def decoded(_keep: object = folder) -> Tensor:
            return torch.from_numpy(read_image(path))

        return Variant(lambda: run(path), result=decoded)

    variants = {OURS: written(lambda path: write_image(path, pixels, sync=False), "ours")}
    for name, options in _PILLOW[kind].items():
        variants[name] = written(partial(_save, image, options), name.replace(":", ""))
    try:
        cv2 = importlib.import_module("cv2")
    except ImportError:
        pass
    else:
        blue_first = pixels[:, :, ::-1].copy()
        for name, options in _OPENCV[kind].items():
            flags = [number for key, value in options.items() for number in (getattr(cv2, key), value)]
            variants[name] = written(partial(_write, cv2, blue_first, flags), name.replace(":", ""))
    exact = torch.from_numpy(pixels).double()
    return Workload(
        variants, reference=lambda: exact, bytes=pixels.nbytes, items=1, tolerance=_TOLERANCE[kind]
    )


def _save(image: Any, options: dict[str, int], path: Path) -> None:
    image.save(path, **options)


def _write(cv2: Any, pixels: Pixels, flags: list[int], path: Path) -> None:
    if not cv2.imwrite(str(path), pixels, flags):
        raise BackendError(f"OpenCV did not write {path}")
