"""Photographs to aligned faces: with models that know the truth, so that every number can be checked."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from pyface.data import ImageFolder, ProceduralFaces
from pyface.data.face_crops import CropSettings
from pyface.data.features import FeatureStore
from pyface.data.prepare import output_names, prepare
from pyface.errors import DataError, ValueRangeError
from pyface.faces import Face, register
from pyface.io.images import read_image, write_image

KNOWN: dict[bytes, list[tuple[Face, np.ndarray]]] = {}  # digest of pixels -> faces and their 68 points


def digest(image):
    return hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=16).digest()


class TrueDetector:
    """Finds the faces that the test has drawn; breaks on a white picture."""

    name = "truth"

    def detect(self, images):
        if any((image == 255).all() for image in images):
            raise RuntimeError("white")
        return [[face for face, _ in KNOWN.get(digest(image), [])] for image in images]


class TrueLandmarker:
    """Gives the points that were drawn."""

    name, scheme = "truth", "ibug68"

    def landmarks(self, images, faces):
        found = []
        for image, face in zip(images, faces, strict=True):
            found += [points for other, points in KNOWN[digest(image)] if other is face]
        return np.stack(found)


class MeanColour:
    """An embedder whose vectors the test can compute from the picture: its mean colour."""

    name, dim, size, template, metric, threshold, differentiable = (
        "mean colour", 3, 112, "arcface112", "l2", 0.5, True,
    )  # fmt: skip

    def embed(self, aligned):
        return aligned.mean(dim=(2, 3))


register("detector", "truth", TrueDetector)
register("landmarker", "truth", TrueLandmarker)
register("embedder", "mean colour", MeanColour)
SETTINGS = CropSettings(
    size=64, also=(16,), detector="truth", landmarker="truth", embedder="mean colour", min_face=20
)


def face_of(points, box=None, score=0.9):
    low, high = points.min(axis=0), points.max(axis=0)
    return Face(np.float32(box if box is not None else [*low, *high]), score)


def photograph(path, samples, side=300, corners=((60, 40),), **face):
    """Faces pasted into a grey picture; the truth is noted in KNOWN."""
    image = np.full((side, side, 3), 90, np.uint8)
    truth = []
    for sample, (x, y) in zip(samples, corners, strict=False):
        height, width = sample.image.shape[:2]
        image[y : y + height, x : x + width] = sample.image[: side - y, : side - x]
        points = sample.landmarks["ibug68"] + np.float32([x, y])
        truth.append((face_of(points, **face), points))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, image)
    KNOWN[digest(image)] = truth
    return image


@pytest.fixture(scope="module")
def faces():
    drawn = ProceduralFaces(6, 1, 128, ("vis",), seed=5, yaw=0.0)
    return [drawn[i] for i in range(6)]


@pytest.fixture
def raw(tmp_path, faces):
    """Six photographs whose order by name is not the order in which they were drawn."""
    names = ["m/9.png", "b.png", "zz.png", "a/x.png", "m/10.png", "c.png"]
    for name, sample in zip(names, faces, strict=True):
        photograph(tmp_path / "raw" / name, [sample])
    return tmp_path / "raw"


def test_features_belong_to_the_pictures_of_their_names(raw, tmp_path):
    out = tmp_path / "out"
    report = prepare(raw, out, SETTINGS, workers=2)
    assert (report.photographs, report.faces, report.rejected) == (6, 6, {})
    store = FeatureStore(out / "features.safetensors")
    assert list(store.names) == sorted(store.names)
    assert set(store.names) == {p.relative_to(raw).as_posix() for p in raw.rglob("*.png")}
    for name in store.names:
        photo, row = read_image(raw / name), store.row(name)
        points = KNOWN[digest(photo)][0][1]
        expected = points @ row["matrix"][:, :2].T + row["matrix"][:, 2]
        np.testing.assert_allclose(row["landmarks"], expected, atol=1e-3)
        picture = read_image(out / "64" / name)
        assert picture.shape == (64, 64, 3)
        blocks = picture.reshape(8, 8, 8, 8, 3).mean((1, 3))
        np.testing.assert_allclose(row["low_resolution"], blocks, atol=1)
        assert row["histogram"].sum(axis=1) == pytest.approx([1, 1, 1])
        assert row["histogram"][0, 3] == pytest.approx(np.mean((picture[..., 0] // 25.6).astype(int) == 3))
        small = read_image(out / "16" / name)
        np.testing.assert_allclose(small, picture.reshape(16, 4, 16, 4, 3).mean((1, 3)), atol=1)
    others = {tuple(row) for row in store["embedding"].round(4).tolist()}
    assert len(others) == 6


def test_vectors_are_those_of_the_aligned_face(raw, tmp_path):
    from pyface.faces.align import align

    prepare(raw, tmp_path / "out", SETTINGS, workers=1)
    store = FeatureStore(tmp_path / "out" / "features.safetensors")
    for name in store.names:
        photo = read_image(raw / name)
        face, points = KNOWN[digest(photo)][0]
        face.landmarks["ibug68"] = points
        chip = torch.from_numpy(align(photo, face, "arcface112", 112).image).float() / 127.5 - 1
        np.testing.assert_allclose(store.row(name)["embedding"], chip.mean(dim=(0, 1)), atol=1e-5)


def test_the_result_is_a_dataset(raw, tmp_path):
    prepare(raw, tmp_path / "out", SETTINGS)
    assert len(ImageFolder(tmp_path / "out" / "64")) == 6
    assert ImageFolder(tmp_path / "out" / "16").image_shape == (16, 16, 3)
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["complete"]
    assert card["faces"] == 6
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["faces"] == 6
    assert sum(report["stage_shares"].values()) == pytest.approx(1, abs=0.01)
    assert read_image(tmp_path / "out" / "faces.png").ndim == 3


def files_of(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and p.name not in ("report.json", "journal.jsonl")
    }


def test_a_stopped_run_goes_on_to_the_same_bytes(tmp_path, faces):
    raw = tmp_path / "raw"
    for number in range(40):
        photograph(raw / f"{number:02d}.png", [faces[number % 6]], corners=((number, 2 * number),))
    prepare(raw, tmp_path / "whole", SETTINGS, workers=1)

    def stop(count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(raw, tmp_path / "parts", SETTINGS, workers=1, progress=stop)
    assert not json.loads((tmp_path / "parts" / "card.json").read_text())["complete"]
    begun = []
    report = prepare(raw, tmp_path / "parts", SETTINGS, workers=2, begun=lambda *a: begun.append(a))
    assert begun == [(40, 16)]
    assert report.done_now == 24
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole")
    assert prepare(raw, tmp_path / "parts", SETTINGS).done_now == 0


def test_photographs_that_come_change_and_go(raw, tmp_path, faces):
    out = tmp_path / "out"
    prepare(raw, out, SETTINGS)
    before = read_image(out / "64" / "b.png")
    photograph(raw / "new.png", [faces[0]], corners=((10, 20),))
    photograph(raw / "b.png", [faces[3]])
    (raw / "zz.png").unlink()
    report = prepare(raw, out, SETTINGS)
    assert (report.photographs, report.faces, report.done_now) == (6, 6, 2)
    assert not (out / "64" / "zz.png").exists()
    assert "zz.png" not in FeatureStore(out / "features.safetensors")
    assert not np.array_equal(read_image(out / "64" / "b.png"), before)


def test_bad_files_are_listed_and_the_rest_is_done(raw, tmp_path, faces):
    whole = (raw / "b.png").read_bytes()
    (raw / "torn.png").write_bytes(whole[: len(whole) // 2])
    (raw / "text.jpg").write_text("no picture")
    (raw / "empty.webp").touch()
    (raw / "notes.txt").write_text("left alone")
    write_image(raw / "nobody.png", np.zeros((50, 70), np.uint8))
    write_image(raw / "dot.png", np.zeros((1, 1, 3), np.uint8))
    write_image(raw / "breaks.png", np.full((40, 40, 3), 255, np.uint8))
    report = prepare(raw, tmp_path / "out", SETTINGS)
    assert report.rejected == {"unreadable": 3, "no-face": 2, "failed": 1}
    assert report.faces == 6
    lines = (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()
    listed = {entry["photograph"]: entry for entry in map(json.loads, lines)}
    assert set(listed) == {"torn.png", "text.jpg", "empty.webp", "nobody.png", "dot.png", "breaks.png"}
    assert "not a PNG, JPEG or WebP" in listed["text.jpg"]["reason"]
    assert listed["breaks.png"]["reason"] == "RuntimeError: white"
    assert read_image(tmp_path / "out" / "rejected.png").ndim == 3


def test_faces_are_chosen_and_rejected_by_the_settings(tmp_path, faces):
    raw = tmp_path / "raw"
    photograph(raw / "small.png", [faces[0]], box=[0, 0, 18, 12])
    photograph(raw / "unsure.png", [faces[1]], score=0.3)
    photograph(raw / "edge.png", [faces[2]], corners=((250, 240),))
    report = prepare(raw, tmp_path / "out", SETTINGS)
    assert report.rejected == {"cut-off": 1, "small": 1, "score": 1}
    assert report.faces == 0
    assert len(FeatureStore(tmp_path / "out" / "features.safetensors")) == 0
    loose = CropSettings(**{**vars(SETTINGS), "min_face": 1, "min_score": 0.0, "min_inside": 0.0})
    assert prepare(raw, tmp_path / "loose", loose).faces == 3


def test_all_faces_of_a_photograph(tmp_path, faces):
    raw = tmp_path / "raw"
    photograph(raw / "two.png", faces[:2], corners=((10, 20), (160, 150)))
    assert prepare(raw, tmp_path / "one", SETTINGS).faces == 1
    every = CropSettings(**{**vars(SETTINGS), "faces": "all"})
    prepare(raw, tmp_path / "all", every)
    store = FeatureStore(tmp_path / "all" / "features.safetensors")
    assert store.names == ("two-face2.png", "two.png")
    assert store.facts["photographs"] == {"two.png": "two.png", "two-face2.png": "two.png"}
    assert not np.array_equal(
        read_image(tmp_path / "all/64/two.png"), read_image(tmp_path / "all/64/two-face2.png")
    )


def test_labels_of_photographs_become_labels_of_faces(raw, tmp_path):
    rows = [[p.relative_to(raw).as_posix(), k % 2] for k, p in enumerate(sorted(raw.rglob("*.png")))]
    (raw / "dataset.json").write_text(json.dumps({"labels": rows}))
    prepare(raw, tmp_path / "out", SETTINGS)
    folder = ImageFolder(tmp_path / "out" / "16")
    expected = dict(map(tuple, rows))
    for index in range(6):
        name = folder.name_of(index).rpartition("/16/")[2]
        assert folder.labels()[index].argmax() == expected[name]


def test_names_that_agree_without_their_endings_stay_apart():
    assert output_names(["a.png", "a.jpg", "b/A.png", "B/a.webp", "c.x.png"]) == {
        "a.png": "a.png", "a.jpg": "a.jpg", "b/A.png": "b/A.png", "B/a.webp": "B/a.webp", "c.x.png": "c.x",
    }  # fmt: skip


def test_names_of_further_faces_are_no_other_photographs(tmp_path, faces):
    raw = tmp_path / "raw"
    photograph(raw / "b.png", faces[:2], corners=((10, 20), (160, 150)))
    photograph(raw / "b-face2.png", [faces[2]])
    photograph(raw / "a.png", [faces[3]])
    shutil.copy(raw / "a.png", raw / "a.jpg")
    shutil.copy(raw / "a.png", raw / "a.jpg.webp")
    every = CropSettings(**{**vars(SETTINGS), "faces": "all"})
    assert prepare(raw, tmp_path / "out", every).faces == 6
    store = FeatureStore(tmp_path / "out" / "features.safetensors")
    assert store.facts["photographs"] == {
        "b.png": "b.png", "b-face2.png": "b.png", "b-face2.png.png": "b-face2.png",
        "a.png.png": "a.png", "a.jpg.png": "a.jpg", "a.jpg.webp.png": "a.jpg.webp",
    }  # fmt: skip


def test_faces_that_have_gone_from_the_output_are_made_again(raw, tmp_path):
    out = tmp_path / "out"
    prepare(raw, out, SETTINGS)
    before = files_of(out)
    (out / "64" / "b.png").unlink()
    (out / "16" / "c.png").write_bytes(b"")  # as a power cut may leave it
    assert prepare(raw, out, SETTINGS).done_now == 2
    assert files_of(out) == before


def test_the_largest_face_is_one_that_the_detector_is_sure_of(tmp_path, faces):
    image = photograph(tmp_path / "raw" / "a.png", faces[:2], corners=((10, 20), (160, 150)))
    (_, first), (sure, second) = KNOWN[digest(image)]
    KNOWN[digest(image)] = [(face_of(first, box=[0, 0, 290, 290], score=0.3), first), (sure, second)]
    report = prepare(tmp_path / "raw", tmp_path / "out", SETTINGS)
    assert (report.faces, report.rejected) == (1, {})


def test_absolute_names_in_a_zip_do_not_lead_out_of_the_output(raw, tmp_path):
    target = tmp_path / "elsewhere.png"
    with zipfile.ZipFile(tmp_path / "raw.zip", "w") as file:
        file.write(raw / "b.png", "b.png")
        info = zipfile.ZipInfo("b.png")
        info.filename = str(target)
        file.writestr(info, (raw / "c.png").read_bytes())
    assert prepare(tmp_path / "raw.zip", tmp_path / "out", SETTINGS).faces == 2
    assert not target.exists()
    inside = tmp_path / "out" / "64"
    assert (inside / f"absolute{target}").exists()
    assert (inside / "b.png").exists()


def test_files_of_networks_are_told_by_hash_and_not_by_place(raw, tmp_path):
    register("detector", ".truth", lambda path: TrueDetector())
    network = tmp_path / "net.truth"
    network.write_bytes(b"1")
    settings = CropSettings(**{**vars(SETTINGS), "detector": str(network)})
    prepare(raw, tmp_path / "out", settings)
    written = {n: b for n, b in files_of(tmp_path / "out").items() if not n.endswith(".png")}
    written["report.json"] = (tmp_path / "out" / "report.json").read_bytes()
    assert not [name for name, content in written.items() if str(tmp_path).encode() in content]
    assert hashlib.sha256(b"1").hexdigest().encode() in written["card.json"]
    network.write_bytes(b"2")
    with pytest.raises(DataError, match="another recipe"):
        prepare(raw, tmp_path / "out", settings)


def test_photographs_are_turned_as_the_camera_noted(tmp_path, faces):
    raw = tmp_path / "raw"
    image = photograph(raw / "a.png", [faces[0]])
    sideways = Image.fromarray(np.rot90(image))
    exif = sideways.getexif()
    exif[0x0112] = 6  # the top of the picture is at its left in the file: turn it clockwise to see it upright
    sideways.save(raw / "a.png", exif=exif)
    assert prepare(raw, tmp_path / "out", SETTINGS).faces == 1


def test_what_cannot_be_done_is_said(raw, tmp_path):
    with pytest.raises(DataError, match="lies inside"):
        prepare(raw, raw / "out", SETTINGS)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match="has no photographs"):
        prepare(tmp_path / "nothing", tmp_path / "out", SETTINGS)
    with pytest.raises(ValueRangeError, match="below 64"):
        CropSettings(size=64, also=(64,))
    with pytest.raises(ValueRangeError, match="no template 'nonsense'"):
        CropSettings(align="nonsense")
    with pytest.raises(ValueRangeError, match="min_face"):
        CropSettings(min_face=float("nan"))
    prepare(raw, tmp_path / "out", SETTINGS)
    with pytest.raises(DataError, match="another recipe"):
        prepare(raw, tmp_path / "out", CropSettings(**{**vars(SETTINGS), "min_face": 30}))


def test_a_zip_is_read_as_its_folder(raw, tmp_path):
    shutil.make_archive(str(tmp_path / "raw"), "zip", raw)
    prepare(raw, tmp_path / "a", SETTINGS)
    prepare(tmp_path / "raw.zip", tmp_path / "b", SETTINGS)
    a, b = files_of(tmp_path / "a"), files_of(tmp_path / "b")
    assert {k: v for k, v in a.items() if k != "card.json"} == {
        k: v for k, v in b.items() if k != "card.json"
    }
