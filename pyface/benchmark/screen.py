"""One screen about a machine: what `pyface bench` says, from the document that a run gives.

At most 80 columns and 40 lines: the machine with its measured ceilings, a line for each case that has a
label, start-up and memory, and two sentences.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from pyface.benchmark.case import EAGER, OURS
from pyface.benchmark.rivals import COMPILE, ONNX_RUNTIME, OPENVINO

__all__ = ["COLUMNS", "LINES", "limit_of", "screen_lines", "speed_of"]

COLUMNS, LINES = 80, 40
_OVERHEAD = 0.2  # below this share of the ceiling neither memory nor arithmetic explains the time
_LIMITS = {"memory": "memory", "compute": "arithmetic"}
_TYPES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
_HEADINGS = ("what", "speed", "of max", "limit")
_WAYS = {EAGER: "eager", COMPILE: "compile", OPENVINO: "OpenVINO", ONNX_RUNTIME: "ORT"}

Entry = Mapping[str, Any]


def screen_lines(document: Mapping[str, Any], seconds: float | None = None) -> list[str]:
    """The screen.

    Args:
        document: as `pyface.benchmark.schema` describes it; cases without a label are left out.
        seconds: how long measuring took.
    """
    entries = [entry for entry in document["cases"] if entry["screen"]]
    bottom = [
        *_process_lines(document.get("measurements", [])),
        "",
        *_wrapped(_strength(document, entries)),
        *_wrapped(_weakness(document, entries)),
    ]
    top = [*_machine_lines(document["machine"], seconds), "", *_ceiling_lines(document["ceilings"]), ""]
    settings = document["settings"]
    ways = [*([EAGER] if settings["eager"] else []), *settings["rivals"]]
    missing = [
        _cut(f"{word}: {each['name']}: {each['reason']}", COLUMNS)
        for word, found in (("failed", document["failed"]), ("left out", document["skipped"]))
        for each in found
    ]
    rows = _table(entries, ways, LINES - len(top) - len(bottom) - len(missing))
    return [*top, *rows, *missing, *bottom][:LINES]


def speed_of(entry: Entry) -> str:
    """The rate of ours in the unit that suits the work: images, bytes, operations, or the time of a call."""
    if entry["items_per_s"]:
        return f"{_number(entry['items_per_s'])} img/s"
    bound = entry["roofline"]["bound"] if entry["roofline"] else ""
    if bound == "compute" and entry["gflop_per_s"]:
        return f"{_number(entry['gflop_per_s'])} GFLOP/s"
    if bound == "memory" and entry["gb_per_s"] and entry["group"] != "calls":
        return f"{_number(entry['gb_per_s'])} GB/s"
    time = _milliseconds(entry["variants"][_ours(entry)])
    return f"{_number(time)} ms" if time >= 0.1 else f"{_number(time * 1e3)} us"


def limit_of(entry: Entry) -> str:
    """What the time is due to: "memory", "arithmetic" or "overhead".

    "" where that is not known: the arithmetic was not counted, and memory does not explain the time.
    """
    if entry["group"] == "calls":
        return "overhead"
    if not entry["roofline"]:
        return ""
    if entry["roofline"]["fraction"] >= _OVERHEAD:
        return _LIMITS[entry["roofline"]["bound"]]
    return "overhead" if entry["flops"] else ""


def _machine_lines(machine: Mapping[str, Any], seconds: float | None) -> list[str]:
    threads = f"{machine['threads']} thread{'s' if machine['threads'] > 1 else ''}"
    took = "" if seconds is None else f", {seconds:.0f} s"
    return [
        _cut(f"{machine['gpu'] or machine['cpu']}", COLUMNS),
        _cut(
            f"{machine['logical_cores']} cores, {machine['memory_gb']:g} GB; pyface {machine['pyface']}, "
            f"torch {machine['torch']}; measured with {threads}{took}",
            COLUMNS,
        ),
    ]


def _ceiling_lines(ceilings: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    """What the machine does at most, by number of threads."""
    lines = ["ceilings          copy GB/s   in cache   float32 GFLOP/s   bfloat16 GFLOP/s"]
    for count, rates in ceilings.items():
        name = f"{count} thread{'s' if int(count) > 1 else ''}"
        cells = (rates["copy_gb_s"], rates["cache_gb_s"], rates["float32_gflops"], rates["bfloat16_gflops"])
        widths = (16, 10, 17, 18)
        numbers = [_number(value).rjust(width) for value, width in zip(cells, widths, strict=True)]
        lines.append(f"{name:<11}" + " ".join(numbers)[: COLUMNS - 11])
    return lines


def _table(entries: Sequence[Entry], ways: Sequence[str], room: int) -> list[str]:
    """The heading and a line per entry, in at most `room` lines; ways: what ours is compared with."""
    headings = (*_HEADINGS, *[_WAYS.get(way, way) for way in ways])
    rows = [headings, *[_cells(entry, ways) for entry in entries]]
    if len(rows) > room:
        more = len(rows) - room + 1
        rows = rows[: room - 1]
        return [*_aligned(rows), f"and {more} more: pyface bench --only TEXT"]
    return _aligned(rows)


def _cells(entry: Entry, ways: Sequence[str]) -> tuple[str, ...]:
    ratios = [entry["speedup"].get(way) for way in ways]
    return (
        _what(entry),
        speed_of(entry),
        f"{entry['roofline']['fraction']:.0%}" if entry["roofline"] and limit_of(entry) else "-",
        limit_of(entry) or "-",
        *[_times(ratio["median"]) if ratio else "-" for ratio in ratios],
    )


def _what(entry: Entry) -> str:
    """The label, with the size and the element type where it does not tell them."""
    label = _labelled(entry)
    if not any(letter.isdigit() for letter in entry["screen"]):
        return f"{label.removesuffix(_type(entry)).rstrip(' ,')}, {entry['size']} {_type(entry)}".rstrip(" ,")
    return label


def _labelled(entry: Entry) -> str:
    """The label with the element type."""
    label = str(entry["screen"])
    for name, short in _TYPES.items():
        label = label.replace(name, short)
    dtype = _type(entry)
    return label if dtype in label else f"{label}, {dtype}"


def _type(entry: Entry) -> str:
    return _TYPES.get(entry["dtype"], "")


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Columns as wide as they have to be; labels are cut where a line would be too long."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    widths[0] = min(widths[0], COLUMNS - sum(widths[1:]) - len(widths) + 1 - 3)
    lines = []
    for row in rows:
        cells = [
            _cut(cell, width).ljust(width) if column in (0, 3) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(f"{cells[0]}  {cells[1]} {cells[2]}   {' '.join(cells[3:])}".rstrip())
    return lines


def _process_lines(measurements: Sequence[Mapping[str, Any]]) -> list[str]:
    """Start-up and memory, from the figures of fresh processes."""
    found = {(each["name"].removeprefix("process/"), each["variant"]): each["value"] for each in measurements}
    start = [
        _told("import pyface", found.get(("start/import", OURS)), "s"),
        _told("Python alone", found.get(("start/import", "Python alone")), "s"),
        _told("import torch", found.get(("start/import", "torch")), "s"),
        _told("load the demo and make an image", _first(found, "first/demo"), "s"),
    ]
    memory = [
        *[
            _told(name.removeprefix("memory/"), value, "MB at the peak")
            for (name, variant), value in found.items()
            if name.startswith("memory/") and variant == OURS
        ][:1],
        _told("installed", found.get(("disk/installed", OURS)), "MB"),
    ]
    lines = []
    for title, parts in (("start-up", start), ("memory", memory)):
        if any(parts):
            text = ", ".join(part for part in parts if part)
            lines += textwrap.wrap(f"{title:<10}{text}", COLUMNS, subsequent_indent=" " * 10)
    return ["", *lines] if lines else []


def _first(found: Mapping[tuple[str, str], float], name: str) -> float | None:
    return next((value for (key, way), value in found.items() if key.startswith(name) and way == OURS), None)


def _told(what: str, value: float | None, unit: str) -> str:
    return "" if value is None else f"{what} {_number(value)} {unit}"


def _strength(document: Mapping[str, Any], entries: Sequence[Entry]) -> str:
    """What the machine is fast at."""
    rates = next(iter(document["ceilings"].values()), None)
    if rates is None:
        return ""
    gain = rates["bfloat16_gflops"] / rates["float32_gflops"]
    if gain >= 1.2:
        text = f"This machine is fast at bfloat16: {gain:.1f} times its float32 arithmetic"
    else:
        text = "This machine computes float32 as fast as bfloat16, so float32 costs nothing"
    compared = [entry for entry in entries if EAGER in entry["speedup"]]
    if compared:
        best = max(compared, key=_gain)
        text += f'; pyface gains most at "{_labelled(best)}": {_times(_gain(best))} torch eager'
    return text + "."


def _weakness(document: Mapping[str, Any], entries: Sequence[Entry]) -> str:
    """What limits it."""
    rates = next(iter(document["ceilings"].values()), None)
    limits = [limit_of(entry) for entry in entries]
    counts = [
        f"{name} in {limits.count(name)} line{'s' if limits.count(name) > 1 else ''}"
        for name in (*_LIMITS.values(), "overhead")
        if limits.count(name)
    ]
    if rates is None or not counts:
        return ""
    intensity = rates["float32_gflops"] / rates["copy_gb_s"]
    listed = " and ".join(part for part in (", ".join(counts[:-1]), counts[-1]) if part)
    text = (
        f"The limit is {listed}: memory moves {_number(rates['copy_gb_s'])} GB/s, so that work of fewer than "
        f"{intensity:.0f} float32 operations per byte waits for it"
    )
    lost = [entry for entry in entries if EAGER in entry["speedup"] and _gain(entry) < 1]
    if lost:
        worst = min(lost, key=_gain)
        text += f'; torch eager is faster at "{_labelled(worst)}" ({_times(_gain(worst))})'
    return text + "."


def _gain(entry: Entry) -> float:
    ratio: float = entry["speedup"][EAGER]["median"]
    return ratio


def _ours(entry: Entry) -> str:
    return str(next(iter(entry["variants"])))


def _milliseconds(times: Mapping[str, Any]) -> float:
    found: float = (times["cpu_ms"] or times["wall_ms"])["median"]
    return found


def _number(value: float | None) -> str:
    """Three digits; thousands apart.

    >>> [_number(value) for value in (0.0312, 4.567, 12.34, 987.6, 12345.0)]
    ['0.0312', '4.57', '12.3', '988', '12,345']
    """
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _times(ratio: float) -> str:
    """Three digits.

    >>> [_times(value) for value in (0.5, 3.0, 12.34, 123.4)]
    ['0.50x', '3.00x', '12.3x', '123x']
    """
    return f"{ratio:.{2 if ratio < 10 else 1 if ratio < 100 else 0}f}x"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, COLUMNS) if text else []


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(width - 1, 0)].rstrip() + "~"
