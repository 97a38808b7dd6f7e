"""Numbers about sets of images: how near two are, how much of one the other covers, what is nearest to what.

>>> from pyface.metrics import FaceFeatures, RealImages
>>> extractor = FaceFeatures()                                                  # doctest: +SKIP
>>> reals = RealImages(extractor, held_out, others)                             # doctest: +SKIP
>>> reals.compare(generated).ratio                                              # doctest: +SKIP
1.7
"""

from pyface.metrics.action_units import UnitAgreement, unit_agreement, unit_table
from pyface.metrics.comparison import Comparison, RealImages
from pyface.metrics.features import FaceFeatures, FeatureExtractor, FeatureStatistics, features_of
from pyface.metrics.frechet import frechet_between, frechet_distance
from pyface.metrics.nearest import NearestImages, nearest, nearest_sheet
from pyface.metrics.precision_recall import neighbour_radii, precision_recall
from pyface.metrics.verification import Verification, pair_scores, verification

__all__ = [
    "Comparison",
    "FaceFeatures",
    "FeatureExtractor",
    "FeatureStatistics",
    "NearestImages",
    "RealImages",
    "UnitAgreement",
    "Verification",
    "features_of",
    "frechet_between",
    "frechet_distance",
    "nearest",
    "nearest_sheet",
    "neighbour_radii",
    "pair_scores",
    "precision_recall",
    "unit_agreement",
    "unit_table",
    "verification",
]
