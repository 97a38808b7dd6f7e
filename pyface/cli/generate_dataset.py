"""`pyface generate dataset` and `regen`: datasets of generated faces, and single pictures of them again."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import click

__all__ = ["dataset", "regen"]

_INTERRUPTED = 130  # exit status of a command that SIGINT ended


def _network_options(function: Any) -> Any:
    """Options that say who is drawn."""
    for option in reversed(
        [
            click.option("--network", required=True, help="A .safetensors generator, or demo."),
            click.option(
                "--out", required=True, type=click.Path(path_type=Path), help="Folder; a begun one goes on."
            ),
            click.option("--count", type=int, help="Pictures, each of another person."),
            click.option("--ids", type=int, help="People, each with --samples-per-id pictures."),
            click.option("--samples-per-id", type=int, help="Pictures of each person.  [default: 1]"),
            click.option("--seed", type=int, default=0, show_default=True, help="Of all that is drawn."),
            click.option(
                "--variation",
                type=float,
                help="How far a person's pictures differ: 0 (one latent) to 1 (as two people do).  "
                "[default: 0.2 for several pictures of each, else 0]",
            ),
            click.option("--truncation-psi", "--trunc", type=float, default=1.0, show_default=True),
            click.option("--class", "label", type=int, help="Number of the class, for one-hot conditions."),
            click.option("--condition", help="Values by name, such as smile=1,glasses=0; the rest is 0."),
            click.option(
                "--vary",
                help="Conditions drawn for each picture instead of each person: names, all or none.  "
                "[default: those that come and go, such as smile and glasses]",
            ),
            click.option(
                "--noise-mode", type=click.Choice(["const", "none"]), default="const", show_default=True
            ),
        ]
    ):
        function = option(function)
    return function


def _engine_options(function: Any) -> Any:
    """Options that say what computes, and where."""
    for option in reversed(
        [
            click.option(
                "--engine",
                default="auto",
                show_default=True,
                help="torch, native, onnxruntime, openvino, tensorrt, tensorrt-rtx, auto, or a file that "
                "pyface export made of the network with ws as its input.",
            ),
            click.option(
                "--precision",
                help="fp32, bf16, fp16, ...; bf16 is several times faster on a CPU with AMX.  "
                "[default: fp32, or the exported file's]",
            ),
            click.option("--batch", type=int, help="Pictures at a time.  [default: 16, or the file's]"),
            click.option(
                "--workers", type=int, help="Processes.  [default: one for each GPU, or core up to 4]"
            ),
            click.option(
                "--threads",
                type=int,
                default=1,
                show_default=True,
                help="CPU threads of an engine; the last bits of a picture depend on their number.",
            ),
            click.option("--encoders", type=int, help="Threads that encode.  [default: by device]"),
            click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, or auto."),
            click.option(
                "--force", is_flag=True, help="Take an exported network that failed its certificate."
            ),
            click.option("--shard-index", type=int, default=0, help="Of --num-shards parts, write this one."),
            click.option(
                "--num-shards", type=int, default=1, help="Parts of the work, for jobs on several machines."
            ),
        ]
    ):
        function = option(function)
    return function


def _storage_options(function: Any) -> Any:
    """Options that say what is written."""
    for option in reversed(
        [
            click.option(
                "--format",
                "storage",
                type=click.Choice(["shards", "folder"]),
                default="shards",
                show_default=True,
                help="Tar files that WebDataset reads, or a folder that pyface train reads.",
            ),
            click.option("--image", type=click.Choice(["jpeg", "png"]), default="jpeg", show_default=True),
            click.option("--shard-size", type=int, default=1000, show_default=True, help="Pictures in each."),
            click.option("--quality", type=int, default=95, show_default=True, help="Of JPEG, 1 to 100."),
            click.option(
                "--subsampling", default="4:2:0", show_default=True, help="Of JPEG's colours; or 4:4:4."
            ),
            click.option(
                "--encoder",
                default="auto",
                show_default=True,
                help="pillow, imagecodecs, isal; auto: pillow.",
            ),
            click.option("--quiet", is_flag=True, help="No progress bar."),
        ]
    ):
        function = option(function)
    return function


@click.command()
@_network_options
@_storage_options
@_engine_options
def dataset(network: str, out: Path, quiet: bool, **options: Any) -> None:
    """A dataset of generated faces: people with one or several pictures each.

    Conditions are drawn as they occur in the training data unless --condition or --class fixes them. Every
    picture depends on the options and its number alone. A run that was stopped, however it was, goes on when
    the same command is given again; the result is the same.
    """
    try:
        _write(network, out, quiet, options)
    except KeyboardInterrupt:
        command = shlex.join(["pyface", *sys.argv[1:]])
        click.echo(f"{_how_far(out)} To go on: {command}", err=True)
        sys.exit(_INTERRUPTED)


def _write(network: str, out: Path, quiet: bool, options: dict[str, Any]) -> None:
    from tqdm import tqdm

    from pyface.generation.dataset import EngineSettings, Work, write_dataset
    from pyface.generation.network import parse_conditions

    how = ("engine", "precision", "batch", "device", "threads", "encoders", "force")
    settings = EngineSettings(**{name: options.pop(name) for name in how})
    given = {
        "identities": options.pop("ids"),
        "samples_per_identity": options.pop("samples_per_id"),
        "condition": parse_conditions(options.pop("condition") or ""),
        "vary": _names(options.pop("vary")),
        "noise": options.pop("noise_mode"),
        "library": options.pop("encoder"),
    }
    with tqdm(unit="img", disable=quiet or not sys.stderr.isatty()) as bar:

        def begun(work: Work) -> None:
            click.echo(work.engine, err=True)
            bar.reset(total=work.pictures)

        workers = options.pop("workers")
        workers = settings.usual_workers() if workers is None else workers
        written = write_dataset(
            out,
            network,
            settings=settings,
            workers=workers,
            begun=begun,
            progress=bar.update,
            **given,
            **options,
        )
    recipe = written.recipe
    what = f"{recipe.count} pictures of {recipe.identities} people in {written.all_shards} shards in {out}"
    if written.complete:
        click.echo(f"{what}; complete")
    else:
        click.echo(f"{written.shards} of {written.all_shards} shards in {out}; the others are still missing")


def _names(text: str | None) -> str | tuple[str, ...] | None:
    """ "all", or names; None for the default."""
    if text is None or text.strip() == "all":
        return text
    return () if text.strip() == "none" else tuple(name.strip() for name in text.split(",") if name.strip())


def _how_far(folder: Path) -> str:
    """How much is complete, told without what takes long to import: it may be why somebody stopped."""
    try:
        text = (folder / "manifest.json").read_text(encoding="utf-8")
        shards = int(json.loads(text)["plan"]["shards"])
    except (OSError, ValueError, KeyError, TypeError):
        return "Stopped before the first shard."
    records = [*folder.glob("shard-*.json"), *folder.glob("records/chunk-*.json")]
    return f"Stopped; {len(records)} of {shards} shards are complete."


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--identity", type=int, required=True, help="Number of the person, from 0.")
@click.option("--sample", type=int, default=0, show_default=True, help="Number of the person's picture.")
@click.option("--out", type=click.Path(path_type=Path), help="A .jpg or .png file for it.")
@click.option("--network", help="The generator's file.  [default: of the name in the manifest]")
@click.option("--engine", help="Another engine than the dataset's.")
@click.option("--threads", type=int, help="CPU threads.  [default: as many as made it]")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, or auto.")
def regen(folder: Path, identity: int, sample: int, out: Path | None, **options: Any) -> None:
    """Make one picture of the dataset DIR again and compare it with the one that lies there.

    Exit status 1 when it differs by more than the precision allows.
    """
    from pyface.generation.regenerate import regenerate

    made = regenerate(folder, identity, sample, **options)
    for path in made.write(out) if out is not None else ():
        click.echo(f"wrote {path}")
    click.echo(made.verdict)
    if not made.same:
        sys.exit(1)
