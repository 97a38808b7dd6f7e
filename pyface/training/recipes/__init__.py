"""Recipes: one file per system, each a configuration and a function that builds its trainer.

`RECIPES` names them all; `pyface train NAME` takes its options, its files and its help from there.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pyface.errors import ValueRangeError

__all__ = ["RECIPES", "Recipe", "Run", "recipe_named"]


class Run(Protocol):
    """What a recipe's build function gives: a trainer, and what of it is saved and shown."""

    trainer: Any
    recipe: Any

    @property
    def saved(self) -> Any:
        """The network in snapshot-*.safetensors."""

    @property
    def generator(self) -> Any | None:
        """The generator in training, of which `saved` is the average; None for a run that has none."""

    def start_from(self, source: Path, discriminator: Path | None = None) -> Any:
        """Take over weights of other networks; the report prints as text and has `to_dict()`."""


@dataclass(frozen=True)
class Recipe:
    """Where a recipe lives. Naming it here imports nothing.

    meaning: one line for the help. shorthands: options that stand for several fields. transfer: fields that
    have another default in a run that starts from finished networks.
    """

    name: str
    module: str
    config_name: str
    meaning: str
    build_name: str = "build"
    shorthands: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    transfer: Mapping[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> type:
        """The frozen dataclass of its settings."""
        found: type = getattr(importlib.import_module(self.module), self.config_name)
        return found

    @property
    def build(self) -> Callable[..., Any]:
        """build(config, training set, device=..., ...) -> Run."""
        found: Callable[..., Any] = getattr(importlib.import_module(self.module), self.build_name)
        return found


RECIPES: dict[str, Recipe] = {
    each.name: each
    for each in (
        Recipe(
            "stylegan2",
            "pyface.training.recipes.stylegan2",
            "StyleGAN2Recipe",
            "Train StyleGAN2.",
            shorthands={"lr": ("lr_generator", "lr_discriminator")},
            transfer={"ada_kimg": 100.0},
        ),
    )
}


def recipe_named(name: str) -> Recipe:
    """The recipe of a name. Raises ValueRangeError for an unknown one."""
    if name not in RECIPES:
        raise ValueRangeError(f"recipe must be one of {', '.join(RECIPES)}; got {name!r}.")
    return RECIPES[name]
