"""`pyface data info`: what a dataset holds, and the balance of its classes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from pyface import cli
from pyface.data import MTFL
from pyface.data.writing_ckplus import write_ckplus
from pyface.data.writing_mtfl import write_mtfl
from pyface.errors import PyfaceError
from pyface.io.images import write_image


def run(*arguments):
    return CliRunner().invoke(cli.cli, ["data", "info", *map(str, arguments)])


@pytest.fixture(scope="module")
def mtfl(tmp_path_factory):
    return write_mtfl(tmp_path_factory.mktemp("info") / "m", identities=8, seed=3, size=16)


def test_balance_of_pictures_and_people(mtfl):
    result = run(mtfl)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert "  layout          mtfl" in lines
    assert "  pictures        24 (vis), 8 people" in lines
    assert "  height x width  16x16: 16, 20x20: 8" in lines  # 12 is below the smallest render
    assert "  problems        none" in lines
    smiling = MTFL(mtfl).filter(Smiling=True)
    people = len(set(smiling.annotations["identity"]))
    (line,) = [line for line in lines if line.split()[:2] == ["Smiling", "yes"]]
    assert f"{len(smiling)} ({100 * len(smiling) / 24:.1f} %)" in line
    assert line.endswith(f"{people} ({100 * people / 8:.1f} %)")


def test_json_columns_options_and_problems(mtfl, tmp_path):
    result = run(f"mtfl:split=testing:{mtfl}", "--json", "--columns", "smile,pose")
    told = json.loads(result.output)
    assert (told["pictures"], told["people"], told["layout"]) == (6, 2, "mtfl")
    assert set(told["balance"]) == {"smile", "pose"}
    assert sum(share["count"] for share in told["balance"]["smile"]) == 6
    assert told["problems"] == []
    (tmp_path / "m").mkdir()
    (tmp_path / "m/training.txt").write_text("a.jpg 1\n" + (mtfl / "testing.txt").read_text())
    (tmp_path / "m/AFLW").symlink_to(mtfl / "AFLW")
    result = run(tmp_path / "m")
    assert "  problems        5" in result.output
    assert "training.txt line 1: must have a path and 14 numbers" in result.output
    assert "(training.txt line 2): is not there  [missing]" in result.output


def test_ckplus(tmp_path):
    root = write_ckplus(tmp_path / "ck", identities=3, size=16, frames=2)
    result = run(root)
    assert result.exit_code == 0, result.output
    assert "6 sequences of 3 people, 5 with an emotion" in result.output
    assert "not known" in result.output
    assert "the same everywhere: phase peak, facs yes, AU7 0" in result.output


def test_a_folder_and_bad_words(tmp_path):
    for i in range(4):
        write_image(tmp_path / f"{i}.png", np.full((8, 8, 3), i, np.uint8), sync=False)
    (tmp_path / "labels.csv").write_text("file,height\n" + "".join(f"{i}.png,{i / 10}\n" for i in range(4)))
    result = run(tmp_path)
    assert "4 (vis), people are not known" in result.output
    assert "height" in result.output
    for words, told in (
        ([f"folder:frames=all:{tmp_path}"], "ImageFolder has no option 'frames'"),
        ([tmp_path, "--columns", "smile"], "no column 'smile'"),
        ([tmp_path / "gone"], "gone does not exist"),
    ):
        result = run(*words)
        assert isinstance(result.exception, PyfaceError)
        assert told in str(result.exception)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("frames=3", "frames must be peak"),
        ("action_units=smile", "action_units must be numbers or names"),
        ("size=64.5,crop=square", "size needs a whole number; got '64.5'"),
        ("verify=maybe", "verify needs yes or no; got 'maybe'"),
        ("crop=12", "crop must be None or one of"),
        ("on_problem=ignore", "on_problem must be"),
    ],
)
def test_a_bad_option_is_one_line(tmp_path, options, told):
    root = write_ckplus(tmp_path / "ck", identities=1, sequences=1, size=16, frames=2)
    result = run(f"ckplus:{options}:{root}")
    assert isinstance(result.exception, PyfaceError)
    assert told in str(result.exception)


def test_options_are_read_as_what_they_are(tmp_path):
    root = write_ckplus(tmp_path / "ck", identities=1, sequences=1, size=16, frames=2)
    peak = next(root.rglob("*2.png"))
    peak.write_bytes(peak.read_bytes()[:-30])
    told = json.loads(run(f"ckplus:frames=all,action_units=12+AU25,verify=no:{root}", "--json").output)
    assert told["labels"] == ["AU12_present", "AU25_present"]
    assert told["pictures"] == 2  # "no" is not read as a word that is true
    assert json.loads(run(f"ckplus:frames=all,verify=yes:{root}", "--json").output)["pictures"] == 1


def test_columns_of_many_numbers_are_told_in_bins(tmp_path):
    lines = []
    for i in range(20):
        write_image(tmp_path / f"{i:02d}.png", np.full((4, 4, 3), i, np.uint8), sync=False)
        lines.append(json.dumps({"file": f"{i:02d}.png", "identity": i, "conditions": {"smile": i / 19}}))
    (tmp_path / "labels.jsonl").write_text("\n".join(lines))
    result = run(tmp_path)
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.output.splitlines() if line.split()[:1] == ["smile"]]
    assert line.split()[1:4] == ["0", "to", "0.2"]
