"""Make the recognition network that ships with pyface: render, train, check, write the file and its card.

    python tools/make_recognition.py

Every stage leaves its result in --work and is skipped when that is there; an interrupted training goes on
where it was. The stages:

render  people to learn from, and other people to check with
train   the recipe of pyface.training.recipes.recognition
finish  the file in pyface/models/assets and the model card, with the checks that it quotes
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import pyface
from pyface.errors import DataError
from pyface.io.atomic import atomic_write, make_folder, write_text
from pyface.io.checkpoint import save_model
from pyface.io.images import to_uint8
from pyface.metrics import (
    FaceFeatures,
    FeatureStatistics,
    Verification,
    frechet_between,
    pair_scores,
    verification,
)
from pyface.training import TrainingSet
from pyface.training.checkpoint import load_state, restore_state, save_state
from pyface.training.degradations import DEGRADATIONS, WARP_GRID, degraded
from pyface.training.feed import to_float
from pyface.training.recipes.recognition import (
    RecognitionRecipe,
    RecognitionRun,
    build,
    described_faces,
    train,
)

ROOT = Path(__file__).resolve().parent.parent
ASSETS = ROOT / "pyface" / "models" / "assets"
CARDS = ROOT / "docs" / "model-cards"
NAME = "recognition-64"
SIZE = 64
TRAIN_SEED, CHECK_SEED = 2, 3
CHECK_PEOPLE, SAMPLES = 500, 8
COMPARED = 1000  # pictures in each set of a distance
LARGEST_FILE = 2_000_000
SAVE_EVERY = 100  # steps
STRENGTHS = (0.0, 0.125, 0.25, 0.5, 1.0)
READINGS = ("yaw", "pitch", "glasses", "au12", "au26", "age", "sex", "melanin", "hair_length", "beard",
            "jaw_width", "nose_width", "eye_distance", "key_azimuth", "background_r")  # fmt: skip
RATES = (1e-2, 1e-3, 1e-4)


def people(work: Path, name: str, identities: int, seed: int) -> TrainingSet:
    """Rendered people with their descriptions, from the cache in `work` when they are there."""
    path = work / f"{name}.npz"
    source = f"procedural:{identities}x{SAMPLES}@{SIZE}, seed {seed}"
    if not path.exists():
        click.echo(f"rendering {identities * SAMPLES} faces for {name}")
        started = time.process_time()
        data = described_faces(identities, SAMPLES, SIZE, seed, lambda chunks: tqdm(chunks, disable=None))
        if data.images is None:
            raise DataError("the faces were not kept in memory")
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                vis=data.images["vis"].numpy(),
                labels=data.labels.numpy(),
                names=np.array(data.label_names),
                source=np.array(source),
            )
        add_cost(work, f"render {name}", time.process_time() - started)
    with np.load(path, allow_pickle=False) as file:
        if str(file["source"]) != source:
            raise DataError(f"{path} holds {file['source']}, not {source}; remove it or change --work")
        pixels, labels = torch.from_numpy(file["vis"]), torch.from_numpy(file["labels"])
        return TrainingSet.from_arrays(pixels, labels, [str(name) for name in file["names"]], source)


def add_cost(work: Path, what: str, seconds: float) -> dict[str, float]:
    """Add CPU seconds to the account of this network; returns the account."""
    path = work / "cpu-seconds.json"
    account: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    account[what] = round(account.get(what, 0.0) + seconds, 1)
    write_text(path, json.dumps(account, indent=1) + "\n")
    return account


def trained(work: Path, recipe: RecognitionRecipe, data: TrainingSet) -> RecognitionRun:
    """The run at its end, going on from what was saved in `work`."""
    run = build(recipe, data)
    path = work / "training.pt"
    if path.exists():
        state = load_state(path)
        if state["recipe"] != recipe.plain():
            raise DataError(f"{path} belongs to another recipe; remove it or change --work")
        restore_state(run.trainer, state)
    steps = run.images // recipe.batch
    started, means = time.process_time(), {}
    with tqdm(total=steps, initial=run.trainer.step_number, unit="step", disable=None) as bar:
        for losses in train(run, recipe):
            bar.update()
            means = {name: means.get(name, value) * 0.98 + value * 0.02 for name, value in losses.items()}
            if run.trainer.step_number % SAVE_EVERY == 0 or run.trainer.step_number == steps:
                save_state(path, run.trainer, recipe.plain())
                cost = add_cost(work, "train", time.process_time() - started)
                started = time.process_time()
                shown = ", ".join(f"{name} {value:.3f}" for name, value in means.items())
                click.echo(f"step {run.trainer.step_number}/{steps}: {shown}; {cost['train']:.0f} CPU s")
    return run


def told_apart(features: FaceFeatures, data: TrainingSet) -> dict[str, Verification]:
    """Verification of people that the network has not seen: all pairs, and by who wears glasses."""
    found = features(data.images["vis"])  # type: ignore[index]
    with torch.inference_mode():
        embeddings = features.network.embedding_of(found)
    who = data.labels[:, 0].numpy()
    wears = data.labels[:, data.label_names.index("glasses")].numpy() > 0
    masks = {
        "all": None,
        "both without glasses": ~wears[:, None] & ~wears[None],
        "both with glasses": wears[:, None] & wears[None],
        "one with, one without": wears[:, None] != wears[None],
    }
    return {name: verification(*pair_scores(embeddings, who, mask), RATES) for name, mask in masks.items()}


def sensitivity(features: FaceFeatures, data: TrainingSet) -> dict[str, list[float]]:
    """Distance of degraded renders to other renders over that of untouched ones, for STRENGTHS."""
    pixels = data.images["vis"]  # type: ignore[index]
    half = len(pixels) // 2
    reference = FeatureStatistics.of(features(pixels[:half][:COMPARED]), features.fingerprint)
    clean = to_float(pixels[half:][:COMPARED])
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(clean.shape, generator=rng)
    bends = torch.randn(len(clean), 2, WARP_GRID, WARP_GRID, generator=rng)
    found: dict[str, list[float]] = {}
    for column, name in enumerate(DEGRADATIONS):
        distances = []
        for strength in STRENGTHS:
            strengths = torch.zeros(len(clean), len(DEGRADATIONS))
            strengths[:, column] = strength
            images = rounded(degraded(clean, strengths, noise, bends))
            statistics = FeatureStatistics.of(features(images), features.fingerprint)
            distances.append(frechet_between(reference, statistics))
        found[name] = [distance / distances[0] for distance in distances]
    return found


def rounded(images: Tensor) -> Tensor:
    """uint8 [N, C, H, W] of images in [-1, 1]."""
    return torch.from_numpy(to_uint8(images)).permute(0, 3, 1, 2)


@torch.inference_mode()
def readings(run: RecognitionRun, features: FaceFeatures, data: TrainingSet) -> dict[str, float]:
    """Share of the variance of each drawn parameter that a linear reading of the features explains."""
    read = run.heads.shown(features(data.images["vis"]))  # type: ignore[index]
    wanted = data.labels[:, 1:]
    left = (read - wanted).square().mean(0) / wanted.var(0).clamp_min(1e-9)
    return {name: float(1 - value) for name, value in zip(data.label_names[1:], left, strict=True)}


def finish(work: Path, run: RecognitionRun, recipe: RecognitionRecipe, data: TrainingSet) -> None:
    """Write the file and the card; every number comes from the file as it was written and loaded."""
    unseen = people(work, "check-set", CHECK_PEOPLE, CHECK_SEED)
    make_folder(ASSETS)
    path = ASSETS / f"{NAME}.safetensors"
    command = "python tools/make_recognition.py"
    training = {
        "data": data.source,
        "command": command,
        "recipe": recipe.plain(),
        "pyface": pyface.__version__,
    }
    save_model(path, run.network, extra={"training": training}, dtype="float16")
    size = path.stat().st_size
    if size > LARGEST_FILE:
        path.unlink()
        raise DataError(f"the file would be {size} bytes; at most {LARGEST_FILE} are shipped")
    features = FaceFeatures(NAME)
    explained = readings(run, features, unseen)
    card = {
        "name": NAME,
        "fingerprint": features.fingerprint,
        "preprocessing": features.network.preprocessing,
        "parameters": sum(p.numel() for p in run.network.parameters()),
        "bytes": size,
        "data": data.source,
        "checked_on": unseen.source,
        "command": command,
        "recipe": recipe.plain(),
        "cpu_seconds": add_cost(work, "train", 0.0),
        "verification": {name: rates.to_dict() for name, rates in told_apart(features, unseen).items()},
        "distance_ratio": {"strengths": list(STRENGTHS), **sensitivity(features, unseen)},
        "explained_variance": explained,
    }
    make_folder(CARDS)
    write_text(CARDS / f"{NAME}.json", json.dumps(card, indent=1) + "\n")
    write_text(CARDS / f"{NAME}.md", card_text(card, features))
    rates = card["verification"]["all"]
    click.echo(
        f"{path.relative_to(ROOT)}: {size / 1e6:.2f} MB, AUC {rates['auc']:.4f}, EER {rates['eer']:.2%}"
    )


def table(rows: list[list[str]]) -> str:
    """Rows of a Markdown table, the first one its head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "--|" * len(rows[0]), *lines[1:]])


def checks_text(card: dict[str, Any]) -> dict[str, str]:
    """The tables of the card, by name."""
    pairs = [["pairs", "of one person", "of two", "AUC", "EER", *(f"TAR at FMR {r:g}" for r in RATES)]]
    for name, v in card["verification"].items():
        tar = [f"{v['tar'][f'{rate:g}']:.1%}" for rate in RATES]
        pairs.append(
            [name, f"{v['genuine']:,}", f"{v['impostor']:,}", f"{v['auc']:.4f}", f"{v['eer']:.2%}", *tar]
        )
    distances = [["strength", *(f"{s:g}" for s in STRENGTHS)]]
    distances += [[name, *(f"{v:.1f}" for v in card["distance_ratio"][name])] for name in DEGRADATIONS]
    explained = [["parameter", "explained"]]
    explained += [[name, f"{card['explained_variance'][name]:.0%}"] for name in READINGS]
    return {"pairs": table(pairs), "distances": table(distances), "explained": table(explained)}


def card_text(card: dict[str, Any], features: FaceFeatures) -> str:
    """The model card as Markdown."""
    tables = checks_text(card)
    cost = ", ".join(f"{what} {seconds / 60:.1f}" for what, seconds in card["cpu_seconds"].items())
    config, preprocessing = features.network.config, card["preprocessing"]
    sizes = f"{config.num_features} features, embedding of {config.embedding_dim}"
    stored = f"{card['bytes'] / 1e6:.2f} MB; float16 in the file, computes in float32"
    return f"""# Model card: {card["name"]}

The network behind `pyface.load("{card["name"]}")` and `pyface evaluate`: features of faces for statistics of
images, and an identity embedding.

| | |
|--|--|
| Network | residual, {card["parameters"]:,} parameters, {sizes} |
| Input | {preprocessing} |
| File | `pyface/models/assets/{card["name"]}.safetensors`, {stored} |
| Fingerprint | `{card["fingerprint"]}`, of weights, sizes and preprocessing |
| Data | {card["data"]}: rendered by pyface; no picture of a real person was used |
| Training | margin softmax of identities; regression of what is drawn and of how it was degraded |
| Cost | {cost} CPU minutes |
| Command | `{card["command"]}` |
| Licence | Apache-2.0, as the rest of pyface |

## Does it tell people apart?

Pairs of {CHECK_PEOPLE} rendered people that it never saw, {SAMPLES} pictures each with other expression,
pose, light and background. TAR: share of pairs of one person that are accepted where the given share of
pairs of two people is.

{tables["pairs"]}

## Does the distance see bad pictures?

Squared Frechet distance of degraded renders to other renders, as a multiple of that of untouched renders
({COMPARED} pictures in each set, of different people):

{tables["distances"]}

Strength 1 is noise with a standard deviation of 32 grey levels, a Gaussian blur of 1.9 pixels, means over
blocks of 4 x 4 pixels, and smooth displacements of 3.8 pixels (standard deviation).

## What the features know

Share of the variance of what was drawn that a linear reading of the features explains, on the same unseen
people ({len(card["explained_variance"])} parameters in all, in the JSON beside this card):

{tables["explained"]}

## Limits

It has seen renders only. It is made to compare sets of generated faces and to keep identities apart in
training; it is not made for recognising real people and must not be used for that. Distances over its
features are not FID and compare only with distances over the same features (same fingerprint, number of
images and data). Faces that do not fill a square picture as the renderer's portraits do are outside of what
it knows.
"""


@click.command()
@click.option("--work", type=click.Path(path_type=Path), default=Path("out/recognition"))
@click.option("--stage", type=click.Choice(["render", "train", "finish", "all"]), default="all")
@click.option("--people", "identities", type=int, default=4000, show_default=True)
@click.option("--threads", type=int, default=1, show_default=True)
def main(work: Path, stage: str, identities: int, threads: int) -> None:
    """Render, train, check and write the recognition network."""
    torch.set_num_threads(threads)
    make_folder(work)
    recipe = RecognitionRecipe()
    data = people(work, "training-set", identities, TRAIN_SEED)
    if stage in ("render", "all"):
        people(work, "check-set", CHECK_PEOPLE, CHECK_SEED)
    if stage == "render":
        return
    run = trained(work, recipe, data)
    run.network.eval()
    if stage in ("finish", "all"):
        finish(work, run, recipe, data)


if __name__ == "__main__":
    main()
