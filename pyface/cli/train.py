"""`pyface train`: one subcommand per recipe."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from pyface import __version__
from pyface.errors import ValueRangeError


@click.group()
def command() -> None:
    """Train a generator on a dataset."""


def parse_resolution(text: str | None) -> tuple[int, int] | None:
    """(height, width) of "64" or "80x64"."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) not in (1, 2) or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise ValueRangeError(
            f"--resolution must be SIZE or HEIGHTxWIDTH, such as 64 or 80x64; got {text!r}."
        )
    return int(parts[0]), int(parts[-1])


def parse_names(text: str | None) -> tuple[str, ...]:
    """Names separated by commas."""
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


@command.command()
@click.option("--data", required=True, help="Folder or zip of images, or procedural:IDENTITIESxSAMPLES@SIZE.")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder for everything the run writes."
)
@click.option(
    "--kimg", type=float, default=1000.0, show_default=True, help="Length of training, in 1000 images."
)
@click.option("--minutes", type=float, help="End after so many minutes, if --kimg is not reached before.")
@click.option("--batch", type=int, default=32, show_default=True)
@click.option("--gamma", type=float, help="Weight of R1.  [default: 0.0002 * pixels / batch]")
@click.option("--resolution", help="Shrink images to SIZE or HEIGHTxWIDTH by a whole factor.")
@click.option("--cond", is_flag=True, help="Train with every label that the data has.")
@click.option("--conditions", help="Train with these labels, separated by commas.")
@click.option(
    "--precision", type=click.Choice(["float32", "bfloat16", "float16"]), default="float32", show_default=True
)
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    help="resume-*.pt (goes on exactly) or .safetensors, or demo.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--lr", type=float, default=0.0025, show_default=True, help="Learning rate of both networks.")
@click.option("--mirror", is_flag=True, help="Flip half of the images left-right.")
@click.option("--style-mixing", type=float, default=0.9, show_default=True, help="Share of mixed samples.")
@click.option("--ema-kimg", type=float, help="Half-life of the running average.  [default: batch * 10 / 32]")
@click.option("--r1-interval", type=int, default=16, show_default=True)
@click.option("--pl-interval", type=int, default=4, show_default=True, help="0: without path length.")
@click.option("--pl-weight", type=float, default=2.0, show_default=True)
@click.option("--cbase", type=int, default=16384, show_default=True, help="Channels times resolution.")
@click.option("--cmax", type=int, default=512, show_default=True, help="Most channels in a layer.")
@click.option("--z-dim", type=int, default=512, show_default=True)
@click.option("--w-dim", type=int, default=512, show_default=True)
@click.option("--map-depth", type=int, default=8, show_default=True, help="Layers of the mapping network.")
@click.option("--initial-size", default="4", show_default=True, help="Size of the first layer, HEIGHTxWIDTH.")
@click.option(
    "--freeze-d", type=int, default=0, show_default=True, help="Layers of the discriminator to keep."
)
@click.option(
    "--warmup-kimg", type=float, default=0.0, show_default=True, help="Discriminator alone for so long."
)
@click.option("--snap", type=float, default=50.0, show_default=True, help="Snapshot every so many kimg.")
@click.option(
    "--tick", type=float, default=4.0, show_default=True, help="Record in stats.jsonl every so many kimg."
)
@click.option("--threads", type=int, help="CPU threads.  [default: torch's choice]")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, or auto.")
def stylegan2(**options: Any) -> None:
    """Train StyleGAN2.

    The folder gets reals.png, fakes-*.png and raw-*.png (fixed latents, with and without running average),
    snapshot-*.safetensors (for pyface generate), resume-*.pt, stats.jsonl, events.jsonl and recipe.json.
    Ctrl-C saves and ends.
    """
    import torch

    from pyface.io.atomic import make_folder, write_text
    from pyface.training.source import open_training_set

    out = make_folder(options["out"])
    if options["threads"]:
        if options["threads"] < 1:
            raise ValueRangeError(f"--threads must be 1 or more; got {options['threads']}.")
        torch.set_num_threads(options["threads"])
    device = "cuda" if options["device"] == "auto" and torch.cuda.is_available() else options["device"]
    device = "cpu" if device == "auto" else device
    for name in ("snap", "tick"):
        if options[name] <= 0:
            raise ValueRangeError(f"--{name} must be greater than 0; got {options[name]}.")
    conditions = None if options["cond"] else parse_names(options["conditions"])
    resolution = parse_resolution(options["resolution"])
    data = open_training_set(
        options["data"], resolution=resolution, conditions=conditions, seed=options["seed"], progress=_reading
    )
    recipe = _recipe(options, data)
    write_text(out / "recipe.json", json.dumps({**recipe.plain(), "data": options["data"]}, indent=1) + "\n")
    click.echo(
        f"{len(data)} images of {data.size[0]}x{data.size[1]} from {data.source}; "
        f"conditions {', '.join(data.label_names) or 'none'}; {recipe.precision} on {device}, "
        f"{torch.get_num_threads()} threads",
        err=True,
    )
    train_and_save(
        recipe,
        data,
        out,
        device=device,
        resume=options["resume"],
        snapshot_kimg=options["snap"],
        tick_kimg=options["tick"],
        minutes=options["minutes"],
    )


def _reading(chunks: Any) -> Any:
    from tqdm import tqdm

    return tqdm(chunks, desc="reading images", leave=False, disable=not sys.stderr.isatty())


def _recipe(options: dict[str, Any], data: Any) -> Any:
    from pyface.training.recipes.stylegan2 import StyleGAN2Recipe

    initial = parse_resolution(options["initial_size"]) or (4, 4)
    return StyleGAN2Recipe(
        resolution=data.size,
        initial_size=initial,
        kimg=options["kimg"],
        batch=options["batch"],
        gamma=options["gamma"],
        lr_generator=options["lr"],
        lr_discriminator=options["lr"],
        style_mixing=options["style_mixing"],
        r1_interval=options["r1_interval"],
        path_length_interval=options["pl_interval"],
        path_length_weight=options["pl_weight"],
        ema_kimg=options["ema_kimg"],
        mirror=options["mirror"],
        precision=options["precision"],
        channel_base=options["cbase"],
        channel_max=options["cmax"],
        z_dim=options["z_dim"],
        w_dim=options["w_dim"],
        mapping_layers=options["map_depth"],
        freeze_d=options["freeze_d"],
        warmup_kimg=options["warmup_kimg"],
        seed=options["seed"],
        conditions=data.label_names,
        spectra=data.channels,
    )


def train_and_save(
    recipe: Any,
    data: Any,
    out: Path,
    *,
    device: str = "cpu",
    resume: Path | None = None,
    discriminator: Path | None = None,
    snapshot_kimg: float = 50.0,
    tick_kimg: float = 4.0,
    minutes: float | None = None,
) -> Any:
    """Run a recipe to its end, with progress, sheets and snapshots in `out`; returns the run.

    resume: a resume file to go on from, or a generator to start from. discriminator: one to start from.
    """
    from pyface.training.checkpoint import Snapshots, load_state, restore_state
    from pyface.training.observers import observers
    from pyface.training.recipes.stylegan2 import build, start_from

    run = build(recipe, data, device=device)
    total = int(recipe.kimg * 1000)
    interval = max(int(snapshot_kimg * 1000), recipe.batch)
    facts = {
        "data": data.source,
        "images": len(data),
        "command": shlex.join(["pyface", *sys.argv[1:]]),
        "pyface": __version__,
        "label_samples": label_samples(data),
    }
    average = run.average.average
    snapshots = Snapshots(out, average, interval, recipe.plain(), facts)
    run.trainer.callbacks += observers(
        out,
        run.trainer.feed,
        run.generator,
        average,
        snapshots,
        total=total,
        interval=interval,
        tick=max(int(tick_kimg * 1000), recipe.batch),
        minutes=minutes,
        seed=recipe.seed,
    )
    if resume is not None and resume.suffix == ".pt":
        restore_state(run.trainer, load_state(resume))
    elif resume is not None:
        start_from(run, resume, discriminator)
    if run.trainer.images_seen >= total:
        raise ValueRangeError(
            f"the run is at {run.trainer.images_seen / 1000:g} kimg already; raise --kimg above that."
        )
    run.trainer.run(total)
    return run


def label_samples(data: Any, count: int = 256) -> list[list[float]]:
    """Label vectors of images spread over the set: what conditions occur together."""
    if data.labels.shape[1] == 0:
        return []
    step = max(len(data) // count, 1)
    return [[round(value, 3) for value in row] for row in data.labels[::step][:count].tolist()]
