"""One whole synthesis on CUDA for a batch size, element types and kinds of noise, planned once.

A program owns every tensor that it reads and writes, at addresses that stay: running it allocates nothing of
its own, and a CUDA graph of it can be replayed. Activations are NHWC and lie in two places by turns; each
has been multiplied by the style of the layer that reads it, where the layer that wrote it could do so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyface.models._stylegan2_cuda_weights import CudaWeights, StyleUse
from pyface.models._stylegan2_engine_network import KnownLayer
from pyface.nn.conv import activation_gain
from pyface.ops import _kernels, convolution_choice
from pyface.ops._checks import Resampling
from pyface.ops._composition import DEMODULATION_EPS, Conv, Epilogue
from pyface.ops._dispatch import epilogue_settings
from pyface.ops._kernels import Finish, Heads
from pyface.ops._native import Backend
from pyface.ops.convolution_choice import ConvShape

__all__ = ["Program", "ProgramKey", "Route", "head_clamp", "routes"]

_ALIGNMENT = 256  # bytes
_F16_CLAMP = 256.0
_TINY = 1e-30
_PLAIN = Conv((1, 1), (1, 1))
_FILTERED = Resampling(1, 1, 1, 1, 1, 1, 1, 1, False, 4.0)  # behind a transposed convolution of stride 2


class ProgramKey(NamedTuple):
    """What a program was planned for.

    dtypes: of each layer. noise: of each layer "" (none), "const" (its own), "shared" by all images, or "own"
    of each image.
    """

    n: int
    dtypes: tuple[torch.dtype, ...]
    noise: tuple[str, ...]


class Route(NamedTuple):
    """How a layer goes.

    ours: by our kernel, else torch's convolution and our epilogue. fused: its image comes out of the same
    kernel. styled: its input has yet to be multiplied by its style. workspace: bytes that it needs.
    """

    ours: bool
    fused: bool
    styled: bool
    workspace: int


def head_clamp(conv_clamp: float | None, dtype: torch.dtype) -> float:
    """The clamp of a layer in `dtype`; float16 overflows without one. -1 means none."""
    if conv_clamp is None:
        return _F16_CLAMP if dtype == torch.float16 else -1.0
    return conv_clamp


def _epilogue(layer: KnownLayer, dtype: torch.dtype) -> Epilogue:
    act = layer.conv.activation
    clamp = head_clamp(layer.conv.conv_clamp, dtype)
    return epilogue_settings("synthesis", act, None, activation_gain(act), None if clamp < 0 else clamp)


def routes(k: Backend, device: torch.device, layers: Sequence[KnownLayer], key: ProgramKey) -> list[Route]:
    """How each layer goes, as `convolution_choice` says."""
    found: list[Route] = []
    styled = False
    capability = k.capability(device)
    for layer, dtype in zip(layers, key.dtypes, strict=True):
        size, up = layer.conv.size, layer.conv.up == 2
        height, width = (size[0] + 1, size[1] + 1) if up else size  # before the filter
        channels = (layer.in_channels, layer.out_channels)
        shape = ConvShape("conv", "", key.n, *channels, height, width, 3, 2 if up else 1, up)
        fused, workspace = False, 0
        if not up:
            e = _epilogue(layer, dtype)
            plan = _kernels.layer_plan(
                k, device, dtype, key.n, channels, size, styled, e, layer.head_channels
            )
            fused, workspace = plan.fused_heads, plan.workspace_bytes
        ours = convolution_choice.choose(capability, shape, dtype, fused) == "pyface"
        fused = fused and ours
        found.append(Route(ours, fused, styled, workspace if ours else 0))
        styled = bool(layer.heads) and not fused
    return found


class Program:
    """Images [n, C, H, W] in `image` of what `load` has been given, by `run`. `bytes`: of its tensors.

    Args:
        k: the back-end.
        layers: of the network.
        weights: made of its parameters.
        filters: low-pass taps [4, 4] of each layer (of images and, where it doubles the size, of features).
        ws: number of ws and their size.
        key: what to plan for.
    """

    def __init__(
        self,
        k: Backend,
        layers: Sequence[KnownLayer],
        weights: CudaWeights,
        filters: Sequence[Tensor],
        ws: tuple[int, int],
        key: ProgramKey,
    ) -> None:
        self.key, self.device, self.bytes = key, weights.device, 0
        self._k, self._layers, self._weights, self._filters = k, layers, weights, filters
        self.routes = routes(k, self.device, layers, key)
        self._steps: list[Callable[[], object]] = []
        self._ws = self._new(ws[0], key.n, ws[1])
        self._noise = [self._noise_room(layer, kind) for layer, kind in zip(layers, key.noise, strict=True)]
        self._styles = _Styles(layers, weights, self._ws, key, self._steps)
        self._places = self._arena()
        self._turn = 0
        self._workspace = self._new(max(route.workspace for route in self.routes) // 4)
        channels = layers[-1].head_channels
        self.image = self._new(key.n, channels, *layers[-1].conv.size)
        self._plan()

    def _new(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        self.bytes += math.prod(shape) * dtype.itemsize
        return torch.empty(shape, dtype=dtype, device=self.device)

    def load(self, ws: Tensor, noise: Sequence[Tensor | None]) -> None:
        """Take ws [n, num_ws, w_dim] and the noise of each layer (None where the program knows it)."""
        self._ws.copy_(ws.transpose(0, 1))
        for layer, room, kind, values in zip(self._layers, self._noise, self.key.noise, noise, strict=True):
            if kind in ("shared", "own") and room is not None and values is not None:
                torch.mul(values.reshape(room.shape), layer.conv.noise_strength.detach(), out=room)

    def run(self) -> None:
        """Make the images of what was loaded last."""
        for step in self._steps:
            step()

    def _noise_room(self, layer: KnownLayer, kind: str) -> Tensor | None:
        if kind == "const":
            return self._weights.noise(layer)
        return self._new(self.key.n if kind == "own" else 1, 1, *layer.conv.size) if kind else None

    def _arena(self) -> list[Tensor]:
        """Two places, each as large as the largest of the activations that lie there."""
        most = [0, 0]
        for place, (count, dtype) in enumerate(self._activations()):
            most[place % 2] = max(most[place % 2], -(-count * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT)
        whole = self._new(sum(most), dtype=torch.uint8)
        return [whole[: most[0]], whole[most[0] :]]

    def _activations(self) -> list[tuple[int, torch.dtype]]:
        """Count and element type of all activations, in the order in which `_plan` makes them."""
        first, before = self._layers[0], self.key.dtypes[0]
        found = [(self.key.n * first.in_channels * math.prod(first.conv.size), before)]
        for layer, dtype in zip(self._layers, self.key.dtypes, strict=True):
            if dtype != before:
                found.append((found[-1][0], dtype))
            found.append((self.key.n * layer.out_channels * math.prod(layer.conv.size), dtype))
            before = dtype
        return found

    def _room(self, channels: int, size: tuple[int, int], dtype: torch.dtype) -> Tensor:
        """The next activations [n, channels, *size], channels_last."""
        place = self._places[self._turn % 2]
        self._turn += 1
        shape = (self.key.n, *size, channels)
        return place[: math.prod(shape) * dtype.itemsize].view(dtype).view(shape).permute(0, 3, 1, 2)

    def _plan(self) -> None:
        first, dtype = self._layers[0], self.key.dtypes[0]
        x = self._room(first.in_channels, first.conv.size, dtype)
        const, style = self._weights.const(), self._styles.of[first.conv][:, :, None, None]
        self._steps.append(_multiplying(const, style, x))
        below: Tensor | None = None
        for index, layer in enumerate(self._layers):
            dtype = self.key.dtypes[index]
            if x.dtype != dtype:
                before, x = x, self._room(layer.in_channels, (x.shape[2], x.shape[3]), dtype)
                self._steps.append(_copying(before, x))
            heads = self._heads(layer, dtype, index, below) if layer.heads else None
            below = below if heads is None else heads.out
            x = self._up(index, x) if layer.conv.up == 2 else self._same_size(index, x, heads)

    def _heads(self, layer: KnownLayer, dtype: torch.dtype, index: int, below: Tensor | None) -> Heads:
        """Pictures of a layer, with the steps that make their weights."""
        weight = self._new(self.key.n, layer.head_channels, layer.out_channels)
        done = 0
        for head in layer.heads:
            count = head.weight.shape[0]
            rows, style = weight[:, done : done + count], self._styles.of[head].unsqueeze(1)
            self._steps.append(_multiplying(self._weights.head(head), style, rows))
            done += count
        last = index == len(self._layers) - 1
        image = self.image if last else self._new(self.key.n, layer.head_channels, *layer.conv.size)
        bias, clamp = self._weights.head_bias(layer), head_clamp(layer.heads[0].conv_clamp, dtype)
        taps = None if below is None else self._filters[index]
        return Heads(weight, bias, below, taps, clamp=clamp, out=image)

    def _finish(self, index: int) -> Finish:
        """The epilogue of a layer, with the next one's style where its input is multiplied by then."""
        layer, following = self._layers[index], index + 1
        style = None
        if following < len(self._layers) and not self.routes[following].styled:
            style = self._styles.of[self._layers[following].conv]
        return Finish(
            _epilogue(layer, self.key.dtypes[index]),
            self._styles.demod[layer.conv],
            self._noise[index],
            self._weights.bias(layer),
            style,
        )

    def _style(self, index: int, x: Tensor) -> Tensor | None:
        """The style that our kernel multiplies x by; where torch convolves, x is multiplied before it."""
        if not self.routes[index].styled:
            return None
        style = self._styles.of[self._layers[index].conv]
        if self.routes[index].ours:
            return style
        self._steps.append(_multiplying(x, style[:, :, None, None], x))
        return None

    def _up(self, index: int, x: Tensor) -> Tensor:
        k, layer, taps = self._k, self._layers[index], self._filters[index]
        style, finish, ours = self._style(index, x), self._finish(index), self.routes[index].ours
        w = self._weights.filters(layer, x.dtype, transposed=not ours)
        y = self._room(layer.out_channels, layer.conv.size, x.dtype)
        if ours:
            self._steps.append(lambda: _kernels.upconv2d(k, x, w, taps, style, finish, out=y))
            return y

        def by_torch() -> None:
            wide = torch.convolution(x, w, None, (2, 2), (0, 0), (1, 1), True, (0, 0), 1)
            wide = wide.contiguous(memory_format=torch.channels_last)
            _kernels.upfirdn2d(k, wide, taps, _FILTERED, y)
            _finished(k, y, finish, y)

        self._steps.append(by_torch)
        return y

    def _same_size(self, index: int, x: Tensor, heads: Heads | None) -> Tensor:
        k, layer, route = self._k, self._layers[index], self.routes[index]
        style, finish, workspace = self._style(index, x), self._finish(index), self._workspace
        w = self._weights.filters(layer, x.dtype, transposed=False)
        y = self._room(layer.out_channels, layer.conv.size, x.dtype)
        inside = heads if route.fused else None
        if route.ours:
            wanted = None if route.fused and index == len(self._layers) - 1 else y
            self._steps.append(
                lambda: _kernels.conv2d(
                    k, x, w, _PLAIN, style, finish, inside, False, out=wanted, workspace=workspace
                )
            )
        else:
            self._steps.append(lambda: _finished(k, torch.convolution(x, w, *_SAME_SIZE), finish, y))
        if heads is not None and not route.fused:
            self._steps.append(lambda: _kernels.conv2d_heads(k, y, heads))
        return y


_SAME_SIZE = (None, (1, 1), (1, 1), (1, 1), False, (0, 0), 1)


def _finished(k: Backend, sums: Tensor, f: Finish, y: Tensor) -> None:
    """The epilogue over what torch has summed, into `y`."""
    sums = sums.contiguous(memory_format=torch.channels_last)
    if f.epilogue is not None:
        _kernels.conv_epilogue(k, sums, f.demod, f.noise, f.bias, f.next_style, f.epilogue, out=y)


def _copying(source: Tensor, to: Tensor) -> Callable[[], object]:
    return lambda: to.copy_(source)


def _multiplying(a: Tensor, b: Tensor, to: Tensor) -> Callable[[], object]:
    return lambda: torch.mul(a, b, out=to)


class _Styles:
    """Styles [n, C] of all affine layers and demodulation [n, O] of all convolutions, in few products.

    Layers with the same number of channels are one product; those in float16 apart, whose styles are divided
    by their largest magnitude (demodulation takes that out again).
    """

    def __init__(
        self,
        layers: Sequence[KnownLayer],
        weights: CudaWeights,
        ws: Tensor,
        key: ProgramKey,
        steps: list[Callable[[], object]],
    ) -> None:
        self.of: dict[object, Tensor] = {}
        self.demod: dict[object, Tensor] = {}
        self._weights, self._n, self._steps, self._device = weights, key.n, steps, weights.device
        by_conv: dict[object, tuple[KnownLayer, torch.dtype]] = {
            layer.conv: (layer, dtype) for layer, dtype in zip(layers, key.dtypes, strict=True)
        }
        ordered = sorted(layers, key=lambda layer: layer.out_channels)  # equal shapes side by side
        uses = [
            StyleUse(layer.conv, layer.w_index, layer.in_channels, by_conv[layer.conv][1] == torch.float16)
            for layer in ordered
        ]
        uses += [
            StyleUse(head, layer.w_index + 1, layer.out_channels, False)
            for layer in layers
            for head in layer.heads
        ]
        uses.sort(key=lambda use: (use.channels, use.unit))
        groups: dict[tuple[int, bool], list[StyleUse]] = {}
        for use in uses:
            groups.setdefault((use.channels, use.unit), []).append(use)
        styles = self._new(key.n * sum(use.channels for use in uses))
        self._make_styles(list(groups.values()), ws, styles)
        self._make_demodulation(groups, by_conv, styles)

    def _new(self, *shape: int) -> Tensor:
        return torch.empty(shape, device=self._device)

    def _make_styles(self, groups: Sequence[Sequence[StyleUse]], ws: Tensor, styles: Tensor) -> None:
        uses = [use for group in groups for use in group]
        index = torch.tensor([use.w_index for use in uses], device=self._device)
        taken = self._new(len(uses), *ws.shape[1:])
        self._steps.append(lambda: torch.index_select(ws, 0, index, out=taken))
        done = start = 0
        for group in groups:
            channels, count = group[0].channels, len(group)
            rows = styles[start : start + count * self._n * channels].view(count, self._n, channels)
            self._steps += _style_steps(
                taken[done : done + count], *self._weights.affines(group), rows, group[0].unit
            )
            for use, row in zip(group, rows, strict=True):
                self.of[use.owner] = row
            done, start = done + count, start + rows.numel()

    def _make_demodulation(
        self,
        groups: dict[tuple[int, bool], list[StyleUse]],
        by_conv: dict[object, tuple[KnownLayer, torch.dtype]],
        styles: Tensor,
    ) -> None:
        squares = torch.empty_like(styles)
        self._steps.append(lambda: torch.mul(styles, styles, out=squares))
        demod = self._new(self._n * sum(layer.out_channels for layer, _ in by_conv.values()))
        eps = torch.full((1, 1, 1), DEMODULATION_EPS, device=self._device)
        start = end = 0
        for (channels, _), group in groups.items():
            runs: dict[tuple[int, torch.dtype], list[KnownLayer]] = {}
            for use in group:
                if use.owner in by_conv:
                    layer, dtype = by_conv[use.owner]
                    unit = (
                        dtype if use.unit else torch.float32
                    )  # of 16 bits, float16 alone has weights of its own
                    runs.setdefault((layer.out_channels, unit), []).append(layer)
            at = start
            for (outputs, dtype), run in runs.items():
                count = len(run)
                inside = squares[at : at + count * self._n * channels].view(count, self._n, channels)
                rows = demod[end : end + count * self._n * outputs].view(count, self._n, outputs)
                self._steps.append(_product(eps, inside, self._weights.squares(run, dtype), rows))
                for layer, row in zip(run, rows, strict=True):
                    self.demod[layer.conv] = row
                at, end = at + inside.numel(), end + rows.numel()
            start += len(group) * self._n * channels
        self._steps.append(lambda: demod.rsqrt_())


def _style_steps(
    ws: Tensor, weight: Tensor, bias: Tensor, rows: Tensor, unit: bool
) -> list[Callable[[], object]]:
    """Steps that make styles [uses, n, C] of ws [uses, n, w_dim]."""
    steps = [_product(bias, ws, weight, rows)]
    if unit:
        largest = rows.new_empty(*rows.shape[:2], 1)
        steps.append(lambda: torch.linalg.vector_norm(rows, math.inf, dim=-1, keepdim=True, out=largest))
        steps.append(lambda: largest.clamp_(min=_TINY))
        steps.append(lambda: rows.div_(largest))
    return steps


def _product(add: Tensor, a: Tensor, b: Tensor, to: Tensor) -> Callable[[], object]:
    return lambda: torch.baddbmm(add, a, b, out=to)
