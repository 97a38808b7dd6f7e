"""Distances between all members of two sets, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pyface.metrics.features import Matrix

__all__ = ["squared_distances"]

BLOCK_BYTES = 2**26  # of distances in memory at a time


def squared_distances(queries: Matrix, points: Matrix) -> Iterator[tuple[int, Matrix]]:
    """(first row, squared distances [rows, M]) for blocks of queries, of at most BLOCK_BYTES each.

    Both sets are moved by the mean of `points` first, so that little cancels in |q|^2 + |p|^2 - 2 q p.
    """
    centre = points.mean(0)
    queries, points = queries - centre, points - centre
    lengths = np.einsum("nd,nd->n", points, points)
    rows = max(BLOCK_BYTES // (8 * max(len(points), 1)), 1)
    for start in range(0, len(queries), rows):
        part = queries[start : start + rows]
        distances = part @ points.T
        distances *= -2.0
        distances += lengths
        distances += np.einsum("nd,nd->n", part, part)[:, None]
        yield start, np.maximum(distances, 0.0, out=distances)
