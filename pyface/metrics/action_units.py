"""How well read action units agree with the true ones, unit by unit."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pyface.errors import DTypeError, ShapeError, ValueRangeError
from pyface.faces.action_units import presence
from pyface.metrics.verification import verification

__all__ = ["UnitAgreement", "unit_agreement", "unit_table"]

Intensities = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class UnitAgreement:
    """Agreement on one unit. A number that cannot be computed is nan.

    Attributes:
        threshold: the intensity from which the unit counts as present, in truth and reading alike.
        known: faces whose true intensity is known.
        present: how many of them show the unit.
        precision, recall, f1: of calling it present.
        f1_always: F1 of calling it present on every face, 2 p / (1 + p) with p the share of faces that show
            it: what a figure must beat to say anything.
        auc: probability that a face with the unit is read higher than one without.
        correlation: Pearson's, of the intensities.
        error: mean absolute error of the intensities.
    """

    threshold: float
    known: int
    present: int
    precision: float
    recall: float
    f1: float
    f1_always: float
    auc: float
    correlation: float
    error: float

    def to_dict(self) -> dict[str, Any]:
        """Every number as a JSON value; nan becomes None."""
        values = dataclasses.asdict(self)
        return {name: None if value != value else value for name, value in values.items()}


def unit_agreement(
    read: npt.ArrayLike, true: npt.ArrayLike, units: Sequence[str]
) -> dict[str, UnitAgreement]:
    """Unit -> agreement of the read intensities with the true ones.

    Faces whose true intensity is nan, not coded, are left out for that unit: they are neither present nor
    absent.

    >>> unit_agreement([[0.9], [0.1], [0.7]], [[0.8], [0.0], [0.0]], ["AU12"])["AU12"].f1
    0.6666666666666666

    Args:
        read: floating point [N, len(units)] in [0, 1].
        true: floating point [N, len(units)] in [0, 1], or nan.
        units: names such as "AU12"; `pyface.faces.action_units.presence` has their thresholds.

    Raises:
        DTypeError: whole numbers, in which intensities below 1 are lost.
        ShapeError, ValueRangeError: other shapes, or numbers outside [0, 1].
    """
    found, wanted = _checked(read, len(units), "read"), _checked(true, len(units), "true")
    if len(found) != len(wanted):
        raise ShapeError(f"read and true must have as many rows; got {len(found)} and {len(wanted)}.")
    if np.isnan(found).any():
        raise ValueRangeError("read must not hold nan: only true intensities may be unknown.")
    return {
        unit: _agreement(found[:, column], wanted[:, column], presence(unit))
        for column, unit in enumerate(units)
    }


def unit_table(agreement: dict[str, UnitAgreement]) -> str:
    """A Markdown table with a row for every unit."""
    head = ["unit", "present from", "faces with it", "F1", "F1 of always", "AUC", "correlation", "mean error"]
    lines = ["| " + " | ".join(head) + " |", "|--" * len(head) + "|"]
    for unit, a in agreement.items():
        cells = [unit, f"{a.threshold:g}", f"{a.present} of {a.known}"]
        cells += [_shown(v) for v in (a.f1, a.f1_always, a.auc, a.correlation, a.error)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _agreement(read: Intensities, true: Intensities, threshold: float) -> UnitAgreement:
    known = ~np.isnan(true)
    read, true = read[known], true[known]
    present, called = true >= threshold, read >= threshold
    right = int((present & called).sum())
    count, total = len(true), int(present.sum())
    both = 0 < total < count
    varies = count > 1 and np.ptp(read) > 0 and np.ptp(true) > 0
    return UnitAgreement(
        threshold=threshold,
        known=count,
        present=total,
        precision=_share(right, int(called.sum())),
        recall=_share(right, total),
        f1=_share(2 * right, total + int(called.sum())),
        f1_always=_share(2 * total, total + count),
        auc=verification(read[present], read[~present]).auc if both else float("nan"),
        correlation=float(np.corrcoef(read, true)[0, 1]) if varies else float("nan"),
        error=float(np.abs(read - true).mean()) if count else float("nan"),
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def _shown(value: float) -> str:
    return "-" if value != value else f"{value:.3f}"


def _checked(values: npt.ArrayLike, units: int, name: str) -> Intensities:
    found: npt.NDArray[Any] = np.asarray(values)
    if found.dtype.kind != "f":
        raise DTypeError(
            f"{name} must be floating point; got {found.dtype}. Divide FACS numbers of 0 to 5 by 5; "
            "intensities cast to whole numbers are lost."
        )
    if found.ndim != 2 or found.shape[1] != units:
        raise ShapeError(f"{name} must be [N, {units}], a column for each unit; got {list(found.shape)}.")
    if found.size and (np.nanmin(found, initial=0.0) < 0.0 or np.nanmax(found, initial=0.0) > 1.0):
        raise ValueRangeError(f"{name} must lie in [0, 1]; got {np.nanmin(found):g} to {np.nanmax(found):g}.")
    return found.astype(np.float64)
