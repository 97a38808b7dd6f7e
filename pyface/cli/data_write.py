"""`pyface data write`: rendered faces in the layouts of published datasets."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pyface.cli.invocation import command_line
from pyface.data.option_text import plain_text, whole_number, yes_or_no
from pyface.errors import ValueRangeError


@dataclasses.dataclass(frozen=True)
class _Writer:
    """What writes a layout.

    Attributes:
        function: in the module pyface.data.writing_NAME.
        samples: what its argument for `--samples` is called, and its default.
        pictures: of one of the samples, from the options.
        options: those of `--set`, each with a function that reads it.
    """

    function: str
    samples: tuple[str, int]
    options: dict[str, Callable[[str, str], Any]] = dataclasses.field(default_factory=dict)
    pictures: Callable[[dict[str, Any]], int] = lambda options: 1


_WRITERS = {
    "ckplus": _Writer(
        "write_ckplus",
        ("sequences", 2),
        {
            "frames": whole_number,
            "grey": yes_or_no,
            "unlabelled_every": whole_number,
            "uncoded_every": whole_number,
        },
        lambda options: int(options.get("frames", 6)),
    ),
    "celeba": _Writer("write_celeba", ("samples", 10), {"layout": plain_text, "pictures": plain_text}),
    "mtfl": _Writer("write_mtfl", ("samples", 3), {"testing_every": whole_number, "mixed_sizes": yes_or_no}),
    "spectra": _Writer("write_spectra", ("samples", 10)),
}


def _options(layout: str, texts: tuple[str, ...]) -> dict[str, Any]:
    """NAME=VALUE pairs as the arguments of a writer."""
    known = _WRITERS[layout].options
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name not in known:
            allowed = ", ".join(known) or "none"
            raise ValueRangeError(f"--set of {layout} takes NAME=VALUE with one of {allowed}; got {text!r}.")
        found[name] = known[name](f"--set {name}", value)
    return found


@click.command("write")
@click.argument("layout", type=click.Choice(sorted(_WRITERS)))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--identities", type=click.IntRange(1, 1_000_000), default=20, show_default=True, help="People."
)
@click.option(
    "--samples",
    type=click.IntRange(1, 9999),
    default=None,
    help="Pictures of each: celeba and spectra 10, mtfl 3; sequences of each: ckplus 2.",
)
@click.option(
    "--size",
    type=click.IntRange(16, 1024),
    default=None,
    help="Pixels per side: ckplus 256, mtfl 192, spectra 128; celeba has 178 x 218.",
)
@click.option(
    "--seed", type=click.IntRange(0, 2**64 - 1), default=0, show_default=True, help="Of everything drawn."
)
@click.option(
    "--set", "settings", multiple=True, metavar="NAME=VALUE",
    help="celeba: layout=flat|official|kaggle, pictures=jpg|png. ckplus: frames=N, grey=yes|no, "
    "unlabelled_every=N, uncoded_every=N. mtfl: testing_every=N, mixed_sizes=yes|no. Repeatable.",
)  # fmt: skip
@click.option("--workers", type=click.IntRange(1, 256), default=None, help="Threads; all cores by default.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def write(
    layout: str,
    out: Path,
    identities: int,
    samples: int | None,
    size: int | None,
    seed: int,
    settings: tuple[str, ...],
    workers: int | None,
    quiet: bool,
) -> None:
    """Render faces into the folder OUT, laid out as the dataset LAYOUT is.

    What reads CK+, CelebA, MTFL, or pairs of VIS and NIR reads OUT, and so does --data. card.json in it has
    the recipe. A stopped run is continued by the same command.
    """
    from tqdm import tqdm

    chosen = _WRITERS[layout]
    name, default = chosen.samples
    options = _options(layout, settings)
    writer = getattr(importlib.import_module(f"pyface.data.writing_{layout}"), chosen.function)
    arguments = options | {name: samples or default} | ({} if size is None else {"size": size})
    count = identities * (samples or default) * chosen.pictures(options)
    with tqdm(total=count, unit="img", disable=quiet, file=sys.stderr, delay=0.5) as bar:
        try:
            writer(
                out,
                identities=identities,
                seed=seed,
                workers=workers,
                command=command_line(),
                progress=bar.update,
                **arguments,
            )
        except KeyboardInterrupt:
            bar.close()
            raise click.ClickException("stopped; the same command continues where it was") from None
    click.echo(f"{count} pictures of {identities} people in {out}")
