"""`pyface data prepare` and `pyface data identities` with the offline models, on rendered photographs."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from pyface.cli import cli
from pyface.data import ImageFolder, ProceduralFaces
from pyface.data.features import FeatureStore
from pyface.io.images import read_image, write_image


@pytest.fixture(scope="module")
def faces():
    return ProceduralFaces(4, 2, 192, ("vis",), seed=3)


@pytest.fixture(scope="module")
def raw(faces, tmp_path_factory, model):
    for name in ("blazeface", "facemesh", "dlib-resnet"):
        model(name)
    folder = tmp_path_factory.mktemp("photographs")
    for i, image in enumerate(faces.images()):
        wide = np.full((240, 400, 3), 120, np.uint8)
        wide[24:216, 100:292] = image
        write_image(folder / f"{i // 2:06d}_{i % 2:03d}.png", wide)
    write_image(folder / "wall.png", np.full((200, 300, 3), 90, np.uint8))
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    return folder


def run(*words):
    return CliRunner().invoke(cli, ["data", *map(str, words)], catch_exceptions=False)


def test_photographs_become_a_dataset(raw, faces, tmp_path):
    out = tmp_path / "out"
    result = run("prepare", raw, out, "--size", 128, "--also", "32", "--workers", 2, "--quiet")
    assert result.exit_code == 0, result.output
    assert "8 faces of 10 photographs" in result.output
    assert "1 no-face" in result.output
    assert "1 unreadable" in result.output
    assert len(ImageFolder(out / "128")) == len(ImageFolder(out / "32")) == 8
    store = FeatureStore(out / "features.safetensors")
    for i, name in enumerate(store.names):
        row = store.row(name)
        truth = faces[i].landmarks["ibug68"] + np.float32([100, 24])
        inside = truth @ row["matrix"][:, :2].T + row["matrix"][:, 2]
        eyes = np.linalg.norm(inside[36:42].mean(0) - inside[42:48].mean(0))
        error = np.linalg.norm(row["landmarks"] - inside, axis=1)[17:].mean()
        assert error < 0.1 * eyes, name
        assert eyes == pytest.approx(128 / 4, rel=0.25)  # FFHQ: at most a quarter of the side
    vectors = store["embedding"]
    distance = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
    same = [distance[2 * k, 2 * k + 1] for k in range(4)]
    others = [distance[i, j] for i in range(8) for j in range(i) if i // 2 != j // 2]
    assert np.mean(same) < np.mean(others)
    models = {row["name"]: row["spdx"] for row in json.loads((out / "report.json").read_text())["models"]}
    assert models == {"blazeface": "Apache-2.0", "facemesh": "Apache-2.0", "dlib-resnet": "CC0-1.0"}
    assert read_image(out / "rejected.png").ndim == 3
    again = run("prepare", raw, out, "--size", 128, "--also", "32", "--quiet")
    assert "8 faces of 10 photographs" in again.output


def test_identity_features_of_people(raw, tmp_path):
    result = run("identities", raw, "--one", "--out", tmp_path, "--workers", 1, "--quiet")
    assert result.exit_code == 0, result.output
    assert "8 pictures of 4 people" in result.output
    assert "left out: wall.png: its name is not {identity}_{sample}" in result.output
    features = json.loads((tmp_path / "identity_features.json").read_text())
    assert len(features) == 8
    for person in range(4):
        assert features[f"{person:06d}_000.png"] == features[f"{person:06d}_001.png"]
    assert len({tuple(vector) for vector in features.values()}) == 4
    every = run("identities", raw, "--all", "--out", tmp_path, "--quiet")
    assert every.exit_code == 0
    assert (
        len({tuple(v) for v in json.loads((tmp_path / "identity_features.json").read_text()).values()}) == 8
    )


def test_a_missing_model_is_said_before_anything_is_written(raw, tmp_path, monkeypatch):
    monkeypatch.setenv("PYFACE_HOME", str(tmp_path / "nowhere"))
    result = CliRunner().invoke(cli, ["data", "prepare", str(raw), str(tmp_path / "out"), "--quiet"])
    assert "pyface models fetch" in str(result.exception)
    assert not list(tmp_path.glob("out/*/*.png"))
