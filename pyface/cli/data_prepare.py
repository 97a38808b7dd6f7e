"""`pyface data prepare` and `pyface data identities`: photographs become training data."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pyface.cli.invocation import command_line
from pyface.errors import DataError

if TYPE_CHECKING:
    from pyface.data.prepare import PrepareReport

__all__ = ["identities", "prepare"]


def _sizes(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in value.split(",") if word.strip())
    except ValueError:
        raise click.BadParameter(f"takes numbers with commas between; got {value!r}") from None


@click.command("prepare")
@click.argument("raw", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--size", type=click.IntRange(16, 4096), default=256, show_default=True, help="Pixels per side."
)
@click.option("--also", default="", callback=_sizes, metavar="64,128", help="Further, smaller sizes.")
@click.option(
    "--align", default="ffhq", show_default=True, help="Template: ffhq, arcface112, eyes, mouth, ..."
)
@click.option(
    "--faces", type=click.Choice(["largest", "all"]), default="largest", show_default=True, help="Of a photo."
)
@click.option("--min-face", type=click.FloatRange(1), default=48.0, show_default=True, help="Box, in pixels.")
@click.option(
    "--min-score", type=click.FloatRange(0, 1), default=0.6, show_default=True, help="Of the detector."
)
@click.option(
    "--min-inside",
    type=click.FloatRange(0, 1),
    default=0.6,
    show_default=True,
    help="Share within the photo.",
)
@click.option("--no-embed", is_flag=True, help="No identity features.")
@click.option("--detector", default="default", show_default=True, help="Name, or an .onnx file.")
@click.option("--landmarker", default="default", show_default=True, help="Name or file.")
@click.option("--embedder", default="default", show_default=True, help="Name, or an .onnx or .pth file.")
@click.option("--workers", type=click.IntRange(1, 256), default=None, help="Threads; all cores by default.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def prepare(
    raw: Path,
    out: Path,
    size: int,
    also: tuple[int, ...],
    align: str,
    faces: str,
    min_face: float,
    min_score: float,
    min_inside: float,
    no_embed: bool,
    detector: str,
    landmarker: str,
    embedder: str,
    workers: int | None,
    quiet: bool,
) -> None:
    """Detect, align and measure the faces of the photographs in RAW (folder or .zip); write them to OUT.

    OUT/SIZE/*.png are aligned faces to train on, OUT/features.safetensors their landmarks, small pictures,
    histograms and identity features by name, OUT/rejected.jsonl what was left out and why. A stopped run is
    continued by the same command; photographs that were added are taken up. RAW is never written to.
    """
    from tqdm import tqdm

    from pyface.data.face_crops import CropSettings
    from pyface.data.prepare import prepare as run

    settings = CropSettings(
        size,
        also,
        align,
        faces,
        min_face,
        min_score,
        min_inside,
        not no_embed,
        detector,
        landmarker,
        embedder,
    )
    bar = tqdm(unit="photo", disable=quiet, file=sys.stderr, delay=0.5)

    def begun(total: int, done: int) -> None:
        bar.total, bar.initial, bar.n = total, done, done

    with bar:
        try:
            report = run(
                raw, out, settings, workers=workers, command=command_line(), progress=bar.update, begun=begun
            )
        except KeyboardInterrupt:
            bar.close()
            raise click.ClickException("stopped; the same command continues where it was") from None
    _tell(report, out)


def _tell(report: PrepareReport, out: Path) -> None:
    """Counts, rate, and where to look."""
    facts = report.to_dict()
    told = ", ".join(f"{count} {code}" for code, count in report.rejected.items()) or "none"
    click.echo(f"{report.faces} faces of {report.photographs} photographs in {out}; left out: {told}")
    if report.done_now:
        shares = sorted(facts["stage_shares"].items(), key=lambda item: -item[1])
        spent = ", ".join(f"{name} {share:.0%}" for name, share in shares if share >= 0.005)
        click.echo(f"{facts['photographs_per_second']:.1f} photographs/s; time: {spent}")
    if report.rejected:
        click.echo(f"see {out / 'rejected.jsonl'} and {out / 'rejected.png'}")


@click.command("identities")
@click.argument("source", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--all", "mode", flag_value="all", default=True, help="Each picture its own features (default)."
)
@click.option("--one", "mode", flag_value="one", help="Each person's most typical picture for all of them.")
@click.option("--out", type=click.Path(path_type=Path), default=None, help="Folder of the files; DIR itself.")
@click.option("--aligned", is_flag=True, help="The pictures are aligned faces: look for none, only resize.")
@click.option("--pattern", default="{identity}_{sample}", show_default=True, help="Of names without suffix.")
@click.option("--embedder", default="default", show_default=True, help="Name, or an .onnx or .pth file.")
@click.option("--strict", is_flag=True, help="End with a list when any picture cannot be used.")
@click.option("--workers", type=click.IntRange(1, 256), default=None, help="Threads; all cores by default.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def identities(
    source: Path,
    mode: str,
    out: Path | None,
    aligned: bool,
    pattern: str,
    embedder: str,
    strict: bool,
    workers: int | None,
    quiet: bool,
) -> None:
    """Write identity features of the pictures in DIR (of its VIS folder, where it has VIS and NIR).

    identity_features.json maps file names to numbers, as identity-conditioned generators read them;
    identity_features.safetensors has the same as tables, with who is shown.
    """
    import os

    from tqdm import tqdm

    from pyface.data.identities import identity_features, write_identity_features
    from pyface.faces import load_embedder
    from pyface.io.atomic import make_folder

    if out is None and source.suffix == ".zip":
        raise DataError(f"{source} is a zip; name a folder for the features with --out")
    folder = make_folder(source if out is None else out) if out is not None or source.is_dir() else source
    network = load_embedder(embedder)
    with tqdm(unit="img", disable=quiet, file=sys.stderr) as bar:
        found = identity_features(
            source,
            mode,
            embedder=network,
            aligned=aligned,
            pattern=pattern,
            on_problem="stop" if strict else "skip",
            workers=workers or os.cpu_count() or 1,
            progress=bar.update,
        )
    plain, table = write_identity_features(found, folder, network, mode)
    click.echo(
        f"{len(found.names)} pictures of {len(set(found.identities))} people in {plain} and {table.name}"
    )
    for problem in list(found.problems)[:20]:
        click.echo(f"left out: {problem}", err=True)
    if len(found.problems) > 20:
        click.echo(f"left out: {len(found.problems) - 20} more", err=True)
