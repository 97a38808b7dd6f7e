"""IResNet: the residual networks that face recognition with angular margins is trained with.

Deng et al. 2019, "ArcFace: Additive angular margin loss for deep face recognition", section 3.1: a block is
BN, convolution, BN, PReLU, convolution, BN beside the skip, an order of He et al. 2016, "Identity mappings in
deep residual networks", and the network ends in BN, dropout, a full layer and BN. Names of the parameters are
those that insightface's files have, so that these load as they are.
"""

from __future__ import annotations

import itertools
import math
import os
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pyface.errors import CheckpointError, DTypeError, ShapeError, ValueRangeError
from pyface.models._config import Config, positive

__all__ = ["DEPTHS", "IResNet", "IResNetConfig", "load_iresnet"]

# depth -> blocks of the four stages
DEPTHS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 14, 3),
    100: (3, 13, 30, 3),
    200: (6, 26, 60, 6),
}
_PREFIXES = ("module.", "backbone.", "model.", "_orig_mod.")
_NESTED = ("state_dict", "state_dict_backbone", "model", "backbone")
_MOST_LISTED = 6
_COUNT = "num_batches_tracked"


@dataclass(frozen=True)
class IResNetConfig(Config):
    """Sizes of the network.

    Args:
        blocks: residual blocks of the four stages, see `DEPTHS`.
        channels: of the four stages; each halves height and width. The convolution before them has as many
            as the first.
        size: height and width of the pictures in pixels, a multiple of 16.
        embedding_dim: length of the result.
    """

    blocks: Sequence[int] = DEPTHS[50]
    channels: Sequence[int] = (64, 128, 256, 512)
    size: int = 112
    embedding_dim: int = 512

    def __post_init__(self) -> None:
        for name in ("blocks", "channels"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        positive(1, embedding_dim=self.embedding_dim, size=self.size)
        if len(self.blocks) != 4 or len(self.channels) != 4 or self.size % 16:
            raise ValueRangeError(
                "blocks and channels must be four numbers and size a multiple of 16; got "
                f"{list(self.blocks)}, {list(self.channels)} and {self.size}"
            )
        for blocks, channels in zip(self.blocks, self.channels, strict=True):
            positive(1, blocks=blocks, channels=channels)


class IResNet(nn.Module):
    """Faces aligned by "arcface112" to vectors whose cosine says whether two pictures show one person.

    >>> network = IResNet(IResNetConfig(blocks=DEPTHS[18])).eval()
    >>> network(torch.zeros(2, 3, 112, 112)).shape
    torch.Size([2, 512])
    """

    architecture: ClassVar[str] = "iresnet"
    kind: ClassVar[str] = "embedder"

    def __init__(self, config: IResNetConfig) -> None:
        super().__init__()
        self.config = config
        channels = tuple(config.channels)
        self.conv1 = nn.Conv2d(3, channels[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[0])
        self.prelu = nn.PReLU(channels[0])
        for stage, (before, after) in enumerate(itertools.pairwise((channels[0], *channels))):
            blocks = [_Block(before, after, 2)]
            blocks += [_Block(after, after, 1) for _ in range(config.blocks[stage] - 1)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.bn2 = nn.BatchNorm2d(channels[-1])
        self.fc = nn.Linear(channels[-1] * (config.size // 16) ** 2, config.embedding_dim)
        self.features = nn.BatchNorm1d(config.embedding_dim)

    @property
    def depth(self) -> str:
        """The number in the network's name, such as "50"; the blocks for others."""
        found = [str(depth) for depth, blocks in DEPTHS.items() if blocks == tuple(self.config.blocks)]
        return found[0] if found else "-".join(str(n) for n in self.config.blocks)

    def forward(self, images: Tensor) -> Tensor:
        """Vectors [N, embedding_dim], not of unit length; gradients reach the images.

        Args:
            images: float [N, 3, size, size] RGB in [-1, 1].

        Raises:
            ShapeError, DTypeError: not such images.
        """
        size = self.config.size
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, size, size):
            raise ShapeError(f"images must be [N, 3, {size}, {size}]; got {list(images.shape)}")
        if not images.is_floating_point():
            raise DTypeError(f"images must be float in [-1, 1]; got {images.dtype}")
        x = images.contiguous(memory_format=torch.channels_last)
        x = self.prelu(self.bn1(self.conv1(x)))
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        x = self.bn2(x).flatten(1)
        found: Tensor = self.features(self.fc(x))
        return found


class _Block(nn.Module):
    """y = BN(conv(PReLU(BN(conv(BN(x)))))) + skip(x); the second convolution has the stride."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.prelu = nn.PReLU(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module | None = None
        if stride > 1 or channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x))))))
        return y + (x if self.downsample is None else self.downsample(x))


def load_iresnet(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> IResNet:
    """The IResNet of a state dict that `torch.save` wrote, in evaluation mode.

    Depth, widths, size of the pictures and length of the result follow from the shapes. A dictionary around
    the state dict ("state_dict", "backbone" ...) and prefixes ("module.", "backbone.") are taken off.

    Raises:
        CheckpointError: no such file, damaged, a pickle that would run code, or not an IResNet; the message
            lists what is missing, left over, or of another shape.
    """
    target = Path(path)
    tensors = _state_dict(target, _read(target))
    config = _config_of(target, tensors)
    with torch.device("meta"):  # nothing is allocated for shapes that a file merely claims
        network = IResNet(config)
    _check_fit(target, network, tensors)
    counts = {name: torch.tensor(0) for name in network.state_dict() if name.endswith(_COUNT)}
    network.load_state_dict({**tensors, **counts}, assign=True)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.eval().requires_grad_(False)


def _read(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no file {path}") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is refused: it is a pickle that holds more than weights, and loading it could run code. "
            "Save network.state_dict() alone with torch.save, on a machine that trusts it"
        ) from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # torch.load raises whatever the damage leads to
        raise CheckpointError(f"{path} is damaged, or no file of torch.save ({error})") from error


def _state_dict(path: Path, loaded: Any) -> dict[str, Tensor]:
    while isinstance(loaded, Mapping):
        inner = [loaded[key] for key in _NESTED if isinstance(loaded.get(key), Mapping)]
        if not inner:
            break
        loaded = inner[0]
    if not isinstance(loaded, Mapping) or not any(isinstance(value, Tensor) for value in loaded.values()):
        raise CheckpointError(
            f"{path} holds no state dict; expected are tensors by name, such as conv1.weight"
        )
    tensors = {}
    for name, value in loaded.items():
        while prefix := next((p for p in _PREFIXES if str(name).startswith(p)), ""):
            name = str(name)[len(prefix) :]
        if not isinstance(value, Tensor) or str(name).endswith(_COUNT):
            continue
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            raise CheckpointError(f"{path}: {name} is no plain tensor; save the network in float32")
        tensors[str(name)] = value.detach().float()
    return tensors


def _config_of(path: Path, tensors: Mapping[str, Tensor]) -> IResNetConfig:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    blocks, channels = [], []
    for stage in range(1, 5):
        found = {int(m[1]) for name in shapes if (m := re.match(rf"layer{stage}\.(\d{{1,4}})\.", name))}
        blocks.append(len(found))
        channels.append(next(iter(shapes.get(f"layer{stage}.0.conv2.weight", ())), 0))
    full = shapes.get("fc.weight", ())
    if 0 in blocks or 0 in channels or len(full) != 2 or sum(blocks) > 1000:
        raise CheckpointError(
            f"{path} is no IResNet: its {len(shapes)} tensors begin with {', '.join(list(shapes)[:4])}; "
            "expected are conv1, layer1 to layer4 of blocks with conv1 and conv2, and fc, as in insightface"
        )
    side = math.isqrt(full[1] // channels[-1])
    try:
        return IResNetConfig(tuple(blocks), tuple(channels), 16 * side, full[0])
    except ValueRangeError as error:
        raise CheckpointError(f"{path} has shapes that make no network: {error}") from error


def _check_fit(path: Path, network: IResNet, tensors: Mapping[str, Tensor]) -> None:
    wanted = {
        name: list(tensor.shape) for name, tensor in network.state_dict().items() if not name.endswith(_COUNT)
    }
    found = {name: list(tensor.shape) for name, tensor in tensors.items()}
    faults = [f"{name} is missing" for name in wanted if name not in found]
    faults += [f"{name} is left over" for name in found if name not in wanted]
    faults += [
        f"{name} is {found[name]}, needed is {wanted[name]}"
        for name in wanted
        if name in found and found[name] != wanted[name]
    ]
    if faults:
        more = f"; and {len(faults) - _MOST_LISTED} more" if len(faults) > _MOST_LISTED else ""
        raise CheckpointError(
            f"{path} does not fit IResNet-{network.depth}: {'; '.join(faults[:_MOST_LISTED])}{more}"
        )
