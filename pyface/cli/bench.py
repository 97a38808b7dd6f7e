"""`pyface bench`: how fast this machine is at what, and what limits it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from pyface.benchmark.machine import device_slug
from pyface.benchmark.process_cases import process_cases
from pyface.benchmark.rivals import COMPILE, ONNX_RUNTIME, OPENVINO
from pyface.benchmark.screen import screen_lines
from pyface.benchmark.suite import all_cases, run_suite
from pyface.errors import BackendError, ValueRangeError
from pyface.io.atomic import make_folder, write_text

EAGER = "eager"
# word of --against -> (name in tables, module that it needs)
RIVALS = {
    "compile": (COMPILE, "torch"),
    "openvino": (OPENVINO, "openvino"),
    "onnxruntime": (ONNX_RUNTIME, "onnxruntime"),
}


def parse_against(ctx: click.Context, option: click.Parameter, words: str | None) -> tuple[str, ...] | None:
    """The words of --against; None where it was not given."""
    if words is None:
        return None
    found = tuple(dict.fromkeys(word.strip().lower() for word in words.split(",") if word.strip()))
    unknown = [word for word in found if word != EAGER and word not in RIVALS]
    if unknown or not found:
        raise click.BadParameter(
            f"takes words of {EAGER}, {', '.join(RIVALS)}, separated by commas; got {words!r}."
        )
    return found


@click.command(short_help="Say how fast this machine is at what, and what limits it.")
@click.option(
    "--only",
    multiple=True,
    metavar="TEXT",
    help="Measure the cases whose name has this in it, or whose group it is; may be repeated.",
)
@click.option("--suite", is_flag=True, help="Measure everything; takes hours.")
@click.option("--quick", is_flag=True, help="Fewer cases and rounds.")
@click.option(
    "--against",
    callback=parse_against,
    metavar="WAYS",
    help="Compare with these of eager,compile,openvino,onnxruntime. "
    "[default: eager; with --only and --suite all that are installed]",
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="CPU threads.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Write JSON: to this .json file, or into this folder as <device>/<what>.json.",
)
@click.option("--list", "list_names", is_flag=True, help="Print the names of the cases and stop.")
@click.option(
    "--tune",
    is_flag=True,
    help="Measure how layers are best cut on this machine, on a GPU which convolutions take our kernels, and "
    "use it from then on.",
)
def command(
    only: tuple[str, ...],
    suite: bool,
    quick: bool,
    against: tuple[str, ...] | None,
    device: str,
    threads: int,
    out: Path | None,
    list_names: bool,
    tune: bool,
) -> None:
    """Say how fast this machine is at what, and what limits it: one screen, in a few minutes.

    With --only or --suite a line for each case instead, with the ratio to every other way to do it: above 1
    pyface is faster. Figures are medians over interleaved rounds; results are checked against a float64
    reference first. A case that fails is written down, the others are measured, and the exit status is 1.
    bench/report.py turns the JSON files of --out into bench/RESULTS.md.
    """
    if list_names:
        names = [*[case.name for case in all_cases()], *[case.name for case in process_cases()]]
        click.echo("\n".join(dict.fromkeys(names)))
        return
    _check(only, suite, quick, device, threads, tune)
    if out is not None and out.suffix != ".json" and out.is_file():
        raise ValueRangeError(f"--out must be a folder or end in .json; got the file {out}.")
    if tune:
        if device == "cuda":
            from pyface.benchmark.convolution_tuning import tune as measure_and_write
        else:
            from pyface.benchmark.tuning import tune as measure_and_write

        click.echo(f"wrote {measure_and_write(out=out, report=click.echo)}")
        return
    screen = not (only or suite)
    words = against if against is not None else _default_ways(screen)
    rivals = [_installed(word) for word in words if word != EAGER]
    name = "suite" if suite else "screen" if screen else _file_name(only)

    def keep(document: dict[str, Any]) -> None:
        _write(out, name, threads, document)

    start = time.perf_counter()
    document = run_suite(
        only,
        quick=quick,
        screen=screen,
        device=device,
        num_threads=threads,
        eager=EAGER in words,
        rivals=rivals,
        report=_progress(screen),
        keep=keep,
    )
    if screen:
        _progress(screen)("")
        click.echo("\n".join(screen_lines(document, time.perf_counter() - start)))
    if out is not None:
        click.echo(f"wrote {_write(out, name, threads, document)}")
    _exit_for(document["failed"])


def _exit_for(failed: Sequence[Mapping[str, str]]) -> None:
    """Names what failed and ends with exit status 1; returns where nothing did."""
    if failed:
        click.echo(f"{len(failed)} failed: {', '.join(each['name'] for each in failed)}", err=True)
        sys.exit(1)


def _check(only: Sequence[str], suite: bool, quick: bool, device: str, threads: int, tune: bool) -> None:
    """Raises UsageError for options that exclude each other, and pyface's errors for what is not here."""
    if suite and only:
        raise click.UsageError("--suite measures every case and --only some: give one of them.")
    if tune and (only or suite or quick):
        raise click.UsageError("--tune measures layers of its own: leave --only, --suite and --quick away.")
    cores = os.cpu_count() or 1
    if threads > cores:
        raise ValueRangeError(f"--threads must be at most {cores}, the cores of this machine; got {threads}.")
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise BackendError("no CUDA device is here; `pyface doctor` says why. Leave --device away.")


def _default_ways(screen: bool) -> tuple[str, ...]:
    return (EAGER,) if screen else (EAGER, *[word for word in RIVALS if _is_installed(word)])


def _is_installed(word: str) -> bool:
    return importlib.util.find_spec(RIVALS[word][1]) is not None


def _installed(word: str) -> str:
    """The name of a way in tables. Raises BackendError where its package is missing."""
    name, module = RIVALS[word]
    if not _is_installed(word):
        raise BackendError(
            f"{module} is not installed: pip install 'pyface-synth[bench]', or leave {word} away."
        )
    return name


def _progress(screen: bool) -> Callable[[str], None]:
    """Lines of cases, or, before a screen, the case at hand on a line that is written over."""

    def report(line: str) -> None:
        if not screen:
            click.echo(line)
        elif sys.stderr.isatty():
            click.echo(f"\r\033[K{line[:78]}", nl=False, err=True)

    return report


def _write(out: Path | None, name: str, threads: int, document: dict[str, Any]) -> Path | None:
    """Writes the document, after each case and at the end; its path."""
    if out is None:
        return None
    path = out
    if out.suffix != ".json":
        count = f"-{threads}-threads" if threads > 1 else ""
        path = out / device_slug(document["machine"]) / f"{name}{count}.json"
    make_folder(path.parent)
    write_text(path, json.dumps(document, indent=1) + "\n")
    return path


def _file_name(only: Sequence[str]) -> str:
    """The texts of --only as a file name."""
    words = re.sub(r"[^a-z0-9]+", "-", " ".join(only).lower()).strip("-")
    return words[:60] or "cases"
