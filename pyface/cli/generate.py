"""`pyface generate`: images, videos, style-mixing sheets and datasets made by a generator."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pyface.cli import generate_dataset, generate_verify
from pyface.errors import ValueRangeError


@click.group()
def command() -> None:
    """Make images, videos and datasets with a generator."""


command.add_command(generate_dataset.dataset)
command.add_command(generate_dataset.regen)
command.add_command(generate_verify.command)


def _network_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options that every subcommand has."""
    for option in reversed(
        [
            click.option(
                "--network", required=True, help="A .safetensors generator, or demo for the one that ships."
            ),
            click.option("--truncation-psi", "--trunc", type=float, default=1.0, show_default=True),
            click.option("--class", "label", type=int, help="Number of the class, for one-hot conditions."),
            click.option("--condition", help="Values by name, such as smile=1,glasses=0; the rest is 0."),
            click.option("--batch", type=int, default=16, show_default=True, help="Images drawn at a time."),
            click.option(
                "--precision",
                type=click.Choice(["float32", "bfloat16", "float16"]),
                help="What to compute in; bfloat16 is several times faster on a CPU with AMX.  "
                "[default: as the network was trained]",
            ),
            click.option("--threads", type=int, help="CPU threads.  [default: torch's choice]"),
            click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, or auto."),
        ]
    ):
        function = option(function)
    return function


def _open(options: dict[str, Any]) -> tuple[Any, Any, tuple[str, ...]]:
    """The generator, the condition vector and the names of its entries."""
    import torch

    from pyface.cli.train import device_named
    from pyface.generation.network import condition_names, condition_vector, load_network, parse_conditions

    if options["batch"] < 1:
        raise ValueRangeError(f"--batch must be 1 or more; got {options['batch']}.")
    if options["threads"] is not None and options["threads"] < 1:
        raise ValueRangeError(f"--threads must be 1 or more; got {options['threads']}.")
    if options["threads"]:
        torch.set_num_threads(options["threads"])
    options["device"] = device_named(options["device"])
    generator = load_network(options["network"], options["device"])
    names = condition_names(options["network"], generator.c_dim)
    values = parse_conditions(options["condition"] or "")
    if options["label"] is not None:
        if not 0 <= options["label"] < generator.c_dim:
            raise ValueRangeError(
                f"--class must be from 0 to {generator.c_dim - 1}; got {options['label']}."
                if generator.c_dim
                else "--class was given, but the generator is unconditional."
            )
        values[names[options["label"]]] = 1.0
    return generator, condition_vector(values, names), names


def _on_engine(name: str, noise_mode: str, options: dict[str, Any]) -> Any:
    """The network of `options` on an engine, which is named on stderr; sets the device to where it runs."""
    from pyface.export import open_engine

    settings = {key: options[key] for key in ("precision", "batch", "device", "threads")}
    if settings["device"] == "cuda":
        settings["device"] = "auto"  # the CPU for engines that run on no GPU
    engine = open_engine(options["network"], name, noise=noise_mode, **settings)
    click.echo(f"engine {engine.name}, {engine.precision}{engine.reason and f': {engine.reason}'}", err=True)
    options["device"] = str(engine.device)
    return engine


@command.command()
@_network_options
@click.option("--seeds", required=True, help="Numbers and ranges, such as 0-63,100.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the images.")
@click.option("--grid", is_flag=True, help="One grid.png instead of single files.")
@click.option(
    "--noise-mode", type=click.Choice(["const", "random", "none"]), default="const", show_default=True
)
@click.option("--engine", help="Run on this engine: one of those that pyface doctor lists, or auto.")
def images(seeds: str, out: Path, grid: bool, noise_mode: str, engine: str | None, **options: Any) -> None:
    """One image for each seed: z is numpy.random.RandomState(seed).randn(1, z_dim)."""
    from pyface.generation.images import images_of_seeds, parse_numbers, write_images

    numbers = parse_numbers(seeds)
    generator, c, _ = _open(options)
    if engine is not None:
        generator = _on_engine(engine, noise_mode, options)
    drawn = images_of_seeds(
        generator,
        numbers,
        c,
        truncation_psi=options["truncation_psi"],
        noise_mode=noise_mode,
        batch=options["batch"],
        device=options["device"],
        precision=options["precision"],
    )
    written = write_images(out, drawn, grid=grid)
    click.echo(f"{len(written)} file{'s' if len(written) != 1 else ''} in {out}")


@command.command()
@_network_options
@click.option("--seeds", required=True, help="Two or more: the walk goes from each to the next and back.")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="A .mp4, .webp, .gif or .apng file."
)
@click.option("--frames", type=int, default=60, show_default=True, help="Frames from one seed to the next.")
@click.option("--fps", type=int, default=30, show_default=True)
def video(seeds: str, out: Path, frames: int, fps: int, **options: Any) -> None:
    """A smooth walk through the latent space."""
    from pyface.generation.images import parse_numbers
    from pyface.generation.video import interpolated_frames, write_video
    from pyface.io.atomic import make_folder

    if not 1 <= fps <= 240:
        raise ValueRangeError(f"--fps must be from 1 to 240; got {fps}.")
    numbers = parse_numbers(seeds)
    generator, c, _ = _open(options)
    drawn = interpolated_frames(
        generator,
        numbers,
        frames,
        c,
        truncation_psi=options["truncation_psi"],
        batch=options["batch"],
        device=options["device"],
        precision=options["precision"],
    )
    make_folder(out.parent)
    write_video(out, drawn, fps)
    click.echo(f"{frames * len(numbers)} frames in {out}")


@command.command("style-mixing")
@_network_options
@click.option("--rows", required=True, help="Seeds of the faces, down the left.")
@click.option("--cols", required=True, help="Seeds of the styles, along the top.")
@click.option("--styles", default="0-3", show_default=True, help="Layers that the columns decide.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A .png, .jpg or .webp file.")
@click.option("--noise-mode", type=click.Choice(["const", "none"]), default="const", show_default=True)
def style_mixing(rows: str, cols: str, styles: str, out: Path, noise_mode: str, **options: Any) -> None:
    """A sheet of faces in which the columns decide some of the layers."""
    from pyface.generation.images import parse_numbers
    from pyface.generation.mixing import style_mixing_sheet
    from pyface.io.atomic import make_folder
    from pyface.io.images import write_image

    row_seeds, column_seeds = parse_numbers(rows, "--rows"), parse_numbers(cols, "--cols")
    layers = parse_numbers(styles, "--styles", largest=1000)
    generator, c, _ = _open(options)
    sheet = style_mixing_sheet(
        generator,
        row_seeds,
        column_seeds,
        layers,
        c,
        truncation_psi=options["truncation_psi"],
        noise_mode=noise_mode,
        batch=options["batch"],
        device=options["device"],
        precision=options["precision"],
    )
    make_folder(out.parent)
    write_image(out, sheet)
    click.echo(f"{len(row_seeds)} x {len(column_seeds)} mixtures in {out}")
