"""dlib's face recognition network: 29 convolutions, a picture of 150 x 150 to 128 numbers.

King 2017, "High quality face recognition with deep metric learning": a residual network (He et al. 2016,
"Deep residual learning for image recognition") with half as many filters and fewer layers than ResNet-34,
trained so that pictures of one person lie within 0.6 of each other in Euclidean distance. The weights are in
the public domain (CC0) and come from dlib's file, see `pyface.io.dlib_file`.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyface.errors import CheckpointError, DataError, DTypeError, ShapeError, ValueRangeError
from pyface.io.atomic import make_folder
from pyface.io.checkpoint import save_model
from pyface.io.dlib_file import DlibLayer, DlibNetwork, read_dlib_network
from pyface.io.hashing import sha256_of
from pyface.models._config import Config, positive
from pyface.models._registry import load

__all__ = ["DlibResNet", "DlibResNetConfig", "load_dlib_resnet", "network_of"]

_LAYOUT = 1  # of the converted file; part of its name


@dataclass(frozen=True)
class DlibResNetConfig(Config):
    """Sizes of the network; the defaults are those of dlib's file.

    Args:
        size: height and width of the pictures in pixels.
        channels: of the stages, each at half the resolution of the one before.
        blocks: residual blocks of each stage; the first one of every stage but the first halves the
            resolution.
        embedding_dim: length of the result.
        mean: of red, green and blue in grey levels, subtracted from the pictures.
    """

    size: int = 150
    channels: Sequence[int] = (32, 64, 128, 256, 256)
    blocks: Sequence[int] = (3, 4, 3, 3, 1)
    embedding_dim: int = 128
    mean: Sequence[float] = (122.782, 117.001, 104.298)

    def __post_init__(self) -> None:
        for name in ("channels", "blocks", "mean"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        positive(1, embedding_dim=self.embedding_dim)
        if len(self.channels) != len(self.blocks) or not self.channels or len(self.mean) != 3:
            raise ValueRangeError(
                f"channels and blocks must have one number for each stage and mean three; got "
                f"{list(self.channels)}, {list(self.blocks)} and {list(self.mean)}"
            )
        for channels, blocks in zip(self.channels, self.blocks, strict=True):
            positive(1, channels=channels, blocks=blocks)
        least = 4 * 2 ** len(self.channels) + 7
        if not isinstance(self.size, int) or self.size < least:
            raise ValueRangeError(
                f"size must be at least {least} for {len(self.channels)} stages; got {self.size!r}"
            )


class DlibResNet(nn.Module):
    """Faces to 128 numbers whose Euclidean distance says whether two pictures show one person (below 0.6).

    Pictures are chips of the template "dlib150": turned upright, the face with a border of a quarter. The
    channel-wise scales that follow dlib's convolutions are part of the weights here.

    >>> network = DlibResNet(DlibResNetConfig()).eval()
    >>> network(torch.zeros(2, 3, 150, 150)).shape
    torch.Size([2, 128])
    """

    architecture: ClassVar[str] = "dlib-resnet"
    kind: ClassVar[str] = "embedder"

    def __init__(self, config: DlibResNetConfig) -> None:
        super().__init__()
        self.config = config
        channels = tuple(config.channels)
        self.stem = nn.Conv2d(3, channels[0], 7, stride=2)
        self.stages = nn.ModuleList()
        for stage, (before, after) in enumerate(itertools.pairwise((channels[0], *channels))):
            blocks = [_Block(before, after, halves=stage > 0)]
            blocks += [_Block(after, after, halves=False) for _ in range(config.blocks[stage] - 1)]
            self.stages.append(nn.Sequential(*blocks))
        self.output = nn.Linear(channels[-1], config.embedding_dim, bias=False)
        mean = torch.tensor(config.mean, dtype=torch.float64)
        shift = ((127.5 - mean) / 256).float().reshape(1, 3, 1, 1)
        self.register_buffer("_shift", shift, persistent=False)
        self._shift: Tensor

    def features(self, images: Tensor) -> list[Tensor]:
        """What each stage sees: float [N, channels, H, W], from the finest to the coarsest.

        For pictures of 150 pixels the sides are 35, 17, 8, 4 and 2. Arguments as in `forward`.
        """
        self._check(images)
        x = images * (127.5 / 256) + self._shift  # (grey level - mean) / 256
        x = x.contiguous(memory_format=torch.channels_last)
        x = F.max_pool2d(F.relu(self.stem(x)), 3, 2)
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found

    def embedding_of(self, features: Sequence[Tensor]) -> Tensor:
        """The embedding of what `features` gave."""
        found: Tensor = self.output(features[-1].mean((2, 3)))
        return found

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings [N, embedding_dim], not of unit length; gradients reach the images.

        Args:
            images: float [N, 3, size, size] RGB in [-1, 1].

        Raises:
            ShapeError, DTypeError: not such images.
        """
        return self.embedding_of(self.features(images))

    def _check(self, images: Tensor) -> None:
        size = self.config.size
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, size, size):
            raise ShapeError(
                f"images must be [N, 3, {size}, {size}]; got {list(images.shape)}. Align faces with the "
                "template dlib150"
            )
        if not images.is_floating_point():
            raise DTypeError(
                f"images must be float in [-1, 1]; got {images.dtype}. Scale uint8 by x / 127.5 - 1."
            )


class _Block(nn.Module):
    """y = relu(conv(relu(conv(x))) + skip(x)), where what one of the two lacks counts as zero.

    A block that halves begins with a convolution of stride 2 without padding, beside which the skip is the
    mean of 2 x 2 pixels: it has fewer channels, and for even sizes one row and column more.
    """

    def __init__(self, channels: int, out_channels: int, halves: bool) -> None:
        super().__init__()
        self.halves = halves
        stride, padding = (2, 0) if halves else (1, 1)
        self.first = nn.Conv2d(channels, out_channels, 3, stride, padding)
        self.second = nn.Conv2d(out_channels, out_channels, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(F.relu(self.first(x)))
        if self.halves:
            x = F.avg_pool2d(x, 2)
            rows, columns = x.shape[2] - y.shape[2], x.shape[3] - y.shape[3]
            if rows or columns:
                y = F.pad(y, (0, columns, 0, rows))
            if x.shape[1] < y.shape[1]:
                x = F.pad(x, (0, 0, 0, 0, 0, y.shape[1] - x.shape[1]))
        return F.relu(y + x)


def load_dlib_resnet(
    source: str | Path,
    cache: str | Path | None = None,
    device: str | torch.device = "cpu",
    sha256: str | None = None,
) -> DlibResNet:
    """The network in dlib's file, in evaluation mode, its parameters without gradients.

    Args:
        source: `dlib_face_recognition_resnet_model_v1.dat`.
        cache: a folder that keeps the weights as safetensors in float16, half the size, under a name made of
            the SHA-256 of `source`, and from which they are then read. One that cannot be written is done
            without.
        device: where its parameters go.
        sha256: of `source`, where it is known; 64 hexadecimal digits.

    Raises:
        CheckpointError: `source` is missing, damaged or another network.
    """
    source = Path(source)
    if cache is None:
        return _ready(network_of(read_dlib_network(source)), device)
    try:
        digest = sha256 or sha256_of(source)
    except OSError as error:
        raise CheckpointError(f"cannot read {source}: {error.strerror or error}") from error
    converted = Path(cache) / f"{source.stem}-{digest[:16]}-{_LAYOUT}.safetensors"
    with contextlib.suppress(CheckpointError):  # not there, or damaged by somebody else: it is made again
        return _ready(load(converted, kind=DlibResNet.kind), device)
    network = network_of(read_dlib_network(source))
    with contextlib.suppress(DataError):
        make_folder(cache)
        save_model(converted, network, dtype="float16", extra={"training": {"source_sha256": digest}})
        return _ready(load(converted, kind=DlibResNet.kind), device)
    return _ready(network, device)


def _ready(network: DlibResNet, device: str | torch.device) -> DlibResNet:
    return network.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload, no-any-return]


def network_of(file: DlibNetwork) -> DlibResNet:
    """The network of a dlib file, with the scales behind its convolutions folded into them.

    Raises:
        CheckpointError: its layers are not those of dlib's face recognition network.
    """
    config = DlibResNetConfig(size=file.input.rows, mean=file.input.mean)
    with torch.random.fork_rng(devices=[]):
        network = DlibResNet(config)
    found = [(layer.name, tuple(layer.sizes.values())) for layer in file.layers]
    for i, (here, wanted) in enumerate(itertools.zip_longest(found, _layers(network))):
        if here != wanted:
            raise CheckpointError(
                f"not dlib's face recognition network: layer {i} is {_words(here)}; expected is "
                f"{_words(wanted)}"
            )
    weighted = iter([layer for layer in file.layers if layer.parameters])
    with torch.no_grad():
        for name, module in network.named_modules():
            if isinstance(module, nn.Conv2d):
                _fold(name, module, next(weighted), next(weighted))
        network.output.weight.copy_(torch.from_numpy(next(weighted).parameters["weight"].T.copy()))
    return network.eval()


_Layer = tuple[str, tuple[int, ...]]


def _layers(network: DlibResNet) -> Iterator[_Layer]:
    """Name and sizes of every layer that dlib's file must have, in its order."""
    yield from (_convolution(network.stem), ("affine", ()), ("relu", ()), ("max_pool", (3, 3, 2, 2, 0, 0)))
    for block in (module for module in network.modules() if isinstance(module, _Block)):
        yield from (_convolution(block.first), ("affine", ()), ("relu", ()))
        yield from (_convolution(block.second), ("affine", ()))
        if block.halves:
            yield ("avg_pool", (2, 2, 2, 2, 0, 0))
        yield from (("add_prev", ()), ("relu", ()))
    yield from (
        ("avg_pool", (0, 0, 1, 1, 0, 0)),
        ("fc", (network.output.out_features, network.output.in_features)),
    )


def _convolution(module: nn.Conv2d) -> _Layer:
    sizes = (module.out_channels, *module.kernel_size, *module.stride, *module.padding)
    return "con", tuple(int(size) for size in sizes)


def _words(layer: _Layer | None) -> str:
    return "nothing" if layer is None else " ".join([layer[0], *(str(size) for size in layer[1])])


def _fold(name: str, module: nn.Conv2d, plain: DlibLayer, affine: DlibLayer) -> None:
    """scale * (weight x + bias) + shift as one convolution, in float64."""
    scale = affine.parameters["scale"].astype(np.float64)
    weight, bias = plain.parameters["weight"], plain.parameters["bias"]
    if weight.shape != tuple(module.weight.shape) or scale.shape != bias.shape:
        raise CheckpointError(
            f"not dlib's face recognition network: {name} is {list(weight.shape)} with {len(scale)} scales; "
            f"expected is {list(module.weight.shape)}"
        )
    module.weight.copy_(torch.from_numpy(weight * scale[:, None, None, None]))
    if module.bias is not None:
        module.bias.copy_(torch.from_numpy(bias * scale + affine.parameters["shift"]))
