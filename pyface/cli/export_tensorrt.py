"""`pyface export tensorrt`: a network becomes an engine of TensorRT or TensorRT-RTX."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pyface.errors import ValueRangeError

if TYPE_CHECKING:
    from pyface.export.artefact import Artefact


def _parse_profile(_: click.Context, __: click.Parameter, text: str) -> tuple[int, ...] | None:
    """(1, 8, 32) of "1,8,32"; None of "none"."""
    if text.strip().lower() == "none":
        return None
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError as error:
        raise ValueRangeError(
            f"--profile must be the smallest, best and largest batch, such as 1,8,32, or none; got {text!r}"
        ) from error


def _parse_capabilities(_: click.Context, __: click.Parameter, text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


@click.command("tensorrt", short_help="Build a TensorRT or TensorRT-RTX engine.")
@click.argument("network", metavar="NET")
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@click.option(
    "--precision",
    metavar="fp32|fp16|bf16|int8|fp8",
    help="What convolutions compute in.  [default: fp16; of an ONNX file that of its graph]",
)
@click.option(
    "--profile",
    default="1,8,32",
    show_default=True,
    metavar="MIN,BEST,MAX",
    callback=_parse_profile,
    help="Batches that the engine takes; none for an ONNX file of a fixed batch.",
)
@click.option(
    "--cc",
    "capabilities",
    default="",
    metavar="89,120",
    callback=_parse_capabilities,
    help="Compute capabilities to build for.  [default: the GPU here, else all from 80 of TensorRT-RTX]",
)
@click.option(
    "--rtx/--no-rtx", default=None, help="TensorRT-RTX or full TensorRT.  [default: the one that fits]"
)
@click.option(
    "--uint8/--float", default=None, help="Pictures as uint8 [N, H, W, C], or as float32.  [default: uint8]"
)
@click.option(
    "--inputs",
    type=click.Choice(["z", "ws"]),
    help="What a generator begins with; z puts the mapping into the engine.  [default: ws]",
)
@click.option(
    "--noise",
    type=click.Choice(["const", "input", "none"]),
    default="const",
    show_default=True,
    help="Of a generator: the network's own, an input of the engine, or none.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=float,
    default=1800.0,
    show_default=True,
    help="Seconds after which the build is ended.",
)
@click.option(
    "--calibration",
    type=int,
    default=64,
    show_default=True,
    metavar="N",
    help="Pictures that set the ranges of int8 and fp8.",
)
@click.option(
    "--onnx", "graph", type=click.Path(path_type=Path), metavar="FILE", help="Keep the ONNX graph too."
)
@click.option(
    "--timing-cache",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Measurements of full TensorRT.  [default: in pyface's cache folder]",
)
@click.option("--force", is_flag=True, help="Build even if the graph fails its certificate.")
def command(
    network: str,
    out: Path,
    precision: str | None,
    profile: tuple[int, ...] | None,
    capabilities: tuple[str, ...],
    rtx: bool | None,
    uint8: bool | None,
    inputs: str | None,
    noise: str,
    timeout_s: float,
    calibration: int,
    graph: Path | None,
    timing_cache: Path | None,
    force: bool,
) -> None:
    """Build OUT, an engine of NET, with its description in OUT.json.

    NET is a .safetensors file, the name of a network that comes with pyface, such as demo, or an .onnx file
    of pyface export onnx. TensorRT-RTX builds on any machine, for consumer and workstation GPUs; full
    TensorRT builds on the GPU that the engine is for. The graph is certified against the network before the
    build.
    """
    from pyface.export.tensorrt import build_engine

    started = time.monotonic()
    built = build_engine(
        network,
        out,
        precision=precision,
        profile=profile,
        compute_capabilities=capabilities,
        rtx=rtx,
        uint8=uint8,
        inputs=inputs,
        noise=noise,
        timeout_s=timeout_s,
        timing_cache=timing_cache,
        calibration=calibration,
        graph=graph,
        force=force,
    )
    _report(built, time.monotonic() - started)


def _report(built: Artefact, seconds: float) -> None:
    from pyface.cli.export import certificate_line

    spec = built.spec
    batches = f"batches {spec.batch}"
    if spec.profile is not None:
        batches = f"batches {spec.profile[0]} to {spec.profile[2]}, best {spec.profile[1]}"
    click.echo(
        f"{built.path}: {built.size / 1e6:.1f} MB; {spec.architecture or 'an ONNX graph'} in "
        f"{spec.precision}, {spec.format} {spec.versions[spec.format]}, {seconds:.1f} s"
    )
    click.echo(f"  for compute capability {', '.join(map(str, spec.compute_capabilities))}; {batches}")
    certificate = "none came with it" if built.parity is None else certificate_line(built.parity)
    click.echo(f"  certificate of its graph: {certificate}")
