"""Running cases and writing down what came out."""

from __future__ import annotations

import fnmatch
import gc
import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any, Protocol, TypeVar

from pyface.benchmark.alignment_cases import alignment_cases
from pyface.benchmark.call_cases import call_cases
from pyface.benchmark.case import EAGER, Case, Workload
from pyface.benchmark.ceilings import Ceilings, measure_ceilings
from pyface.benchmark.dataset_cases import dataset_cases
from pyface.benchmark.discriminator_cases import discriminator_cases
from pyface.benchmark.document import entry_of, line_of, reason_of
from pyface.benchmark.encoding_cases import encoding_cases
from pyface.benchmark.engine_cases import engine_cases
from pyface.benchmark.layer_cases import layer_cases
from pyface.benchmark.machine import machine_facts
from pyface.benchmark.method import threads
from pyface.benchmark.op_cases import op_cases
from pyface.benchmark.process_cases import ProcessCase, measure_processes, process_cases
from pyface.benchmark.projection_cases import projection_cases
from pyface.benchmark.render_cases import render_cases
from pyface.benchmark.rivals import RIVALS, build_rivals, forget_rivals
from pyface.benchmark.scaling_cases import scaling_cases
from pyface.benchmark.synthesis_cases import synthesis_cases
from pyface.benchmark.training_cases import training_cases
from pyface.errors import BackendError, ValueRangeError
from pyface.training.allocator import keep_freed_memory

__all__ = ["FORMAT", "all_cases", "run_suite", "schema", "select"]

FORMAT = 2
_ROUNDS = {False: 15, True: 5}
_SCREEN_ROUNDS = {False: 5, True: 3}


class _Named(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def group(self) -> str: ...
    @property
    def quick(self) -> bool: ...
    @property
    def screen(self) -> str: ...


_Case = TypeVar("_Case", bound=_Named)


def all_cases() -> list[Case]:
    """Every case, in the order of the tables."""
    return [
        *op_cases(),
        *layer_cases(),
        *synthesis_cases(),
        *discriminator_cases(),
        *training_cases(),
        *projection_cases(),
        *render_cases(),
        *alignment_cases(),
        *encoding_cases(),
        *scaling_cases(),
        *call_cases(),
        *engine_cases(),
        *dataset_cases(),
    ]


def schema() -> dict[str, Any]:
    """The JSON schema of the document that `run_suite` gives."""
    text = files("pyface.benchmark").joinpath("schema.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def select(cases: Iterable[_Case], only: Iterable[str], quick: bool, screen: bool = False) -> list[_Case]:
    """Cases whose name contains, or as a pattern matches, one of `only`, or whose group it is; all when it is
    empty. quick, screen: only those that are marked so.

    Raises ValueRangeError when nothing is left.
    """
    wanted = list(only)
    cases = list(cases)
    found = [
        case
        for case in cases
        if (case.quick or not quick)
        and (case.screen or not screen)
        and (not wanted or any(_matches(case, word) for word in wanted))
    ]
    if not found:
        groups = sorted({case.name.split("/")[0] for case in cases})
        raise ValueRangeError(
            f"no case matches {', '.join(wanted) or 'a quick run'}{' (quick)' if quick and wanted else ''}; "
            f"names begin with {', '.join(groups)}. All of them: pyface bench --list"
        )
    return found


def _matches(case: _Named, word: str) -> bool:
    return word == case.group or word in case.name or fnmatch.fnmatch(case.name, word)


@dataclass(frozen=True)
class _Way:
    """How every case of a run is measured."""

    device: str
    num_threads: int
    rounds: int
    eager: bool
    rivals: tuple[str, ...]
    screen: bool

    @property
    def effort(self) -> dict[str, Any]:
        """How long `entry_of` measures: for a screen no longer than a user waits."""
        return {"warmup": 1, "budget_s": 4.0} if self.screen else {}


def run_suite(
    only: Iterable[str] = (),
    *,
    quick: bool = False,
    screen: bool = False,
    device: str = "cpu",
    num_threads: int = 1,
    eager: bool = True,
    rivals: bool | Collection[str] = True,
    ceilings: Mapping[int, Ceilings] | None = None,
    report: Callable[[str], None] = lambda line: None,
    keep: Callable[[dict[str, Any]], None] = lambda document: None,
) -> dict[str, Any]:
    """Measure cases; gives a document as `schema` describes it.

    From here on the process keeps the memory it frees (`keep_freed_memory`), so that no variant of any case
    pays for fresh pages in each call.

    Args:
        only: parts of case names, patterns, or groups; all cases when empty.
        quick: a few cases, few rounds: to see that everything runs.
        screen: only cases that stand on the screen of `pyface bench`, in few rounds, beside the plain torch
            expression alone of torch's forms; ours alone is checked.
        device: "cpu" or "cuda".
        num_threads: CPU threads of the cases that do not bring a number of their own.
        eager: measure the forms of plain torch.
        rivals: measure torch.compile, OpenVINO and ONNX Runtime too, where a case has them; or their names.
        ceilings: by number of threads, where they were measured before; missing ones are measured.
        report: gets one line per case.
        keep: gets the document so far after each case, so that a run that is ended loses nothing.

    A case that fails (a wrong result of ours, or any error) has no times; it stands under "failed" with the
    reason, and the run goes on. What cannot be done here (a package or a back-end is missing) is "skipped".

    Raises:
        ValueRangeError: no case matches.
    """
    every: list[Case | ProcessCase] = [*all_cases(), *process_cases()]
    chosen = select(every, only, quick, screen)
    names = tuple(RIVALS if rivals is True else rivals or ())
    way = _Way(device, num_threads, (_SCREEN_ROUNDS if screen else _ROUNDS)[quick], eager, names, screen)
    document = _empty_document(way, list(only), quick)
    known = dict(ceilings or {})
    for case in chosen:
        if isinstance(case, Case):
            _measure_case(case, way, known, document, report)
            document["ceilings"] = {str(count): known[count].to_dict() for count in sorted(known)}
            keep(document)
    processes = [case for case in chosen if isinstance(case, ProcessCase) and _wanted(case, way)]
    document["measurements"], skipped, failed = measure_processes(
        processes, num_threads, device, quick, report
    )
    document["skipped"] += skipped
    document["failed"] += failed
    keep(document)
    return document


def _empty_document(way: _Way, only: list[str], quick: bool) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "kind": "pyface-benchmark",
        "machine": machine_facts(way.device, way.num_threads),
        "settings": {
            "quick": quick,
            "rounds": way.rounds,
            "only": only,
            "eager": way.eager,
            "rivals": list(way.rivals),
            "freed_memory_kept": keep_freed_memory(),
        },
        "ceilings": {},
        "cases": [],
        "measurements": [],
        "skipped": [],
        "failed": [],
    }


def _wanted(case: ProcessCase, way: _Way) -> bool:
    """A way that was not asked for is not measured in fresh processes either."""
    if case.variant == EAGER:
        return way.eager
    return case.variant not in RIVALS or case.variant in way.rivals


def _measure_case(
    case: Case,
    way: _Way,
    ceilings: dict[int, Ceilings],
    document: dict[str, Any],
    report: Callable[[str], None],
) -> None:
    """Adds an entry, or the reason why there is none, to the document; to the ceilings those of a new number
    of threads."""
    count = case.threads or way.num_threads
    try:
        with threads(count):
            _require_threads(case)
            work, left_out = _compared(case, case.build(way.device), way)
            if count not in ceilings:
                ceilings[count] = measure_ceilings(way.device, count)
            entry = entry_of(case, work, way.device, way.rounds, ceilings[count], left_out, **way.effort)
            del work
    except (ImportError, BackendError) as error:
        document["skipped"].append({"name": case.name, "reason": str(error)})
        report(f"{case.name}: skipped, {error}")
    except Exception as error:  # whatever it is, the other cases are measured
        reason = reason_of(error)
        document["failed"].append({"name": case.name, "reason": reason})
        report(f"{case.name}: failed, {reason}")
    else:
        document["cases"].append(entry)
        report(line_of(entry))
    finally:
        forget_rivals()
        gc.collect()


def _require_threads(case: Case) -> None:
    """Raises BackendError when the machine has fewer cores than the case asks for."""
    cores = os.cpu_count() or 1
    if case.threads > cores:
        raise BackendError(f"{case.threads} threads need as many cores; this machine has {cores}.")


def _compared(case: Case, work: Workload, way: _Way) -> tuple[Workload, dict[str, str]]:
    """The workload with the rivals that its formula gives, and the reasons for those it does not."""
    kept = [name for name in work.variants if way.eager or not name.startswith(EAGER)]
    if way.screen:
        kept = [name for name in kept if name == EAGER or not name.startswith(EAGER)]
    variants = {name: work.variants[name] for name in kept}
    work = replace(work, variants=variants, errors=work.errors and not way.screen)
    if not way.rivals or not case.rivals or work.formula is None:
        return work, dict(work.left_out)
    built, reasons = build_rivals(work.formula, dtype=case.dtype, device=way.device, names=way.rivals)
    return replace(work, variants={**work.variants, **built}), reasons
