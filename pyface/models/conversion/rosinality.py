"""Training files of rosinality's stylegan2-pytorch: state dictionaries g_ema, g and d.

What differs from NVIDIA's layout, besides names: convolutions that demodulate keep their weights unscaled and
multiply them by 1 / sqrt(fan in) before demodulation, which matters through its epsilon alone, and is folded
into the weights here; batch axes of size 1 on constants, biases and noise; low-pass kernels stored per layer;
an average of w only in some files. The networks are unconditional.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyface.errors import CheckpointError
from pyface.models.conversion._network import (
    ConvertedNetwork,
    check_image_channels,
    fit,
    infer_channels,
    infer_taps,
    resolutions,
    side,
)
from pyface.models.stylegan2 import DiscriminatorConfig, GeneratorConfig
from pyface.nn import MappingNetwork

__all__ = ["find_networks"]

_LAYOUT = "rosinality stylegan2-pytorch"
_NAMES = {"g_ema": "G_ema", "g": "G", "d": "D"}
_AVERAGED = 10_000  # samples of z behind an average of w


def find_networks(data: Mapping[Any, Any]) -> dict[str, Callable[[], ConvertedNetwork]]:
    """The networks in a training file by name, each as a function that converts it. Empty for others."""
    if isinstance(data.get("conv1.conv.weight"), Tensor):
        data = {"g_ema": data}
    found: dict[str, Callable[[], ConvertedNetwork]] = {}
    for theirs, ours in _NAMES.items():
        state = data.get(theirs)
        if not isinstance(state, dict) or not state:
            continue
        if not all(isinstance(k, str) and len(k) < 200 and isinstance(v, Tensor) for k, v in state.items()):
            raise CheckpointError(f"{theirs} is not a dictionary of tensors: the file is damaged")
        if ours == "D":
            found[ours] = lambda state=state: _discriminator(_Source(state))  # type: ignore[misc]
        else:
            average = data.get("latent_avg")
            found[ours] = lambda state=state, average=average: _generator(_Source(state), average)  # type: ignore[misc]
    return found


class _Source:
    """A state dictionary that remembers which entries were used."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
        self.used: set[str] = set()

    def take(self, name: str, ndim: int) -> Tensor:
        """Entry `name` without leading axes of size 1 beyond `ndim`, and with trailing ones filled in."""
        tensor = self.state.get(name)
        if tensor is None:
            raise CheckpointError(f"the network lacks {name}: it is of another design or damaged")
        self.used.add(name)
        if tensor.ndim > ndim and tensor.shape[0] == 1:
            tensor = tensor.squeeze(0)
        while tensor.ndim > ndim and tensor.shape[-1] == 1:
            tensor = tensor.squeeze(-1)
        if tensor.ndim != ndim:
            raise CheckpointError(
                f"{name} has shape {list(self.state[name].shape)}: of another design or damaged"
            )
        return tensor

    def kernels(self) -> list[Tensor]:
        """The low-pass kernels of all layers."""
        names = [name for name in self.state if name.endswith(".kernel")]
        self.used.update(names)
        return [self.state[name] for name in names]

    def check_all_used(self) -> None:
        """Raise CheckpointError when an entry was left over."""
        left = [name for name in self.state if name not in self.used]
        if left:
            raise CheckpointError(
                f"the network has {len(left)} entries that rosinality's StyleGAN2 does not, such as "
                f"{left[0]:.80}: it is of another design"
            )


def _count(source: _Source, pattern: str) -> int:
    found = (re.fullmatch(pattern, name) for name in source.state)
    return len({match[1] for match in found if match})


def _scaled(weight: Tensor) -> Tensor:
    """A demodulated convolution's weight times 1 / sqrt(fan in), which the layout applies when it runs."""
    return weight.float() / math.sqrt(max(weight[0].numel(), 1)) if weight.shape[0] else weight


def _generator(source: _Source, average: Any) -> ConvertedNetwork:
    notes: list[str] = []
    tensors: dict[str, Tensor] = {}
    layers = _count(source, r"style\.(\d{1,3})\.weight")
    sizes = resolutions({4 << k for k in range(_count(source, r"to_rgbs\.(\d{1,2})\.bias") + 1)})
    for index in range(layers):
        tensors[f"mapping.fc{index}.weight"] = source.take(f"style.{index + 1}.weight", 2)
        tensors[f"mapping.fc{index}.bias"] = source.take(f"style.{index + 1}.bias", 1)
    tensors["synthesis.b4.const"] = source.take("input.input", 3)
    for level, size in enumerate(sizes):
        block = f"synthesis.b{size}"
        if level > 0:
            _styled(source, f"convs.{2 * level - 2}", f"{block}.conv0", 2 * level - 1, size, tensors, notes)
        theirs = "conv1" if level == 0 else f"convs.{2 * level - 1}"
        _styled(source, theirs, f"{block}.conv1", 2 * level, size, tensors, notes)
        head = "to_rgb1" if level == 0 else f"to_rgbs.{level - 1}"
        tensors[f"{block}.torgb.weight"] = source.take(f"{head}.conv.weight", 4)
        tensors[f"{block}.torgb.bias"] = source.take(f"{head}.bias", 1)
        _affine(source, f"{head}.conv", f"{block}.torgb", tensors)
    taps = infer_taps(source.kernels())
    source.check_all_used()
    w_dim = side(tensors, "mapping.fc0.weight", 0)
    base, most = infer_channels({r: side(tensors, f"synthesis.b{r}.conv1.weight", 0) for r in sizes})
    config = GeneratorConfig(
        resolution=sizes[-1],
        z_dim=side(tensors, "mapping.fc0.weight", 1),
        w_dim=w_dim,
        spectra=check_image_channels(side(tensors, f"synthesis.b{sizes[-1]}.torgb.weight", 0)),
        channel_base=base,
        channel_max=most,
        resample_filter=taps,
        mapping_layers=layers,
    )
    if isinstance(average, Tensor) and average.numel() == w_dim:
        tensors["mapping.w_avg"] = average.reshape(w_dim)
        return fit(_LAYOUT, config, tensors, notes)
    tensors["mapping.w_avg"] = torch.zeros(w_dim)
    network = fit(_LAYOUT, config, tensors, notes)
    note = f"the file keeps no average of w: it was computed from {_AVERAGED} samples of z (seed 0)"
    filled = {**network.tensors, "mapping.w_avg": _average_w(config, network.tensors)}
    return ConvertedNetwork(_LAYOUT, config, filled, (*network.notes, note))


def _styled(
    source: _Source,
    theirs: str,
    ours: str,
    noise_index: int,
    size: int,
    tensors: dict[str, Tensor],
    notes: list[str],
) -> None:
    """One styled convolution: weight, style, noise, bias."""
    tensors[f"{ours}.weight"] = _scaled(source.take(f"{theirs}.conv.weight", 4))
    _affine(source, f"{theirs}.conv", ours, tensors)
    tensors[f"{ours}.bias"] = source.take(f"{theirs}.activate.bias", 1)
    tensors[f"{ours}.noise_strength"] = source.take(f"{theirs}.noise.weight", 0)
    noise = f"noises.noise_{noise_index}"
    if noise in source.state:
        tensors[f"{ours}.noise_const"] = source.take(noise, 3).squeeze(0)
        return
    drawn = np.random.RandomState(noise_index).randn(size, size).astype(np.float32)
    tensors[f"{ours}.noise_const"] = torch.from_numpy(drawn)
    note = 'the file keeps no constant noise: noise_mode="const" uses new noise with fixed seeds'
    if note not in notes:
        notes.append(note)


def _affine(source: _Source, theirs: str, ours: str, tensors: dict[str, Tensor]) -> None:
    tensors[f"{ours}.affine.weight"] = source.take(f"{theirs}.modulation.weight", 2)
    tensors[f"{ours}.affine.bias"] = source.take(f"{theirs}.modulation.bias", 1)


def _average_w(config: GeneratorConfig, tensors: Mapping[str, Tensor]) -> Tensor:
    """Mean of w over standard normal z: the average that truncation moves towards."""
    mapping = MappingNetwork(
        config.z_dim, 0, config.w_dim, None, num_layers=config.mapping_layers, w_avg_decay=None
    )
    mapping.load_state_dict({name: tensors[f"mapping.{name}"] for name in mapping.state_dict()})
    z = torch.from_numpy(np.random.RandomState(0).randn(_AVERAGED, config.z_dim).astype(np.float32))
    with torch.no_grad():
        average: Tensor = mapping(z, None).mean(dim=0)
    return average


def _discriminator(source: _Source) -> ConvertedNetwork:
    tensors: dict[str, Tensor] = {}
    count = _count(source, r"convs\.(\d{1,2})\.conv2\.1\.weight")
    sizes = resolutions({4 << k for k in range(count + 1)})

    def convolution(theirs: str, bias: str | None, ours: str) -> None:
        tensors[f"{ours}.weight"] = source.take(theirs, 4)
        if bias is not None:
            tensors[f"{ours}.bias"] = source.take(bias, 1)

    convolution("convs.0.0.weight", "convs.0.1.bias", f"b{sizes[-1]}.fromrgb")
    for index, size in enumerate(reversed(sizes[1:]), start=1):
        convolution(f"convs.{index}.conv1.0.weight", f"convs.{index}.conv1.1.bias", f"b{size}.conv0")
        convolution(f"convs.{index}.conv2.1.weight", f"convs.{index}.conv2.2.bias", f"b{size}.conv1")
        convolution(f"convs.{index}.skip.1.weight", None, f"b{size}.skip")
    convolution("final_conv.0.weight", "final_conv.1.bias", "b4.conv")
    for theirs, ours in (("final_linear.0", "b4.fc"), ("final_linear.1", "b4.out")):
        tensors[f"{ours}.weight"] = source.take(f"{theirs}.weight", 2)
        tensors[f"{ours}.bias"] = source.take(f"{theirs}.bias", 1)
    taps = infer_taps(source.kernels())
    source.check_all_used()
    channels = {r: side(tensors, f"b{r}.conv0.weight", 0) for r in sizes[1:]}
    channels[4] = side(tensors, "b4.conv.weight", 0)
    base, most = infer_channels(channels)
    config = DiscriminatorConfig(
        resolution=sizes[-1],
        spectra=check_image_channels(side(tensors, f"b{sizes[-1]}.fromrgb.weight", 1)),
        channel_base=base,
        channel_max=most,
        resample_filter=taps,
    )
    return fit(_LAYOUT, config, tensors, [])
