"""`pyface data check` and `pyface data zip`: what is wrong with a dataset, its repair, and its packing."""

from __future__ import annotations

import collections
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pyface.errors import DataError, ValueRangeError

if TYPE_CHECKING:
    from pyface.data.check import CheckReport
    from pyface.data.repair import Repaired, RepairReport

_NAMES_SHOWN = 16


def parse_size(text: str | None) -> tuple[int, int] | None:
    """(height, width) of "64" or "80x64".

    Raises:
        ValueRangeError: anything else.
    """
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) not in (1, 2) or not all(p.isascii() and p.isdigit() and int(p) > 0 for p in parts):
        raise ValueRangeError(
            f"--resolution must be SIZE or HEIGHTxWIDTH, such as 64 or 80x64; got {text!r}."
        )
    return int(parts[0]), int(parts[-1])


@contextlib.contextmanager
def _bar(words: str, quiet: bool) -> Iterator[Callable[[int], Any]]:
    from tqdm import tqdm

    hidden = quiet or not sys.stderr.isatty()
    with tqdm(desc=words, unit="img", disable=hidden, file=sys.stderr, delay=0.5, leave=False) as bar:
        yield bar.update


@click.command("check")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--resolution", metavar="SIZE", help="Wanted: SIZE or HEIGHTxWIDTH, or a whole multiple of it.")
@click.option("--square", is_flag=True, help="List every picture that is not square.")
@click.option(
    "--fix", metavar="OUT", type=click.Path(path_type=Path), help="Write a repaired folder or .zip."
)
@click.option(
    "--resize-filter", type=click.Choice(["lanczos", "box"]), default="lanczos", show_default=True,
    help="How --fix resizes.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--workers", type=click.IntRange(1, 256), default=None, help="Threads; all cores by default.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def check(
    source: Path,
    resolution: str | None,
    square: bool,
    fix: Path | None,
    resize_filter: str,
    as_json: bool,
    workers: int | None,
    quiet: bool,
) -> None:
    """List every bad file of SOURCE (folder or .zip) with its reason, and what the dataset holds.

    Decodes every picture and reads every label. The exit status is 1 when something is bad. With --fix a
    repaired copy is written, SOURCE stays as it is, and the status is 0 when the copy is there.
    """
    from pyface.data import check as checking
    from pyface.data.repair import repair

    size = parse_size(resolution)
    with _bar("checking", quiet) as update:
        report = checking.check(source, resolution=size, square=square, workers=workers, progress=update)
    repaired = None
    if fix is not None:
        with _bar("repairing", quiet) as update:
            repaired = repair(
                source, fix, resolution=size, resize_filter=resize_filter, workers=workers, progress=update,
                report=report,
            )  # fmt: skip
    if as_json:
        content = report.plain() | ({"repair": repaired.plain()} if repaired else {})
        click.echo(json.dumps(content, indent=1))
    else:
        lines = [*_lines(report), *(_repair_lines(repaired) if repaired is not None else ())]
        click.echo("\n".join(line.encode("utf-8", "backslashreplace").decode() for line in lines))
    if repaired is None and not report.ok:
        sys.exit(1)


def _counts(counter: Any, word: Callable[[Any], str] = str) -> str:
    return ", ".join(f"{word(value)} {count}" for value, count in counter.most_common()) or "none"


def _lines(report: CheckReport) -> Iterator[str]:
    from pyface.data.check import initial_size

    bad = len(report.bad_files)
    yield f"{report.source}: {len(report.pictures)} pictures, " + (
        "nothing is wrong" if report.ok else f"{len(report.faults)} faults in {bad} files"
    )
    sizes = report.count(lambda p: (p.height, p.width))
    yield f"  height x width  {_counts(sizes, lambda s: f'{s[0]}x{s[1]}:')}"
    yield f"  modes           {_counts(report.count(lambda p: p.mode), lambda m: f'{m}:')}"
    yield f"  formats         {_counts(report.count(lambda p: p.format), lambda m: f'{m}:')}"
    yield from _label_lines(report)
    if report.expected is not None:
        height, width = report.expected
        first = initial_size(height, width)
        if first is None:
            yield f"  note: StyleGAN2 cannot be trained at {height}x{width}; --fix makes a size that it takes"
        elif first != (4, 4):
            yield f"  note: to train at {height}x{width} give --initial-size {first[0]}x{first[1]}"
    if report.ignored:
        shown = ", ".join(report.ignored[:_NAMES_SHOWN])
        yield f"  not read        {shown}{' ...' if len(report.ignored) > _NAMES_SHOWN else ''}"
    for fault in report.faults:
        yield f"{'' if fault.file else report.source + ': '}{fault}  [{fault.code}]"


def _label_lines(report: CheckReport) -> Iterator[str]:
    schema = report.schema
    if report.labels is None or schema.kind == "none":
        yield "  labels          none" if not report.records else "  labels          records in labels.jsonl"
        return
    yield (
        f"  labels          {schema.kind}, {len(schema.names)} names, {len(report.labels.rows)} rows from "
        f"{report.labels.source}"
    )
    balance = list(report.balance().items())
    for name, values in balance[:_NAMES_SHOWN]:
        yield f"    {name}  " + "  ".join(f"{key} {value:.4g}" for key, value in values.items())
    if len(balance) > _NAMES_SHOWN:
        yield f"    ... and {len(balance) - _NAMES_SHOWN} more; --json has all"
    empty = [name for name, values in balance if values.get("count") == 0]
    if empty:
        yield f"    without a picture: {', '.join(empty[:_NAMES_SHOWN])}"


def _repair_lines(repaired: RepairReport) -> Iterator[str]:
    told = repaired.plain()
    height, width = repaired.size
    yield (
        f"{repaired.out}: {told['kept']} pictures of {height}x{width}, {told['changed']} of them changed, "
        f"{told['left_out']} left out; {repaired.before.source} is as it was"
    )
    same = collections.Counter(file.actions for file in repaired.files if _only_redrawn(file))
    for actions, count in same.items():
        if count > _NAMES_SHOWN:
            yield f"{count} files, which --json names: {'; '.join(actions)}"
    for file in repaired.files:
        if _only_redrawn(file) and same[file.actions] > _NAMES_SHOWN:
            continue
        if file.into is None:
            yield f"{file.file}: {'; '.join(file.actions)}"
        elif file.actions:
            yield f"{file.file} -> {file.into}: {'; '.join(file.actions)}"
    yield from (f"note: {note}" for note in repaired.notes)


def _only_redrawn(file: Repaired) -> bool:
    return file.into == file.file and bool(file.actions)


@click.command("zip")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--spectrum", type=click.Choice(["vis", "nir"]), default=None, help="By default vis where it is there."
)
@click.option("--workers", type=click.IntRange(1, 256), default=None, help="Threads; all cores by default.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def pack(source: Path, out: Path, spectrum: str | None, workers: int | None, quiet: bool) -> None:
    """Pack the dataset SOURCE into OUT.zip, in the layout that StyleGAN2 and StyleGAN3 trainers read.

    Uncompressed, pictures byte for byte as they are, labels in dataset.json. A dataset with faults is
    refused; `pyface data check SOURCE --fix OUT.zip` repairs and packs in one go.
    """
    from pyface.data.packing import pack as write

    if out.suffix.lower() != ".zip":
        raise DataError(f"{out} must end with .zip")
    with _bar("checking", quiet) as update:
        count = write(source, out, spectrum=spectrum, workers=workers, progress=update)
    click.echo(f"{count} pictures in {out}")
