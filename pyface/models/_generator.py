"""What every generator offers, whatever network is behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from pyface.errors import ShapeError

__all__ = ["Generator", "Images", "joined_spectra", "mix_styles"]

Images = Tensor | dict[str, Tensor]


@runtime_checkable
class Generator(Protocol):
    """Latents to images: z and c to ws (`mapping`), ws to images (`synthesis`), or both at once (call it).

    Attributes:
        z_dim: size of z; z [N, z_dim] is standard normal.
        c_dim: size of the condition c [N, c_dim]; 0 for none.
        w_dim: size of one intermediate latent.
        num_ws: how many of them `synthesis` takes; 1 for networks without styles.
        resolution: (height, width) of the images.
        spectra: name and channels of every kind of image made, such as {"vis": 3, "nir": 1}.

    Images are float32 [N, C, H, W] in about [-1, 1]; a dict by spectrum when there are several.
    """

    z_dim: int
    c_dim: int
    w_dim: int
    num_ws: int
    resolution: tuple[int, int]
    spectra: Mapping[str, int]

    def mapping(
        self,
        z: Tensor,
        c: Tensor | None = None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Tensor: ...

    def synthesis(self, ws: Tensor, **options: Any) -> Images: ...

    def __call__(self, z: Tensor, c: Tensor | None = None, **options: Any) -> Images: ...


def mix_styles(ws: Tensor, other: Tensor, cutoff: int | Tensor) -> Tensor:
    """ws whose entries from `cutoff` on come from `other`: coarse features of `ws`, fine ones of `other`.

    Source: Karras et al. 2019, "A style-based generator architecture", section 3.1.

    Args:
        ws: [N, num_ws, w_dim].
        other: [N, num_ws, w_dim].
        cutoff: 0 to num_ws, one for all or an int tensor [N] for each row.

    Raises:
        ShapeError: shapes that do not fit.
    """
    if ws.ndim != 3 or ws.shape[1:] != other.shape[1:]:
        raise ShapeError(
            f"ws and other must be [N, num_ws, w_dim]; got {list(ws.shape)} and {list(other.shape)}"
        )
    index = torch.arange(ws.shape[1], device=ws.device)[None, :]
    limit = cutoff.to(ws.device).reshape(-1, 1) if isinstance(cutoff, Tensor) else cutoff
    return torch.where((index < limit).unsqueeze(-1), ws, other)


def joined_spectra(image: Images, spectra: Mapping[str, int], resolution: tuple[int, int]) -> Tensor:
    """Images as one tensor [N, C, H, W], the spectra in their order as channels; what critics look at.

    Raises:
        ShapeError: other spectra than these, or another size.
    """
    if isinstance(image, Mapping):
        if set(image) != set(spectra):
            raise ShapeError(f"image must have the spectra {', '.join(spectra)}; got {', '.join(image)}")
        image = torch.cat([image[name] for name in spectra], dim=1)
    wanted = (sum(spectra.values()), *resolution)
    if image.ndim != 4 or tuple(image.shape[1:]) != wanted:
        raise ShapeError(f"image must be [N, {wanted[0]}, {wanted[1]}, {wanted[2]}]; got {list(image.shape)}")
    return image
