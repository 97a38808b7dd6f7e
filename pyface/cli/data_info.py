"""`pyface data info`: what a dataset holds, and how its classes are balanced."""

from __future__ import annotations

import collections
import dataclasses
import json
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click
import numpy as np

if TYPE_CHECKING:
    from pyface.data.sample import FaceDataset

_PROBLEMS_SHOWN = 20
_SIZES_SHOWN = 8


def _words(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in value.split(",") if word.strip())


@click.command("info")
@click.argument("source")
@click.option(
    "--columns", default="", callback=_words, help="Show the balance of these alone, such as AU12,emotion."
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def info(source: str, columns: tuple[str, ...], as_json: bool) -> None:
    """Say what the dataset SOURCE holds: pictures, people, sizes, and each column's balance.

    SOURCE is a folder or .zip, or LAYOUT:NAME=VALUE,...:PATH as for --data of `pyface train`, such as
    ckplus:frames=all:CK+. The layout is recognised when it is not named.

    For every value of a column: how many pictures have it and which share that is, and how many people. What
    is wrong with the files is listed and left out.
    """
    from pyface.data.layouts import layout_of, open_dataset, parse_named, read_options

    layout, texts, path = parse_named(source)
    chosen = layout or layout_of(path)
    dataset = open_dataset(path, chosen, **{"on_problem": "skip", **read_options(texts)})
    told = _told(source, chosen, dataset, columns)
    click.echo(json.dumps(told, indent=1) if as_json else "\n".join(_lines(told, repr(dataset))))


def _told(source: str, layout: str, dataset: FaceDataset, columns: Sequence[str]) -> dict[str, Any]:
    """Everything that is known, as JSON takes it."""
    balance = dataset.balance(columns or None)
    named = "identity" in dataset.annotations
    return {
        "source": source,
        "layout": layout,
        "pictures": len(dataset),
        "people": len(np.unique(dataset.annotations["identity"])) if named else None,
        "spectra": list(dataset.spectra),
        "sizes": {f"{h}x{w}": n for (h, w), n in _sizes(dataset).most_common()},
        "labels": list(dataset.label_names),
        "balance": {
            name: [dataclasses.asdict(share) | {"value": _plain(share.value)} for share in shares]
            for name, shares in balance.items()
        },
        "problems": [dataclasses.asdict(problem) for problem in getattr(dataset, "problems", ())],
    }


def _sizes(dataset: FaceDataset) -> collections.Counter[tuple[int, int]]:
    """How many pictures have which height and width."""
    sizes = getattr(dataset, "sizes", None)
    if sizes is None:
        height, width, _ = dataset.image_shape
        return collections.Counter({(height, width): len(dataset)})
    return collections.Counter((int(h), int(w)) for h, w in sizes)


def _plain(value: Any) -> Any:
    return [float(f"{v:.6g}") for v in value] if isinstance(value, tuple) else value


def _lines(told: dict[str, Any], name: str) -> Iterator[str]:
    from pyface.data.problems import Problem

    people = "people are not known" if told["people"] is None else f"{told['people']} people"
    yield name
    yield f"  layout          {told['layout']}"
    yield f"  pictures        {told['pictures']} ({' + '.join(told['spectra'])}), {people}"
    sizes = list(told["sizes"].items())
    shown = ", ".join(f"{size}: {count}" for size, count in sizes[:_SIZES_SHOWN])
    rest = f" and {len(sizes) - _SIZES_SHOWN} more" if len(sizes) > _SIZES_SHOWN else ""
    yield f"  height x width  {shown}{rest}"
    yield from _balance_lines(told["balance"])
    problems = told["problems"]
    yield f"  problems        {len(problems) or 'none'}"
    for problem in problems[:_PROBLEMS_SHOWN]:
        yield f"    {Problem(**problem)}  [{problem['code']}]"
    if len(problems) > _PROBLEMS_SHOWN:
        yield f"    ... and {len(problems) - _PROBLEMS_SHOWN} more; --json has all"


def _balance_lines(balance: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    varied = {name: shares for name, shares in balance.items() if len(_there(shares)) > 1}
    if varied:
        width = max(len(name) for name in varied)
        yield f"  {'column':<{width}}  {'value':>14}  {'pictures':>16}  {'people':>16}"
    for name, shares in varied.items():
        heading = name
        yes_or_no = all(share["value"] in (False, True, None) for share in shares)  # bins are lists
        for share in _there(shares):
            if yes_or_no and share["value"] is not None and not share["value"]:
                continue  # the others, which go without saying
            pictures = f"{share['count']} ({100 * share['share']:.1f} %)"
            people = f"{share['people']} ({100 * share['people_share']:.1f} %)"
            yield f"  {heading:<{width}}  {_value(share['value']):>14}  {pictures:>16}  {people:>16}"
            heading = ""
    same = [f"{name} {_value(_there(s)[0]['value'])}" for name, s in balance.items() if len(_there(s)) == 1]
    if same:
        text = f"the same everywhere: {', '.join(same)}"
        yield from textwrap.wrap(text, 100, initial_indent="  ", subsequent_indent="    ")


def _there(shares: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [share for share in shares if share["count"]]


def _value(value: Any) -> str:
    if value is None:
        return "not known"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return f"{value[0]:.3g} to {value[1]:.3g}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
