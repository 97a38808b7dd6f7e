"""How a convolution of an exported network doubles the size of what it takes."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyface.ops import upfirdn2d

__all__ = ["UP_FORMS", "PhasesUp", "TransposedUp", "Upsample"]


def _with_gain(taps: Tensor) -> Tensor:
    """The filter float32, made up for the zeros that three of four pixels are."""
    return (taps * 2**taps.ndim).float()


class Upsample(nn.Module):
    """Pictures at twice the size: zeros between the pixels, then the filter.

    taps: low-pass filter, [L, L] or [L] for both axes, summing to 1.
    """

    filter: Tensor

    def __init__(self, taps: Tensor) -> None:
        super().__init__()
        size = taps.shape[0]
        before, after = (size + 1) // 2, (size - 2) // 2
        self.padding = (before, after, before, after)
        self.register_buffer("filter", _with_gain(taps))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, 2 H, 2 W] of x [N, C, H, W]."""
        return upfirdn2d(x, self.filter, up=2, padding=self.padding)


class _Up(nn.Module, abc.ABC):
    """A convolution and the filter, to twice the size.

    Args:
        weight: [O, I, k, k]; k is 3, or 1: then the convolution comes before the zeros of `Upsample`.
        taps: as for `Upsample`.
        dtype: of the weights and of what goes in and out.
    """

    weight: Tensor
    filter: Tensor
    beyond = 0  # rows and columns that the convolution makes after the last one with numbers in it

    def __init__(self, weight: Tensor, taps: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.pointwise = Upsample(taps) if weight.shape[-1] == 1 else None
        kept = self.kept(weight) if self.pointwise is None else weight
        self.register_buffer("weight", kept.to(dtype).contiguous())
        if self.pointwise is None:
            before, after = (len(taps) - 1) // 2, (len(taps) - 2) // 2 - self.beyond
            self.padding = (before, after, before, after)
            self.register_buffer("filter", _with_gain(taps))

    @abc.abstractmethod
    def kept(self, weight: Tensor) -> Tensor:
        """`weight` [O, I, 3, 3] as `enlarged` uses it."""

    @abc.abstractmethod
    def enlarged(self, x: Tensor) -> Tensor:
        """x with zeros between its pixels, convolved: [N, O, 2 H + 1 + beyond, 2 W + 1 + beyond]."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, O, 2 H, 2 W] of x [N, I, H, W]."""
        if self.pointwise is not None:
            # in float32, in which every runtime has what the filter becomes
            y: Tensor = self.pointwise(F.conv2d(x, self.weight).float())
            return y.to(x.dtype)
        return upfirdn2d(self.enlarged(x), self.filter, padding=self.padding)


class TransposedUp(_Up):
    """A transposed convolution with stride 2, then the filter: fewest multiplications."""

    def kept(self, weight: Tensor) -> Tensor:
        """[I, O, 3, 3]."""
        return weight.transpose(0, 1)

    def enlarged(self, x: Tensor) -> Tensor:
        """As in `_Up`."""
        return F.conv_transpose2d(x, self.weight, stride=2)


class PhasesUp(_Up):
    """A convolution of 2 x 2 taps to four times the channels, shuffled, then the filter.

    The same numbers without a transposed convolution, at 16 multiplications instead of 9: row 2 i + p is
    x[i] weight[p], and for even rows also x[i - 1] weight[2].
    Source: Shi et al. 2016, "Is the deconvolution layer the same as a convolutional layer?"
    """

    beyond = 1

    def kept(self, weight: Tensor) -> Tensor:
        """[4 O, I, 2, 2]; channel 4 o + 2 p + q makes rows of parity p and columns of parity q."""
        out, into = weight.shape[:2]
        taps = torch.tensor([[2, 0], [3, 1]])  # by parity; number 3 is a zero
        phases = F.pad(weight, [0, 1, 0, 1])[:, :, taps][..., taps]  # [O, I, 2, taps, 2, taps]
        return phases.permute(0, 2, 4, 1, 3, 5).reshape(4 * out, into, 2, 2)

    def enlarged(self, x: Tensor) -> Tensor:
        """As in `_Up`."""
        return F.pixel_shuffle(F.conv2d(x, self.weight, padding=1), 2)


UP_FORMS: Mapping[str, Callable[[Tensor, Tensor, torch.dtype], nn.Module]] = {
    "transposed": TransposedUp,
    "phases": PhasesUp,
}
