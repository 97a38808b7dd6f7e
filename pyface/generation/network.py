"""The generator behind a file name, and the vector behind named conditions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyface.errors import CheckpointError, ValueRangeError
from pyface.io.checkpoint import read_header
from pyface.models import find_checkpoint, load

__all__ = [
    "condition_names",
    "condition_vector",
    "load_network",
    "parse_conditions",
    "sha256_of",
    "training_facts",
]


def load_network(path: str | Path, device: str = "cpu") -> Any:
    """The generator in a checkpoint, ready to draw with; "demo" names the one that ships with pyface.

    Raises CheckpointError when the file is missing, damaged, or holds something else than a generator.
    """
    network: Any = load(path, device=device)
    if not hasattr(network, "synthesis") or not hasattr(network, "mapping"):
        raise CheckpointError(
            f"{path} holds a {type(network).__name__}, not a generator. Name a generator's file."
        )
    return network.eval().requires_grad_(False)


def training_facts(path: str | Path) -> dict[str, Any]:
    """What a checkpoint says of its training; empty when it says nothing."""
    facts = read_header(find_checkpoint(path)).get("training")
    return facts if isinstance(facts, dict) else {}


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a checkpoint file, hexadecimal."""
    with find_checkpoint(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def condition_names(path: str | Path, c_dim: int) -> tuple[str, ...]:
    """What the entries of c mean: from the header of the file, else c0, c1, ..."""
    names = tuple(training_facts(path).get("recipe", {}).get("conditions", ()))
    return names if len(names) == c_dim else tuple(f"c{i}" for i in range(c_dim))


def parse_conditions(text: str) -> dict[str, float]:
    """{"smile": 1.0, "glasses": 0.0} of the text "smile=1,glasses=0"."""
    found: dict[str, float] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, equals, value = part.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            equals = ""
        if not equals or not np.isfinite(found[name.strip()]):
            raise ValueRangeError(
                f"conditions are name=number pairs such as smile=1,glasses=0; got {part!r}."
            )
    return found


def condition_vector(values: Mapping[str, float], names: tuple[str, ...], default: float = 0.0) -> Tensor:
    """c [len(names)] float32 with the given values and `default` for the rest.

    Raises ValueRangeError for a name that the generator was not trained with.
    """
    unknown = [name for name in values if name not in names]
    if unknown:
        known = ", ".join(names) if names else "none: it is unconditional"
        raise ValueRangeError(
            f"the generator has no condition {', '.join(unknown)}; its conditions are {known}."
        )
    return torch.tensor([float(values.get(name, default)) for name in names])
