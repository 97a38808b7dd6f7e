"""Trains one recipe in float32 and in bfloat16 from the same seed and writes both loss curves as JSON.

`python bench/precision_curves.py [--steps 400] [--batch 8] [--out FILE]`: rendered faces at 64 px, small
channels, a few minutes on one thread. Both runs see the same images and the same random numbers in the same
order. Beside the losses the file has CPU-s per step, and every so often the mean and largest difference of
the two running averages' images from the same latents.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyface.benchmark.machine import device_slug, machine_facts
from pyface.io.atomic import make_folder, write_text
from pyface.training.feed import TrainingSet
from pyface.training.recipes.stylegan2 import StyleGAN2Recipe, StyleGAN2Run, build

BENCH = Path(__file__).resolve().parent
PRECISIONS = ("float32", "bfloat16")
SIDE = 64


def faces(count: int) -> TrainingSet:
    """Rendered faces, uint8 [count, 3, 64, 64]."""
    from pyface.data.procedural import face_parameters_for
    from pyface.ops.face_render import face_render

    parameters = torch.from_numpy(face_parameters_for(0, np.arange(count), 0))
    images = face_render(parameters, SIDE, ("vis",))["vis"].permute(0, 3, 1, 2).contiguous()
    return TrainingSet.from_arrays(images, source="rendered faces")


def pictures(run: StyleGAN2Run, z: Tensor) -> Tensor:
    """What the running average makes of z, float32 [N, 3, 64, 64]."""
    with torch.inference_mode():
        images: Tensor = run.average.average(z, noise_mode="const")
    return images


def train(steps: int, batch: int, every: int) -> dict[str, Any]:
    """Both runs, step by step side by side: their curves, times and differences."""
    data = faces(1024)
    settings: dict[str, Any] = {
        "resolution": (SIDE, SIDE), "batch": batch, "channel_base": 2048, "channel_max": 128, "z_dim": 128,
        "w_dim": 128, "mapping_layers": 4, "ema_kimg": 0.5, "kimg": steps * batch / 1000,
    }  # fmt: skip
    recipes = {name: StyleGAN2Recipe(precision=name, **settings) for name in PRECISIONS}
    runs = {name: build(recipe, data) for name, recipe in recipes.items()}
    curves: dict[str, dict[str, list[Any]]] = {name: {} for name in PRECISIONS}
    seconds = dict.fromkeys(PRECISIONS, 0.0)
    differences: list[dict[str, float]] = []
    z = torch.randn(16, 128, generator=torch.Generator().manual_seed(1))
    for step in range(steps):
        for name, run in runs.items():
            begun = time.thread_time()
            losses = run.trainer.step()
            seconds[name] += time.thread_time() - begun
            for term, value in losses.items():
                curves[name].setdefault(term, []).append([step, float(f"{value:.6g}")])
        if (step + 1) % every == 0:
            full, half = (pictures(runs[name], z) for name in PRECISIONS)
            difference = (full - half).abs()
            differences.append(
                {
                    "step": step + 1,
                    "mean": float(f"{float(difference.mean()):.4g}"),
                    "largest": float(f"{float(difference.max()):.4g}"),
                    "spread_of_images": float(f"{float(full.std(0).mean()):.4g}"),
                }
            )
            print(
                f"step {step + 1}: " + ", ".join(f"{n} {s:.0f} CPU-s" for n, s in seconds.items()), flush=True
            )
    return {
        "kind": "pyface-precision-curves",
        "format": 1,
        "machine": machine_facts("cpu", torch.get_num_threads()),
        "recipe": {**recipes["float32"].plain(), "precision": list(PRECISIONS)},
        "steps": steps,
        "cpu_s_per_step": {name: float(f"{total / steps:.4g}") for name, total in seconds.items()},
        "curves": curves,
        "image_differences": differences,
        "summary": summary(curves, steps),
    }


def summary(curves: dict[str, dict[str, list[Any]]], steps: int) -> dict[str, dict[str, float]]:
    """Mean of every loss over the last quarter of the run, for each precision."""
    found: dict[str, dict[str, float]] = {}
    for name, terms in curves.items():
        found[name] = {
            term: float(f"{np.mean([v for step, v in series if step >= steps * 3 // 4]):.4g}")
            for term, series in terms.items()
            if any(step >= steps * 3 // 4 for step, _ in series)
        }
    return found


def main() -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(description="Loss curves in float32 and bfloat16, as JSON.")
    parser.add_argument("--steps", type=int, default=400, help="training steps of each run (400)")
    parser.add_argument("--batch", type=int, default=8, help="images per step (8)")
    parser.add_argument("--every", type=int, default=50, help="steps between comparisons of images (50)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (1)")
    parser.add_argument(
        "--out", type=Path, help="JSON file; bench/results/<device>/precision.json if left out"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    document = train(options.steps, options.batch, options.every)
    out = options.out or BENCH / "results" / device_slug(document["machine"]) / "precision.json"
    make_folder(out.parent)
    write_text(out, json.dumps(document, indent=1) + "\n")
    print(json.dumps(document["summary"], indent=1))
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
