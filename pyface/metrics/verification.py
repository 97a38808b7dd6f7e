"""How well a score tells pairs of pictures of one person from pairs of two people."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pyface.errors import ShapeError, ValueRangeError
from pyface.metrics.features import Matrix, as_matrix

__all__ = ["Verification", "pair_scores", "verification"]


@dataclasses.dataclass(frozen=True)
class Verification:
    """Error rates of telling people apart by a score.

    Attributes:
        genuine, impostor: how many pairs of one person and of two.
        auc: probability that a genuine pair scores above an impostor pair; ties count half.
        eer: the rate at which false matches and false non-matches are equal.
        tar: share of genuine pairs accepted at each rate of false matches (as text, such as "0.001").
    """

    genuine: int
    impostor: int
    auc: float
    eer: float
    tar: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Every field as a JSON value."""
        return dataclasses.asdict(self)


def verification(
    genuine: npt.ArrayLike, impostor: npt.ArrayLike, false_match_rates: Sequence[float] = (1e-2, 1e-3)
) -> Verification:
    """Error rates of scores, higher for pairs that look more alike.

    A pair is accepted when its score is at least a threshold. The threshold of a false match rate is the
    lowest score at which no more than that share of impostor pairs is accepted. The equal error rate lies
    on the straight line between the two thresholds where the two errors cross.

    Args:
        genuine: scores [G] of pairs of one person.
        impostor: scores [I] of pairs of two people.
        false_match_rates: each in (0, 1).

    Raises:
        ValueRangeError: no scores, scores that are not finite, or a rate outside (0, 1).

    >>> verification([0.9, 0.8, 0.3], [0.1, 0.2, 0.4]).auc
    0.8888888888888888
    """
    same = np.sort(np.asarray(genuine, np.float64).reshape(-1))
    other = np.sort(np.asarray(impostor, np.float64).reshape(-1))
    if not len(same) or not len(other) or not (np.isfinite(same).all() and np.isfinite(other).all()):
        raise ValueRangeError("genuine and impostor must each hold at least one score, all of them finite")
    if not all(0 < rate < 1 for rate in false_match_rates):
        raise ValueRangeError(f"false_match_rates must lie in (0, 1); got {list(false_match_rates)}")
    below = np.searchsorted(other, same, side="left")
    upto = np.searchsorted(other, same, side="right")
    accepted = {}
    for rate in false_match_rates:
        allowed = int(np.floor(rate * len(other) + 1e-9))
        threshold = np.nextafter(other[len(other) - 1 - allowed], np.inf)
        accepted[f"{rate:g}"] = float(1.0 - np.searchsorted(same, threshold, side="left") / len(same))
    return Verification(
        genuine=len(same),
        impostor=len(other),
        auc=float((below + upto).mean() / (2 * len(other))),
        eer=_equal_error(same, other),
        tar=accepted,
    )


def _equal_error(same: Matrix, other: Matrix) -> float:
    thresholds = np.append(np.unique(np.concatenate([same, other])), np.inf)
    rejected = np.searchsorted(same, thresholds, side="left") / len(same)
    matched = 1.0 - np.searchsorted(other, thresholds, side="left") / len(other)
    after = int(np.argmax(rejected >= matched))  # true at the last threshold, false at most at the first
    if after == 0:
        return float(max(rejected[0], matched[0]))
    gap_before = matched[after - 1] - rejected[after - 1]
    gap_after = rejected[after] - matched[after]
    share = gap_before / (gap_before + gap_after)
    return float(rejected[after - 1] + share * (rejected[after] - rejected[after - 1]))


def pair_scores(
    embeddings: Tensor | npt.ArrayLike,
    identities: npt.ArrayLike,
    mask: npt.NDArray[np.bool_] | None = None,
) -> tuple[Matrix, Matrix]:
    """Cosines of all pairs of different pictures: those of one person, those of two people.

    Args:
        embeddings: [N, D] of unit length.
        identities: who is on each, [N].
        mask: bool [N, N], symmetric: count only these pairs.
    """
    vectors, who = as_matrix(embeddings, "embeddings"), np.asarray(identities)
    if who.shape != (len(vectors),):
        raise ShapeError(f"identities must be [{len(vectors)}]; got {list(who.shape)}")
    genuine, impostor = [], []
    for i in range(1, len(vectors)):
        wanted = np.ones(i, bool) if mask is None else mask[i, :i]
        scores, same = vectors[:i] @ vectors[i], who[:i] == who[i]
        genuine.append(scores[wanted & same])
        impostor.append(scores[wanted & ~same])
    if not genuine:
        return np.zeros(0), np.zeros(0)
    return np.concatenate(genuine), np.concatenate(impostor)
