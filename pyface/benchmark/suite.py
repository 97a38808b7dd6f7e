"""Running cases and writing down what came out."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Callable, Iterable, Mapping
from importlib.resources import files
from typing import Any

import torch

from pyface.benchmark.alignment_cases import alignment_cases
from pyface.benchmark.case import Case, Variant, Workload
from pyface.benchmark.machine import machine_facts
from pyface.benchmark.method import Quartiles, Timing, measure, threads
from pyface.benchmark.network_cases import network_cases
from pyface.benchmark.op_cases import op_cases
from pyface.benchmark.training_cases import training_cases
from pyface.errors import BackendError, PyfaceError, ValueRangeError

__all__ = ["FORMAT", "all_cases", "check_result", "run_suite", "schema"]

FORMAT = 1
_ROUNDS = {False: 15, True: 5}


def all_cases() -> list[Case]:
    """Every case, in the order of the tables."""
    return [*op_cases(), *network_cases(), *alignment_cases(), *training_cases()]


def schema() -> dict[str, Any]:
    """The JSON schema of the document that `run_suite` gives."""
    text = files("pyface.benchmark").joinpath("schema.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def select(cases: Iterable[Case], only: Iterable[str], quick: bool) -> list[Case]:
    """Cases whose name contains, or as a pattern matches, one of `only`; all when it is empty.

    Raises ValueRangeError when nothing is left.
    """
    wanted = list(only)
    cases = list(cases)
    found = [
        case
        for case in cases
        if (case.quick or not quick)
        and (not wanted or any(word in case.name or fnmatch.fnmatch(case.name, word) for word in wanted))
    ]
    if not found:
        groups = sorted({case.name.split("/")[0] for case in cases})
        raise ValueRangeError(
            f"no case matches {', '.join(wanted) or 'a quick run'}; names begin with {', '.join(groups)}"
        )
    return found


def run_suite(
    only: Iterable[str] = (),
    *,
    quick: bool = False,
    device: str = "cpu",
    num_threads: int = 1,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measure cases; gives a document as `schema` describes it.

    Args:
        only: parts of case names, or patterns; all cases when empty.
        quick: a few cases, few rounds: to see that everything runs.
        device: "cpu" or "cuda".
        num_threads: CPU threads.
        report: gets one line per case.

    Raises:
        ValueRangeError: no case matches.
        PyfaceError: a result differs from the reference by more than it may.
    """
    chosen = select(all_cases(), only, quick)
    measured: list[dict[str, Any]] = []
    skipped: list[dict[str, str]] = []
    with threads(num_threads):
        for case in chosen:
            try:
                work = case.build(device)
            except (ImportError, BackendError) as error:
                skipped.append({"name": case.name, "reason": str(error)})
                report(f"{case.name}: skipped, {error}")
                continue
            entry = _entry(case, work, device, _ROUNDS[quick])
            measured.append(entry)
            report(_line(entry))
    return {
        "format": FORMAT,
        "kind": "pyface-benchmark",
        "machine": machine_facts(device, num_threads),
        "settings": {"quick": quick, "rounds": _ROUNDS[quick], "only": list(only)},
        "cases": measured,
        "skipped": skipped,
    }


def check_result(case: Case, work: Workload) -> dict[str, float] | None:
    """Largest error of our result relative to the largest reference value, and what is allowed.

    Raises PyfaceError when it is more than that: a wrong result has no speed.
    """
    if work.reference is None:
        return None
    ours = next(iter(work.variants.values()))
    if ours.prepare is not None:
        ours.prepare()
    result = ours.run()
    with torch.no_grad():
        reference = work.reference().detach()
    if result is None or result.shape != reference.shape:
        shape = None if result is None else list(result.shape)
        raise PyfaceError(f"{case.name} gives shape {shape}, the reference {list(reference.shape)}")
    error = float((result.double() - reference).abs().max() / reference.abs().max())
    if not error <= work.tolerance:
        raise PyfaceError(
            f"{case.name} is off by {error:.3g} of the largest value; allowed is {work.tolerance:g}"
        )
    return {"max_error": float(f"{error:.3g}"), "tolerance": work.tolerance}


def _entry(case: Case, work: Workload, device: str, rounds: int) -> dict[str, Any]:
    check = check_result(case, work)
    rounds = min(rounds, case.rounds or rounds)
    parts: dict[str, dict[str, Timing]] = {}
    if any(variant.parts for variant in work.variants.values()):
        timings, parts = _measure_parts(work, rounds, device)
    else:
        timings = measure(work.variants, rounds=rounds, calls=case.calls, cold=case.cold, device=device)
    names = list(timings)
    ours = timings[names[0]]
    seconds = Quartiles.of(ours.best).median / 1e3
    return {
        "name": case.name,
        "group": case.group,
        "op": case.op,
        "size": case.size,
        "dtype": case.dtype,
        "layout": case.layout,
        "caches": "cold" if case.cold else "warm",
        "bytes": work.bytes,
        "flops": work.flops,
        "items": work.items,
        "gb_per_s": _rate(work.bytes, seconds, 1e9),
        "gflop_per_s": _rate(work.flops, seconds, 1e9),
        "items_per_s": _rate(work.items, seconds, 1.0),
        "check": check,
        "variants": {name: _times(timing, parts.get(name, {})) for name, timing in timings.items()},
        "speedup": {
            name: Quartiles.of(
                [theirs / mine for theirs, mine in zip(timings[name].best, ours.best, strict=True)]
            ).to_dict()
            for name in names[1:]
        },
    }


def _rate(amount: int, seconds: float, unit: float) -> float | None:
    return float(f"{amount / seconds / unit:.4g}") if amount and seconds > 0 else None


def _measure_parts(
    work: Workload, rounds: int, device: str
) -> tuple[dict[str, Timing], dict[str, dict[str, Timing]]]:
    """Times of every variant as the weighted sum of its parts in the same round, and those of the parts."""
    pieces = {
        (name, part): Variant(piece.run)
        for name, variant in work.variants.items()
        for part, piece in variant.parts.items()
    }
    found = measure(pieces, rounds=rounds, warmup=1, cold=False, device=device)
    parts: dict[str, dict[str, Timing]] = {}
    for (name, part), timing in found.items():
        parts.setdefault(name, {})[part] = timing
    whole = {}
    for name, variant in work.variants.items():
        weights = {part: piece.weight for part, piece in variant.parts.items()}
        whole[name] = Timing(
            _weighted([(weight, parts[name][part].cpu) for part, weight in weights.items()]),
            _weighted([(weight, parts[name][part].wall) for part, weight in weights.items()]),
        )
    return whole, parts


def _weighted(times: list[tuple[float, list[float]]]) -> list[float]:
    return [sum(weight * series[i] for weight, series in times) for i in range(len(times[0][1]))]


def _times(timing: Timing, parts: Mapping[str, Timing]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "cpu_ms": Quartiles.of(timing.cpu).to_dict() if timing.cpu else None,
        "wall_ms": Quartiles.of(timing.wall).to_dict(),
        "rounds": len(timing.wall),
    }
    if parts:
        found["parts_ms"] = {name: Quartiles.of(part.best).to_dict() for name, part in parts.items()}
    return found


def _line(entry: dict[str, Any]) -> str:
    ours = next(iter(entry["variants"].values()))
    time = (ours["cpu_ms"] or ours["wall_ms"])["median"]
    ratios = ", ".join(f"{q['median']:.2f}x {name}" for name, q in entry["speedup"].items())
    rate = f", {entry['items_per_s']:.4g} images/s" if entry["items_per_s"] else ""
    return f"{entry['name']}: {time:.4g} ms{rate}" + (f", {ratios}" if ratios else "")
