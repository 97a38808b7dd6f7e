"""A StyleGAN2 generator, or a part of it, in the form that exporters take: static weights, a free batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyface.errors import ExportError, ShapeError, ValueRangeError
from pyface.export.spec import BATCH, TensorSpec, precision_name
from pyface.export.synthesis_form import HOMOGENEOUS, SynthesisForm, folded_linear, wide
from pyface.export.up_form import UP_FORMS
from pyface.models import StyleGAN2Generator
from pyface.nn import MappingNetwork
from pyface.nn.conv import activation_gain
from pyface.nn.linear import EqualizedLinear
from pyface.ops import bias_act

__all__ = ["INPUTS", "NOISE_MODES", "PARTS", "GeneratorForm"]

PARTS = ("whole", "mapping", "synthesis")
INPUTS = ("z", "ws")
NOISE_MODES = ("const", "input", "none")
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class _Layer(nn.Module):
    """A fully connected layer with its gains in its weights, float32."""

    weight: Tensor
    bias: Tensor

    def __init__(self, layer: EqualizedLinear) -> None:
        super().__init__()
        self.activation = layer.activation
        total = activation_gain(layer.activation)
        folded = total if layer.activation in HOMOGENEOUS else 1.0
        self.gain = total / folded
        weight, bias = folded_linear(layer, folded)
        self.register_buffer("weight", weight.float())
        self.register_buffer("bias", bias.float())

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight, self.bias)
        return y if self.activation == "linear" else bias_act(y, act=self.activation, gain=self.gain)


def _normalized(x: Tensor) -> Tensor:
    """As `pyface.nn.normalize_second_moment`, by products: runtimes differ in powers of negative numbers."""
    return x * ((x * x).mean(dim=1, keepdim=True) + 1e-8).rsqrt()


class _Mapping(nn.Module):
    """w float32 [N, w_dim] of z and c, moved towards the average by psi."""

    average: Tensor

    def __init__(self, network: MappingNetwork) -> None:
        super().__init__()
        self.embed = _Layer(network.embed) if network.c_dim > 0 else None
        layers = [getattr(network, f"fc{index}") for index in range(network.num_layers)]
        self.layers = nn.Sequential(*map(_Layer, layers))
        if network.w_avg_decay is not None:
            self.register_buffer("average", wide(network.w_avg).float())

    def forward(self, z: Tensor, c: Tensor | None = None, psi: Tensor | None = None) -> Tensor:
        x = _normalized(z)
        if self.embed is not None and c is not None:
            x = torch.cat([x, _normalized(self.embed(c))], dim=1)
        w: Tensor = self.layers(x)
        # exact where psi is 1 or 0
        return w if psi is None else w * psi + self.average * (1 - psi)


class GeneratorForm(nn.Module):
    """`network` with weights, gains and constants folded, on the CPU: `form(*tensors)` gives a tuple.

    Inputs and outputs are float32 (pictures uint8 if asked) in every precision, and mapping, styles,
    demodulation and the sum of the pictures of all resolutions are computed in it. In 16 bits all features
    and weights of convolutions are 16 bits wide, those of the lowest resolution too. Every convolution and
    activation is the network's; noise is the network's own, an input, or none.

    Args:
        network: it is not changed; the form holds its own weights.
        part: "whole", "mapping" (ws of z) or "synthesis" (pictures of ws).
        inputs: "z" or "ws", what the form begins with; None means "ws" for the synthesis, else "z".
        precision: "fp32", "fp16" or "bf16"; quantised graphs begin as one of them.
        up_form: how convolutions double the size: "transposed", or "phases" without transposed convolution;
            None takes "phases" for bf16, in which TensorRT-RTX has no transposed convolution.
        noise: "const", "input" or "none"; a network without noise always has "none".
        uint8: give pictures as uint8 [N, H, W, C], the same bytes as `pyface.io.images.to_uint8`.

    Attributes:
        inputs: z [N, z_dim], c [N, c_dim] if the network has a condition and psi [] if it has an average of w
            (the truncation: 1 for none), or ws [N, num_ws, w_dim]; then noise [N, pixels of all layers], in
            the order of `SynthesisNetwork.noise_shapes`, if noise is "input".
        outputs: one picture a spectrum, by its name, [N, C, H, W] in about [-1, 1]; ws for the mapping.
        part, precision, up_form, noise_mode, uint8: as chosen; up_form is "" for the mapping.

    Raises:
        ValueRangeError: an unknown word.
        ExportError: words that do not go together, or a network that is not a StyleGAN2Generator.

    >>> from pyface.models import GeneratorConfig
    >>> G = StyleGAN2Generator(GeneratorConfig(16, channel_base=256, channel_max=16, z_dim=8, w_dim=8))
    >>> [tensor.name for tensor in GeneratorForm(G).inputs]
    ['z', 'psi']
    """

    def __init__(
        self,
        network: StyleGAN2Generator,
        *,
        part: str = "whole",
        inputs: str | None = None,
        precision: str = "fp32",
        up_form: str | None = None,
        noise: str = "const",
        uint8: bool = False,
    ) -> None:
        super().__init__()
        self.precision = precision_name(precision)
        inputs = ("ws" if part == "synthesis" else "z") if inputs is None else inputs
        up_form = ("phases" if self.precision == "bf16" else "transposed") if up_form is None else up_form
        _check(network, part, inputs, self.precision, up_form, noise, uint8)
        has_noise = part != "mapping" and network.config.use_noise
        self.part, self.uint8 = part, uint8
        self.noise_mode = noise if has_noise else "none"
        self.up_form = "" if part == "mapping" else up_form
        self.num_ws, self.spectra = network.num_ws, dict(network.spectra)
        self.mapping = _Mapping(network.mapping) if inputs == "z" else None
        self.synthesis: SynthesisForm | None = None
        if part != "mapping":
            self.synthesis = SynthesisForm(
                network.synthesis,
                dtype=DTYPES[self.precision],
                up_form=up_form,
                noise=self.noise_mode,
                one_w=inputs == "z",
            )
        self.inputs = tuple(_inputs(network, inputs, self.noise_mode))
        self.outputs = tuple(_outputs(network, part, uint8))
        self.eval()

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """What `outputs` names, of what `inputs` names, in their order.

        Raises:
            ShapeError: another number of tensors.
        """
        if len(tensors) != len(self.inputs):
            names = ", ".join(tensor.name for tensor in self.inputs)
            raise ShapeError(f"the form takes {len(self.inputs)} tensors ({names}); got {len(tensors)}")
        given = {spec.name: tensor for spec, tensor in zip(self.inputs, tensors, strict=True)}
        if self.mapping is None:
            ws = given["ws"]
        else:
            ws = self.mapping(given["z"], given.get("c"), given.get("psi"))
        if self.synthesis is None:
            return (ws.unsqueeze(1).expand(-1, self.num_ws, -1),)
        image = self.synthesis(ws, given.get("noise"))
        parts = image.split(list(self.spectra.values()), dim=1) if len(self.spectra) > 1 else (image,)
        return tuple(_pixels(part) if self.uint8 else part for part in parts)


def _pixels(image: Tensor) -> Tensor:
    """uint8 [N, H, W, C] of [N, C, H, W] in [-1, 1], rounded to the nearest level, halves to the even one.

    Nothing follows the conversion: TensorRT takes uint8 only as an output.
    """
    levels = ((image + 1) * 127.5).round().clamp(0, 255)
    return levels.permute(0, 2, 3, 1).to(torch.uint8)


def _inputs(network: StyleGAN2Generator, inputs: str, noise_mode: str) -> list[TensorSpec]:
    if inputs == "ws":
        found = [TensorSpec("ws", "float32", (BATCH, network.num_ws, network.w_dim))]
    else:
        found = [TensorSpec("z", "float32", (BATCH, network.z_dim))]
        if network.c_dim > 0:
            found.append(TensorSpec("c", "float32", (BATCH, network.c_dim)))
        if network.mapping.w_avg_decay is not None:
            found.append(TensorSpec("psi", "float32", ()))
    if noise_mode == "input":
        pixels = sum(height * width for height, width in network.synthesis.noise_shapes().values())
        found.append(TensorSpec("noise", "float32", (BATCH, pixels)))
    return found


def _outputs(network: StyleGAN2Generator, part: str, uint8: bool) -> list[TensorSpec]:
    if part == "mapping":
        return [TensorSpec("ws", "float32", (BATCH, network.num_ws, network.w_dim))]
    height, width = network.resolution
    if uint8:
        return [TensorSpec(name, "uint8", (BATCH, height, width, n)) for name, n in network.spectra.items()]
    return [TensorSpec(name, "float32", (BATCH, n, height, width)) for name, n in network.spectra.items()]


def _check(
    network: object, part: str, inputs: str, precision: str, up_form: str, noise: str, uint8: bool
) -> None:
    for name, value, allowed in (
        ("part", part, PARTS),
        ("inputs", inputs, INPUTS),
        ("up_form", up_form, tuple(UP_FORMS)),
        ("noise", noise, NOISE_MODES),
    ):
        if value not in allowed:
            raise ValueRangeError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")
    if precision not in DTYPES:
        raise ExportError(
            f"a form computes in {', '.join(DTYPES)}; got {precision!r}. Quantise the graph of one of them"
        )
    if not isinstance(network, StyleGAN2Generator):
        raise ExportError(f"the network must be a StyleGAN2Generator; got {type(network).__name__}")
    if part == "synthesis" and inputs == "z":
        raise ExportError(
            'the synthesis begins with ws; got inputs "z". Leave inputs out or take part "whole"'
        )
    if part == "mapping" and inputs == "ws":
        raise ExportError('the mapping gives ws and begins with z; got inputs "ws". Leave inputs out')
    if part == "mapping" and (uint8 or noise == "input"):
        raise ExportError("the mapping has neither pictures nor noise; leave uint8 and noise as they are")
    if noise == "input" and not network.config.use_noise:
        raise ExportError('this network has no noise (use_noise is False); noise must be "none" or "const"')
