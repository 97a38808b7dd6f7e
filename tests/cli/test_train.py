"""`pyface train stylegan2` from a folder: what it writes, how it resumes, and one line for each mistake."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import pyface
from pyface.cli.train import command
from pyface.errors import CheckpointError, PyfaceError
from pyface.io.atomic import only_writer
from pyface.io.checkpoint import read_header
from pyface.io.images import write_image
from pyface.training.checkpoint import load_state
from pyface.training.configuration import resolve, settings
from pyface.training.recipes import RECIPES, Recipe

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
        ({"--resolution": "big"}, "resolution must be height and width"),
        ({"--conditions": "hat"}, "hat"),
        ({"--batch": "0"}, "batch must be a whole number, 1 or more; got '0'"),
        ({"--gamma": "-1"}, "gamma must be a number or none, 0 or more; got '-1'"),
        ({"--kimg": "0"}, "kimg must be a number greater than 0"),
        ({"--snap": "0"}, "--snap must be greater than 0"),
        ({"--resume": "absent.pt"}, "absent.pt does not exist"),
        ({"--resume": "absent.safetensors"}, "absent.safetensors"),
        ({"--initial-size": "5x4"}, "resolution must be initial_size times a power of two"),
        ({"--precision": "int8"}, "one of float32, bfloat16, float16; got 'int8'"),
        ({"--set": "btach=4"}, "nearest: batch"),
        ({"--set": "batch"}, "--set takes field=value"),
        ({"--config": "absent.toml"}, "absent.toml"),
        ({"--resume": "auto", "--out": None}, "--resume auto needs --out"),
        ({"--resume": "."}, "holds no resume-*.pt"),
        ({"--start-from-d": "critic"}, "--start-from-d needs --start-from"),
        ({"--start-from": "demo", "--resume": "a.pt"}, "give one of them"),
        ({"--start-from": "demo", "--resume": "demo"}, "Give --start-from alone"),
        ({"--start-from": "critic", "--start-from-d": "demo"}, "a discriminator is needed here"),
        ({"--data": None}, "--data is missing"),
        ({"--device": "banana"}, "got 'banana'"),
        ({"--device": "cuda:9999"}, "--device must be auto, cpu, or cuda"),
        ({"--set": "betas=0,1"}, "betas must be 0 or more and below 1"),
        ({"--second-discriminator": "half", "--resolution": "8"}, "got 4x4"),
        ({"--loss": "lsgan"}, "one of logistic, hinge, wasserstein, relativistic; got 'lsgan'"),
        ({"--threads": "0"}, "--threads must be 1 or more"),
        ({"--minutes": "0"}, "minutes must be greater than 0"),
    ],
)
def test_mistakes_are_named(tmp_path, folder, changes, words):
    options = {"--data": folder, "--out": tmp_path / "out", "--kimg": "0.004", **changes}
    parts = [part for pair in options.items() for part in pair if pair[1] is not None]
    result = _call(*TINY, *parts)
    assert isinstance(result.exception, PyfaceError), (result.output, result.exception)
    assert words in str(result.exception)


def test_one_line_per_mistake_and_status_1(tmp_path, folder):
    arguments = ["train", "stylegan2", "--data", str(folder), "--out", str(tmp_path / "out"), "--set", "x=1"]
    done = subprocess.run([sys.executable, "-m", "pyface", *arguments], capture_output=True, text=True)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("pyface: the recipe has no field 'x'")


def test_sources_of_settings_win_in_their_order(tmp_path, folder):
    (tmp_path / "run.toml").write_text(
        f'recipe = "stylegan2"\ndata = "{folder}"\nkimg = 0.004\nbatch = 8\ngamma = 3.0\n'
        "style_mixing = 0.5\nlr_generator = 0.1\nresolution = 16\n"
    )
    out = tmp_path / "out"
    config = ["--config", tmp_path / "run.toml", "--out", out, *TINY, "--style-mixing", 0.25, "--lr", 0.001]
    result = _call(*config, "--gamma", 4, "--set", "gamma=5", "--set", "lr_discriminator=0.002")
    assert result.exit_code == 0, (result.output, result.exception)
    recipe = json.loads((out / "recipe.json").read_text())
    assert (recipe["batch"], recipe["gamma"], recipe["style_mixing"]) == (4, 5.0, 0.25)
    assert (recipe["lr_generator"], recipe["lr_discriminator"]) == (0.001, 0.002)
    assert recipe["resolution"] == [16, 16]
    assert recipe["data"] == str(folder)
    assert {"pyface", "torch", "python", "command"} <= set(recipe)
    header = read_header(out / "snapshot-000000.safetensors")
    assert header["training"]["recipe"]["gamma"] == 5.0
    assert load_state(out / "resume-000000.pt")["facts"]["data"] == str(folder)

    again = tmp_path / "again"  # the stored configuration repeats the run
    assert _call("--config", out / "config.toml", "--out", again, "--threads", 1).exit_code == 0
    one, two = (pyface.load(p / "snapshot-000000.safetensors").state_dict() for p in (out, again))
    assert all(torch.equal(one[name], two[name]) for name in one)
    other = _call("--config", tmp_path / "run.toml", "--out", out, "--config", _foreign(tmp_path))
    assert "pyface train other" in str(other.exception)


def _foreign(tmp_path):
    (tmp_path / "other.toml").write_text('recipe = "other"\n')
    return tmp_path / "other.toml"


def test_a_resumed_run_reads_its_own_configuration(tmp_path, folder):
    out = tmp_path / "run"
    start = [
        "--data",
        folder,
        "--out",
        out,
        *TINY,
        "--resolution",
        16,
        "--kimg",
        0.004,
        "--style-mixing",
        0.25,
    ]
    assert _call(*start, "--cond").exit_code == 0
    result = _call("--resume", out, "--kimg", 0.008, "--gamma", 7, "--threads", 1)
    assert result.exit_code == 0, (result.output, result.exception)
    assert "resumed with gamma 7.0 instead of None" in result.output
    recipe = json.loads((out / "recipe.json").read_text())
    assert (recipe["style_mixing"], recipe["gamma"], recipe["kimg"]) == (0.25, 7.0, 0.008)
    assert recipe["conditions"] == ["smile", "glasses"]
    refused = _call("--resume", out, "--kimg", 0.012, "--z-dim", 16, "--set", "batch=8")
    assert isinstance(refused.exception, CheckpointError)
    for words in ("batch is 4, asked for is 8", "z_dim is 8, asked for is 16", "May change: kimg"):
        assert words in str(refused.exception)
    data = tmp_path / "large"
    data.mkdir()
    for i in range(8):
        write_image(data / f"{i}.png", np.zeros((16, 16, 3), np.uint8))
    changed = _call("--resume", out, "--kimg", 0.012, "--data", data)  # has no labels
    assert isinstance(changed.exception, PyfaceError), changed.output
    assert "smile" in str(changed.exception)
    auto = _call("--resume", "auto", "--out", out, "--kimg", 0.012, "--threads", 1)
    assert auto.exit_code == 0, (auto.output, auto.exception)
    fresh = _call("--resume", "auto", *start[:3], tmp_path / "new", *start[4:])
    assert fresh.exit_code == 0, (fresh.output, fresh.exception)


def test_a_folder_takes_one_run_at_a_time(tmp_path, folder):
    start = ["--data", folder, "--out", tmp_path / "run", *TINY, "--resolution", 16, "--kimg", 0.008]
    (tmp_path / "run").mkdir()
    with only_writer(tmp_path / "run"):
        second = _call(*start)
    assert isinstance(second.exception, PyfaceError), second.output
    assert "another process is writing to" in str(second.exception)
    assert list((tmp_path / "run").iterdir()) == []
    batch = _call(*start, "--batch-gpu", 3)
    assert "--batch-gpu 3" in str(batch.exception)
    assert list((tmp_path / "run").iterdir()) == []


def test_a_new_recipe_needs_no_code_for_its_command(tmp_path, folder, monkeypatch):
    """A recipe is a configuration and a build function; the command line and the files follow."""
    path = Path(__file__).parents[1] / "training" / "toy_recipe.py"
    spec = importlib.util.spec_from_file_location("toy_recipe", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "toy_recipe", module)
    spec.loader.exec_module(module)
    entry = Recipe("toy", "toy_recipe", "ToyRecipe", "Tell bright pictures.")
    monkeypatch.setitem(RECIPES, "toy", entry)
    out = tmp_path / "toy"
    arguments = ["toy", "--data", str(folder), "--out", str(out), "--kimg", "0.016", "--strength", "0.5"]
    result = CliRunner().invoke(command, [*arguments, "--device", "cpu", "--threads", "1"])
    assert result.exit_code == 0, (result.output, result.exception)
    assert json.loads((out / "recipe.json").read_text())["strength"] == 0.5
    assert pyface.load(out / "snapshot-000000.safetensors").architecture == "patch-critic"
    assert not (out / "reals.png").exists()
    going_on = CliRunner().invoke(command, ["toy", "--resume", str(out), "--kimg", "0.032"])
    assert going_on.exit_code == 0, (going_on.output, going_on.exception)
    wrong = CliRunner().invoke(command, ["stylegan2", "--resume", str(out), "--kimg", "0.032"])
    assert "is a run of 'toy': use pyface train toy" in str(wrong.exception)
    refused = CliRunner().invoke(command, ["toy", "--resume", str(out), "--set", "strength=2"])
    assert "strength is 0.5, asked for is 2.0" in str(refused.exception)
    assert "--strength" in CliRunner().invoke(command, ["toy", "--help"]).output


def test_help_lists_every_field_and_is_a_configuration():
    listing = CliRunner().invoke(command, ["stylegan2", "--help-config"])
    assert listing.exit_code == 0
    values = tomllib.loads(listing.output)
    recipe = RECIPES["stylegan2"].config
    assert resolve(recipe, values) == recipe()
    assert all(name in listing.output for name in settings(recipe))
    text = CliRunner().invoke(command, ["stylegan2", "--help"]).output
    for each in settings(recipe).values():
        assert f"--{each.option}" in text
    assert "stylegan2" in CliRunner().invoke(command, ["--help"]).output


def test_freeze_d_and_transfer_through_the_command_line(tmp_path, folder):
    first = tmp_path / "first"
    start = ["--data", folder, *TINY, "--kimg", 0.008]
    assert _call(*start, "--out", first, "--resolution", 16).exit_code == 0
    before = load_state(first / "resume-000000.pt")["trainer"]["modules"]
    second = tmp_path / "second"
    source = ["--start-from", first / "resume-000000.pt", "--freeze-d", 3]
    result = _call(*start, "--out", second, "--resolution", 16, *source)
    assert result.exit_code == 0, (result.output, result.exception)
    assert "D from D of" in result.output
    after = load_state(second / "resume-000000.pt")["trainer"]["modules"]
    frozen = [n for n in before["D"] if torch.equal(before["D"][n], after["D"][n])]
    assert {n.rsplit(".", 1)[0] for n in frozen} >= {"b16.from_image", "b16.conv0", "b16.conv1"}
    assert "b8.conv0.weight" not in frozen

    third = tmp_path / "third"  # the same generator at twice the size
    result = _call(*start, "--out", third, "--start-from", first / "snapshot-000000.safetensors")
    assert result.exit_code == 0, (result.output, result.exception)
    assert "silent (synthesis.b32.heads" in result.output
    header = read_header(third / "snapshot-000000.safetensors")
    assert header["training"]["transfer"]["G_ema"]["silent"]
    assert json.loads((third / "transfer.json").read_text()) == header["training"]["transfer"]
    assert header["training"]["transfer"]["D"]["source"] == "no source"


def test_augmentation_through_the_command_line(tmp_path, folder):
    out = tmp_path / "out"
    start = ["--data", folder, *TINY, "--resolution", 16, "--kimg", 0.008]
    options = ["--aug", "ada", "--augpipe", "bg", "--p", 0.25, "--target", 0.5, "--ada-interval", 1]
    result = _call(*start, "--out", out, *options)
    assert result.exit_code == 0, (result.output, result.exception)
    recipe = json.loads((out / "recipe.json").read_text())
    chosen = [recipe[name] for name in ("augment", "augment_set", "augment_p", "ada_target", "ada_kimg")]
    assert chosen == ["ada", "bg", 0.25, 0.5, None]
    first = load_state(out / "resume-000000.pt")["trainer"]["modules"]["augment"]
    assert abs(float(first["pipe.p"]) - 0.25) > 0, "the controller has moved p"
    assert "augment_p" in (out / "stats.jsonl").read_text()
    second = tmp_path / "second"
    weights = ["--start-from", out / "snapshot-000000.safetensors"]
    assert _call(*start, "--out", second, "--aug", "ada", *weights).exit_code == 0
    assert json.loads((second / "recipe.json").read_text())["ada_kimg"] == 100.0
