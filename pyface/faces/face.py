"""`Face`: one face found in a picture, with all that analysis has said about it."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from pyface.errors import ShapeError, ValueRangeError

__all__ = ["Face", "Photo", "checked_photo"]

Photo = npt.NDArray[np.uint8]
Points = npt.NDArray[np.float32]


@dataclasses.dataclass
class Face:
    """One face in a picture. Coordinates are pixels, x right, y down, pixel centres at +0.5.

    Attributes:
        box: float32 [4], left, top, right, bottom.
        score: of the detector, in [0, 1].
        landmarks: scheme -> float32 [K, 2] (or [K, 3] with a depth in pixels). Schemes: "5pt" (eyes, nose
            tip, mouth corners; image left first), "ibug68" (iBUG 300-W), "mesh468" (MediaPipe face mesh).
        embedding: float32 [dim], once an embedder has seen it.
        attributes: name -> number: a probability in [0, 1], or years for "age".
        action_units: "AU12" -> intensity from 0 (absent) to 1 (maximum), as in `pyface.data.Sample`.
    """

    box: npt.NDArray[np.float32]
    score: float
    landmarks: dict[str, Points] = dataclasses.field(default_factory=dict)
    embedding: npt.NDArray[np.float32] | None = None
    attributes: dict[str, float] = dataclasses.field(default_factory=dict)
    action_units: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def size(self) -> float:
        """The longer side of the box in pixels."""
        return float(max(self.box[2] - self.box[0], self.box[3] - self.box[1]))

    def points(self, scheme: str) -> Points:
        """Landmarks of one scheme.

        Raises:
            ValueRangeError: there are none of this scheme; the message lists those that are there.
        """
        if scheme not in self.landmarks:
            raise ValueRangeError(
                f"the face has no landmarks {scheme!r}; it has {', '.join(self.landmarks) or 'none'}. "
                "Run a landmarker first, such as pyface.faces.load_landmarker()."
            )
        return self.landmarks[scheme]


def checked_photo(image: Photo, name: str = "image") -> Photo:
    """The picture itself.

    Raises:
        ShapeError: it is not uint8 [H, W, 3].
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        came = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ShapeError(
            f"{name} must be uint8 [H, W, 3], RGB; got {came}. pyface.faces.as_rgb(image) makes RGB of grey "
            "pictures and of those with an alpha channel."
        )
    return image
