"""A converted network, and what both layouts need to become one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pyface.errors import CheckpointError
from pyface.models.stylegan2 import (
    DiscriminatorConfig,
    GeneratorConfig,
    StyleGAN2Discriminator,
    StyleGAN2Generator,
    nvidia_name_map,
)

__all__ = [
    "ConvertedNetwork",
    "check_image_channels",
    "fit",
    "infer_channels",
    "infer_taps",
    "resolutions",
    "side",
]


@dataclass(frozen=True)
class ConvertedNetwork:
    """A configuration of ours, the tensors for it, and what the user should know.

    It can be saved as it is (`pyface.io.checkpoint.save_model`), without building the network.
    """

    layout: str
    config: GeneratorConfig | DiscriminatorConfig
    tensors: Mapping[str, Tensor]
    notes: tuple[str, ...] = field(default=())

    @property
    def _network(self) -> type[StyleGAN2Generator] | type[StyleGAN2Discriminator]:
        is_generator = isinstance(self.config, GeneratorConfig)
        return StyleGAN2Generator if is_generator else StyleGAN2Discriminator

    @property
    def architecture(self) -> str:
        """Name of the architecture in `pyface.models`."""
        return self._network.architecture

    @property
    def kind(self) -> str:
        """ "generator" or "discriminator"."""
        return self._network.kind

    def state_dict(self) -> dict[str, Tensor]:
        """Every tensor under our name, float32."""
        return dict(self.tensors)

    def build(self) -> StyleGAN2Generator | StyleGAN2Discriminator:
        """The network itself, in evaluation mode."""
        if isinstance(self.config, GeneratorConfig):
            network: StyleGAN2Generator | StyleGAN2Discriminator = StyleGAN2Generator(self.config)
        else:
            network = StyleGAN2Discriminator(self.config)
        network.load_state_dict(self.state_dict())
        return network.eval()


def fit(
    layout: str,
    config: GeneratorConfig | DiscriminatorConfig,
    tensors: Mapping[str, Tensor],
    notes: list[str],
) -> ConvertedNetwork:
    """The converted network, with every name and shape checked against the configuration.

    Args:
        layout: what the file is, in words.
        config: read off the tensors.
        tensors: by NVIDIA's names; `resample_filter` entries are left out, ours come from the configuration.
        notes: for the user.

    Raises:
        CheckpointError: names that are missing or left over, or a shape that does not fit.
    """
    names = nvidia_name_map(config)
    given = {name: t for name, t in tensors.items() if name.rpartition(".")[2] != "resample_filter"}
    missing = [name for name in names if name not in given]
    extra = [name for name in given if name not in names]
    if missing or extra:
        raise CheckpointError(
            f"the network does not have the parts of a StyleGAN2: {_few('missing', missing)}"
            f"{_few('unknown', extra)}it is of another design or damaged"
        )
    network = StyleGAN2Generator if isinstance(config, GeneratorConfig) else StyleGAN2Discriminator
    with torch.device("meta"):
        wanted = network(config).state_dict()  # type: ignore[arg-type]
    out = {}
    for theirs, ours in names.items():
        tensor = given[theirs]
        if tensor.shape != wanted[ours].shape or not tensor.is_floating_point():
            raise CheckpointError(
                f"{theirs} is {tensor.dtype} {list(tensor.shape)}, needed is {list(wanted[ours].shape)}: "
                "the network is of another design or the file is damaged"
            )
        out[ours] = tensor.float().contiguous()
    return ConvertedNetwork(layout, config, out, tuple(notes))


def _few(word: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{word} {', '.join(name[:80] for name in names[:3])}{more}; "


def side(tensors: Mapping[str, Tensor], name: str, axis: int) -> int:
    """Size of tensor `name` along `axis`.

    Raises: CheckpointError when it is missing, has too few axes, or is empty.
    """
    tensor = tensors.get(name)
    if tensor is None:
        raise CheckpointError(f"the network lacks {name}: it is of another design or damaged")
    if tensor.ndim <= axis or tensor.numel() == 0:
        raise CheckpointError(f"{name} has shape {list(tensor.shape)}: the file is damaged")
    return tensor.shape[axis]


def resolutions(found: set[int], initial: int = 4) -> list[int]:
    """The resolutions of a network, smallest first.

    Raises: CheckpointError when they are not initial, 2 initial, 4 initial ...
    """
    ordered = sorted(found)
    if len(ordered) < 2 or ordered != [initial << k for k in range(len(ordered))]:
        listed = ", ".join(str(n)[:12] for n in ordered[:12])
        raise CheckpointError(
            f"the network has blocks at resolutions {listed or 'none'}; a StyleGAN2 has them at {initial}, "
            f"{2 * initial}, {4 * initial} and so on"
        )
    return ordered


def infer_channels(channels: Mapping[int, int]) -> tuple[int, int]:
    """(channel_base, channel_max) that give these channels per resolution: min(base // resolution, max).

    Raises: CheckpointError when no pair does.
    """
    most = max(channels.values())
    below = [resolution for resolution, n in sorted(channels.items()) if n < most]
    base = channels[below[0]] * below[0] if below else most * max(channels)
    wrong = [r for r, n in channels.items() if min(base // r, most) != n]
    if wrong:
        listed = ", ".join(f"{n} at {r}" for r, n in sorted(channels.items()))
        raise CheckpointError(
            f"the channels per resolution ({listed}) do not follow min(channel_base / resolution, "
            "channel_max); networks with other widths cannot be converted"
        )
    return base, most


def check_image_channels(channels: int) -> dict[str, int]:
    """The `spectra` of a network with so many image channels."""
    if not 1 <= channels <= 64:
        raise CheckpointError(f"images of {channels} channels: the network is of another design or damaged")
    return {"vis": channels}


def infer_taps(filters: list[Tensor]) -> tuple[float, ...]:
    """The one-dimensional low-pass taps behind the filters in a file, as small integers where they are.

    filters: [n, n] outer products or [n] taps, of any scale; all must come from the same taps.

    Raises: CheckpointError when they do not.
    """
    found: Tensor | None = None
    for kernel in filters:
        kernel = kernel.detach().double()
        if kernel.ndim not in (1, 2) or not 0 < kernel.numel() <= 4096 or not bool(kernel.isfinite().all()):
            raise CheckpointError(f"a low-pass filter of shape {list(kernel.shape)}: the file is damaged")
        total = float(kernel.sum())
        if abs(total) < 1e-6:
            raise CheckpointError("a low-pass filter that sums to zero: the file is damaged")
        taps = kernel / total if kernel.ndim == 1 else kernel.sum(0) / total
        if kernel.ndim == 2 and (
            kernel.shape[0] != kernel.shape[1]
            or not torch.allclose(torch.outer(taps, taps) * total, kernel, rtol=1e-4, atol=1e-6)
        ):
            raise CheckpointError(
                "a low-pass filter that is not the same along both axes cannot be converted"
            )
        if found is not None and (found.shape != taps.shape or not torch.allclose(found, taps, atol=1e-5)):
            raise CheckpointError(
                "the layers have different low-pass filters; such a network is not converted"
            )
        found = taps
    if found is None:
        return (1.0, 3.0, 3.0, 1.0)
    values: list[float] = found.tolist()
    unit = min(abs(v) for v in values if abs(v) > 1e-8)
    scaled = [v / unit for v in values]
    if all(math.isclose(v, round(v), abs_tol=1e-3) for v in scaled):
        return tuple(float(round(v)) for v in scaled)
    return tuple(values)
