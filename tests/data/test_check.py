"""The check names every fault of every file, and the repaired copy has none."""

from __future__ import annotations

import importlib.util
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from pyface.cli import cli
from pyface.data import ImageFolder
from pyface.data.check import check, initial_size
from pyface.data.packing import new_dataset, pack
from pyface.data.repair import legal_size, repair
from pyface.errors import DataError, ValueRangeError
from pyface.io.images import read_image, write_image, write_image16

_spec = importlib.util.spec_from_file_location("faulty", Path(__file__).with_name("faulty.py"))
faulty = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(faulty)


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad") / "set"
    folder.mkdir()
    faulty.make_faulty(folder)
    return folder


def zipped(folder, path, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder).as_posix())
    return path


def contents(folder):
    return {
        p.relative_to(folder).as_posix(): (p.read_bytes(), p.stat().st_mtime_ns)
        for p in folder.rglob("*")
        if p.is_file()
    }


def codes(report):
    found = {}
    for fault in report.faults:
        found.setdefault(fault.file, set()).add(fault.code)
    return found


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_every_fault_is_found_and_nothing_else(bad, tmp_path, packed):
    report = check(zipped(bad, tmp_path / "set.zip") if packed else bad, workers=2)
    assert codes(report) == faulty.FAULTS | {faulty.GONE: {"label-without-file"}}
    assert report.expected == (32, 32)
    assert report.ignored == ["notes.txt"]
    assert report.schema.kind == "multi-hot"
    assert report.schema.names == ("smile", "glasses")
    plain = json.loads(json.dumps(report.plain()))
    assert plain["sizes"]["32x32"] > 15
    assert plain["labels"]["balance"]["glasses"]["count"] == len(report.labels.rows)
    nan = next(f for f in report.faults if f.file == "nan.png")
    lines = (bad / "dataset.json").read_text().splitlines()
    assert "nan.png" in lines[nan.line - 1]
    assert "smile is nan" in nan.reason


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("resize_filter", ["lanczos", "box"])
def test_the_repaired_copy_is_sound_and_the_original_untouched(bad, tmp_path, kind, resize_filter):
    before = contents(bad)
    out = tmp_path / ("fixed.zip" if kind == "zip" else "fixed")
    done = repair(bad, out, resize_filter=resize_filter, workers=2)
    assert contents(bad) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == [out.name], "nothing else is left"
    report = check(out)
    assert report.ok, report.faults
    if kind == "zip":
        assert {i.compress_type for i in zipfile.ZipFile(out).infolist()} == {zipfile.ZIP_STORED}
    data = ImageFolder(out)
    assert data.image_shape == (32, 32, 3)
    became = {f.file: f for f in done.files}
    assert set(became) == {*faulty.SOUND, *faulty.FAULTS}
    lost = {
        "copy.png", "empty.png", "text.png", "truncated.jpg", "truncated.png", "long.png", "nan.png",
        "unlabelled.png",
    }  # fmt: skip
    assert {f for f, r in became.items() if r.into is None} == lost
    assert len(data) == len(became) - len(lost)
    assert all(became[f].actions for f in faulty.FAULTS)
    assert not any(became[f].actions for f in faulty.SOUND)
    assert became["noname"].into == "noname.png"
    assert became["case.png"].into == "case-2.png"
    files = dict(zip(data.file_names("vis"), data.images(), strict=True))
    np.testing.assert_array_equal(files["sound/3.png"], read_image(bad / "sound/3.png"))
    np.testing.assert_array_equal(files["bitmap.png"], np.asarray(Image.open(bad / "bitmap.bmp")))
    np.testing.assert_array_equal(files["colours16.png"], faulty.pixels(5))
    np.testing.assert_array_equal(files["bits16.png"], np.repeat(faulty.pixels(4, channels=1), 3, 2))
    white = files["see-through.png"].astype(int)
    share = faulty.pixels(3, channels=1) / 255
    np.testing.assert_allclose(white, faulty.pixels(2) * share + 255 * (1 - share), atol=1.01)
    np.testing.assert_array_equal(files["wide.png"], read_image(bad / "wide.png")[:, 5:37])
    assert data.label_schema.kind == "multi-hot"
    table = dict(zip(data.file_names("vis"), data.labels().tolist(), strict=True))
    original = dict(json.loads((bad / "dataset.json").read_text())["labels"])
    for old, new in became.items():
        if new.into is not None:
            assert table[new.into] == original[old], old


def test_a_turned_picture_is_turned_back(tmp_path):
    upright = faulty.pixels(1, 32, 32)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned by 90 degrees against the clock
    (tmp_path / "in").mkdir()
    Image.fromarray(np.rot90(upright)).save(tmp_path / "in" / "a.png", exif=exif)
    write_image(tmp_path / "in" / "b.png", faulty.pixels(2))
    assert codes(check(tmp_path / "in")) == {"a.png": {"rotated"}}
    repair(tmp_path / "in", tmp_path / "out")
    np.testing.assert_array_equal(read_image(tmp_path / "out" / "a.png"), upright)


def test_asked_sizes(tmp_path):
    for i, size in enumerate([(64, 64), (64, 64), (32, 32), (80, 64)]):
        write_image(tmp_path / f"{i}.png", faulty.pixels(i, *size))
    assert codes(check(tmp_path)) == {"2.png": {"size"}, "3.png": {"size"}}
    assert codes(check(tmp_path, square=True)) == {"2.png": {"size"}, "3.png": {"not-square"}}
    assert codes(check(tmp_path, resolution=(32, 32))) == {"2.png": {"size"}, "3.png": {"not-square"}}
    assert set(codes(check(tmp_path, resolution=(128, 128)))) == {f"{i}.png" for i in range(4)}
    done = repair(tmp_path, tmp_path.parent / "out80", resolution=(80, 64))
    assert done.size == (80, 64)
    assert ImageFolder(tmp_path.parent / "out80").image_shape == (80, 64, 3)
    assert check(tmp_path.parent / "out80", resolution=(80, 64)).ok


@pytest.mark.parametrize(
    ("size", "legal", "first"),
    [
        ((256, 256), (256, 256), (4, 4)), ((80, 64), (80, 64), (5, 4)), ((112, 112), (112, 112), (7, 7)),
        ((250, 250), (256, 256), None), ((300, 300), (256, 256), None), ((218, 178), (128, 128), None),
        ((96, 96), (96, 96), (6, 6)), ((5, 5), (4, 4), None),
    ],
)  # fmt: skip
def test_legal_sizes(size, legal, first):
    assert legal_size(*size) == legal
    assert initial_size(*size) == first


def test_grey_sets_stay_grey(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(3):
        write_image(folder / f"{i}.png", faulty.pixels(i, channels=1)[..., 0])
    assert check(folder).ok
    write_image(folder / "colour.png", faulty.pixels(9))
    assert codes(check(folder)) == {"colour.png": {"colour"}}
    repair(folder, tmp_path / "out")
    assert ImageFolder(tmp_path / "out").image_shape == (32, 32, 1)


def test_two_spectra_with_depth_classes_and_records(tmp_path):
    folder = tmp_path / "in"
    records = []
    for i in range(5):
        for name, channels in (("VIS", 3), ("NIR", 1), ("SEGMENTATION", 1)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            image = faulty.pixels(10 * i + channels, 32, 42 if i == 3 else 32, channels)
            write_image(folder / name / f"{i}.png", image if channels == 3 else image[..., 0])
        (folder / "DEPTH").mkdir(exist_ok=True)
        depth = np.full((32, 42 if i == 3 else 32), 4096 + i, np.uint16)
        write_image16(folder / "DEPTH" / f"{i}.png", depth)
        points = {"5pt": [[21.0, 16.0]] * 5}
        records.append(
            {"file": f"VIS/{i}.png", "identity": i, "conditions": {"smile": i / 5}, "landmarks": points}
        )
    (folder / "labels.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
    (folder / "NIR" / "1.png").unlink()
    (folder / "VIS" / "2.png").write_bytes(b"")
    (folder / "SEGMENTATION" / "4.png").write_bytes(b"x")
    (folder / "stray.png").write_bytes((folder / "VIS" / "0.png").read_bytes())
    found = codes(check(folder))
    assert found["VIS/1.png"] == {"no-partner"}
    assert found["VIS/2.png"] == {"empty"}
    assert "stray" in found["stray.png"]
    assert {"VIS/3.png", "NIR/3.png", "SEGMENTATION/3.png", "DEPTH/3.png", "SEGMENTATION/4.png"} <= set(found)
    repair(folder, tmp_path / "out")
    report = check(tmp_path / "out")
    assert report.ok, report.faults
    data = ImageFolder(tmp_path / "out")
    assert data.file_names("nir") == ["NIR/0.png", "NIR/3.png", "NIR/4.png"]
    assert data.annotations["identity"].tolist() == [0, 3, 4]
    np.testing.assert_array_equal(data[1].segmentation, faulty.pixels(31, 32, 42, 1)[:, 5:37, 0])
    np.testing.assert_allclose(data[1].depth, 4098 / 4096)
    np.testing.assert_allclose(data[1].landmarks["5pt"][0], [16, 16])
    np.testing.assert_allclose(data[0].landmarks["5pt"][0], [21, 16])
    assert data[2].segmentation is None


@pytest.mark.parametrize("name", ["inside", "", ".."])
def test_the_original_is_never_written_to(bad, name):
    before = contents(bad)
    with pytest.raises(DataError):
        repair(bad, bad / name if name else bad)
    assert contents(bad) == before


def test_no_file_is_written_over_and_failures_leave_nothing(bad, tmp_path):
    (tmp_path / "there.zip").write_bytes(b"mine")
    with pytest.raises(DataError, match="there already"):
        repair(bad, tmp_path / "there.zip")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("mine")
    with pytest.raises(DataError, match="there already"):
        repair(bad, tmp_path / "full")
    with pytest.raises(ValueRangeError, match="resize_filter"):
        repair(bad, tmp_path / "new", resize_filter="cubic")
    for name in ("new.zip", "new"):
        with pytest.raises(ZeroDivisionError), new_dataset(tmp_path / name, bad) as sink:
            sink.write("a/b", bytes(1 // 0))
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "a.png").write_bytes(b"x")
    with pytest.raises(DataError, match="no picture that can be read"):
        repair(tmp_path / "none", tmp_path / "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full", "none", "there.zip"]


def test_damaged_archives(bad, tmp_path):
    (tmp_path / "not.zip").write_bytes(b"PK no")
    report = check(tmp_path / "not.zip")
    assert [f.code for f in report.faults] == ["unreadable"]
    path = zipped(bad, tmp_path / "set.zip")
    whole = bytearray(path.read_bytes())
    where = whole.index(b"sound/5.png") + 11
    whole[where + 20 : where + 40] = bytes(20)
    path.write_bytes(whole)
    assert codes(check(path))["sound/5.png"] == {"unreadable"}
    with pytest.raises(DataError, match="does not exist"):
        check(tmp_path / "absent")


def test_names_that_lead_out_of_the_folder_stay_inside(tmp_path):
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for i, name in enumerate(["../../out.png", "/root.png", "a.png"]):
            archive.writestr(name, faulty.encoded(Image.fromarray(faulty.pixels(i)), "PNG"))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a.png", faulty.encoded(Image.fromarray(faulty.pixels(7)), "PNG"))
    assert codes(check(path))["a.png"] == {"twice"}
    (tmp_path / "deep" / "deeper").mkdir(parents=True)
    repair(path, tmp_path / "deep" / "deeper" / "fixed")
    fixed = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.png"))
    assert fixed == [f"deep/deeper/fixed/{n}.png" for n in ("a", "root")]


def test_names_that_are_no_text(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    odd = [os.fsdecode(b"\xff\xfe.png"), "tab\there.png", "back\\slash.png"]
    for i, name in enumerate([*odd, "größe 雪.png"]):
        (folder / name).write_bytes(faulty.encoded(Image.fromarray(faulty.pixels(i)), "PNG"))
    (folder / "labels.npy").write_bytes(b"")
    np.save(folder / "labels.npy", np.arange(4))
    assert codes(check(folder)) == {name: {"name"} for name in odd}
    result = CliRunner().invoke(cli, ["data", "check", str(folder), "--fix", str(tmp_path / "out.zip")])
    assert result.exit_code == 0, result.output
    assert check(tmp_path / "out.zip").ok
    fixed = ImageFolder(tmp_path / "out.zip")
    assert sorted(fixed.file_names("vis")) == ["__.png", "back_slash.png", "größe 雪.png", "tab_here.png"]
    assert sorted(fixed.labels().argmax(1).tolist()) == [0, 1, 2, 3]


def test_pack_writes_the_layout_of_the_stylegan_tools(tmp_path):
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    rows = []
    for i in range(4):
        name = f"sub/{i}.png" if i % 2 else f"{i}.png"
        write_image(folder / name, faulty.pixels(i))
        rows.append([name, i % 3])
    (folder / "labels.csv").write_text("file,class\n" + "\n".join(f"{n},{c}" for n, c in rows))
    assert pack(folder, tmp_path / "out.zip") == 4
    # as the trainers of StyleGAN2 and StyleGAN3 read it: by the zip's names and "labels" alone
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert {i.compress_type for i in archive.infolist()} == {zipfile.ZIP_STORED}
        names = sorted(n for n in archive.namelist() if n.endswith(".png"))
        labels = dict(json.loads(archive.read("dataset.json"))["labels"])
        table = np.array([labels[name] for name in names])
        for name in names:
            assert archive.read(name) == (folder / name).read_bytes()
    assert table.dtype.kind == "i"
    assert table.tolist() == [c for _, c in sorted(rows)]
    again = ImageFolder(tmp_path / "out.zip")
    np.testing.assert_array_equal(again.labels(), ImageFolder(folder).labels())
    assert again.label_schema == ImageFolder(folder).label_schema
    assert pack(tmp_path / "out.zip", tmp_path / "again.zip") == 4
    assert (tmp_path / "again.zip").read_bytes() == (tmp_path / "out.zip").read_bytes()
    (folder / "bad.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"bad\.png: has zero bytes"):
        pack(folder, tmp_path / "third.zip")


def test_records_that_cannot_be_read(tmp_path):
    records = [
        {"file": "0.png", "files": {"vis": ["0.png"]}},
        {"file": "1.png", "landmarks": {"eyes": [[1, 2], [3]]}},
        {"file": "2.png", "attributes": [1, 2]},
        {"file": "3.png", "conditions": {"smile": "much"}},
        {"file": "4.png", "conditions": {"smile": 1}, "landmarks": {"eyes": [[1, 2], [3, 4.5]]}},
        [1],
    ]
    (tmp_path / "in").mkdir()
    for i in range(5):
        write_image(tmp_path / "in" / f"{i}.png", faulty.pixels(i))
    (tmp_path / "in" / "labels.jsonl").write_text("\n".join(map(json.dumps, records)))
    report = check(tmp_path / "in")
    lines = [fault.line for fault in report.faults if fault.file == "labels.jsonl"]
    assert lines == [1, 2, 3, 4, 6]
    assert list(report.records) == ["4.png"]
    with pytest.raises(DataError, match=r'labels\.jsonl line 1: 0\.png: "files" must be an object of names'):
        ImageFolder(tmp_path / "in")
    repair(tmp_path / "in", tmp_path / "out", report=report)
    assert len(ImageFolder(tmp_path / "out")) == 1


def test_links_and_pipes(tmp_path):
    for i, folder in enumerate("ab"):
        (tmp_path / folder).mkdir()
        write_image(tmp_path / folder / f"{i}.png", faulty.pixels(i))
    for name in ("first", "second"):
        (tmp_path / "a" / name).symlink_to(tmp_path)
    os.mkfifo(tmp_path / "a" / "pipe.png")
    report = check(tmp_path / "a")
    assert codes(report) == {"pipe.png": {"unreadable"}}
    assert list(report.pictures) == ["0.png", "pipe.png"]
    (tmp_path / "a" / "others").symlink_to(tmp_path / "b")
    assert "others/1.png" in check(tmp_path / "a").pictures
