"""Build a TensorRT or TensorRT-RTX engine of a generator, and run it where there is a GPU for it.

    python tools/build_engine.py demo demo.engine
    python tools/build_engine.py face.safetensors face.engine --precision int8 --cc 89,120 --batch 16

Without a GPU TensorRT-RTX builds all the same. `pyface export tensorrt` has more options.
"""

from __future__ import annotations

import time
from pathlib import Path

import click
import torch

import pyface
from pyface.export.artefact import Artefact
from pyface.export.tensorrt import build_engine, load_engine
from pyface.export.tensorrt.targets import present_capability


@click.command()
@click.argument("network")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--precision", default="fp16", show_default=True, help="fp32, fp16, bf16, int8 or fp8.")
@click.option("--cc", default="", help="Compute capabilities, such as 89,120; this GPU's when left out.")
@click.option("--batch", default=8, show_default=True, help="The best batch; up to four times as many run.")
def main(network: str, out: Path, precision: str, cc: str, batch: int) -> None:
    """Build OUT of NETWORK, a checkpoint or the name of one that comes with pyface."""
    built = build_engine(
        network,
        out,
        precision=precision,
        profile=(1, batch, 4 * batch),
        compute_capabilities=tuple(filter(None, cc.split(","))),
    )
    targets = built.spec.compute_capabilities
    click.echo(f"{out}: {built.size / 1e6:.1f} MB, {built.spec.format}, for {', '.join(map(str, targets))}")
    if present_capability() in targets:
        click.echo(f"{images_per_second(built, network, batch):.0f} images/s on this GPU")
    else:
        click.echo("no GPU for it here: it was built, not run")


def images_per_second(built: Artefact, network: str, batch: int, rounds: int = 50) -> float:
    """Images that reach the CPU's memory, the batches coming one after the other."""
    generator = pyface.load(network).eval().cuda()
    z = torch.randn(batch, generator.z_dim, device="cuda")
    c = torch.zeros(batch, generator.c_dim, device="cuda") if generator.c_dim else None
    with torch.no_grad(), load_engine(built) as engine:
        ws = generator.mapping(z, c)
        for _ in engine.stream([{"ws": ws}] * 10, batch):
            pass
        began = time.perf_counter()
        for _ in engine.stream([{"ws": ws}] * rounds, batch):
            pass
        return rounds * batch / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
