"""Every choice of a StyleGAN2 run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pyface.errors import ValueRangeError
from pyface.models import DiscriminatorConfig, GeneratorConfig, PatchCriticConfig
from pyface.training.augment_settings import AUGMENT_SETS
from pyface.training.configuration import check_fields, plain, setting
from pyface.training.losses import ADVERSARIAL

__all__ = ["StyleGAN2Recipe"]


@dataclass(frozen=True)
class StyleGAN2Recipe:
    """Every choice of a StyleGAN2 run. The defaults are those of StyleGAN2-ADA's "auto" where it has them.

    `pyface train stylegan2 --help-config` prints the fields with their meaning; `settings` gives the same. An
    interval of 0 leaves a regulariser out. Raises ValueRangeError for a value that a field does not take.
    """

    resolution: tuple[int, int] = setting((64, 64), "height and width of the images")
    initial_size: tuple[int, int] = setting((4, 4), "height and width of the smallest features")
    kimg: float = setting(1000.0, "length of training, in 1000 images", above=0, changeable=True)
    batch: int = setting(32, "images in a step, over all processes", least=1)
    gamma: float | None = setting(
        None, "weight of R1; none means 0.0002 * pixels / batch", least=0, changeable=True
    )
    loss: str = setting("logistic", "adversarial loss", choices=tuple(ADVERSARIAL))
    lr_generator: float = setting(0.0025, "learning rate of the generator", above=0)
    lr_discriminator: float = setting(0.0025, "learning rate of the discriminator", above=0)
    betas: tuple[float, float] = setting((0.0, 0.99), "decay of Adam's two moments")
    style_mixing: float = setting(
        0.9, "share of samples whose later layers come from a second latent", least=0, most=1, changeable=True
    )
    r1_interval: int = setting(16, "steps from one R1 step to the next; 0 leaves R1 out", least=0)
    r2_interval: int = setting(
        0, "steps from one R2 step (R1 of generated images) to the next; 0 leaves R2 out", least=0
    )
    r2_gamma: float | None = setting(None, "weight of R2; none means that of R1", least=0, changeable=True)
    gradient_penalty_interval: int | None = setting(
        None,
        "steps from one WGAN-GP step to the next; 0 leaves it out; none means 1 with wasserstein, else 0",
        least=0,
        option="gp-interval",
    )
    gradient_penalty_weight: float = setting(
        10.0, "weight of WGAN-GP", least=0, changeable=True, option="gp-weight"
    )
    second_discriminator: str = setting(
        "none",
        "a further discriminator: half sees the images at half size, patch judges their texture",
        choices=("none", "half", "patch"),
    )
    second_weight: float = setting(
        1.0, "weight of the second discriminator in the generator's loss", least=0, changeable=True
    )
    path_length_interval: int = setting(
        4, "steps from one path-length step to the next; 0 leaves it out", least=0, option="pl-interval"
    )
    path_length_weight: float = setting(
        2.0, "weight of the path-length penalty", least=0, changeable=True, option="pl-weight"
    )
    path_length_batch_shrink: int = setting(
        2, "path length is taken of one in so many samples", least=1, option="pl-batch-shrink"
    )
    ema_kimg: float | None = setting(
        None,
        "half-life of the running average, in 1000 images; none means batch * 10 / 32",
        least=0,
        changeable=True,
    )
    ema_rampup: float = setting(
        0.05, "half-life of the average is at most this share of the images seen; 0: no such limit", least=0
    )
    mirror: bool = setting(False, "flip half of the images left-right")
    precision: str = setting(
        "float32",
        "number format of the resolutions from full_below up",
        choices=("float32", "bfloat16", "float16"),
    )
    full_below: int = setting(8, "smaller resolutions always compute in float32", least=1)
    channel_base: int = setting(16384, "channels times resolution", least=1, option="cbase")
    channel_max: int = setting(512, "most channels in a layer", least=1, option="cmax")
    z_dim: int = setting(512, "size of z", least=1)
    w_dim: int = setting(512, "size of w", least=1)
    mapping_layers: int = setting(8, "layers of the mapping network", least=1, option="map-depth")
    mbstd_group: int = setting(4, "images in a group of the minibatch statistics", least=1)
    freeze_d: int = setting(0, "layers of the discriminator that keep their weights, from the image", least=0)
    augment: str = setting(
        "none",
        "augmentation that the discriminator sees through: with a fixed probability, or adaptive",
        choices=("none", "fixed", "ada"),
        option="aug",
    )
    augment_set: str = setting(
        "bgc", "transforms of the augmentation", choices=tuple(AUGMENT_SETS), option="augpipe"
    )
    augment_p: float = setting(
        0.0, "probability of each transform; with ada, the one to begin with", least=0, most=1, option="p"
    )
    ada_target: float = setting(
        0.6, "mean sign of the logits of real images that ada aims for", changeable=True, option="target"
    )
    ada_kimg: float | None = setting(
        None,
        "1000 images in which ada can go from 0 to 1; none means 500, or 100 with --start-from",
        above=0,
        changeable=True,
    )
    ada_interval: int = setting(4, "steps from one change of ada's probability to the next", least=1)
    warmup_kimg: float = setting(
        0.0, "the discriminator trains alone for so long, for a finished generator", least=0
    )
    seed: int = setting(0, "of weights, order and random numbers", least=0)
    conditions: tuple[str, ...] = setting((), "names of the labels to train with")
    spectra: dict[str, int] = setting({"vis": 3}, "name and channels of every kind of image")

    def __post_init__(self) -> None:
        check_fields(self)
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueRangeError(f"betas must be 0 or more and below 1; got {self.betas}.")
        if self.batch % min(self.mbstd_group, self.batch):
            raise ValueRangeError(
                f"batch must be a multiple of the minibatch-std group {self.mbstd_group}; got {self.batch}."
            )

        if self.augment == "fixed" and not self.augment_p > 0:
            raise ValueRangeError(
                "augment fixed needs augment_p above 0, the probability of each transform, such as 0.2."
            )
        if self.augment == "none" and self.augment_p > 0:
            raise ValueRangeError(
                f"augment_p is {self.augment_p:g} but augment is none. Choose fixed, or ada to begin there."
            )
        if not -1 < self.ada_target < 1:
            raise ValueRangeError(f"ada_target is a mean sign, between -1 and 1; got {self.ada_target}.")

    @property
    def r1_gamma(self) -> float:
        """The weight of R1 that is used."""
        if self.gamma is not None:
            return self.gamma
        return 0.0002 * self.resolution[0] * self.resolution[1] / self.batch

    @property
    def matched(self) -> bool:
        """Whether a generated image is made for the label of the real image at its place, as a loss that
        compares both needs it."""
        return self.loss in ("relativistic", "wasserstein")

    def penalties(self, share: float = 1.0) -> dict[str, tuple[int, float]]:
        """(interval, weight) of the discriminator's penalties; `share` of the pixels is what it sees."""
        gamma = self.r1_gamma * (share if self.gamma is None else 1)
        interval = self.gradient_penalty_interval
        if interval is None:
            interval = int(self.loss == "wasserstein")
        return {
            "r1": (self.r1_interval, gamma),
            "r2": (self.r2_interval, gamma if self.r2_gamma is None else self.r2_gamma),
            "gradient": (interval, self.gradient_penalty_weight),
        }

    def _sixteen_bit(self) -> dict[str, Any]:
        if self.precision == "float32":
            return {"num_16bit_res": 0}
        sizes = 0
        side = min(self.resolution)
        while side >= self.full_below and side > min(self.initial_size):
            sizes += 1
            side //= 2
        return {"num_16bit_res": sizes, "precision_16bit": self.precision}

    def generator(self) -> GeneratorConfig:
        """The configuration of the generator."""
        return GeneratorConfig(
            resolution=self.resolution,
            initial_size=self.initial_size,
            z_dim=self.z_dim,
            c_dim=len(self.conditions),
            w_dim=self.w_dim,
            spectra=dict(self.spectra),
            mapping_layers=self.mapping_layers,
            channel_base=self.channel_base,
            channel_max=self.channel_max,
            **self._sixteen_bit(),
        )

    def discriminator(self) -> DiscriminatorConfig:
        """The configuration of the discriminator."""
        return DiscriminatorConfig(
            resolution=self.resolution,
            initial_size=self.initial_size,
            c_dim=len(self.conditions),
            spectra=dict(self.spectra),
            channel_base=self.channel_base,
            channel_max=self.channel_max,
            mbstd_group_size=min(self.mbstd_group, self.batch),
            freeze_layers=self.freeze_d,
            mapping_layers=self.mapping_layers,
            **self._sixteen_bit(),
        )

    def second(self) -> DiscriminatorConfig | PatchCriticConfig | None:
        """The configuration of the second discriminator, if there is one.

        Raises ShapeError where the images are too small for it.
        """
        height, width = self.resolution
        if self.second_discriminator == "half":
            small = (height // 2, width // 2)
            return replace(
                self.discriminator(),
                resolution=small,
                channel_base=max(self.channel_base // 2, min(small)),
                num_16bit_res=max(self._sixteen_bit()["num_16bit_res"] - 1, 0),
                freeze_layers=0,
            )
        if self.second_discriminator == "patch":
            halvings = min(height // self.initial_size[0], width // self.initial_size[1]).bit_length() - 1
            return PatchCriticConfig(
                self.resolution,
                dict(self.spectra),
                channel_base=self.channel_base,
                channel_max=self.channel_max,
                layers=min(halvings, 3),
            )
        return None

    def plain(self) -> dict[str, Any]:
        """The recipe as values that JSON can hold."""
        return plain(self)
