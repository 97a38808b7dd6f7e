"""Every network but the generator in the form in which it is exported: static weights, any batch.

The network's own `forward` is what computes; what stands in the way of a static graph is rewritten in a copy:
gains of equalised layers are folded into their weights, and statistics over a batch become a product with a
matrix, so that the batch may have any size. In 16 bits the convolutions and linear layers compute in that
type and their results stay in it; batch normalisations become a scale and a shift.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pyface.errors import ExportError
from pyface.export.spec import BATCH, TensorSpec, torch_precision
from pyface.nn import CriticHead, EqualizedConv2d, EqualizedLinear

__all__ = ["NetworkForm", "exportable_networks"]

_SIXTEEN = ("fp16", "bf16")


class NetworkForm(nn.Module):
    """A discriminator, recogniser, embedder or reader of action units as it is exported.

    Args:
        network: of `pyface.models`, no generator; it is not changed.
        precision: "fp32", "fp16" or "bf16". Inputs and outputs are float32 in any.

    Attributes:
        inputs, outputs: what `forward` takes and gives, in order; the first axis is the batch.
        part, precision, up_form, noise_mode, uint8: as `pyface.export.spec.EngineSpec` has them.

    A discriminator with minibatch statistics gives NaN for batches that the network itself refuses (larger
    than its group and no multiple of it), since a graph cannot raise errors.

    Raises:
        ExportError: an architecture that has no form, or a precision that it does not have.

    >>> from pyface.models import create
    >>> form = NetworkForm(create("patch-critic", resolution=16, channel_base=64, layers=1))
    >>> [spec.name for spec in form.inputs], form(torch.zeros(2, 3, 16, 16))[0].shape
    (['image'], torch.Size([2, 1, 8, 8]))
    """

    part, up_form, noise_mode, uint8 = "whole", "", "none", False

    def __init__(self, network: nn.Module, *, precision: str = "fp32") -> None:
        super().__init__()
        doors = _doors_of(network)
        if precision not in ("fp32", *_SIXTEEN):
            raise ExportError(
                f"precision must be fp32, fp16 or bf16; got {precision!r}"  # type: ignore[union-attr]
            )
        self.inputs = tuple(doors.inputs(network.config))
        self.outputs = tuple(doors.outputs(network.config))
        self.precision = precision
        self.network = copy.deepcopy(network).cpu().float().eval().requires_grad_(False)
        self._call = doors.call
        for module in list(self.network.modules()):
            _fold_gains(module)
            if isinstance(module, CriticHead) and module.mbstd_channels:
                _replace_statistics(module)
        if precision in _SIXTEEN:
            _compute_in(self.network, getattr(torch, torch_precision(precision)), doors.exact)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Float32 outputs of float32 inputs."""
        return tuple(tensor.float() for tensor in self._call(self.network, self.precision, *tensors))

    def expected(self, network: nn.Module, *tensors: Tensor) -> tuple[Tensor, ...]:
        """What `network` itself gives for these inputs, in float32: what this form is held to."""
        given: tuple[Tensor, ...] = self._call(network, "fp32", *tensors)
        return given


@dataclass(frozen=True)
class _Doors:
    """What one architecture takes and gives: by its configuration, and a call of the network.

    exact: modules that stay in float32 in any precision; heads of discriminators always do.
    """

    inputs: Callable[[Any], Sequence[TensorSpec]]
    outputs: Callable[[Any], Sequence[TensorSpec]]
    call: Callable[..., tuple[Tensor, ...]]
    exact: tuple[str, ...] = ()


def exportable_networks() -> tuple[str, ...]:
    """The architectures that `NetworkForm` knows."""
    return tuple(_DOORS)


def _doors_of(network: nn.Module) -> _Doors:
    name = getattr(network, "architecture", type(network).__name__)
    if name not in _DOORS:
        raise ExportError(
            f"{name} cannot be exported: pyface.export.network_form does not say what it takes and gives; "
            f"it knows {', '.join(_DOORS)}"
        )
    return _DOORS[name]


def _pictures(config: Any) -> list[TensorSpec]:
    """The spectra of a discriminator in their order as channels, and its condition."""
    specs = [TensorSpec("image", "float32", (BATCH, sum(config.spectra.values()), *config.resolution))]
    if getattr(config, "c_dim", 0):
        specs.append(TensorSpec("c", "float32", (BATCH, config.c_dim)))
    return specs


def _faces(size: int) -> list[TensorSpec]:
    return [TensorSpec("images", "float32", (BATCH, 3, size, size))]


def _rows(**sizes: int) -> list[TensorSpec]:
    return [TensorSpec(name, "float32", (BATCH, size)) for name, size in sizes.items()]


def _patch_logits(config: Any) -> list[TensorSpec]:
    height, width = (side >> config.layers for side in config.resolution)
    return [TensorSpec("logits", "float32", (BATCH, 1, height, width))]


def _judge(network: Any, precision: str, image: Tensor, c: Tensor | None = None) -> tuple[Tensor, ...]:
    return (network(image, c, precision=torch_precision(precision)),)


def _recognise(network: Any, precision: str, images: Tensor) -> tuple[Tensor, ...]:
    features = network.features(images)
    return network.embedding_of(features), features


def _plain(network: Any, precision: str, *tensors: Tensor) -> tuple[Tensor, ...]:
    return (network(*tensors),)


_DOORS: dict[str, _Doors] = {
    "stylegan2-discriminator": _Doors(_pictures, lambda _: _rows(logits=1), _judge),
    "patch-critic": _Doors(_pictures, _patch_logits, _plain),
    "face-recognition": _Doors(
        lambda config: _faces(config.resolution),
        lambda config: _rows(embedding=config.embedding_dim, features=config.num_features),
        _recognise,
        exact=("identity",),  # its unit vectors are compared by small differences
    ),
    "dlib-resnet": _Doors(
        lambda config: _faces(config.size), lambda config: _rows(embedding=config.embedding_dim), _plain
    ),
    "iresnet": _Doors(
        lambda config: _faces(config.size), lambda config: _rows(embedding=config.embedding_dim), _plain
    ),
    "action-units": _Doors(
        lambda config: [
            TensorSpec("pictures", "float32", (BATCH, 1, config.size, config.size)),
            *_rows(geometry=len(config.geometry)),
        ],
        lambda config: _rows(logits=len(config.units)),
        _plain,
    ),
}


def _fold_gains(module: nn.Module) -> None:
    """Put the gains of an equalised layer into its numbers."""
    if not isinstance(module, EqualizedConv2d | EqualizedLinear):
        return
    module.weight.data *= module.weight_gain
    module.weight_gain = 1.0
    if isinstance(module, EqualizedLinear):
        if module.bias is not None:
            module.bias.data *= module.bias_gain
        module.bias_gain = 1.0


def _replace_statistics(head: CriticHead) -> None:
    """Let the minibatch statistics be computed in front of the convolution that reads them, for any batch."""
    group_size, channels = head.mbstd_group_size, head.mbstd_channels

    def append(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return append_statistics(args[0], group_size, channels), *args[1:]

    head.mbstd_channels = 0
    head.conv.register_forward_pre_hook(append)


def append_statistics(x: Tensor, group_size: int | None = 4, channels: int = 1, eps: float = 1e-8) -> Tensor:
    """As `pyface.nn.norm.append_minibatch_std`, in steps whose shapes do not depend on the groups.

    Means over groups are products with a matrix [N, N] whose entry is 1 / group where two images are of one
    group. Where the network refuses the batch the statistics are NaN.

    x: [N, C, H, W]. Source: Karras et al. 2018, "Progressive growing of GANs", section 3.
    """
    n, c, h, w = x.shape
    ones = x.new_ones(n)
    index, count = ones.cumsum(0), ones.sum()
    group = count if group_size is None else count.clamp(max=group_size)
    groups = (count / group).floor()
    same = (torch.remainder(index[:, None] - index[None, :], groups) == 0).to(x.dtype)
    share = torch.where(groups * group == count, same / group, torch.nan)
    flat = x.flatten(1)
    variance = share @ (flat - share @ flat).square()
    spread = (variance + eps).sqrt().reshape(n, channels, c // channels * h * w).mean(2)
    return torch.cat([x, spread[:, :, None, None].expand(n, channels, h, w)], dim=1)


class _ScaleShift(nn.Module):
    """A batch normalisation whose statistics are known: x * scale + shift, in the type of x."""

    scale: Tensor
    shift: Tensor

    def __init__(self, norm: Any) -> None:
        super().__init__()
        scale = (norm.running_var.double() + norm.eps).rsqrt()
        if norm.weight is not None:
            scale = scale * norm.weight.double()
        shift = -norm.running_mean.double() * scale
        if norm.bias is not None:
            shift = shift + norm.bias.double()
        axes = (1,) * (2 if isinstance(norm, nn.BatchNorm2d) else 0)
        self.register_buffer("scale", scale.float().reshape(-1, *axes))
        self.register_buffer("shift", shift.float().reshape(-1, *axes))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale.to(x.dtype) + self.shift.to(x.dtype)


def _cast_input(module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return args[0].to(module.weight.dtype), *args[1:]


def _compute_in(network: nn.Module, dtype: torch.dtype, exact: Sequence[str]) -> None:
    """Let convolutions and linear layers compute in a 16-bit type; what follows them does in its turn."""
    roots = [network.get_submodule(name) for name in exact]
    roots += [module for module in network.modules() if isinstance(module, CriticHead)]
    kept = {module for root in roots for module in root.modules()}
    for name, module in list(network.named_modules()):
        if module in kept:
            continue
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, _ScaleShift(module))
        elif isinstance(module, nn.Conv2d | nn.Linear):
            module.to(dtype)
            module.register_forward_pre_hook(_cast_input)
        elif isinstance(module, nn.PReLU):
            module.to(dtype)
        elif isinstance(module, EqualizedConv2d):  # computes in the type of its input
            module.weight.data = module.weight.data.to(dtype)
