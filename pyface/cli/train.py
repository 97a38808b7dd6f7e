"""`pyface train`: one subcommand per recipe, whose options come from the fields of its configuration."""

from __future__ import annotations

import importlib
import json
import shlex
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pyface import __version__
from pyface.errors import CheckpointError, ValueRangeError
from pyface.training.recipes import RECIPES, Recipe, Run

if TYPE_CHECKING:
    from pyface.training.distributed import Ranks

PATH = click.Path(path_type=Path)

RUN_OPTIONS: list[Callable[[Any], Any]] = [
    click.option("--data", help="Folder or zip, LAYOUT:PATH, or procedural:IDENTITIESxSAMPLES@SIZE."),
    click.option("--out", type=PATH, help="Folder for everything the run writes."),
    click.option("--config", type=PATH, help="TOML file with values of fields, and data."),
    click.option("--set", "set_", multiple=True, metavar="FIELD=VALUE", help="Value of a field; repeatable."),
    click.option(
        "--resume",
        type=PATH,
        help="resume-*.pt, or the folder of a run: goes on exactly. auto: the run in --out, if any.",
    ),
    click.option(
        "--start-from",
        type=PATH,
        help="Weights to begin with, also of other sizes: .safetensors, demo, resume-*.pt, or the folder of "
        "pyface convert --which all.",
    ),
    click.option("--start-from-d", type=PATH, help="The discriminator to begin with."),
    click.option("--cache", type=PATH, help="Keep the decoded images in a file in this folder."),
    click.option("--streamed", is_flag=True, help="Read or render images for every batch, and keep none."),
    click.option(
        "--workers", type=click.IntRange(0), help="Threads that read images.  [default: half the cores]"
    ),
    click.option("--cond", is_flag=True, help="Train with every label that the data has."),
    click.option("--minutes", type=float, help="End after so many minutes, if --kimg is not reached before."),
    click.option("--snap", type=float, default=50.0, show_default=True, help="Snapshot every so many kimg."),
    click.option(
        "--tick", type=float, default=4.0, show_default=True, help="Record in stats.jsonl every so many kimg."
    ),
    click.option("--tensorboard", is_flag=True, help="Also write statistics and sheets for TensorBoard."),
    click.option("--threads", type=int, help="CPU threads.  [default: torch's choice]"),
    click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, or auto."),
    click.option(
        "--batch-gpu", type=int, help="Images of one process at a time.  [default: --batch / processes]"
    ),
    click.option(
        "--rank-limit",
        type=float,
        default=60.0,
        show_default=True,
        help="Under torchrun: seconds without a heartbeat after which a process counts as dead.",
    ),
    click.option(
        "--rank-stall",
        type=float,
        default=1800.0,
        show_default=True,
        help="Under torchrun: seconds that the processes wait for one of them.",
    ),
]


class RecipeGroup(click.Group):
    """The recipes as subcommands, of which only the one that is named is imported."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*sorted(RECIPES), "report"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == "report":
            return importlib.import_module("pyface.cli.report").command  # type: ignore[no-any-return]
        return recipe_command(RECIPES[cmd_name]) if cmd_name in RECIPES else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Recipes"):
            formatter.write_dl([(name, RECIPES[name].meaning) for name in sorted(RECIPES)])
        with formatter.section("Commands"):
            formatter.write_dl([("report", "Make the page of a run again: report.html.")])


@click.group(cls=RecipeGroup)
def command() -> None:
    """Train a network by a recipe.

    Every field of a recipe has an option; `--config run.toml` and `--set field=value` give them too. Later
    sources win: defaults, file, options, --set. `pyface train NAME --help-config` prints all fields as TOML.
    """


def recipe_command(recipe: Recipe) -> click.Command:
    """The subcommand of a recipe."""

    def callback(**options: Any) -> None:
        train(recipe, options)

    for option in reversed([*RUN_OPTIONS, *field_options(recipe)]):
        callback = option(callback)
    callback = click.option(
        "--help-config",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=lambda ctx, _, asked: _print_fields(ctx, recipe) if asked else None,
        help="Print every field with its default and meaning, as a TOML file for --config.",
    )(callback)
    help_text = (
        f"{recipe.meaning}\n\nThe folder gets snapshot-*.safetensors, resume-*.pt, stats.jsonl, "
        "events.jsonl, report.html, recipe.json and config.toml (the same recipe for --config); of a "
        "generator also reals.png, fakes-*.png and raw-*.png (fixed latents, with and without running "
        "average). Ctrl-C saves and ends."
    )
    return click.command(recipe.name, help=help_text)(callback)


def field_options(recipe: Recipe) -> list[Callable[[Any], Any]]:
    """The options of the fields of a recipe, and its shorthands."""
    from pyface.training.configuration import settings, shown

    made: list[Callable[[Any], Any]] = []
    for name, fields in recipe.shorthands.items():
        made.append(click.option(f"--{name}", metavar="VALUE", help=f"The same for {' and '.join(fields)}."))
    for each in settings(recipe.config).values():
        about = f"{each.meaning[0].upper()}{each.meaning[1:]}."
        if each.kind is bool:
            flags = f"--{each.option}/--no-{each.option}"
            made.append(click.option(flags, each.name, default=None, help=about))
            continue
        about += f"  [{', '.join(map(str, each.choices))}]" if each.choices else ""
        default = "" if each.default in (None, ()) else f"  [default: {shown(each.default)}]"
        made.append(click.option(f"--{each.option}", each.name, metavar="VALUE", help=about + default))
    return made


def _print_fields(ctx: click.Context, recipe: Recipe) -> None:
    from pyface.training.configuration import describe

    click.echo(describe(recipe.config), nl=False)
    ctx.exit()


def train(recipe: Recipe, options: dict[str, Any]) -> Any:
    """Run a recipe as its command line asks, with the processes that torchrun started; returns the run."""
    import torch

    from pyface.training.allocator import keep_freed_memory
    from pyface.training.distributed import end_process, join_ranks

    _check_run_options(options)
    keep_freed_memory()
    if options["threads"]:
        torch.set_num_threads(options["threads"])
    device = device_named(options["device"])
    with join_ranks(device, limit=options["rank_limit"], stall=options["rank_stall"]) as ranks:
        run = _train(recipe, options, str(ranks.device or device), ranks)
    return run if ranks.size == 1 else end_process(0)


def device_named(name: str) -> str:
    """The device of a --device text; auto is CUDA where there is one.

    Raises ValueRangeError for a device that this machine does not have.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return "cuda" if count else "cpu"
    number = name.removeprefix("cuda").removeprefix(":") or "0"
    if name != "cpu" and not (name.startswith("cuda") and number.isdigit() and int(number) < count):
        raise ValueRangeError(
            f"--device must be auto, cpu, or cuda (cuda:1, ...) where there is a GPU; got {name!r}, "
            f"and torch {torch.__version__} sees {count} GPUs. pyface doctor says what is installed."
        )
    return name


def _train(recipe: Recipe, options: dict[str, Any], device: str, ranks: Ranks) -> Any:
    from pyface.io.atomic import only_writer

    given, source = given_values(recipe, options)
    if options["start_from"] is not None:
        given = {**recipe.transfer, **given}
    out = _folder_of_run(options, source)
    with only_writer(out) if ranks.main else nullcontext():
        return _train_in(out, recipe, options, (given, source), device, ranks)


def _folder_of_run(options: dict[str, Any], source: str | None) -> Path:
    """Where the run writes: --out, else the folder of the run that goes on."""
    from pyface.io.atomic import make_folder

    out, resume = options["out"], options["resume"]
    if resume is None and (source is None or out is None):
        missing = "--data" if source is None else "--out"
        raise ValueRangeError(f"{missing} is missing. A new run needs --data and --out.")
    if out is not None:
        return make_folder(out)
    if str(resume) == "auto":
        raise ValueRangeError("--resume auto needs --out, the folder of the run.")
    if not resume.exists():
        raise CheckpointError(f"{resume} does not exist. Give a resume-*.pt or the folder of a run.")
    return make_folder(resume.parent if resume.suffix == ".pt" else resume)


def _train_in(
    out: Path, recipe: Recipe, options: dict[str, Any], given: Any, device: str, ranks: Ranks
) -> Any:
    """Train in a folder that no other run writes to. given: what `given_values` gave."""
    from pyface.training.configuration import changes, resolve, settings

    given, source = given
    resumed = _resumed(recipe, options)
    stored: dict[str, Any] = resumed[1]["recipe"] if resumed else {}
    source = source or (resumed[1].get("facts", {}).get("data") if resumed else None)
    if source is None:
        raise ValueRangeError("--data is missing: there is no run yet that names its data.")
    moved = changes(recipe.config, stored, given) if resumed else {}
    with ranks.main_first("reading the data"):
        wanted = resolve(recipe.config, stored, given)
        data = _open_data(str(source), wanted, {**stored, **given}, options, ranks.main)
    found = {name: value for name, value in _of_data(data).items() if name in settings(recipe.config)}
    if resumed:
        changes(recipe.config, stored, found)
    config = resolve(recipe.config, stored, given, found)
    rounds_of(config.batch, ranks.size, options["batch_gpu"])
    facts = _facts(recipe, data, str(source))
    if ranks.main:
        _write_configuration(out, recipe, config, facts)
        _announce(config, data, f"{device}, {ranks.size} processes" if ranks.size > 1 else device, moved)
    return train_and_save(
        config,
        data,
        out,
        recipe=recipe,
        facts=facts,
        device=device,
        resume=resumed[0] if resumed else None,
        start_from=options["start_from"],
        discriminator=options["start_from_d"],
        snapshot_kimg=options["snap"],
        tick_kimg=options["tick"],
        tensorboard=options["tensorboard"],
        minutes=options["minutes"],
        ranks=ranks,
        batch_gpu=options["batch_gpu"],
    )


def _check_run_options(options: dict[str, Any]) -> None:
    if options["threads"] is not None and options["threads"] < 1:
        raise ValueRangeError(f"--threads must be 1 or more; got {options['threads']}.")
    for name in ("snap", "tick"):
        if not options[name] > 0:
            raise ValueRangeError(f"--{name} must be greater than 0; got {options[name]}.")
    resume = options["resume"]
    if resume is not None and resume.suffix != ".pt" and not resume.is_dir() and str(resume) != "auto":
        if options["start_from"] is not None:
            raise ValueRangeError(
                f"--resume {resume} and --start-from {options['start_from']} both name weights. "
                "Give --start-from alone."
            )
        options["start_from"], options["resume"] = resume, None
    if options["start_from_d"] is not None and options["start_from"] is None:
        raise ValueRangeError("--start-from-d needs --start-from, which names the generator.")
    if options["resume"] is not None and options["start_from"] is not None:
        raise ValueRangeError(
            "--resume goes on with a run and --start-from begins one from its weights; give one of them."
        )


def given_values(recipe: Recipe, options: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """{field: value} of the file, the options and --set, later ones winning; and where the data are."""
    from pyface.training.configuration import checked, parse_settings, read_toml, settings

    file = read_toml(options["config"]) if options["config"] is not None else {}
    named = file.pop("recipe", recipe.name)
    if named != recipe.name:
        raise ValueRangeError(
            f"{options['config']} is a configuration of {named!r}: use pyface train {named}."
        )
    source = options["data"] or file.pop("data", None)
    file.pop("data", None)
    given = checked(recipe.config, file)
    texts = []
    for name, fields in recipe.shorthands.items():
        texts += [f"{field}={options[name]}" for field in fields if options[name] is not None]
    for name in settings(recipe.config):
        value = options.get(name)
        texts += (
            [] if value is None else [f"{name}={str(value).lower() if value in (True, False) else value}"]
        )
    given |= parse_settings(recipe.config, texts)
    return given | parse_settings(recipe.config, options["set_"]), source


def _resumed(recipe: Recipe, options: dict[str, Any]) -> tuple[Path, dict[str, Any]] | None:
    """The resume file to go on from, and what it holds."""
    from pyface.training.checkpoint import load_state, newest_state

    path = options["resume"]
    if path is None:
        return None
    if path.suffix == ".pt":
        found = (path, load_state(path))
    else:
        automatic = str(path) == "auto"
        newest = newest_state(options["out"] if automatic else path)
        if newest is None and automatic:
            return None
        if newest is None:
            raise CheckpointError(f"{path} holds no resume-*.pt file. Leave --resume out to begin a run.")
        found = newest
    name = found[1].get("facts", {}).get("recipe", recipe.name)
    if name != recipe.name:
        raise CheckpointError(f"{found[0]} is a run of {name!r}: use pyface train {name}.")
    return found


def _open_data(
    source: str, config: Any, merged: dict[str, Any], options: dict[str, Any], progress: bool
) -> Any:
    from pyface.training.source import open_training_set

    return open_training_set(
        source,
        resolution=config.resolution if "resolution" in merged else None,
        conditions=None if options["cond"] else getattr(config, "conditions", None),
        spectra=tuple(getattr(config, "spectra", ("vis",))),
        seed=getattr(config, "seed", 0),
        progress=_reading if progress else None,
        cache=options["cache"],
        streamed=options["streamed"],
        workers=options["workers"],
    )


def _of_data(data: Any) -> dict[str, Any]:
    """Fields that the data decide, for recipes that have them."""
    return {"resolution": data.size, "conditions": data.label_names, "spectra": data.channels}


def _reading(chunks: Any) -> Any:
    from tqdm import tqdm

    return tqdm(chunks, desc="reading images", leave=False, disable=not sys.stderr.isatty())


def _facts(recipe: Recipe | None, data: Any, source: str) -> dict[str, Any]:
    """Where a run comes from: recipe, data, command, versions."""
    import platform

    import torch

    return {
        "recipe": recipe.name if recipe else "stylegan2",
        "data": source,
        "images": len(data),
        "command": shlex.join(["pyface", *sys.argv[1:]]),
        "pyface": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }


def _write_configuration(out: Path, recipe: Recipe, config: Any, facts: dict[str, Any]) -> None:
    from pyface.io.atomic import write_text
    from pyface.training.configuration import plain, to_toml

    write_text(out / "recipe.json", json.dumps({**plain(config), **facts}, indent=1) + "\n")
    heading = f"# pyface train {recipe.name} --config THIS FILE --out FOLDER repeats the run.\n"
    write_text(out / "config.toml", heading + to_toml(config, {"recipe": recipe.name, "data": facts["data"]}))


def _announce(config: Any, data: Any, device: str, moved: dict[str, tuple[Any, Any]]) -> None:
    import torch

    click.echo(
        f"{len(data)} images of {data.size[0]}x{data.size[1]} from {data.source}; "
        f"conditions {', '.join(data.label_names) or 'none'} ({data.label_kind}); "
        f"images in {data.storage}; {getattr(config, 'precision', 'float32')} on {device}, "
        f"{torch.get_num_threads()} threads",
        err=True,
    )
    for name, (before, now) in moved.items():
        click.echo(f"resumed with {name} {now} instead of {before}", err=True)


def train_and_save(
    config: Any,
    data: Any,
    out: Path,
    *,
    recipe: Recipe | None = None,
    facts: dict[str, Any] | None = None,
    device: str = "cpu",
    resume: Path | None = None,
    start_from: Path | None = None,
    discriminator: Path | None = None,
    snapshot_kimg: float = 50.0,
    tick_kimg: float = 4.0,
    tensorboard: bool = False,
    minutes: float | None = None,
    ranks: Ranks | None = None,
    batch_gpu: int | None = None,
) -> Any:
    """Run a recipe to its end, with progress, sheets and snapshots in `out`; returns the run.

    recipe: whose build function is used; StyleGAN2 when absent. resume: a resume file to go on from.
    start_from, discriminator: networks to begin with, also of other sizes. ranks: the processes of the run,
    of which the first one writes; batch_gpu: images that one of them takes at a time.
    """
    from pyface.training.checkpoint import Snapshots, load_state, restore_state
    from pyface.training.distributed import Ranks
    from pyface.training.loop import EqualityCheck
    from pyface.training.observers import observers

    recipe = recipe or RECIPES["stylegan2"]
    ranks = ranks or Ranks()
    rounds = rounds_of(config.batch, ranks.size, batch_gpu)
    run: Run = recipe.build(config, data, device=device, ranks=ranks, rounds=rounds)
    total, interval = int(config.kimg * 1000), max(int(snapshot_kimg * 1000), config.batch)
    facts = {**(facts or _facts(recipe, data, data.source)), "label_samples": label_samples(data)}
    snapshots = Snapshots(out, run.saved, interval, config.plain(), facts)
    run.trainer.callbacks.append(EqualityCheck(interval))
    run.trainer.callbacks += observers(
        out,
        run.trainer.feed,
        run.generator,
        run.saved,
        snapshots,
        total=total,
        interval=interval,
        tick=max(int(tick_kimg * 1000), config.batch),
        tensorboard=tensorboard,
        minutes=minutes,
        seed=config.seed,
    )
    if resume is not None:
        restore_state(run.trainer, load_state(resume))
    elif start_from is not None:
        facts["transfer"] = _transfer(run, start_from, discriminator, out if ranks.main else None)
    if run.trainer.images_seen >= total:
        raise ValueRangeError(
            f"the run is at {run.trainer.images_seen / 1000:g} kimg already; raise --kimg above that."
        )
    run.trainer.run(total)
    return run


def _transfer(run: Run, start_from: Path, discriminator: Path | None, out: Path | None) -> Any:
    """Begin with other networks; tell what became of each tensor, also in `out`/transfer.json."""
    from pyface.io.atomic import write_text

    report = run.start_from(start_from, discriminator)
    if out is not None:
        click.echo(str(report), err=True)
        write_text(out / "transfer.json", json.dumps(report.to_dict(), indent=1) + "\n")
    return report.to_dict()


def rounds_of(batch: int, processes: int, batch_gpu: int | None) -> int:
    """Micro-batches in which one process takes its part of a batch, at most `batch_gpu` images each.

    Raises ValueRangeError when the parts are not whole, with the nearest batches that are.
    """
    if batch_gpu is None:
        return 1
    if batch_gpu < 1:
        raise ValueRangeError(f"--batch-gpu must be 1 or more; got {batch_gpu}.")
    together = processes * batch_gpu
    rounds, rest = divmod(batch, together)
    if rest or rounds < 1:
        legal = sorted({max(rounds, 1) * together, (rounds + 1) * together})
        raise ValueRangeError(
            f"--batch {batch} is no multiple of {together} ({processes} processes times --batch-gpu "
            f"{batch_gpu}). Use --batch {' or '.join(map(str, legal))}."
        )
    return rounds


def label_samples(data: Any, count: int = 256) -> list[list[float]]:
    """Label vectors of images spread over the set: what conditions occur together."""
    if data.labels.shape[1] == 0:
        return []
    step = max(len(data) // count, 1)
    return [[round(value, 3) for value in row] for row in data.labels[::step][:count].tolist()]
