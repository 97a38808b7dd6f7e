"""`tools/generate_dataset.py`: short, and does what it says."""

from __future__ import annotations

import runpy
from pathlib import Path

from click.testing import CliRunner
from PIL import Image

TOOL = Path(__file__).parents[2] / "tools" / "generate_dataset.py"


def test_a_dataset_by_the_script(network, tmp_path):
    assert len(TOOL.read_text().splitlines()) <= 80
    tool = runpy.run_path(str(TOOL))["main"]
    sheet = tmp_path / "sheet.png"
    arguments = [
        str(network),
        str(tmp_path / "set"),
        "--people",
        "3",
        "--pictures",
        "2",
        "--sheet",
        str(sheet),
    ]
    result = CliRunner().invoke(tool, arguments, catch_exceptions=False)
    assert "1 of 1 shards are new" in result.output
    assert "00000002_0001: byte for byte the stored one" in result.output
    assert "6 pictures checked, 0 faults" in result.output
    assert Image.open(sheet).size == (2 * 18 + 2, 3 * 18 + 2)
    again = CliRunner().invoke(tool, arguments, catch_exceptions=False)
    assert "0 of 1 shards are new" in again.output
