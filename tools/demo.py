"""What `make demo` runs: render faces, train a generator for a minute, generate a labelled dataset."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import click
import numpy as np

import pyface
from pyface.cli.train import train_and_save
from pyface.data import ImageFolder
from pyface.generation.dataset import write_dataset
from pyface.generation.network import training_facts
from pyface.io.atomic import make_folder
from pyface.io.images import contact_sheet
from pyface.models import find_checkpoint
from pyface.training import TrainingSet
from pyface.training.recipes.stylegan2 import StyleGAN2Recipe
from pyface.training.source import open_training_set

IDENTITIES, SAMPLES, SEED = 300, 4, 2026
# Small steps and a slow average: the shipped generator is finished, the demo shows how training goes on.
FINE_TUNING = {
    "kimg": 100.0,
    "lr_generator": 0.0005,
    "lr_discriminator": 0.0005,
    "ema_kimg": 2.0,
    "ema_rampup": 0.0,
}


def recipe_of_demo() -> StyleGAN2Recipe:
    """The recipe that the shipped generator was made with, set for a short fine-tuning."""
    made_with = training_facts("demo")["recipe"]
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in made_with.items()}
    precision = "bfloat16" if has_fast_bfloat16() else "float32"
    return StyleGAN2Recipe(**{**values, **FINE_TUNING, "precision": precision})


def has_fast_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 matrices in hardware."""
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False


def render(out: Path, size: int) -> TrainingSet:
    """Training faces nobody has seen, and a sheet of them."""
    started = time.monotonic()
    data = open_training_set(f"procedural:{IDENTITIES}x{SAMPLES}@{size}", seed=SEED)
    rate = len(data) / (time.monotonic() - started)
    click.echo(f"1. rendered {len(data)} training faces at {size} px ({rate:.0f} per second)")
    pixels = data.get(np.arange(0, len(data), SAMPLES)[:96])["vis"]
    contact_sheet(
        [image.permute(1, 2, 0).numpy() for image in pixels], columns=12, path=out / "training-faces.png"
    )
    return data


def generate(out: Path, network: Path, count: int) -> None:
    """A dataset of `count` faces with their conditions, and a contact sheet of it."""
    started = time.monotonic()
    written = write_dataset(
        out / "dataset", network, count=count, seed=SEED, truncation_psi=0.8, storage="folder", image="png"
    )
    rate = count / (time.monotonic() - started)
    names = written.recipe.conditions
    click.echo(f"3. generated {count} faces with {len(names)} conditions each ({rate:.0f} per second)")
    dataset = ImageFolder(out / "dataset")
    labels = dataset.labels(names)
    shown = range(min(64, count))
    short = [",".join(n[:4] for n, v in zip(names, labels[i], strict=True) if v >= 0.5) or "-" for i in shown]
    contact_sheet(
        list(dataset.images(shown)),
        columns=16,
        captions=[s[:10] for s in short],
        path=out / "generated-faces.png",
    )


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/demo"), show_default=True)
@click.option("--seconds", type=float, default=60.0, show_default=True, help="Of fine-tuning.")
@click.option("--count", type=int, default=256, show_default=True, help="Images to generate.")
def main(out: Path, seconds: float, count: int) -> None:
    """Render, fine-tune, generate, and say where to look."""
    out = make_folder(out)
    for earlier in ("training", "dataset"):
        shutil.rmtree(out / earlier, ignore_errors=True)
    recipe = recipe_of_demo()
    click.echo(f"pyface {pyface.__version__}, ops on {pyface.backend()}, {os.cpu_count()} CPUs")
    data = render(out, recipe.resolution[0])
    click.echo(f"2. fine-tuning the shipped generator for {seconds:g} s in {recipe.precision}")
    training = make_folder(out / "training")
    critic = find_checkpoint("critic")
    train_and_save(
        recipe, data, training, start_from=find_checkpoint("demo"), discriminator=critic, minutes=seconds / 60
    )
    snapshot = sorted(training.glob("snapshot-*.safetensors"))[-1]
    generate(out, snapshot, count)
    click.echo(f"""
Look at
  {out}/training-faces.png    what the generator learns from
  {out}/training/fakes-*.png  its samples before and after the minute
  {out}/generated-faces.png   faces of the new dataset with their conditions
  {out}/dataset/              {count} images, labels.jsonl, dataset.json, manifest.json""")


if __name__ == "__main__":
    main()
