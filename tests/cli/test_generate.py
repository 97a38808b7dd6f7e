"""`pyface generate`: what it writes, and one clear line for each mistake."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from pyface.cli.generate import command
from pyface.errors import PyfaceError


def _call(*arguments):
    return CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=True)


def test_images_and_grid(tmp_path, network):
    result = _call("images", "--network", network, "--seeds", "0-2,9", "--out", tmp_path / "a")
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [f"seed{i:06d}.png" for i in (0, 1, 2, 9)]
    more = ["--grid", "--truncation-psi", "0.7", "--condition", "smile=1,glasses=0"]
    assert (
        _call("images", "--network", network, "--seeds", "0-3", "--out", tmp_path / "b", *more).exit_code == 0
    )
    assert Image.open(tmp_path / "b" / "grid.png").size == (32, 32)
    assert (
        _call("images", "--network", network, "--seeds", "1", "--out", tmp_path / "c", "--class", 1).exit_code
        == 0
    )


def test_video_and_mixing(tmp_path, network):
    out = tmp_path / "new" / "walk.webp"
    assert _call("video", "--network", network, "--seeds", "0,1", "--out", out, "--frames", 2).exit_code == 0
    assert Image.open(out).n_frames == 4
    out = tmp_path / "mix.png"
    result = _call(
        "style-mixing",
        "--network",
        network,
        "--rows",
        "0,1",
        "--cols",
        "2-4",
        "--styles",
        "0-1",
        "--out",
        out,
    )
    assert result.exit_code == 0, result.output
    assert Image.open(out).size == (64, 48)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_precision_reaches_the_network(tmp_path, monkeypatch, network, precision):
    asked = []
    from pyface.models.stylegan2 import SynthesisNetwork

    inner = SynthesisNetwork.forward
    monkeypatch.setattr(
        SynthesisNetwork,
        "forward",
        lambda self, *a, **k: (asked.append(k.get("precision")), inner(self, *a, **k))[1],
    )
    chosen = ["--network", network, "--precision", precision]
    for verb in (
        ["images", "--seeds", "0,1", "--out", tmp_path / "a"],
        ["video", "--seeds", "0,1", "--frames", 1, "--out", tmp_path / "walk.webp"],
        ["style-mixing", "--rows", "0", "--cols", "1", "--styles", "0-1", "--out", tmp_path / "mix.png"],
    ):
        asked.clear()
        result = _call(*verb, *chosen)
        assert result.exit_code == 0, result.output
        assert asked
        assert set(asked) == {precision}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"--network": "absent.safetensors"}, "absent.safetensors"),
        ({"--seeds": "a-b"}, "seeds must be numbers"),
        ({"--condition": "hat=1"}, "its conditions are smile, glasses"),
        ({"--class": "2"}, "--class must be from 0 to 1"),
        ({"--batch": "0"}, "--batch must be 1 or more"),
    ],
)
def test_mistakes_are_named(tmp_path, network, changes, words):
    options = {"--network": network, "--seeds": "0", "--out": tmp_path / "out", **changes}
    result = _call("images", *(part for pair in options.items() for part in pair))
    assert isinstance(result.exception, PyfaceError)
    assert words in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_way_is_one_line(tmp_path, network):
    (tmp_path / "file").write_text("x")
    call = ["-m", "pyface", "generate", "images", "--network", str(network), "--seeds", "0"]
    done = subprocess.run(
        [sys.executable, *call, "--out", str(tmp_path / "file" / "deeper")], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("pyface: ")
    assert "Traceback" not in done.stderr


def test_images_on_an_engine_are_those_of_the_network(network, tmp_path):
    plain = _call("images", "--network", network, "--seeds", "0-2", "--out", tmp_path / "plain")
    assert plain.exit_code == 0, plain.output
    found = _call(
        "images", "--network", network, "--seeds", "0-2", "--out", tmp_path / "torch", "--engine", "torch"
    )
    assert found.exit_code == 0, found.output
    assert "engine torch, fp32" in found.output
    for path in sorted((tmp_path / "plain").iterdir()):
        off = np.asarray(Image.open(path)).astype(int) - np.asarray(
            Image.open(tmp_path / "torch" / path.name)
        )
        assert abs(off).max() <= 1
    wrong = _call(
        "images", "--network", network, "--seeds", "0", "--out", tmp_path / "x", "--engine", "abacus"
    )
    assert wrong.exit_code == 1
    assert "engine must be auto or one of torch" in str(wrong.exception)
