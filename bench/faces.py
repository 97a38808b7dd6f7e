"""Measures the analysis of faces on rendered faces, whose truth is known, and on one photograph.

`python bench/faces.py [--out bench/results] [--only detection] [--quick]` writes <out>/<device>/faces.json.
Sections that are not measured again keep what the file says, with the machine and commit of their own.
Needs `pyface models fetch default centerface`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pyface.benchmark.machine import device_slug, machine_facts
from pyface.io.atomic import make_folder, write_text

BENCH = Path(__file__).resolve().parent
# section -> (file beside this one, function that takes quick=True or False and gives JSON values)
SECTIONS = {
    "detection": ("faces_detection.py", "detection"),
    "landmarks": ("faces_detection.py", "landmarks"),
    "identity": ("faces_identity.py", "identity"),
    "action units": ("face_action_units.py", "action_units"),
    "timing": ("faces_detection.py", "timing"),
    "preparation": ("faces_prepare.py", "preparation"),
}


def section(name: str) -> Callable[..., dict[str, Any]]:
    """The function that measures a section."""
    file, function = SECTIONS[name]
    if str(BENCH) not in sys.path:
        sys.path.insert(0, str(BENCH))
    module = importlib.import_module(file.removesuffix(".py"))
    found: Callable[..., dict[str, Any]] = getattr(module, function)
    return found


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description="Measure the analysis of faces.")
    parser.add_argument("--out", type=Path, default=BENCH / "results", help="folder of results")
    parser.add_argument("--only", choices=SECTIONS, action="append", help="measure these sections alone")
    parser.add_argument("--quick", action="store_true", help="few faces: does everything run?")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    facts = machine_facts("cpu", options.threads)
    path = options.out / device_slug(facts) / "faces.json"
    make_folder(path.parent)
    sections = json.loads(path.read_text(encoding="utf-8"))["sections"] if path.is_file() else {}
    for name in options.only or SECTIONS:
        print(f"# {name}", flush=True)
        found = section(name)(quick=options.quick, threads=options.threads)
        print(json.dumps(found, indent=1))
        sections[name] = {"machine": facts, "quick": options.quick, **found}
        document = {"kind": "pyface-faces", "format": 1, "sections": sections}
        write_text(path, json.dumps(document, indent=1) + "\n")
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
