"""Photographs on disk as a dataset: each with a size of its own until they are cropped to a common one."""

from __future__ import annotations

import abc
import collections
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pyface.data.cropping import Crop
from pyface.data.files import FolderFiles, open_files
from pyface.data.inspection import inspect
from pyface.data.ordered import in_order
from pyface.data.problems import OnProblem, Problem, Problems
from pyface.data.sample import Annotations, FaceDataset, Pixels, Sample
from pyface.errors import DataError, ShapeError
from pyface.io.images import image_shape, read_image

__all__ = ["HALF_PIXEL", "LARGEST_COORDINATE", "Photographs"]

# what turns a coordinate of the published files into ours: they count pixels, so that 0 is the centre of the
# first one, and here that centre lies at +0.5
HALF_PIXEL = 0.5

# of a landmark in pixels: what lies further out is no place in a picture, and would not stay finite
LARGEST_COORDINATE = 1e6

Points = npt.NDArray[np.float32]
Shape = tuple[int, int, int]


class Photographs(FaceDataset):
    """What the loaders of photographs share: pictures, their sizes, crops, and what is wrong with them.

    A subclass reads its labels, asks `_examined` which pictures can be used, and hands over what it found
    with `_adopt`.

    Args:
        root: folder or .zip.
        crop: None for the pictures as they are; "square", the largest square in their middle; "face",
            "eyes", "mouth" or another name that `pyface.data.cropping` lists, by their landmarks.
        size: height and width of a crop.
        on_problem: "stop" ends with one message about everything that is wrong, "skip" leaves that out.
        verify: decode every picture now, so that damage behind the header is found at once.

    Attributes:
        problems: everything that is wrong with the files, in order.
    """

    spectra = ("vis",)

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        crop: str | None,
        size: int | None,
        on_problem: OnProblem,
        verify: bool,
    ) -> None:
        self.path = Path(root)
        self.problems = Problems(self.path, on_problem, advice='on_problem="skip" leaves out what is bad.')
        self._crop = Crop(crop, size)
        self._source = open_files(self.path)
        self._verify = verify
        self._files: list[str] = []
        self._shapes: npt.NDArray[np.int64] = np.zeros((0, 3), np.int64)
        self._points: dict[str, Points] = {}
        self._table: Annotations = {}

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Height and width of the pictures as they lie on disk: int64 [N, 2]."""
        return self._shapes[:, :2]

    def _examined(self, names: Iterable[str]) -> dict[str, Shape]:
        """Shapes of the pictures that can be used, in order; what is wrong with the others is noted."""
        unique = list(dict.fromkeys(names))
        workers = os.cpu_count() or 1
        shapes = {}
        for name, found in zip(unique, in_order(self._examine, unique, workers), strict=True):
            if isinstance(found, Problem):
                self.problems.extend([found])
            else:
                shapes[name] = found
        return shapes

    def _examine(self, name: str) -> Shape | Problem:
        if self._verify:
            picture = inspect(self._source, name, "vis")
            if picture.error is None and picture.format in ("PNG", "JPEG", "WEBP"):
                return picture.height, picture.width, 1 if picture.grey else 3
            wrong = ("not-image", f"is a {picture.format} file; PNG, JPEG and WebP are read")
            return Problem(name, None, *(picture.error or wrong))
        try:
            length, _ = self._source.stamp(name)
            if not length:
                return Problem(name, None, "empty", "has zero bytes")
            if isinstance(self._source, FolderFiles):
                return image_shape(self._source.path / name)
            return image_shape(self._source.read(name))
        except DataError as error:
            reason = str(error).removeprefix(f"{self._source.where(name)} ").removeprefix(f"{name} ")
            return Problem(name, None, "not-image", reason.removeprefix("image "))

    def _adopt(
        self,
        files: Sequence[str],
        shapes: Sequence[Shape],
        points: Mapping[str, Points],
        table: Annotations,
    ) -> npt.NDArray[np.int64]:
        """Take the pictures that can be used, with landmarks [N, K, 2] by scheme (NaN: none) and columns [N].

        Returns the rows that were taken: without those whose landmarks the crop lacks.

        Raises:
            DataError: no picture is left, or problems are to stop the loader.
        """
        self.problems.settle()
        if not files:
            told = f": {self.problems.message()}" if len(self.problems) else ""
            raise DataError(f"{self.path} has no picture that can be used{told}")
        self._files = list(files)
        self._shapes = np.array(shapes, np.int64).reshape(-1, 3)
        self._channels = int(self._shapes[:, 2].max())
        self._points = dict(points)
        self._table = table
        if self._crop.by_landmarks:
            return self._with_landmarks()
        return np.arange(len(files))

    def _with_landmarks(self) -> npt.NDArray[np.int64]:
        """Leave out the pictures that cannot be cropped; the rows that stay."""
        nothing = np.full((len(self), 1, 2), np.nan, np.float32)
        points = next(iter(self._points.values()), nothing)
        usable = np.ones(len(self), bool)
        for i, (height, width, _) in enumerate(self._shapes.tolist()):
            reason = self._crop.refusal(height, width, points[i])
            if reason is not None:
                usable[i] = False
                self.problems.add(self._files[i], None, "no-crop", reason)
        self.problems.settle()
        rows = np.flatnonzero(usable)
        if not len(rows):
            raise DataError(f"no picture of {self.path} can be cropped: {self.problems.message()}")
        self._files = [self._files[i] for i in rows]
        self._shapes = self._shapes[rows]
        self._points = {scheme: points[rows] for scheme, points in self._points.items()}
        self._table = {name: values[rows] for name, values in self._table.items()}
        return rows

    def __len__(self) -> int:
        return len(self._files)

    @property
    def annotations(self) -> Annotations:
        return self._table

    @property
    def image_shape(self) -> Shape:  # type: ignore[override]  # of each picture, not of the dataset
        """Height, width and channels of every picture. Raises DataError when they have different sizes."""
        return self._shape_of(np.arange(len(self)))

    def _shape_of(self, indices: npt.NDArray[np.int64]) -> Shape:
        if self._crop.size is not None:
            return self._crop.size, self._crop.size, self._channels
        sizes = collections.Counter(map(tuple, self.sizes[indices].tolist()))
        if len(sizes) > 1:
            shown = ", ".join(f"{h} x {w}: {n}" for (h, w), n in sizes.most_common(3))
            rest = f" and {len(sizes) - 3} more sizes" if len(sizes) > 3 else ""
            raise DataError(
                f"the pictures of {self.path} have different sizes (height x width {shown}{rest}) and cannot "
                f'lie in one array; open it with crop="square" or crop="face" and a size, or take them singly'
            )
        height, width = next(iter(sizes), (0, 0))
        return height, width, self._channels

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        return [self._sample(int(i)) for i in self._checked_indices(indices)]

    def images(self, indices: Iterable[int] | None = None, spectrum: str = "vis") -> Pixels:
        """Pictures alone: uint8 [n, H, W, C]; all of them when `indices` is None.

        Raises:
            DataError: a damaged picture, or pictures of different sizes (see `crop`).
        """
        self._checked_spectrum(spectrum)
        chosen = self._checked_indices(indices)
        pixels = np.empty((len(chosen), *self._shape_of(chosen)), np.uint8)
        for row, index in enumerate(chosen.tolist()):
            pixels[row] = self._cropped(index)[0]
        return pixels

    def landmarks(self, scheme: str | None = None) -> Points:
        """Landmarks of all pictures in the coordinates of `images`, without reading one: float32 [N, K, 2].

        Row i belongs to picture i; NaN where a picture has none.

        Args:
            scheme: by default the one that the dataset has.

        Raises:
            ShapeError: the dataset has no such landmarks.
        """
        scheme = scheme or next(iter(self._points), "")
        if scheme not in self._points:
            raise ShapeError(
                f"{self.path} has no landmarks {scheme!r}; it has {', '.join(self._points) or 'none'}."
            )
        rows = [self._moved(i, self._matrix(i))[scheme] for i in range(len(self))]
        return np.stack(rows) if rows else self._points[scheme]

    def name_of(self, index: int) -> str:
        """The file of a picture."""
        return self._source.where(self._files[index])

    def file_names(self) -> list[str]:
        """Files of all pictures, relative to the dataset, in order."""
        return list(self._files)

    def fingerprint(self) -> str:
        """Digest of names, lengths and times (in a zip: checksums) of the picture files, and of the crop."""
        found = hashlib.blake2b(repr((self._crop.name, self._crop.size)).encode(), digest_size=16)
        for name in self._files:
            found.update(f"{name}\0{self._source.stamp(name)}\n".encode("utf-8", "surrogatepass"))
        return found.hexdigest()

    def _sample(self, index: int) -> Sample:
        pixels, matrix = self._cropped(index)
        sample = Sample(image=pixels, path=self.name_of(index))
        moved = self._moved(index, matrix)
        sample.landmarks = {scheme: p for scheme, p in moved.items() if np.isfinite(p).all()}
        self._label(index, sample)
        return sample

    @abc.abstractmethod
    def _label(self, index: int, sample: Sample) -> None:
        """Put the labels of a picture into its sample."""

    def _cropped(self, index: int) -> tuple[Pixels, npt.NDArray[np.float64]]:
        return self._crop.apply(self._picture(self._files[index]), self._anchor(index))

    def _matrix(self, index: int) -> npt.NDArray[np.float64]:
        height, width, _ = self._shapes[index].tolist()
        return self._crop.matrix(height, width, self._anchor(index))

    def _anchor(self, index: int) -> Points | None:
        points = next(iter(self._points.values()), None)
        return None if points is None else points[index]

    def _moved(self, index: int, matrix: npt.NDArray[np.float64]) -> dict[str, Points]:
        return {
            scheme: (points[index] @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)
            for scheme, points in self._points.items()
        }

    def _picture(self, name: str) -> Pixels:
        """uint8 [H, W, C] with as many channels as the pictures of the dataset have."""
        try:
            pixels = read_image(self._source.read(name))
        except DataError as error:
            raise DataError(f"{self._source.where(name)}: {error}") from error
        if pixels.ndim == 2:
            pixels = pixels[..., None]
        return np.repeat(pixels, 3, axis=2) if pixels.shape[2] < self._channels else pixels
