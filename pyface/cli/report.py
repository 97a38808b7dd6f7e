"""`pyface train report`: make the page of a run again."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("report")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="The file to write.  [default: RUN/report.html]")
def command(run: Path, out: Path | None) -> None:
    """Write the report of the run in folder RUN: curves, samples, warnings and settings on one page.

    It is also made at the end of every run. The run may be going on.
    """
    from pyface.training.report import write_report

    click.echo(str(write_report(run, out)))
