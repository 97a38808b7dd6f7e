"""Poisson's equation on the pixels of a mask: conjugate gradients, preconditioned by multigrid.

The outer iteration is kept in float64, because an error of the smoothest mode shows in the residual only by
its eigenvalue, about 20 / n^2 on n x n pixels; the multigrid cycles are float32. Fields carry a rim of one
pixel that stays 0, so that neighbours are plain slices. All is NumPy on memory that is used again: these are
thousands of short operations, which threads would only hold up.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pyface.errors import PyfaceError

__all__ = ["solve_poisson"]

# damping of two Jacobi steps: Chebyshev's for the part of the spectrum that a coarser grid cannot show
_DAMPING = (np.float32(0.562), np.float32(1.388))
_COARSEST = 3  # pixels along the shorter side
_MOST_STEPS = 100

Field = npt.NDArray[Any]


def solve_poisson(
    inside: npt.NDArray[np.bool_], right: npt.NDArray[np.float32], tolerance: float = 0.05
) -> npt.NDArray[np.float32]:
    """The field u with n u(p) - sum of u over the neighbours of p = right(p) at each p inside, and 0 outside.

    n counts the neighbours (of four) that lie in the array: its border has no gradient across it. That is
    Perez, Gangnet and Blake, "Poisson Image Editing" (2003), eq. 7, with all that is known on the right.
    A part of the mask with nothing outside beside it has a solution only up to a constant; the one whose
    mean is about 0 is given.

    Args:
        inside: [H, W].
        right: [C, H, W]; only values inside count.
        tolerance: largest remaining error of a pixel, as the preconditioner estimates it.

    Returns:
        float32 [C, H, W].

    Raises:
        PyfaceError: no solution of this tolerance after 100 steps: `right` is not finite, or does not sum to
            0 over a part without anything outside.
    """
    result = np.zeros(right.shape, np.float32)
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    if not len(rows):
        return result
    part = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    height, width = inside.shape
    open_sides = (rows[0] == 0, rows[-1] == height - 1, columns[0] == 0, columns[-1] == width - 1)
    result[(slice(None), *part)] = _conjugate_gradients(
        inside[part], right[(slice(None), *part)], open_sides, tolerance
    )
    return result


def _conjugate_gradients(
    inside: npt.NDArray[np.bool_],
    right: npt.NDArray[np.float32],
    open_sides: tuple[bool, bool, bool, bool],
    tolerance: float,
) -> npt.NDArray[np.float32]:
    """Flexible conjugate gradients (Notay 2000) over the cycle of `_Grid`."""
    finest = _Grid(np.pad(inside, 1).astype(np.float32), open_sides, len(right))
    residual = np.pad(right * inside, ((0, 0), (1, 1), (1, 1))).astype(np.float64)
    solution, direction, change, correction = (np.zeros_like(residual) for _ in range(4))
    around, scratch = np.zeros_like(residual[:, 1:-1, 1:-1]), np.zeros_like(residual)
    previous = 1.0
    for step in range(_MOST_STEPS):
        finest.right[...] = residual
        correction[...] = finest.cycle()
        if max(correction.max(), -correction.min()) < tolerance:
            solution += correction
            return solution[:, 1:-1, 1:-1].astype(np.float32)
        direction *= 0.0 if step == 0 else -_dot(correction, change) / previous
        direction += correction
        np.multiply(direction, finest.count, out=change)
        change[:, 1:-1, 1:-1] -= _neighbours(direction, around)
        change *= finest.mask
        previous = _dot(direction, change)
        if not previous > 0:
            break
        length = _dot(direction, residual) / previous
        solution += np.multiply(direction, length, out=scratch)
        residual -= np.multiply(change, length, out=scratch)
    raise PyfaceError(
        "Poisson's equation has no solution here: the pictures are not finite, or the mask leaves nothing to "
        "fit to. Check them, or blend with 'multiband' or 'alpha'."
    )


def _dot(a: Field, b: Field) -> float:
    return float(np.einsum("i,i->", a.reshape(-1), b.reshape(-1)))


def _neighbours(field: Field, total: Field) -> Field:
    """Sum of the four neighbours of each pixel within the rim, written to `total`."""
    np.add(field[:, :-2, 1:-1], field[:, 2:, 1:-1], out=total)
    total += field[:, 1:-1, :-2]
    total += field[:, 1:-1, 2:]
    return total


class _Grid:
    """One grid of the hierarchy; every second pixel of it makes the next coarser one.

    Attributes:
        mask: 1 where an unknown is, float32 [h + 2, w + 2].
        count: how many neighbours each pixel has, as `mask`.
        right: what to solve for, [C, h + 2, w + 2].
        field: the answer of `cycle`, as `right`.
        rest, around: memory to work in.
    """

    def __init__(self, mask: Field, open_sides: tuple[bool, bool, bool, bool], channels: int) -> None:
        height, width = mask.shape[0] - 2, mask.shape[1] - 2
        self.mask = mask
        self.count = np.full_like(mask, 4.0)
        top, bottom, left, right = open_sides
        self.count[1] -= top
        self.count[height] -= bottom
        self.count[:, 1] -= left
        self.count[:, width] -= right
        np.maximum(self.count, 1.0, out=self.count)
        self.step = np.ascontiguousarray((mask / self.count)[1:-1, 1:-1])
        self.right, self.field, self.rest = (
            np.zeros((channels, height + 2, width + 2), np.float32) for _ in range(3)
        )
        self.around = np.zeros((channels, height, width), np.float32)
        self.open_sides = open_sides
        self.coarser: _Grid | None = None
        if min(height, width) > _COARSEST:
            half = np.pad(mask[1:-1:2, 1:-1:2], 1)
            if half.any():
                self.coarser = _Grid(half, open_sides, channels)

    def cycle(self) -> Field:
        """About the solution for `right`: one symmetric V-cycle, two damped Jacobi steps on either side."""
        inner = self.field[:, 1:-1, 1:-1]
        right = self.right[:, 1:-1, 1:-1]
        np.multiply(right, self.step, out=inner)
        inner *= _DAMPING[0]
        self._smooth(inner, right, _DAMPING[1:] if self.coarser else _DAMPING[1:] + 3 * _DAMPING)
        if self.coarser is not None:
            error = self.rest[:, 1:-1, 1:-1]
            np.multiply(inner, self.count[1:-1, 1:-1], out=error)
            np.subtract(_neighbours(self.field, self.around), error, out=error)
            error += right
            error *= self.mask[1:-1, 1:-1]
            self._restrict(self.rest, self.coarser)
            self._prolong(self.coarser.cycle(), inner)
            self._smooth(inner, right, _DAMPING[::-1])
        return self.field

    def _smooth(self, inner: Field, right: Field, dampings: tuple[np.float32, ...]) -> None:
        for damping in dampings:
            total = _neighbours(self.field, self.around)
            total += right
            total *= self.step
            total *= damping
            inner *= np.float32(1.0) - damping
            inner += total

    def _restrict(self, fine: Field, coarser: _Grid) -> None:
        """Give the coarser grid what is left to solve: full weighting, the adjoint of `_prolong`."""
        height, width = coarser.right.shape[1] - 2, coarser.right.shape[2] - 2
        rows = fine[:, 0::2][:, :height] + fine[:, 2::2][:, :height]
        rows *= 0.5
        rows += fine[:, 1::2][:, :height]
        if self.open_sides[1] and fine.shape[1] % 2 == 0:
            rows[:, -1] += fine[:, -2] * 0.5
        total = rows[..., 0::2][..., :width] + rows[..., 2::2][..., :width]
        total *= 0.5
        total += rows[..., 1::2][..., :width]
        if self.open_sides[3] and fine.shape[2] % 2 == 0:
            total[..., -1] += rows[..., -2] * 0.5
        np.multiply(total, coarser.mask[1:-1, 1:-1], out=coarser.right[:, 1:-1, 1:-1])

    def _prolong(self, coarse: Field, inner: Field) -> None:
        """Add the coarser grid's answer, linear between its pixels."""
        height, width = inner.shape[1:]
        wide = np.empty((len(coarse), coarse.shape[1], width), np.float32)
        wide[..., 0::2] = coarse[..., 1:-1]
        wide[..., 1::2] = (coarse[..., 1:-1] + coarse[..., 2:])[..., : width // 2] * 0.5
        if self.open_sides[3] and width % 2 == 0:  # beyond an open side stands the same value again
            wide[..., -1] = coarse[..., -2]
        between = (wide[:, 1:-1] + wide[:, 2:])[:, : height // 2]
        between *= 0.5
        if self.open_sides[1] and height % 2 == 0:
            between[:, -1] = wide[:, -2]
        inner[:, 0::2] += wide[:, 1:-1]
        inner[:, 1::2] += between
        inner *= self.mask[1:-1, 1:-1]
