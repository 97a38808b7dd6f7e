"""The command `pyface`: one file per verb, each imported only when its verb is used."""

from __future__ import annotations

import importlib
import os
import sys

import click

from pyface import __version__
from pyface.errors import PyfaceError

# verb -> (module with an attribute `command`, help line)
VERBS = {
    "bench": ("pyface.cli.bench", "Say how fast this machine is at what, and what limits it."),
    "convert": ("pyface.cli.convert", "Convert an NVIDIA or rosinality checkpoint without running its code."),
    "data": ("pyface.cli.data", "Render, check, repair, pack and look at datasets."),
    "doctor": ("pyface.cli.doctor", "Say what is installed, which back-ends run, and what is missing."),
    "evaluate": ("pyface.cli.evaluate", "Compare a generator's images with real ones."),
    "export": ("pyface.cli.export", "Write a network for other runtimes: ONNX, OpenVINO, TensorRT."),
    "faces": ("pyface.cli.faces", "Find, align, cut out and put back the faces of photographs."),
    "generate": ("pyface.cli.generate", "Make images, grids and videos with a generator."),
    "models": ("pyface.cli.models", "List, fetch and add networks for faces, and print their licences."),
    "plan": ("pyface.cli.plan", "Predict the memory of a training, and say what to lower."),
    "train": ("pyface.cli.train", "Train a generator on a dataset."),
    "verify": ("pyface.cli.verify", "Compare an exported artefact with its network."),
}


class LazyGroup(click.Group):
    """A click group whose commands are imported when they are named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(VERBS[cmd_name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(verb, VERBS[verb][1]) for verb in sorted(VERBS)])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pyface")
def cli() -> None:
    """Synthetic face data: train, convert, generate, render."""


def main() -> None:
    """Run the command line; a PyfaceError or an OSError is one line on stderr and exit status 1."""
    try:
        cli(prog_name="pyface")
    except PyfaceError as error:
        click.echo(f"pyface: {error}", err=True)
        sys.exit(1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        click.echo(f"pyface: {error.strerror or error}: {error.filename or ''}".rstrip(": "), err=True)
        sys.exit(1)
