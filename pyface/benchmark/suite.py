"""Running cases and writing down what came out."""

from __future__ import annotations

import fnmatch
import gc
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from importlib.resources import files
from typing import Any

from pyface.benchmark.alignment_cases import alignment_cases
from pyface.benchmark.case import Case, Workload
from pyface.benchmark.ceilings import Ceilings, measure_ceilings
from pyface.benchmark.document import entry_of, line_of
from pyface.benchmark.machine import machine_facts
from pyface.benchmark.method import threads
from pyface.benchmark.network_cases import network_cases
from pyface.benchmark.op_cases import op_cases
from pyface.benchmark.rivals import build_rivals, forget_rivals
from pyface.benchmark.training_cases import training_cases
from pyface.errors import BackendError, ValueRangeError
from pyface.training.allocator import keep_freed_memory

__all__ = ["FORMAT", "all_cases", "run_suite", "schema", "select"]

FORMAT = 2
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
    rivals: bool = True,
    ceilings: Mapping[int, Ceilings] | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measure cases; gives a document as `schema` describes it.

    From here on the process keeps the memory it frees (`keep_freed_memory`), so that no variant of any case
    pays for fresh pages in each call.

    Args:
        only: parts of case names, or patterns; all cases when empty.
        quick: a few cases, few rounds: to see that everything runs.
        device: "cpu" or "cuda".
        num_threads: CPU threads of the cases that do not bring a number of their own.
        rivals: measure torch.compile, OpenVINO and ONNX Runtime too, where a case has them.
        ceilings: by number of threads, where they were measured before; missing ones are measured.
        report: gets one line per case.

    Raises:
        ValueRangeError: no case matches.
        PyfaceError: a result of ours differs from the reference by more than it may.
    """
    chosen = select(all_cases(), only, quick)
    kept = keep_freed_memory()
    found = dict(ceilings or {})
    measured: list[dict[str, Any]] = []
    skipped: list[dict[str, str]] = []
    for case in chosen:
        count = case.threads or num_threads
        try:
            with threads(count):
                _require_threads(case)
                work, left_out = _with_rivals(case, case.build(device), device, rivals)
                if count not in found:
                    found[count] = measure_ceilings(device, count)
                entry = entry_of(case, work, device, _ROUNDS[quick], found[count], left_out)
                del work
        except (ImportError, BackendError) as error:
            skipped.append({"name": case.name, "reason": str(error)})
            report(f"{case.name}: skipped, {error}")
            continue
        finally:
            forget_rivals()
            gc.collect()
        measured.append(entry)
        report(line_of(entry))
    return {
        "format": FORMAT,
        "kind": "pyface-benchmark",
        "machine": machine_facts(device, num_threads),
        "settings": {
            "quick": quick,
            "rounds": _ROUNDS[quick],
            "only": list(only),
            "rivals": rivals,
            "freed_memory_kept": kept,
        },
        "ceilings": {str(count): found[count].to_dict() for count in sorted(found)},
        "cases": measured,
        "skipped": skipped,
    }


def _require_threads(case: Case) -> None:
    """Raises BackendError when the machine has fewer cores than the case asks for."""
    cores = os.cpu_count() or 1
    if case.threads > cores:
        raise BackendError(f"{case.threads} threads need as many cores; this machine has {cores}.")


def _with_rivals(case: Case, work: Workload, device: str, wanted: bool) -> tuple[Workload, dict[str, str]]:
    """The workload with the rivals that its formula gives, and the reasons for those it does not."""
    if not wanted or not case.rivals or work.formula is None:
        return work, {}
    built, reasons = build_rivals(work.formula, dtype=case.dtype, device=device)
    return replace(work, variants={**work.variants, **built}), reasons
