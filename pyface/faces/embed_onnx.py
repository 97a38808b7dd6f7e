"""Embedders in ONNX files, such as the ArcFace family: run by onnxruntime, without gradients."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyface.errors import CheckpointError, ValueRangeError
from pyface.faces.embed import ARCFACE_THRESHOLD, METRICS, checked_faces
from pyface.faces.onnx_network import OnnxNetwork

__all__ = ["OnnxEmbedder"]

_ORDERS = ("rgb", "bgr")
_AT_ONCE = 32


class OnnxEmbedder:
    """An embedder in an ONNX file with one picture as input and one vector as output.

    Size and layout of the input and the length of the vector are read off the graph. What is fed is
    (grey level - mean) / std in the order of colours that the network was trained with.

    Attributes as in `pyface.faces.protocols.Embedder`, and:
        layout: "nchw" or "nhwc".

    Args:
        path: the file.
        template: by which its faces were aligned when it was trained.
        size: of the pictures in pixels, where the graph leaves it open.
        mean: subtracted from grey levels 0 to 255; one number, or one for red, green and blue each.
        std: by which the difference is divided; likewise.
        order: "rgb" or "bgr".
        layout: "nchw" or "nhwc", where both are possible.
        output: name of the output, where there are several.
        metric: "cosine" or "l2".
        threshold: depends on the training; measure it on pictures of your own.
        device: "cpu", or "cuda" with a build of onnxruntime that has it.
        threads: of onnxruntime on the CPU; 0 as many as it likes.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        CheckpointError: no such file, damaged, or no network of that form.
        ValueRangeError: an option that does not fit.
    """

    differentiable = False

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        template: str = "arcface112",
        size: int | None = None,
        mean: float | Sequence[float] = 127.5,
        std: float | Sequence[float] = 127.5,
        order: str = "rgb",
        layout: str | None = None,
        output: str | None = None,
        metric: str = "cosine",
        threshold: float = ARCFACE_THRESHOLD,
        device: str = "cpu",
        threads: int = 0,
    ) -> None:
        for value, allowed, name in ((order, _ORDERS, "order"), (metric, METRICS, "metric")):
            if value not in allowed:
                raise ValueRangeError(f"{name} must be one of {', '.join(allowed)}; got {value!r}.")
        self.path = Path(path)
        self.name = f"onnx {self.path.name}"
        self.template, self.metric, self.threshold = template, metric, float(threshold)
        self._bgr = order == "bgr"
        self._mean, self._std = _per_channel(mean, "mean"), _per_channel(std, "std")
        if (self._std == 0).any():
            raise ValueRangeError(f"std must not be 0; got {std!r}.")
        self._network = OnnxNetwork(path, device=device, threads=threads)
        self.layout, self.size = self._read_input(size, layout)
        self._output = self._read_output(output)
        self.dim = self._run(np.zeros((1, 3, self.size, self.size), np.float32)).shape[1]

    def embed(self, aligned: Tensor) -> Tensor:
        """Vectors float32 [N, dim] on the CPU, without gradients.

        Args:
            aligned: float [N, 3, size, size] RGB in [-1, 1], aligned by `template`.

        Raises:
            ShapeError, DTypeError: not such faces.
        """
        faces = checked_faces(aligned, self.size, self.template).detach().cpu().numpy()
        grey = (faces + np.float32(1)) * np.float32(127.5)
        pixels = ((grey - self._mean) / self._std).astype(np.float32)
        if not len(pixels):
            return torch.zeros(0, self.dim)
        fixed = self._network.input.shape[0] or 1
        step = fixed * max(_AT_ONCE // fixed, 1)
        parts = [self._run(pixels[start : start + step]) for start in range(0, len(pixels), step)]
        return torch.from_numpy(np.concatenate(parts))

    def _run(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The graph's output [n, dim] for prepared pictures [n, 3, size, size] in RGB."""
        if self._bgr:
            pixels = pixels[:, ::-1]
        if self.layout == "nhwc":
            pixels = pixels.transpose(0, 2, 3, 1)
        vectors = self._network(pixels)[self._output].astype(np.float32, copy=False)
        if vectors.ndim < 2 or len(vectors) != len(pixels):
            raise CheckpointError(
                f"{self.path} gives {list(vectors.shape)} for {len(pixels)} pictures; expected is one vector "
                "for each"
            )
        return vectors.reshape(len(vectors), -1)

    def _read_input(self, size: int | None, layout: str | None) -> tuple[str, int]:
        """Layout and size of the pictures."""
        shape = self._network.input.shape
        possible = [name for name, axis in (("nchw", 1), ("nhwc", 3)) if shape[axis] in (3, None)]
        certain = [name for name, axis in (("nchw", 1), ("nhwc", 3)) if shape[axis] == 3]
        chosen = layout or (certain[0] if certain else "nchw")
        if chosen not in possible:
            raise ValueRangeError(
                f"layout must be one of {', '.join(possible) or 'none'} for the input of {self.path}, "
                f"{self._network.input}; got {chosen!r}."
            )
        rows, columns = (shape[2], shape[3]) if chosen == "nchw" else (shape[1], shape[2])
        sides = {side for side in (rows, columns, size) if side is not None}
        if len(sides) > 1:
            raise ValueRangeError(
                f"{self.path} does not take square pictures of one size: {self._network.input}, size {size}."
            )
        if not sides:
            raise ValueRangeError(
                f"{self.path} leaves the size of its pictures open: give the size, such as size=112."
            )
        return chosen, sides.pop()

    def _read_output(self, output: str | None) -> str:
        names = [found.name for found in self._network.outputs]
        if output is None and len(names) == 1:
            return names[0]
        if output not in names:
            raise ValueRangeError(f"output must be one of {', '.join(names)}; got {output!r}.")
        return output

    def __repr__(self) -> str:
        return f"<embedder {self.name}: {self.template} {self.size} px -> {self.dim}, {self.metric}>"


def _per_channel(value: float | Sequence[float], name: str) -> npt.NDArray[np.float32]:
    numbers = np.asarray(value, np.float32).reshape(-1)
    if numbers.size not in (1, 3) or not np.isfinite(numbers).all():
        raise ValueRangeError(f"{name} must be a number or three, for red, green and blue; got {value!r}.")
    return numbers.reshape(-1, 1, 1)
