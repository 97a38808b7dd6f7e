"""What an exported artefact is: its precision, its inputs and outputs, and how it was made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from pyface.errors import ExportError, ValueRangeError

__all__ = ["BATCH", "PRECISIONS", "EngineSpec", "TensorSpec", "precision_name", "torch_precision"]

BATCH = "batch"  # the name of the axis that is free

# as artefacts and their commands name them -> as torch and `SynthesisNetwork.forward` do
PRECISIONS: Mapping[str, str] = {
    "fp32": "float32",
    "fp16": "float16",
    "bf16": "bfloat16",
    "int8": "int8",
    "fp8": "float8_e4m3fn",
}


def precision_name(text: str) -> str:
    """The short name, such as "bf16", of either name. Raises ValueRangeError for any other word.

    >>> precision_name("bfloat16")
    'bf16'
    """
    for short, long in PRECISIONS.items():
        if text in (short, long):
            return short
    raise ValueRangeError(f"precision must be one of {', '.join(PRECISIONS)}; got {text!r}")


def torch_precision(text: str) -> str:
    """The name that torch has for a precision, such as "bfloat16" of "bf16". Raises as `precision_name`."""
    return PRECISIONS[precision_name(text)]


@dataclass(frozen=True)
class TensorSpec:
    """An input or output: name, element type as numpy names it, shape; `BATCH` stands for any N."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> Self:
        """What `dataclasses.asdict` gave."""
        return cls(entry["name"], entry["dtype"], tuple(entry["shape"]))

    def concrete(self, batch: int) -> tuple[int, ...]:
        """Its shape for a batch of this size."""
        return tuple(batch if size == BATCH else int(size) for size in self.shape)


@dataclass(frozen=True)
class EngineSpec:
    """What an artefact computes and how it was made; stands in the JSON file beside it.

    Attributes:
        format: "onnx", "openvino", "tensorrt" or "tensorrt-rtx".
        architecture: of the network, a key of `pyface.models.ARCHITECTURES`.
        part: "whole", or of a generator "mapping" or "synthesis".
        precision: a key of `PRECISIONS`; inputs and outputs stay float32 (or uint8) in every precision.
        opset: of the ONNX graph it is or was made of.
        up_form: how convolutions double the size: "transposed" or "phases"; "" where none does.
        inputs, outputs: in the order of the graph.
        noise_mode: "const", "input" or "none".
        uint8: whether images come as uint8 [N, H, W, C] instead of float32 [N, C, H, W].
        batch: the fixed number of images, or None when it is free.
        profile: smallest, best and largest batch of a TensorRT engine.
        compute_capabilities: devices it was built for, such as (89, 120).
        z_dim, c_dim, w_dim, num_ws, resolution, spectra: of a generator, as in `pyface.models.Generator`.
        weights_sha256: of the checkpoint file, or of the network's tensors where there was no file.
        onnx_sha256: of the ONNX graph it was made of; "" for the ONNX file itself.
        calibration_sha256: of the latents that set the ranges of int8 and fp8.
        functions: whether pyface's ops are functions of the domain "pyface" in an ONNX file.
        versions: of pyface, torch and the libraries that made it.
    """

    format: str
    architecture: str
    part: str
    precision: str
    opset: int
    up_form: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    noise_mode: str = "const"
    uint8: bool = False
    batch: int | None = None
    profile: tuple[int, int, int] | None = None
    compute_capabilities: tuple[int, ...] = ()
    z_dim: int = 0
    c_dim: int = 0
    w_dim: int = 0
    num_ws: int = 0
    resolution: tuple[int, int] = (0, 0)
    spectra: Mapping[str, int] = field(default_factory=dict)
    weights_sha256: str = ""
    onnx_sha256: str = ""
    calibration_sha256: str = ""
    functions: bool = False
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> Self:
        """What `to_dict` gave. Raises ExportError when fields are missing, unknown or of another form."""
        try:
            fields = dict(entry)
            for name in ("inputs", "outputs"):
                fields[name] = tuple(TensorSpec.from_dict(tensor) for tensor in fields[name])
            for name in ("profile", "compute_capabilities", "resolution"):
                fields[name] = None if fields[name] is None else tuple(fields[name])
            return cls(**fields)
        except (KeyError, TypeError) as error:
            raise ExportError(
                f"the description of an artefact is damaged or of another version of pyface ({error}); "
                "export the network again"
            ) from error
