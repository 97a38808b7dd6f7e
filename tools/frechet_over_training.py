"""Measure every snapshot of a run against held-out images: does it fall from one to the next?

    python tools/frechet_over_training.py out/run --data procedural:24000x1@64

Writes frechet.json and frechet.md into the run's folder (or --out): Frechet distance to held-out images and
as a multiple of real to real, precision and recall of each snapshot-*.safetensors, with the processor time of
the run where stats.jsonl tells it, and whether the distance fell monotonically. The same images of the same
latents and conditions are drawn of every snapshot. Exit status 1 with --require-fall when it did not fall.
"""

from __future__ import annotations

import itertools
import json
import platform
import sys
from pathlib import Path
from typing import Any

import click
import torch
from tqdm import tqdm

import pyface
from pyface.errors import DataError, PyfaceError
from pyface.generation.evaluation import (
    GeneratedImages,
    NearestTraining,
    condition_choices,
    image_batches,
    real_sets,
    training_sheet,
)
from pyface.generation.network import load_network, sha256_of, training_facts
from pyface.io.atomic import make_folder, write_text
from pyface.io.images import write_image
from pyface.metrics import FaceFeatures, RealImages, features_of
from pyface.training.statistics import FILE, read_records

SHEET_IMAGES = 24


def snapshots_of(run: Path) -> list[Path]:
    """The snapshots of a run, oldest first."""
    found = sorted(run.glob("snapshot-*.safetensors"), key=lambda path: (len(path.name), path.name))
    if not found:
        raise DataError(f"{run} holds no snapshot-*.safetensors; name the folder of a training run.")
    return found


def cpu_minutes(run: Path, kimg: float | None) -> float | None:
    """Processor time that the run had taken by then; None where no record tells it."""
    records = [r for r in read_records(run / FILE) if kimg is not None and r.get("kimg", 0) <= kimg + 1e-6]
    seconds = records[-1].get("cpu_seconds") if records else None
    return None if seconds is None else float(seconds) / 60


def falls(values: list[float]) -> bool:
    """Whether every value is below the one before."""
    return all(later < earlier for earlier, later in itertools.pairwise(values))


def bar(name: str) -> Any:
    """A progress bar around batches, on a terminal."""
    return lambda batches: tqdm(batches, desc=name, leave=False, disable=None)


def measure(run: Path, data: str, options: dict[str, Any]) -> dict[str, Any]:
    """The report: one row for each snapshot."""
    paths = snapshots_of(run)
    first = load_network(paths[0])
    size, images = first.resolution, options["images"]
    sets = real_sets(
        data,
        images,
        held_out=options["held_out"],
        seed=options["data_seed"],
        held_out_seed=options["held_out_seed"],
    )
    choices = condition_choices(paths[0], first.c_dim, sets.training, options["conditions_from"])
    extractor = FaceFeatures(options["extractor"])
    real = RealImages(
        extractor,
        image_batches(sets.held_out, size, bar("held-out images")),
        image_batches(sets.others, size, bar("other images")),
    )
    rows: list[dict[str, Any]] = []
    for path in paths:
        made = GeneratedImages(load_network(path), images, choices)
        features = features_of(extractor, bar(path.name)(made))
        kimg = training_facts(path).get("kimg")
        row = {"snapshot": path.name, "sha256": sha256_of(path), "kimg": kimg}
        row |= {"cpu_minutes": cpu_minutes(run, kimg), **real.compare_features(features).to_dict()}
        rows.append(row)
        click.echo(
            f"{path.name}: {row['ratio']:.2f} x real to real, precision {row['precision']:.3f}, "
            f"recall {row['recall']:.3f}"
        )
    report = {
        "pyface": pyface.__version__,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "data": data,
        "held_out": sets.how,
        "extractor": extractor.fingerprint,
        "real_to_real": real.real_to_real,
        "real_precision": real.real_precision,
        "real_recall": real.real_recall,
        "falls_monotonically": falls([row["frechet"] for row in rows]),
        "snapshots": rows,
    }
    if options["sheet"]:
        training = image_batches(sets.training, size, bar("training images"))
        near = NearestTraining.search(extractor, features, real.held_out, training, SHEET_IMAGES)
        pixels = training_sheet(made.draw(0, SHEET_IMAGES), sets.training, near.indices, size)
        write_image(options["sheet"], pixels)
        report["nearest_training"] = {
            "generated": near.generated,
            "held_out": near.held_out,
            "ratio": near.ratio,
            "training_images": len(sets.training),
        }
    return report


def as_markdown(report: dict[str, Any]) -> str:
    """The report as a table."""
    rows = report["snapshots"]
    lines = [
        "| kimg | CPU minutes | Frechet distance | x real to real | precision | recall |",
        "|--|--|--|--|--|--|",
    ]
    for row in rows:
        kimg = "?" if row["kimg"] is None else f"{row['kimg']:g}"
        minutes = "?" if row["cpu_minutes"] is None else f"{row['cpu_minutes']:.1f}"
        figures = f"{row['frechet']:.2f} | {row['ratio']:.2f} | {row['precision']:.3f} | {row['recall']:.3f}"
        lines.append(f"| {kimg} | {minutes} | {figures} |")
    lines.append(
        f"| real images | | {report['real_to_real']:.2f} | 1.00 | {report['real_precision']:.3f} | "
        f"{report['real_recall']:.3f} |"
    )
    verdict = (
        "falls from each snapshot to the next" if report["falls_monotonically"] else "does not always fall"
    )
    return f"""{chr(10).join(lines)}

The distance {verdict}. {rows[0]["images"]} images in each set; data {report["data"]}; {report["held_out"]};
features of extractor `{report["extractor"]}`. Not FID: the features are those of pyface's own network.
"""


@click.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--data", required=True, help="What it was trained on: folder, zip or procedural:...")
@click.option("--held-out", help="Images that it never saw; as in pyface evaluate.")
@click.option("--images", type=int, default=2000, show_default=True)
@click.option("--data-seed", type=int, default=0, show_default=True)
@click.option("--held-out-seed", type=int, default=1, show_default=True)
@click.option("--conditions-from", type=click.Choice(["data", "network"]), default="data", show_default=True)
@click.option("--extractor", default="recognition-64", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the two files.  [default: RUN]")
@click.option(
    "--sheet", type=click.Path(path_type=Path), help="Nearest training images of the last snapshot."
)
@click.option("--threads", type=int, default=1, show_default=True)
@click.option("--require-fall", is_flag=True, help="Exit status 1 unless the distance falls monotonically.")
def main(run: Path, data: str, out: Path | None, threads: int, require_fall: bool, **options: Any) -> None:
    """Measure every snapshot of RUN."""
    torch.set_num_threads(threads)
    folder = make_folder(out or run)
    try:
        report = measure(run, data, options)
    except PyfaceError as error:
        raise click.ClickException(str(error)) from error
    write_text(folder / "frechet.json", json.dumps(report, indent=1) + "\n")
    text = as_markdown(report)
    write_text(folder / "frechet.md", text)
    click.echo(text)
    if require_fall and not report["falls_monotonically"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
