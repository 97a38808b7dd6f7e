"""StyleGAN2: generator and discriminator.

Sources: Karras et al. 2020, "Analyzing and improving the image quality of StyleGAN"; Karras et al. 2020,
"Training generative adversarial networks with limited data" (conditioning, 16-bit blocks, Freeze-D).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from pyface.errors import ShapeError, ValueRangeError
from pyface.models._config import one_of
from pyface.models._generator import Images, joined_spectra
from pyface.models._stylegan2_cuda import cuda_dtypes, release, synthesize_on_cuda
from pyface.models._stylegan2_engine import engine_precision, synthesize
from pyface.models.stylegan2_config import PRECISIONS, DiscriminatorConfig, GeneratorConfig
from pyface.nn import CriticBlock, CriticHead, MappingNetwork, SynthesisBlock

__all__ = [
    "DiscriminatorConfig",
    "GeneratorConfig",
    "StyleGAN2Discriminator",
    "StyleGAN2Generator",
    "SynthesisNetwork",
    "nvidia_name_map",
]

NOISE_MODES = ("random", "const", "none", "given")


def _block_name(size: tuple[int, int]) -> str:
    return f"b{size[0]}" if size[0] == size[1] else f"b{size[0]}x{size[1]}"


def _dtype(
    default: torch.dtype | None, is_first: bool, precision: str | None, base: torch.dtype
) -> torch.dtype:
    """The element type a block computes in; `base` is that of the parameters."""
    if is_first or base == torch.float64:
        return base
    if precision is None:
        return default or base
    return base if precision == "float32" else PRECISIONS[precision]


def _layout(dtype: torch.dtype, device: torch.device) -> torch.memory_format:
    """The layout in which convolutions are fastest: channels_last in 16 bits (several times), and on CPUs."""
    if dtype.itemsize == 2 or (device.type == "cpu" and dtype == torch.float32):
        return torch.channels_last
    return torch.contiguous_format


class SynthesisNetwork(nn.Module):
    """ws to images: one block per resolution, from a learned constant up.

    cuda_graphs: whether, in `eval()` mode on CUDA without gradients, the second call of each kind (batch
    size, precision, kind of noise) is recorded as a CUDA graph, which later calls replay.
    """

    cuda_graphs: bool = True

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.sizes = config.sizes
        self.w_dim = config.w_dim
        in_channels = 0
        for size in self.sizes:
            has_heads = config.architecture == "skip" or size == self.sizes[-1]
            block = SynthesisBlock(
                in_channels,
                config.channels(size),
                config.w_dim,
                size,
                config.spectra if has_heads else {},
                architecture=config.architecture,
                activation=config.activation,
                resample_filter=config.resample_filter,
                conv_clamp=config.effective_clamp,
                use_noise=config.use_noise,
                dtype_16bit=config.dtype_16bit(size),
            )
            self.add_module(_block_name(size), block)
            in_channels = config.channels(size)
        self.num_ws = sum(len(block.conv_names) for block in self.blocks()) + 1

    def blocks(self) -> list[SynthesisBlock]:
        """Its blocks, lowest resolution first."""
        return [getattr(self, _block_name(size)) for size in self.sizes]

    def noise_shapes(self) -> dict[str, tuple[int, int]]:
        """Name and size of every noise input, in the order of use: {"b4.conv1": (4, 4), ...}."""
        if not self.config.use_noise:
            return {}
        return {
            f"{_block_name(block.size)}.{name}": block.size
            for block in self.blocks()
            for name in block.conv_names
        }

    def forward(
        self,
        ws: Tensor,
        noise_mode: str = "random",
        noise: Sequence[Tensor] | Mapping[str, Tensor] | None = None,
        precision: str | None = None,
        generator: torch.Generator | None = None,
    ) -> Images:
        """Images float32 [N, C, H, W] in about [-1, 1]; a dict by spectrum when there are several.

        Where no gradient is wanted and the CPU or CUDA kernels run, every layer is one fused call
        (`_stylegan2_engine`, `_stylegan2_cuda`): the same numbers up to rounding, much faster. CUDA keeps
        memory for the next call: `release_memory`.

        Args:
            ws: [N, num_ws, w_dim].
            noise_mode: "random" (new for every image), "const" (the network's own), "none", or "given".
            noise: for "given": tensors [N, 1, H, W] or [H, W], a list in the order of `noise_shapes` or a
                dict by its names (layers left out of the dict get none).
            precision: "float32", "float16" or "bfloat16" for all resolutions (where layers run one by one the
                lowest stays in float32); None does as the configuration says.
            generator: source of the random noise.

        Raises:
            ShapeError: ws or noise of a wrong shape.
            ValueRangeError: an unknown noise_mode, precision or noise name.
        """
        if ws.ndim != 3 or tuple(ws.shape[1:]) != (self.num_ws, self.w_dim):
            raise ShapeError(
                f"ws must be [N, {self.num_ws}, {self.w_dim}]; got {list(ws.shape)}. "
                "A single w is repeated by w[:, None].expand(-1, num_ws, -1)"
            )
        one_of(noise_mode, NOISE_MODES, "noise_mode")
        if precision is not None:
            one_of(precision, tuple(PRECISIONS), "precision")
        if (noise is not None) != (noise_mode == "given"):
            raise ValueRangeError(
                f'noise goes with noise_mode="given" and only with it; got noise_mode={noise_mode!r}'
            )
        given = self._given_noise(noise, ws.shape[0]) if noise is not None else {}
        base = self.blocks()[0].const.dtype
        ws = ws.to(base)
        engine_dtype, dtypes = engine_precision(self, ws, precision), cuda_dtypes(self, ws, precision)
        if engine_dtype is not None or dtypes is not None:
            all_noise = [self._noise(block, noise_mode, given, ws, generator) for block in self.blocks()]
            if dtypes is not None:
                made = synthesize_on_cuda(self, ws, all_noise, dtypes)
            else:
                made = synthesize(self, ws, all_noise, engine_dtype or ws.dtype)
            return made if len(made) > 1 else next(iter(made.values()))
        x: Tensor | None = None
        images: dict[str, Tensor] = {}
        start = 0
        for index, block in enumerate(self.blocks()):
            block_ws = ws[:, start : start + len(block.conv_names) + 1]
            start += len(block.conv_names)
            block_noise = self._noise(block, noise_mode, given, ws, generator)
            dtype = _dtype(block.dtype_16bit, index == 0, precision, base)
            x, images = block(x, images, block_ws, block_noise, dtype, _layout(dtype, ws.device))
        return images if len(images) > 1 else next(iter(images.values()))

    def release_memory(self) -> None:
        """Free the memory and CUDA graphs that calls without gradients on CUDA keep for the next call."""
        release(self)

    def _noise(
        self,
        block: SynthesisBlock,
        noise_mode: str,
        given: Mapping[str, Tensor],
        ws: Tensor,
        generator: torch.Generator | None,
    ) -> dict[str, Tensor | None]:
        if noise_mode == "none" or not self.config.use_noise:
            return {}
        if noise_mode == "const":
            return {name: getattr(block, name).noise_const for name in block.conv_names}
        if noise_mode == "given":
            return {name: given.get(f"{_block_name(block.size)}.{name}") for name in block.conv_names}
        device = ws.device if generator is None else generator.device
        shape = (ws.shape[0], 1, *block.size)
        return {
            name: torch.randn(shape, generator=generator, device=device, dtype=torch.float32).to(
                ws.device, ws.dtype
            )
            for name in block.conv_names
        }

    def _given_noise(self, noise: Sequence[Tensor] | Mapping[str, Tensor], n: int) -> dict[str, Tensor]:
        shapes = self.noise_shapes()
        if not isinstance(noise, Mapping):
            if len(noise) != len(shapes):
                raise ShapeError(f"noise must have {len(shapes)} tensors, one per layer; got {len(noise)}")
            noise = dict(zip(shapes, noise, strict=True))
        unknown = sorted(set(noise) - set(shapes))
        if unknown:
            raise ValueRangeError(f"noise has no layer {', '.join(unknown)}; layers are {', '.join(shapes)}")
        for name, tensor in noise.items():
            if tuple(tensor.shape) not in (shapes[name], (n, 1, *shapes[name])):
                h, w = shapes[name]
                raise ShapeError(
                    f"noise of {name} must be [{n}, 1, {h}, {w}] or [{h}, {w}]; got {list(tensor.shape)}"
                )
        return dict(noise)


class StyleGAN2Generator(nn.Module):
    """A StyleGAN2 generator: `G(z, c)` gives images; see `pyface.models.Generator` for its attributes.

    >>> G = StyleGAN2Generator(GeneratorConfig(16, channel_base=256, channel_max=16, z_dim=8, w_dim=8))
    >>> G(torch.randn(2, 8)).shape
    torch.Size([2, 3, 16, 16])
    """

    architecture: ClassVar[str] = "stylegan2-generator"
    kind: ClassVar[str] = "generator"

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.z_dim, self.c_dim, self.w_dim = config.z_dim, config.c_dim, config.w_dim
        self.resolution: tuple[int, int] = config.resolution
        self.spectra: dict[str, int] = dict(config.spectra)
        self.synthesis = SynthesisNetwork(config)
        self.num_ws = self.synthesis.num_ws
        self.mapping = MappingNetwork(
            config.z_dim,
            config.c_dim,
            config.w_dim,
            self.num_ws,
            num_layers=config.mapping_layers,
            activation=config.activation,
            lr_multiplier=config.mapping_lr_multiplier,
            w_avg_decay=config.w_avg_decay,
        )

    def forward(
        self,
        z: Tensor,
        c: Tensor | None = None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        noise_mode: str = "random",
        update_w_avg: bool = False,
        **options: Any,
    ) -> Images:
        """Images float32 [N, C, H, W] in about [-1, 1]; a dict by spectrum when there are several.

        Args:
            z: [N, z_dim], standard normal.
            c: [N, c_dim]; None when c_dim is 0.
            truncation_psi: below 1, w moves towards the average: fewer odd pictures, less variety.
            truncation_cutoff: truncate only the first so many ws.
            noise_mode: "random", "const", "none" or "given".
            update_w_avg: let this batch move the average of w (training).
            **options: noise, precision and generator of `SynthesisNetwork.forward`.
        """
        ws = self.mapping(z, c, truncation_psi, truncation_cutoff, update_w_avg)
        images: Images = self.synthesis(ws, noise_mode=noise_mode, **options)
        return images


class StyleGAN2Discriminator(nn.Module):
    """A StyleGAN2 discriminator: `D(image, c)` gives logits [N, 1], above 0 for what it takes for real.

    >>> D = StyleGAN2Discriminator(DiscriminatorConfig(16, channel_base=256, channel_max=16))
    >>> D(torch.zeros(4, 3, 16, 16)).shape
    torch.Size([4, 1])
    """

    architecture: ClassVar[str] = "stylegan2-discriminator"
    kind: ClassVar[str] = "discriminator"

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        self.c_dim = config.c_dim
        self.resolution: tuple[int, int] = config.resolution
        self.spectra: dict[str, int] = dict(config.spectra)
        self.sizes = config.sizes
        image_channels = sum(config.spectra.values())
        in_channels = 0
        for size, next_size in zip(self.sizes[:0:-1], self.sizes[-2::-1], strict=True):
            block = CriticBlock(
                in_channels,
                config.channels(size),
                config.channels(next_size),
                image_channels,
                size,
                architecture=config.architecture,
                activation=config.activation,
                resample_filter=config.resample_filter,
                conv_clamp=config.effective_clamp,
                dtype_16bit=config.dtype_16bit(size),
            )
            self.add_module(_block_name(size), block)
            in_channels = config.channels(next_size)
        cmap_dim = 0
        if config.c_dim > 0:
            cmap_dim = config.channels(config.initial_size) if config.cmap_dim is None else config.cmap_dim
            self.mapping = MappingNetwork(
                0,
                config.c_dim,
                cmap_dim,
                None,
                num_layers=config.mapping_layers,
                activation=config.activation,
                lr_multiplier=config.mapping_lr_multiplier,
                w_avg_decay=None,
            )
        head = CriticHead(
            in_channels,
            image_channels,
            config.initial_size,
            cmap_dim=cmap_dim,
            architecture=config.architecture,
            mbstd_group_size=config.mbstd_group_size,
            mbstd_channels=config.mbstd_channels,
            activation=config.activation,
            conv_clamp=config.effective_clamp,
        )
        self.add_module(_block_name(config.initial_size), head)
        self.requires_grad_(True)

    def blocks(self) -> list[CriticBlock]:
        """Its blocks, highest resolution first, without the head."""
        return [getattr(self, _block_name(size)) for size in self.sizes[:0:-1]]

    def frozen_parameters(self) -> list[nn.Parameter]:
        """Parameters of the first `freeze_layers` layers."""
        layers = [layer for block in self.blocks() for layer in block.layers()]
        return [p for layer in layers[: self.config.freeze_layers] for p in layer.parameters()]

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """As in `torch.nn.Module`, but frozen layers stay frozen."""
        super().requires_grad_(requires_grad)
        for parameter in self.frozen_parameters():
            parameter.requires_grad_(False)
        return self

    def forward(self, image: Images, c: Tensor | None = None, precision: str | None = None) -> Tensor:
        """Logits float32 [N, 1].

        Args:
            image: [N, C, H, W] in about [-1, 1], the channels of all spectra in order; or a dict by spectrum.
            c: [N, c_dim]; None when c_dim is 0.
            precision: "float32", "float16" or "bfloat16"; None does as the configuration says.

        Raises:
            ShapeError: image or c of a wrong shape, or a spectrum missing.
            ValueRangeError: an unknown precision.
        """
        if precision is not None:
            one_of(precision, tuple(PRECISIONS), "precision")
        if c is not None and c.numel() > 0 and self.c_dim == 0:
            raise ShapeError(f"this network has no condition (c_dim 0); got c {list(c.shape)}. Leave c out")
        head = getattr(self, _block_name(self.config.initial_size))
        base = head.fc.weight.dtype
        image = joined_spectra(image, self.spectra, self.resolution).to(base)
        rest: Tensor | None = image
        x: Tensor | None = None
        for block in self.blocks():
            dtype = _dtype(block.dtype_16bit, False, precision, base)
            x, rest = block(x, rest, dtype, _layout(dtype, image.device))
        cmap = self.mapping(None, c) if self.c_dim > 0 else None
        logits: Tensor = head(x, rest, cmap)
        return logits


def nvidia_name_map(config: GeneratorConfig | DiscriminatorConfig) -> dict[str, str]:
    """{name in NVIDIA's state dicts: name in ours} for a network of one spectrum.

    Values need no change of layout. NVIDIA's `resample_filter` entries have no counterpart: our filters come
    from the configuration.
    """
    network: nn.Module
    with torch.device("meta"):
        if isinstance(config, GeneratorConfig):
            network = StyleGAN2Generator(config)
        else:
            network = StyleGAN2Discriminator(config)
    spectrum = next(iter(config.spectra))
    return {
        name.replace(f".heads.{spectrum}.", ".torgb.").replace(".from_image.", ".fromrgb."): name
        for name in network.state_dict()
    }
