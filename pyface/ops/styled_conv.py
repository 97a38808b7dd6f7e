"""Synthesis layers for inference on the CPU, each in one native call, and the memory that they work in.

Activations stay in blocked form (csrc/include/pyface/styled_conv.h) from the first layer to the last:
channels are padded to a multiple of 32, and every value has been multiplied by the style of the layer that
reads it.
"""

from __future__ import annotations

import functools
import mmap
import threading
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pyface.ops import _kernels, _native, engine_choice
from pyface.ops._checks import DTYPES
from pyface.ops.engine_choice import Choice

__all__ = [
    "LAYER_STYLE",
    "MOST_HEAD_CHANNELS",
    "MOST_SAMPLES",
    "STYLED_CONV",
    "Blocked",
    "PackedMatrix",
    "PackedWeight",
    "best_choice",
    "block_activations",
    "engine_dtype",
    "engine_isa",
    "is_kept",
    "kept_plans",
    "layer_styles",
    "memory",
    "number_bytes",
    "packed_weights",
    "padded",
    "release_memory",
    "styled_convs",
]

MOST_HEAD_CHANNELS = 16
MOST_SAMPLES = 16  # that take `layer_styles` at once
_GROUP = 32
_FILTER_GAIN = 1 / 16  # of [1, 3, 3, 1] along both axes, summing to 8 each, for an image enlarged by 4
_HUGE_PAGE = 2 << 20
_arena = threading.local()
_NOTHING = torch.empty(0)

# A row of what `layer_styles` reads: LayerStyle of csrc/include/pyface/layer_styles.h. Addresses, then sizes.
LAYER_STYLE = np.dtype(
    [(name, np.int64) for name in (
        "weight", "bias", "head", "squares", "side", "styles", "demod", "side_out",
        "channels", "out_channels", "w_index", "style_stride", "weight_dtype", "squares_dtype",
    )]
    + [(name, np.float64) for name in ("gain", "side_gain", "weight_gain", "bias_gain")]
)  # fmt: skip
# A layer: StyledConvParams of csrc/include/pyface/styled_conv.h, which says what each field is.
STYLED_CONV = np.dtype(
    [(name, np.int64) for name in (
        "x", "weight", "demod", "noise", "noise_strength", "bias", "next_style", "y", "heads", "head_bias",
        "below", "image", "workspace",
        "n", "x_batch", "x_first", "y_batch", "y_first", "in_channels", "out_channels", "in_h", "in_w",
        "head_channels",
    )]
    + [(name, np.float64) for name in ("alpha", "noise_gain", "clamp")]
    + [(name, np.int64) for name in ("chunk_bytes", "number_bytes")]
    + [(name, np.int32) for name in ("dtype", "up", "noise_per_sample", "groups_inside")]
)  # fmt: skip


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
    name: str = _kernels_of(_NOTHING).module.isa()
    return name


def _backend(x: Tensor, backend: str = "auto") -> _native.Backend | None:
    chosen = _native.resolve(x, backend)
    return chosen if chosen is not None and chosen.name == "cpu" else None


def _kernels_of(x: Tensor) -> _native.Backend:
    chosen = _native.resolve(x, "cpu")
    if chosen is None:  # resolve raises where the module is missing
        raise RuntimeError("the CPU kernels are not there")
    return chosen


def padded(channels: int) -> int:
    """`channels` rounded up to what layers work on together."""
    return -(-channels // _GROUP) * _GROUP


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
        kept_plans().clear()
        found = held[name] = _pages(size)
    return found


def is_kept(tensors: Iterable[Tensor]) -> bool:
    """Whether all of `tensors` are memory that this thread still has by the name under which it got it."""
    held: dict[str, Tensor] = _arena.__dict__.get("held", {})
    known = set(map(id, held.values()))
    return all(id(tensor) in known for tensor in tensors)


def kept_plans() -> dict[Hashable, Any]:
    """What this thread keeps from call to call beside its `memory`, emptied when any of that changes."""
    plans: dict[Hashable, Any] = _arena.__dict__.setdefault("plans", {})
    return plans


def release_memory() -> None:
    """Free the memory that fused layers keep for this thread from call to call."""
    _arena.__dict__.pop("held", None)
    _arena.__dict__.pop("plans", None)


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
    """A weight [O, I, 3, 3] in the order in which the CPU convolves with it."""

    def __init__(self, up: int) -> None:
        self.up = up
        self.packed: dict[torch.dtype, Tensor] = {}
        self.squares = torch.empty(0)
        self.read_squares: dict[torch.dtype, Tensor] = {}  # by the element type of layers
        self._seen: tuple[int, int, int] | None = None

    def follow(self, weight: Tensor, fingerprint: int, dtype: torch.dtype) -> Tensor:
        """`weight`, float32 and dense, packed for `dtype`; made anew where it has changed."""
        seen = (weight.data_ptr(), -1 if weight.is_inference() else weight._version, fingerprint)
        if seen != self._seen:
            self.packed = {}
            self._seen = seen
        packed = self.packed.get(dtype)
        if packed is None:
            packed = self.packed[dtype] = self._pack(weight.detach(), dtype)
        return packed

    def _pack(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        k = _kernels_of(weight)
        out_channels, in_channels = weight.shape[:2]
        count = -(-out_channels // _GROUP) * -(-in_channels // _GROUP) * _GROUP**2 * 9
        packed = _pages(count * k.module.styled_number_bytes(DTYPES[dtype]))
        k.run(
            k.module.pack_styled_conv, weight, weight.data_ptr(), packed.data_ptr(), DTYPES[dtype],
            out_channels, in_channels, self.up,
        )  # fmt: skip
        rest = (0, -in_channels % _GROUP, 0, -out_channels % _GROUP)
        self.squares = F.pad(weight.square().sum(dim=(2, 3)), rest).contiguous()
        # Many rounding errors of one sign bit each average out: 1e-5 of the norm of a filter.
        self.read_squares[dtype] = self.squares.to(torch.bfloat16 if dtype == torch.bfloat16 else dtype)
        return packed

    def demodulation(self, styles: Tensor, gain: float) -> Tensor:
        """gain over the norm of every filter times `styles` [N, padded I]: [N, padded O]."""
        k = _kernels_of(styles)
        return _kernels.demodulate(k, self.squares, styles).mul_(self.demodulation_gain(gain))

    def demodulation_gain(self, gain: float) -> float:
        """The gain over the norm of the filters, up-sampling's filter included."""
        return gain * (_FILTER_GAIN if self.up == 2 else 1)


class PackedMatrix(PackedWeight):
    """The matrix of an affine layer, which layers in bfloat16 read in float16: it is read once a call."""

    def __init__(self) -> None:
        super().__init__(up=1)

    def _pack(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        if dtype != torch.bfloat16:
            return weight
        half = weight.to(torch.float16)
        return half if bool(half.isfinite().all()) else weight


def number_bytes(dtype: torch.dtype) -> int:
    """Bytes of a number in activations and packed weights: 6 for float32 on AMX, three of bfloat16."""
    found: int = _kernels_of(_NOTHING).module.styled_number_bytes(DTYPES[dtype])
    return found


def packed_weights(
    weights: Sequence[Tensor], kept: Sequence[PackedWeight], dtype: torch.dtype
) -> list[Tensor]:
    """`weights`, float32 and dense, packed for `dtype`; `kept` holds what was packed before.

    Versions do not tell every change: fused optimisers and writes through `.data` leave them as they are. So
    a line in every 64 KB, or 64 lines at least, is looked at as well. What neither tells is a write through
    `.data` to a small part of a weight.
    """
    module = _kernels_of(weights[0]).module
    places = np.array([(weight.data_ptr(), 4 * weight.numel()) for weight in weights], dtype=np.int64)
    found = np.empty(len(weights), dtype=np.uint64)
    module.fingerprints(places.ctypes.data, len(weights), found.ctypes.data)
    return [
        pack.follow(weight, fingerprint, dtype)
        for pack, weight, fingerprint in zip(kept, weights, found.tolist(), strict=True)
    ]


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
    def new(name: str, dtype: torch.dtype, batch: int, channels: int, size: tuple[int, int]) -> Blocked:
        """Room for the activations of `batch` images in this thread's memory `name`."""
        module = _kernels_of(_NOTHING).module
        data = memory(name, module.blocked_bytes(DTYPES[dtype], batch, channels, *size))
        return Blocked(data, channels, *size, batch, 0, batch)


def block_activations(x: Tensor, scale: int, to: Blocked, dtype: torch.dtype) -> None:
    """`x` [C, H, W] or [N, C, H, W] times `scale`, the address of [N, padded C] in float32, into `to`."""
    x = x.float().contiguous()
    k = _kernels_of(x)
    k.run(
        k.module.block_activations, x, x.data_ptr(), scale, to.data.data_ptr(), DTYPES[dtype],
        to.n, to.channels, to.height, to.width, x.ndim == 3,
    )  # fmt: skip


def styled_convs(layers: NDArray[np.void], like: Tensor) -> None:
    """Run `layers` (rows of `STYLED_CONV`), one after another.

    v = clamp(lrelu(conv(x) * demod + noise + bias)); y = v * next_style; image = heads . v + head_bias + the
    image below enlarged. chunk_bytes and groups_inside say how the work is cut; results do not depend on it.
    """
    k = _kernels_of(like)
    place, count = layers.ctypes.data, len(layers)
    workspace = memory("workspace", k.module.styled_convs_workspace(place, count, torch.get_num_threads()))
    k.run(k.module.styled_convs, like, place, count, workspace.data_ptr())


def layer_styles(layers: NDArray[np.void], ws: Tensor) -> None:
    """What `layers` (rows of `LAYER_STYLE`) take from ws [N, num_ws, w_dim], float32 and dense, N <= 16."""
    k = _kernels_of(ws)
    k.run(k.module.layer_styles, ws, layers.ctypes.data, len(layers), ws.data_ptr(), *ws.shape)
