"""Builds pyface for the NVIDIA GPU of this machine, checks it and measures it; one JSON file.

    python tools/gpu_report.py [--part ops] [--minutes 8] [--list-parts] [--out bench/results]

How to run it in pieces: docs/gpu-report.md. Without a GPU it says what was not measured, writes nothing and
exits with 0. Nothing is downloaded.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # not there by itself under PYTHONSAFEPATH

from gpu_report.command import main

if __name__ == "__main__":
    sys.exit(main())
