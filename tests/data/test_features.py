"""Features by name, and the journal behind a resumable run."""

from __future__ import annotations

import numpy as np
import pytest

from pyface.data.features import FeatureStore, write_features
from pyface.data.journal import Journal
from pyface.errors import DataError, ShapeError, ValueRangeError

NAMES = ["zoe/1.png", "adam/2.png", "Öl.png"]


@pytest.fixture
def store(tmp_path):
    tables = {"embedding": np.arange(12, dtype=np.float32).reshape(3, 4), "score": np.array([0.1, 0.2, 0.3])}
    path = tmp_path / "features.safetensors"
    write_features(path, NAMES, tables, {"by": "hand"})
    return FeatureStore(path)


def test_rows_belong_to_names(store):
    assert store.names == tuple(NAMES)
    assert store.features == ("embedding", "score")
    assert store.facts == {"by": "hand"}
    row = store.row("adam/2.png")
    np.testing.assert_array_equal(row["embedding"], [4, 5, 6, 7])
    assert row["score"] == 0.2
    np.testing.assert_array_equal(store.of(["Öl.png", "zoe/1.png"], "score"), [0.3, 0.1])
    assert "Öl.png" in store
    assert "nobody.png" not in store


def test_what_is_not_there_is_named(store):
    with pytest.raises(ValueRangeError, match=r"no features of 'nobody.png'; it has 3 pictures"):
        store.row("nobody.png")
    with pytest.raises(ValueRangeError, match=r"no feature 'smile'.*embedding, score"):
        store["smile"]


def test_tables_must_fit(tmp_path):
    with pytest.raises(ShapeError, match="score must have a row for each of 3"):
        write_features(tmp_path / "a.safetensors", NAMES, {"score": np.zeros(2)})
    with pytest.raises(ValueRangeError, match=r"'a.png' comes twice"):
        write_features(tmp_path / "a.safetensors", ["a.png", "a.png"], {})
    assert not list(tmp_path.iterdir())


def test_other_files_are_refused(tmp_path, store):
    with pytest.raises(DataError, match="does not exist"):
        FeatureStore(tmp_path / "nothing")
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(store.path.read_bytes()[:40])
    with pytest.raises(DataError, match="damaged"):
        FeatureStore(bad)


def test_journal_gives_back_what_was_added(tmp_path):
    path = tmp_path / "journal.jsonl"
    Journal(path).add([{"key": "a", "points": np.arange(6, dtype=np.float32).reshape(3, 2), "n": [1, None]}])
    Journal(path).add([{"key": "b", "points": np.zeros((0, 2), np.uint8)}, {"key": "a", "points": 1}])
    again = Journal(path).records
    assert again["a"] == {"key": "a", "points": 1}
    assert again["b"]["points"].shape == (0, 2)
    assert again["b"]["points"].dtype == np.uint8


@pytest.mark.parametrize("cut", [1, 7, 30])
def test_a_torn_last_line_is_dropped(tmp_path, cut):
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.add([{"key": "a", "x": np.arange(3)}])
    journal.add([{"key": "b", "x": np.arange(4)}])
    path.write_bytes(path.read_bytes()[:-cut])
    again = Journal(path)
    assert list(again.records) == ["a"]
    again.add([{"key": "c"}])
    assert list(Journal(path).records) == ["a", "c"]


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_text('{"key": "a"}\nnonsense\n{"key": "b"}\n')
    with pytest.raises(DataError, match="line 2 is damaged"):
        Journal(path)


def test_a_journal_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "journal.jsonl").mkdir()
    with pytest.raises(DataError, match=r"journal\.jsonl"):
        Journal(tmp_path / "journal.jsonl")
    journal = Journal(tmp_path / "gone" / "journal.jsonl")
    with pytest.raises(DataError, match="cannot write"):
        journal.add([{"key": "a"}])
