"""`pyface evaluate`: a generator's images compared with real ones."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import click

from pyface import __version__
from pyface.errors import ValueRangeError


@click.command()
@click.argument("network")
@click.option(
    "--data",
    required=True,
    help="Training images: folder, zip, LAYOUT[:crop=...,size=N]:PATH or procedural:PEOPLExSAMPLES@SIZE.",
)
@click.option("--held-out", help="Images the network never saw.  [default: see below]")
@click.option("--images", type=int, default=2000, show_default=True, help="In each set that is compared.")
@click.option("--truncation-psi", "--trunc", type=float, default=1.0, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the generated images.")
@click.option("--data-seed", type=int, default=0, show_default=True, help="Of rendered --data.")
@click.option("--held-out-seed", type=int, default=1, show_default=True, help="Of rendered held-out people.")
@click.option(
    "--conditions-from",
    type=click.Choice(["data", "network"]),
    default="data",
    show_default=True,
    help="Whose conditions a conditional network is asked for: those of --data, or of its own training.",
)
@click.option("--neighbours", type=int, default=3, show_default=True, help="k of precision and recall.")
@click.option("--extractor", default="recognition-64", show_default=True, help="A recognition network.")
@click.option("--out", type=click.Path(path_type=Path), help="A .json file for everything that was found.")
@click.option(
    "--sheet", type=click.Path(path_type=Path), help="Picture of faces and nearest training images."
)
@click.option("--sheet-images", type=int, default=24, show_default=True, help="Faces on the sheet.")
@click.option("--batch", type=int, default=32, show_default=True, help="Images drawn at a time.")
@click.option("--threads", type=int, help="CPU threads.  [default: torch's choice]")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, or auto.")
def command(network: str, data: str, **options: Any) -> None:
    """Compare images of NETWORK with real ones, by features of the network that ships with pyface.

    Prints the Frechet distance of generated to held-out images (not FID: the features are other ones), the
    same between held-out and other real images, their ratio, and improved precision and recall. With --sheet
    it also looks for the nearest training images of every face.

    Held out are, without --held-out, other rendered people when --data is procedural, else one half of the
    people of --data.
    """
    import torch

    from pyface.cli.train import device_named
    from pyface.generation.evaluation import condition_choices, real_sets
    from pyface.generation.network import load_network
    from pyface.metrics import FaceFeatures

    _check(options)
    if options["threads"]:
        torch.set_num_threads(options["threads"])
    options["device"] = device_named(options["device"])
    generator = load_network(network, options["device"])
    extractor = FaceFeatures(options["extractor"], device=options["device"])
    reals = real_sets(
        data,
        options["images"],
        held_out=options["held_out"],
        seed=options["data_seed"],
        held_out_seed=options["held_out_seed"],
    )
    choices = condition_choices(network, generator.c_dim, reals.training, options["conditions_from"])
    report = _report(network, data, options, reals.how)
    report |= _evaluated(generator, extractor, reals, choices, options)
    _say(report)
    if options["out"]:
        from pyface.io.atomic import make_folder, write_text

        make_folder(options["out"].parent)
        write_text(options["out"], json.dumps(report, indent=1) + "\n")


def _check(options: dict[str, Any]) -> None:
    """Raise ValueRangeError for what would fail only after minutes of work."""
    from pyface.io.images import WRITTEN_SUFFIXES

    for name in ("images", "sheet_images", "batch", "neighbours"):
        if options[name] < 1:
            raise ValueRangeError(f"--{name.replace('_', '-')} must be 1 or more; got {options[name]}.")
    if options["threads"] is not None and options["threads"] < 1:
        raise ValueRangeError(f"--threads must be 1 or more; got {options['threads']}.")
    if not math.isfinite(options["truncation_psi"]):
        raise ValueRangeError(f"--truncation-psi must be a number; got {options['truncation_psi']}.")
    for name, suffixes in (("out", (".json",)), ("sheet", WRITTEN_SUFFIXES)):
        path = options[name]
        if path is not None and path.suffix.lower() not in suffixes:
            raise ValueRangeError(f"--{name} must end in {' or '.join(suffixes)}; got {path}.")


def _report(network: str, data: str, options: dict[str, Any], how: str) -> dict[str, Any]:
    """Everything that the numbers depend on."""
    import torch

    from pyface.generation.network import sha256_of, training_facts

    kept = ("truncation_psi", "seed", "data_seed", "held_out_seed", "conditions_from")
    return {
        "pyface": __version__,
        "torch": torch.__version__,
        "network": network,
        "sha256": sha256_of(network),
        "kimg": training_facts(network).get("kimg"),
        "data": data,
        "held_out": how,
        "noise_mode": "const",
        **{name: options[name] for name in kept},
    }


def _evaluated(
    generator: Any, extractor: Any, reals: Any, choices: Any, options: dict[str, Any]
) -> dict[str, Any]:
    from tqdm import tqdm

    from pyface.generation.evaluation import GeneratedImages, NearestTraining, image_batches, training_sheet
    from pyface.io.atomic import make_folder
    from pyface.io.images import write_image
    from pyface.metrics import RealImages, features_of

    def bar(name: str) -> Any:
        return lambda chunks: tqdm(chunks, desc=name, leave=False, disable=not sys.stderr.isatty())

    size = generator.resolution
    real = RealImages(
        extractor,
        image_batches(reals.held_out, size, bar("held-out images")),
        image_batches(reals.others, size, bar("other images")),
        options["neighbours"],
    )
    images = GeneratedImages(
        generator,
        options["images"],
        choices,
        truncation_psi=options["truncation_psi"],
        seed=options["seed"],
        batch=options["batch"],
        device=options["device"],
    )
    features = features_of(extractor, bar("generated images")(images))
    found: dict[str, Any] = {"comparison": real.compare_features(features).to_dict()}
    if options["sheet"]:
        shown = min(options["sheet_images"], options["images"])
        training = image_batches(reals.training, size, bar("training images"))
        near = NearestTraining.search(extractor, features, real.held_out, training, shown)
        make_folder(options["sheet"].parent)
        write_image(
            options["sheet"], training_sheet(images.draw(0, shown), reals.training, near.indices, size)
        )
        found["nearest_training"] = {
            "training_images": len(reals.training),
            "generated": near.generated,
            "held_out": near.held_out,
            "ratio": near.ratio,
        }
    return found


def _say(report: dict[str, Any]) -> None:
    """The figures, one a line."""
    found = report["comparison"]
    click.echo(f"{found['images']} images in each set; {report['held_out']}; extractor {found['extractor']}")
    click.echo(f"Frechet distance   {found['frechet']:.3f} = {found['ratio']:.2f} x real to real")
    click.echo(f"real to real       {found['real_to_real']:.3f}")
    click.echo(f"precision          {found['precision']:.3f}  (real images {found['real_precision']:.3f})")
    click.echo(f"recall             {found['recall']:.3f}  (real images {found['real_recall']:.3f})")
    if near := report.get("nearest_training"):
        click.echo(
            f"nearest training   {near['generated']:.2f} from generated images, {near['held_out']:.2f} from "
            f"held-out ones (medians; {near['training_images']} training images)"
        )
