"""`pyface bench`: how fast the ops, the networks and the renderer are here."""

from __future__ import annotations

import json
from pathlib import Path

import click

from pyface.benchmark import all_cases, run_suite
from pyface.benchmark.machine import device_slug
from pyface.io.atomic import make_folder, write_text


@click.command(short_help="Measure the ops, the networks and the renderer on this machine.")
@click.option("--quick", is_flag=True, help="A few cases, few rounds: to see that everything runs.")
@click.option(
    "--only", multiple=True, metavar="TEXT", help="Cases whose name has this in it; may be repeated."
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="CPU threads.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Write JSON: to this .json file, or into this folder as <device>/ops.json.",
)
@click.option("--list", "list_names", is_flag=True, help="Print the names of the cases and stop.")
def command(
    quick: bool, only: tuple[str, ...], device: str, threads: int, out: Path | None, list_names: bool
) -> None:
    """Measure pyface against plain torch on this machine.

    Each figure is a median over interleaved rounds with the caches evicted, and each result is checked
    against a float64 reference first. bench/report.py turns the JSON files into bench/RESULTS.md.
    """
    if list_names:
        for case in all_cases():
            click.echo(case.name)
        return
    document = run_suite(only, quick=quick, device=device, num_threads=threads, report=click.echo)
    if out is None:
        return
    path = out if out.suffix == ".json" else out / device_slug(document["machine"]) / "ops.json"
    make_folder(path.parent)
    write_text(path, json.dumps(document, indent=1) + "\n")
    click.echo(f"wrote {path}")
