"""Generated images against real ones, beside what two sets of real ones give."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from pyface.errors import ShapeError, ValueRangeError
from pyface.metrics.features import FeatureExtractor, FeatureStatistics, features_of
from pyface.metrics.frechet import frechet_between
from pyface.metrics.precision_recall import precision_recall

__all__ = ["Comparison", "RealImages"]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How near generated images come to real ones.

    Attributes:
        images: in each of the three sets: held out, other real ones, generated.
        frechet: squared Frechet distance of generated to held-out images.
        real_to_real: the same of the other real images; what sampling alone gives.
        ratio: frechet / real_to_real; 1 is indistinguishable.
        precision, recall: of generated against held-out images.
        real_precision, real_recall: of the other real images against held-out ones; the most to hope for.
        neighbours: k of precision and recall.
        extractor: fingerprint of what made the features.
    """

    images: int
    frechet: float
    real_to_real: float
    ratio: float
    precision: float
    recall: float
    real_precision: float
    real_recall: float
    neighbours: int
    extractor: str

    def to_dict(self) -> dict[str, Any]:
        """Every field as a JSON value."""
        return dataclasses.asdict(self)


class RealImages:
    """Two disjoint sets of real images, against which generators are compared.

    All three sets of a comparison have the same number of images, since distance, precision and recall
    depend on it.

    Args:
        extractor: makes the features.
        held_out: batches of uint8 images [n, C, H, W] that the generator never saw.
        others: as many real images again, of other people.
        neighbours: k of precision and recall.

    Raises:
        ValueRangeError: sets of different sizes, or too small ones.
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        held_out: Iterable[Tensor],
        others: Iterable[Tensor],
        neighbours: int = 3,
    ) -> None:
        self.extractor = extractor
        self.neighbours = neighbours
        self.held_out = features_of(extractor, held_out)
        other_features = features_of(extractor, others)
        if len(self.held_out) != len(other_features):
            raise ValueRangeError(
                f"the two real sets must be of one size; got {len(self.held_out)} and {len(other_features)}"
            )
        self._statistics = FeatureStatistics.of(self.held_out, extractor.fingerprint)
        other = FeatureStatistics.of(other_features, extractor.fingerprint)
        self.real_to_real = frechet_between(self._statistics, other)
        self.real_precision, self.real_recall = precision_recall(self.held_out, other_features, neighbours)

    def __len__(self) -> int:
        return len(self.held_out)

    def compare(self, images: Iterable[Tensor]) -> Comparison:
        """Compare batches of generated uint8 images [n, C, H, W], as many as each real set has."""
        return self.compare_features(features_of(self.extractor, images))

    def compare_features(self, features: Tensor) -> Comparison:
        """Compare features [N, dim] of generated images, made by the same extractor.

        Raises:
            ShapeError: another number of images or of features.
        """
        if features.shape != self.held_out.shape:
            raise ShapeError(
                f"features must be {list(self.held_out.shape)}, as many as of real images; "
                f"got {list(features.shape)}"
            )
        made = FeatureStatistics.of(features, self.extractor.fingerprint)
        distance = frechet_between(self._statistics, made)
        precision, recall = precision_recall(self.held_out, features, self.neighbours)
        return Comparison(
            images=len(self),
            frechet=distance,
            real_to_real=self.real_to_real,
            ratio=distance / self.real_to_real if self.real_to_real > 0 else float("inf"),
            precision=precision,
            recall=recall,
            real_precision=self.real_precision,
            real_recall=self.real_recall,
            neighbours=self.neighbours,
            extractor=self.extractor.fingerprint,
        )
