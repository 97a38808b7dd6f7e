"""R1 and path-length regularisation: penalties on derivatives, differentiable themselves."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyface.ops import no_weight_gradients
from pyface.training.phases import Images, as_spectra

__all__ = ["PathLength", "r1_penalty"]


def r1_penalty(images: Images, logits: Tensor) -> Tensor:
    """Squared norm of the gradient of the logits with respect to the images, float [N].

    images: what the discriminator saw, with requires_grad. The loss is gamma / 2 times the mean (Mescheder
    et al. 2018, eq. 9).
    """
    seen = list(as_spectra(images).values())
    with no_weight_gradients():
        gradients = torch.autograd.grad(logits.sum(), seen, create_graph=True)
    return torch.stack(
        [
            g.float().square().sum(dim=(1, 2, 3))
            if g.dtype != torch.float64
            else g.square().sum(dim=(1, 2, 3))
            for g in gradients
        ]
    ).sum(0)


class PathLength(nn.Module):
    """Keeps the length of image changes per step in W near its running mean (Karras et al. 2020, section
    3.2).

    The running mean is a buffer, so that a resumed run goes on with it.
    """

    mean: Tensor

    def __init__(self, decay: float = 0.01) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("mean", torch.zeros([]))

    def lengths(
        self,
        images: Images,
        ws: Tensor,
        noise: dict[str, Tensor] | None = None,
        rng: torch.Generator | None = None,
    ) -> Tensor:
        """Length of the image gradient in W for each sample, float [N].

        ws: [N, num_ws, w_dim] with requires_grad, from which the images were made. noise: standard normal
        tensors of the images' shapes; drawn when absent.
        """
        projected = []
        for name, image in as_spectra(images).items():
            if noise is None:
                drawn = torch.randn(image.shape, generator=rng, device=image.device, dtype=image.dtype)
            else:
                drawn = noise[name]
            projected.append((image * drawn).sum() / (image.shape[2] * image.shape[3]) ** 0.5)
        with no_weight_gradients():
            (gradient,) = torch.autograd.grad(torch.stack(projected).sum(), [ws], create_graph=True)
        return gradient.square().sum(2).mean(1).sqrt()

    def forward(self, lengths: Tensor) -> Tensor:
        """Squared distance of the lengths [N] to the running mean, which moves by `decay` towards their
        mean."""
        mean = self.mean.to(lengths.dtype).lerp(lengths.mean(), self.decay)
        self.mean.copy_(mean.detach())
        return (lengths - mean).square()
