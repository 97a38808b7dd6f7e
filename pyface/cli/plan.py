"""`pyface plan`: how much memory a training will take, and what to lower when that is too much."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from pyface.cli.train import field_options, given_values
from pyface.errors import ValueRangeError
from pyface.training.recipes import RECIPES

GPU_NOTE = (
    "GPU figures are a prediction that has not been compared with a GPU: counted tensors, 10 % for blocks "
    "that the caching allocator cannot reuse, cuDNN's workspace, 0.8 GB for the context and the libraries."
)
CPU_NOTE = (
    "Counted tensors, oneDNN's workspace, 25 % for the allocator's heap, 0.36 GB for the libraries. Images "
    "that the dataset keeps in memory come on top."
)


@click.command(short_help="Predict the memory of a training, and say what to lower.")
@click.option(
    "--gpu", metavar="SIZE", help="Memory of the GPU: 24GB, 8GiB, or auto for what is free on this one."
)
@click.option("--ram", metavar="SIZE", help="For training on the CPU: 16GB, or auto for what is free here.")
@click.option("--batch-gpu", type=int, help="Images of a process at a time.  [default: its whole share]")
@click.option("--processes", type=int, default=1, show_default=True, help="GPUs that share the batch.")
@click.option("--config", type=click.Path(path_type=Path), help="TOML file with values of fields.")
@click.option("--set", "set_", multiple=True, metavar="FIELD=VALUE", help="Value of a field; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(context: click.Context, as_json: bool, **options: Any) -> None:
    """Predict the peak memory of `pyface train stylegan2` with the same options.

    A step is rehearsed with the real networks on tensors without numbers, path length and R1 with their
    second derivatives included. Exit status 0 when it fits, 1 when it does not; then each line names what to
    lower, what that costs and the peak it leads to. Without --gpu and --ram this machine is asked.
    """
    from pyface.training.configuration import plain, resolve
    from pyface.training.plan import plan
    from pyface.training.remedies import remedies

    recipe = RECIPES["stylegan2"]
    config = resolve(recipe.config, given_values(recipe, {**options, "data": None})[0])
    device, limit = _place(options["gpu"], options["ram"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = plan(config, options["batch_gpu"], device, processes=options["processes"])
        fits = made.peak <= limit
        found = (
            []
            if fits
            else remedies(
                config, limit, options["batch_gpu"], device, processes=options["processes"], planned=made
            )
        )
    if as_json:
        document = {
            "recipe": recipe.name,
            "settings": plain(config),
            "limit": limit,
            "fits": fits,
            "plan": made.to_dict(),
            "remedies": [
                {"options": r.options, "cost": r.cost, "fits": r.plan.peak <= limit, "plan": r.plan.to_dict()}
                for r in found
            ],
            "note": GPU_NOTE if device == "cuda" else CPU_NOTE,
        }
        click.echo(json.dumps(document, indent=1))
    else:
        click.echo("\n".join([*_plan_lines(config, made, limit), *_remedy_lines(found, limit)]))
        click.echo(f"\n{GPU_NOTE if device == 'cuda' else CPU_NOTE}")
    context.exit(0 if fits else 1)


for _option in reversed(field_options(RECIPES["stylegan2"])):
    command = _option(command)


def _place(gpu: str | None, ram: str | None) -> tuple[str, int]:
    """The kind of device and the bytes that there are."""
    import torch

    from pyface.training.remedies import available_memory, parse_bytes

    if gpu is not None and ram is not None:
        raise ValueRangeError(f"--gpu {gpu} and --ram {ram} name two places to train in; give one of them.")
    if gpu is None and ram is None:
        gpu, ram = ("auto", None) if torch.cuda.is_available() else (None, "auto")
    device, size = ("cuda", gpu) if gpu is not None else ("cpu", str(ram))
    return device, available_memory(device) if size == "auto" else parse_bytes(str(size))


def _plan_lines(config: Any, made: Any, limit: int) -> list[str]:
    from pyface.training.remedies import text_of_bytes as said

    height, width = config.resolution
    rounds = f" in {made.rounds} rounds" if made.rounds > 1 else ""
    shared = f" on each of {made.processes} processes" if made.processes > 1 else ""
    verdict = "fits" if made.peak <= limit else "does not fit"
    parts = {"runtime": made.base, **made.parts, "workspace": made.workspace, "allocator": made.allocator}
    return [
        f"stylegan2 {height}x{width}, batch {config.batch}, {made.micro_batch} at a time{rounds}{shared}, "
        f"{config.precision} on {'a GPU' if made.device == 'cuda' else 'the CPU'}",
        f"predicted peak {said(made.peak)} of {said(limit)}: {verdict}",
        "",
        f"at the worst moment (phase {made.phase}):",
        *(f"  {name:<16}{said(size):>9}" for name, size in parts.items() if size),
        "peak of each phase:",
        *(f"  {name:<16}{said(size):>9}" for name, size in made.phases.items()),
    ]


def _remedy_lines(found: Sequence[Any], limit: int) -> list[str]:
    from pyface.training.remedies import text_of_bytes as said

    if not found:
        return []
    wide = max(len(remedy.options) for remedy in found)
    lines = ["", "to lower it, cheapest first:"]
    for remedy in found:
        verdict = "fits" if remedy.plan.peak <= limit else "no"
        rounds = f"{remedy.plan.rounds} rounds: " if "--batch-gpu" in remedy.options else ""
        lines.append(
            f"  {remedy.options:<{wide}}  {said(remedy.plan.peak):>8}  {verdict:<4}  {rounds}{remedy.cost}"
        )
    if not any(remedy.plan.peak <= limit for remedy in found):
        lines.append("  Nothing of this fits; train on a device with more memory.")
    return lines
