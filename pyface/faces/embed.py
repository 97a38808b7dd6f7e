"""Embedders: aligned faces to vectors that are near each other for one person.

| name | network | template | metric |
|---|---|---|---|
| `default`, `dlib` | dlib's, 128 numbers (`pyface models fetch dlib-resnet`) | dlib150 | l2 |
| `dlib-rendered` | dlib's, projected to 32 numbers in which rendered people differ | dlib150 | cosine |
| `recognition-64` | comes with pyface, trained on rendered faces alone, 128 numbers | rendered | cosine |
| a path ending in .onnx | any ArcFace-like network, run by onnxruntime; no gradients | arcface112 | cosine |
| a path ending in .pth, .pt | IResNet-18 to -200 as insightface trains them | arcface112 | cosine |
| a path ending in .safetensors | an IResNet or dlib's network that `pyface.io` saved | its own | its own |

dlib's network was made for photographs. Rendered people lie close together in its 128 numbers (0.6 takes most
of them for one person); `dlib-rendered` reads off them what tells rendered people apart. docs/identity.md has
the figures.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyface.errors import CheckpointError, DTypeError, ShapeError, ValueRangeError
from pyface.faces.model_store import cache_folder, model_entry, model_file
from pyface.faces.protocols import Embedder
from pyface.faces.templates import DLIB_POINTS, load_template
from pyface.faces.warp import transform_points, warp
from pyface.io.checkpoint import load_tensors
from pyface.models import DlibResNet, FaceRecognition, IResNet, load
from pyface.models.dlib_resnet import load_dlib_resnet
from pyface.models.iresnet import load_iresnet

__all__ = [
    "METRICS",
    "NetworkEmbedder",
    "checked_faces",
    "distances",
    "dlib",
    "dlib_network",
    "dlib_rendered",
    "in_frame",
    "iresnet",
    "recognition_64",
    "same_person",
    "saved",
]

METRICS = ("l2", "cosine")
PRECISIONS = ("float32", "bfloat16")

ARCFACE_THRESHOLD = 0.3
DLIB_THRESHOLD = 0.6  # of its author, for photographs
DLIB_RENDERED_THRESHOLD = 0.57  # this and the next: one false match in a hundred rendered pairs
RENDERED_THRESHOLD = 0.54


class NetworkEmbedder:
    """An embedder made of a torch network. Gradients reach the faces; the network's weights stay as they are.

    Attributes as in `pyface.faces.protocols.Embedder`.

    Args:
        network: faces [N, 3, size, size] in [-1, 1] -> vectors [N, dim].
        name: for messages and reports.
        dim: length of a vector.
        size: height and width of the faces in pixels.
        template: by which they are aligned.
        metric: "l2": the same person below `threshold`; "cosine": above it.
        threshold: see `metric`.
        flip: give the mean of a face's vector and its mirror image's; twice the work, steadier.
        precision: "bfloat16" computes convolutions in 16 bits: more than twice as fast for batches on CPUs
            with AMX, and about 0.01 off in l2 (dlib).
        batch: faces that go through the network at a time.
    """

    differentiable = True

    def __init__(
        self,
        network: nn.Module | Callable[[Tensor], Tensor],
        *,
        name: str,
        dim: int,
        size: int,
        template: str,
        metric: str,
        threshold: float,
        flip: bool = False,
        precision: str = "float32",
        batch: int = 64,
    ) -> None:
        if metric not in METRICS or precision not in PRECISIONS or batch < 1:
            raise ValueRangeError(
                f"metric must be one of {', '.join(METRICS)}, precision one of {', '.join(PRECISIONS)}, "
                f"batch 1 or more; got {metric!r}, {precision!r} and {batch!r}."
            )
        self.network = network
        self.name, self.dim, self.size, self.template = name, dim, size, template
        self.metric, self.threshold = metric, float(threshold)
        self.flip, self.precision, self.batch = flip, precision, batch

    def embed(self, aligned: Tensor) -> Tensor:
        """Vectors float32 [N, dim].

        Args:
            aligned: float [N, 3, size, size] RGB in [-1, 1], aligned by `template`; on the network's device.

        Raises:
            ShapeError, DTypeError: not such faces.
        """
        faces = checked_faces(aligned, self.size, self.template)
        parts = [self._vectors(part) for part in faces.split(self.batch)] if len(faces) else []
        return torch.cat(parts) if parts else faces.new_zeros(0, self.dim)

    def _vectors(self, faces: Tensor) -> Tensor:
        with torch.autocast(faces.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            if not self.flip:
                return self.network(faces).float()
            pair = self.network(torch.cat([faces, faces.flip(3)])).float()
        return pair.unflatten(0, (2, len(faces))).mean(0)

    def __repr__(self) -> str:
        return f"<embedder {self.name}: {self.template} {self.size} px -> {self.dim}, {self.metric}>"


def checked_faces(aligned: Tensor, size: int, template: str) -> Tensor:
    """Faces as float32.

    Raises:
        ShapeError: not [N, 3, size, size].
        DTypeError: not floating-point.
    """
    if aligned.ndim != 4 or tuple(aligned.shape[1:]) != (3, size, size):
        raise ShapeError(
            f"aligned must be [N, 3, {size}, {size}]; got {list(aligned.shape)}. Align faces with "
            f"pyface.faces.align_batch(images, points, template={template!r}, size={size})."
        )
    if not aligned.is_floating_point():
        raise DTypeError(
            f"aligned must be float in [-1, 1]; got {aligned.dtype}. Scale uint8 by x / 127.5 - 1."
        )
    return aligned.float()


def distances(embedder: Embedder, first: Tensor, second: Tensor) -> Tensor:
    """How far faces are apart, float32 [N, M] of vectors [N, dim] and [M, dim]; less is more alike.

    The Euclidean distance for the metric "l2", 1 - cosine for "cosine".
    """
    for vectors in (first, second):
        if vectors.ndim != 2 or vectors.shape[1] != embedder.dim:
            raise ShapeError(f"vectors must be [N, {embedder.dim}]; got {list(vectors.shape)}.")
    if embedder.metric == "cosine":
        return 1 - F.normalize(first, dim=1) @ F.normalize(second, dim=1).T
    return torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist")


def same_person(embedder: Embedder, first: Tensor, second: Tensor) -> Tensor:
    """Whether pairs of vectors show one person by the embedder's threshold: bool [N, M]."""
    limit = embedder.threshold if embedder.metric == "l2" else 1 - embedder.threshold
    return distances(embedder, first, second) < limit


def in_frame(embedder: Embedder, frame: str = "ffhq") -> Callable[[Tensor], Tensor]:
    """A function of whole pictures whose faces lie as one template lays them: their vectors [N, dim].

    Pictures float [N, 3, S, S] in [-1, 1] of any size go from `frame` to the embedder's template by the map
    that fits a mean face (dlib's). So `pyface.training.losses.identity` and projections can take an embedder
    for generated pictures, in which nothing is detected. Gradients reach them where the embedder has any.

    >>> embed = in_frame(recognition_64(), "rendered")
    >>> embed(torch.zeros(2, 3, 128, 128)).shape
    torch.Size([2, 128])

    Args:
        embedder: any.
        frame: the template by which the pictures were aligned: "ffhq", or "rendered" for rendered faces and
            generators trained on them.

    Raises:
        ValueRangeError: there is no such template.
    """
    size = 256
    matrix = load_template(frame).matrix(DLIB_POINTS, size)
    inside = transform_points(matrix, DLIB_POINTS) / size  # as shares of the picture's side

    def vectors(images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[2] != images.shape[3]:
            raise ShapeError(f"images must be [N, 3, S, S]; got {list(images.shape)}.")
        points = inside * images.shape[-1]
        chip = load_template(embedder.template).matrix(points, embedder.size)
        return embedder.embed(warp(images, chip, embedder.size, border="edge"))

    return vectors


# --- factories ---------------------------------------------------------------------------------------------


def dlib(
    path: str | os.PathLike[str] | None = None,
    *,
    device: str | torch.device = "cpu",
    threshold: float = DLIB_THRESHOLD,
    **options: Any,
) -> NetworkEmbedder:
    """dlib's network: 128 numbers, one person below an l2 distance of 0.6.

    Args:
        path: `dlib_face_recognition_resnet_model_v1.dat`; the one of the model store when absent, of which a
            copy of half the size is kept beside it.
        device: where it runs.
        threshold: 0.6 is for photographs.
        **options: flip, precision and batch of `NetworkEmbedder`.

    Raises:
        ModelMissingError: it has not been fetched yet.
        CheckpointError: the file is damaged.
    """
    return _dlib_embedder(dlib_network(path, device), threshold, options)


def dlib_network(
    path: str | os.PathLike[str] | None = None, device: str | torch.device = "cpu"
) -> DlibResNet:
    """dlib's network itself; arguments and errors as in `dlib`."""
    if path is not None:
        return load_dlib_resnet(os.fspath(path), device=device)
    source, entry = model_file("dlib-resnet"), model_entry("dlib-resnet")
    return load_dlib_resnet(source, cache_folder() / entry.name, device, sha256=entry.file().sha256)


def _dlib_embedder(network: DlibResNet, threshold: float, options: dict[str, Any]) -> NetworkEmbedder:
    return NetworkEmbedder(
        network,
        name="dlib-resnet",
        dim=network.config.embedding_dim,
        size=network.config.size,
        template="dlib150",
        metric="l2",
        threshold=threshold,
        **options,
    )


def dlib_rendered(
    path: str | os.PathLike[str] | None = None,
    *,
    device: str | torch.device = "cpu",
    threshold: float = DLIB_RENDERED_THRESHOLD,
    **options: Any,
) -> NetworkEmbedder:
    """dlib's network for rendered faces: 32 numbers that a linear discriminant reads off its 128, cosine.

    The discriminant was fitted to 300 rendered people (tools/make_dlib_rendered.py), seed 99, numbers from
    10,000. For photographs take `dlib`. The threshold is the cosine that one pair in a hundred of different
    rendered people exceeds.

    Args:
        path: dlib's file; the one of the model store when absent.
        device: where it runs.
        threshold: of the cosine.
        **options: flip, precision and batch of `NetworkEmbedder`.

    Raises:
        ModelMissingError, CheckpointError: as `dlib`.
    """
    projection = load_tensors(Path(__file__).with_name("dlib_rendered.safetensors"), device)
    network = _Projected(dlib_network(path, device), projection["mean"], projection["projection"])
    return NetworkEmbedder(
        network,
        name="dlib-rendered",
        dim=projection["projection"].shape[1],
        size=network.network.config.size,
        template="dlib150",
        metric="cosine",
        threshold=threshold,
        **options,
    )


class _Projected(nn.Module):
    """`project` of what a network says."""

    def __init__(self, network: DlibResNet, mean: Tensor, projection: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", mean)
        self.register_buffer("projection", projection)
        self.mean: Tensor
        self.projection: Tensor

    def forward(self, images: Tensor) -> Tensor:
        return self.project(self.network(images).float())

    def project(self, vectors: Tensor) -> Tensor:
        """(vectors - mean) projection."""
        return (vectors - self.mean) @ self.projection


def recognition_64(
    path: str | os.PathLike[str] = "recognition-64",
    *,
    device: str | torch.device = "cpu",
    threshold: float = RENDERED_THRESHOLD,
    **options: Any,
) -> NetworkEmbedder:
    """The recognition network that comes with pyface: 128 numbers of unit length, cosine.

    It has seen rendered faces alone; take another one for photographs. The threshold is the cosine that one
    pair in a hundred of different rendered people exceeds.

    Args:
        path: another network of that kind, by name or file.
        device: where it runs.
        threshold: of the cosine.
        **options: flip, precision and batch of `NetworkEmbedder`.
    """
    network: FaceRecognition = load(path, device, kind="recogniser").requires_grad_(False)
    return NetworkEmbedder(
        network,
        name=Path(path).name,
        dim=network.config.embedding_dim,
        size=network.config.resolution,
        template="rendered",
        metric="cosine",
        threshold=threshold,
        **options,
    )


def iresnet(
    path: str | os.PathLike[str],
    *,
    device: str | torch.device = "cpu",
    template: str = "arcface112",
    threshold: float = ARCFACE_THRESHOLD,
    **options: Any,
) -> NetworkEmbedder:
    """An IResNet-18, -34, -50, -100 or -200 of insightface's layout, recognised by the shapes of its weights.

    Args:
        path: a state dict that `torch.save` wrote; read with weights_only, so nothing in it is run.
        device: where it runs.
        template: by which its faces were aligned when it was trained.
        threshold: of the cosine; depends on the training, measure it on pictures of your own.
        **options: flip, precision and batch of `NetworkEmbedder`.

    Raises:
        CheckpointError: no such file, a pickle that would run code, or other weights; with a list of what
            does not fit.
    """
    return _iresnet_embedder(load_iresnet(path, device), os.fspath(path), template, threshold, options)


def _iresnet_embedder(
    network: IResNet, path: str, template: str, threshold: float, options: dict[str, Any]
) -> NetworkEmbedder:
    return NetworkEmbedder(
        network,
        name=f"iresnet-{network.depth} {Path(path).name}",
        dim=network.config.embedding_dim,
        size=network.config.size,
        template=template,
        metric="cosine",
        threshold=threshold,
        **options,
    )


def saved(
    path: str | os.PathLike[str], *, device: str | torch.device = "cpu", **options: Any
) -> NetworkEmbedder:
    """The embedder of a network that `pyface.io.checkpoint.save_model` wrote: any of those above.

    Raises:
        CheckpointError: the file is damaged, or its network is no embedder.
    """
    network = load(path, device)
    if isinstance(network, FaceRecognition):
        return recognition_64(path, device=device, **options)
    if isinstance(network, DlibResNet):
        return _dlib_embedder(
            network.requires_grad_(False), options.pop("threshold", DLIB_THRESHOLD), options
        )
    if isinstance(network, IResNet):
        template, threshold = (
            options.pop("template", "arcface112"),
            options.pop("threshold", ARCFACE_THRESHOLD),
        )
        return _iresnet_embedder(network.requires_grad_(False), os.fspath(path), template, threshold, options)
    raise CheckpointError(
        f"{path} holds a {network.kind}, and an embedder is needed: dlib-resnet, iresnet or face-recognition."
    )
