"""`pyface data write` makes trees that the loaders read; bad options are told in a line."""

import json

import pytest
from click.testing import CliRunner

from pyface import cli
from pyface.data import MTFL, CelebA, CKPlus, PairedSpectra
from pyface.errors import DataError, ValueRangeError
from pyface.io.images import read_image


def run(*arguments):
    return CliRunner().invoke(cli.cli, ["data", "write", *map(str, arguments), "--quiet"])


@pytest.mark.parametrize(
    ("arguments", "loader", "count", "samples"),
    [
        (["celeba", "--set", "layout=kaggle"], CelebA, 4, 4),
        (["celeba", "--set", "pictures=png", "--set", "layout=flat"], CelebA, 4, 4),
        (["mtfl", "--size", 48], MTFL, 4, 4),
        (["spectra", "--size", 32], PairedSpectra, 4, 4),
        (["ckplus", "--size", 32, "--set", "frames=3", "--set", "unlabelled_every=0"], CKPlus, 12, 4),
    ],
)
def test_every_layout(tmp_path, arguments, loader, count, samples):
    layout, *options = arguments
    out = tmp_path / "out"
    for _ in range(2):  # the second time everything is there already
        result = run(layout, out, "--identities", 2, "--samples", 2, *options)
        assert result.exit_code == 0, result.output
        assert f"{count} pictures of 2 people in {out}" in result.output
    assert len(loader(out)) == samples
    card = json.loads((out / "card.json").read_text())
    assert card["complete"] is True
    assert card["recipe"]["seed"] == 0
    result = run(layout, out, "--identities", 3, *options)
    assert isinstance(result.exception, DataError)
    assert "another recipe" in str(result.exception)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["celeba", "--set", "layout=zip"], "layout must be one of flat, official, kaggle"),
        (["celeba", "--set", "frames=3"], "--set of celeba takes NAME=VALUE with one of layout, pictures"),
        (["celeba", "--size", 64], "size must be 178"),
        (["ckplus", "--set", "frames=x"], "frames needs a whole number"),
        (["ckplus", "--set", "grey=maybe"], "grey needs yes or no"),
        (["spectra", "--set", "layout"], "one of none"),
    ],
)
def test_bad_options(tmp_path, arguments, words):
    layout, *options = arguments
    result = run(layout, tmp_path / "out", *options)
    assert isinstance(result.exception, ValueRangeError)
    assert words in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_a_sheet_of_a_written_tree(tmp_path):
    assert run("celeba", tmp_path / "faces", "--identities", 2, "--samples", 2).exit_code == 0
    source = f"celeba:crop=centre128,size=32:{tmp_path / 'faces'}"
    arguments = ["data", "sheet", source, str(tmp_path / "sheet.png"), "--also", "landmarks"]
    result = CliRunner().invoke(cli.cli, arguments)
    assert "4 pictures in" in result.output
    assert read_image(tmp_path / "sheet.png").shape == (3 * 34 + 2, 2 * 34 + 2, 3)
    result = CliRunner().invoke(cli.cli, ["data", "sheet", str(tmp_path / "gone"), str(tmp_path / "x.png")])
    assert isinstance(result.exception, DataError)
