"""Losses as small functions, each the mean over the batch: adversarial pairs, distances, classification."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pyface.errors import ShapeError, ValueRangeError
from pyface.training.phases import Images, as_spectra

__all__ = [
    "ADVERSARIAL",
    "Adversarial",
    "adversarial",
    "auxiliary_classifier",
    "cross_entropy",
    "cycle",
    "hinge_fake",
    "hinge_generator",
    "hinge_real",
    "identity",
    "l1",
    "logistic_fake",
    "logistic_generator",
    "logistic_real",
    "multi_hot",
    "perceptual",
    "relativistic_discriminator",
    "relativistic_generator",
    "wasserstein_fake",
    "wasserstein_generator",
    "wasserstein_real",
]


def logistic_real(logits: Tensor) -> Tensor:
    """Mean of softplus(-logits): what the discriminator pays for real images (Goodfellow et al. 2014, eq.
    1)."""
    return F.softplus(-logits).mean()


def logistic_fake(logits: Tensor) -> Tensor:
    """Mean of softplus(logits): what the discriminator pays for generated images."""
    return F.softplus(logits).mean()


def logistic_generator(logits: Tensor) -> Tensor:
    """Mean of softplus(-logits): the non-saturating loss of the generator (Goodfellow et al. 2014, section
    3)."""
    return F.softplus(-logits).mean()


def hinge_real(logits: Tensor) -> Tensor:
    """Mean of max(0, 1 - logits): what the discriminator pays for real images (Lim and Ye 2017, "Geometric
    GAN"; Miyato et al. 2018, "Spectral normalization", eq. 16)."""
    return F.relu(1 - logits).mean()


def hinge_fake(logits: Tensor) -> Tensor:
    """Mean of max(0, 1 + logits): what the discriminator pays for generated images."""
    return F.relu(1 + logits).mean()


def hinge_generator(logits: Tensor) -> Tensor:
    """Mean of -logits: the generator's side of the hinge loss (Miyato et al. 2018, eq. 17)."""
    return -logits.mean()


def wasserstein_real(logits: Tensor) -> Tensor:
    """Mean of -logits: what the critic pays for real images (Arjovsky et al. 2017, "Wasserstein GAN", eq. 2).

    The critic must be kept near slope 1, see `regularizers.wgan_gp`.
    """
    return -logits.mean()


def wasserstein_fake(logits: Tensor) -> Tensor:
    """Mean of logits: what the critic pays for generated images."""
    return logits.mean()


def wasserstein_generator(logits: Tensor) -> Tensor:
    """Mean of -logits: the generator's side of the Wasserstein loss."""
    return -logits.mean()


def relativistic_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Mean of softplus(fake - real) over pairs: each real image is to look more real than its partner.

    real, fake: logits of the same shape, paired by position. (Jolicoeur-Martineau 2019, "The relativistic
    discriminator"; Huang et al. 2024, "The GAN is dead; long live the GAN! A modern baseline GAN", eq. 2.)
    """
    return F.softplus(fake - real).mean()


def relativistic_generator(fake: Tensor, real: Tensor) -> Tensor:
    """Mean of softplus(real - fake) over pairs: the generator's side (Huang et al. 2024, eq. 2)."""
    return F.softplus(real - fake).mean()


@dataclass(frozen=True)
class Adversarial:
    """The two sides of an adversarial loss, as functions of logits.

    Unpaired losses have `real` and `fake` for the discriminator and `generator` of fake logits alone. A
    paired loss compares logits by position: `discriminator(real, fake)` and `paired_generator(fake, real)`.
    """

    name: str
    real: Callable[[Tensor], Tensor] | None = None
    fake: Callable[[Tensor], Tensor] | None = None
    generator: Callable[[Tensor], Tensor] | None = None
    paired_discriminator: Callable[[Tensor, Tensor], Tensor] | None = None
    paired_generator: Callable[[Tensor, Tensor], Tensor] | None = None

    @property
    def paired(self) -> bool:
        """Whether the loss compares a real with a generated image."""
        return self.paired_discriminator is not None


ADVERSARIAL: dict[str, Adversarial] = {
    "logistic": Adversarial("logistic", logistic_real, logistic_fake, logistic_generator),
    "hinge": Adversarial("hinge", hinge_real, hinge_fake, hinge_generator),
    "wasserstein": Adversarial("wasserstein", wasserstein_real, wasserstein_fake, wasserstein_generator),
    "relativistic": Adversarial(
        "relativistic",
        paired_discriminator=relativistic_discriminator,
        paired_generator=relativistic_generator,
    ),
}


def l1(images: Images, targets: Images) -> Tensor:
    """Mean absolute difference over all values of all spectra.

    Raises ShapeError for images and targets that differ in shape or in their spectra.
    """
    found, wanted = _same(images, targets)
    total = sum((found[k] - wanted[k]).abs().sum() for k in found)
    return torch.as_tensor(total) / sum(t.numel() for t in found.values())


def cycle(images: Images, there_and_back: Images) -> Tensor:
    """What images lost on the way to another domain and back: their L1 distance (Zhu et al. 2017, "Unpaired
    image-to-image translation", eq. 2; Choi et al. 2018, "StarGAN", eq. 4)."""
    return l1(there_and_back, images)


# Features of images, float [N, ...], from one layer of any network.
Layer = Callable[[Images], Tensor]


def perceptual(
    layers: Sequence[Layer],
    images: Images,
    targets: Images,
    weights: Sequence[float] | None = None,
    unit: bool = False,
) -> Tensor:
    """Weighted sum over layers of the mean squared distance between features of images and of targets.

    layers: functions of images, each the features [N, ...] of one layer. weights: of the layers; 1 / number
    of layers when absent. unit: scale the features at every position to unit length along the channels and
    sum over channels instead of averaging (Zhang et al. 2018, "The unreasonable effectiveness of deep
    features as a perceptual metric", eq. 1); else Johnson et al. 2016, "Perceptual losses for real-time style
    transfer", eq. 1. No gradient flows into the targets.

    Raises ValueRangeError unless there is one weight for each of at least one layer.
    """
    chosen = [1 / max(len(layers), 1)] * len(layers) if weights is None else list(weights)
    if not layers or len(chosen) != len(layers):
        raise ValueRangeError(
            f"a perceptual loss needs one weight for each layer, and a layer at least; got {len(layers)} "
            f"layers and {len(chosen)} weights."
        )
    terms = []
    for layer, weight in zip(layers, chosen, strict=True):
        with torch.no_grad():
            wanted = layer(targets).detach()
        found = layer(images)
        if unit:
            found, wanted = F.normalize(found, dim=1, eps=1e-10), F.normalize(wanted, dim=1, eps=1e-10)
        distance = (found - wanted).square()
        terms.append((distance.sum(1) if unit else distance).mean() * weight)
    return torch.stack(terms).sum()


def identity(embed: Layer, images: Images, targets: Images) -> Tensor:
    """Mean of 1 - cosine between embeddings: 0 for the same person, 1 for unrelated ones, at most 2.

    embed: images -> embeddings [N, D] of any length; angles as in Deng et al. 2019, "ArcFace", section 2. No
    gradient flows into the targets.
    """
    with torch.no_grad():
        wanted = embed(targets).detach()
    return (1 - F.cosine_similarity(embed(images), wanted, dim=1, eps=1e-8)).mean()


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of one class out of many, in nats.

    logits: [N, classes]. labels: one-hot or probabilities [N, classes], or class numbers int64 [N].
    Raises ShapeError when the shapes do not belong together.
    """
    if labels.ndim == 1 and not labels.is_floating_point():
        if labels.shape[0] != logits.shape[0]:
            raise ShapeError(f"labels must be [{logits.shape[0]}], as the logits; got {list(labels.shape)}.")
        return F.cross_entropy(logits, labels)
    _labels_like(logits, labels)
    return F.cross_entropy(logits, labels.to(logits.dtype))


def multi_hot(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean binary cross-entropy of many labels that hold independently, in nats per label.

    logits, labels: [N, labels], labels in [0, 1]. Raises ShapeError when the shapes differ.
    """
    _labels_like(logits, labels)
    return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))


def auxiliary_classifier(
    classifier: Layer, kind: Callable[[Tensor, Tensor], Tensor] = multi_hot
) -> Callable[[Images, Tensor], Tensor]:
    """A loss of images and the labels they should show: what `classifier` reads off them.

    classifier: images -> logits [N, labels], for instance the second head of a discriminator. kind:
    `cross_entropy` or `multi_hot`. (Odena et al. 2017, "Conditional image synthesis with auxiliary classifier
    GANs", eq. 3; Choi et al. 2018, "StarGAN", eq. 2 for real and 3 for translated images.)
    """

    def loss(images: Images, labels: Tensor) -> Tensor:
        return kind(classifier(images), labels)

    return loss


def adversarial(name: str) -> Adversarial:
    """The adversarial loss of a name. Raises ValueRangeError for an unknown one."""
    if name not in ADVERSARIAL:
        raise ValueRangeError(f"loss must be one of {', '.join(ADVERSARIAL)}; got {name!r}.")
    return ADVERSARIAL[name]


def _same(images: Images, targets: Images) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    found, wanted = as_spectra(images), as_spectra(targets)
    if {k: t.shape for k, t in found.items()} != {k: t.shape for k, t in wanted.items()}:
        raise ShapeError(
            "images and targets must have the same spectra and shapes; got "
            f"{ {k: list(t.shape) for k, t in found.items()} } and "
            f"{ {k: list(t.shape) for k, t in wanted.items()} }."
        )
    return found, wanted


def _labels_like(logits: Tensor, labels: Tensor) -> None:
    if logits.shape != labels.shape:
        raise ShapeError(f"labels must be {list(logits.shape)}, as the logits; got {list(labels.shape)}.")
