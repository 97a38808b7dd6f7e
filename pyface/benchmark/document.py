"""One case as an entry of the JSON document: checked, timed, and held against the ceilings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyface.benchmark.case import Case, Variant, Workload
from pyface.benchmark.ceilings import Ceilings
from pyface.benchmark.method import Quartiles, Timing, measure
from pyface.errors import PyfaceError

__all__ = ["check_result", "entry_of", "line_of", "reason_of", "result_error"]

# The largest error that a variant other than ours is timed with, relative to the largest reference value: far
# above rounding, far below what a misunderstood operation gives. Never below 10 times what ours is allowed.
OTHERS_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.05}
_CACHED_BYTES = 1 << 20
_REASON_LENGTH = 300


@dataclass(frozen=True)
class Checked:
    """Errors by variant, what ours is allowed, and the variants left out because their result is wrong."""

    errors: Mapping[str, Mapping[str, float] | None]
    check: Mapping[str, float] | None
    wrong: Mapping[str, str]


def reason_of(error: Exception) -> str:
    """An error on one line of at most 300 characters, with its type where it is none of pyface's."""
    text = " ".join(str(error).split())
    if not isinstance(error, (ImportError, PyfaceError)):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= _REASON_LENGTH else f"{text[: _REASON_LENGTH - 3]}..."


def result_error(result: Tensor | None, reference: Tensor, peak: float = 0.0) -> dict[str, float]:
    """{"max": largest error by largest reference value, "max_by_std": by the reference's standard deviation,
    "rmse": root mean square error by the same}; with a peak and an error, "psnr_db" too.

    Raises PyfaceError when the shapes differ.
    """
    if result is None or result.shape != reference.shape:
        shape = None if result is None else list(result.shape)
        raise PyfaceError(f"the result has shape {shape}, the reference {list(reference.shape)}")
    off = result.detach().double() - reference
    spread = reference.std(correction=0) if reference.numel() > 1 else reference.abs().max()
    scale = spread if spread > 0 else reference.abs().max()
    largest, rmse = off.abs().max(), float(off.square().mean().sqrt())
    found = {
        "max": float(f"{float(largest / reference.abs().max()):.3g}"),
        "max_by_std": float(f"{float(largest / scale):.3g}"),
        "rmse": float(f"{rmse / float(scale):.3g}"),
    }
    if peak and rmse > 0:
        found["psnr_db"] = round(20 * math.log10(peak / rmse), 1)
    return found


def check_result(case: Case, work: Workload) -> Checked:
    """Every variant's result compared with the reference; ours alone where `work.errors` is false.

    Another variant that is wrong, or fails, is left out with the reason. Raises PyfaceError when ours is off
    by more than it may: a wrong result has no speed.
    """
    if work.reference is None:
        return Checked({}, None, {})
    with torch.no_grad():
        reference = work.reference().detach()
    names = list(work.variants)
    errors: dict[str, Mapping[str, float] | None] = {}
    wrong: dict[str, str] = {}
    loose = max(OTHERS_TOLERANCE.get(case.dtype, OTHERS_TOLERANCE["float32"]), 10 * work.tolerance)
    for name in names if work.errors else names[:1]:
        ours = name == names[0]
        allowed = work.tolerance if ours else loose
        try:
            errors[name] = found = result_error(_result(work.variants[name]), reference, work.peak)
        except PyfaceError as error:
            problem: str | None = str(error)
        except Exception as error:  # other runtimes raise types of their own
            if ours:
                raise
            wrong[name] = reason_of(error)
            continue
        else:
            problem = None
            if not found["max"] <= allowed:
                problem = f"off by {found['max']:.3g} of the largest value; allowed is {allowed:g}"
        if problem and ours:
            raise PyfaceError(f"the result of {name} is wrong: {problem}")
        if problem:
            wrong[name] = f"wrong result: {problem}"
    ours_error = errors[names[0]]
    check = {"max_error": ours_error["max"], "tolerance": work.tolerance} if ours_error else None
    return Checked(errors, check, wrong)


def _result(variant: Variant) -> Tensor | None:
    if variant.prepare is not None:
        variant.prepare()
    result = variant.run()
    return result if variant.result is None else variant.result()


def entry_of(
    case: Case,
    work: Workload,
    device: str,
    rounds: int,
    ceilings: Ceilings,
    left_out: Mapping[str, str] | None = None,
    warmup: int = 2,
    budget_s: float = 20.0,
) -> dict[str, Any]:
    """The measured case. Computes with the number of threads that is set; left_out: variants with reasons.

    warmup, budget_s: as `pyface.benchmark.measure` takes them.
    """
    checked = check_result(case, work)
    variants = {name: variant for name, variant in work.variants.items() if name not in checked.wrong}
    rounds = min(rounds, case.rounds or rounds)
    parts: dict[str, dict[str, Timing]] = {}
    if any(variant.parts for variant in variants.values()):
        timings, parts = _measure_parts(variants, rounds, device)
    else:
        timings = measure(
            variants,
            rounds=rounds,
            warmup=warmup,
            calls=case.calls,
            cold=case.cold,
            device=device,
            budget_s=budget_s,
        )
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
        "threads": torch.get_num_threads(),
        "screen": case.screen,
        "caches": "cold" if case.cold else "warm",
        "bytes": work.bytes,
        "flops": work.flops,
        "items": work.items,
        "gb_per_s": _rate(work.bytes, seconds, 1e9),
        "gflop_per_s": _rate(work.flops, seconds, 1e9),
        "items_per_s": _rate(work.items, seconds, 1.0),
        "roofline": _roofline(case, work, ceilings, 1e3 * seconds),
        "check": checked.check,
        "variants": {
            name: _times(timing, parts.get(name, {}), checked.errors.get(name))
            for name, timing in timings.items()
        },
        "speedup": {name: _ratios(timings[name], ours) for name in names[1:]},
        "left_out": {**(left_out or {}), **checked.wrong},
    }


def _ratios(theirs: Timing, ours: Timing) -> dict[str, float]:
    """Their time by ours in the same round."""
    pairs = zip(theirs.best, ours.best, strict=True)
    return Quartiles.of([other / max(own, 1e-9) for other, own in pairs]).to_dict()


def _rate(amount: int, seconds: float, unit: float) -> float | None:
    return float(f"{amount / seconds / unit:.4g}") if amount and seconds > 0 else None


def _roofline(case: Case, work: Workload, ceilings: Ceilings, ms: float) -> dict[str, Any] | None:
    """The least time, the share of the ceiling that ours reaches, and what the least time is due to."""
    if not (work.bytes or work.flops) or ms <= 0:
        return None
    cached = not case.cold and work.bytes <= _CACHED_BYTES
    found = ceilings.roofline(work.bytes, work.flops, case.dtype, cached=cached)
    return {
        "floor_ms": float(f"{found.floor_ms:.4g}"),
        "fraction": float(f"{found.floor_ms / ms:.4g}"),
        "bound": found.bound,
    }


def _measure_parts(
    variants: Mapping[str, Variant], rounds: int, device: str
) -> tuple[dict[str, Timing], dict[str, dict[str, Timing]]]:
    """Times of every variant as the weighted sum of its parts in the same round, and those of the parts."""
    pieces = {
        (name, part): Variant(piece.run)
        for name, variant in variants.items()
        for part, piece in variant.parts.items()
    }
    found = measure(pieces, rounds=rounds, warmup=1, cold=False, device=device)
    parts: dict[str, dict[str, Timing]] = {}
    for (name, part), timing in found.items():
        parts.setdefault(name, {})[part] = timing
    whole = {}
    for name, variant in variants.items():
        weights = {part: piece.weight for part, piece in variant.parts.items()}
        whole[name] = Timing(
            _weighted([(weight, parts[name][part].cpu) for part, weight in weights.items()]),
            _weighted([(weight, parts[name][part].wall) for part, weight in weights.items()]),
        )
    return whole, parts


def _weighted(times: list[tuple[float, list[float]]]) -> list[float]:
    return [sum(weight * series[i] for weight, series in times) for i in range(len(times[0][1]))]


def _times(timing: Timing, parts: Mapping[str, Timing], error: Mapping[str, float] | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "cpu_ms": Quartiles.of(timing.cpu).to_dict() if timing.cpu else None,
        "wall_ms": Quartiles.of(timing.wall).to_dict(),
        "rounds": len(timing.wall),
        "error": dict(error) if error else None,
    }
    if parts:
        found["parts_ms"] = {name: Quartiles.of(part.best).to_dict() for name, part in parts.items()}
    return found


def line_of(entry: Mapping[str, Any]) -> str:
    """An entry on one line: time, images per second, share of the ceiling, ratios."""
    ours = next(iter(entry["variants"].values()))
    time = (ours["cpu_ms"] or ours["wall_ms"])["median"]
    text = f"{entry['name']}: {time:.4g} ms"
    if entry["items_per_s"]:
        text += f", {entry['items_per_s']:.4g} images/s"
    if entry["roofline"] and entry["flops"]:  # where arithmetic was not counted, the share says little
        text += f", {entry['roofline']['fraction']:.0%} of the {entry['roofline']['bound']} ceiling"
    ratios = [f"{q['median']:.2f}x {name}" for name, q in entry["speedup"].items()]
    return ", ".join([text, *ratios, *(f"no {name}" for name in entry["left_out"])])
