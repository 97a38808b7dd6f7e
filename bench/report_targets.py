"""What bench/targets.json asks for, beside what was measured.

Kinds of targets, each about the case that `case` names exactly:
* "ratio": ours is at least `target` times as fast as `variant`, in the same run;
* "threads": with the threads of the case ours is at least `target` times as fast as in the case `one`, by the
  wall clock;
* "ceiling": ours reaches at least `target` of the best bfloat16 convolutions of the same run;
* "rmse", "max": the error of ours is at most `target` standard deviations of the result.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from report_tables import heading, row, wall

KINDS = ("ratio", "threads", "ceiling", "rmse", "max")
AT_MOST = ("rmse", "max")


def load_targets(path: Path) -> list[dict[str, Any]]:
    """The targets of a file."""
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return found


def reached(target: Mapping[str, Any], documents: Sequence[Mapping[str, Any]]) -> float | None:
    """The figure that a target is about; None where it was not measured."""
    for document in documents:
        cases = {case["name"]: case for case in document["cases"]}
        case = cases.get(target["case"])
        if case is None:
            continue
        value = _figure(target, case, cases, document)
        if value is not None:
            return value
    return None


def _figure(
    target: Mapping[str, Any],
    case: Mapping[str, Any],
    cases: Mapping[str, Mapping[str, Any]],
    document: Mapping[str, Any],
) -> float | None:
    kind = target["kind"]
    found: float | None = None
    if kind == "ratio" and target["variant"] in case["speedup"]:
        found = case["speedup"][target["variant"]]["median"]
    elif kind == "threads" and target["one"] in cases:
        found = wall(cases[target["one"]]) / wall(case)
    elif kind == "ceiling" and case["gflop_per_s"]:
        rates = document["ceilings"].get(str(case["threads"]))
        found = case["gflop_per_s"] / rates["bfloat16_conv_gflops"] if rates else None
    elif kind in AT_MOST:
        error = next(iter(case["variants"].values())).get("error")
        found = error[{"rmse": "rmse", "max": "max_by_std"}[kind]] if error else None
    return found


def is_met(target: Mapping[str, Any], value: float) -> bool:
    """Ratios and shares are least values, errors greatest ones."""
    limit: float = target["target"]
    return value <= limit if target["kind"] in AT_MOST else value >= limit


def target_table(targets: Sequence[Mapping[str, Any]], documents: Sequence[Mapping[str, Any]]) -> list[str]:
    """One row per target."""
    lines = heading(["what", "case", "target", "measured", "met"])
    for target in targets:
        value = reached(target, documents)
        lines.append(
            row(
                [
                    target["name"],
                    target["case"],
                    _written(target, target["target"]),
                    "not measured" if value is None else _written(target, value).split(" ")[-1],
                    "-" if value is None else "yes" if is_met(target, value) else "no",
                ]
            )
        )
    return lines


def _written(target: Mapping[str, Any], value: float) -> str:
    if target["kind"] in AT_MOST:
        return f"at most {value:.2g}"
    return f"at least {value:.0%}" if target["kind"] == "ceiling" else f"at least {value:.3g}x"
