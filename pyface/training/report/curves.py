"""Curves as inline SVG: axes with numbers, one figure for each quantity, legible in light, dark and print."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Series", "chart", "nice_ticks", "number"]

WIDTH, HEIGHT = 420, 210
LEFT, RIGHT, TOP, BOTTOM = 50, 12, 10, 24
POINTS = 280  # more than these are drawn as means with the band from least to greatest
LOG_SPAN = 50.0  # a logarithmic axis is for positive values that span more than this factor


@dataclass(frozen=True)
class Series:
    """A named curve: y over x, in order of x, both finite. column: what it shows, if not its name."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    column: str = ""


@dataclass(frozen=True)
class Axis:
    """Maps values from low..high to pixels from start..end."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def number(value: float) -> str:
    """A number in few characters, such as 0.25, 1024, 15k or 3e-5."""
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:.3g}M"
    if size >= 1e4:
        return f"{value / 1e3:.3g}k"
    if size >= 999.5:
        return f"{value:.0f}"
    if 0 < size < 1e-3:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.3g}"


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers that lie in low..high."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1.0, 2.0, 2.5, 5.0, 10.0) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = max(len(powers) // 5, 1)
    return [
        10.0**p for p in powers if low <= 10.0**p * 1.0001 and 10.0**p <= high * 1.0001 and p % every == 0
    ]


def _binned(series: Series) -> tuple[list[float], list[float], list[float], list[float]]:
    """x, mean, least and greatest of at most POINTS groups of neighbouring points."""
    size = -(-len(series.x) // POINTS)
    groups = [slice(i, i + size) for i in range(0, len(series.x), size)]
    means = [sum(series.y[g]) / len(series.y[g]) for g in groups]
    x = [sum(series.x[g]) / len(series.x[g]) for g in groups]
    return x, means, [min(series.y[g]) for g in groups], [max(series.y[g]) for g in groups]


def _y_axis(values: Sequence[float], zero: bool, log: bool) -> Axis:
    low, high = min(values), max(values)
    start, end = HEIGHT - BOTTOM, TOP
    if log and low > 0 and high / low > LOG_SPAN:
        return Axis(low / 1.15, high * 1.15, start, end, log=True)
    if zero and low >= 0:
        low = 0.0
    margin = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return Axis(low if zero and low == 0 else low - margin, high + margin, start, end)


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _frame(x: Axis, y: Axis) -> list[str]:
    parts = []
    for value in _log_ticks(y.low, y.high) if y.log else nice_ticks(y.low, y.high):
        at = y(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 3.5:.1f}" text-anchor="end">{number(value)}</text>')
    base = HEIGHT - BOTTOM
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>')
    ticks = nice_ticks(x.low, x.high, 5)
    for value in ticks:
        at = x(value)
        parts.append(f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{base}" y2="{base + 4}"/>')
        at, anchor = (at - 4, "start") if value == ticks[0] else (at, "middle")
        anchor = "end" if at > WIDTH - RIGHT - 12 and len(ticks) > 1 else anchor
        text = f"{number(value)} kimg" if value == ticks[0] else number(value)
        parts.append(f'<text x="{at:.1f}" y="{base + 16}" text-anchor="{anchor}">{text}</text>')
    return parts


def _curve(series: Series, x: Axis, y: Axis, colour: int) -> list[str]:
    xs, means, least, greatest = _binned(series)
    parts = []
    if len(xs) < len(series.x):
        edge = [(x(a), y(b)) for a, b in zip(xs, greatest, strict=True)]
        edge += [(x(a), y(b)) for a, b in zip(reversed(xs), reversed(least), strict=True)]
        parts.append(f'<path class="band c{colour}" d="{_path(edge)}Z"/>')
    points = [(x(a), y(b)) for a, b in zip(xs, means, strict=True)]
    if len(points) == 1:
        parts.append(f'<circle class="dot c{colour}" cx="{points[0][0]:.1f}" cy="{points[0][1]:.1f}" r="3"/>')
    else:
        parts.append(f'<path class="line c{colour}" d="{_path(points)}"/>')
    return parts


def chart(
    title: str,
    series: Sequence[Series],
    *,
    note: str = "",
    zero: bool = False,
    log: bool = False,
    span: tuple[float, float] | None = None,
    marks: Sequence[float] = (),
) -> str:
    """A figure with the curves over kimg.

    note: a few words about what they mean. zero: the axis begins at 0 when no value is below. log: the axis
    may be logarithmic, for values that span much. span: the least and greatest kimg of the axis; those of the
    curves when absent. marks: values of kimg with a thin upright line. With more than one curve there is a
    legend.
    """
    kimg = [v for s in series for v in s.x]
    low, high = span or (min(kimg), max(kimg))
    x = Axis(low, high if high > low else low + 1.0, LEFT, WIDTH - RIGHT)
    y = _y_axis([v for s in series for v in s.y], zero, log)
    body = _frame(x, y)
    for mark in marks:
        if x.low <= mark <= x.high:
            body.append(f'<path class="mark" d="M{x(mark):.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
    for i, each in enumerate(series):
        body += _curve(each, x, y, i)
    last = ", ".join(f"{s.name} {number(s.y[-1])}" for s in series)
    legend = ""
    if len(series) > 1:
        keys = "".join(f'<span><i class="c{i}"></i>{escape(s.name)}</span>' for i, s in enumerate(series))
        legend = f'<span class="legend">{keys}</span>'
    scale = " · log scale" if y.log else ""
    value = f"<b>{number(series[0].y[-1])}</b>" if len(series) == 1 else ""
    return (
        f'<figure class="chart" data-columns="{escape(" ".join(s.column or s.name for s in series))}">'
        f"<figcaption><strong>{escape(title)}</strong>{value}{legend}"
        f"<small>{escape(note)}{scale}</small></figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}; last: {escape(last)}">'
        f"{''.join(body)}</svg></figure>"
    )
