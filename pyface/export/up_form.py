"""How a convolution of an exported network doubles the size of what it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyface.ops import upfirdn2d

__all__ = ["UP_FORMS", "PhasesUp", "TransposedUp", "phase_weights"]


def phase_weights(weight: Tensor, taps: Tensor) -> Tensor:
    """Weights of one convolution to four times the channels that, shuffled, is `weight` and the filter.

    They are [4 O, I, 2 r + 1, 2 r + 1]; channel 4 o + 2 p + q makes the rows of parity p and the columns of
    parity q of a picture of twice the size. With K the full convolution of `weight` and `taps`, row 2 i + p
    of that picture is the sum over d of x[i + d] K[p + s - 2 d], where s centres the filter.
    Source: Shi et al. 2016, "Is the deconvolution layer the same as a convolutional layer?"; the order of
    convolution and filter: Karras et al. 2020, "Analyzing and improving the image quality of StyleGAN",
    appendix B.

    Args:
        weight: [O, I, k, k] with k odd, of the convolution of the zero-inserted input.
        taps: [L, L], times its gain of 4.
    """
    out, into, kernel, _ = weight.shape
    size = len(taps)
    whole = F.conv2d(weight.reshape(-1, 1, kernel, kernel), taps.flip([0, 1])[None, None], padding=size - 1)
    length = size + kernel - 1
    start = size - 1 - (size + 1) // 2 + kernel // 2
    radius = max((1 + start) // 2, (length - start) // 2)
    wanted = [[p + start - 2 * d for d in range(-radius, radius + 1)] for p in (0, 1)]
    rows = torch.tensor([[i if 0 <= i < length else length for i in phase] for phase in wanted])
    padded = F.pad(whole.reshape(out, into, length, length), [0, 1, 0, 1])  # taps outside are 0
    phases = padded[:, :, rows][..., rows]  # [O, I, 2, taps, 2, taps]
    return phases.permute(0, 2, 4, 1, 3, 5).reshape(4 * out, into, *phases.shape[-1:] * 2)


class TransposedUp(nn.Module):
    """A transposed convolution with stride 2, then the filter; fewest multiplications.

    A pointwise convolution comes first, and the filter doubles the size.

    Args:
        weight: [O, I, k, k], k 3 or 1.
        taps: low-pass filter, [L, L] or [L] for both axes, summing to 1.
        dtype: of the weights and of what goes in and out.
    """

    weight: Tensor
    filter: Tensor

    def __init__(self, weight: Tensor, taps: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.pointwise = weight.shape[-1] == 1
        size = taps.shape[0]
        before = (size + 1) // 2 - (0 if self.pointwise else 1)
        after = (size - 2) // 2
        self.padding = (before, after, before, after)
        kept = weight if self.pointwise else weight.transpose(0, 1)
        self.register_buffer("weight", kept.to(dtype).contiguous())
        self.register_buffer("filter", (taps * 2**taps.ndim).float())

    def forward(self, x: Tensor) -> Tensor:
        """[N, O, 2 H, 2 W] of x [N, I, H, W]."""
        if self.pointwise:
            return upfirdn2d(F.conv2d(x, self.weight), self.filter, up=2, padding=self.padding)
        y = F.conv_transpose2d(x, self.weight, stride=2)
        return upfirdn2d(y, self.filter, padding=self.padding)


class PhasesUp(nn.Module):
    """One convolution to four times the channels, shuffled; the filter lies in its weights.

    For runtimes without transposed convolutions in an element type. Arguments as for `TransposedUp`.
    """

    weight: Tensor

    def __init__(self, weight: Tensor, taps: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        matrix = torch.outer(taps, taps) if taps.ndim == 1 else taps
        phases = phase_weights(weight, (matrix * 4).to(weight.dtype))
        self.padding = phases.shape[-1] // 2
        self.register_buffer("weight", phases.to(dtype).contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """[N, O, 2 H, 2 W] of x [N, I, H, W]."""
        return F.pixel_shuffle(F.conv2d(x, self.weight, padding=self.padding), 2)


UP_FORMS: Mapping[str, Callable[[Tensor, Tensor, torch.dtype], nn.Module]] = {
    "transposed": TransposedUp,
    "phases": PhasesUp,
}
