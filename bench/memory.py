"""Measures the peak memory of training steps and sets it beside what `pyface plan` predicts.

`python bench/memory.py [--out bench/results] [--only TEXT]` writes <out>/<device>/memory.json. Every
configuration trains two steps, with every phase in each, in a process of its own on the CPU; its high-water
mark counts.
"""

from __future__ import annotations

import argparse
import json
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pyface.benchmark.machine import device_slug, machine_facts
from pyface.io.atomic import make_folder, write_text
from pyface.training.configuration import plain
from pyface.training.measuring import measure_peak
from pyface.training.plan import plan
from pyface.training.recipes.stylegan2 import StyleGAN2Recipe
from pyface.training.remedies import text_of_bytes

BENCH = Path(__file__).resolve().parent
# resolution, batch, samples at a time, precision, path length, channel_base
CONFIGURATIONS = (
    (128, 4, 4, "float32", True, 8192),
    (256, 4, 4, "bfloat16", True, 4096),
    (64, 16, 16, "bfloat16", True, 8192),
    (64, 8, 8, "float32", False, 8192),
    (256, 8, 4, "bfloat16", True, 4096),
    (64, 4, 4, "float32", True, 8192),
    (128, 8, 8, "bfloat16", True, 8192),
    (64, 16, 4, "bfloat16", True, 8192),
    (128, 16, 16, "bfloat16", False, 4096),
    (256, 8, 8, "bfloat16", True, 8192),
    (256, 4, 4, "float32", True, 4096),
    (256, 16, 16, "bfloat16", True, 16384),
)


def cases() -> dict[str, tuple[StyleGAN2Recipe, int]]:
    """{name: (recipe, samples at a time)}."""
    found = {}
    for side, batch, at_a_time, precision, paths, base in CONFIGURATIONS:
        name = f"{side} px, batch {batch}, {at_a_time} at a time, {precision}, channel_base {base}"
        recipe = StyleGAN2Recipe(
            resolution=(side, side),
            batch=batch,
            precision=precision,
            channel_base=base,
            path_length_interval=4 if paths else 0,
        )
        found[name if paths else f"{name}, without path length"] = recipe, at_a_time
    return found


def compare(name: str, recipe: StyleGAN2Recipe, at_a_time: int, steps: int, threads: int) -> dict[str, Any]:
    """One configuration: the plan, the measurement, and their ratios."""
    planned = plan(recipe, at_a_time)
    measured = measure_peak(recipe, rounds=recipe.batch // at_a_time, steps=steps, threads=threads)
    return {
        "name": name,
        "settings": plain(recipe),
        "predicted": planned.to_dict(),
        "measured": {**asdict(measured), "training": measured.training},
        "predicted_over_measured": round(planned.peak / measured.peak, 4),
        "beyond_imports": round((planned.peak - measured.imported) / measured.training, 4),
    }


def line(case: dict[str, Any]) -> str:
    """A case for people."""
    return (
        f"{case['name']}: predicted {text_of_bytes(case['predicted']['peak'])}, measured "
        f"{text_of_bytes(case['measured']['peak'])}, ratio {case['predicted_over_measured']:.3f} "
        f"({case['beyond_imports']:.3f} beyond the imports)"
    )


def main() -> int:
    """Measure, print and write; the exit status is 1 when a prediction is off by more than a fifth."""
    parser = argparse.ArgumentParser(description="Compare predicted with measured peak memory.")
    parser.add_argument("--out", type=Path, default=BENCH / "results", help="folder of results")
    parser.add_argument("--only", default="", help="configurations whose name has this text in it")
    parser.add_argument("--steps", type=int, default=2, help="training steps of each configuration")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the training")
    options = parser.parse_args()
    torch.set_num_threads(1)
    facts = machine_facts("cpu", options.threads)
    path = options.out / device_slug(facts) / "memory.json"
    make_folder(path.parent)
    made: list[dict[str, Any]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, (recipe, at_a_time) in cases().items():
            if options.only not in name:
                continue
            made.append(compare(name, recipe, at_a_time, options.steps, options.threads))
            print(line(made[-1]), flush=True)
            document = {"kind": "pyface-memory", "format": 1, "machine": facts, "cases": made}
            write_text(path, json.dumps(document, indent=1) + "\n")
    print(f"wrote {path}")
    return 0 if all(abs(case["beyond_imports"] - 1) <= 0.2 for case in made) else 1


if __name__ == "__main__":
    raise SystemExit(main())
