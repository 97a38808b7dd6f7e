"""Extracted faces on disk: the same again, nothing lost, nothing believed that does not fit."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from pyface.errors import DataError
from pyface.faces.extract import FaceExtractor
from pyface.faces.photos import find_photos, read_photo
from pyface.faces.restore import FaceReconstructor
from pyface.faces.sidecar import read_faces, sidecars, write_faces
from pyface.io.images import read_image, write_image


@pytest.fixture
def extracted(party, tmp_path):
    """(photograph's file, folder of its faces, sidecar, the faces)."""
    photo, faces, _ = party
    path = tmp_path / "photos" / "party" / "p1.png"
    path.parent.mkdir(parents=True)
    write_image(path, photo)
    crops = FaceExtractor(size=64).extract_all(photo, faces)
    out = tmp_path / "out"
    return path, out, write_faces(out, "party/p1.png", path, crops), crops


def test_round_trip(extracted):
    path, out, sidecar, crops = extracted
    assert sidecar == out / "party" / "p1.png.json"
    assert sidecars(out) == [sidecar]
    saved = read_faces(sidecar)
    assert (saved.photo, saved.name) == (path, "party/p1.png")
    assert saved.crops == [None] * 4
    for face, crop in zip(saved.faces, crops, strict=True):
        np.testing.assert_array_equal(face.matrix, crop.matrix)
        np.testing.assert_array_equal(face.image, crop.image)
        np.testing.assert_array_equal(face.mask, crop.mask)
        np.testing.assert_allclose(face.landmarks["ibug68"], crop.landmarks["ibug68"], atol=1e-4)
        assert (face.photo_size, face.template) == (crop.photo_size, "ffhq")


def test_edited_crops_are_told(extracted):
    path, out, sidecar, crops = extracted
    edited = 255 - crops[1].image
    write_image(out / "party" / "p1.png.1.png", edited)
    (out / "party" / "p1.png.2.png").unlink()
    Image.fromarray(crops[3].image).resize((128, 128)).save(out / "party" / "p1.png.3.png")
    saved = read_faces(sidecar)
    assert [crop is None for crop in saved.crops] == [True, False, True, False]
    np.testing.assert_array_equal(saved.crops[1], edited)
    photo = read_photo(path)
    found = FaceReconstructor().restore(photo, saved.faces[1], saved.crops[1])
    np.testing.assert_array_equal(found, FaceReconstructor().restore(photo, crops[1], edited))
    assert saved.crops[3].shape == (128, 128, 3)
    FaceReconstructor().restore(photo, saved.faces[3], saved.crops[3])


def test_edits_are_never_overwritten(extracted):
    path, out, _, crops = extracted
    write_faces(out, "party/p1.png", path, crops)
    file = out / "party" / "p1.png.1.png"
    write_image(file, 255 - crops[1].image)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    with pytest.raises(DataError, match=r"p1.png.1.png was edited .* would be lost"):
        write_faces(out, "party/p1.png", path, crops)
    assert before == {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}


def test_edited_masks_are_kept_too(extracted):
    path, out, _, crops = extracted
    write_image(out / "party" / "p1.png.2.mask.png", crops[2].mask // 2)
    with pytest.raises(DataError, match=r"p1.png.2.mask.png was edited"):
        write_faces(out, "party/p1.png", path, crops)


def test_fewer_faces_leave_no_crops_behind(extracted):
    path, out, sidecar, crops = extracted
    write_faces(out, "party/p1.png", path, crops[:1])
    left = sorted(p.name for p in sidecar.parent.iterdir())
    assert left == ["p1.png.0.mask.png", "p1.png.0.png", "p1.png.json"]


def test_pictures_of_others_are_not_overwritten(extracted):
    path, out, sidecar, crops = extracted
    sidecar.unlink()  # as if it had been interrupted
    write_faces(out, "party/p1.png", path, crops)
    sidecar.unlink()
    other = out / "party" / "p1.png.3.png"
    write_image(other, np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(DataError, match=r"p1.png.3.png is there already and belongs to no extraction"):
        write_faces(out, "party/p1.png", path, crops)
    assert read_image(other).shape == (9, 9, 3)


def test_masks_of_another_size(extracted):
    _, out, sidecar, crops = extracted
    file = out / "party" / "p1.png.0.mask.png"
    write_image(file, crops[0].mask.repeat(2, 0).repeat(2, 1))
    with pytest.raises(DataError, match=r"p1.png.0.mask.png must be 64 x 64 pixels"):
        read_faces(sidecar)


def test_no_faces(tmp_path, party):
    path = tmp_path / "a.png"
    write_image(path, party[0])
    saved = read_faces(write_faces(tmp_path / "out", "a.png", path, []))
    assert saved.faces == []


def test_masks_saved_in_colour(extracted):
    _, out, sidecar, crops = extracted
    file = out / "party" / "p1.png.0.mask.png"
    write_image(file, read_image(file)[..., None].repeat(3, 2))
    np.testing.assert_array_equal(read_faces(sidecar).faces[0].mask, crops[0].mask)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["faces"][0].update(mask="../../etc/passwd"), "in another folder"),
        (lambda c: c["faces"][0].update(crop="/etc/passwd"), "in another folder"),
        (lambda c: c["faces"][0].pop("matrix"), "is damaged"),
        (lambda c: c["faces"][0].update(matrix=[1, 2]), "is damaged"),
        (lambda c: c.update(faces=3), "is damaged"),
        (lambda c: c.update(version=99), "of version 1"),
        (lambda c: c.update(format="other"), "does not describe extracted faces"),
    ],
)
def test_damage_is_named(extracted, change, message):
    sidecar = extracted[2]
    content = json.loads(sidecar.read_text())
    change(content)
    sidecar.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        read_faces(sidecar)


def test_files_that_are_none(tmp_path, extracted):
    with pytest.raises(DataError, match="holds no extracted faces"):
        sidecars(tmp_path / "photos")
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(DataError, match="is damaged"):
        read_faces(tmp_path / "x.json")
    with pytest.raises(DataError, match="does not exist"):
        read_faces(tmp_path / "y.json")
    for name in ("../x.png", "/x.png", ""):
        with pytest.raises(DataError, match="path below its folder"):
            write_faces(tmp_path / "out", name, extracted[0], [])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_read_upright(tmp_path, orientation):
    upright = np.zeros((8, 12, 3), np.uint8)
    upright[:2, :3] = (255, 0, 0)
    upright[-2:, :3] = (0, 255, 0)
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.swapaxes(0, 1), 6: np.rot90(upright), 7: np.rot90(upright, 2).swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_photo(tmp_path / "a.png"), upright)


def test_photographs_are_found(tmp_path):
    for name in ("b.png", "a.JPG", ".hidden.png", "sub/c.webp", ".cache/d.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = [p.relative_to(tmp_path).as_posix() for p in find_photos([tmp_path])]
    assert found == ["a.JPG", "b.png", "sub/c.webp"]
    assert find_photos([tmp_path / "notes.txt"]) == [tmp_path / "notes.txt"]
    with pytest.raises(DataError, match="does not exist"):
        find_photos([tmp_path / "nothing"])


def test_grey_photographs_get_three_channels(tmp_path):
    write_image(tmp_path / "g.png", np.arange(30, dtype=np.uint8).reshape(5, 6))
    assert read_photo(tmp_path / "g.png").shape == (5, 6, 3)
