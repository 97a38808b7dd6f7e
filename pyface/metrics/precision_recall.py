"""Improved precision and recall: how many pictures look real, and how much of the real variety they cover."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pyface.errors import ShapeError, ValueRangeError
from pyface.metrics.distances import squared_distances
from pyface.metrics.features import Matrix, as_matrix

__all__ = ["neighbour_radii", "precision_recall"]


def precision_recall(
    real: Tensor | npt.ArrayLike, generated: Tensor | npt.ArrayLike, neighbours: int = 3
) -> tuple[float, float]:
    """(precision, recall) of generated features against real ones, each from 0 to 1.

    A set's manifold is the union of balls around its members that reach their k-th nearest fellow member.
    Precision is the share of generated features inside the real manifold, recall the share of real features
    inside the generated one. Both depend on the numbers of images: compare only equal ones.

    Source: Kynkaanniemi et al. 2019, "Improved precision and recall metric for assessing generative models",
    equations 1 to 3.

    Args:
        real: [N, D].
        generated: [M, D].
        neighbours: k.

    Raises:
        ShapeError: shapes that do not fit.
        ValueRangeError: not more features than k in a set, or some that are not finite.

    >>> precision_recall([[0.0], [1.0], [2.0], [3.0]], [[1.5], [1.6], [9.0]], neighbours=1)
    (0.6666666666666666, 0.5)
    """
    reals, fakes = as_matrix(real, "real features"), as_matrix(generated, "generated features")
    if reals.shape[1] != fakes.shape[1]:
        raise ShapeError(
            f"real and generated features must be of one length; got {reals.shape[1]} and {fakes.shape[1]}"
        )
    precision = _share_inside(fakes, reals, neighbour_radii(reals, neighbours))
    recall = _share_inside(reals, fakes, neighbour_radii(fakes, neighbours))
    return precision, recall


def neighbour_radii(features: Tensor | npt.ArrayLike, neighbours: int = 3) -> Matrix:
    """Distance [N] of each feature to its k-th nearest other one.

    Raises:
        ValueRangeError: k below 1, or not more features than k.
    """
    points = as_matrix(features)
    if not 1 <= neighbours < len(points):
        raise ValueRangeError(
            f"neighbours must be at least 1 and less than the number of images; got {neighbours} with "
            f"{len(points)} images"
        )
    radii: Matrix = np.empty(len(points))
    for start, distances in squared_distances(points, points):
        rows = np.arange(len(distances))
        distances[rows, start + rows] = np.inf  # nobody is his own neighbour
        nearest = np.partition(distances, neighbours - 1, axis=1)[:, neighbours - 1]
        radii[start : start + len(distances)] = np.sqrt(nearest)
    return radii


def _share_inside(queries: Matrix, centres: Matrix, radii: Matrix) -> float:
    """The share of queries within the ball of at least one centre."""
    inside = 0
    for _, distances in squared_distances(queries, centres):
        inside += int((np.sqrt(distances) <= radii).any(1).sum())
    return inside / len(queries)
