"""Records say what is finished; locks divide shards among processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from pyface.errors import DataError
from pyface.generation import records
from pyface.generation.records import LOCKS, Record, whole_file_lock, writing_part
from pyface.generation.shards import ShardStore

RECORD = Record(3, "shard-000003.tar", 4, 100, "0" * 64, "1" * 64, {"engine": "none"})

HOLDER = """
import sys, time
from pyface.generation.records import writing_part
with writing_part(sys.argv[1], 1, 3):
    print("locked", flush=True)
    time.sleep(60)
"""


def enter(folder, *part):
    with writing_part(folder, *part):
        pass


@pytest.fixture
def holder(tmp_path):
    """A process that writes part 1 of 3."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_a_record_survives_the_file(tmp_path):
    RECORD.write(tmp_path / "a.json")
    assert Record.read(tmp_path / "a.json") == RECORD
    assert "files" not in json.loads((tmp_path / "a.json").read_text())


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"shard": -1},
        {"shard": "3"},
        {"pictures": 0},
        {"pictures": True},
        {"bytes": 1.5},
        {"sha256": "0" * 63},
        {"recipe": None},
        {"name": 3},
        {"made_by": []},
        {"further": 1},
        {"bytes": ...},
        {"format": ...},
    ],
)
def test_damaged_records(tmp_path, change):
    path = tmp_path / "a.json"
    RECORD.write(path)
    entry = json.loads(path.read_text()) | change
    path.write_text(json.dumps({name: value for name, value in entry.items() if value is not ...}))
    with pytest.raises(DataError, match=r"a\.json is no record of a shard"):
        Record.read(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff\xfe", b"null"])
def test_files_that_are_no_records(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.json is no record of a shard"):
        Record.read(path)
    with pytest.raises(DataError, match="no record"):
        Record.read(tmp_path / "absent.json")


def test_committed_are_those_with_record(tmp_path, storage):
    store = ShardStore(tmp_path, storage.recipe())
    assert store.committed() == {}
    written = storage.write_shards(store)
    assert list(store.committed().values()) == written
    assert list(store.committed([2, 0])) == [0, 2]
    store.record_path(1).unlink()
    assert list(store.committed()) == [0, 2]


def test_what_does_not_fit_its_record_is_refused(tmp_path, storage):
    store = ShardStore(tmp_path, storage.recipe())
    storage.write_shards(store)
    shard, whole = store.shard_path(1), store.shard_path(1).read_bytes()
    record, text = store.record_path(1), store.record_path(1).read_text()

    def refused(words):
        with pytest.raises(DataError, match=words) as caught:
            store.committed()
        assert "generate verify" in str(caught.value)
        assert "such as shard-000001.json, to have the shard made anew" in str(caught.value)
        assert list(store.committed([0, 2])) == [0, 2]

    shard.write_bytes(whole[:-1])
    refused(r"shard-000001\.tar has \d+ bytes, its record \d+")
    shard.unlink()
    refused(r"shard-000001\.tar is gone, but its record is there")
    shard.write_bytes(whole)
    record.write_text(text.replace(store.recipe.sha256, "0" * 64))
    refused(r"shard-000001\.json is of another recipe")
    record.write_text(text.replace('"pictures": 4', '"pictures": 3'))
    refused(r"shard-000001\.json has 3 pictures, the plan 4")
    record.write_bytes(store.record_path(0).read_bytes())
    refused(r"shard-000001\.json is the record of shard 0, shard-000000\.tar")
    record.write_text(text[: len(text) // 2])
    refused(r"shard-000001\.json is no record")
    record.write_text(text)
    assert len(store.committed()) == 3
    (tmp_path / "shard-000003.json").write_text(text.replace('"shard": 1', '"shard": 3'))
    with pytest.raises(DataError, match=r"of no shard of the plan, which has 3"):
        store.committed()


def test_long_lists_of_problems_are_cut(tmp_path, storage):
    store = ShardStore(tmp_path, storage.recipe(shard_size=1))
    for record in storage.write_shards(store)[:8]:
        store.shard_path(record.shard).unlink()
    with pytest.raises(DataError, match=r"shard-000004\.tar is gone.*; and 3 more\."):
        store.committed()


def test_other_parts_are_not_in_the_way(tmp_path, holder):
    enter(tmp_path, 0, 3)
    enter(tmp_path, 2, 3)
    with pytest.raises(DataError, match=r"another process is writing part 1 of 3 of .*--shard-index"):
        enter(tmp_path, 1, 3)
    for part in ((), (0, 2), (1, 2), (0, 4), (3, 2**20)):
        with pytest.raises(DataError, match=r"divides the work otherwise than into \d+; give all the same"):
            enter(tmp_path, *part)
    enter(tmp_path, 0, 3)
    assert [path.name for path in tmp_path.iterdir()] == [LOCKS]


def test_a_lock_ends_with_its_process(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    enter(tmp_path, 1, 3)
    enter(tmp_path)


def test_one_process_cannot_enter_twice_either(tmp_path):
    with writing_part(tmp_path):
        for _ in range(2):  # the end of the second block does not let go of the first
            with pytest.raises(DataError, match=rf"another process is writing {tmp_path};"):
                enter(tmp_path)
    enter(tmp_path)


def test_whoever_writes_the_manifest_waits(tmp_path):
    order = []

    def second():
        with whole_file_lock(tmp_path):
            order.append("second")

    with writing_part(tmp_path), whole_file_lock(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.1)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_without_locks_in_the_file_system_nobody_is_kept_out(tmp_path, monkeypatch):
    def unsupported(*args):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(records.fcntl, "fcntl", unsupported)
    with writing_part(tmp_path, 1, 2), whole_file_lock(tmp_path):
        enter(tmp_path, 1, 2)
        enter(tmp_path)
