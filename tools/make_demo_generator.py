"""Make the generator that ships with pyface: render, train, check, write the file and its card.

    python tools/make_demo_generator.py --minutes 65

Every stage leaves its result in --work and is skipped when that is there, so the command can be repeated
after an interruption; training goes on from its last resume file. The stages:

render   faces with six conditions: a training set, and another set of other people for the judge
guide    a small classifier of the conditions, trained on the training set, whose cross-entropy the generator
         pays; with --refine also a reader of the renderer's parameters
train    a conditional StyleGAN2 for --minutes; with --refine from the shipped files, first on pairs of
         latents and renders alone, then on both (pyface.training.recipes.known_latents)
finish   the file in pyface/models/assets, the discriminator beside it (for fine-tuning), and the model card
         with sheets and with the agreement of a judge: another classifier, trained on the judge's set alone
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from tqdm import tqdm

import pyface
from pyface.cli.train import label_samples
from pyface.data import CONDITIONS, draw_faces
from pyface.generation.evaluation import GeneratedImages
from pyface.generation.sampling import draw_conditions, draw_latents
from pyface.io.atomic import atomic_write, make_folder, write_text
from pyface.io.checkpoint import save_model
from pyface.io.images import contact_sheet, to_uint8, write_image
from pyface.metrics import FaceFeatures, RealImages, features_of, nearest, nearest_sheet
from pyface.models import StyleGAN2Generator, bake_truncation
from pyface.training import TrainingSet
from pyface.training.checkpoint import Snapshots, load_state, restore_state, resume_files
from pyface.training.observers import observers
from pyface.training.phases import LossTerm
from pyface.training.recipes.condition_classifier import (
    ClassifierRecipe,
    ConditionClassifier,
    condition_loss,
    predictions,
    train_classifier,
)
from pyface.training.recipes.known_latents import (
    KnownLatents,
    ParameterReader,
    latents_of,
    learn_pairs,
    train_reader,
)
from pyface.training.recipes.stylegan2 import StyleGAN2Recipe, StyleGAN2Run, build
from pyface.training.source import open_training_set

ROOT = Path(__file__).resolve().parent.parent
ASSETS = ROOT / "pyface" / "models" / "assets"
CARDS = ROOT / "docs" / "model-cards"
SIZE = 64
TRAIN_SEED, JUDGE_SEED = 0, 1
LARGEST_FILE = 8_000_000

RECIPE = StyleGAN2Recipe(
    resolution=(SIZE, SIZE),
    kimg=10_000,
    batch=8,
    gamma=1.0,
    lr_generator=0.0025,
    lr_discriminator=0.002,
    style_mixing=0.5,
    path_length_interval=0,
    ema_kimg=10.0,
    ema_rampup=0.1,
    mirror=True,
    precision="bfloat16",
    channel_base=2048,
    channel_max=192,
    z_dim=128,
    w_dim=128,
    mapping_layers=4,
    conditions=CONDITIONS,
)
GUIDE_WEIGHT = 0.5
# The second part, for variety: pairs of a real and a generated image with one condition, penalties on both
# (Huang et al. 2024, "The GAN is dead; long live the GAN!"), and pairs with known latents.
REFINEMENT = replace(
    RECIPE,
    batch=16,
    gamma=0.5,
    lr_generator=0.002,
    loss="relativistic",
    r2_interval=16,
    mbstd_group=8,
    ema_kimg=3.0,
    mirror=False,
)
MAPPING_LR = 0.1
PAIRS_KIMG = 60.0  # on pairs alone
FIRST_KIMG = 97  # of the first part, where the refinement begins


def rendered(work: Path, name: str, images: int, render_size: int, seed: int) -> TrainingSet:
    """Rendered faces at SIZE pixels, from the cache in `work` when they are there."""
    path, source = work / f"{name}.npz", f"procedural:{images}x1@{render_size}"
    if not path.exists():
        click.echo(f"rendering {images} faces for {name}")
        data = open_training_set(
            source, resolution=(SIZE, SIZE), seed=seed, progress=lambda chunks: tqdm(chunks, disable=None)
        )
        if data.images is None:
            raise click.ClickException("the training set does not fit into memory; lower --images")
        parameters = draw_faces(seed, np.arange(images), 0).parameters
        content = {"vis": data.images["vis"].numpy(), "labels": data.labels.numpy(), "parameters": parameters}
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez(file, source=source, **content)
    with np.load(path) as file:
        if str(file["source"]) != source:
            raise click.ClickException(
                f"{path} holds {file['source']}, not {source}; remove it or change --work"
            )
        pixels, labels = torch.from_numpy(file["vis"]), torch.from_numpy(file["labels"])
    return TrainingSet.from_arrays(pixels, labels, CONDITIONS, f"{source}, seed {seed}")


def classifier(work: Path, name: str, data: TrainingSet, recipe: ClassifierRecipe) -> ConditionClassifier:
    """A classifier of the conditions, from the cache in `work` when it is there."""
    path = work / f"{name}.pt"
    if path.exists():
        network = ConditionClassifier(len(CONDITIONS), precision=recipe.precision)
        network.load_state_dict(torch.load(path, weights_only=True))
        return network.eval()
    click.echo(f"training the {name}")
    with tqdm(total=int(recipe.kimg * 1000), unit="img", disable=None) as bar:
        network = train_classifier(data, recipe, progress=lambda done: bar.update(done - bar.n))
    with atomic_write(path) as temporary:
        torch.save(network.state_dict(), temporary)
    return network


def known_latents(work: Path, data: TrainingSet) -> KnownLatents:
    """The training set with its latents, and a reader from the cache in `work` when it is there."""
    with np.load(work / "training-set.npz") as file:
        parameters = torch.from_numpy(file["parameters"])
    parameters = parameters[:, parameters.std(0) > 1e-6]
    images, path = data.get(np.arange(len(data)))["vis"], work / "reader.pt"
    if path.exists():
        reader = ParameterReader(parameters.shape[1], "bfloat16")
        reader.load_state_dict(torch.load(path, weights_only=True))
        reader.eval().requires_grad_(False)
    else:
        click.echo("training the reader")
        recipe = ClassifierRecipe(kimg=160.0, lr=0.003, seed=3, mirror=False, precision="bfloat16")
        with tqdm(total=int(recipe.kimg * 1000), unit="img", disable=None) as bar:
            reader = train_reader(images, parameters, recipe, lambda done: bar.update(done - bar.n))
        with atomic_write(path) as temporary:
            torch.save(reader.state_dict(), temporary)
    latents = latents_of(parameters, data.labels, RECIPE.z_dim)
    return KnownLatents(images, data.labels, latents, reader, reader.targets(parameters))


def facts_of(data: TrainingSet, command: str) -> dict[str, Any]:
    """What the header of a snapshot says of its training."""
    return {
        "data": data.source,
        "images": len(data),
        "command": command,
        "pyface": pyface.__version__,
        "label_samples": label_samples(data),
    }


def new_run(work: Path, data: TrainingSet, guide: ConditionClassifier, refine: bool) -> StyleGAN2Run:
    """The run of RECIPE, or of REFINEMENT from the shipped files; both pay the guide."""
    losses = [("conditions", GUIDE_WEIGHT, condition_loss(guide))]
    run = build(REFINEMENT if refine else RECIPE, data, image_losses=losses)
    if not refine:
        return run
    run.start_from(ASSETS / f"demo-{SIZE}.safetensors", ASSETS / f"critic-{SIZE}.safetensors")
    pairs, generator = known_latents(work, data), run.generator
    begun = work / "pairs.pt"
    if begun.exists():
        generator.load_state_dict(torch.load(begun, weights_only=True))
    else:
        click.echo("training on pairs alone")
        with tqdm(total=int(PAIRS_KIMG * 1000), unit="img", disable=None) as bar:
            learn_pairs(generator, pairs, PAIRS_KIMG, progress=lambda done: bar.update(done - bar.n))
        with atomic_write(begun) as temporary:
            torch.save(generator.state_dict(), temporary)
    run.average.average.load_state_dict(generator.state_dict())
    phase = run.trainer.phases[0]
    phase.terms = [*phase.terms, LossTerm("pairs", lambda batch: pairs.loss(generator, batch, share=2))]
    follow_faster(phase.optimizer, list(generator.mapping.parameters()), MAPPING_LR)
    return run


def follow_faster(optimizer: torch.optim.Optimizer, parameters: list[torch.nn.Parameter], lr: float) -> None:
    """Give some parameters of an optimiser their own learning rate."""
    chosen = {id(parameter) for parameter in parameters}
    group = optimizer.param_groups[0]
    group["params"] = [parameter for parameter in group["params"] if id(parameter) not in chosen]
    optimizer.add_param_group({"params": parameters, "lr": lr})


def train(work: Path, data: TrainingSet, run: StyleGAN2Run, minutes: float, command: str) -> None:
    """Train for some minutes, going on from the last resume file."""
    out = make_folder(work / "run")
    average = run.average.average
    total = int(run.recipe.kimg * 1000)
    snapshots = Snapshots(out, average, 4_000, run.recipe.plain(), facts_of(data, command))
    run.trainer.callbacks += observers(
        out,
        run.trainer.feed,
        run.generator,
        average,
        snapshots,
        total=total,
        interval=10_000,
        minutes=minutes,
    )
    earlier = resume_files(out)
    if earlier:
        restore_state(run.trainer, load_state(earlier[-1]))
        click.echo(f"going on from {earlier[-1].name}")
    run.trainer.run(total)


@torch.inference_mode()
def samples(generator: Any, count: int, choices: np.ndarray, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 images [count, 3, H, W] and the conditions they were asked for, keyed by (seed, number)."""
    images = []
    c = draw_conditions(seed, np.arange(count), choices=choices, c_dim=len(CONDITIONS))
    z = draw_latents(seed, np.arange(count), z_dim=generator.z_dim)
    for part_z, part_c in zip(z.split(50), c.split(50), strict=True):
        made = generator(part_z, part_c, noise_mode="const")
        images.append(torch.from_numpy(to_uint8(made)).permute(0, 3, 1, 2))
    return torch.cat(images), c


def agreement(
    judge: ConditionClassifier, images: torch.Tensor, asked: torch.Tensor
) -> dict[str, dict[str, float]]:
    """Per condition: share of images on whose side of 0.5 judge and label agree, the mean of that share over
    the two sides (so that a rare condition counts), and the correlation."""
    read = predictions(judge, images)
    found = {}
    for i, name in enumerate(CONDITIONS):
        on = asked[:, i] >= 0.5
        same = (read[:, i] >= 0.5) == on
        sides = [same[side].float().mean().item() for side in (on, ~on) if side.any()]
        found[name] = {
            "agrees": same.float().mean().item(),
            "balanced": float(np.mean(sides)),
            "correlation": float(np.corrcoef(read[:, i].numpy(), asked[:, i].numpy())[0, 1]),
            "share_on": on.float().mean().item(),
        }
    return found


def compared(generator: Any, data: TrainingSet, held_out: torch.Tensor, count: int = 2000) -> dict[str, Any]:
    """Frechet distance, precision and recall of `count` faces against renders that training never saw."""
    real = RealImages(FaceFeatures(), held_out[:count].split(256), held_out[count : 2 * count].split(256))
    made = GeneratedImages(generator, count, data.labels.numpy())
    return real.compare(made).to_dict()


def copies_sheet(images: torch.Tensor, pixels: torch.Tensor, path: Path) -> None:
    """Generated faces beside the two training images whose features are nearest."""
    extractor = FaceFeatures()
    features = features_of(extractor, pixels.split(256))
    _, where = nearest(features_of(extractor, [images]), features, 2)
    faces = [face.permute(1, 2, 0).numpy() for face in images]
    found = [[pixels[i].permute(1, 2, 0).numpy() for i in row.tolist()] for row in where]
    write_image(path, nearest_sheet(faces, found))


@torch.inference_mode()
def conditions_sheet(generator: Any, choices: np.ndarray, path: Path) -> None:
    """One row of faces for each condition: the same latents with it off (left) and on (right)."""
    tiles, captions = [], []
    z = draw_latents(77, np.arange(4), z_dim=generator.z_dim)
    base = draw_conditions(77, np.arange(4), choices=choices, c_dim=len(CONDITIONS))
    base[:, CONDITIONS.index("glasses")] = 0
    for i, name in enumerate(CONDITIONS):
        for k in range(4):
            for value in (0.0, 1.0):
                c = base[k : k + 1].clone()
                c[0, i] = value
                tiles.append(to_uint8(generator(z[k : k + 1], c, noise_mode="const"))[0])
                captions.append(f"{name} {value:g}"[:12])
    contact_sheet(tiles, columns=8, captions=captions, path=path)


def in_float32(generator: Any) -> StyleGAN2Generator:
    """The same generator, computing in float32: what ships must not depend on fast 16-bit arithmetic."""
    config = replace(generator.config, num_16bit_res=0, conv_clamp=generator.config.effective_clamp)
    plain = StyleGAN2Generator(config)
    plain.load_state_dict(generator.state_dict())
    return plain.eval().requires_grad_(False)


def finish(
    work: Path,
    data: TrainingSet,
    run: StyleGAN2Run,
    held_out: TrainingSet,
    judge: ConditionClassifier,
    widening: float,
    command: str,
    remark: str,
) -> None:
    """Write the shipped files, the sheets and the card from the last resume file."""
    states = resume_files(work / "run")
    if not states:
        raise click.ClickException("there is no resume file yet; run the stage train first")
    restore_state(run.trainer, load_state(states[-1]))
    generator = in_float32(run.average.average)
    bake_truncation(generator, widening)
    kimg = run.trainer.images_seen / 1000 + (FIRST_KIMG if run.recipe == REFINEMENT else 0)
    choices = np.asarray(label_samples(data), np.float32)
    images, asked = samples(generator, 2000, choices, seed=123)
    if held_out.images is None or data.images is None:
        raise click.ClickException("the sets of images are not in memory")
    checks = agreement(judge, images, asked)
    # The judge has seen the first part of its set only.
    ceiling = agreement(judge, held_out.images["vis"][-2000:], held_out.labels[-2000:])
    card = {
        "name": f"demo-{SIZE}",
        "kimg": kimg,
        "data": data.source,
        "command": command,
        "remark": remark,
        "widening": widening,
        "agreement": checks,
        "judge_on_renders": ceiling,
        "judged_images": len(images),
        "comparison": compared(generator, data, held_out.images["vis"]),
    }
    make_folder(ASSETS)
    make_folder(CARDS)
    training = {**facts_of(data, command), "kimg": kimg, "recipe": run.recipe.plain()}
    path = ASSETS / f"demo-{SIZE}.safetensors"
    save_model(path, generator, extra={"training": training, "card": card})
    if path.stat().st_size > LARGEST_FILE:
        save_model(path, generator, extra={"training": training, "card": card}, dtype="float16")
    critic = {"training": {"kimg": kimg, "recipe": run.recipe.plain()}}
    save_model(ASSETS / f"critic-{SIZE}.safetensors", run.discriminator, extra=critic, dtype="float16")
    tiles = [pixels.permute(1, 2, 0).numpy() for pixels in images[:60]]
    contact_sheet(tiles, columns=12, path=CARDS / f"demo-{SIZE}.png")
    copies_sheet(images[:24], data.images["vis"], CARDS / f"demo-{SIZE}-nearest.png")
    conditions_sheet(generator, choices, CARDS / f"demo-{SIZE}-conditions.png")
    write_text(CARDS / f"demo-{SIZE}.json", json.dumps(card, indent=1) + "\n")
    write_text(CARDS / f"demo-{SIZE}.md", card_text(card, path.stat().st_size, len(data)))
    for name, values in checks.items():
        click.echo(f"{name:12s} agrees {values['agrees']:.1%}, balanced {values['balanced']:.1%}")
    click.echo(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1e6:.1f} MB after {kimg:.0f} kimg")


def verdict_of(checks: dict[str, dict[str, float]]) -> str:
    """Which conditions fall short of the aim."""
    low = [name for name, values in checks.items() if values["agrees"] < 0.8]
    if low:
        return f"Below the aim of 80 %: {', '.join(low)}. Do not rely on these labels."
    return "Every condition reaches the aim of 80 %."


def comparison_text(found: dict[str, Any]) -> str:
    """The section about distance and variety."""
    return f"""## How near to the renders, how varied?

{found["images"]} faces against as many renders of other people, in the features of recognition-64:

| | generated | other renders |
|--|--|--|
| Frechet distance (not FID) | {found["frechet"]:.1f} | {found["real_to_real"]:.2f} |
| as a multiple of render to render | {found["ratio"]:.1f} | 1 |
| precision | {found["precision"]:.3f} | {found["real_precision"]:.3f} |
| recall | {found["recall"]:.3f} | {found["real_recall"]:.3f} |

Recall below that of renders: the generator draws less than their variety. Use renders where variety matters,
and a psi below 1 where the look of the single face does.
"""


def card_text(card: dict[str, Any], size: int, images: int) -> str:
    """The model card as Markdown."""
    rows = [
        f"| {name} | {v['agrees']:.1%} | {v['balanced']:.1%} | {v['correlation']:.2f} | {v['share_on']:.0%} "
        f"| {card['judge_on_renders'][name]['agrees']:.1%} |"
        for name, v in card["agreement"].items()
    ]
    verdict, name = verdict_of(card["agreement"]), card["name"]
    return f"""# Model card: {name}

The generator that `pyface.load("demo")` and `--network demo` give: {SIZE}x{SIZE} faces with six conditions.

| | |
|--|--|
| Network | StyleGAN2 generator, z and w {RECIPE.z_dim}, conditions {", ".join(CONDITIONS)} |
| File | `pyface/models/assets/{name}.safetensors`, {size / 1e6:.1f} MB |
| Discriminator | `pyface/models/assets/critic-{SIZE}.safetensors`, for fine-tuning |
| Data | {images} faces rendered by pyface ({card["data"]}); no picture of a real person was used |
| Training | {card["kimg"]:.0f} thousand images, {RECIPE.precision}, on CPU; the file computes in float32 |
| Command | `{card["command"]}` |
| Spread | psi 1 is psi {card["widening"]:g} of the trained network: more variety, less precision |
| Remark | {card["remark"] or "none"} |
| Licence | Apache-2.0, as the rest of pyface |

![samples]({name}.png)

## Do the faces show what was asked for?

A classifier that was trained on other rendered people reads the conditions off {card["judged_images"]}
generated faces, whose conditions were drawn as they occur in the training data. "Agrees" is the share of
faces for which label and reading lie on the same side of 0.5; "balanced" is the mean of that share over
faces with and without the condition; the last column is what the classifier reaches on renders it has not
seen, which is the most a generator could get.

| condition | agrees | balanced | correlation | with it | on renders |
|--|--|--|--|--|--|
{chr(10).join(rows)}

{verdict} The generator was trained against a first classifier (weight {GUIDE_WEIGHT:g}); the judge is a
second one that it never met.

The same latents with each condition off and on:

![conditions]({name}-conditions.png)

{comparison_text(card["comparison"])}
## Does it copy?

Generated faces (left) beside the two training images that are nearest in the features of recognition-64:

![nearest]({name}-nearest.png)

## Limits

The faces look like the renderer's, not like photographs: they serve demonstrations, tests and as a start for
fine-tuning, not the training of face recognition for use. "male" means drawn as male; skin tones, ages and
sexes occur as the renderer draws them, which is no census of people. At {SIZE} pixels glasses and teeth are
a few pixels wide. Pose stays within the renderer's range of a portrait.
"""


@click.command()
@click.option("--work", type=click.Path(path_type=Path), default=Path("out/demo-generator"))
@click.option("--stage", type=click.Choice(["render", "guide", "train", "finish", "all"]), default="all")
@click.option("--minutes", type=float, default=65.0, show_default=True, help="Of training, in this call.")
@click.option("--images", type=int, default=24000, show_default=True, help="Training faces.")
@click.option("--judge-images", type=int, default=10000, show_default=True)
@click.option("--render-size", type=int, default=SIZE, show_default=True, help="A multiple of 64.")
@click.option("--threads", type=int, default=2, show_default=True)
@click.option(
    "--widening", type=float, default=1.0, show_default=True, help="psi that becomes 1 in the file."
)
@click.option("--refine", is_flag=True, help="Go on from the shipped generator and discriminator.")
@click.option("--remark", default="", help="For the model card: what else a reader should know of this run.")
def main(
    work: Path,
    stage: str,
    minutes: float,
    images: int,
    judge_images: int,
    render_size: int,
    threads: int,
    widening: float,
    refine: bool,
    remark: str,
) -> None:
    """Render, train, check and write the demo generator."""
    torch.set_num_threads(threads)
    make_folder(work)
    options = f"--minutes {minutes:g} --images {images} --widening {widening:g}"
    command = f"python tools/make_demo_generator.py {options}{' --refine' * refine}"
    data = rendered(work, "training-set", images, render_size, TRAIN_SEED)
    if stage == "render":
        rendered(work, "judge-set", judge_images, render_size, JUDGE_SEED)
        return
    guide = classifier(work, "guide", data, ClassifierRecipe(seed=1, precision="bfloat16"))
    if stage == "guide":
        return
    run = new_run(work, data, guide, refine)
    if stage in ("train", "all"):
        train(work, data, run, minutes, command)
    if stage in ("finish", "all"):
        judged = rendered(work, "judge-set", judge_images, render_size, JUDGE_SEED)
        part = TrainingSet.from_arrays(judged.images or {}, judged.labels, CONDITIONS, judged.source)
        seen = {name: pixels[:-2000] for name, pixels in (part.images or {}).items()}
        known = TrainingSet.from_arrays(seen, part.labels[:-2000], CONDITIONS, part.source)
        judge = classifier(work, "judge", known, ClassifierRecipe(seed=2, precision="bfloat16"))
        finish(work, data, run, judged, judge, widening, command, remark)


if __name__ == "__main__":
    main()
