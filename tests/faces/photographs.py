"""Photographs for tests: rendered faces laid onto a larger background, with the truth about each."""

from __future__ import annotations

import numpy as np
import torch

from pyface.data import ProceduralFaces
from pyface.faces.affine import scale_of, transform_points
from pyface.faces.face import Face
from pyface.faces.resample import resample

SIDE = 256  # of a render


def similarity_map(scale, angle, centre):
    """The map [2, 3] that turns by `angle` radians, scales, and brings the middle of a render to `centre`."""
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array([[c, -s], [s, c]])
    return np.concatenate([linear, (np.asarray(centre, float) - linear @ [SIDE / 2, SIDE / 2])[:, None]], 1)


def background(height, width, seed=0):
    """Smooth colours with a little grain: uint8 [H, W, 3]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand([1, 3, 6, 8], generator=generator) * 180 + 40
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    grain = torch.randn([1, 3, height, width], generator=generator) * 4
    return (smooth + grain).clamp(0, 255).round().byte()[0].permute(1, 2, 0).numpy().copy()


def photograph(places, height=360, width=480, seed=0):
    """A photograph with a face at each of `places` (scale, angle, centre).

    Returns:
        The photograph uint8 [H, W, 3], its faces, and of each face where it is, bool [H, W].
    """
    renders = ProceduralFaces(len(places), 1, SIDE, ("vis",), seed=seed, extras=("segmentation",))
    photo = torch.from_numpy(background(height, width, seed)).permute(2, 0, 1).float()
    faces, areas = [], []
    for sample, place in zip((renders[i] for i in range(len(places))), places, strict=True):
        matrix = similarity_map(*place)
        layers = np.concatenate([sample.image, 255.0 * (sample.segmentation != 0)[..., None]], 2)
        moved = resample(
            torch.from_numpy(layers).permute(2, 0, 1).float(), matrix, (height, width), padding="border"
        )
        inside = torch.from_numpy(_covered(matrix, height, width)) * (moved[3:] / 255).clamp(0, 1)
        photo = photo + inside * (moved[:3] - photo)
        landmarks = {
            scheme: transform_points(matrix, points).astype(np.float32)
            for scheme, points in sample.landmarks.items()
        }
        points = landmarks["ibug68"]
        box = np.concatenate([points.min(0), points.max(0)])
        faces.append(Face(box, 1.0, landmarks))
        skin = np.isin(sample.segmentation, [1, 2, 5, 6, 7, 8, 9]).astype(np.float32)
        area = resample(
            torch.from_numpy(skin)[None], matrix, (height, width), mode="bilinear", padding="zeros"
        )
        areas.append(area[0].numpy() > 0.5)
    return photo.clamp(0, 255).round().byte().permute(1, 2, 0).numpy().copy(), faces, areas


def _covered(matrix, height, width):
    """1 inside the render, falling to 0 over its outermost 16 pixels: float32 [H, W]."""
    ramp = np.clip(np.minimum(np.arange(SIDE) + 1, SIDE - np.arange(SIDE)) / 16, 0, 1)
    plane = torch.from_numpy(np.minimum(ramp[:, None], ramp[None]).astype(np.float32))[None]
    return resample(plane, matrix, (height, width), mode="bilinear", padding="zeros").numpy()


def psnr(a, b, where):
    """Peak signal to noise ratio in decibels of two uint8 pictures, over the pixels `where`."""
    error = np.mean((a[where].astype(float) - b[where].astype(float)) ** 2)
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)


def scale_in(face):
    """Pixels of the crop per pixel of the photograph."""
    return scale_of(face.matrix)
