"""Every kind of damage is found and named, one by one."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
import tarfile

import pytest
from click.testing import CliRunner

from pyface.cli.generate_verify import command
from pyface.errors import DataError, ValueRangeError
from pyface.generation.checking import FAULTS, verify_dataset
from pyface.generation.encoding import Codec, Encoder
from pyface.generation.folder import listing_sha256
from pyface.generation.manifest import MANIFEST, complete_manifest, dataset_part, open_store
from pyface.generation.plan import Picture
from pyface.generation.records import Record
from pyface.generation.shards import ShardStore, ustar_header
from pyface.io.hashing import sha256_of


@pytest.fixture(scope="module")
def whole(tmp_path_factory, storage):
    """A sound dataset of each form."""
    folders = {}
    for form in ("shards", "folder"):
        made = storage.recipe(storage=form, spectra={"vis": 3, "nir": 1})
        folders[form] = tmp_path_factory.mktemp(form) / "data"
        with dataset_part(folders[form], made, made_by=storage.MADE_BY) as store:
            storage.write_shards(store)
    return folders


@pytest.fixture
def shards(tmp_path, whole):
    """A copy of the one in shards."""
    return shutil.copytree(whole["shards"], tmp_path / "data")


@pytest.fixture
def chunks(tmp_path, whole):
    """A copy of the one in a folder."""
    return shutil.copytree(whole["folder"], tmp_path / "data")


def found(folder, **options):
    """File and kind of each fault."""
    report = verify_dataset(folder, **options)
    assert all(fault.kind in FAULTS for fault in report.faults)
    assert report.sound == (not report.faults and report.complete)
    return [(fault.file, fault.kind) for fault in report.faults]


def contents(path):
    with tarfile.open(path) as archive:
        return [(m.name, archive.extractfile(m).read()) for m in archive.getmembers()]


def rewrite(folder, shard, change):
    """Write a shard with other members, and a record that fits it; the manifest is made to fit too."""
    store = open_store(folder)
    path = store.shard_path(shard)
    blocks = []
    for name, data in change(contents(path)):
        blocks += [ustar_header(name, len(data)), data, bytes(-len(data) % 512)]
    path.write_bytes(b"".join([*blocks, bytes(1024)]))
    _refit(store, shard)


def _refit(store, shard):
    record = json.loads(store.record_path(shard).read_text())
    record |= {
        "bytes": store.shard_path(shard).stat().st_size,
        "sha256": sha256_of(store.shard_path(shard)),
    }
    store.record_path(shard).write_text(json.dumps(record))
    assert complete_manifest(store) is not None


@pytest.mark.parametrize("form", ["shards", "folder"])
@pytest.mark.parametrize("decode", [True, False])
def test_a_sound_dataset(whole, form, decode):
    calls = []
    report = verify_dataset(whole[form], decode=decode, progress=lambda *args: calls.append(args))
    assert report.sound
    assert (report.shards, report.pictures, report.decoded) == (3, 10, decode)
    assert report.bytes == sum(record.bytes for record in open_store(whole[form]).committed().values())
    assert calls == [(1, 3), (2, 3), (3, 3)]


# --- shards ---


def test_a_flipped_byte_in_a_shard(shards):
    path = shards / "shard-000001.tar"
    data = bytearray(path.read_bytes())
    data[900] ^= 1  # within a picture
    path.write_bytes(data)
    assert ("shard-000001.tar", "sha256") in found(shards)
    assert ("shard-000001.tar", "sha256") in found(shards, decode=False)


@pytest.mark.parametrize("place", [0, 100, 512 * 3 + 130, 512 * 4])
def test_a_flipped_byte_anywhere(shards, place):
    path = shards / "shard-000001.tar"
    data = bytearray(path.read_bytes())
    data[place] ^= 0x10
    path.write_bytes(data)
    assert ("shard-000001.tar", "sha256") in found(shards)


def test_a_cut_off_shard(shards):
    path = shards / "shard-000001.tar"
    path.write_bytes(path.read_bytes()[:-3000])
    faults = found(shards)
    assert ("shard-000001.tar", "size") in faults
    assert any(kind == "picture-missing" for _, kind in faults)
    path.write_bytes(b"")
    faults = found(shards)
    assert ("shard-000001.tar", "size") in faults
    assert ("shard-000001.tar", "picture-missing") in faults  # the others of sixteen


def test_a_missing_record(shards):
    (shards / "shard-000001.json").unlink()
    assert found(shards) == [("shard-000001.tar", "record-missing")]


def test_a_record_without_shard(shards):
    (shards / "shard-000001.tar").unlink()
    assert found(shards) == [("shard-000001.json", "record")]


def test_shards_that_were_not_made(shards):
    for name in ("shard-000001.tar", "shard-000001.json", "shard-000002.tar", "shard-000002.json"):
        (shards / name).unlink()
    assert found(shards) == [("shard-000001", "shard-missing"), ("shard-000002", "shard-missing")]


def test_a_damaged_record(shards):
    path = shards / "shard-000001.json"
    path.write_text(path.read_text()[:-20])
    assert found(shards) == [("shard-000001.json", "record")]
    path.write_bytes((shards / "shard-000000.json").read_bytes())
    assert found(shards) == [("shard-000001.json", "record")]


def test_a_missing_picture(shards):
    rewrite(shards, 1, lambda members: [m for m in members if m[0] != "00000002_0001.nir.jpg"])
    assert found(shards) == [("shard-000001.tar/00000002_0001.nir.jpg", "picture-missing")]
    assert verify_dataset(shards).pictures == 9


def test_a_picture_that_is_there_twice(shards):
    rewrite(shards, 1, lambda members: [*members[:5], members[0], *members[5:]])
    assert found(shards) == [("shard-000001.tar/00000002_0000.vis.jpg", "duplicate")]


def test_a_picture_of_another_shard(shards):
    stranger = contents(shards / "shard-000000.tar")[0]
    rewrite(shards, 1, lambda members: [*members, stranger])
    assert found(shards) == [("shard-000001.tar/00000000_0000.vis.jpg", "duplicate")]


@pytest.mark.parametrize("name", ["00000009_0000.vis.jpg", "00000000_0000.uv.jpg", "readme.txt", "a_b.jpg"])
def test_a_picture_that_is_not_in_the_plan(shards, name):
    rewrite(shards, 1, lambda members: [*members, (name, b"x")])
    assert found(shards) == [(f"shard-000001.tar/{name}", "picture-extra")]


def test_another_order(shards):
    rewrite(shards, 1, lambda members: members[4:] + members[:4])
    assert found(shards) == [("shard-000001.tar", "order")]


def replaced(name, data):
    return lambda members: [(n, data if n == name else d) for n, d in members]


@pytest.mark.parametrize("decode", [True, False])
def test_a_picture_of_another_size(shards, storage, decode):
    made = storage.recipe(resolution=(16, 12))
    data = storage.encoded(made, Picture(2, 0))["vis"]
    rewrite(shards, 1, replaced("00000002_0000.vis.jpg", data))
    assert found(shards, decode=decode) == [("shard-000001.tar/00000002_0000.vis.jpg", "picture-size")]
    assert "is 16 x 12 x 3, must be 12 x 16 x 3" in str(verify_dataset(shards).faults[0])


def test_a_grey_picture_in_place_of_a_coloured_one(shards):
    grey = dict(contents(shards / "shard-000001.tar"))["00000002_0000.nir.jpg"]
    rewrite(shards, 1, replaced("00000002_0000.vis.jpg", grey))
    assert found(shards) == [("shard-000001.tar/00000002_0000.vis.jpg", "picture-size")]


def test_a_png_among_jpegs(shards, storage):
    png = Encoder(Codec.of("png")).encode(storage.pixels(storage.recipe(), Picture(2, 0), "vis"))
    rewrite(shards, 1, replaced("00000002_0000.vis.jpg", png))
    assert "is no JPEG" in str(verify_dataset(shards).faults[0])


def test_a_picture_that_cannot_be_decoded(shards):
    whole = dict(contents(shards / "shard-000001.tar"))["00000002_0000.vis.jpg"]
    rewrite(shards, 1, replaced("00000002_0000.vis.jpg", whole[:-40]))
    assert found(shards) == [("shard-000001.tar/00000002_0000.vis.jpg", "unreadable")]
    assert found(shards, decode=False) == []  # that is what decoding is for


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"{", "is damaged"),
        (b"[]", "is damaged"),
        (b'{"identity": 2}', r"is damaged \('sample'\)"),
        (b'{"identity": 1, "sample": 0, "conditions": {}}', "is of identity 1, sample 0"),
        (b'{"identity": 2, "sample": 0, "conditions": {}}', "conditions smile, glasses"),
        (
            b'{"identity": 2, "sample": 0, "conditions": {"smile": NaN, "glasses": 0}}',
            "conditions smile, glasses",
        ),
    ],
)
def test_wrong_labels(shards, data, words):
    rewrite(shards, 1, replaced("00000002_0000.json", data))
    (fault,) = verify_dataset(shards).faults
    assert (fault.file, fault.kind) == ("shard-000001.tar/00000002_0000.json", "labels")
    assert re.search(words, fault.text)


def test_a_wrong_class(shards):
    rewrite(shards, 1, replaced("00000002_0000.cls", b"3"))
    assert found(shards) == [("shard-000001.tar/00000002_0000.cls", "labels")]


def test_extra_files_and_leftovers(shards):
    (shards / "notes.txt").write_text("")
    (shards / ".hidden").write_text("")
    (shards / "more").mkdir()
    (shards / "shard-000007.tar").write_bytes(b"")
    (shards / ".shard-000001.abcdefgh.tar").write_bytes(b"")
    assert found(shards) == [
        (".shard-000001.abcdefgh.tar", "leftover"),
        (".hidden", "extra-file"),
        ("more", "extra-file"),
        ("notes.txt", "extra-file"),
        ("shard-000007.tar", "extra-file"),
    ]


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry["shards"][1].__setitem__(3, "0" * 64),
        lambda entry: entry["shards"][1].__setitem__(1, 3),
        lambda entry: entry["shards"].pop(),
        lambda entry: entry["totals"].__setitem__("pictures", 11),
        lambda entry: entry.__setitem__("sha256", "0" * 64),
        lambda entry: entry.__setitem__("made_by", []),
        lambda entry: entry.__setitem__("complete", False),
        lambda entry: entry["recipe"].__setitem__("seed", 8),
        lambda entry: entry.pop("format"),
    ],
)
@pytest.mark.parametrize("form", ["shards", "folder"])
def test_a_manifest_that_does_not_fit(tmp_path, whole, form, change):
    folder = shutil.copytree(whole[form], tmp_path / "data")
    entry = json.loads((folder / MANIFEST).read_text())
    change(entry)
    (folder / MANIFEST).write_text(json.dumps(entry))
    assert found(folder) == [(MANIFEST, "manifest")]


def test_no_manifest_and_no_folder(shards):
    (shards / MANIFEST).unlink()
    assert found(shards) == [(MANIFEST, "manifest")]
    with pytest.raises(DataError, match="is no folder"):
        verify_dataset(shards / "absent")


def test_long_lists_are_cut(shards, storage, tmp_path):
    rewrite(shards, 1, lambda members: members[:1])
    report = verify_dataset(shards)
    assert [fault.kind for fault in report.faults] == ["picture-missing"] * 11
    assert "and 5 more of this kind, up to shard-000001.tar/00000003_0001.cls" in report.faults[-1].text
    with dataset_part(tmp_path / "new", storage.recipe(shard_size=1, storage="folder")):
        pass
    report = verify_dataset(tmp_path / "new")
    assert (len(report.faults), report.complete) == (10, False)


# --- folders ---


def test_files_of_a_folder(chunks):
    picture = chunks / "VIS" / "000002_000.jpg"
    whole = picture.read_bytes()

    def now(data):
        picture.write_bytes(data)
        return found(chunks)

    name = "VIS/000002_000.jpg"
    flipped = bytearray(whole)
    flipped[-10] ^= 1
    assert now(bytes(flipped)) == [(name, "sha256")]
    assert now(whole[:-50]) == [(name, "size"), (name, "unreadable")]
    assert now(b"") == [(name, "size"), (name, "picture-size")]
    picture.unlink()
    assert found(chunks) == [(name, "picture-missing")]
    assert verify_dataset(chunks).pictures == 9


def test_a_picture_of_another_size_in_a_folder(chunks, storage):
    """Put there together with a record that fits it."""
    data = storage.encoded(storage.recipe(resolution=(16, 12)), Picture(2, 0))["vis"]
    store = open_store(chunks)
    (chunks / "VIS" / "000002_000.jpg").write_bytes(data)
    record = Record.read(store.record_path(1))
    file = record.files[0]["files"]["vis"]
    file |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    files = [file for entry in record.files for file in entry["files"].values()]
    total = sum(file["bytes"] for file in files)
    dataclasses.replace(record, bytes=total, sha256=listing_sha256(files)).write(store.record_path(1))
    complete_manifest(store)
    assert found(chunks) == [("VIS/000002_000.jpg", "picture-size")]


def test_records_of_a_folder(chunks):
    record = chunks / "records" / "chunk-000001.json"
    text = record.read_text()
    record.write_text(text.replace('"identity": 2', '"identity": 3'))
    assert found(chunks) == [("records/chunk-000001.json", "record")]
    record.unlink()
    assert found(chunks) == [("VIS/000002_000.jpg", "record-missing")]
    for spectrum in ("VIS", "NIR"):
        for picture in open_store(chunks).plan.pictures(1):
            (chunks / spectrum / f"{picture.identity:06d}_{picture.sample:03d}.jpg").unlink()
    assert found(chunks) == [("chunk-000001", "shard-missing")]


@pytest.mark.parametrize("name", ["labels.jsonl", "dataset.json"])
def test_labels_of_a_folder(chunks, name):
    path = chunks / name
    path.write_text(path.read_text().replace("0.285714", "0.285715"))
    assert found(chunks) == [(name, "labels")]
    path.unlink()
    assert found(chunks) == [(name, "labels")]


def test_extra_files_in_a_folder(chunks):
    (chunks / "VIS" / "000009_000.jpg").write_bytes(b"")
    (chunks / "VIS" / "000000_000.png").write_bytes(b"")
    (chunks / "records" / "chunk-000003.json").write_text("{}")
    hidden = chunks / ".chunk-000002.abcdefgh"
    (hidden / "VIS").mkdir(parents=True)
    (hidden / "VIS" / "000004_000.jpg").write_bytes(b"")
    assert found(chunks) == [
        (".chunk-000002.abcdefgh", "leftover"),
        ("VIS/000000_000.png", "extra-file"),
        ("VIS/000009_000.jpg", "extra-file"),
        ("records/chunk-000003.json", "extra-file"),
    ]


# --- the command ---


def test_the_command(shards):
    run = CliRunner().invoke(command, [str(shards)])
    assert run.exit_code == 0, run.output
    assert "is sound: 10 pictures in 3 shards" in run.output
    assert "all of them read and decoded" in run.output
    (shards / "shard-000001.json").unlink()
    (shards / "notes.txt").write_text("")
    run = CliRunner().invoke(command, [str(shards), "--no-decode", "--jobs", "1"])
    assert run.exit_code == 1
    assert run.output.splitlines() == [
        "shard-000001.tar: record-missing: its record shard-000001.json is not there",
        "notes.txt: extra-file: belongs to no dataset; move it elsewhere",
        f"{shards} has 2 faults; sound records: {run.output.splitlines()[-1].split('sound records: ')[1]}",
    ]
    run = CliRunner().invoke(command, [str(shards), "--jobs", "0"])
    assert isinstance(run.exception, ValueRangeError)
    assert isinstance(open_store(shards), ShardStore)
