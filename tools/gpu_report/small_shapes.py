"""Small shapes through every kernel, each result compared with float64 on the CPU.

compute-sanitizer watches this on the GPU (part `sanitizer`); the tests run the same calls on the emulator.
"""

from __future__ import annotations

import contextlib
import copy
from collections import Counter
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor

from gpu_report.record import PartError
from pyface import ops
from pyface.models import GeneratorConfig, StyleGAN2Generator
from pyface.models._stylegan2_cuda import cuda_dtypes
from pyface.ops import _gradient_kernels, _kernels, _native, convolution_choice
from pyface.ops._composition import Conv, Epilogue, WeightForm
from pyface.ops.activations import ACTIVATIONS

__all__ = ["run_small_shapes"]

# Largest error of one kernel, over the largest value of its output.
LIMITS = {
    torch.float32: 1e-5,
    torch.float16: 4e-3,
    torch.bfloat16: 3e-2,
    torch.float64: 1e-11,
}
CONV_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SYNTHESIS_LIMITS = {"float32": 5e-5, "float16": 0.02, "bfloat16": 0.15}  # over the image's deviation
GRADIENT_LIMITS = {"float32": 1e-4, "bfloat16": 0.15}  # norms, over those of the gradients
CONV_TILES, PATCH_TILES, UPCONV_TILES = (-1, 0, 1, 2, 3), (4, 5, 6), (-1, 0, 1, 2)
_ONE, _TWO = (1, 1), (2, 2)
_LAST = torch.channels_last


class _Target:
    """The back-end under test, and the count of comparisons by kind.

    k: its kernels; device: where its tensors lie; wanted: the `backend` argument of ops; tensor_cores:
    whether it convolves in 16 bits (compute capability 8.0 and up).
    """

    def __init__(self, name: str) -> None:
        if name == "cuda":
            found = _native._load("cuda")
        else:
            found = _native._override or "the emulator is not in use"
        if isinstance(found, str):
            raise PartError(f"the small shapes cannot run: {found}")
        self.k = found
        self.device, self.wanted = ("cuda", "cuda") if name == "cuda" else ("cpu", "auto")
        capability = found.capability(torch.device(self.device, 0))
        self.tensor_cores = capability is None or capability >= (8, 0)
        self.compared: Counter[str] = Counter()
        self._numbers = torch.Generator().manual_seed(0)

    def drawn(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Numbers from -1 to 1 on the CPU, such as `dtype` has."""
        return (torch.rand(shape, generator=self._numbers) * 2 - 1).to(dtype)

    def put(self, t: Tensor | None) -> Any:
        """On the device; its memory layout stays."""
        return None if t is None else t.to(self.device)

    def compare(self, kind: str, case: Any, got: Tensor | None, truth: Tensor, limit: float) -> None:
        """Raises PartError where `got` is missing or off by more than `limit` of the largest value."""
        if got is None or got.shape != truth.shape:
            found = None if got is None else list(got.shape)
            raise PartError(f"{kind} {case}: shape {found} instead of {list(truth.shape)}")
        scale = truth.abs().max().clamp(min=1e-6)
        error = float((got.detach().cpu().double() - truth).abs().max() / scale)
        if not error <= limit:
            raise PartError(f"{kind} {case}: error {error:.3g}, allowed {limit:.3g}")
        self.compared[kind] += 1


def run_small_shapes(backend: str) -> dict[str, int]:
    """How many results of each kind were compared; every kernel that the device has runs at least once.

    Args:
        backend: "cuda", or "emu" for the same launches in the emulator.

    Raises:
        PartError: a result is wrong, or the back-end cannot run.
    """
    with contextlib.ExitStack() as stack:
        if backend == "emu":
            stack.enter_context(_native.use("emu", schedule=2))
        t = _Target(backend)
        # torch's own convolutions would round to TF32, and cuDNN would take a part of ours.
        stack.enter_context(torch.backends.cudnn.flags(torch.backends.cudnn.enabled, False, True, False))
        if t.tensor_cores:
            stack.enter_context(mock.patch.object(convolution_choice, "choose", return_value="pyface"))
        _public_ops(t)
        for dtype in CONV_DTYPES if t.tensor_cores else CONV_DTYPES[:1]:
            _convolutions(t, dtype)
            _heads(t, dtype)
            _up_convolutions(t, dtype)
            _weights(t, dtype)
            _weight_gradients(t, dtype)
            _epilogue_gradients(t, dtype)
        for precision in SYNTHESIS_LIMITS if t.tensor_cores else ("float32",):
            _synthesis(t, precision)
        for precision in GRADIENT_LIMITS:
            _training(t, precision)
    return dict(t.compared)


# ---- the public ops


def _public_ops(t: _Target) -> None:
    """Every op, in odd and even sizes and both memory layouts."""
    for dtype in LIMITS:
        for shape in ((2, 8, 17, 20), (1, 3, 7, 9)):
            for layout in (torch.contiguous_format, _LAST):
                _ops_on(t, t.drawn(*shape, dtype=dtype).contiguous(memory_format=layout))


def _ops_on(t: _Target, x: Tensor) -> None:
    n, c = x.shape[:2]
    values = {
        "x": x, "b": t.drawn(c, dtype=x.dtype), "w": t.drawn(4, c, 3, 3, dtype=x.dtype),
        "s": t.drawn(n, c, dtype=x.dtype), "f": ops.setup_filter([1, 3, 3, 1]),
    }  # fmt: skip
    found = _results({name: t.put(v) for name, v in values.items()}, t.wanted)
    wide = {name: v if name == "f" else v.double() for name, v in values.items()}
    truths = _results(wide, "reference")
    for name, truth in truths.items():
        limit = LIMITS[x.dtype] * (4 if name == "modulated_conv2d" else 1)
        t.compare(name, (x.dtype, tuple(x.shape), x.stride()), found[name], truth, limit)


def _results(values: dict[str, Tensor], backend: str) -> dict[str, Tensor]:
    x, b, w, s, f = values.values()
    return {
        "bias_act": ops.bias_act(x, b, act="lrelu", clamp=2.0, backend=backend),
        "bias_act swish": ops.bias_act(x, b, act="swish", backend=backend),
        "upfirdn2d up": ops.upfirdn2d(x, f, up=2, padding=[2, 1, 2, 1], gain=4, backend=backend),
        "upfirdn2d down": ops.upfirdn2d(x, f, down=2, padding=1, backend=backend),
        "upfirdn2d": ops.upfirdn2d(x, f, padding=[2, 1, 2, 1], backend=backend),
        "modulated_conv2d": ops.modulated_conv2d(x, w, s, padding=1, backend=backend),
    }


# ---- convolutions


class _ConvCase(NamedTuple):
    """x [n, i, h, w], its output channels o and how the launch is chosen."""

    n: int
    h: int
    w: int
    i: int
    o: int
    kernel: int = 3
    c: Conv = Conv(_ONE, _ONE)
    tile: int = -1
    splits: int = 0
    act: str = "lrelu"


def _conv_cases(dtype: torch.dtype) -> list[_ConvCase]:
    """Ragged everywhere. float32 has no tiles: its kernel takes what is the same for all of them."""
    cases = [
        _ConvCase(2, 5, 6, 13, 19),  # rows that are not aligned
        _ConvCase(1, 5, 6, 16, 24, act="swish"),  # in two passes
        _ConvCase(5, 4, 4, 16, 24),  # images share tiles
        _ConvCase(2, 5, 6, 8, 16, c=Conv(_ONE, _ONE, True)),
        _ConvCase(2, 5, 6, 8, 16, kernel=1, c=Conv(_TWO)),
    ]
    for tile in CONV_TILES if dtype != torch.float32 else CONV_TILES[:1]:
        cases += [
            _ConvCase(2, 7, 9, 8, 72, tile=tile),
            _ConvCase(1, 6, 7, 40, 36, kernel=1, c=Conv(), tile=tile),
            _ConvCase(2, 9, 11, 8, 36, c=Conv(_TWO, _ONE), tile=tile),
            _ConvCase(1, 6, 5, 8, 33, c=Conv(_TWO, (0, 0), True), tile=tile),
            _ConvCase(1, 4, 5, 8, 24, c=Conv(_TWO, _ONE, True, _ONE), tile=tile),
            _ConvCase(2, 6, 5, 24, 24, tile=tile, splits=3),
        ]
    for tile in PATCH_TILES if dtype != torch.float32 else ():
        cases.append(_ConvCase(2, 9, 17, 40 if tile == 6 else 8, 40, c=Conv(_ONE, _ONE), tile=tile))
    return cases


def _convolutions(t: _Target, dtype: torch.dtype) -> None:
    for case in _conv_cases(dtype):
        x, w = _conv_inputs(t, case, dtype)
        finish = _drawn_finish(t, case, _kernels.conv_output_size(x, w, case.c))
        style = t.drawn(case.n, case.i) + 1.5
        y, _ = _kernels.conv2d(
            t.k, t.put(x), t.put(w), case.c, t.put(style), _put_finish(t, finish),
            tile=case.tile, splits=case.splits,
        )  # fmt: skip
        truth = _finished(_sums(x, w, case.c, style), case, finish)
        t.compare("conv2d", (dtype, case), y, truth, LIMITS[dtype])


def _conv_inputs(t: _Target, case: _ConvCase, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    x = t.drawn(case.n, case.i, case.h, case.w, dtype=dtype)
    return x, t.drawn(case.o, case.i, case.kernel, case.kernel, dtype=dtype)


def _drawn_finish(t: _Target, case: _ConvCase, size: tuple[int, int]) -> _kernels.Finish:
    """With a next style, but where the tile's number is 1 or 3; noise of each image, or one for all."""
    e = Epilogue(ACTIVATIONS[case.act], 0.2, 2**0.5, 4.0)
    noise = t.drawn(case.n if case.tile % 2 else 1, 1, *size)
    next_style = None if case.tile in (1, 3) else t.drawn(case.n, case.o)
    return _kernels.Finish(e, t.drawn(case.n, case.o), noise, t.drawn(case.o), next_style)


def _put_finish(t: _Target, f: _kernels.Finish) -> _kernels.Finish:
    return _kernels.Finish(f.epilogue, *(t.put(value) for value in f[1:]))


def _sums(x: Tensor, w: Tensor, c: Conv, style: Tensor | None) -> Tensor:
    """The convolution of float64 numbers, by torch."""
    x = x.double() if style is None else x.double() * style.double()[:, :, None, None]
    weight = w.double().transpose(0, 1) if c.transposed else w.double()
    return torch.convolution(x, weight, None, c.stride, c.padding, _ONE, c.transposed, c.output_padding, 1)


def _finished(v: Tensor, case: _ConvCase, f: _kernels.Finish) -> Tensor:
    """What `f` makes of float64 sums."""
    values: Any = {
        name: value.double()
        for name, value in f._asdict().items()
        if name != "epilogue" and value is not None
    }
    return ops.conv_epilogue(
        v, **values, act=case.act, alpha=0.2, gain=2**0.5, clamp=4.0, backend="reference"
    )  # fmt: skip


def _heads(t: _Target, dtype: torch.dtype) -> None:
    """Images out of a convolution, over a skip of half the size and added to one that is there."""
    tiles = (*CONV_TILES, *PATCH_TILES) if dtype != torch.float32 else CONV_TILES[:1]
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    for tile in tiles:
        count, splits = 3 + tile % 2, 2 if tile == -1 else 0  # those of a split sum are a pass of their own
        case = _ConvCase(2, 8, 8, 8, {0: 72, 4: 72, 3: 32, 6: 24}.get(tile, 40), tile=tile, splits=splits)
        x, w = _conv_inputs(t, case, dtype)
        finish = _drawn_finish(t, case, (8, 8))
        if splits or dtype == torch.float32:
            finish = finish._replace(next_style=None)
        weight, bias = t.drawn(2, count, case.o), t.drawn(count)
        v = _finished(_sums(x, w, case.c, None), case, finish._replace(next_style=None))
        rgb = torch.einsum("nko,nohw->nkhw", weight.double(), v) + bias.double()[None, :, None, None]
        skip = t.drawn(2, count, 4, 4)
        up = ops.upsample2d(skip.double(), torch.outer(taps, taps), backend="reference")
        old = t.drawn(2, count, 8, 8)
        for with_skip in (True, False):
            below = {"skip": skip, "skip_filter": torch.outer(taps, taps)} if with_skip else {"image": old}
            heads = _kernels.Heads(
                t.put(weight), t.put(bias), **{name: t.put(image.clone()) for name, image in below.items()},
                clamp=16.0,
            )  # fmt: skip
            _, image = _kernels.conv2d(
                t.k, t.put(x), t.put(w), case.c, None, _put_finish(t, finish), heads, keep_y=with_skip,
                tile=tile, splits=splits,
            )  # fmt: skip
            truth = rgb.clamp(-16, 16) + (up if with_skip else old.double())
            t.compare("conv2d heads", (dtype, case, with_skip), image, truth, LIMITS[dtype])


def _up_convolutions(t: _Target, dtype: torch.dtype) -> None:
    n, i, o = 2, 16, 24
    tiles = UPCONV_TILES if dtype != torch.float32 else UPCONV_TILES[:1]
    for tile in tiles:
        for (h, w), channels, steps, separable in (
            ((5, 9), i, 0, True),
            ((11, 6), i - 3 * (tile < 0), 1, False),
        ):
            f = ops.setup_filter([1, 3, 3, 1], separable=separable)
            x, weight = t.drawn(n, channels, h, w, dtype=dtype), t.drawn(o, channels, 3, 3)
            styles, act = t.drawn(n, channels) + 1.5, "swish" if tile == -1 and steps else "lrelu"
            noise, bias = t.drawn(n, 1, 2 * h, 2 * w), t.drawn(o)
            weight_sq = weight.square().sum([2, 3])
            demod = _kernels.demodulate(t.k, t.put(weight_sq), t.put(styles))
            packed = _kernels.pack_weight(t.k, t.put(weight), WeightForm(dtype))
            e = Epilogue(ACTIVATIONS[act], 0.2, 2**0.5, 2.5)
            finish = _kernels.Finish(e, demod, t.put(noise), t.put(bias))
            y = _kernels.upconv2d(
                t.k, t.put(x), packed, t.put(f), t.put(styles), finish, tile=tile, steps=steps
            )
            truth = ops.modulated_conv2d_act(
                x.double(), weight.double(), styles.double(), noise.double(), up=2, padding=1,
                resample_filter=f, flip_weight=False, bias=bias.double(), act=act, gain=2**0.5, clamp=2.5,
                backend="reference",
            )  # fmt: skip
            t.compare("upconv2d", (dtype, (h, w), channels, tile, steps), y, truth, LIMITS[dtype])


# ---- gradients


def _weights(t: _Target, dtype: torch.dtype) -> None:
    """Weights packed, turned and exchanged, and the adjoint of that."""
    w = t.drawn(19, 13, 3, 3)
    for flip, transposed in ((False, False), (True, False), (True, True)):
        form = WeightForm(dtype, 0.5, flip, transposed)
        truth = w.double().flip([2, 3] if flip else []) * 0.5
        packed = _kernels.pack_weight(t.k, t.put(w), form)
        t.compare("pack_weight", form, packed, truth.transpose(0, 1) if transposed else truth, LIMITS[dtype])
        unpacked = _kernels.unpack_weight(t.k, packed, form)
        t.compare("unpack_weight", form, unpacked, w.double() * 0.25, LIMITS[dtype])


def _weight_gradients(t: _Target, dtype: torch.dtype) -> None:
    for case in (
        _ConvCase(2, 7, 9, 16, 24),
        _ConvCase(3, 9, 7, 13, 19),
        _ConvCase(2, 9, 11, 8, 40, c=Conv(_TWO, _ONE)),
        _ConvCase(2, 6, 5, 8, 24, c=Conv(_TWO, (0, 0), True)),
        _ConvCase(2, 6, 5, 40, 8, kernel=1, c=Conv()),
    ):
        x, w = _conv_inputs(t, case, dtype)
        c, size = case.c, _kernels.conv_output_size(x, w, case.c)
        weight = w.transpose(0, 1) if c.transposed else w
        dy = t.drawn(case.n, case.o, *size, dtype=dtype)
        dw = _gradient_kernels.conv2d_weight_grad(t.k, t.put(dy), t.put(x), weight.shape, c)
        truth = torch.ops.aten.convolution_backward.default(
            dy.double(), x.double(), weight.double(), None, c.stride, c.padding, _ONE, c.transposed,
            c.output_padding, 1, (False, True, False),
        )[1]  # fmt: skip
        t.compare("conv2d_weight_grad", (dtype, case), dw, truth, LIMITS[dtype])


def _epilogue_gradients(t: _Target, dtype: torch.dtype) -> None:
    names = ("x", "demod", "noise", "bias", "next_style")
    for act, n, c, samples in (("lrelu", 2, 12, 2), ("swish", 3, 40, 1), ("linear", 2, 5, 2)):
        x = t.drawn(n, c, 5, 6, dtype=dtype).contiguous(memory_format=_LAST)
        small = (t.drawn(n, c) + 1.5, t.drawn(samples, 1, 5, 6), t.drawn(c), t.drawn(n, c))
        wide: list[Any] = [v.double().requires_grad_(True) for v in (x, *small)]
        settings: Any = {"act": act, "alpha": 0.2, "gain": 2**0.5, "backend": "reference"}
        named = dict(zip(names, wide, strict=True))
        y = ops.conv_epilogue(**named, **settings, clamp=2.0)
        free = ops.conv_epilogue(**{**named, "next_style": None}, **settings).detach()
        smooth = ((free.abs() - 2.0).abs() > 0.05) & (free.abs() > 0.01)  # roundings end on the same side
        dy = (t.drawn(n, c, 5, 6) * smooth).to(dtype)
        e = Epilogue(ACTIVATIONS[act], 0.2, 2**0.5, 2.0)
        found = _gradient_kernels.conv_epilogue_grad(
            t.k, t.put(dy), _gradient_kernels.EpilogueInputs(*(t.put(v) for v in (x, *small))), e, (True,) * 5
        )
        for name, got, truth in zip(names, found, torch.autograd.grad(y, wide, dy.double()), strict=True):
            t.compare("conv_epilogue_grad", (dtype, act, name), got, truth, LIMITS[dtype])


# ---- networks


def _generator(side: int, **settings: Any) -> tuple[StyleGAN2Generator, StyleGAN2Generator]:
    """A small generator whose noise and biases matter, and the same in float64 on the torch reference."""
    torch.manual_seed(0)
    sizes: Any = {"channel_base": 128, "channel_max": 16, "z_dim": 16, "w_dim": 16, "mapping_layers": 1}
    network = StyleGAN2Generator(GeneratorConfig(side, **sizes, **settings)).eval()
    for name, parameter in network.named_parameters():
        if name.endswith("noise_strength"):
            parameter.data.fill_(0.2)
        elif name.endswith("bias"):
            parameter.data.add_(torch.randn_like(parameter) * 0.2)
    truth = StyleGAN2Generator(GeneratorConfig(side, **sizes))
    truth.load_state_dict(network.state_dict())
    module: Any
    for module in truth.modules():
        if hasattr(module, "backend"):
            module.backend = "reference"
    return network, truth.eval().double()


def _synthesis(t: _Target, precision: str) -> None:
    """A whole synthesis without gradients, planned and run twice without a CUDA graph."""
    network, reference = _generator(16)
    network = copy.deepcopy(network).requires_grad_(False).to(t.device)
    network.synthesis.cuda_graphs = False
    for _ in range(2):
        ws = t.drawn(2, network.num_ws, network.w_dim)
        if cuda_dtypes(network.synthesis, t.put(ws), precision) is None:
            raise PartError("the synthesis does not take the kernels for CUDA")
        image = network.synthesis(t.put(ws), noise_mode="const", precision=precision)
        with torch.no_grad():
            truth = reference.synthesis(ws.double(), noise_mode="const")
        limit = SYNTHESIS_LIMITS[precision] * float(truth.std() / truth.abs().max())
        t.compare("synthesis", precision, image, truth, limit)
    network.synthesis.release_memory()


def _training(t: _Target, precision: str) -> None:
    """One forward and backward pass of a generator: the gradients of all its parameters."""
    settings: Any = {} if precision == "float32" else {"num_16bit_res": 2, "precision_16bit": precision}
    network, reference = _generator(8, **settings)
    network = network.to(t.device)
    z, direction = t.drawn(2, 16), t.drawn(2, 3, 8, 8)
    for one, dtype, device in ((network, torch.float32, t.device), (reference, torch.float64, "cpu")):
        images = one.synthesis(one.mapping(z.to(device, dtype), None), noise_mode="const")
        (images * direction.to(device, dtype)).sum().backward()
    truths = {name: p.grad for name, p in reference.named_parameters() if p.grad is not None}
    whole = torch.stack([g.norm() for g in truths.values()]).square().mean().sqrt()
    for name, parameter in network.named_parameters():
        if name not in truths or (parameter.numel() == 1 and precision != "float32"):
            continue  # a strength of noise: what is left of many rounded products of either sign
        if parameter.grad is None:
            raise PartError(f"training {precision}: {name} has no gradient")
        truth = truths[name]
        error = float((parameter.grad.cpu().double() - truth).norm() / max(truth.norm(), 0.05 * whole))
        if not error <= GRADIENT_LIMITS[precision]:
            raise PartError(f"training {precision}: gradient of {name}: error {error:.3g}")
        t.compared["training"] += 1
