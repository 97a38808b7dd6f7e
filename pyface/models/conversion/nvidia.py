"""NVIDIA's network snapshots (stylegan2-ada-pytorch, and the StyleGAN2 networks of stylegan3).

The configuration is read off the tensors themselves; of the plain attributes only those count that leave no
trace in a shape (clamp, activation, gains).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from pyface.errors import CheckpointError, PyfaceError
from pyface.io.torch_archive import PersistentObject
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

__all__ = ["find_networks"]

_LAYOUT = "NVIDIA network snapshot"
_MOST_MODULES = 4096
_DEEPEST = 8


def find_networks(data: Mapping[Any, Any]) -> dict[str, Callable[[], ConvertedNetwork]]:
    """The networks in a snapshot by name, each as a function that converts it. Empty for another layout."""
    found: dict[str, Callable[[], ConvertedNetwork]] = {}
    for name in ("G_ema", "G", "D"):
        module = data.get(name)
        if isinstance(module, PersistentObject):
            convert = _discriminator if name == "D" else _generator
            found[name] = lambda module=module, convert=convert: convert(*_flatten(module))  # type: ignore[misc]
    return found


Attributes = Mapping[str, Mapping[str, Any]]


def _flatten(root: PersistentObject) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """Tensors by dotted name, and the attributes of every module by its path."""
    tensors: dict[str, Tensor] = {}
    attributes: dict[str, dict[str, Any]] = {}
    waiting: list[tuple[str, PersistentObject]] = [("", root)]
    while waiting:
        path, module = waiting.pop()
        if len(attributes) >= _MOST_MODULES or path.count(".") > _DEEPEST:
            raise CheckpointError("the network has more modules than any StyleGAN2: refused")
        attributes[path.removesuffix(".")] = module.state
        for group in ("_parameters", "_buffers"):
            for name, tensor in _group(module, group).items():
                if isinstance(tensor, Tensor):
                    tensors[path + name] = tensor
                elif tensor is not None:
                    raise CheckpointError(f"{path}{name:.80} is not a tensor: the file is damaged")
        for name, child in _group(module, "_modules").items():
            if not isinstance(child, PersistentObject):
                raise CheckpointError(f"{path}{name:.80} is not a module: the file is damaged")
            waiting.append((f"{path}{name}.", child))
    return tensors, attributes


def _group(module: PersistentObject, group: str) -> dict[str, Any]:
    values = module.state.get(group, {})
    if not isinstance(values, dict) or not all(isinstance(name, str) and len(name) < 200 for name in values):
        raise CheckpointError(f"a module's {group} is not a dictionary of names: the file is damaged")
    return values


def _number(attributes: Attributes, path: str, name: str, default: float | None) -> float | None:
    value = attributes.get(path, {}).get(name, default)
    if value is None or (type(value) in (int, float) and math.isfinite(value) and value > 0):
        return value
    raise CheckpointError(f"{path}.{name} is no positive number: the file is damaged")


def _group_size(attributes: Attributes) -> int | None:
    value = attributes.get("b4.mbstd", {}).get("group_size", 4)
    if value is None or (type(value) is int and value > 0):
        return value
    raise CheckpointError("b4.mbstd.group_size is no positive integer: the file is damaged")


def _activation(attributes: Attributes, paths: list[str]) -> str:
    names = {attributes.get(path, {}).get("activation", "lrelu") for path in paths if path in attributes}
    if len(names) == 1 and isinstance(name := names.pop(), str):
        return name
    raise CheckpointError("the layers have different activations; such a network is not converted")


def _count_layers(tensors: Mapping[str, Tensor]) -> int:
    return sum(1 for name in tensors if re.fullmatch(r"mapping\.fc\d+\.weight", name))


def _blocks(tensors: Mapping[str, Tensor], prefix: str) -> set[int]:
    found = (re.match(prefix + r"b(\d{1,6})\.", name) for name in tensors)
    return {int(match[1]) for match in found if match}


def _filters(tensors: Mapping[str, Tensor]) -> list[Tensor]:
    return [tensor for name, tensor in tensors.items() if name.endswith("resample_filter")]


def _note_16bit(attributes: Attributes) -> list[str]:
    count = sum(1 for state in attributes.values() if state.get("use_fp16") is True)
    if count == 0:
        return []
    return [
        f"its {count} highest resolutions were trained in float16; pyface computes in float32 unless asked "
        '(precision="float16")'
    ]


def _build(config: Callable[..., Any], **fields: Any) -> Any:
    try:
        return config(**fields)
    except PyfaceError as error:
        raise CheckpointError(f"the network's sizes do not make a StyleGAN2: {error}") from error


def _generator(tensors: dict[str, Tensor], attributes: Attributes) -> ConvertedNetwork:
    if "synthesis.b4.const" not in tensors:
        raise CheckpointError(
            "the generator has no synthesis.b4.const, so it is no StyleGAN2 (a StyleGAN3, for example); "
            "pyface converts StyleGAN2 networks"
        )
    sizes = resolutions(_blocks(tensors, r"synthesis\."))
    layers = _count_layers(tensors)
    base, most = infer_channels({r: side(tensors, f"synthesis.b{r}.conv1.weight", 0) for r in sizes})
    c_dim = embedded = 0
    if "mapping.embed.weight" in tensors:
        embedded, c_dim = (side(tensors, "mapping.embed.weight", axis) for axis in (0, 1))
    if "synthesis.b4.torgb.weight" in tensors:
        architecture = "skip"
    else:
        architecture = "resnet" if "synthesis.b8.skip.weight" in tensors else "orig"
    config = _build(
        GeneratorConfig,
        resolution=sizes[-1],
        z_dim=side(tensors, "mapping.fc0.weight", 1) - embedded,
        c_dim=c_dim,
        w_dim=side(tensors, f"mapping.fc{layers - 1}.weight", 0),
        spectra=check_image_channels(side(tensors, f"synthesis.b{sizes[-1]}.torgb.weight", 0)),
        channel_base=base,
        channel_max=most,
        architecture=architecture,
        activation=_activation(attributes, ["mapping.fc0", "synthesis.b4.conv1", "synthesis.b8.conv0"]),
        resample_filter=infer_taps(_filters(tensors)),
        conv_clamp=_number(attributes, "synthesis.b4.conv1", "conv_clamp", None),
        mapping_layers=layers,
        mapping_lr_multiplier=_number(attributes, "mapping.fc0", "bias_gain", 0.01),
        w_avg_decay=_number(attributes, "mapping", "w_avg_beta", 0.995),
        use_noise="synthesis.b4.conv1.noise_const" in tensors,
    )
    return fit(_LAYOUT, config, tensors, _note_16bit(attributes))


def _discriminator(tensors: dict[str, Tensor], attributes: Attributes) -> ConvertedNetwork:
    sizes = resolutions(_blocks(tensors, ""))
    channels = {r: side(tensors, f"b{r}.conv0.weight", 0) for r in sizes[1:]}
    channels[4] = side(tensors, "b4.conv.weight", 0)
    base, most = infer_channels(channels)
    if f"b{sizes[-1]}.skip.weight" in tensors:
        architecture = "resnet"
    else:
        architecture = "skip" if f"b{sizes[-2]}.fromrgb.weight" in tensors else "orig"
    statistics = side(tensors, "b4.conv.weight", 1) - channels[4]
    c_dim = side(tensors, "mapping.embed.weight", 1) if "mapping.embed.weight" in tensors else 0
    config = _build(
        DiscriminatorConfig,
        resolution=sizes[-1],
        c_dim=c_dim,
        spectra=check_image_channels(side(tensors, f"b{sizes[-1]}.fromrgb.weight", 1)),
        channel_base=base,
        channel_max=most,
        architecture=architecture,
        activation=_activation(attributes, ["mapping.fc0", f"b{sizes[-1]}.conv0", "b4.conv"]),
        resample_filter=infer_taps(_filters(tensors)),
        conv_clamp=_number(attributes, f"b{sizes[-1]}.conv0", "conv_clamp", None),
        mapping_layers=_count_layers(tensors) or 8,
        mapping_lr_multiplier=_number(attributes, "mapping.fc0", "bias_gain", 0.01),
        cmap_dim=side(tensors, "b4.out.weight", 0) if c_dim else None,
        mbstd_group_size=_group_size(attributes),
        mbstd_channels=statistics,
    )
    return fit(_LAYOUT, config, tensors, _note_16bit(attributes))
