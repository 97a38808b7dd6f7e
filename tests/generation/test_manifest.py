"""The manifest: begun with a dataset, refused for another one, completed with the last shard."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pyface.errors import DataError, ValueRangeError
from pyface.generation.manifest import (
    MANIFEST,
    complete_manifest,
    dataset_part,
    open_store,
    read_manifest,
)
from pyface.generation.plan import Plan


@pytest.fixture(params=["shards", "folder"])
def made(request, storage):
    return storage.recipe(storage=request.param)


def run(storage, folder, recipe, *, index=0, of=1, made_by=None, stop_after=None):
    """Write a part as a process does: what is not there yet."""
    made_by = made_by or storage.MADE_BY
    with dataset_part(folder, recipe, index=index, of=of, made_by=made_by) as store:
        share = Plan(recipe).share(index, of)
        missing = sorted(set(share) - set(store.committed(share)))
        if stop_after is None:
            return storage.write_shards(store, missing, made_by=made_by)
        storage.write_shards(store, missing[:stop_after], made_by=made_by)
        raise KeyboardInterrupt


def test_begun_and_completed(tmp_path, storage, made):
    with pytest.raises(KeyboardInterrupt):
        run(storage, tmp_path / "new", made, stop_after=1)
    begun = read_manifest(tmp_path / "new")
    assert (begun.recipe, begun.complete, begun.shards) == (made, False, ())
    assert begun.made_by == (storage.MADE_BY,)
    records = run(storage, tmp_path / "new", made)
    assert [record.shard for record in records] == [1, 2]
    manifest = read_manifest(tmp_path / "new")
    assert manifest.complete
    assert manifest.totals["pictures"] == 10
    store = open_store(tmp_path / "new")
    rows = [(r.name, r.pictures, r.bytes, r.sha256) for r in store.committed().values()]
    assert list(manifest.shards) == rows
    entry = json.loads((tmp_path / "new" / MANIFEST).read_text())
    assert entry["plan"] == {"pictures": 10, "shards": 3}
    assert entry["totals"] == {"shards": 3, "pictures": 10, "bytes": sum(row[2] for row in rows)}
    lines = "".join(f"{row[3]}  {row[0]}\n" for row in rows)
    assert entry["sha256"] == hashlib.sha256(lines.encode()).hexdigest()
    assert entry["recipe_sha256"] == made.sha256


def test_a_stopped_run_ends_as_an_undisturbed_one(tmp_path, storage, made):
    run(storage, tmp_path / "whole", made)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(storage, tmp_path / "stopped", made, stop_after=1)
    run(storage, tmp_path / "stopped", made)
    assert storage.tree(tmp_path / "whole") == storage.tree(tmp_path / "stopped")
    assert run(storage, tmp_path / "stopped", made) == []
    assert storage.tree(tmp_path / "whole") == storage.tree(tmp_path / "stopped")


def test_the_last_of_several_parts_completes(tmp_path, storage, made):
    run(storage, tmp_path / "whole", made)
    for index in (2, 0, 1):
        assert not (tmp_path / "parts" / MANIFEST).exists() or not read_manifest(tmp_path / "parts").complete
        assert run(storage, tmp_path / "parts", made, index=index, of=3)
    assert storage.tree(tmp_path / "whole") == storage.tree(tmp_path / "parts")


def test_parts_at_the_same_time(tmp_path, storage, made):
    """Four of them, two of which have the same part, and one nothing to do: one of the two is refused."""
    run(storage, tmp_path / "whole", made)
    start, refused = threading.Barrier(5), []

    def part(index):
        start.wait()
        try:
            run(storage, tmp_path / "parts", made, index=index, of=4)
        except DataError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=part, args=(index,)) for index in (0, 1, 2, 3, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [text for text in refused if "another process is writing part 3 of 4" not in text] == []
    assert storage.tree(tmp_path / "whole") == storage.tree(tmp_path / "parts")


def test_every_way_of_making_is_told(tmp_path, storage, made):
    for index, engine in ((0, "b"), (1, "a"), (2, "b")):
        run(storage, tmp_path, made, index=index, of=3, made_by={"engine": engine})
    assert read_manifest(tmp_path).made_by == ({"engine": "a"}, {"engine": "b"})


def test_another_recipe_is_refused(tmp_path, storage, made):
    run(storage, tmp_path, made)
    before = storage.tree(tmp_path)
    other = dataclasses.replace(made, seed=8, network_sha256="cd" * 32)
    with pytest.raises(DataError, match=r"another recipe \(network_sha256 was abab.*; seed was 7, now 8\)"):
        run(storage, tmp_path, other)
    assert storage.tree(tmp_path) == before


def test_other_folders_are_refused(tmp_path, storage, made):
    (tmp_path / "photo.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"is not empty and has no manifest\.json \(it has photo\.png\)"):
        run(storage, tmp_path, made)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="a file stands where a folder is needed"):
        run(storage, tmp_path / "file", made)
    with pytest.raises(ValueRangeError, match="--shard-index must be from 0 to 1"):
        run(storage, tmp_path / "new", made, index=2, of=2)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"format": 1', '"format": 2'),
        ('"seed": 7', '"seed": 8'),
        ('"seed": 7', '"seed": -1'),
        ('"seed": 7', '"sed": 7'),
        ('"complete": true', '"complet": true'),
        ('"shards": [', '"shards": [3,'),
        ("{", "["),
    ],
)
def test_a_damaged_manifest(tmp_path, storage, old, new):
    made = storage.recipe()
    run(storage, tmp_path, made)
    path = tmp_path / MANIFEST
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DataError, match=r"manifest\.json is damaged or no manifest"):
        read_manifest(tmp_path)
    with pytest.raises(DataError, match=r"manifest\.json is damaged or no manifest"):
        run(storage, tmp_path, made)


def test_no_manifest(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DataError, match=r"has no manifest\.json; give a folder that `pyface generate"):
            read_manifest(folder)
    (tmp_path / MANIFEST).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read"):
        read_manifest(tmp_path)


def test_a_shard_whose_record_was_removed_is_made_anew(tmp_path, storage, made):
    run(storage, tmp_path, made)
    whole = storage.tree(tmp_path)
    store = open_store(tmp_path)
    store.record_path(1).unlink()
    with pytest.raises(KeyboardInterrupt):
        run(storage, tmp_path, made, stop_after=0)
    assert not read_manifest(tmp_path).complete
    assert complete_manifest(store) is None
    assert [record.shard for record in run(storage, tmp_path, made)] == [1]
    assert storage.tree(tmp_path) == whole


def test_damage_stops_a_run_before_it_writes(tmp_path, storage):
    made = storage.recipe()
    with pytest.raises(KeyboardInterrupt):
        run(storage, tmp_path, made, stop_after=2)
    (tmp_path / "shard-000001.tar").write_bytes(b"short")
    with pytest.raises(DataError, match=r"shard-000001\.tar has 5 bytes"):
        run(storage, tmp_path, made)
    assert not (tmp_path / "shard-000002.tar").exists()


LEFT = """
import os, sys
sys.path.insert(0, sys.argv[3])
import storage
from pyface.generation.manifest import dataset_part
recipe = storage.recipe(storage=sys.argv[2])
with dataset_part(sys.argv[1], recipe) as store:
    writers = [store.writer(store.folder, recipe, shard) for shard in (0, 1)]
    for shard, writer in enumerate(writers):
        writer.__enter__()
        for picture in store.plan.pictures(shard)[:2]:
            writer.add(picture, storage.encoded(recipe, picture), storage.conditions(picture))
    os.kill(os.getpid(), 9)
"""


def test_leftovers_of_the_own_part_alone_are_removed(tmp_path, storage, made):
    folder = str(Path(storage.__file__).parent)
    command = [sys.executable, "-c", LEFT, str(tmp_path / "new"), made.storage, folder]
    assert subprocess.run(command, check=False).returncode == -9
    store = open_store(tmp_path / "new")
    assert sorted(store.leftovers().values()) == [0, 1]
    (tmp_path / "new" / ".manifest.abcdefgh.json").write_text("{")
    (tmp_path / "new" / ".mine").write_text("kept")
    run(storage, tmp_path / "new", made, index=1, of=2)
    assert list(store.leftovers().values()) == [0]
    run(storage, tmp_path / "new", made, index=0, of=2)
    assert not store.leftovers()
    hidden = sorted(p.name for p in (tmp_path / "new").iterdir() if p.name.startswith("."))
    assert hidden == [".mine", ".writers"]
    (tmp_path / "new" / ".mine").unlink()
    run(storage, tmp_path / "whole", made)
    assert storage.tree(tmp_path / "whole") == storage.tree(tmp_path / "new")


@pytest.mark.parametrize("block", range(3))
def test_the_guide_reads_shards_as_it_says(tmp_path, storage, block):
    """The examples of docs/datasets.md on reading, on a smaller dataset."""
    whole = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text(encoding="utf-8")
    guide = whole.split("## Read shards")[1]
    example = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)[block]
    if "webdataset" in example:
        pytest.importorskip("webdataset", reason="webdataset is not installed")
    run(storage, tmp_path / "out", storage.recipe())
    smaller = {
        '"out': f'"{tmp_path}/out',
        "000099": "000002",
        "identity=12, sample=3": "identity=3, sample=1",
    }
    for old, new in smaller.items():
        example = example.replace(old, new)
    names: dict = {}
    exec(compile(example, "docs/datasets.md", "exec"), names)
    if "picture" in names:
        assert names["picture"].size == (16, 12)
    else:
        assert names["stored"].conditions == {"smile": round(3 / 7, 6), "glasses": 1.0}
