"""`pyface data`: whole trees, the same again, resumed after a kill, and one line when it cannot be."""

import json
import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from click.testing import CliRunner

from pyface import cli
from pyface.data import CONDITIONS, ImageFolder, ProceduralFaces, writing
from pyface.data.tree import DEPTH_LEVELS
from pyface.errors import DataError, ValueRangeError
from pyface.io.images import read_image

SMALL = ["--identities", "3", "--samples", "2", "--size", "32", "--quiet", "--seed", "5"]


def run(*arguments):
    return CliRunner().invoke(cli.cli, ["data", *map(str, arguments)])


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    out = tmp_path_factory.mktemp("trees") / "faces"
    result = run("procedural", out, *SMALL, "--also", "segmentation,depth", "--workers", 2)
    assert result.exit_code == 0, result.output
    assert "6 pictures of 3 people" in result.output
    return out


def contents(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def test_tree_and_labels(tree):
    names = set(contents(tree))
    stems = [f"{i:06d}_{s:03d}.png" for i in range(3) for s in range(2)]
    folders = ("VIS", "NIR", "SEGMENTATION", "DEPTH")
    pictures = {f"{folder}/{stem}" for folder in folders for stem in stems}
    assert names == pictures | {"labels.jsonl", "dataset.json", "card.json"}
    records = [json.loads(line) for line in (tree / "labels.jsonl").read_text().splitlines()]
    assert [r["file"] for r in records] == [f"VIS/{s}" for s in stems]
    first = records[0]
    assert len(first["landmarks"]["ibug68"]) == 68
    assert set(first["conditions"]) == set(CONDITIONS)
    assert {"emotion", "identity", "attributes", "action_units", "pose", "parameters"} <= set(first)
    labels = json.loads((tree / "dataset.json").read_text())
    assert labels["label_names"] == list(CONDITIONS)
    assert [name for name, _ in labels["labels"]] == [f"VIS/{s}" for s in stems]
    card = json.loads((tree / "card.json").read_text())
    assert card["complete"]
    assert card["recipe"]["seed"] == 5
    assert card["command"].startswith("pyface")


def test_the_tree_reads_back_exactly(tree):
    faces = ProceduralFaces(3, 2, 32, seed=5, extras=("segmentation", "depth"))
    folder = ImageFolder(tree)
    assert folder.spectra == ("vis", "nir")
    np.testing.assert_array_equal(folder.images(), faces.images())
    np.testing.assert_array_equal(folder.images(None, "nir"), faces.images(None, "nir"))
    np.testing.assert_allclose(folder.labels(), faces.labels(), atol=1e-5)
    assert set(faces.annotations) - {"years", "sample"} <= set(folder.annotations)
    for i in (0, 5):
        made, read = faces[i], folder[i]
        np.testing.assert_array_equal(read.image, made.image)
        np.testing.assert_array_equal(read.nir, made.nir)
        np.testing.assert_array_equal(read.segmentation, made.segmentation)
        np.testing.assert_array_equal(np.isinf(read.depth), np.isinf(made.depth))
        seen = np.isfinite(made.depth)
        np.testing.assert_allclose(read.depth[seen], made.depth[seen], atol=0.51 / DEPTH_LEVELS)
        for scheme, points in made.landmarks.items():
            np.testing.assert_allclose(read.landmarks[scheme], points, atol=0.006)
        assert read.attributes == made.attributes
        assert read.emotion == made.emotion
        assert read.identity == made.identity
        assert read.action_units == pytest.approx(made.action_units, abs=1e-5)
        assert read.parameters == pytest.approx(made.parameters, rel=1e-6)


def test_same_bytes_for_any_number_of_workers_and_resumed_runs(tree, tmp_path):
    out = tmp_path / "again"
    arguments = ("procedural", out, *SMALL, "--also", "segmentation,depth", "--workers", 1)
    assert run(*arguments).exit_code == 0
    kept = (out / "VIS" / "000000_001.png").stat().st_mtime_ns
    for name in ("VIS/000001_000.png", "NIR/000002_001.png", "labels.jsonl", "dataset.json"):
        (out / name).unlink()
    assert run(*arguments).exit_code == 0
    assert (out / "VIS" / "000000_001.png").stat().st_mtime_ns == kept
    a, b = contents(tree), contents(out)
    a.pop("card.json")
    b.pop("card.json")
    assert a == b


def test_continues_after_a_kill(tmp_path):
    out = tmp_path / "faces"
    numbers = ["--identities", "100", "--samples", "8", "--size", "32", "--spectra", "vis", "--quiet"]
    arguments = ["data", "procedural", str(out), *numbers]
    process = subprocess.Popen([sys.executable, "-m", "pyface", *arguments], env=os.environ)
    deadline = time.time() + 120
    while time.time() < deadline and len(list(out.glob("VIS/[0-9]*.png"))) < 40:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = list(out.glob("VIS/[0-9]*.png"))
    assert 40 <= len(before) < 800
    for path in before:
        assert read_image(path).shape == (32, 32, 3)
    assert not (out / "labels.jsonl").exists()
    assert not json.loads((out / "card.json").read_text())["complete"]
    command = [sys.executable, "-m", "pyface", *arguments]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert len(ImageFolder(out)) == 800
    assert not list(out.rglob(".*"))


def test_another_recipe_and_strange_folders_are_refused(tree, tmp_path):
    before = contents(tree)
    result = run("procedural", tree, *SMALL[:-1], "6")
    assert isinstance(result.exception, DataError)
    assert "seed was 5, now 6" in str(result.exception)
    assert contents(tree) == before
    (tmp_path / "mine.txt").write_text("x")
    result = run("procedural", tmp_path, *SMALL)
    assert "not empty" in str(result.exception)
    assert list(contents(tmp_path)) == ["mine.txt"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--identities", "0"], "--identities"),
        (["--size", "8"], "--size"),
        (["--samples", "x"], "--samples"),
        (["--seed", "-1"], "--seed"),
        (["--workers", "0"], "--workers"),
    ],
)
def test_bad_numbers(tmp_path, change, words):
    result = run("procedural", tmp_path / "out", *change)
    assert result.exit_code == 2
    assert words in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--spectra", "uv"], "spectra"),
        (["--also", "smell"], "extras"),
        (["--set", "nose=1"], "no face parameter"),
        (["--set", "yaw"], "NAME=VALUE"),
        (["--set", "yaw=left"], "number"),
        (["--set", "yaw=5"], "yaw must be"),
    ],
)
def test_bad_words(tmp_path, change, words):
    result = run("procedural", tmp_path / "out", *change)
    assert isinstance(result.exception, ValueRangeError)
    assert words in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_an_error_is_one_line(tree):
    command = [sys.executable, "-m", "pyface", "data", "procedural", str(tree), *SMALL, "--size", "48"]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.startswith("pyface: ")
    assert "size was 32, now 48" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_unwritable_folder_and_full_disk(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    result = run("procedural", tmp_path / "file" / "out", *SMALL)
    assert isinstance(result.exception, DataError)
    assert "not a folder" in str(result.exception)

    def full(*arguments, **options):
        raise DataError("cannot write x: the disk is full")

    monkeypatch.setattr(writing, "write_image", full)
    result = run("procedural", tmp_path / "out", *SMALL)
    assert "disk is full" in str(result.exception)
    assert set(contents(tmp_path / "out")) == {"card.json"}


def test_a_file_limit_is_met_with_one_line(tmp_path):
    numbers = ["--identities", "2", "--samples", "1", "--size", "128", "--quiet"]
    command = [sys.executable, "-m", "pyface", "data", "procedural", str(tmp_path / "out"), *numbers]

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

    ended = subprocess.run(command, check=False, capture_output=True, text=True, preexec_fn=limit)
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert "larger than this process" in ended.stderr
    assert not list((tmp_path / "out").rglob(".*"))
    assert not (tmp_path / "out" / "labels.jsonl").exists()


def test_an_interrupt_is_one_line(tmp_path):
    out = tmp_path / "faces"
    numbers = ["--identities", "2000", "--samples", "8", "--size", "32", "--spectra", "vis", "--quiet"]
    command = [sys.executable, "-m", "pyface", "data", "procedural", str(out), *numbers]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.time() + 120
    while time.time() < deadline and not list(out.glob("VIS/[0-9]*.png")):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    words = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert "the same command continues" in words
    assert "Traceback" not in words
    assert not list(out.rglob(".*"))


def test_set_fixes_parameters(tmp_path):
    out = tmp_path / "out"
    changes = [f"--set={change}" for change in ("glasses=1", "emotion=happy", "yaw=-0.1..0.1")]
    result = run("procedural", out, *SMALL, *changes)
    assert result.exit_code == 0, result.output
    folder = ImageFolder(out)
    assert folder.annotations["Eyeglasses"].all()
    assert folder.annotations["Smiling"].all()
    assert np.abs(folder.annotations["yaw"]).max() <= 0.1


def test_sheet(tree, tmp_path):
    result = run("sheet", tree, tmp_path / "sheet.png", "--count", 4)
    assert result.exit_code == 0, result.output
    assert read_image(tmp_path / "sheet.png").shape == (2 + 2 * 34, 2 + 2 * 34, 3)
    assert run("sheet", tree, tmp_path / "nir.png", "--spectrum", "nir", "--columns", 6).exit_code == 0
    assert read_image(tmp_path / "nir.png").shape == (2 + 34, 2 + 6 * 34, 3)
    rows = ("--columns", 4, "--also", "nir,segmentation,depth,landmarks")
    assert run("sheet", tree, tmp_path / "rows.png", *rows).exit_code == 0
    picture = read_image(tmp_path / "rows.png")
    assert picture.shape == (2 + 6 * 34, 2 + 4 * 34, 3)
    folder = ImageFolder(tree)
    np.testing.assert_array_equal(picture[2 + 2 * 34 : 2 + 2 * 34 + 32, 2:34, 0], folder[0].nir)
    assert (picture[2 + 34 : 2 + 2 * 34, 2 + 2 * 34 :] == 255).all()  # six pictures fill a row and a half
    refused = run("sheet", tree, tmp_path / "x.png", "--also", "smell")
    assert "landmarks" in str(refused.exception)
    assert "has 6 pictures" in str(run("sheet", tree, tmp_path / "x.png", "--start", 6).exception)
    assert isinstance(run("sheet", tmp_path / "none", tmp_path / "x.png").exception, DataError)
