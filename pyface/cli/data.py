"""`pyface data`: render datasets and look at them."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np

from pyface.cli import data_check, data_info, data_prepare, data_write
from pyface.cli.invocation import command_line
from pyface.errors import DataError, ValueRangeError

_SHEET_DEFAULT = 64


@click.group("data")
def command() -> None:
    """Render, check, repair, pack and look at datasets."""


command.add_command(data_check.check)
command.add_command(data_prepare.prepare)
command.add_command(data_prepare.identities)
command.add_command(data_check.pack)
command.add_command(data_info.info)
command.add_command(data_write.write)


def _words(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    return tuple(word.strip().lower() for word in value.split(",") if word.strip())


def _override(text: str) -> tuple[str, Any]:
    """NAME=VALUE or NAME=LOW..HIGH as a name and what `draw_faces` takes."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueRangeError(f"--set takes NAME=VALUE or NAME=LOW..HIGH; got {text!r}.")
    if name == "emotion":
        return name, value
    try:
        low, dots, high = value.partition("..")
        return name, (float(low), float(high)) if dots else float(value)
    except ValueError:
        raise ValueRangeError(f"--set {name} needs a number or LOW..HIGH; got {value!r}.") from None


@command.command("procedural")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--identities", type=click.IntRange(1, 1_000_000), default=100, show_default=True, help="People."
)
@click.option(
    "--samples", type=click.IntRange(1, 100_000), default=10, show_default=True, help="Pictures of each."
)
@click.option(
    "--size", type=click.IntRange(16, 1024), default=128, show_default=True, help="Pixels per side."
)
@click.option("--spectra", default="vis,nir", show_default=True, callback=_words, help="vis, nir or both.")
@click.option("--also", default="", callback=_words, help="More outputs: segmentation, depth or both.")
@click.option(
    "--seed", type=click.IntRange(0, 2**64 - 1), default=0, show_default=True, help="Of everything drawn."
)
@click.option(
    "--first-identity", type=click.IntRange(0, 2**32 - 1), default=0, help="Number of the first person."
)
@click.option(
    "--set", "overrides", multiple=True, metavar="NAME=VALUE", help="Fix a face parameter; repeatable."
)
@click.option("--workers", type=click.IntRange(1, 256), default=None, help="Threads; all cores by default.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def procedural(
    out: Path,
    identities: int,
    samples: int,
    size: int,
    spectra: tuple[str, ...],
    also: tuple[str, ...],
    seed: int,
    first_identity: int,
    overrides: tuple[str, ...],
    workers: int | None,
    quiet: bool,
) -> None:
    """Render faces of people who do not exist into the folder OUT.

    Writes VIS/*.png and NIR/*.png, labels.jsonl (identity, attributes, action units, landmarks, parameters),
    dataset.json (conditions, in the layout of NVIDIA's StyleGAN2) and card.json (the recipe). A stopped run
    is continued by the same command.
    """
    from tqdm import tqdm

    from pyface.data.procedural import ProceduralFaces
    from pyface.data.writing import write_faces

    people = range(first_identity, first_identity + identities)
    changes = dict(_override(text) for text in overrides)
    faces = ProceduralFaces(people, samples, size, spectra, seed, also, **changes)
    with tqdm(total=len(faces), unit="img", disable=quiet, file=sys.stderr, delay=0.5) as bar:
        try:
            write_faces(faces, out, workers=workers, command=command_line(), progress=bar.update)
        except KeyboardInterrupt:
            bar.close()
            raise click.ClickException("stopped; the same command continues where it was") from None
    click.echo(f"{len(faces)} pictures of {identities} people in {out}")


@command.command("sheet")
@click.argument("source")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--count", type=click.IntRange(1, 10_000), default=_SHEET_DEFAULT, show_default=True, help="Pictures."
)
@click.option(
    "--columns", type=click.IntRange(1, 200), default=None, help="Per row; a square sheet by default."
)
@click.option(
    "--spectrum", type=click.Choice(["vis", "nir"]), default=None, help="By default vis where it is there."
)
@click.option("--start", type=click.IntRange(0), default=0, show_default=True, help="First picture.")
@click.option(
    "--also",
    default="",
    callback=_words,
    help="Rows below that show the first row's pictures as any of vis, nir, segmentation, depth, landmarks.",
)
def sheet(
    source: str,
    out: Path,
    count: int,
    columns: int | None,
    spectrum: str | None,
    start: int,
    also: tuple[str, ...],
) -> None:
    """Show the first pictures of the dataset SOURCE in one image OUT.

    SOURCE is a folder or .zip, or LAYOUT:NAME=VALUE,...:PATH as for --data of `pyface train`.

    docs/faces-sheet.png is made by

    \b
    pyface data procedural faces --first-identity 8 --identities 24 --samples 1 --size 144 --seed 12 \\
      --also segmentation,depth
    pyface data sheet faces docs/faces-sheet.png --columns 8 --also nir,segmentation,depth,landmarks
    """
    from pyface.data.label_pictures import LABEL_PICTURES, label_picture
    from pyface.data.layouts import open_named
    from pyface.io.images import contact_sheet

    if set(also) - set(LABEL_PICTURES):
        raise ValueRangeError(f"--also takes any of {', '.join(LABEL_PICTURES)}; got {','.join(also)!r}.")

    folder = open_named(source)
    spectrum = spectrum or folder.spectra[0]
    if start >= len(folder):
        raise DataError(f"{source} has {len(folder)} pictures; --start must be less")
    stop = min(start + count, len(folder))
    tiles = list(folder.images(range(start, stop), spectrum))
    if also:
        columns = columns or math.ceil(math.sqrt(len(tiles)))
        white = np.full_like(tiles[0], 255)
        tiles += [white] * (-len(tiles) % columns)
        first = [folder[i] for i in range(start, min(start + columns, stop))]
        for kind in also:
            tiles += [label_picture(sample, kind) for sample in first] + [white] * (columns - len(first))
    contact_sheet(tiles, columns=columns, path=out)
    click.echo(f"{stop - start} pictures in {out}")
