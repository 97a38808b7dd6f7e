"""Run by test_resume: trains a tiny StyleGAN2 to a number of steps, going on from what the folder holds."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from pyface.training import TrainingSet
from pyface.training.checkpoint import Snapshots, newest_state, restore_state, save_state
from pyface.training.collapse import DiversityWatch
from pyface.training.recipes.stylegan2 import StyleGAN2Recipe, StyleGAN2Run, build
from pyface.training.statistics import Statistics

RECIPE = StyleGAN2Recipe(
    resolution=(16, 16),
    batch=4,
    channel_base=128,
    channel_max=16,
    z_dim=8,
    w_dim=8,
    mapping_layers=2,
    r1_interval=3,
    path_length_interval=2,
    mbstd_group=2,
    mirror=True,
    conditions=("a", "b"),
    augment="ada",
    augment_p=0.3,
    ada_kimg=1.0,
)


def make_run() -> StyleGAN2Run:
    """A run on noise, with two micro-batches in each step."""
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (10, 3, 16, 16), dtype=torch.uint8, generator=rng)
    return build(
        RECIPE, TrainingSet.from_arrays(pixels, torch.rand(10, 2, generator=rng), ["a", "b"]), rounds=2
    )


def main(folder: Path, steps: int) -> None:
    """Train to `steps`, with a resume file after every second step, and write `final.pt`."""
    torch.set_num_threads(1)
    run = make_run()
    statistics = Statistics(folder, 3 * RECIPE.batch)
    statistics.sources.append(DiversityWatch(run.generator, run.trainer.feed, lambda *_: None))
    run.trainer.callbacks.append(statistics)
    run.trainer.callbacks.append(
        Snapshots(folder, run.average.average, 2 * RECIPE.batch, RECIPE.plain(), {"data": "noise"})
    )
    found = newest_state(folder)
    if found:
        restore_state(run.trainer, found[1])
    print(f"begins at step {run.trainer.step_number}", flush=True)
    run.trainer.run(steps * RECIPE.batch)
    save_state(folder / "final.pt", run.trainer, RECIPE.plain())


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
