"""The latents and conditions of a dataset's pictures, each a function of (seed, identity, sample) alone.

A sample is its identity seen again: z = sqrt(1 - v^2) n(identity) + v n(identity, sample) with standard
normal n and the variation v, so z is standard normal for every v, and two samples of one identity have
correlation 1 - v^2. With v = 0 all samples of an identity share its z.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyface.data.face_attributes import ATTRIBUTES, CONDITIONS
from pyface.errors import ValueRangeError
from pyface.generation.network import training_facts
from pyface.generation.plan import DatasetRecipe, Picture
from pyface.io.rng import Domain, normals, uniforms

__all__ = ["Sampler", "draw_conditions", "draw_latents", "label_samples", "passing_conditions"]

# attributes that come and go on one person; the other ones whose meaning is known stay with it
PASSING = frozenset(
    {"smile", "mouth_open", "glasses", "Smiling", "Mouth_Slightly_Open", "Eyeglasses", "Narrow_Eyes"}
    | {"Wearing_Lipstick", "Heavy_Makeup", "Rosy_Cheeks", "5_o_Clock_Shadow"}
)


def draw_latents(
    seed: int, identities: npt.ArrayLike, samples: npt.ArrayLike = 0, *, z_dim: int, variation: float = 0.0
) -> Tensor:
    """z float32 [N, z_dim] of samples of identities, two arrays of numbers that broadcast.

    Each row depends on (seed, identity, sample) alone, and with `variation` 0 on (seed, identity).
    """
    numbers, seen = np.broadcast_arrays(np.atleast_1d(identities), np.atleast_1d(samples))
    z = normals(seed, Domain.LATENT, numbers, 0, z_dim)
    if variation:
        own = normals(seed, Domain.VARIATION, numbers, seen, z_dim)
        z = (math.sqrt(1.0 - variation**2) * z.astype(np.float64) + variation * own).astype(np.float32)
    return torch.from_numpy(z)


def draw_conditions(
    seed: int,
    identities: npt.ArrayLike,
    samples: npt.ArrayLike = 0,
    *,
    choices: npt.NDArray[np.float32] | None,
    c_dim: int,
    varying: Sequence[int] = (),
) -> Tensor:
    """c float32 [N, c_dim]: rows of `choices` drawn at random, or independent fair 0/1 when there are none.

    Args:
        seed: of the dataset.
        identities, samples: as in `draw_latents`.
        choices: [K, c_dim] vectors that occur in training, such as those a checkpoint carries.
        c_dim: size of the vector.
        varying: entries that are drawn for each sample; the others are those of the identity's sample 0.
    """
    numbers, seen = np.broadcast_arrays(np.atleast_1d(identities), np.atleast_1d(samples))
    rows = _rows(seed, numbers, np.zeros_like(seen), choices, c_dim)
    if len(varying) and seen.any():
        columns = list(varying)
        rows[:, columns] = _rows(seed, numbers, seen, choices, c_dim)[:, columns]
    return torch.from_numpy(rows)


def _rows(
    seed: int, identities: npt.ArrayLike, samples: npt.ArrayLike, choices: Any, c_dim: int
) -> npt.NDArray[np.float32]:
    if choices is not None and len(choices):
        u = uniforms(seed, Domain.CONDITION, identities, samples, 1)[:, 0]
        picked = np.minimum((u * len(choices)).astype(np.int64), len(choices) - 1)
        return np.asarray(choices, np.float32)[picked]
    u = uniforms(seed, Domain.CONDITION, identities, samples, max(c_dim, 1))[:, :c_dim]
    return (u >= 0.5).astype(np.float32)


def passing_conditions(names: Sequence[str]) -> tuple[str, ...]:
    """Those that may change from picture to picture of one person: all but known traits, such as a beard.

    >>> passing_conditions(("smile", "glasses", "beard", "male"))
    ('smile', 'glasses')
    """
    traits: Collection[str] = ({*ATTRIBUTES} | {*CONDITIONS}) - PASSING
    return tuple(name for name in names if name not in traits)


def label_samples(network: str | Path, c_dim: int) -> npt.NDArray[np.float32] | None:
    """float32 [K, c_dim], conditions that training stored in the checkpoint; None where there are none."""
    stored = np.asarray(training_facts(network).get("label_samples", []), np.float32)
    return stored if stored.ndim == 2 and stored.shape[1] == c_dim and len(stored) else None


class Sampler:
    """z and c of a recipe's pictures.

    Args:
        recipe: of the dataset.
        z_dim: of the network.
        choices: [K, c_dim], for the rule "samples".

    Raises:
        ValueRangeError: the rule is "samples" and there are none.
    """

    def __init__(
        self, recipe: DatasetRecipe, z_dim: int, choices: npt.NDArray[np.float32] | None = None
    ) -> None:
        if recipe.condition_rule == "samples" and choices is None:
            raise ValueRangeError(
                f"{recipe.network} carries no conditions of its training data; give the network that the "
                "dataset was begun with, or fix the conditions by --condition or --class."
            )
        self.recipe = recipe
        self.z_dim = z_dim
        self._choices = choices if recipe.condition_rule == "samples" else None
        self._varying = [recipe.conditions.index(name) for name in recipe.varying]

    def latents(self, pictures: Sequence[Picture]) -> Tensor:
        """z float32 [N, z_dim]."""
        identities, samples = _numbers(pictures)
        return draw_latents(
            self.recipe.seed, identities, samples, z_dim=self.z_dim, variation=self.recipe.variation
        )

    def conditions(self, pictures: Sequence[Picture]) -> Tensor:
        """c float32 [N, c_dim]; c_dim is 0 for an unconditional network."""
        recipe = self.recipe
        if recipe.condition_rule == "none":
            return torch.zeros(len(pictures), 0)
        if recipe.condition_rule == "fixed":
            return torch.tensor(recipe.condition, dtype=torch.float32).repeat(len(pictures), 1)
        identities, samples = _numbers(pictures)
        return draw_conditions(
            recipe.seed,
            identities,
            samples,
            choices=self._choices,
            c_dim=len(recipe.conditions),
            varying=self._varying,
        )


def _numbers(pictures: Sequence[Picture]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    return (
        np.array([picture.identity for picture in pictures], np.int64),
        np.array([picture.sample for picture in pictures], np.int64),
    )
