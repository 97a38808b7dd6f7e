"""R1, R2, WGAN-GP and path length: penalties on derivatives, differentiable themselves."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyface.ops import no_weight_gradients
from pyface.training.distributed import Ranks
from pyface.training.draws import Draws
from pyface.training.phases import Images, as_spectra

__all__ = ["PathLength", "interpolate", "r1_penalty", "r2_penalty", "watched", "wgan_gp"]


def watched(images: Images) -> Images:
    """The same images as leaves of a new graph, so that a gradient with respect to them can be taken."""
    if isinstance(images, dict):
        return {name: image.detach().requires_grad_(True) for name, image in images.items()}
    return images.detach().requires_grad_(True)


def r1_penalty(images: Images, logits: Tensor) -> Tensor:
    """Squared norm of the gradient of the logits with respect to the images, float [N].

    images: real ones that the discriminator saw, with requires_grad (see `watched`). The loss is gamma / 2
    times the mean (Mescheder et al. 2018, "Which training methods for GANs do actually converge?", eq. 9).
    """
    seen = list(as_spectra(images).values())
    with no_weight_gradients():
        gradients = torch.autograd.grad(logits.sum(), seen, create_graph=True)
    wide = [g if g.dtype == torch.float64 else g.float() for g in gradients]
    return torch.stack([g.square().flatten(1).sum(1) for g in wide]).sum(0)


def r2_penalty(images: Images, logits: Tensor) -> Tensor:
    """Squared norm of the gradient of the logits with respect to generated images, float [N].

    As R1, but where the generator is (Mescheder et al. 2018, eq. 10; both together in Huang et al. 2024, "The
    GAN is dead; long live the GAN!", section 2.2).
    """
    return r1_penalty(images, logits)


def interpolate(real: Images, fake: Images, share: Tensor) -> Images:
    """Images on the lines between pairs of real and generated ones, as leaves with requires_grad.

    share: [N] or [N, 1] in [0, 1], how much of the generated image, the same for all spectra of a sample.
    """
    ours, theirs = as_spectra(real), as_spectra(fake)
    mixed: dict[str, Tensor] = {}
    for name, image in ours.items():
        weight = share.reshape(-1, 1, 1, 1).to(image.dtype)
        mixed[name] = image.detach().lerp(theirs[name].detach().to(image.dtype), weight).requires_grad_(True)
    return mixed if isinstance(real, dict) else mixed["vis"]


def wgan_gp(images: Images, logits: Tensor, target: float = 1.0) -> Tensor:
    """Squared distance of the norm of the gradient to `target`, float [N].

    images: from `interpolate`, what the critic saw to give the logits. The loss is a weight (10 in the paper)
    times the mean (Gulrajani et al. 2017, "Improved training of Wasserstein GANs", eq. 3). Where the gradient
    is exactly 0 the penalty is target^2 and pushes nowhere, instead of dividing by 0.
    """
    squared = r1_penalty(images, logits)
    return (squared.clamp_min(torch.finfo(squared.dtype).tiny).sqrt() - target).square()


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
        draws: Draws | None = None,
    ) -> Tensor:
        """Length of the image gradient in W for each sample, float [N].

        ws: [N, num_ws, w_dim] with requires_grad, from which the images were made. noise: standard normal
        tensors of the images' shapes; drawn from `draws` when absent, and from
        torch's global generator without that.
        """
        projected = []
        for name, image in as_spectra(images).items():
            if noise is not None:
                drawn = noise[name]
            elif draws is not None:
                drawn = draws.noise(image.shape, dtype=image.dtype).to(image.device)
            else:
                drawn = torch.randn_like(image)
            projected.append((image * drawn).sum() / (image.shape[2] * image.shape[3]) ** 0.5)
        with no_weight_gradients():
            (gradient,) = torch.autograd.grad(torch.stack(projected).sum(), [ws], create_graph=True)
        return gradient.square().sum(2).mean(1).sqrt()

    def forward(self, lengths: Tensor, ranks: Ranks | None = None) -> Tensor:
        """Squared distance of the lengths [N] to the running mean, which moves by `decay` towards their mean.

        The mean is taken over the samples of all processes. Its newest part depends on the weights, and the
        gradient goes through it: the second summand, whose value is 0, has that part of the gradient.
        """
        newest = (ranks or Ranks()).mean(lengths.detach().mean())
        mean = self.mean.to(lengths.dtype).lerp(newest, self.decay)
        self.mean.copy_(mean)
        through_mean = 2 * self.decay * (newest - mean) * (lengths - lengths.detach())
        return (lengths - mean).square() - through_mean
