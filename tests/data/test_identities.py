"""Identity features of pictures, each its own or one for each person."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pyface.data.features import FeatureStore
from pyface.data.identities import identity_features, most_typical, write_identity_features
from pyface.errors import DataError, ValueRangeError
from pyface.io.images import write_image


class Corner:
    """Vectors that the test can compute: the colour of the first pixel."""

    name, dim, size, template, metric, threshold, differentiable = (
        "corner", 3, 16, "arcface112", "cosine", 0.5, True,
    )  # fmt: skip

    def embed(self, aligned):
        return aligned[:, :, 0, 0]


COLOURS = {
    "000002_000": (200, 10, 10),
    "000002_001": (190, 10, 20),
    "000002_002": (100, 110, 20),
    "000001_000": (0, 100, 250),
}


@pytest.fixture
def pairs(tmp_path):
    for folder in ("VIS", "NIR"):
        (tmp_path / folder).mkdir()
        for name, colour in COLOURS.items():
            pixels = np.full((32, 32, 3), colour, np.uint8)
            write_image(tmp_path / folder / f"{name}.png", pixels if folder == "VIS" else pixels[..., 0])
    return tmp_path


def test_every_picture_has_its_own(pairs):
    found = identity_features(pairs, "all", embedder=Corner(), aligned=True)
    assert found.names == sorted(f"{name}.png" for name in COLOURS)
    assert found.identities == ["000001", "000002", "000002", "000002"]
    expected = [[v / 127.5 - 1 for v in COLOURS[name.removesuffix(".png")]] for name in found.names]
    np.testing.assert_allclose(found.vectors, expected, atol=1e-6)


def test_one_for_a_person_is_the_most_typical(pairs):
    every = identity_features(pairs, "all", embedder=Corner(), aligned=True)
    one = identity_features(pairs, "one", embedder=Corner(), aligned=True)
    rows = every.vectors[1:]
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    means = [np.mean([units[i] @ units[j] for j in range(3) if j != i]) for i in range(3)]
    np.testing.assert_array_equal(one.vectors[1:], np.repeat(rows[[int(np.argmax(means))]], 3, axis=0))
    np.testing.assert_array_equal(one.vectors[0], every.vectors[0])


def test_most_typical_agrees_with_its_definition():
    rng = np.random.default_rng(0)
    vectors, people = rng.normal(size=(60, 8)), [str(i % 7) for i in range(60)]
    chosen = most_typical(vectors, people)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for person in set(people):
        rows = [i for i in range(60) if people[i] == person]
        means = {i: np.mean([units[i] @ units[j] for j in rows if j != i]) for i in rows}
        assert {chosen[i] for i in rows} == {max(means, key=means.get)}


def test_both_files_say_the_same(pairs):
    found = identity_features(pairs, embedder=Corner(), aligned=True)
    plain, table = write_identity_features(found, pairs, Corner(), "all")
    content, store = json.loads(plain.read_text()), FeatureStore(table)
    assert list(content) == list(store.names)
    for name, numbers in content.items():
        np.testing.assert_array_equal(np.float32(numbers), store.row(name)["embedding"])
    assert store.facts["people"] == ["000001", "000002"]
    np.testing.assert_array_equal(store["person"], [0, 1, 1, 1])


def test_what_cannot_be_used_is_listed(pairs):
    (pairs / "VIS" / "000003_000.png").write_bytes(b"nothing")
    write_image(pairs / "VIS" / "somebody.png", np.zeros((8, 8, 3), np.uint8))
    found = identity_features(pairs, embedder=Corner(), aligned=True)
    assert len(found.names) == 4
    assert {(p.file, p.code) for p in found.problems} == {
        ("VIS/000003_000.png", "not-image"),
        ("VIS/somebody.png", "name"),
    }
    with pytest.raises(DataError, match="2 problems"):
        identity_features(pairs, embedder=Corner(), aligned=True, on_problem="stop")


def test_bad_requests_are_refused(pairs, tmp_path):
    with pytest.raises(ValueRangeError, match="mode must be one of all, one"):
        identity_features(pairs, "some", embedder=Corner())
    with pytest.raises(ValueRangeError, match="identity"):
        identity_features(pairs, embedder=Corner(), pattern="{sample}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no picture with identity features"):
        identity_features(tmp_path / "empty", embedder=Corner(), aligned=True)
