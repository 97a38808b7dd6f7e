"""`OnnxDetector`: any face detector in an ONNX file whose outputs have a published form."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pyface.errors import CheckpointError, ValueRangeError
from pyface.faces.detect import Candidates, Limits, Window, checked_fraction, checked_images, suppress
from pyface.faces.face import Face, Photo
from pyface.faces.onnx_forms import FORMS, OutputForm, recognised
from pyface.faces.onnx_network import OnnxNetwork

__all__ = ["OnnxDetector", "load_centerface"]


class OnnxDetector:
    """Finds faces with a network of the SCRFD, YuNet or CenterFace family; see `pyface.faces.onnx_forms`.

    Which form a file has is read off the shapes of its outputs at construction. Each picture is scaled as a
    whole until its longer side has `size` pixels, or fits into the size that the graph declares.

    >>> detector = pyface.faces.load_detector("scrfd_2.5g_kps.onnx", size=640)   # doctest: +SKIP

    Args:
        path: the file.
        form: one of scrfd, yunet, yunet2022, centerface; None to tell by the outputs.
        size: pixels of the longer side in the network, for graphs that take any size. Larger finds smaller
            faces and takes longer.
        threshold: least score, in [0, 1].
        overlap: intersection over union from which two boxes are one face, in [0, 1].
        max_faces: keep the best so many; None keeps all.
        min_size: leave out faces whose box's longer side is below so many pixels.
        mean: subtracted from grey levels instead of the form's number.
        std: divides the difference instead of the form's number.
        order: "rgb" or "bgr" instead of the form's order.
        free_sizes: leave height and width open though the file declares them; for networks that take any
            size but were saved with one, such as CenterFace's own file.
        device: "cpu", or "cuda" with a build of onnxruntime that has it.
        threads: on the CPU; 0 as many as onnxruntime likes.

    Attributes:
        form: the form's name.

    Raises:
        MissingExtraError: onnxruntime or OpenCV is not installed.
        CheckpointError: no such file, a damaged one, or outputs of no known form; the message lists them.
        ValueRangeError: an option that does not fit.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        form: str | None = None,
        size: int = 640,
        threshold: float = 0.5,
        overlap: float = 0.4,
        max_faces: int | None = None,
        min_size: float = 0.0,
        mean: float | None = None,
        std: float | None = None,
        order: str | None = None,
        free_sizes: bool = False,
        device: str = "cpu",
        threads: int = 0,
    ) -> None:
        if form is not None and form not in FORMS:
            raise ValueRangeError(f"form must be one of {', '.join(FORMS)} or None; got {form!r}.")
        if not 32 <= size <= 8192:
            raise ValueRangeError(f"size must lie in [32, 8192] pixels; got {size}.")
        if order not in (None, "rgb", "bgr"):
            raise ValueRangeError(f"order must be rgb, bgr or None; got {order!r}.")
        if std is not None and not abs(std) > 0:
            raise ValueRangeError(f"std must be a number other than 0; got {std}.")
        self._limits = Limits(threshold, max_faces, min_size)
        self._overlap = checked_fraction(overlap, "overlap")
        self._size = int(size)
        self._network = OnnxNetwork(path, device=device, threads=threads, free_sizes=free_sizes)
        if self._network.input.shape[1] not in (None, 3):
            raise CheckpointError(f"{path} takes {self._network.input}; expected are three channels.")
        chosen = self._recognised(form)
        self._form = chosen
        self.form = chosen.name
        self.name = f"onnx {self._network.path.name}"
        self._bgr = chosen.bgr if order is None else order == "bgr"
        self._mean = np.float32(chosen.mean if mean is None else mean)
        self._std = np.float32(chosen.std if std is None else std)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_form": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._form = FORMS[self.form]

    def detect(self, images: Sequence[Photo]) -> list[list[Face]]:
        """The faces of each picture, best score first, with landmarks "5pt" if the network gives them.

        Args:
            images: uint8 [H, W, 3] each, RGB, of any sizes.

        Raises:
            ShapeError: a picture is not RGB uint8; `pyface.faces.as_rgb` makes one of grey or RGBA.
        """
        return [self._faces(photo) for photo in checked_images(images)]

    def _faces(self, photo: Photo) -> list[Face]:
        height, width = photo.shape[:2]
        size = self._input_size(width, height, self._form.multiple)
        window = Window.of((0, 0, width, height), size, centred=False)
        outputs = self._network(self._prepared(window.cut(photo)))
        found = self._form.decode(outputs, size, self._limits.threshold)
        kept = self._limits.applied(window.back(suppress(found, self._overlap)))
        return [_face(kept, i) for i in range(len(kept))]

    def _prepared(self, cut: Photo) -> npt.NDArray[np.float32]:
        pixels = (cut.astype(np.float32) - self._mean) / self._std
        ordered = pixels[:, :, ::-1] if self._bgr else pixels
        return np.ascontiguousarray(ordered.transpose(2, 0, 1)[None], np.float32)

    def _input_size(self, width: int, height: int, multiple: int) -> tuple[int, int]:
        """(width, height) of the network's input for a picture: the graph's own, or as large as needed."""
        scale = self._size / max(width, height)
        free = (max(-(-round(side * scale) // multiple), 1) * multiple for side in (width, height))
        declared = self._network.input.shape[:1:-1]
        return tuple(fixed or side for fixed, side in zip(declared, free, strict=True))  # type: ignore[return-value]

    def _recognised(self, form: str | None) -> OutputForm:
        """The form that the outputs for an empty picture have."""
        multiple = FORMS[form].multiple if form else 128
        size = self._input_size(256, 256, multiple)
        outputs = self._network(np.zeros((1, 3, size[1], size[0]), np.float32))
        forms = recognised(outputs, size)
        if form is not None:
            forms = [found for found in forms if found.name == form]
        if len(forms) == 1:
            return forms[0]
        listed = "; ".join(f"{name} {list(output.shape)}" for name, output in outputs.items())
        wanted = f"of the form {form}" if form else f"of a known form ({', '.join(FORMS)})"
        raise CheckpointError(
            f"{self._network.path} is not {wanted}: for an input [1, 3, {size[1]}, {size[0]}] it gives "
            f"{listed}. pyface.faces.onnx_forms says what each form looks like."
        )

    def __repr__(self) -> str:
        return f"<detector {self.name}: {self.form}>"


def _face(found: Candidates, i: int) -> Face:
    points = np.ascontiguousarray(found.points[i], np.float32)
    landmarks = {"5pt": points} if len(points) else {}
    return Face(found.boxes[i].astype(np.float32), float(found.scores[i]), landmarks)


def load_centerface(**options: Any) -> OnnxDetector:
    """CenterFace of the model store; options as for `OnnxDetector`."""
    from pyface.faces.model_store import model_file

    return OnnxDetector(model_file("centerface"), **{"form": "centerface", "free_sizes": True, **options})
