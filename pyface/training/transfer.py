"""Weights of one network in another of the same kind, also of other resolution, channels or conditions.

What keeps the function best, by layer:

* Blocks meet by the shorter side of their features; equal shapes are copied to the bit.
* Other channel counts: the leading channels are those of the source. With an equalised learning rate a layer
  computes with weight / sqrt(fan_in), so copied weights are multiplied by sqrt(fan_in here / fan_in there):
  what is computed with stays the same. Demodulated convolutions have no such gain and are copied as they
  are. Weights from channels that the source did not have are 0, so that a wider generator paints the same
  picture until it has learned what to do with them; new output channels keep their initial weights. A
  narrower network computes with what is left, which cannot be the same.
* Blocks of a size that the source did not have keep their initial weights. In a "skip" generator their heads
  begin at 0: the picture is that of the source, enlarged.
* A condition of another size starts anew (`embed`, and what only conditional networks have). Where the source
  had none, the mapping begins as if it had none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyface.errors import CheckpointError
from pyface.models import load
from pyface.nn import CriticHead, EqualizedConv2d, EqualizedLinear, MappingNetwork, StyledHead
from pyface.training.checkpoint import load_state

__all__ = ["NetworkReport", "TransferReport", "read_sources", "transfer", "transfer_run"]

_CATEGORIES = ("copied", "adapted", "fresh", "silent")


@dataclass
class NetworkReport:
    """What became of each tensor of one network.

    copied: equal to the source. adapted: part of it, scaled. fresh: as initialised. silent: set to 0, so that
    the rest computes what it did in the source.
    """

    network: str
    source: str
    copied: list[str] = field(default_factory=list)
    adapted: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [f"{len(self.copied)} tensors copied"]
        for word in _CATEGORIES[1:]:
            names = getattr(self, word)
            if names:
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                parts.append(f"{len(names)} {word} ({', '.join(names[:3])}{more})")
        return f"{self.network} from {self.source}: {'; '.join(parts)}"


@dataclass
class TransferReport:
    """The reports of all networks of a run."""

    networks: list[NetworkReport] = field(default_factory=list)

    def __str__(self) -> str:
        return "\n".join(map(str, self.networks))

    def to_dict(self) -> dict[str, Any]:
        """As JSON: {network: {"source": ..., "copied": number, "adapted": [names], ...}}."""
        return {
            each.network: {
                "source": each.source,
                "copied": len(each.copied),
                **{word: getattr(each, word) for word in _CATEGORIES[1:]},
            }
            for each in self.networks
        }


@torch.no_grad()
def transfer(target: nn.Module, source: nn.Module, name: str = "network", origin: str = "") -> NetworkReport:
    """Put the weights of `source` into `target`, as the head of this file says; returns what became of each.

    name, origin: how the report calls target and source.
    """
    report = NetworkReport(name, origin or type(source).__name__)
    blocks = _block_names(target, source)
    found = source.state_dict()
    for module_name, module in target.named_modules():
        for tensor_name, own in _own_tensors(module):
            full = f"{module_name}.{tensor_name}" if module_name else tensor_name
            theirs = _source_name(full, blocks)
            other = found.get(theirs)
            merged = None
            if other is not None and other.shape != own.shape:
                merged = _merged((target, source), (full, theirs), own, other)
            if other is not None and other.shape == own.shape:
                own.copy_(other)
                report.copied.append(full)
            elif merged is not None:
                own.copy_(merged)
                report.adapted.append(full)
            elif other is None and _is_new_head(full, blocks):
                own.zero_()
                report.silent.append(full)
            else:
                report.fresh.append(full)
    return report


def transfer_run(targets: dict[str, nn.Module], sources: dict[str, tuple[nn.Module, str]]) -> TransferReport:
    """Transfer into every network of a run, "G", "G_ema", "D" and others, from those of the same name.

    Where only one of the generator and its average is given, both begin with it. Networks without a source
    keep their initial weights.
    """
    instead = {"G": "G_ema", "G_ema": "G"}
    report = TransferReport()
    for name, network in targets.items():
        chosen = name if name in sources else instead.get(name, "")
        if chosen in sources:
            source, origin = sources[chosen]
            report.networks.append(transfer(network, source, name, origin))
        else:
            report.networks.append(NetworkReport(name, "no source", fresh=list(network.state_dict())))
    return report


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    kept = set(module.state_dict(keep_vars=True))
    for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
        if name in kept:
            yield name, tensor


def _block_names(target: nn.Module, source: nn.Module) -> dict[str, str | None]:
    """{block of the target: the source's block of the same shorter side, or None}."""

    def named(network: nn.Module) -> dict[int, str]:
        sizes = getattr(network, "sizes", None) or getattr(getattr(network, "synthesis", None), "sizes", [])
        return {min(h, w): f"b{h}" if h == w else f"b{h}x{w}" for h, w in sizes}

    ours, theirs = named(target), named(source)
    return {block: theirs.get(side) for side, block in ours.items()}


def _source_name(full: str, blocks: dict[str, str | None]) -> str:
    parts = [blocks.get(part, part) for part in full.split(".")]
    return "" if None in parts else ".".join(part for part in parts if part)


def _is_new_head(full: str, blocks: dict[str, str | None]) -> bool:
    """Whether this is the weight or bias of a head in a block that the source does not have."""
    parts = full.split(".")
    new = any(part in blocks and blocks[part] is None for part in parts)
    return new and "heads" in parts and "affine" not in parts


def _merged(
    networks: tuple[nn.Module, nn.Module], names: tuple[str, str], own: Tensor, other: Tensor
) -> Tensor | None:
    """`own` with what `other` has for it; None where nothing of it can be used.

    networks, names: target and source, and the name of the tensor in each.
    """
    layer, _, name = names[0].rpartition(".")
    ours, theirs = (_parent(n, k) for n, k in zip(networks, names, strict=True))
    if name == "const" and other.shape[1:] != own.shape[1:]:
        other = F.interpolate(other[None], own.shape[1:], mode="bilinear", antialias=True)[0]
    if layer.endswith("embed") and isinstance(ours, MappingNetwork):
        return None
    if (
        layer.endswith("out")
        and isinstance(ours, CriticHead)
        and (ours.cmap_dim == 0) != (theirs.cmap_dim == 0)
    ):
        return None
    if own.ndim == 1 or name == "const":
        rows = min(len(own), len(other))
        return torch.cat([other[:rows], own[rows:]])
    if name != "weight" or own.ndim != other.ndim:
        return None
    scaled = isinstance(networks[0].get_submodule(layer), EqualizedConv2d | EqualizedLinear | StyledHead)
    gain = math.sqrt(own[0].numel() / other[0].numel()) if scaled else 1.0
    kept = (own.shape[1], other.shape[1])
    if isinstance(ours, MappingNetwork) and layer.endswith("fc0"):
        kept = (ours.z_dim, theirs.z_dim)
    if isinstance(ours, CriticHead) and layer.endswith(".conv"):
        kept = (own.shape[1] - ours.mbstd_channels, other.shape[1] - theirs.mbstd_channels)
    if isinstance(ours, CriticHead) and layer.endswith(".fc"):
        return _flattened(own, other, gain, networks)
    return None if own.shape[2:] != other.shape[2:] else _columns(own, other, gain, kept)


def _parent(network: nn.Module, name: str) -> Any:
    """The module that holds the layer of a tensor."""
    return network.get_submodule(name.rpartition(".")[0].rpartition(".")[0])


def _columns(own: Tensor, other: Tensor, gain: float, kept: tuple[int, int]) -> Tensor:
    """Weights [out, in, ...] whose rows of the source read its inputs alone.

    kept: number of inputs of the first kind here and there (features, z), which are paired from the first on;
    those after them (statistics, labels) are paired too.
    """
    merged = own.clone()
    rows = min(own.shape[0], other.shape[0])
    merged[:rows] = 0
    count = min(kept)
    merged[:rows, :count] = other[:rows, :count] * gain
    rest = min(own.shape[1] - kept[0], other.shape[1] - kept[1])
    if rest:
        first, second = kept
        merged[:rows, first : first + rest] = other[:rows, second : second + rest] * gain
    return merged


def _flattened(own: Tensor, other: Tensor, gain: float, networks: tuple[nn.Module, nn.Module]) -> Tensor:
    """The layer after the last features: inputs are channels times positions, of another number here."""
    here, there = (cast(Any, network).config.initial_size for network in networks)
    ours = own.reshape(own.shape[0], -1, *here)
    theirs = other.reshape(other.shape[0], -1, *there)
    if here != there:
        theirs = F.interpolate(theirs, here, mode="bilinear", antialias=True)
        theirs = theirs * (math.prod(there) / math.prod(here))
    return _columns(ours, theirs, gain, (ours.shape[1], theirs.shape[1])).flatten(1)


def read_sources(
    path: Path,
    discriminator: Path | None = None,
    networks: Callable[[dict[str, Any]], dict[str, nn.Module]] | None = None,
) -> dict[str, tuple[nn.Module, str]]:
    """{"G_ema", "G", "D": (network, where it comes from)} of what --start-from may name.

    path: a .safetensors file with a generator or a discriminator, the name of a shipped network, a
    resume-*.pt file, or a folder with G_ema.safetensors, G.safetensors and D.safetensors, of which any may
    be absent. discriminator: another file for D. networks: builds those of a resume file from its stored
    recipe.
    Raises CheckpointError when there is nothing usable.
    """
    found: dict[str, tuple[nn.Module, str]] = {}
    if path.suffix == ".pt":
        found = _from_state(path, networks)
    elif path.is_dir():
        for name in ("G_ema", "G", "D"):
            file = path / f"{name}.safetensors"
            if file.exists():
                found[name] = (load(file, kind="discriminator" if name == "D" else "generator"), str(file))
        if not found:
            raise CheckpointError(
                f"{path} holds none of G_ema.safetensors, G.safetensors and D.safetensors. "
                "Name a file, or a folder that pyface convert --which all made."
            )
    else:
        network = load(path)
        kinds = {"generator": "G_ema", "discriminator": "D"}
        if getattr(network, "kind", "") not in kinds:
            raise CheckpointError(
                f"{path} holds a {getattr(network, 'kind', 'network')}; a generator is needed."
            )
        found[kinds[network.kind]] = (network, str(path))
    if discriminator is not None:
        found["D"] = (load(discriminator, kind="discriminator"), str(discriminator))
    return found


def _from_state(
    path: Path, networks: Callable[[dict[str, Any]], dict[str, nn.Module]] | None
) -> dict[str, tuple[nn.Module, str]]:
    state = load_state(path)
    modules = state["trainer"]["modules"]
    if networks is None or "G" not in modules:
        raise CheckpointError(f"{path} holds {', '.join(modules)}, which this recipe cannot start from.")
    found = {}
    with torch.random.fork_rng(devices=[]):
        built = networks(state["recipe"])
    for name, network in built.items():
        if name in modules:
            network.load_state_dict(modules[name])
            found[name] = (network, f"{name} of {path}")
    return found
