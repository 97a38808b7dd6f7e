"""How far the numbers of a runtime may lie from those of torch in float32: one table for all of them.

Errors are given as multiples of the standard deviation of the pictures, so that the same table holds for
networks of any contrast: demo's pictures have 0.35, those of a network with random weights about 1.6.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pyface.errors import ExportError
from pyface.export.spec import precision_name
from pyface.io.images import to_uint8

__all__ = ["GATES", "Agreement", "Gate", "compare", "gate_of", "scale_of"]

_PEAK = 2.0  # of pictures in [-1, 1], for PSNR
_LEVEL = 1 / 127.5  # a step of uint8 in them
_CHANCE = 4.0  # standard errors


@dataclass(frozen=True)
class Gate:
    """What an artefact of a precision must keep to.

    Attributes:
        precision: a key of `pyface.export.spec.PRECISIONS`.
        max_error: the largest error of any number, over the standard deviation.
        rmse: the root mean square error of the worst picture, over the standard deviation.
    """

    precision: str
    max_error: float
    rmse: float

    def limits(self, scale: float, values: int, uint8: bool) -> tuple[float, float]:
        """(max_error, rmse) that pictures must keep to, as multiples of `scale`.

        Of pictures that were rounded to uint8 the error is a whole number d of levels. Where it was e before
        rounding, at any place between two levels, the mean of d^2 is e^2 + f (1 - f), f being the fraction
        of |e|, and that is no more than e^2 + min(|e|, 1/4); |d| is at most |e| rounded up. The mean over the
        `values` of one picture may lie above by chance.

        Args:
            scale: the standard deviation.
            values: numbers in a picture.
            uint8: whether they were rounded.
        """
        if not uint8:
            return self.max_error, self.rmse
        largest, error = self.max_error * scale / _LEVEL, self.rmse * scale / _LEVEL
        flips = min(error, 0.25)
        square = error**2 + flips + _CHANCE * math.sqrt(flips / values)
        return math.ceil(largest) * _LEVEL / scale, math.sqrt(square) * _LEVEL / scale


# Measured on demo (64 px) and networks with random weights and noise (16 to 256 px; skip and resnet; one and
# two spectra; with conditions), batches 1, 3 and 8: ONNX Runtime and OpenVINO on a CPU with AMX, forms and
# the fused kernels in torch. The worst RMSE and largest error of each precision:
#   fp32: 3.6e-6, 4.4e-5, of demo, whose truth itself is 7e-7 and 1.1e-5 away from float64;
#   fp16: 1.5e-3, 1.2e-2;
#   bf16: 1.9e-2, 3.0e-1 (OpenVINO; the fused kernels, which sum in float32: 6.3e-3, 5.1e-2);
#   int8: 3.8e-2, 4.9e-1, and fp8: 8.4e-2, 7.0e-1, with ranges from 32 pictures.
# Allowed is about twice to four times as much, for networks that amplify more. To leave out the noise of demo
# is 8.4e-2 and 1.3, and a psi that is 5 % off more than 3e-2.
GATES: Mapping[str, Gate] = {
    gate.precision: gate
    for gate in (
        Gate("fp32", max_error=2e-4, rmse=1e-5),
        Gate("fp16", max_error=0.04, rmse=0.004),
        Gate("bf16", max_error=0.5, rmse=0.03),
        Gate("int8", max_error=1.0, rmse=0.07),
        Gate("fp8", max_error=1.5, rmse=0.15),
    )
}


def gate_of(precision: str) -> Gate:
    """The gate of a precision, by either of its names. Raises ValueRangeError for any other word.

    >>> gate_of("float32").max_error
    0.0002
    """
    return GATES[precision_name(precision)]


@dataclass(frozen=True)
class Agreement:
    """How near the numbers of one output are to the truth.

    Attributes:
        scale: what errors are divided by: the standard deviation of pictures, the root mean square of others.
        max_error: of any number, over `scale`; infinite where a number is not finite.
        rmse: root mean square error over `scale`; of pictures that of the worst one.
        psnr: of the worst picture in dB, peak 2; None for what is no picture.
        differing: share of numbers that differ after rounding to uint8; None for what is no picture.
        levels: the largest difference after rounding to uint8; None for what is no picture.
        max_error_limit, rmse_limit: what the gate allows.
    """

    scale: float
    max_error: float
    rmse: float
    psnr: float | None
    differing: float | None
    levels: int | None
    max_error_limit: float
    rmse_limit: float

    @property
    def passed(self) -> bool:
        """Whether it keeps to the gate."""
        return self.max_error <= self.max_error_limit and self.rmse <= self.rmse_limit


def compare(
    found: npt.NDArray[np.float32] | npt.NDArray[np.uint8],
    truth: npt.NDArray[np.float32],
    gate: Gate,
    *,
    pictures: bool,
    scale: float | None = None,
) -> Agreement:
    """How near `found` is to `truth`.

    Args:
        found: [N, ...] float32; pictures [N, C, H, W] float32 in [-1, 1] or [N, H, W, C] uint8.
        truth: float32, of the same rows; pictures [N, C, H, W] in [-1, 1].
        gate: what is allowed.
        pictures: whether they are pictures.
        scale: what errors are divided by; None takes `scale_of` the truth.

    Raises:
        ExportError: the truth is not finite.
    """
    scale = scale_of(truth, pictures) if scale is None else scale
    uint8 = found.dtype == np.uint8
    right = to_uint8(truth) if uint8 else truth
    error = np.abs(found.astype(np.float64) - right) * (_LEVEL if uint8 else 1.0)
    if not np.isfinite(error).all():
        error = np.full(error.shape, np.inf)
    rows = error.reshape(len(error) if pictures else 1, -1)
    rmse = float(np.sqrt(np.square(rows).mean(1)).max())
    limits = gate.limits(scale, rows.shape[1], uint8)
    psnr, differing, levels = _of_pictures(found, truth, rmse) if pictures else (None, None, None)
    return Agreement(
        scale, float(error.max()) / scale, rmse / scale, psnr, differing, levels, limits[0], limits[1]
    )


def scale_of(truth: npt.NDArray[np.float32], pictures: bool) -> float:
    """The standard deviation of pictures, the root mean square of other numbers; 1 where that is 0.

    Raises:
        ExportError: the truth is not finite.
    """
    if not np.isfinite(truth).all():
        raise ExportError("the network itself gives numbers that are not finite; nothing can be compared")
    wide = truth.astype(np.float64)
    return float(wide.std() if pictures else np.sqrt(np.square(wide).mean())) or 1.0


def _of_pictures(
    found: npt.NDArray[np.float32] | npt.NDArray[np.uint8], truth: npt.NDArray[np.float32], rmse: float
) -> tuple[float, float, int]:
    """PSNR, share of different levels, and the largest difference of levels."""
    rounded = found if found.dtype == np.uint8 else to_uint8(found)
    apart = np.abs(rounded.astype(np.int16) - to_uint8(truth))
    psnr = math.inf if rmse == 0 else -math.inf if math.isinf(rmse) else 20 * math.log10(_PEAK / rmse)
    return psnr, float((apart > 0).mean()), int(apart.max())
