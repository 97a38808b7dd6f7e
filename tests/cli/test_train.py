"""`pyface train stylegan2` from a folder: what it writes, how it resumes, and one line for each mistake."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import pyface
from pyface.cli.train import command, parse_resolution
from pyface.errors import PyfaceError, ValueRangeError
from pyface.io.images import write_image

TINY = [
    "--batch",
    "4",
    "--cbase",
    "128",
    "--cmax",
    "16",
    "--z-dim",
    "8",
    "--w-dim",
    "8",
    "--map-depth",
    "2",
    "--threads",
    "1",
    "--device",
    "cpu",
]


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("faces")
    rng = np.random.default_rng(0)
    labels = []
    for i in range(8):
        write_image(path / f"{i}.png", rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
        labels.append([f"{i}.png", [float(i % 2), 0.5]])
    content = {"labels": labels, "label_names": ["smile", "glasses"]}
    (path / "dataset.json").write_text(json.dumps(content))
    return path


def _call(*arguments):
    return CliRunner().invoke(command, ["stylegan2", *(str(a) for a in arguments)])


def test_a_run_and_its_continuation(tmp_path, folder):
    common = ["--data", folder, *TINY, "--resolution", 16, "--cond", "--out"]
    whole = _call(*common, tmp_path / "whole", "--kimg", 0.016)
    assert whole.exit_code == 0, (whole.output, whole.exception)
    names = {p.name for p in (tmp_path / "whole").iterdir()}
    assert names >= {"reals.png", "fakes-000000.png", "snapshot-000000.safetensors", "resume-000000.pt"}
    assert names >= {"stats.jsonl", "recipe.json"}
    generator = pyface.load(tmp_path / "whole" / "snapshot-000000.safetensors")
    assert (generator.resolution, generator.c_dim) == ((16, 16), 2)
    recipe = json.loads((tmp_path / "whole" / "recipe.json").read_text())
    assert recipe["conditions"] == ["smile", "glasses"]

    assert _call(*common, tmp_path / "half", "--kimg", 0.008).exit_code == 0
    resume = ["--resume", tmp_path / "half" / "resume-000000.pt"]
    assert _call(*common, tmp_path / "rest", "--kimg", 0.016, *resume).exit_code == 0
    other = pyface.load(tmp_path / "rest" / "snapshot-000000.safetensors")
    for name, tensor in generator.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    again = _call(*common, tmp_path / "again", "--kimg", 0.008, *resume)
    assert "raise --kimg" in str(again.exception)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"--data": "absent"}, "absent does not exist"),
        ({"--data": "procedural:5x@64"}, "procedural:IDENTITIESxSAMPLES@SIZE"),
        ({"--resolution": "12"}, "whole factor"),
        ({"--resolution": "big"}, "--resolution must be"),
        ({"--conditions": "hat"}, "hat"),
        ({"--batch": "0"}, "batch must be 1 or more"),
        ({"--gamma": "-1"}, "gamma must be 0 or more"),
        ({"--kimg": "0"}, "kimg must be greater than 0"),
        ({"--snap": "0"}, "--snap must be greater than 0"),
        ({"--resume": "absent.pt"}, "absent.pt does not exist"),
        ({"--resume": "absent.safetensors"}, "absent.safetensors"),
        ({"--initial-size": "5x4"}, "resolution must be initial_size times a power of two"),
    ],
)
def test_mistakes_are_named(tmp_path, folder, changes, words):
    options = {"--data": folder, "--out": tmp_path / "out", "--kimg": "0.004", **changes}
    parts = [part for pair in options.items() for part in pair]
    result = _call(*parts[:2], *TINY, *parts[2:])
    assert isinstance(result.exception, PyfaceError), (result.output, result.exception)
    assert words in str(result.exception)


def test_resolution():
    assert parse_resolution(None) is None
    assert parse_resolution("64") == (64, 64)
    assert parse_resolution("80x64") == (80, 64)
    for bad in ("", "0", "1x2x3", "-4"):
        with pytest.raises(ValueRangeError):
            parse_resolution(bad)
