"""The table of engines in bench/RESULTS.md: speed, agreement, start-up and memory side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from report_tables import OURS, by_name, heading, median, number, ratio, row

Entry = Mapping[str, Any]
PREFIX = "engines/"


def engine_table(cases: Sequence[Entry], measurements: Sequence[Entry]) -> list[str]:
    """One row for each engine of each case; "start" is measured one picture at a time."""
    names = [
        "pictures",
        "precision",
        "engine",
        "img/s",
        "time by pyface's",
        "PSNR dB",
        "start s",
        "memory MB",
    ]
    lines = heading(names)
    figures = by_name(measurements)
    for case in cases:
        size, dtype = case["size"], case["dtype"]
        one = f"1x{size.split('x', 1)[1]}"
        starts = figures.get(f"{PREFIX}start/{one} {dtype}", {})
        peaks = figures.get(f"{PREFIX}memory/{size} {dtype}", {})
        for way in (*case["variants"], *case["left_out"]):
            cells = [size, dtype, way, *_speed(case, way)]
            lines.append(row([*cells, _value(starts, way), _value(peaks, way)]))
    for name, ways in figures.items():
        if name.startswith(f"{PREFIX}speed/"):
            lines += _alone(name.removeprefix(f"{PREFIX}speed/"), ways, figures)
    return lines


def _alone(work: str, ways: Mapping[str, Entry], figures: Mapping[str, Mapping[str, Entry]]) -> list[str]:
    """Rows of engines whose speed was measured in processes of their own."""
    size, dtype = work.split(" ")
    starts = figures.get(f"{PREFIX}start/1x{size.split('x', 1)[1]} {dtype}", {})
    peaks = figures.get(f"{PREFIX}memory/{work}", {})
    lines = []
    for way, each in ways.items():
        times = f"{ways[OURS]['value'] / each['value']:.2f}x" if way != OURS and OURS in ways else "1"
        cells = [size, dtype, way, number(each["value"]), times, "-"]
        lines.append(row([*cells, _value(starts, way), _value(peaks, way)]))
    return lines


def _speed(case: Entry, way: str) -> list[str]:
    """Pictures a second, the ratio, and PSNR; dashes where the engine was left out."""
    times = case["variants"].get(way)
    if times is None:
        return ["-", ratio(case, way), "-"]
    decibels = (times["error"] or {}).get("psnr_db")
    exact = "exact" if times["error"] and times["error"]["max"] == 0 else "-"
    return [
        number(1e3 * case["items"] / median(times)),
        "1" if way == OURS else ratio(case, way),
        exact if decibels is None else f"{decibels:.1f}",
    ]


def _value(ways: Mapping[str, Entry], way: str) -> str:
    return number(ways[way]["value"], 4) if way in ways else "-"
