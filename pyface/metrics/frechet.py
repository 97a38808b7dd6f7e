"""The Frechet distance between two sets of features, each seen as a Gaussian."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pyface.errors import ShapeError, ValueRangeError
from pyface.metrics.features import FeatureStatistics, Matrix

__all__ = ["frechet_between", "frechet_distance"]


def frechet_distance(
    mean1: npt.ArrayLike, covariance1: npt.ArrayLike, mean2: npt.ArrayLike, covariance2: npt.ArrayLike
) -> float:
    """The squared Frechet distance between two Gaussians, as it is usually given:

    |m1 - m2|^2 + tr(C1) + tr(C2) - 2 tr((C1^1/2 C2 C1^1/2)^1/2)

    It is not FID: that name belongs to this distance over features of one Inception network. Here the
    features, and with them the scale of the number, are whatever the caller took.

    Source: Dowson and Landau 1982, "The Frechet distance between multivariate normal distributions", equation
    4. The last trace is the sum of the square roots of the eigenvalues of a symmetric product; these roots
    are the singular values of C1^1/2 C2^1/2, which are found without squaring rounding errors. All is float64
    and real; singular covariances are fine.

    Args:
        mean1, mean2: [D].
        covariance1, covariance2: [D, D], symmetric, without negative eigenvalues.

    Returns:
        A number of 0 or more.

    Raises:
        ShapeError: shapes that do not fit.
        ValueRangeError: not finite, not symmetric, or with a negative eigenvalue beyond rounding.

    >>> round(frechet_distance([0, 0], np.eye(2), [3, 0], 4 * np.eye(2)), 9)
    11.0
    """
    m1, c1 = _gaussian(mean1, covariance1, 1)
    m2, c2 = _gaussian(mean2, covariance2, 2)
    if m1.shape != m2.shape:
        raise ShapeError(f"means must be of one length; got {list(m1.shape)} and {list(m2.shape)}")
    overlap = np.linalg.svd(_root(c1, 1) @ _root(c2, 2), compute_uv=False).sum()
    apart = m1 - m2
    return max(float(apart @ apart + np.trace(c1) + np.trace(c2) - 2.0 * overlap), 0.0)


def frechet_between(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """The squared Frechet distance between two sets of images, see `frechet_distance`.

    Raises:
        ValueRangeError: the sets were seen by different extractors, or one has no more images than features
            have entries: its covariance would say nothing of some directions.
    """
    a.check_same(b)
    fewest = min(a.count, b.count)
    if fewest <= a.dim:
        raise ValueRangeError(
            f"a Frechet distance over {a.dim} features needs more than {a.dim} images in each set; "
            f"got {fewest}. Take more, 2,000 or so."
        )
    return frechet_distance(a.mean, a.covariance, b.mean, b.covariance)


def _gaussian(mean: npt.ArrayLike, covariance: npt.ArrayLike, which: int) -> tuple[Matrix, Matrix]:
    m, c = np.asarray(mean, np.float64), np.asarray(covariance, np.float64)
    if m.ndim != 1 or c.shape != (len(m), len(m)):
        raise ShapeError(
            f"mean{which} must be [D] and covariance{which} [D, D]; got {list(m.shape)} and {list(c.shape)}"
        )
    if not (np.isfinite(m).all() and np.isfinite(c).all()):
        raise ValueRangeError(f"mean{which} and covariance{which} must be finite")
    if not np.allclose(c, c.T, rtol=1e-8, atol=1e-10 * max(float(np.abs(c).max(initial=0.0)), 1e-300)):
        raise ValueRangeError(f"covariance{which} must be symmetric")
    return m, (c + c.T) / 2


def _root(covariance: Matrix, which: int) -> Matrix:
    """The symmetric square root; eigenvalues that cannot be told from 0 in float64 are 0."""
    values, vectors = np.linalg.eigh(covariance)
    largest = float(np.abs(values).max(initial=0.0))
    if values.min(initial=0.0) < -1e-8 * largest:
        raise ValueRangeError(
            f"covariance{which} has the negative eigenvalue {values.min():.3g}; it is no covariance"
        )
    values[values < len(values) * np.finfo(np.float64).eps * largest] = 0.0
    root: Matrix = (vectors * np.sqrt(values)) @ vectors.T
    return root
