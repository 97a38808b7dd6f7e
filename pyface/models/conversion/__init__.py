"""Checkpoints of other projects as networks of pyface. Nothing in the file is executed.

>>> from pyface.models.conversion import convert_checkpoint
>>> convert_checkpoint("network-snapshot.pkl", "face.safetensors")          # doctest: +SKIP
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pyface.errors import CheckpointError, ValueRangeError
from pyface.io.atomic import make_folder
from pyface.io.checkpoint import save_model
from pyface.io.torch_archive import PersistentObject, read_checkpoint
from pyface.models.conversion import nvidia, rosinality
from pyface.models.conversion._network import ConvertedNetwork

__all__ = ["NETWORKS", "ConvertedNetwork", "convert_checkpoint", "read_networks"]

NETWORKS = ("G_ema", "G", "D")


def read_networks(path: str | os.PathLike[str], which: str = "G_ema") -> dict[str, ConvertedNetwork]:
    """The networks of an NVIDIA `.pkl` or a rosinality `.pt`, by name.

    Args:
        path: the file.
        which: "G_ema" (the averaged generator, the one to make pictures with), "G", "D", or "all" for every
            one that the file has.

    Raises:
        CheckpointError: a missing or damaged file, one that names code, one of another layout, or one without
            the network asked for.
        ValueRangeError: an unknown `which`.
    """
    if which not in (*NETWORKS, "all"):
        raise ValueRangeError(f"which must be one of {', '.join(NETWORKS)} or all; got {which!r}")
    found = _find_networks(read_checkpoint(Path(path)), path)
    wanted = [name for name in NETWORKS if name in found] if which == "all" else [which]
    if not wanted or wanted[0] not in found:
        raise CheckpointError(f"{path} has no {which}; it has {', '.join(found) or 'no network'}")
    try:
        return {name: found[name]() for name in wanted}
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _find_networks(data: Any, path: object) -> Mapping[str, Callable[[], ConvertedNetwork]]:
    if isinstance(data, PersistentObject):
        data = {"D" if data.class_name == "Discriminator" else "G_ema": data}
    if isinstance(data, dict):
        found = nvidia.find_networks(data) or rosinality.find_networks(data)
        if found:
            return found
    kind = f"a dictionary of {len(data)} entries" if isinstance(data, dict) else f"a {type(data).__name__}"
    raise CheckpointError(
        f"{path} holds {kind}, none of them a network of a known layout. Known are NVIDIA's snapshots (G, D, "
        "G_ema) and rosinality's training files (g, d, g_ema)"
    )


def convert_checkpoint(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    which: str = "G_ema",
    *,
    dtype: str | None = None,
) -> dict[str, ConvertedNetwork]:
    """Write the networks of a foreign checkpoint as pyface checkpoints; gives them by name.

    Args:
        source: an NVIDIA `.pkl` or a rosinality `.pt`.
        destination: the `.safetensors` file to write; with which="all" a folder, which gets
            G_ema.safetensors, G.safetensors and D.safetensors.
        which: "G_ema", "G", "D" or "all".
        dtype: "float16" halves the file; None keeps float32.

    Raises:
        CheckpointError: as `read_networks`. Nothing is written then.
        DataError: the destination cannot be written.
    """
    target = Path(destination)
    if which != "all" and target.suffix != ".safetensors":
        raise CheckpointError(f"the name of the new file ends in .safetensors; got {target.name!r}")
    networks = read_networks(source, which)
    if which == "all":
        make_folder(target)
    for name, network in networks.items():
        card = {"converted_from": network.layout, "network": name, "notes": list(network.notes)}
        path = target / f"{name}.safetensors" if which == "all" else target
        save_model(path, network, extra={"card": card}, dtype=dtype)
    return networks
