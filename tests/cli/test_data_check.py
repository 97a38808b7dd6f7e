"""`pyface data check`, its repair, and `pyface data zip` from the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from pyface import cli
from pyface.cli.data_check import parse_size
from pyface.data import ImageFolder
from pyface.errors import DataError, ValueRangeError
from pyface.io.images import write_image


def run(*arguments):
    return CliRunner().invoke(cli.cli, ["data", *map(str, arguments)])


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "set"
    path.mkdir()
    for i in range(5):
        pixels = np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        write_image(path / f"{i}.png", pixels)
    lines = [f"{i}.png,{['cat', 'dog'][i % 2]}" for i in range(5)]
    (path / "labels.csv").write_text("file,animal\n" + "\n".join(lines) + "\n")
    return path


def test_a_sound_folder(folder):
    result = run("check", folder)
    assert result.exit_code == 0, result.output
    assert "5 pictures, nothing is wrong" in result.output
    assert "class, 2 names, 5 rows from labels.csv" in result.output
    assert "cat  count 3" in result.output


def test_faults_are_listed_counted_and_repaired(folder, tmp_path):
    (folder / "6.png").write_bytes(b"")
    (folder / "7.png").write_text("words")
    write_image(folder / "3.png", np.zeros((40, 32, 3), np.uint8))
    result = run("check", folder)
    assert result.exit_code == 1
    assert "7 pictures, 5 faults in 3 files" in result.output
    for line in (
        "6.png: has zero bytes  [empty]",
        "7.png: is not an image  [not-image]",
        "3.png: is 32 x 40",
    ):
        assert line in result.output
    result = run("check", folder, "--json")
    assert result.exit_code == 1
    report = json.loads(result.output)
    assert report["bad_files"] == 3
    assert {(f["file"], f["code"]) for f in report["faults"]} == {
        ("3.png", "size"),
        ("6.png", "empty"),
        ("6.png", "label-missing"),
        ("7.png", "not-image"),
        ("7.png", "label-missing"),
    }
    result = run("check", folder, "--fix", tmp_path / "new.zip", "--resize-filter", "box")
    assert result.exit_code == 0, result.output
    assert "5 pictures of 32x32, 1 of them changed, 2 left out" in result.output
    assert "6.png: left out: has zero bytes" in result.output
    assert "3.png -> 3.png: cut to 32 x 32" in result.output
    assert "labels.csv became dataset.json" in result.output
    assert run("check", tmp_path / "new.zip").exit_code == 0
    assert ImageFolder(tmp_path / "new.zip").label_schema.kind == "class"
    result = run("check", folder, "--fix", tmp_path / "half", "--resolution", "16", "--json")
    assert json.loads(result.output)["repair"]["size"] == {"height": 16, "width": 16}
    assert run("check", tmp_path / "half", "--resolution", 16).exit_code == 0


def test_zip(folder, tmp_path):
    result = run("zip", folder, tmp_path / "out.zip")
    assert result.exit_code == 0, result.output
    assert "5 pictures in" in result.output
    assert ImageFolder(tmp_path / "out.zip").label_names == ("cat", "dog")
    assert isinstance(run("zip", folder, tmp_path / "out").exception, DataError)
    assert "there already" in str(run("zip", folder, tmp_path / "out.zip").exception)
    assert "written into or over" in str(run("zip", folder, folder / "out.zip").exception)
    (folder / "x.png").write_bytes(b"")
    assert "--fix" in str(run("zip", folder, tmp_path / "more.zip").exception)


def test_sizes():
    assert parse_size(None) is None
    assert parse_size("64") == (64, 64)
    assert parse_size("80x64") == (80, 64)
    for text in ("", "x", "64x", "0", "1x2x3", "-4", "²"):
        with pytest.raises(ValueRangeError, match="--resolution"):
            parse_size(text)
