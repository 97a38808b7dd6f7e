"""Make the network of action units that ships with pyface: observe renders, train, check, write file, card.

    python tools/make_action_units.py

Needs the detector and the face mesh of the offline default (`pyface models fetch default`) and OpenCV. Every
stage leaves its result in --work and is skipped when that is there; an interrupted training goes on where it
was. The stages:

observe  people to learn from and other people to check with: rendered, found, measured, cut out
rules    the ends of the lines of pyface.faces.action_units.MESH_RULES, fitted anew and printed
train    the recipe of pyface.training.recipes.action_units
finish   the file in pyface/models/assets and the model card, with the checks that it quotes
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

import pyface
from pyface.errors import DataError
from pyface.faces import load_detector, load_landmarker
from pyface.faces.action_units import MESH_RULES, MeshRule, NetworkActionUnits, facs_letter, presence
from pyface.faces.expression_geometry import GEOMETRY
from pyface.io.atomic import atomic_write, make_folder, write_text
from pyface.io.checkpoint import save_model
from pyface.metrics import UnitAgreement, unit_agreement, unit_table
from pyface.training.checkpoint import load_state, restore_state, save_state
from pyface.training.recipes.action_units import (
    MARGIN,
    UNITS,
    ActionUnitRecipe,
    ActionUnitRun,
    FaceSource,
    ObservedFaces,
    build,
    centre_presence,
    observed_faces,
    train,
)

ROOT = Path(__file__).resolve().parent.parent
ASSETS = ROOT / "pyface" / "models" / "assets"
CARDS = ROOT / "docs" / "model-cards"
NAME = "action-units"
LARGEST_FILE = 1_000_000
SAVE_EVERY = 100  # steps

TRAINING = {
    "people": FaceSource(2200, 4, 128, seed=1101, compressed=True),
    "large": FaceSource(300, 4, 224, seed=1102, compressed=True),
    "units": FaceSource(800, 4, 128, seed=1103, independent=True, compressed=True),
}
CHECKS = {
    "check-people": FaceSource(300, 4, 128, seed=1301),
    "check-large": FaceSource(150, 4, 256, seed=1302),
    "check-units": FaceSource(100, 4, 128, seed=1303, independent=True),
}
ALL = {**TRAINING, **CHECKS}


def observed(work: Path, name: str, source: FaceSource) -> ObservedFaces:
    """The faces of a source as they are found, from the cache in `work` when they are there."""
    path = work / f"{name}.npz"
    if not path.exists():
        click.echo(f"observing {source.identities * source.samples} faces for {name}")
        started = time.process_time()
        found = observed_faces(
            source,
            load_detector(),
            load_landmarker(),
            ActionUnitRecipe().network,
            lambda chunks: tqdm(chunks, disable=None),
        )
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                pictures=found.pictures,
                meshes=found.meshes,
                units=found.units,
                identities=found.identities,
                missed=np.array(found.missed),
                source=np.array(str(source)),
            )
        add_cost(work, f"observe {name}", time.process_time() - started)
    with np.load(path, allow_pickle=False) as file:
        if str(file["source"]) != str(source):
            raise DataError(f"{path} holds {file['source']}, not {source}; remove it or change --work")
        arrays = [file[key] for key in ("pictures", "meshes", "units", "identities")]
        return ObservedFaces(*arrays, missed=int(file["missed"]))


def add_cost(work: Path, what: str, seconds: float) -> dict[str, float]:
    """Add CPU seconds to the account of this network; returns the account."""
    path = work / "cpu-seconds.json"
    account: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    account[what] = round(account.get(what, 0.0) + seconds, 1)
    write_text(path, json.dumps(account, indent=1) + "\n")
    return account


def fitted_rules(faces: ObservedFaces) -> dict[str, MeshRule]:
    """The rules with ends fitted anew: of each feature, a least-squares plane over all units at once.

    So a unit's line is that of the unit alone; what comes along with it in an emotion is explained by the
    other units. The feature is explained by the unit, not the unit by the feature, which keeps the line
    steep however noisy the feature is.
    """
    columns = np.concatenate([faces.units, np.ones((len(faces), 1), np.float32)], 1).astype(np.float64)
    geometry = faces.geometry.astype(np.float64)
    plane, *_ = np.linalg.lstsq(columns, geometry, rcond=None)
    rules = {}
    for unit, rule in MESH_RULES.items():
        slope, rest = plane[[UNITS.index(unit), -1], GEOMETRY.index(rule.feature)]
        rules[unit] = MeshRule(rule.feature, round(float(rest), 3), round(float(rest + slope), 3))
    return rules


def trained(work: Path, recipe: ActionUnitRecipe, faces: ObservedFaces, source: str) -> ActionUnitRun:
    """The run at its end, going on from what was saved in `work`."""
    run = build(recipe, faces.training_set(source))
    path = work / "training.pt"
    if path.exists():
        state = load_state(path)
        if state["recipe"] != recipe.plain():
            raise DataError(f"{path} belongs to another recipe; remove it or change --work")
        restore_state(run.trainer, state)
    steps = run.images // recipe.batch + run.refine_images // recipe.batch
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


@torch.inference_mode()
def network_reads(model: NetworkActionUnits, faces: ObservedFaces) -> npt.NDArray[np.float32]:
    """Intensities [N, units] that the network reads off observed faces."""
    inner = faces.pictures[:, :, MARGIN:-MARGIN, MARGIN:-MARGIN]
    pictures = torch.from_numpy(np.ascontiguousarray(inner)).float() / 127.5 - 1.0
    geometry = torch.from_numpy(faces.geometry)
    parts = zip(pictures.split(256), geometry.split(256), strict=True)
    return torch.cat([model.network.intensities(*part) for part in parts]).numpy()


def mesh_reads(faces: ObservedFaces) -> npt.NDArray[np.float32]:
    """Intensities [N, rules] that the rules read off observed faces."""
    geometry = faces.geometry
    columns = [rule.intensities(geometry[:, GEOMETRY.index(rule.feature)]) for rule in MESH_RULES.values()]
    return np.stack(columns, axis=1)


def checks(work: Path, model: NetworkActionUnits) -> dict[str, dict[str, UnitAgreement]]:
    """Agreement of network and rules with the truth on people that training has not seen, by set."""
    found = {}
    known = [UNITS.index(unit) for unit in MESH_RULES]
    for name, source in CHECKS.items():
        faces = observed(work, name, source)
        found[name] = unit_agreement(network_reads(model, faces), faces.units, UNITS)
        found[f"{name}, rules"] = unit_agreement(mesh_reads(faces), faces.units[:, known], list(MESH_RULES))
    return found


def finish(work: Path, run: ActionUnitRun, recipe: ActionUnitRecipe, source: str) -> None:
    """Write the file and the card; every number comes from the file as it was written and loaded."""
    make_folder(ASSETS)
    path = ASSETS / f"{NAME}.safetensors"
    command = "python tools/make_action_units.py"
    training = {"data": source, "command": command, "recipe": recipe.plain(), "pyface": pyface.__version__}
    save_model(path, run.network, extra={"training": training}, dtype="float16")
    size = path.stat().st_size
    if size > LARGEST_FILE:
        path.unlink()
        raise DataError(f"the file would be {size} bytes; at most {LARGEST_FILE} are shipped")
    found = checks(work, NetworkActionUnits(NAME))
    card = {
        "name": NAME,
        "parameters": sum(p.numel() for p in run.network.parameters()),
        "bytes": size,
        "data": source,
        "checked_on": {name: str(s) for name, s in CHECKS.items()},
        "missed": {name: observed(work, name, s).missed for name, s in {**TRAINING, **CHECKS}.items()},
        "command": command,
        "recipe": recipe.plain(),
        "cpu_seconds": add_cost(work, "train", 0.0),
        "agreement": {name: {u: a.to_dict() for u, a in table.items()} for name, table in found.items()},
    }
    make_folder(CARDS)
    write_text(CARDS / f"{NAME}.json", json.dumps(card, indent=1) + "\n")
    write_text(CARDS / f"{NAME}.md", card_text(card, found))
    shown = {u: round(found["check-people"][u].f1, 3) for u in ("AU12", "AU25", "AU26")}
    click.echo(f"{path.relative_to(ROOT)}: {size / 1e6:.2f} MB, F1 {shown}")


def tables_text(found: dict[str, dict[str, UnitAgreement]], sets: dict[str, str]) -> str:
    """The section of the card with the checks of the network."""
    letter = facs_letter(presence("AU1"))
    return f"""## How well does it read unseen people?

All rendered, none of them seen in training. A unit is present from the intensity in the second column, in
truth and reading alike: where the attributes of rendered faces name one (Smiling, Mouth_Slightly_Open,
Narrow_Eyes) it is theirs, else {presence("AU1"):g}, letter {letter} of FACS. "F1 of always" is that of
calling the unit present on every face. Correlation and mean error are of the intensities.

{sets["check-people"]}, expressions as the dataset draws them:

{unit_table(found["check-people"])}

{sets["check-large"]}, the same at twice the size:

{unit_table(found["check-large"])}

{sets["check-units"]}, so that no unit can be guessed from another:

{unit_table(found["check-units"])}
"""


def card_text(card: dict[str, Any], found: dict[str, dict[str, UnitAgreement]]) -> str:
    """The model card as Markdown."""
    cost = sum(card["cpu_seconds"].values()) / 60
    train_cost = card["cpu_seconds"]["train"] / 60
    stored = f"{card['bytes'] / 1e6:.2f} MB; float16 in the file, computes in float32"
    config, sets = card["recipe"]["network"], card["checked_on"]
    features, parameters = len(config["geometry"]), f"{card['parameters']:,}"
    missed, looked = sum(card["missed"].values()), sum(s.identities * s.samples for s in ALL.values())
    rules = "\n".join(f"- {u}: {r.feature}, {r.rest:g} to {r.full:g}" for u, r in MESH_RULES.items())
    return f"""# Model card: {card["name"]}

The network behind `pyface.faces.load_action_units()`: intensities of {len(UNITS)} action units of FACS, from
0 (absent) to 1 (maximum), of a face with a mesh of 468 points.

| | |
|--|--|
| Network | eyes with brows, mouth with chin, {features} measures of the mesh; {parameters} parameters |
| Input | aligned grey picture of {config["size"]} x {config["size"]}; mesh in pixels, with depth |
| File | `pyface/models/assets/{card["name"]}.safetensors`, {stored} |
| Data | {card["data"]} |
| Origin | rendered by pyface, found by BlazeFace, measured by FaceMesh; no real person was photographed |
| Training | intensity and presence; degraded pictures, other light, noise on the measures, parts hidden |
| Cost | {cost:.1f} CPU minutes in all, {train_cost:.1f} of them training |
| Command | `{card["command"]}` |
| Licence | Apache-2.0, as the rest of pyface |

The detector missed {missed} of {looked:,} rendered faces; they are in no table.

{tables_text(found, sets)}
## The rules of the mesh alone

`load_action_units("mesh")` reads each unit off one measure, in distances between the eyes; 0 at the first
number, 1 at the second:

{rules}

On {sets["check-people"]}:

{unit_table(found["check-people, rules"])}

They say more about pictures of one person, compared with a neutral one (`neutral=`), than about one picture.

## Limits

Some units are read off others that come with them in an expression, not off the face: compare the F1 of the
first and the last table (AU5, AU6, AU17, AU20). It has seen renders only. On photographs nothing but the
direction was checked (a smile raises AU12); no labelled photographs of action units were available, so no
accuracy on real people is claimed. Faces turned by more than about 45 degrees, hidden mouths and eyes, and
faces smaller than about 60 pixels are outside of what it knows. Expressions are not feelings: no conclusion
about what a person feels follows from these numbers, and they must not be used to judge people.
"""


@click.command()
@click.option("--work", type=click.Path(path_type=Path), default=Path("out/action-units"))
@click.option("--stage", type=click.Choice(["observe", "rules", "train", "finish", "all"]), default="all")
@click.option("--only", help="observe this set alone")
@click.option("--threads", type=int, default=1, show_default=True)
def main(work: Path, stage: str, only: str | None, threads: int) -> None:
    """Render, observe, train, check and write the network of action units."""
    torch.set_num_threads(threads)
    make_folder(work)
    for name, each in ALL.items():
        if only in (None, name):
            observed(work, name, each)
    if stage == "observe" or only:
        return
    faces = ObservedFaces.joined([observed(work, name, each) for name, each in TRAINING.items()])
    if stage in ("rules", "all"):
        for unit, rule in fitted_rules(faces).items():
            click.echo(f"{unit}: {rule}; in the code {MESH_RULES[unit]}")
    if stage == "rules":
        return
    recipe, source = ActionUnitRecipe(), "; ".join(str(each) for each in TRAINING.values())
    run = trained(work, recipe, faces, source)
    run.network.eval()
    emotions = [observed(work, name, each) for name, each in TRAINING.items() if not each.independent]
    centre_presence(run.network, ObservedFaces.joined(emotions))
    if stage in ("finish", "all"):
        finish(work, run, recipe, source)


if __name__ == "__main__":
    main()
