"""Synthesis layers for inference on the CPU, each in one native call, and the memory that they work in.

Activations stay in blocked form (csrc/include/pyface/styled_conv.h) from the first layer to the last:
channels are padded to a multiple of 32, and every value has been multiplied by the style of the layer that
reads it.
"""

from __future__ import annotations

import functools
import mmap
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pyface.ops import _kernels, _native, engine_choice
from pyface.ops._checks import DTYPES
from pyface.ops.engine_choice import RULE, Choice

__all__ = [
    "MOST_HEAD_CHANNELS",
    "Blocked",
    "PackedWeight",
    "best_choice",
    "block_activations",
    "engine_dtype",
    "engine_isa",
    "memory",
    "padded",
    "release_memory",
    "styled_conv",
]

MOST_HEAD_CHANNELS = 16
_GROUP = 32
_FILTER_GAIN = 1 / 16  # of [1, 3, 3, 1] along both axes, summing to 8 each, for an image enlarged by 4
_HUGE_PAGE = 2 << 20
_SAMPLE_STEP = 1024  # elements: one of each small page
_arena = threading.local()


def engine_dtype(x: Tensor, precision: torch.dtype, backend: str = "auto") -> torch.dtype | None:
    """The element type that layers on tensors like `x` compute in when `precision` is asked for, or None.

    None: they cannot run here. bfloat16 needs AMX; without it float32 is what computes bfloat16 fastest.
    """
    if precision not in (torch.float32, torch.bfloat16):
        return None
    kernels = _backend(x, backend)
    if kernels is None:
        return None
    has_tiles: bool = kernels.module.isa() == "amx"
    return precision if has_tiles else torch.float32


def best_choice(dtype: torch.dtype, up: int, weight_shape: Sequence[int], size: tuple[int, int]) -> Choice:
    """How a layer with a weight [O, I, 3, 3] and an output of `size` is best worked through here."""
    out_channels, in_channels = weight_shape[:2]
    height, width = (side // up for side in size)
    return engine_choice.choice(engine_isa(), dtype, up, in_channels, out_channels, height, width)


@functools.cache
def engine_isa() -> str:
    """The instruction set that the CPU kernels run with."""
    name: str = _kernels_of(torch.empty(0)).module.isa()
    return name


def _backend(x: Tensor, backend: str = "auto") -> _native.Backend | None:
    chosen = _native.resolve(x, backend)
    return chosen if chosen is not None and chosen.name == "cpu" else None


def _kernels_of(x: Tensor) -> _native.Backend:
    chosen = _native.resolve(x, "cpu")
    if chosen is None:  # resolve raises where the module is missing
        raise RuntimeError("the CPU kernels are not there")
    return chosen


def padded(x: Tensor) -> Tensor:
    """`x` with its last axis padded by zeros to a multiple of 32, float32 and dense."""
    rest = -x.shape[-1] % _GROUP
    return (F.pad(x, (0, rest)) if rest else x).float().contiguous()


def memory(name: str, size: int) -> Tensor:
    """At least `size` bytes of this thread's memory called `name`; what it held before is lost.

    It is kept from call to call: the system would hand out fresh pages zeroed, which at high resolutions
    takes as long as the layers themselves. Every thread that calls has memory of its own, as much as its
    largest call needed; it is freed by `release_memory` and when the thread ends.
    """
    held: dict[str, Tensor] = _arena.__dict__.setdefault("held", {})
    found = held.get(name)
    if found is None or found.numel() < size:
        held.pop(name, None)
        found = held[name] = _pages(size)
    return found


def release_memory() -> None:
    """Free the memory that fused layers keep for this thread from call to call."""
    _arena.__dict__.pop("held", None)


def _pages(size: int) -> Tensor:
    """`size` bytes at a multiple of 64; in huge pages where they are many and the system has such pages.

    A layer walks through so many channel blocks at once that small pages miss the TLB.
    """
    with torch.inference_mode(False):
        if size < _HUGE_PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
            return torch.empty(size, dtype=torch.uint8)
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # shared memory gets small pages
        area = mmap.mmap(-1, -(-size // _HUGE_PAGE) * _HUGE_PAGE + _HUGE_PAGE, flags=private)
        area.madvise(mmap.MADV_HUGEPAGE)
        whole = torch.frombuffer(area, dtype=torch.uint8)
        start = -whole.data_ptr() % _HUGE_PAGE
        return whole[start : start + size]


class PackedWeight:
    """A weight [O, I, 3, 3] in the order in which the CPU convolves with it; follows its changes."""

    def __init__(self, up: int) -> None:
        self.up = up
        self.packed: dict[torch.dtype, Tensor] = {}
        self.squares = torch.empty(0)
        self._seen: tuple[int, int] | None = None
        self._sample = torch.empty(0)

    def update(self, weight: Tensor, dtype: torch.dtype) -> None:
        """Pack `weight` for `dtype` unless that has been done and it has not changed since.

        Versions do not tell everything: fused optimisers and writes through `.data` leave them as they are.
        So some elements are compared as well.
        """
        seen = (weight.data_ptr(), -1 if weight.is_inference() else weight._version)
        flat = weight.detach().reshape(-1)
        sample = flat[:: max(1, min(_SAMPLE_STEP, flat.numel() // 64))]
        if seen != self._seen or not torch.equal(sample, self._sample):
            self.packed.clear()
            self.squares = torch.empty(0)
            self._seen = seen
            self._sample = sample.clone()
        if dtype in self.packed:
            return
        weight = weight.detach().float().contiguous()
        out_channels, in_channels = weight.shape[:2]
        size = -(-out_channels // _GROUP) * -(-in_channels // _GROUP) * _GROUP**2 * 9
        packed = _pages(size * dtype.itemsize).view(dtype)
        k = _kernels_of(weight)
        k.run(
            k.module.pack_styled_conv, weight, weight.data_ptr(), packed.data_ptr(), DTYPES[dtype],
            out_channels, in_channels, self.up,
        )  # fmt: skip
        squares = F.pad(
            weight.square().sum(dim=(2, 3)), (0, -in_channels % _GROUP, 0, -out_channels % _GROUP)
        )
        self.packed[dtype], self.squares = packed, squares.contiguous()

    def demodulation(self, styles: Tensor, gain: float) -> Tensor:
        """gain / norm of every filter times `styles` [N, padded I], up-sampling's filter included."""
        k = _kernels_of(styles)
        return _kernels.demodulate(k, self.squares, styles).mul_(gain * (_FILTER_GAIN if self.up == 2 else 1))


@dataclass(frozen=True)
class Blocked:
    """Blocked activations of `batch` images in `data`; a layer takes `n` of them from `first` on."""

    data: Tensor
    channels: int
    height: int
    width: int
    batch: int
    first: int
    n: int

    @staticmethod
    def bytes(like: Tensor, dtype: torch.dtype, batch: int, channels: int, height: int, width: int) -> int:
        """Bytes of the activations of `batch` images."""
        size: int = _kernels_of(like).module.blocked_bytes(DTYPES[dtype], batch, channels, height, width)
        return size


def block_activations(x: Tensor, scale: Tensor, to: Blocked, dtype: torch.dtype) -> None:
    """`x` [C, H, W] or [N, C, H, W] in float32 times `scale` [N, padded C], into `to`."""
    x = x.float().contiguous()
    k = _kernels_of(x)
    k.run(
        k.module.block_activations, x, x.data_ptr(), scale.data_ptr(), to.data.data_ptr(), DTYPES[dtype],
        to.n, to.channels, to.height, to.width, x.ndim == 3,
    )  # fmt: skip


def styled_conv(
    x: Blocked,
    weight: PackedWeight,
    dtype: torch.dtype,
    demod: Tensor,
    noise: Tensor | None,
    bias: Tensor,
    to: Blocked | None,
    next_style: Tensor | None,
    heads: Tensor | None,
    image: Tensor | None,
    out_channels: int,
    alpha: float,
    clamp: float,
    choice: Choice = RULE,
) -> None:
    """v = clamp(lrelu(conv(x) * demod + noise + bias)); to = v * next_style; image += heads . v.

    demod, noise and bias hold the gain of the activation already. demod, next_style [n, padded O]; bias
    [padded O]; heads [n, K, padded O]; noise [n or 1, 1, H', W'] or [H', W']; image [n, K, H', W']; all
    float32 and dense. to, next_style or heads, image: None leaves that out. clamp < 0: none. choice: how the
    work is cut; results do not depend on it.
    """
    k = _kernels_of(demod)
    head_channels = 0 if heads is None else heads.shape[1]
    shape = (x.n, x.channels, out_channels, x.height, x.width, head_channels, weight.up)
    workspace = memory(
        "workspace",
        k.module.styled_conv_workspace(
            DTYPES[dtype], *shape, choice.chunk_bytes, choice.groups_inside, torch.get_num_threads()
        ),
    )

    def pointer(t: Tensor | None) -> int:
        return 0 if t is None else t.data_ptr()

    k.run(
        k.module.styled_conv, demod, x.data.data_ptr(), weight.packed[dtype].data_ptr(), demod.data_ptr(),
        pointer(noise), bias.data_ptr(), pointer(next_style), 0 if to is None else to.data.data_ptr(),
        pointer(heads), pointer(image), workspace.data_ptr(), DTYPES[dtype], x.n, x.batch, x.first,
        0 if to is None else to.batch, 0 if to is None else to.first, x.channels, out_channels, x.height,
        x.width, head_channels, weight.up, noise is not None and noise.ndim == 4 and noise.shape[0] > 1,
        alpha, clamp, choice.chunk_bytes, choice.groups_inside,
    )  # fmt: skip
