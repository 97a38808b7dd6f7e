"""The command: which parts, in which time, and where the file lies."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_report import benchmarks, checks, conformance, tuning
from gpu_report.build import build, built_from, site_of
from gpu_report.document import Document, device_facts, entry_of, machine_facts, missing_gpu
from gpu_report.processes import ROOT, Place, emit
from gpu_report.record import Deadline, PartError, Record

__all__ = ["PARTS", "Part", "main", "run_part"]


@dataclass(frozen=True)
class Part:
    """A piece of the report that runs alone. minutes: an estimate of all of it, not a measurement."""

    name: str
    minutes: float
    what: str
    do: Callable[[Place, Record, Deadline], None]


PARTS = (
    Part("build", 5, "the package for this GPU's architecture, and the emulator", build),
    Part(
        "conformance",
        2,
        "emulator against GPU: primitives bit for bit, faces; graphs",
        conformance.conformance,
    ),
    Part("tests", 6, "ops and the synthesis on back-end cuda", checks.tests),
    Part("sanitizer", 10, "compute-sanitizer over small shapes", checks.sanitizer),
    Part("ceilings", 1, "copies, matrix products, convolutions", benchmarks.ceilings),
    Part("ops", 10, "cases: ops, calls, renderer, alignment", benchmarks.suite("ops")),
    Part("layers", 6, "cases: layers", benchmarks.suite("layers")),
    Part(
        "networks",
        10,
        "cases: networks, projection, encoding, engines, datasets",
        benchmarks.suite("networks"),
    ),
    Part("training", 8, "cases: training", benchmarks.suite("training")),
    Part("scaling", 10, "cases: batch and resolution", benchmarks.suite("scaling")),
    Part("kernels", 4, "the CUDA ladders of bench/kernels", benchmarks.kernels),
    Part("tune", 8, "which convolutions are faster by cuDNN: the choice table", tuning.tune),
)
INNER: dict[str, Callable[..., None]] = {
    "conformance": conformance.conformance_inner,
    "small_shapes": checks.small_shapes_inner,
    "ceilings": benchmarks.ceilings_inner,
    "cases": benchmarks.cases_inner,
    "tune": tuning.tune_inner,
}
_QUICK, _NO_RIVALS = "PYFACE_REPORT_QUICK", "PYFACE_REPORT_NO_RIVALS"


def run_part(
    part: Part, place: Place, document: Document, machine: dict[str, Any], seconds: float, again: bool = False
) -> dict[str, Any]:
    """Does a part, or what an earlier run left of it; its entry, which is in the file by then."""
    start = time.monotonic()
    record = document.record_of(part.name, machine, again)
    before = document.values["parts"].get(part.name, {}).get("seconds", 0.0) if record.left else 0.0

    def save(error: str | None = None) -> dict[str, Any]:
        entry = entry_of(record, machine, before + time.monotonic() - start, error)
        document.put(part.name, entry)
        return entry

    def keep() -> None:
        save()

    record.save = keep
    try:
        part.do(place, record, Deadline(seconds))
    except PartError as error:
        return save(str(error))
    except Exception as error:
        return save(f"{type(error).__name__}: {error}")
    return save()


def environment(folder: Path, no_build: bool, quick: bool, rivals: bool) -> dict[str, str]:
    """The environment of processes that import pyface: the package that was built, or the source tree's."""
    site = site_of(folder)
    package = ROOT if no_build or not (site / "pyface").is_dir() else site
    paths = [str(package), *filter(None, [os.environ.get("PYTHONPATH")])]
    flags = {_QUICK: "1" if quick else "0", _NO_RIVALS: "0" if rivals else "1"}
    return {**os.environ, **flags, "PYTHONPATH": os.pathsep.join(paths)}


def run_inner(options: argparse.Namespace) -> int:
    """A worker's work."""
    place = Place(
        Path.cwd(), dict(os.environ), os.environ.get(_QUICK) == "1", os.environ.get(_NO_RIVALS) != "1"
    )
    wanted = json.loads(options.wanted.read_text()) if options.wanted else None
    try:
        INNER[options.inner](options.events, wanted, options.groups, place)
    except PartError as error:
        if options.events is None:
            raise
        emit(options.events, error=str(error))
    return 0


def parser_of() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="gpu_report.py",
        description="Builds, checks and measures pyface on the NVIDIA GPU of this machine.",
    )
    parser.add_argument("--part", action="append", help="a part, or several with commas; may be repeated")
    parser.add_argument("--list-parts", action="store_true", help="print the parts and stop")
    parser.add_argument("--minutes", type=float, default=8.0, help="a part stops after so long (8)")
    parser.add_argument("--again", action="store_true", help="measure again what a stopped run has done")
    parser.add_argument("--out", type=Path, default=ROOT / "bench/results", help="folder of the results")
    parser.add_argument(
        "--folder",
        type=Path,
        default=ROOT / "build/gpu-report",
        help="folder of the build, kept between parts",
    )
    parser.add_argument("--no-build", action="store_true", help="use the modules in the source tree")
    parser.add_argument("--quick", action="store_true", help="few cases and rounds")
    parser.add_argument("--no-rivals", action="store_true", help="leave torch.compile and others out")
    parser.add_argument("--inner", choices=sorted(INNER), help=argparse.SUPPRESS)
    parser.add_argument("--groups", default="", help=argparse.SUPPRESS)
    parser.add_argument("--events", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--wanted", type=Path, help=argparse.SUPPRESS)
    return parser


def chosen_parts(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[Part]:
    """The parts asked for, in their order; all when none is."""
    names = [name for text in options.part or [] for name in text.split(",")]
    unknown = sorted(set(names) - {part.name for part in PARTS})
    if unknown:
        parser.error(f"unknown parts {', '.join(unknown)}; allowed: {', '.join(part.name for part in PARTS)}")
    if options.minutes <= 0:
        parser.error(f"--minutes must be above 0; got {options.minutes:g}")
    return [
        part
        for part in PARTS
        if (not names or part.name in names) and not (options.no_build and part.name == "build")
    ]


def list_parts() -> None:
    """One line a part."""
    print("Parts with the minutes they may take in all (estimates; no GPU has told yet):")
    for part in PARTS:
        print(f"  {part.name:<12} {part.minutes:>4g}  {part.what}")


def main(arguments: list[str] | None = None) -> int:
    """Runs parts; gives 0 whenever a report, or the reason for none, was given."""
    parser = parser_of()
    options = parser.parse_args(arguments)
    if options.inner:
        return run_inner(options)
    parts = chosen_parts(parser, options)
    if options.list_parts:
        list_parts()
        return 0
    reason = missing_gpu()
    if reason is not None:
        print(f"No GPU report: {reason}.")
        for part in parts:
            print(f"  {part.name}: not measured")
        return 0
    options.folder.mkdir(parents=True, exist_ok=True)
    document = Document.of_device(options.out, device_facts())
    for part in parts:
        print(f"{part.name} ...", flush=True)
        env = environment(options.folder, options.no_build, options.quick, not options.no_rivals)
        machine = machine_facts(None if options.no_build else built_from(options.folder))
        if part.name != "build" and machine["built_from"] not in (None, machine["commit"]):
            print(
                f"  the build is of {machine['built_from']}, the source of {machine['commit']}: --part build"
            )
        place = Place(
            options.folder.resolve(), env, options.quick, not options.no_rivals, document.path.parent
        )
        entry = run_part(part, place, document, machine, 60 * options.minutes, options.again)
        print(_summary(part, entry), flush=True)
    print(f"wrote {document.path}")
    return 0


def _summary(part: Part, entry: dict[str, Any]) -> str:
    if entry["error"]:
        return f"{part.name} failed: {entry['error'][-1500:]}"
    counts = ", ".join(
        f"{len(entry[key])} {word}"
        for key, word in (("items", "done"), ("failed", "failed"), ("skipped", "skipped"), ("left", "left"))
        if entry[key]
    )
    more = f"; goes on with --part {part.name}" if entry["state"] == "stopped" else ""
    return f"{part.name} {entry['state']} after {entry['seconds']:.0f} s: {counts or 'nothing to do'}{more}"
