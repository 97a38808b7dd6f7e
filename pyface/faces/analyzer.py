"""`FaceAnalyzer`: detector, landmarker and, where wanted, further models, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from pyface.faces.align import align
from pyface.faces.face import Face, Photo, checked_photo
from pyface.faces.protocols import ActionUnitModel, AttributeModel, Detector, Embedder, Landmarker
from pyface.faces.registry import load_detector, load_landmarker
from pyface.faces.schemes import convert

__all__ = ["FaceAnalyzer", "aligned_tensor"]

_BATCH = 32
_DERIVED = ("5pt", "ibug68")


def aligned_tensor(images: Sequence[Photo], faces: Sequence[Face], template: str, size: int) -> Tensor:
    """Aligned faces as networks take them: float32 [N, 3, size, size] in [-1, 1]; face i is in image i."""
    crops = [align(image, face, template, size).image for image, face in zip(images, faces, strict=True)]
    if not crops:
        return torch.zeros([0, 3, size, size])
    stacked = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)
    return stacked.to(torch.float32).div_(127.5).sub_(1.0).contiguous()


class FaceAnalyzer:
    """Finds the faces of pictures and says of each what its models know.

    >>> analyzer = FaceAnalyzer(embedder=load_embedder())   # doctest: +SKIP
    >>> faces = analyzer(photo)   # doctest: +SKIP

    Every face has the landmarks of the landmarker, and those of "5pt" and "ibug68" that can be derived from
    them.

    Args:
        detector: by default that of the offline set (`pyface models fetch default`).
        landmarker: the same.
        embedder: fills `Face.embedding`.
        attributes: fills `Face.attributes`.
        action_units: fills `Face.action_units`.
    """

    def __init__(
        self,
        detector: Detector | None = None,
        landmarker: Landmarker | None = None,
        embedder: Embedder | None = None,
        attributes: AttributeModel | None = None,
        action_units: ActionUnitModel | None = None,
    ) -> None:
        self.detector = detector or load_detector()
        self.landmarker = landmarker or load_landmarker()
        self.embedder = embedder
        self.attributes = attributes
        self.action_units = action_units

    def __call__(self, image: Photo) -> list[Face]:
        """The faces of one picture, uint8 [H, W, 3], best score first."""
        return self.analyze([image])[0]

    def analyze(self, images: Sequence[Photo]) -> list[list[Face]]:
        """The faces of each picture.

        Raises:
            ShapeError: a picture is not uint8 [H, W, 3].
        """
        found = self.detector.detect([checked_photo(im, f"image {i}") for i, im in enumerate(images)])
        faces = [face for of_image in found for face in of_image]
        owners = [image for image, of_image in zip(images, found, strict=True) for _ in of_image]
        self.describe(owners, faces)
        return found

    def describe(self, images: Sequence[Photo], faces: Sequence[Face]) -> None:
        """Add landmarks, and what the further models say, to faces that were found; face i is in image i."""
        for part_images, part in _parts(images, faces):
            self._place(part_images, part)
            self._read(part_images, part)

    def _place(self, images: Sequence[Photo], faces: Sequence[Face]) -> None:
        scheme = self.landmarker.scheme
        for face, points in zip(faces, self.landmarker.landmarks(images, faces), strict=True):
            face.landmarks[scheme] = points
            for derived in _DERIVED:
                if derived != scheme:
                    face.landmarks[derived] = convert(points, scheme, derived)

    @torch.no_grad()
    def _read(self, images: Sequence[Photo], faces: Sequence[Face]) -> None:
        if self.embedder is not None:
            chips = aligned_tensor(images, faces, self.embedder.template, self.embedder.size)
            for face, vector in zip(faces, self.embedder.embed(chips).float().cpu().numpy(), strict=True):
                face.embedding = vector
        if self.attributes is not None:
            chips = aligned_tensor(images, faces, self.attributes.template, self.attributes.size)
            for name, values in self.attributes.predict(chips).items():
                for face, value in zip(faces, values.tolist(), strict=True):
                    face.attributes[name] = value
        if self.action_units is not None:
            table = self.action_units.intensities(images, faces)
            for face, row in zip(faces, table.tolist(), strict=True):
                face.action_units |= dict(zip(self.action_units.units, row, strict=True))


def _parts(images: Sequence[Photo], faces: Sequence[Face]) -> Iterator[tuple[list[Photo], list[Face]]]:
    for start in range(0, len(faces), _BATCH):
        yield list(images[start : start + _BATCH]), list(faces[start : start + _BATCH])
