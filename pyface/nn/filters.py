"""The low-pass filter beside resampling layers, and the choice of back-end of a whole network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from pyface.errors import ValueRangeError
from pyface.ops import setup_filter

__all__ = ["BACKENDS", "ResampleFilter", "set_backend"]

BACKENDS = ("auto", "reference", "cpu", "cuda")


class ResampleFilter(nn.Module):
    """A fixed low-pass filter that moves with its network and stays float32.

    It is not part of the state dict: the configuration holds the taps.

    Args:
        taps: filter taps; [1, 3, 3, 1] is StyleGAN2's. Normalised to a sum of one.
    """

    taps: Tensor

    def __init__(self, taps: Sequence[float]) -> None:
        super().__init__()
        self._values = tuple(float(tap) for tap in taps)
        self.register_buffer("taps", self._normalized(torch.device("cpu")), persistent=False)

    def _apply(self, fn: Callable[..., Tensor], recurse: bool = True) -> Self:
        """Follow the device of the network, not its dtype: `network.double()` keeps the taps float32."""
        super()._apply(fn, recurse)
        if self.taps.dtype != torch.float32:
            self.taps = self._normalized(self.taps.device)
        return self

    def _normalized(self, device: torch.device) -> Tensor:
        with torch.device("cpu"):  # values are needed even where a network is built on the meta device
            return setup_filter(list(self._values)).to(device)

    def extra_repr(self) -> str:
        return f"taps={list(self._values)}"


def set_backend(network: nn.Module, backend: str) -> None:
    """Make every layer of `network` call its operations on `backend`.

    Args:
        network: any module made of `pyface.nn` layers.
        backend: "auto" (the native one where there is one), "reference", "cpu" or "cuda".

    Raises:
        ValueRangeError: an unknown back-end.
    """
    if backend not in BACKENDS:
        raise ValueRangeError(f"backend must be one of {', '.join(BACKENDS)}; got {backend!r}")
    for module in network.modules():
        if hasattr(module, "backend"):
            setattr(module, "backend", backend)  # noqa: B010 (a plain attribute, not a submodule)
