"""The mapping network: from a latent and a condition to an intermediate latent w."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from pyface.errors import ShapeError, ValueRangeError
from pyface.nn.linear import EqualizedLinear
from pyface.nn.norm import normalize_second_moment

__all__ = ["MappingNetwork"]


class MappingNetwork(nn.Module):
    """z and c to w: second-moment normalisation, an embedding of c, and a stack of fully connected layers.

    Source: Karras et al. 2019, "A style-based generator architecture", section 2, and Karras et al. 2020,
    "Training generative adversarial networks with limited data", appendix (conditioning).

    Args:
        z_dim: size of z; 0 for a network of c alone (the discriminator's projection vector).
        c_dim: size of c; 0 for none. c may be a one-hot class, a multi-hot vector, or any numbers.
        w_dim: size of w.
        num_ws: copies of w that `forward` gives, one per synthesis input; None gives w itself.
        num_layers: fully connected layers.
        embed_features: size of the embedding of c; w_dim when None.
        layer_features: size of the layers between; w_dim when None.
        activation: of every layer.
        lr_multiplier: learning rate of the layers relative to the rest of the network.
        w_avg_decay: decay of the moving average of w per batch; None keeps none.
    """

    w_avg: Tensor
    fc0: EqualizedLinear

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_ws: int | None,
        *,
        num_layers: int = 8,
        embed_features: int | None = None,
        layer_features: int | None = None,
        activation: str = "lrelu",
        lr_multiplier: float = 0.01,
        w_avg_decay: float | None = 0.995,
    ) -> None:
        super().__init__()
        if z_dim + c_dim < 1 or num_layers < 1:
            raise ValueRangeError(
                "a mapping network needs z_dim or c_dim and at least one layer; "
                f"got {z_dim=}, {c_dim=}, {num_layers=}"
            )
        self.z_dim, self.c_dim, self.w_dim, self.num_ws = z_dim, c_dim, w_dim, num_ws
        self.num_layers = num_layers
        self.w_avg_decay = w_avg_decay
        embedded = 0 if c_dim == 0 else (w_dim if embed_features is None else embed_features)
        hidden = w_dim if layer_features is None else layer_features
        if c_dim > 0:
            self.embed = EqualizedLinear(c_dim, embedded)
        sizes = [z_dim + embedded, *[hidden] * (num_layers - 1), w_dim]
        for index, (size, next_size) in enumerate(pairwise(sizes)):
            layer = EqualizedLinear(size, next_size, activation=activation, lr_multiplier=lr_multiplier)
            self.add_module(f"fc{index}", layer)
        if w_avg_decay is not None:
            self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(
        self,
        z: Tensor | None,
        c: Tensor | None = None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        update_w_avg: bool = False,
    ) -> Tensor:
        """ws [N, num_ws, w_dim] (or w [N, w_dim] when num_ws is None).

        Args:
            z: [N, z_dim], standard normal; None when z_dim is 0.
            c: [N, c_dim]; None when c_dim is 0.
            truncation_psi: 1 leaves w as it is, 0 gives the average face; between, w moves towards the
                average.
            truncation_cutoff: truncate only the first so many of the num_ws; None truncates all.
            update_w_avg: let this batch move the average of w (training).

        Raises:
            ShapeError: z or c of a wrong shape, or missing.
            ValueRangeError: truncation asked of a network that keeps no average.
        """
        w = self._layers(self._inputs(z, c))
        if update_w_avg and self.w_avg_decay is not None:
            with torch.no_grad():
                mean = w.detach().mean(dim=0).to(self.w_avg.dtype)
                self.w_avg.copy_(mean.lerp(self.w_avg, self.w_avg_decay))
        ws = w if self.num_ws is None else w.unsqueeze(1).expand(-1, self.num_ws, -1)
        if truncation_psi == 1:
            return ws
        if self.w_avg_decay is None or self.num_ws is None:
            raise ValueRangeError("this mapping network keeps no average of w; leave truncation_psi at 1")
        average = self.w_avg.to(w.dtype)
        if truncation_cutoff is None:
            return average.lerp(ws, truncation_psi)
        head = average.lerp(ws[:, :truncation_cutoff], truncation_psi)
        return torch.cat([head, ws[:, truncation_cutoff:]], dim=1)

    def _inputs(self, z: Tensor | None, c: Tensor | None) -> Tensor:
        dtype = self.fc0.weight.dtype
        parts = []
        if self.z_dim > 0:
            parts.append(normalize_second_moment(_checked(z, "z", self.z_dim).to(dtype)))
        if self.c_dim > 0:
            parts.append(normalize_second_moment(self.embed(_checked(c, "c", self.c_dim).to(dtype))))
        elif c is not None and c.numel() > 0:
            raise ShapeError(f"this network has no condition (c_dim 0); got c {list(c.shape)}. Leave c out")
        if len(parts) == 1:
            return parts[0]
        if parts[0].shape[0] != parts[1].shape[0]:
            raise ShapeError(
                f"z and c must have as many rows; got {parts[0].shape[0]} and {parts[1].shape[0]}. "
                "Repeat the condition: c.expand(len(z), -1)"
            )
        return torch.cat(parts, dim=1)

    def _layers(self, x: Tensor) -> Tensor:
        for index in range(self.num_layers):
            x = getattr(self, f"fc{index}")(x)
        return x


def _checked(x: Tensor | None, name: str, size: int) -> Tensor:
    if x is None:
        raise ShapeError(f"{name} is missing; this network needs {name} [N, {size}]")
    if x.ndim != 2 or x.shape[1] != size:
        raise ShapeError(f"{name} must be [N, {size}]; got {list(x.shape)}")
    return x
