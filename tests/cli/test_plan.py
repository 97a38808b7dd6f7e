"""`pyface plan`: what it says, its exit status, JSON, and one line for each mistake."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from pyface.cli.plan import command
from pyface.errors import PyfaceError
from pyface.training.remedies import Remedy

TINY = ["--resolution", "16", "--batch", "8", "--cbase", "512", "--cmax", "32"]
TINY += ["--z-dim", "16", "--w-dim", "16", "--map-depth", "2"]


def _call(*arguments):
    return CliRunner().invoke(command, [*TINY, *(str(a) for a in arguments)])


def test_it_fits():
    result = _call("--gpu", "24GB", "--precision", "bfloat16", "--batch-gpu", 4)
    assert result.exit_code == 0, (result.output, result.exception)
    assert "stylegan2 16x16, batch 8, 4 at a time in 2 rounds, bfloat16 on a GPU" in result.output
    assert "of 24.0 GB: fits" in result.output
    assert "path length" in result.output
    assert "has not been compared with a GPU" in result.output
    assert "to lower it" not in result.output


def _remedy(planned):
    return Remedy("--batch-gpu 4", "a little slower", planned)


def test_it_does_not_fit(tmp_path, monkeypatch):
    (tmp_path / "run.toml").write_text('recipe = "stylegan2"\nbatch = 16\n')
    monkeypatch.setattr("pyface.training.remedies.remedies", lambda *_, planned, **__: [_remedy(planned)])
    text = _call("--ram", "10MB", "--batch-gpu", 4)
    assert text.exit_code == 1
    assert "on the CPU" in text.output
    assert "does not fit" in text.output
    line = text.output.split("to lower it, cheapest first:\n")[1].splitlines()[0]
    assert line.split()[:2] == ["--batch-gpu", "4"]
    assert line.endswith("no    2 rounds: a little slower")
    assert "the dataset keeps in memory" in text.output
    result = _call("--ram", "10MB", "--json", "--config", tmp_path / "run.toml", "--set", "batch=4")
    assert result.exit_code == 1
    document = json.loads(result.output)
    assert (document["limit"], document["fits"], document["settings"]["batch"]) == (10_000_000, False, 4)
    made = document["plan"]
    parts = made["base"] + sum(made["parts"].values()) + made["workspace"] + made["allocator"]
    assert made["peak"] == parts == made["phases"][made["phase"]]
    assert all({"options", "cost", "fits", "plan"} == set(r) for r in document["remedies"])


def test_this_machine_is_asked():
    result = _call()
    assert result.exit_code == 0, (result.output, result.exception)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--gpu", "much"], "such as 24GB"),
        (["--gpu", "1GB", "--ram", "1GB"], "give one of them"),
        (["--ram", "1GB", "--batch-gpu", "5"], "--batch-gpu must divide the 8 samples"),
        (["--ram", "1GB", "--processes", "3"], "3 processes"),
        (["--ram", "1GB", "--batch", "0"], "batch must be"),
        (["--ram", "1GB", "--precision", "int8"], "precision must be"),
    ],
)
def test_mistakes_are_named(arguments, words):
    result = _call(*arguments)
    assert isinstance(result.exception, PyfaceError), (result.output, result.exception)
    assert words in str(result.exception)
