"""`pyface generate verify`: whether a generated dataset is whole and undamaged."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from pyface.errors import ValueRangeError


@click.command("verify")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--decode/--no-decode", default=True, help="Decode every picture, or read headers only.")
@click.option("--jobs", type=int, help="Threads.  [default: one for each CPU core]")
def command(folder: Path, decode: bool, jobs: int | None) -> None:
    """Check a dataset that `pyface generate dataset` has written to FOLDER.

    Every record, checksum, member of a shard and picture is compared with the manifest and the plan. Each
    fault is a line; the exit status is 1 when there is one, or when the dataset is not complete.
    """
    from tqdm import tqdm

    from pyface.generation.checking import verify_dataset

    if jobs is not None and jobs < 1:
        raise ValueRangeError(f"--jobs must be 1 or more; got {jobs}.")
    with tqdm(total=0, unit="shard", disable=not sys.stderr.isatty()) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        report = verify_dataset(folder, decode=decode, jobs=jobs, progress=show)
    for fault in report.faults:
        click.echo(str(fault))
    count = f"{report.pictures} pictures in {report.shards} shards, {report.bytes / 2**20:.1f} MiB"
    if report.sound:
        how = "and decoded" if report.decoded else "but not decoded"
        click.echo(f"{folder} is sound: {count}, all of them read {how}")
        return
    number = len(report.faults)
    click.echo(f"{folder} has {number} fault{'s' if number != 1 else ''}; sound records: {count}")
    sys.exit(1)
