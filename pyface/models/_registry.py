"""The table of architectures; building and loading networks by name."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyface.errors import CheckpointError, PyfaceError, ValueRangeError
from pyface.io.checkpoint import load_tensors, read_header

__all__ = ["ARCHITECTURES", "Architecture", "create", "find_checkpoint", "load"]


@dataclass(frozen=True)
class Architecture:
    """Where a network and its configuration live. Naming them here imports nothing."""

    module: str
    network_name: str
    config_name: str
    kind: str

    @property
    def network(self) -> type[nn.Module]:
        """The class of the network; made by `network(config)`."""
        network: type[nn.Module] = getattr(importlib.import_module(self.module), self.network_name)
        return network

    @property
    def config(self) -> Any:
        """The class of its configuration."""
        return getattr(importlib.import_module(self.module), self.config_name)


ARCHITECTURES: dict[str, Architecture] = {
    "action-units": Architecture(
        "pyface.models.action_units", "ActionUnitNetwork", "ActionUnitConfig", "action-unit reader"
    ),
    "stylegan2-generator": Architecture(
        "pyface.models.stylegan2", "StyleGAN2Generator", "GeneratorConfig", "generator"
    ),
    "patch-critic": Architecture(
        "pyface.models.patch_critic", "PatchCritic", "PatchCriticConfig", "discriminator"
    ),
    "stylegan2-discriminator": Architecture(
        "pyface.models.stylegan2", "StyleGAN2Discriminator", "DiscriminatorConfig", "discriminator"
    ),
    "face-recognition": Architecture(
        "pyface.models.recognition", "FaceRecognition", "RecognitionConfig", "recogniser"
    ),
    "dlib-resnet": Architecture("pyface.models.dlib_resnet", "DlibResNet", "DlibResNetConfig", "embedder"),
    "iresnet": Architecture("pyface.models.iresnet", "IResNet", "IResNetConfig", "embedder"),
}

_BUILT_IN = Path(__file__).parent / "assets"


def create(name: str, **config: Any) -> nn.Module:
    """A new network with random weights.

    Args:
        name: an architecture: "stylegan2-generator", "stylegan2-discriminator", "face-recognition".
        **config: fields of its configuration.

    Raises:
        ValueRangeError: an unknown name or field, or a value that the configuration refuses.

    >>> create("stylegan2-generator", resolution=16, channel_max=8, z_dim=4, w_dim=4).num_ws
    6
    """
    if name not in ARCHITECTURES:
        raise ValueRangeError(f"architecture must be one of {', '.join(ARCHITECTURES)}; got {name!r}")
    architecture = ARCHITECTURES[name]
    return architecture.network(architecture.config.from_dict(config))


def load(path: str | os.PathLike[str], device: str | torch.device = "cpu", kind: str | None = None) -> Any:
    """The network in a checkpoint, ready to use: built, filled, in evaluation mode, on `device`.

    Args:
        path: a `.safetensors` file that training or `pyface convert` wrote; or the name of a network that
            comes with pyface, such as "demo" or "recognition-64".
        device: where its parameters go.
        kind: refuse anything but this: "generator", "discriminator", "recogniser" or "embedder".

    Raises:
        CheckpointError: no such file, not one of ours, damaged, or of another kind.
    """
    target = find_checkpoint(path)
    header = read_header(target)
    name = header["architecture"]
    if name not in ARCHITECTURES:
        raise CheckpointError(
            f"{target} holds {name!r}, which this version of pyface does not know; "
            f"it knows {', '.join(ARCHITECTURES)}"
        )
    architecture = ARCHITECTURES[name]
    if kind is not None and kind != architecture.kind:
        raise CheckpointError(f"{target} holds a {architecture.kind}; a {kind} is needed here")
    network = _build(target, architecture, header["config"])
    _fill(target, network, load_tensors(target))
    return network.to(device).eval()


def find_checkpoint(path: str | os.PathLike[str]) -> Path:
    """The file behind a path, or behind the name of a network that comes with pyface, such as "demo"."""
    target = Path(path)
    if target.suffix == "" and target.name == str(path) and not target.exists():
        built_in = sorted(
            file
            for file in _BUILT_IN.glob("*.safetensors")
            if target.name in (file.stem, file.stem.split("-")[0])
        )
        if built_in:
            return built_in[0]
    return target


def _build(path: Path, architecture: Architecture, config: Any) -> nn.Module:
    if not isinstance(config, Mapping):
        raise CheckpointError(f"{path} is damaged: its configuration is no object")
    try:
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers go on as if nothing was built
            return architecture.network(architecture.config.from_dict(config))
    except PyfaceError as error:
        raise CheckpointError(f"{path} has a configuration that does not work: {error}") from error


def _fill(path: Path, network: nn.Module, tensors: dict[str, Tensor]) -> None:
    wanted = network.state_dict()
    missing = sorted(set(wanted) - set(tensors))
    unexpected = sorted(set(tensors) - set(wanted))
    if missing or unexpected:
        raise CheckpointError(
            f"{path} does not fit its configuration: {_few(missing, 'missing')}"
            f"{_few(unexpected, 'unexpected')}it is damaged or was edited"
        )
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise CheckpointError(
                f"{path} does not fit its configuration: {name} is {list(tensor.shape)}, needed is "
                f"{list(wanted[name].shape)}; it is damaged or was edited"
            )
    network.load_state_dict(tensors)


def _few(names: list[str], word: str) -> str:
    if not names:
        return ""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{word} {', '.join(names[:3])}{more}; "
