"""`pyface convert`: a checkpoint of another project becomes one of ours."""

from __future__ import annotations

from pathlib import Path

import click

from pyface.models.conversion import NETWORKS, convert_checkpoint


@click.command(short_help="Convert an NVIDIA or rosinality checkpoint without running its code.")
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("destination", metavar="OUT", type=click.Path(path_type=Path))
@click.option(
    "--which",
    type=click.Choice([*NETWORKS, "all"]),
    default="G_ema",
    show_default=True,
    help="The network to convert; with all, OUT is a folder that gets one file for each.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="Number format of the new file.",
)
def command(source: Path, destination: Path, which: str, dtype: str) -> None:
    """Convert IN, an NVIDIA .pkl or a rosinality .pt, to OUT, a .safetensors file.

    Nothing in IN is executed: it is read as plain data, and refused when it names anything a checkpoint does
    not need. OUT is what pyface.load, pyface generate and pyface train take.
    """
    networks = convert_checkpoint(source, destination, which, dtype=dtype)
    for name, network in networks.items():
        height, width = network.config.resolution
        numbers = sum(tensor.numel() for tensor in network.tensors.values())
        condition = f", condition of {network.config.c_dim}" if network.config.c_dim else ""
        path = destination / f"{name}.safetensors" if which == "all" else destination
        click.echo(f"{path}: {network.kind} {name}, {height}x{width}{condition}, {numbers:,} numbers")
        for note in network.notes:
            click.echo(f"  note: {note}")
