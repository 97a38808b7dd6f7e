"""Labels as pictures to look at: classes in colours, depth in grey, landmarks as dots."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pyface.data.sample import Pixels, Sample
from pyface.errors import DataError

__all__ = ["LABEL_PICTURES", "label_picture"]

# what `label_picture` can show
LABEL_PICTURES = ("vis", "nir", "segmentation", "depth", "landmarks")

# one colour per class of `pyface.data.SEGMENTATION_CLASSES`
_CLASS_COLOURS = np.array(
    [
        (28, 30, 38), (226, 170, 138), (245, 245, 250), (96, 66, 52), (62, 100, 160), (20, 20, 20),
        (110, 24, 40), (255, 255, 235), (200, 70, 90), (66, 44, 36), (204, 146, 116), (236, 128, 96),
    ],
    np.uint8,
)  # fmt: skip


def label_picture(sample: Sample, kind: str) -> Pixels:
    """One output of a sample as a picture: uint8 [H, W] or [H, W, 3].

    Args:
        sample: rendered or read from a folder.
        kind: vis and nir as they are; segmentation in one colour per class; depth with what is near light and
            nothing black; landmarks as dots on the darkened face (the visible picture where there is one).

    Raises:
        DataError: the sample has no such output.
    """
    if kind == "vis" and sample.image is not None:
        return sample.image
    if kind == "nir" and sample.nir is not None:
        return sample.nir
    if kind == "segmentation" and sample.segmentation is not None:
        return _CLASS_COLOURS[np.minimum(sample.segmentation, len(_CLASS_COLOURS) - 1)]
    if kind == "depth" and sample.depth is not None:
        return _depth_levels(sample.depth)
    face = sample.nir if sample.image is None else sample.image
    if kind == "landmarks" and sample.landmarks and face is not None:
        return _with_dots(face, np.concatenate(list(sample.landmarks.values())))
    raise DataError(f"{sample.path or 'the sample'} has no {kind} to show")


def _depth_levels(depth: npt.NDArray[np.float32]) -> Pixels:
    """255 for the nearest point down to 40 for the farthest, 0 where there is nothing."""
    seen = np.isfinite(depth)
    if not seen.any():
        return np.zeros(depth.shape, np.uint8)
    near, far = float(depth[seen].min()), float(depth[seen].max())
    share = (far - np.where(seen, depth, far)) / max(far - near, 1e-6)
    return np.where(seen, np.rint(40 + 215 * share), 0).astype(np.uint8)


def _with_dots(face: Pixels, points: npt.NDArray[np.float32]) -> Pixels:
    """The face at 45 % brightness with a dot per point [K, 2] (x, y); each about 1.5 % of the width wide."""
    colour = face.reshape(*face.shape[:2], -1)
    picture = np.repeat(colour, 3, axis=2) if colour.shape[2] == 1 else colour
    picture = np.rint(0.45 * picture).astype(np.uint8)
    height, width = picture.shape[:2]
    rows, columns = np.mgrid[:height, :width] + 0.5
    radius = max(0.8, 0.0075 * width)
    for x, y in points:
        near = (columns - x) ** 2 + (rows - y) ** 2 <= radius**2
        picture[near] = (120, 255, 170)
    return picture
