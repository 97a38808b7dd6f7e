"""Draw faces: a signed-distance-field renderer with exact labels, run by the native kernels."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyface.errors import BackendError, DTypeError, ShapeError, ValueRangeError
from pyface.ops._native import Backend, resolve

__all__ = ["OUTPUTS", "FaceParameter", "face_parameters", "face_render"]

MIN_SIZE, MAX_SIZE = 16, 1024
NUM_LANDMARKS = 73

# output -> (shape behind the batch axis, dtype); H and W stand for the size
OUTPUTS: dict[str, tuple[tuple[str | int, ...], torch.dtype]] = {
    "vis": (("H", "W", 3), torch.uint8),
    "nir": (("H", "W"), torch.uint8),
    "segmentation": (("H", "W"), torch.uint8),
    "depth": (("H", "W"), torch.float32),
    "landmarks": ((NUM_LANDMARKS, 2), torch.float32),
}


@dataclass(frozen=True)
class FaceParameter:
    """One number that a face is drawn from: its name, limits, default and meaning."""

    name: str
    low: float
    high: float
    default: float
    doc: str


@functools.cache
def face_parameters() -> tuple[FaceParameter, ...]:
    """The parameters of a drawn face, in the order of the columns that `face_render` takes.

    Raises:
        BackendError: the native module pyface._cpu, which holds the table, is not built.
    """
    try:
        module = importlib.import_module("pyface._cpu")
    except ImportError as error:
        raise BackendError(f"the renderer needs pyface._cpu, which is not built ({error}).") from None
    return tuple(FaceParameter(*row) for row in module.face_parameters())


@functools.cache
def _limits() -> tuple[Tensor, Tensor]:
    table = face_parameters()
    slack = 1e-5  # a limit that went through float32 arithmetic is still that limit
    return torch.tensor([p.low - slack for p in table]), torch.tensor([p.high + slack for p in table])


def _check_parameters(params: Tensor) -> None:
    table = face_parameters()
    if params.dtype != torch.float32:
        raise DTypeError(f"params must be float32; got {params.dtype}. Convert it with params.float().")
    if params.ndim != 2 or params.shape[1] != len(table):
        raise ShapeError(
            f"params must be [N, {len(table)}], one column for each of face_parameters(); "
            f"got {list(params.shape)}."
        )
    low, high = (limit.to(params.device) for limit in _limits())
    allowed = (params >= low) & (params <= high)
    if not bool(allowed.all()):
        row, column = (int(i) for i in (~allowed).nonzero()[0])
        parameter = table[column]
        raise ValueRangeError(
            f"params[{row}]: {parameter.name} is {float(params[row, column]):g}; "
            f"allowed: {parameter.low:g} to {parameter.high:g} ({parameter.doc})."
        )


def _check_call(size: int, outputs: Sequence[str]) -> None:
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise ValueRangeError(f"size must be {MIN_SIZE} to {MAX_SIZE} pixels; got {size}.")
    if isinstance(outputs, str) or not outputs or any(name not in OUTPUTS for name in outputs):
        raise ValueRangeError(f"outputs must be some of {', '.join(OUTPUTS)}; got {outputs!r}.")


def _renderer(params: Tensor, wanted: str) -> Backend:
    if wanted == "reference":
        raise BackendError("face_render has no torch reference. Use backend='auto', 'cpu' or 'cuda'.")
    found = resolve(params, wanted)
    if found is None:
        raise BackendError(
            f"face_render cannot run on {params.device}: there are no native kernels for it here. "
            "Move params to a device with kernels (see `pyface doctor`)."
        )
    return found


def face_render(
    params: Tensor,
    size: int,
    outputs: Sequence[str] = ("vis", "nir", "segmentation", "depth", "landmarks"),
    *,
    backend: str = "auto",
) -> dict[str, Tensor]:
    """Pictures and labels of faces, each a function of its own parameters alone.

    All pictures of one face come from the same rays: they are registered to the pixel. The same build and
    instruction set give the same bytes for any batch and any number of threads.

    Args:
        params: float32 [N, P] in the units and limits of `face_parameters()`.
        size: height and width in pixels, 16 to 1024.
        outputs: any of
            vis: uint8 [N, H, W, 3], sRGB;
            nir: uint8 [N, H, W], near-infrared under a lamp beside the camera;
            segmentation: uint8 [N, H, W]; 0 background 1 skin 2 eye 3 hair 4 clothes 5 glasses 6 mouth
            7 teeth 8 lips 9 brows 10 neck 11 ears;
            depth: float32 [N, H, W], distance from the camera plane in head units (a head is about 1 wide on
            either side of its axis), inf where nothing is hit;
            landmarks: float32 [N, 73, 2], pixels (x right, y down; pixel centres at +0.5): the 68 iBUG
            points, then left eye, right eye, nose tip, left and right mouth corner, image left first.
        backend: "auto", "cpu" or "cuda".

    Returns:
        A tensor for each name in `outputs`, on the device of `params`.

    Raises:
        ShapeError, DTypeError, ValueRangeError: params, size or outputs are not as said above.
        BackendError: no native kernels for this device.

    Sphere tracing: Hart, "Sphere tracing: a geometric method for the antialiased ray tracing of implicit
    surfaces", The Visual Computer 12 (1996); soft shadows and smooth unions after Quilez, "Raymarching
    signed distance fields" (2008-2013).

    >>> import torch
    >>> face = torch.tensor([[p.default for p in face_parameters()]])
    >>> face_render(face, 32, ("vis",))["vis"].shape
    torch.Size([1, 32, 32, 3])
    """
    _check_call(size, outputs)
    found = _renderer(params, backend)
    _check_parameters(params)
    params = params.detach().contiguous()
    made: dict[str, Tensor] = {}
    for name in outputs:
        shape, dtype = OUTPUTS[name]
        sizes = [size if isinstance(axis, str) else axis for axis in shape]
        made[name] = torch.empty([len(params), *sizes], dtype=dtype, device=params.device)
    if len(params):
        pointers = [made[name].data_ptr() if name in made else 0 for name in OUTPUTS]
        found.run(found.module.face_render, params, params.data_ptr(), *pointers, len(params), size)
    return made
