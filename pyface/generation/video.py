"""Videos that walk through the latent space."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pyface.errors import DataError, MissingExtraError, ValueRangeError
from pyface.generation.images import as_pixels, latents_of_seeds, synthesis_options
from pyface.io.atomic import atomic_write

__all__ = ["interpolated_frames", "write_video"]

_BY_PILLOW = {".webp": "WEBP", ".gif": "GIF", ".apng": "PNG"}


def closed_curve(points: Tensor, steps: int) -> Tensor:
    """`steps` positions on a smooth closed curve from each of the points [K, ...] to the next: [K * steps,
    ...].

    Catmull-Rom spline (Catmull and Rom 1974), which passes through every point.
    """
    before, after, beyond = points.roll(1, 0), points.roll(-1, 0), points.roll(-2, 0)
    t = torch.arange(steps, dtype=points.dtype) / steps
    t = t.reshape(1, -1, *[1] * (points.ndim - 1))
    p0, p1, p2, p3 = (p.unsqueeze(1) for p in (before, points, after, beyond))
    linear = (p2 - p0) * t
    square = (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2
    cube = (3 * p1 - p0 - 3 * p2 + p3) * t**3
    return (p1 + (linear + square + cube) / 2).flatten(0, 1)


@torch.inference_mode()
def interpolated_frames(
    generator: Any,
    seeds: Sequence[int],
    frames: int,
    c: Tensor | None = None,
    *,
    truncation_psi: float = 1.0,
    batch: int = 16,
    device: str = "cpu",
    precision: str | None = None,
) -> Iterator[np.ndarray]:
    """uint8 frames [H, W, 3] of a walk from seed to seed and back to the first, `frames` between two seeds.

    The walk is smooth in W, and the noise stays the same. The first spectrum is shown. precision: as
    in `images_of_seeds`.
    """
    if len(seeds) < 2 or frames < 1:
        raise ValueRangeError(
            f"a video needs 2 or more seeds and 1 or more frames; got {len(seeds)} and {frames}."
        )
    labels = torch.zeros(generator.c_dim) if c is None else c
    z = latents_of_seeds(seeds, generator.z_dim).to(device)
    ws = generator.mapping(z, labels.to(device).expand(len(seeds), -1), truncation_psi=truncation_psi)
    options = synthesis_options("const", precision)
    for part in closed_curve(ws.cpu(), frames).split(batch):
        for pixels in as_pixels(generator.synthesis(part.to(device), **options)):
            first = next(iter(pixels.values()))
            yield np.repeat(first, 3, axis=2) if first.shape[2] == 1 else first


def write_video(path: Path, frames: Iterable[np.ndarray], fps: int = 30) -> None:
    """Write frames as .mp4 (H.264, needs the extra `video`), .webp, .gif or .apng; the file is complete or
    absent."""
    suffix = path.suffix.lower()
    if suffix != ".mp4" and suffix not in _BY_PILLOW:
        raise DataError(f"a video must be .mp4, .webp, .gif or .apng; got {path.name!r}.")
    if suffix == ".mp4":
        _require_av()
    with atomic_write(path) as temporary:
        if suffix == ".mp4":
            _write_mp4(temporary, frames, fps)
        else:
            pictures = [Image.fromarray(frame) for frame in frames]  # Pillow goes over them more than once
            if not pictures:
                raise ValueRangeError("a video needs at least one frame; got none.")
            options: dict[str, Any] = {"quality": 90} if suffix == ".webp" else {}
            pictures[0].save(
                temporary,
                _BY_PILLOW[suffix],
                save_all=True,
                append_images=pictures[1:],
                duration=round(1000 / fps),
                loop=0,
                **options,
            )


def _require_av() -> Any:
    try:
        import av
    except ImportError as error:
        raise MissingExtraError(
            "writing .mp4 needs PyAV. Install it with: pip install 'pyface-synth[video]', "
            "or write .webp or .gif."
        ) from error
    return av


def _write_mp4(path: Path, frames: Iterable[np.ndarray], fps: int) -> None:
    av = _require_av()
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps))
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "18"}
        started = False
        for frame in frames:
            even = np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")
            if not started:
                stream.height, stream.width = even.shape[:2]
                started = True
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        if not started:
            raise ValueRangeError("a video needs at least one frame; got none.")
        container.mux(stream.encode())
