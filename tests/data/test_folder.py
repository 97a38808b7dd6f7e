"""A folder or zip of pictures gives back what was put in; what cannot be used is listed with its reason."""

import json
import pickle
import zipfile

import numpy as np
import pytest
import torch

from pyface.data import ImageFolder, collate
from pyface.data.check import check
from pyface.data.repair import repair
from pyface.errors import DataError, ValueRangeError
from pyface.io.images import write_image


def picture(i, size=(6, 8), channels=3):
    pixels = np.random.default_rng(i).integers(0, 256, (*size, channels), dtype=np.uint8)
    return pixels if channels == 3 else pixels[..., 0]


@pytest.fixture
def folder(tmp_path):
    for i, name in enumerate(["b/2.png", "a.png", "b/1.png"]):
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, picture(i))
    return tmp_path / "set"


ORDER = [1, 2, 0]  # a.png, b/1.png, b/2.png


def zipped(folder):
    path = folder.parent / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder).as_posix())
    return path


@pytest.mark.parametrize("pack", [lambda p: p, zipped], ids=["folder", "zip"])
@pytest.mark.parametrize("cache", [False, True])
def test_pictures_come_back_in_order_of_names(folder, pack, cache):
    (folder / "notes.txt").write_text("not a picture")
    (folder / ".hidden.png").write_bytes(b"")
    data = ImageFolder(pack(folder), cache=cache)
    assert len(data) == 3
    assert data.image_shape == (6, 8, 3)
    np.testing.assert_array_equal(data.images(), np.stack([picture(i) for i in ORDER]))
    np.testing.assert_array_equal(data[1].image, picture(2))
    assert data[1].path.endswith("b/1.png")
    assert data.labels().shape == (3, 0)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(data))[2].image, picture(0))
    loader = torch.utils.data.DataLoader(data, batch_size=2, num_workers=2, collate_fn=collate, timeout=60)
    np.testing.assert_array_equal(
        torch.cat([b["image"] for b in loader]).permute(0, 2, 3, 1).numpy(), data.images()
    )


def test_grey_and_mixed(tmp_path):
    write_image(tmp_path / "a.png", picture(0, channels=1))
    assert ImageFolder(tmp_path).image_shape == (6, 8, 1)
    write_image(tmp_path / "b.png", picture(1))
    data = ImageFolder(tmp_path)
    assert data.image_shape == (6, 8, 3)
    np.testing.assert_array_equal(data[0].image, np.repeat(picture(0, channels=1)[..., None], 3, axis=2))


def write_labels(folder, labels, **more):
    (folder / "dataset.json").write_text(json.dumps({"labels": labels} | more))


@pytest.mark.parametrize("pack", [lambda p: p, zipped], ids=["folder", "zip"])
def test_nvidia_labels(folder, pack):
    write_labels(folder, [["b/2.png", 2], ["a.png", 0], ["b/1.png", 1], ["gone.png", 1]])
    data = ImageFolder(pack(folder))
    assert data.label_names == ("label0", "label1", "label2")
    np.testing.assert_array_equal(data.labels(), np.eye(3))
    write_labels(
        folder, [["b/2.png", [0.5, 1]], ["a.png", [0, 2]], ["b/1.png", [3, 1]]], label_names=["smile", "age"]
    )
    data = ImageFolder(pack(folder))
    np.testing.assert_array_equal(data.labels(["age", "smile"]), [[2, 0], [1, 3], [1, 0.5]])
    assert len(data.filter(smile=(0.4, 1))) == 1
    write_labels(folder, None)
    assert ImageFolder(pack(folder)).label_names == ()


def test_labels_jsonl(folder):
    records = [
        {"file": "a.png", "identity": 7, "emotion": "happy", "attributes": {"Smiling": True}, "note": "x"},
        {"file": "b/1.png", "identity": 7, "emotion": "sad", "attributes": {"Smiling": False}},
        {"file": "b/2.png", "identity": 9, "emotion": "sad", "attributes": {"Smiling": False}},
    ]
    (folder / "labels.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n\n")
    data = ImageFolder(folder)
    assert data[2].identity == 9
    assert data[0].attributes == {"Smiling": True}
    assert data.annotations["identity"].tolist() == [7, 7, 9]
    assert "note" not in data.annotations
    assert [len(p) for p in data.split((0.6, 0.4))] in ([2, 1], [1, 2])
    np.testing.assert_array_equal(data.labels(["Smiling", "emotion=sad"]), [[1, 0], [0, 1], [0, 1]])


def test_bad_pictures_are_all_listed(folder):
    write_image(folder / "big.png", picture(5, (9, 9)))
    (folder / "text.png").write_text("words")
    (folder / "empty.jpg").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        ImageFolder(folder)
    text = str(caught.value)
    assert "3 of 6 pictures" in text
    assert "big.png: is 9 x 9, most are 8 x 6" in text
    assert "text.png: " in text
    assert "empty.jpg: " in text
    assert "\n" not in text


def test_damage_behind_the_header_is_found_on_reading(folder):
    write_image(folder / "c.png", picture(3))
    whole = (folder / "c.png").read_bytes()
    (folder / "c.png").write_bytes(whole[:-40])
    data = ImageFolder(folder)
    with pytest.raises(DataError, match=r"c\.png"):
        data[3]
    with pytest.raises(DataError, match=r"1 of 4 pictures .*c\.png"):
        ImageFolder(folder, cache=True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[]", "must be an object"),
        ('{"labels": [["a.png"]]}', "must be a list of"),
        ('{"labels": [["a.png", -1]]}', "class -1 is negative"),
        ('{"labels": [["a.png", 1], ["b/1.png", [1]]]}', "mixes"),
        ('{"labels": [["a.png", [1, 2]], ["b/1.png", [1]]]}', "has 1 numbers, most have 2"),
        ('{"labels": [["a.png", 1]]}', "2 of 3 pictures .* no label"),
        ('{"labels": [["a.png", 9999999]]}', "too large"),
        ('{"labels": [["a.png", [1, 2]]], "label_names": ["x"]}', "2 different names"),
    ],
)
def test_bad_nvidia_labels(folder, text, words):
    (folder / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=words):
        ImageFolder(folder)


@pytest.mark.parametrize(
    ("text", "words"), [("{", "line 1: is not JSON"), ('{"x": 1}', '"file"'), ("\n3", "line 2")]
)
def test_bad_label_records(folder, text, words):
    (folder / "labels.jsonl").write_text(text)
    with pytest.raises(DataError, match=words):
        ImageFolder(folder)


def test_missing_empty_and_bad_archives(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        ImageFolder(tmp_path / "none")
    with pytest.raises(DataError, match="has no picture"):
        ImageFolder(tmp_path)
    (tmp_path / "bad.zip").write_bytes(b"PK no")
    with pytest.raises(DataError, match="not a readable zip"):
        ImageFolder(tmp_path / "bad.zip")


def test_two_spectra(tmp_path):
    for i in range(3):
        for name, channels in (("VIS", 3), ("NIR", 1)):
            (tmp_path / name).mkdir(exist_ok=True)
            write_image(tmp_path / name / f"{i}.png", picture(i, channels=channels))
    data = ImageFolder(tmp_path)
    assert data.spectra == ("vis", "nir")
    assert len(data) == 3
    np.testing.assert_array_equal(data[1].nir, picture(1, channels=1))
    np.testing.assert_array_equal(data.images([2], "nir")[0, ..., 0], picture(2, channels=1))
    only = ImageFolder(tmp_path, spectra=("nir",))
    assert only.image_shape == (6, 8, 1)
    assert only[0].image is None
    with pytest.raises(DataError, match="has the spectra vis, nir"):
        ImageFolder(tmp_path, spectra=("uv",))
    (tmp_path / "NIR" / "1.png").unlink()
    with pytest.raises(DataError, match=r"VIS/1\.png: NIR/1\.png is not there"):
        ImageFolder(tmp_path)


def test_skip_leaves_out_what_is_bad_and_labels_stay_with_their_pictures(tmp_path):
    """Labels and pictures keep one order, whatever is left out (seed system 3, bug 1)."""
    for i in range(8):
        write_image(tmp_path / f"{i}.png", picture(i))
    np.save(tmp_path / "labels.npy", np.arange(8) * 1.5)
    write_image(tmp_path / "2.png", picture(2, (5, 5)))
    (tmp_path / "4.png").write_text("words")
    damaged = (tmp_path / "6.png").read_bytes()
    (tmp_path / "6.png").write_bytes(damaged[:-40])
    for cache, left in ((False, [0, 1, 3, 5, 6, 7]), (True, [0, 1, 3, 5, 7])):
        data = ImageFolder(tmp_path, cache=cache, on_problem="skip")
        assert data.file_names("vis") == [f"{i}.png" for i in left]
        assert data.annotations["label0"].tolist() == [1.5 * i for i in left]
        assert data.problems.files() == {f"{i}.png" for i in range(8) if i not in left}
        np.testing.assert_array_equal(data.images([3])[0], picture(5))
    assert {p.code for p in data.problems} == {"size", "unreadable"}
    with pytest.raises(ValueRangeError, match="on_problem"):
        ImageFolder(tmp_path, on_problem="ignore")


def test_skip_of_bad_labels_and_records(folder):
    write_labels(folder, [["a.png", 1], ["b/1.png", -4], ["gone.png", 1]])
    data = ImageFolder(folder, on_problem="skip")
    assert data.file_names("vis") == ["a.png"]
    assert {(p.file, p.code) for p in data.problems} == {
        ("b/1.png", "label-range"),
        ("b/1.png", "label-missing"),
        ("b/2.png", "label-missing"),
    }
    (folder / "dataset.json").unlink()
    (folder / "labels.jsonl").write_text(
        '{"file": "b/2.png", "identity": 3}\n{\n{"file": "a.png", "identity": 4}'
    )
    data = ImageFolder(folder, on_problem="skip")
    assert data.annotations["identity"].tolist() == [4, 3]
    assert [(p.file, p.line) for p in data.problems] == [("labels.jsonl", 2), ("b/1.png", None)]
    (folder / "labels.jsonl").write_text("{")
    with pytest.raises(DataError, match="Nothing is left"):
        ImageFolder(folder, on_problem="skip")


def test_partners_of_other_suffixes_and_lonely_pictures(tmp_path):
    names = ["VIS/1.jpg", "VIS/2.png", "VIS/3.png", "VIS/3.webp", "SEGMENTATION/1.png"]
    names += ["NIR/1.png", "NIR/3.png", "NIR/4.png"]
    for i, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_image(tmp_path / name, picture(i, (32, 32), 3 if "VIS" in name else 1))
    with pytest.raises(DataError) as caught:
        ImageFolder(tmp_path)
    for told in (
        "3 of 4 pictures",
        "VIS/3.webp: is the same sample as VIS/3.png",
        "VIS/2.png: NIR/2.png is not there",
        "NIR/4.png: VIS/4.png is not there",
    ):
        assert told in str(caught.value)
    data = ImageFolder(tmp_path, on_problem="skip")
    assert data.file_names("nir") == ["NIR/1.png", "NIR/3.png"]
    assert data[0].segmentation is not None
    assert {p.file for p in check(tmp_path).faults if p.code in ("no-partner", "same-sample")} == {
        "VIS/2.png",
        "VIS/3.webp",
        "NIR/4.png",
    }
    repair(tmp_path, tmp_path.with_name("repaired"))
    assert check(tmp_path.with_name("repaired")).ok
    again = ImageFolder(tmp_path.with_name("repaired"))
    assert again.file_names("vis") == ["VIS/1.png", "VIS/3.png"]
    np.testing.assert_array_equal(again[0].nir, picture(5, (32, 32), 1))
