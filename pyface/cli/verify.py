"""`pyface verify`: an artefact compared with its network."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from pyface.errors import ValueRangeError


@click.command()
@click.argument("artefact", type=click.Path(path_type=Path))
@click.option(
    "--against", "network", required=True, help="The network it was made of: a checkpoint, or a name."
)
@click.option(
    "--runtime",
    "runtimes",
    multiple=True,
    help="Run it by this one; may be repeated: onnxruntime, openvino.  [default: all that are installed]",
)
@click.option(
    "--embedder",
    default="recognition-64",
    show_default=True,
    help='Network that tells how far identities drift: a name or file, or "none".',
)
@click.option(
    "--frame",
    default="rendered",
    show_default=True,
    help="Template by which the generator's faces are aligned: rendered or ffhq.",
)
@click.option("--batches", default="1,3,8", show_default=True, help="Sizes of the batches that are compared.")
@click.option("--other-weights", is_flag=True, help="Compare even with a network of other weights.")
@click.option("--threads", type=int, help="CPU threads.  [default: torch's choice]")
@click.option("--json", "out", type=click.Path(path_type=Path), help="A file for everything that was found.")
def command(artefact: Path, network: str, **options: Any) -> None:
    """Run ARTEFACT and its network on the same latents, and say how near they are.

    Errors are multiples of the standard deviation of the pictures, held to one table of limits by precision.
    Exit status 1 when the artefact fails, is damaged, or was made of other weights.
    """
    import torch

    from pyface.export.parity import verify_artefact

    batches, threads = _batches(options["batches"]), options["threads"]
    if options["out"] is not None and options["out"].suffix.lower() != ".json":
        raise ValueRangeError(f"--json must end in .json; got {options['out']}.")
    if threads is not None:
        if threads < 1:
            raise ValueRangeError(f"--threads must be 1 or more; got {threads}.")
        torch.set_num_threads(threads)
    certificate = verify_artefact(
        artefact,
        network,
        other_weights=options["other_weights"],
        runtimes=options["runtimes"] or None,
        embedder=None if options["embedder"] == "none" else options["embedder"],
        frame=options["frame"],
        batches=batches,
        threads=threads,
    )
    click.echo(certificate.table())
    if options["out"] is not None:
        from pyface.io.atomic import make_folder, write_text

        make_folder(options["out"].parent)
        write_text(options["out"], json.dumps(certificate.to_dict(), indent=1) + "\n")
    gate = certificate.gate
    click.echo(
        f"{'passed' if certificate.passed else 'FAILED'}: {gate.precision} allows a largest error of "
        f"{gate.max_error:g} and an RMSE of {gate.rmse:g} standard deviations"
    )
    if not certificate.passed:
        sys.exit(1)


def _batches(text: str) -> tuple[int, ...]:
    """(1, 3, 8) of "1,3,8"."""
    try:
        batches = tuple(int(part) for part in text.split(","))
    except ValueError:
        batches = ()
    if not batches or min(batches) < 1:
        raise ValueRangeError(f"--batches must be numbers of 1 or more such as 1,3,8; got {text!r}.")
    return batches
