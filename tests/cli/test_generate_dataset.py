"""`pyface generate dataset` and `regen`: what they write and print, and one clear line for each mistake."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from pyface.cli.generate import command
from pyface.data import ImageFolder
from pyface.errors import PyfaceError
from pyface.generation import regenerate
from pyface.generation.manifest import read_manifest


def _call(*arguments):
    return CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=True)


def _dataset(network, out, *more):
    return _call("dataset", "--network", network, "--out", out, "--batch", 4, *more)


def test_shards(tmp_path, network):
    out = tmp_path / "set"
    more = ["--ids", 5, "--samples-per-id", 2, "--shard-size", 4, "--seed", 3, "--quality", 80]
    result = _dataset(network, out, *more, "--subsampling", "4:4:4", "--precision", "float32")
    assert result.exit_code == 0, result.output
    assert "10 pictures of 5 people in 3 shards" in result.output
    assert re.search(r"^\w+ engine, fp32, on cpu", result.output, re.MULTILINE)
    recipe = read_manifest(out).recipe
    assert (recipe.identities, recipe.samples_per_identity, recipe.seed) == (5, 2, 3)
    assert (recipe.quality, recipe.subsampling, recipe.variation) == (80, "4:4:4", 0.2)


def test_a_folder(tmp_path, network):
    result = _dataset(network, tmp_path / "set", "--count", 5, "--format", "folder", "--image", "png")
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "set" / "VIS").glob("*.png"))) == 5
    assert len(ImageFolder(tmp_path / "set")) == 5


def test_parts_say_what_is_missing(tmp_path, network):
    part = ["--count", 5, "--shard-size", 2, "--num-shards", 2, "--shard-index"]
    assert "2 of 3 shards" in _dataset(network, tmp_path / "set", *part, 0).output
    assert "complete" in _dataset(network, tmp_path / "set", *part, 1).output


@pytest.mark.parametrize(
    ("vary", "names"), [("none", ()), ("all", ("smile", "glasses")), ("smile", ("smile",))]
)
def test_what_varies(tmp_path, network, vary, names):
    more = ["--ids", 2, "--samples-per-id", 2, "--vary", vary, "--variation", 0.4, "--noise-mode", "none"]
    assert _dataset(network, tmp_path / "set", *more).exit_code == 0
    recipe = read_manifest(tmp_path / "set").recipe
    assert (recipe.varying, recipe.variation, recipe.noise) == (names, 0.4, "none")


def test_conditions(tmp_path, network):
    assert _dataset(network, tmp_path / "a", "--count", 1, "--condition", "glasses=0.5").exit_code == 0
    assert read_manifest(tmp_path / "a").recipe.condition == (0.0, 0.5)
    assert _dataset(network, tmp_path / "b", "--count", 1, "--class", 0).exit_code == 0
    assert read_manifest(tmp_path / "b").recipe.condition == (1.0, 0.0)


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ([], "got neither"),
        (["--count", 1, "--ids", 1], "got both"),
        (["--count", 1, "--samples-per-id", 2], "needs --ids"),
        (["--ids", 2, "--samples-per-id", 2, "--variation", 0, "--vary", "none"], "--variation more than 0"),
        (["--count", 1, "--trunc", "nan"], "truncation_psi must be a finite number"),
        (["--count", 1, "--workers", 0], "workers must be 1 or more"),
        (["--count", 1, "--batch", 0], "batch must be 1 or more"),
        (["--count", 1, "--encoders", 0], "encoders must be 1 or more"),
        (["--count", 1, "--shard-index", 1], "--shard-index must be from 0 to 0"),
        (["--count", 1, "--encoder", "quick"], "library of jpeg must be one of"),
        (["--count", 1, "--engine", "quick"], "engine must be"),
        (["--count", 1, "--precision", "fp1"], "precision must be"),
        (["--count", 1, "--condition", "hat=1"], "its conditions are smile, glasses"),
        (["--count", 1, "--seed", -1], "seed must be"),
    ],
)
def test_mistakes_are_named(tmp_path, network, more, text):
    result = _dataset(network, tmp_path / "set", *more)
    assert isinstance(result.exception, PyfaceError)
    assert text in str(result.exception)
    assert not (tmp_path / "set").exists()


def test_another_recipe_and_an_absent_network(tmp_path, network):
    assert _dataset(network, tmp_path / "set", "--count", 2).exit_code == 0
    result = _dataset(network, tmp_path / "set", "--count", 2, "--seed", 1, "--precision", "bf16")
    assert "seed was 0, now 1; precision was fp32, now bf16" in str(result.exception)
    assert "absent" in str(_dataset("absent.safetensors", tmp_path / "x", "--count", 2).exception)


def test_regen(tmp_path, network, monkeypatch):
    out = tmp_path / "set"
    assert _dataset(network, out, "--ids", 3, "--samples-per-id", 2, "--image", "png").exit_code == 0
    again = ["regen", out, "--identity", 2, "--sample", 1, "--network", network]
    result = _call(*again, "--out", tmp_path / "face.png")
    assert result.exit_code == 0, result.output
    assert "picture 00000002_0001: byte for byte the stored one" in result.output
    assert (tmp_path / "face.png").stat().st_size > 0
    made = regenerate._made
    monkeypatch.setattr(regenerate, "_made", lambda *a: {n: 255 - p for n, p in made(*a).items()})
    result = _call(*again)
    assert result.exit_code == 1
    assert "differs from the stored one" in result.output


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupt_is_one_line(tmp_path, network, workers):
    out = tmp_path / "set"
    arguments = ["generate", "dataset", "--network", str(network), "--out", str(out), "--count", "50000"]
    child = subprocess.Popen(
        [sys.executable, "-m", "pyface", *arguments, "--shard-size", "20", "--workers", str(workers)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until = time.monotonic() + 60
    while not (out / "shard-000000.json").exists() and time.monotonic() < until:
        time.sleep(0.02)
    os.killpg(child.pid, signal.SIGINT)  # as a terminal does: to all processes
    printed, said = child.communicate(timeout=60)
    assert child.returncode == 130
    assert printed == ""
    assert len(said.splitlines()) == 2, said
    last = said.splitlines()[-1]
    assert re.match(r"Stopped; \d+ of 2500 shards are complete\. To go on: pyface generate dataset ", last)
    assert str(out) in last


def test_an_interrupt_at_once_is_one_line_too(tmp_path, network, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("pyface.generation.dataset.open_engine", interrupted)
    monkeypatch.setattr("sys.argv", ["pyface", "generate", "dataset"])
    result = _dataset(network, tmp_path / "set", "--count", 3)
    assert result.exit_code == 130
    assert result.output.startswith("Stopped before the first shard. To go on: pyface ")
