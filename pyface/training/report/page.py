"""The page of a report: one HTML text with style, curves and pictures inside."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from importlib import resources
from typing import Any

from pyface import __version__
from pyface.training.progress import duration
from pyface.training.report.columns import column_of
from pyface.training.report.curves import Series, chart, number
from pyface.training.report.folder import RunFolder, Sheet, SheetRow, data_uri
from pyface.training.statistics import WALL_CLOCK

__all__ = ["page"]

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
GAME = ("loss/adversarial", "loss/fake", "loss/real")  # on one scale, so in one figure
FACTS = ("recipe", "data", "images", "command", "pyface", "torch", "python")
TITLES = {"fakes": "Generated images", "reals": "Real images"}
NOTES = {
    "fakes": "running average, as in the snapshots; always the same latents",
    "reals": "of the training set; their labels are those of the generated tiles",
}
STATES = {
    "finished": "finished",
    "interrupted": "interrupted",
    "failed": "failed",
    "running": "no end recorded",
}


def page(run: RunFolder) -> str:
    """The whole report as HTML that needs nothing from outside."""
    files = resources.files("pyface.training.report")
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(run.name)} - training report</title>",
        f"<style>{files.joinpath('page.css').read_text(encoding='utf-8')}</style></head><body><main>",
        *_heading(run),
        *_warnings(run),
        *_sheets(run),
        *_curves(run),
        *_figures(run),
        *_configuration(run),
        f"<footer>Made by pyface {__version__} from the files of the run. The page is whole: it loads "
        "nothing and opens without a network.</footer></main>",
        f"<script>{files.joinpath('page.js').read_text(encoding='utf-8')}</script></body></html>",
    ]
    return "\n".join(parts) + "\n"


def _heading(run: RunFolder) -> Iterator[str]:
    facts = run.configuration
    state = f'<span class="state {run.state}">{STATES[run.state]}</span>'
    yield f"<header><h1>{escape(run.name)}</h1>{state}</header>"
    about = [str(facts[name]) for name in ("recipe",) if name in facts]
    about += [f"{facts['images']} images of {facts.get('data', '')}"] if "images" in facts else []
    about += [f"{name} {facts[name]}" for name in ("pyface", "torch") if name in facts]
    times = [e["time"][:16].replace("T", " ") for e in run.events if "time" in e]
    about += [f"{times[0]} to {times[-1]} UTC"] if times else []
    yield f'<p class="about">{escape(" · ".join(about))}</p>'
    if run.records:
        tiles = "".join(f"<div><dt>{escape(name)}</dt><dd>{value}</dd></div>" for name, value in _tiles(run))
        yield f'<dl class="tiles">{tiles}</dl>'


def _tiles(run: RunFolder) -> Iterator[tuple[str, str]]:
    last = run.records[-1]
    total = run.configuration.get("kimg")
    whole = (
        f" <small>of {number(total)} kimg</small>"
        if isinstance(total, int | float)
        else " <small>kimg</small>"
    )
    yield "Seen", number(last["kimg"]) + whole
    if isinstance(last.get("seconds"), int | float):
        yield "Time", duration(last["seconds"])
    rates = sorted(run.column("images_per_second")[1])
    if rates:
        yield "Speed, median", f"{number(rates[len(rates) // 2])} <small>img/s</small>"
    for name, title in (("augment_p", "ADA p"), ("diversity", "Diversity")):
        values = run.column(name)[1]
        if values:
            yield title, number(values[-1])
    memory = run.column("peak_memory_mb")[1]
    if memory:
        yield "Peak memory", f"{number(max(memory) / 1024)} <small>GB</small>"
    warnings = sum(e.get("event") == "warning" for e in run.events)
    yield "Warnings", str(warnings)


def _warnings(run: RunFolder) -> Iterator[str]:
    told = [e for e in run.events if e.get("event") in ("warning", "failed", "interrupted", "resumed")]
    yield "<h2>Warnings and interruptions</h2>"
    if not told:
        yield '<p class="about">None.</p>'
        return
    lines = []
    for event in told[-40:]:
        kind = str(event["event"])
        time = str(event.get("time", ""))[:16].replace("T", " ")
        lines.append(
            f'<li class="{escape(kind)}"><b>{escape(kind.capitalize())}</b>'
            f"<span>{number(float(event.get('kimg', 0)))} kimg, {escape(time)}</span>"
            f"{escape(str(event.get('text', '')))}</li>"
        )
    yield f'<ul class="events">{"".join(lines)}</ul>'


def _sheets(run: RunFolder) -> Iterator[str]:
    if not run.sheets:
        return
    yield '<h2>Samples</h2><div class="sheets">'
    for row in run.sheets:
        yield _sheet(row)
    yield "</div>"


def _sheet(row: SheetRow) -> str:
    title = TITLES[row.kind] + (f", {row.spectrum}" if row.spectrum else "")
    slider = ""
    if len(row.sheets) > 1:
        last = len(row.sheets) - 1
        slider = (
            f'<label class="slider"><input type="range" min="0" max="{last}" value="{last}" '
            f'aria-label="checkpoint of: {escape(title)}"><output></output></label>'
        )
    toggle = ""
    if any(sheet.raw for sheet in row.sheets):
        toggle = (
            '<label class="toggle"><input type="checkbox"> without average: the network in training</label>'
        )
    frames = "".join(_frame(title, sheet) for sheet in row.sheets)
    return (
        f'<figure class="sheet"><figcaption><strong>{escape(title)}</strong>'
        f"<small>{escape(NOTES[row.kind])}</small>{toggle}{slider}</figcaption>{frames}</figure>"
    )


def _frame(title: str, sheet: Sheet) -> str:
    name = escape(f"{title} {sheet.label}".strip())
    shown = [f'<img alt="{name}" class="average" src="{data_uri(sheet.path)}">']
    if sheet.raw is not None:
        shown.append(f'<img alt="{name}, without average" class="raw" src="{data_uri(sheet.raw)}">')
    pair = " pair" if sheet.raw else ""
    label = f"<span>{escape(sheet.label)}</span>" if sheet.label else ""
    return f'<div class="frame{pair}" data-label="{escape(sheet.label)}">{label}{"".join(shown)}</div>'


def _curves(run: RunFolder) -> Iterator[str]:
    marks = [float(e["kimg"]) for e in run.events if e.get("event") == "warning" and "kimg" in e]
    columns = run.columns
    game = [name for name in GAME if name in columns]
    training = [name for name in columns if name not in WALL_CLOCK and name not in game]
    machine = [name for name in columns if name in WALL_CLOCK]
    if len(columns) == 0:
        return
    note = "a thin dashed line marks a warning" if marks else "over thousands of images seen"
    yield f'<h2>Curves</h2><p class="about">{note}</p><div class="charts">'
    if game:
        series = [Series(name.partition("/")[2], *run.column(name), column=name) for name in game]
        about = (
            "what generator (adversarial) and discriminator (fake, real) pay; all 0.69 when it cannot tell"
        )
        yield chart("Adversarial losses", series, note=about, zero=True, span=run.span, marks=marks)
    for name in (*training, *machine):
        known = column_of(name)
        series = [Series(name, *run.column(name))]
        loss = name.startswith("loss/")
        yield chart(
            known.title, series, note=known.note, zero=known.zero, log=loss, span=run.span, marks=marks
        )
    yield "</div>"


def _figures(run: RunFolder) -> Iterator[str]:
    if not run.columns:
        return
    rows = []
    for name in run.columns:
        values = run.column(name)[1]
        cells = "".join(f"<td>{number(v)}</td>" for v in (values[0], min(values), max(values), values[-1]))
        note = escape(column_of(name).note)
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{cells}<td class="means">{note}</td></tr>')
    heads = "".join(
        f'<th scope="col">{name}</th>' for name in ("column", "first", "least", "greatest", "last", "")
    )
    yield (
        f'<h2>Figures</h2><div class="scroll"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _configuration(run: RunFolder) -> Iterator[str]:
    if not run.configuration:
        return
    yield "<h2>Configuration</h2>"
    if command := run.configuration.get("command"):
        yield f"<pre>{escape(str(command))}</pre>"
    settings = {k: v for k, v in run.configuration.items() if k not in FACTS}
    pairs = "".join(
        f"<div><dt>{escape(k)}</dt><dd>{escape(_plain(v))}</dd></div>" for k, v in settings.items()
    )
    yield f'<dl class="settings">{pairs}</dl>'


def _plain(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(_plain(v) for v in value) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items()) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
