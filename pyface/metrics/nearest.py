"""What lies nearest in feature space: the training pictures beside which generated ones have to be seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pyface.errors import ShapeError, ValueRangeError
from pyface.io.images import contact_sheet
from pyface.metrics.distances import squared_distances
from pyface.metrics.features import Matrix, as_matrix

__all__ = ["NearestImages", "nearest", "nearest_sheet"]

Indices = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.uint8]


class NearestImages:
    """The k nearest of any number of features to each query, over blocks that come one after the other.

    Args:
        queries: [N, D].
        neighbours: k.

    Attributes:
        distances: float64 [N, k], nearest first; infinite where fewer were seen.
        indices: int64 [N, k], positions in the order of arrival; -1 where fewer were seen.
    """

    def __init__(self, queries: Tensor | npt.ArrayLike, neighbours: int = 1) -> None:
        if neighbours < 1:
            raise ValueRangeError(f"neighbours must be 1 or more; got {neighbours}")
        self._queries = as_matrix(queries, "queries")
        self.distances: Matrix = np.full((len(self._queries), neighbours), np.inf)
        self.indices: Indices = np.full((len(self._queries), neighbours), -1, np.int64)
        self._seen = 0

    def add(self, features: Tensor | npt.ArrayLike, indices: npt.ArrayLike | None = None) -> None:
        """Take in features [n, D]; `indices` [n] names them otherwise than by their order of arrival.

        Raises:
            ShapeError: features of another length than the queries.
        """
        points = as_matrix(features)
        if points.shape[1] != self._queries.shape[1]:
            raise ShapeError(
                f"features must be [n, {self._queries.shape[1]}] like the queries; got {list(points.shape)}"
            )
        if not len(points):
            return
        names = np.arange(self._seen, self._seen + len(points)) if indices is None else np.asarray(indices)
        self._seen += len(points)
        wanted = self.distances.shape[1]
        for start, squared in squared_distances(self._queries, points):
            rows = slice(start, start + len(squared))
            near = np.argsort(squared, axis=1, kind="stable")[:, :wanted]
            found = np.sqrt(np.take_along_axis(squared, near, 1))
            distances = np.concatenate([self.distances[rows], found], 1)
            known = np.concatenate([self.indices[rows], names[near]], 1)
            best = np.argsort(distances, axis=1, kind="stable")[:, :wanted]
            self.distances[rows] = np.take_along_axis(distances, best, 1)
            self.indices[rows] = np.take_along_axis(known, best, 1)


def nearest(
    queries: Tensor | npt.ArrayLike, features: Tensor | npt.ArrayLike, neighbours: int = 1
) -> tuple[Matrix, Indices]:
    """(distances [N, k], indices [N, k]) of the k features nearest to each query, nearest first.

    Raises:
        ValueRangeError: k below 1, or fewer features than k.

    >>> nearest([[0.0], [5.0]], [[1.0], [4.0], [9.0]])[1].tolist()
    [[0], [1]]
    """
    search = NearestImages(queries, neighbours)
    search.add(features)
    if (search.indices < 0).any():
        raise ValueRangeError(f"there are fewer than {neighbours} features to choose from")
    return search.distances, search.indices


def nearest_sheet(
    generated: Sequence[Pixels], neighbours: Sequence[Sequence[Pixels]], *, pairs_per_row: int = 4
) -> Pixels:
    """One picture uint8 [H, W, 3]: each generated face, a thin black line, and its nearest training images.

    Args:
        generated: uint8 [h, w, C] pictures.
        neighbours: for each of them its nearest training pictures, nearest first.
        pairs_per_row: generated faces in a row.

    Raises:
        ShapeError: not as many lists of neighbours as pictures, or lists of different lengths.
    """
    if len(generated) != len(neighbours) or len({len(found) for found in neighbours}) != 1:
        raise ShapeError(
            f"each of the {len(generated)} generated images needs the same number of neighbours; got "
            f"{[len(found) for found in neighbours]}"
        )
    tiles = []
    for made, found in zip(generated, neighbours, strict=True):
        line = np.zeros((made.shape[0], 2, 3), np.uint8)
        strip = [_coloured(made), line, *(_coloured(pixels) for pixels in found)]
        tiles.append(np.concatenate(strip, 1))
    return contact_sheet(tiles, columns=pairs_per_row, gap=6)


def _coloured(pixels: Pixels) -> Pixels:
    grey = pixels[..., None] if pixels.ndim == 2 else pixels
    return np.repeat(grey, 3, 2) if grey.shape[2] == 1 else grey
