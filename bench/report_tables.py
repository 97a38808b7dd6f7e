"""The tables of bench/RESULTS.md: cases, training steps, scaling, processes, losses, targets, peak memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

OURS, EAGER = "pyface", "torch eager"
RIVALS = ("torch.compile", "OpenVINO", "ONNX Runtime")
# Processes in which the same work is done in several ways, so that a ratio says something.
COMPARABLE = ("process/first/", "process/memory/")
BOUNDS = {"memory": "memory", "compute": "arithmetic"}

Entry = Mapping[str, Any]


def row(cells: Iterable[str]) -> str:
    """A line of a table."""
    return f"| {' | '.join(cells)} |"


def heading(names: Sequence[str]) -> list[str]:
    """The first two lines of a table."""
    return [row(names), "|" + "---|" * len(names)]


def number(value: float | None, digits: int = 3) -> str:
    """Three digits, or a dash.

    >>> number(12345.6), number(0.01234), number(None)
    ('12,346', '0.0123', '-')
    """
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"


def median(times: Entry) -> float:
    """Milliseconds: processor time where it was measured, else the wall clock."""
    found: float = (times["cpu_ms"] or times["wall_ms"])["median"]
    return found


def milliseconds(times: Entry) -> str:
    """ "1.234 ms (1.201-1.313)", or in microseconds below 0.1 ms."""
    quartiles = times["cpu_ms"] or times["wall_ms"]
    unit, factor = ("ms", 1.0) if quartiles["median"] >= 0.1 else ("us", 1e3)
    middle, q1, q3 = (f"{quartiles[key] * factor:.4g}" for key in ("median", "q1", "q3"))
    return f"{middle} {unit} ({q1}-{q3})"


def ratio(case: Entry, variant: str) -> str:
    """How many times as long a variant takes; why it stands empty where it was left out."""
    if variant in case["speedup"]:
        return f"{case['speedup'][variant]['median']:.2f}x"
    reason = case["left_out"].get(variant)
    return "-" if reason is None else "wrong" if reason.startswith("wrong") else "left out"


def best_form(case: Entry) -> str:
    """The fastest of the forms of plain torch: "1.63x in place", with "plain" for the first one."""
    forms = {name: q["median"] for name, q in case["speedup"].items() if name.startswith(EAGER)}
    if not forms:
        return "-"
    name = min(forms, key=lambda form: forms[form])
    form = name.removeprefix(EAGER).removeprefix(", ").removeprefix("best form")
    return f"{forms[name]:.2f}x {form or ('plain' if name == EAGER else '')}".rstrip()


def error(case: Entry) -> str:
    """Largest error by the largest value, and the root of the mean square by the standard deviation."""
    found = next(iter(case["variants"].values())).get("error")
    if found:
        return f"{found['max']:.1e}; {found['rmse']:.1e}"
    return f"{case['check']['max_error']:.1e}" if case["check"] else "-"


def case_table(cases: Sequence[Entry], threads: int) -> list[str]:
    """One row per case; threads: of the run, others are written beside the size."""
    names = ("op", "size", "type", "layout", "pyface", "img/s", "MB", "GFLOP", "GB/s", "GFLOP/s", "roofline")
    lines = heading([*names, EAGER, "best torch form", *RIVALS, "error"])
    for case in cases:
        ours = next(iter(case["variants"].values()))
        size = case["size"] if case["threads"] == threads else f"{case['size']}, {case['threads']} threads"
        reached = case["roofline"] if case["flops"] else None  # without arithmetic the share says little
        lines.append(
            row(
                [
                    case["op"],
                    size,
                    case["dtype"],
                    case["layout"],
                    milliseconds(ours),
                    number(case["items_per_s"]),
                    number(case["bytes"] / 1e6 if case["bytes"] else None),
                    number(case["flops"] / 1e9 if case["flops"] else None),
                    number(case["gb_per_s"]),
                    number(case["gflop_per_s"]),
                    f"{reached['fraction']:.0%} {BOUNDS[reached['bound']]}" if reached else "-",
                    ratio(case, EAGER),
                    best_form(case),
                    *[ratio(case, rival) for rival in RIVALS],
                    error(case),
                ]
            )
        )
    return lines


def training_table(cases: Sequence[Entry]) -> list[str]:
    """One row per way to do a step: its parts and the whole in seconds per image, ratios to torch eager."""
    parts = list(next(iter(cases[0]["variants"].values())).get("parts_ms", {}))
    lines = heading(["size", "way", *parts, "step, s per image", "img/s", "faster than torch eager"])
    for case in cases:
        plain = EAGER if EAGER in case["variants"] else list(case["variants"])[-1]
        for name, times in case["variants"].items():
            seconds = [
                *[times["parts_ms"][part]["median"] / 1e3 / case["items"] for part in parts],
                median(times) / 1e3 / case["items"],
            ]
            gain = median(case["variants"][plain]) / median(times)
            lines.append(
                row(
                    [
                        case["size"],
                        f"{name} {case['dtype']}" if name == OURS else name,
                        *[f"{value:.3f}" for value in seconds],
                        number(1 / seconds[-1]),
                        "-" if name == plain else f"{gain:.2f}x",
                    ]
                )
            )
    return lines


def scaling_tables(cases: Sequence[Entry]) -> list[str]:
    """For each axis (batch, resolution, threads) a table of images per second."""
    lines: list[str] = []
    for axis in dict.fromkeys(case["op"] for case in cases):
        found: dict[tuple[str, int], dict[str, Entry]] = {}
        for case in cases:
            if case["op"] == axis:
                found.setdefault((case["size"], case["threads"]), {})[case["dtype"]] = case
        columns = ["size", "threads", "bfloat16", "float32", "torch eager float32", "bfloat16 / eager"]
        lines += [
            f"By {axis}, images/s:",
            "",
            *heading([*columns, "float32 / eager", "gain over one thread"]),
        ]
        for (size, threads), by_type in found.items():
            half, full = by_type.get("bfloat16"), by_type.get("float32")
            lines.append(
                row(
                    [
                        size,
                        str(threads),
                        number(half["items_per_s"] if half else None),
                        number(full["items_per_s"] if full else None),
                        number(_eager_rate(full or half)),
                        ratio(half, EAGER) if half else "-",
                        ratio(full, EAGER) if full else "-",
                        _thread_gain(found, size, threads),
                    ]
                )
            )
        lines.append("")
    return lines[:-1]


def _eager_rate(case: Entry | None) -> float | None:
    if case is None or EAGER not in case["variants"]:
        return None
    rate: float = case["items"] / median(case["variants"][EAGER]) * 1e3
    return rate


def _thread_gain(found: Mapping[tuple[str, int], Mapping[str, Entry]], size: str, threads: int) -> str:
    """Wall time with one thread by that with several, for each type: "1.87x bfloat16, 1.93x float32"."""
    one, more = found.get((size, 1)), found[size, threads]
    if one is None or threads == 1:
        return "-"
    gains = [f"{wall(one[name]) / wall(more[name]):.2f}x {name}" for name in more if name in one]
    return ", ".join(gains) or "-"


def wall(case: Entry) -> float:
    """Milliseconds of ours by the wall clock, the only one that tells what threads gain."""
    found: float = next(iter(case["variants"].values()))["wall_ms"]["median"]
    return found


def process_table(measurements: Sequence[Entry]) -> list[str]:
    """One row per figure: ours and, beside it, the other ways."""
    lines = heading(["what", "pyface", "others"])
    for name, ways in by_name(measurements).items():
        ours = ways.get(OURS)
        others = []
        for way, each in ways.items():
            if way != OURS:
                times = (
                    f" ({each['value'] / ours['value']:.2f}x)" if ours and name.startswith(COMPARABLE) else ""
                )
                others.append(f"{way} {number(each['value'])} {each['unit']}{times}")
        text = f"{number(ours['value'])} {ours['unit']}" if ours else "-"
        lines.append(row([name.removeprefix("process/"), text, ", ".join(others) or "-"]))
    return lines


def by_name(measurements: Sequence[Entry]) -> dict[str, dict[str, Entry]]:
    """{what: {way: measurement}}, in the order of the first appearance."""
    found: dict[str, dict[str, Entry]] = {}
    for each in measurements:
        found.setdefault(each["name"], {})[each["variant"]] = each
    return found


def losses(cases: Sequence[Entry], measurements: Sequence[Entry] = ()) -> list[str]:
    """Every ratio below 1, the worst first."""
    found = [
        (quartiles["median"], f"{case['op']} {case['size']} {case['dtype']} {case['layout']}", name)
        for case in cases
        for name, quartiles in case["speedup"].items()
        if quartiles["median"] < 1 and not name.startswith(OURS)
    ]
    for name, ways in by_name(measurements).items():
        if OURS in ways and name.startswith(COMPARABLE):
            found += [
                (each["value"] / ways[OURS]["value"], name.removeprefix("process/"), way)
                for way, each in ways.items()
                if each["value"] < ways[OURS]["value"]
            ]
    if not found:
        return ["Nowhere in this run."]
    return [
        *heading(["what", "faster", "ratio"]),
        *[row([what.removesuffix(" -"), way, f"{value:.2f}x"]) for value, what, way in sorted(found)],
    ]


def ceiling_table(ceilings: Mapping[str, Entry]) -> list[str]:
    """What the machine does at most, by threads."""
    names = {
        "copy_gb_s": "copy GB/s",
        "cache_gb_s": "copy in cache GB/s",
        "float32_gflops": "float32 GFLOP/s",
        "bfloat16_gflops": "bfloat16 GFLOP/s",
        "float16_gflops": "float16 GFLOP/s",
        "bfloat16_conv_gflops": "bfloat16 convolution GFLOP/s",
    }
    lines = heading(["threads", *names.values()])
    for count, rates in ceilings.items():
        lines.append(row([count, *[number(rates[name], 4) for name in names]]))
    return lines


def memory_table(cases: Sequence[Entry]) -> list[str]:
    """Predicted and measured peaks of training."""
    lines = heading(
        ["training", "tensors", "predicted", "measured", "ratio", "beyond the imports", "worst phase"]
    )
    for case in sorted(cases, key=lambda c: c["settings"]["resolution"]):
        predicted, measured = case["predicted"], case["measured"]
        lines.append(
            row(
                [
                    case["name"],
                    f"{sum(predicted['parts'].values()) / 1e6:.0f} MB",
                    f"{predicted['peak'] / 1e6:.0f} MB",
                    f"{measured['peak'] / 1e6:.0f} MB",
                    f"{case['predicted_over_measured']:.2f}",
                    f"{case['beyond_imports']:.2f}",
                    predicted["phase"],
                ]
            )
        )
    return lines
