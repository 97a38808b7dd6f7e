"""An NVIDIA or rosinality checkpoint as pyface checkpoints, and a sheet of faces to look at.

    python tools/convert_checkpoint.py ffhq.pkl ffhq.safetensors --sheet ffhq.png

What `pyface convert` does, as a script to start from. Nothing in the checkpoint is executed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

import pyface
from pyface.errors import PyfaceError
from pyface.io.images import contact_sheet, to_uint8
from pyface.models.conversion import NETWORKS, convert_checkpoint


def arguments(given: list[str] | None) -> argparse.Namespace:
    """What was typed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="a .pkl of NVIDIA's or a .pt of rosinality's code")
    parser.add_argument("out", type=Path, help="the .safetensors file to write; a folder for --which all")
    parser.add_argument("--which", default="G_ema", choices=[*NETWORKS, "all"], help="the network")
    parser.add_argument("--dtype", choices=["float32", "float16"], help="half the size with float16")
    parser.add_argument("--sheet", type=Path, help="write a picture of 16 faces")
    return parser.parse_args(given)


def write_sheet(checkpoint: Path, sheet: Path) -> None:
    """The faces of seeds 0 to 15 at psi 0.7, one kind of picture, with conditions of zeros."""
    generator = pyface.load(checkpoint, kind="generator")
    z = np.stack([np.random.RandomState(seed).randn(generator.z_dim) for seed in range(16)])
    c = torch.zeros(16, generator.c_dim) if generator.c_dim else None
    with torch.no_grad():
        images = generator(torch.from_numpy(z).float(), c, truncation_psi=0.7, noise_mode="const")
    first = next(iter(images.values())) if isinstance(images, dict) else images
    contact_sheet(to_uint8(first), path=sheet)
    print(f"{sheet}: faces of seeds 0 to 15")


def main(given: list[str] | None = None) -> int:
    """Convert, say what was found, draw."""
    options = arguments(given)
    try:
        networks = convert_checkpoint(options.source, options.out, options.which, dtype=options.dtype)
        for name, network in networks.items():
            path = options.out / f"{name}.safetensors" if options.which == "all" else options.out
            height, width = network.config.resolution
            print(f"{path}: {network.kind} {name}, {height}x{width}")
            for note in network.notes:
                print(f"  note: {note}")
            if options.sheet is not None and name == next(iter(networks)):
                write_sheet(path, options.sheet)
    except PyfaceError as error:
        print(f"convert_checkpoint: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
