"""`pyface faces`: there and back on the command line, with a detector that knows the truth."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from pyface import cli
from pyface.faces import Face, register
from pyface.io.images import read_image, write_image

_spec = importlib.util.spec_from_file_location(
    "photographs", Path(__file__).parents[1] / "faces" / "photographs.py"
)
photographs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(photographs)

KNOWN: dict[bytes, list[Face]] = {}


class KnownFaces:
    """Finds in a photograph what was put into it."""

    name = "known"

    def detect(self, images):
        found = [KNOWN.get(image.tobytes(), []) for image in images]
        return [[Face(f.box, f.score, {"5pt": f.landmarks["5pt"]}) for f in faces] for faces in found]


class KnownLandmarks:
    name = "known"
    scheme = "ibug68"

    def landmarks(self, images, faces):
        points = [self._of(image, face) for image, face in zip(images, faces, strict=True)]
        return np.stack(points) if points else np.zeros((0, 68, 2), np.float32)

    @staticmethod
    def _of(image, face):
        return next(f.landmarks["ibug68"] for f in KNOWN[image.tobytes()] if np.array_equal(f.box, face.box))


def run(*arguments):
    return CliRunner().invoke(cli.cli, ["faces", *map(str, arguments)])


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder: two photographs with faces, one without, one that is damaged."""
    register("detector", "known", KnownFaces)
    register("landmarker", "known", KnownLandmarks)
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    places = {
        "one.png": [(0.8, 0.2, (150, 150))],
        "sub/two.png": [(0.5, 0, (100, 120)), (0.6, 0.3, (300, 150))],
    }
    for seed, (name, where) in enumerate(places.items()):
        photo, faces, _ = photographs.photograph(where, 300, 400, seed)
        write_image(folder / name, photo)
        KNOWN[photo.tobytes()] = faces
    write_image(folder / "none.png", photographs.background(60, 80))
    return folder


MODELS = ("--detector", "known", "--landmarker", "known", "--quiet")


def files(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def test_detect(photos):
    result = run("detect", photos, *MODELS)
    assert result.exit_code == 0, result.output
    assert "two.png: 2 faces" in result.output
    assert "none.png: 0 faces" in result.output
    result = run("detect", photos / "one.png", "--json", *MODELS)
    (line,) = result.output.splitlines()
    content = json.loads(line)
    assert content["size"] == [300, 400]
    assert len(content["faces"][0]["landmarks"]["ibug68"]) == 68


def test_bad_files_are_named_and_the_others_go_on(photos):
    (photos / "bad.png").write_bytes(b"no picture")
    result = run("detect", photos, *MODELS)
    assert result.exit_code == 1
    assert "bad.png is not a PNG" in result.output
    assert "two.png: 2 faces" in result.output


def test_align(photos, tmp_path):
    out = tmp_path / "aligned"
    result = run("align", photos, "--out", out, "--size", 48, "--template", "arcface112", *MODELS)
    assert result.exit_code == 0, result.output
    assert sorted(files(out)) == ["one.png.0.png", "sub/two.png.0.png", "sub/two.png.1.png"]
    assert read_image(out / "one.png.0.png").shape == (48, 48, 3)
    again = run("align", photos, "--out", out, "--size", 48, *MODELS)
    assert again.exit_code == 1
    assert "is there already" in again.output


def test_extract_and_restore(photos, tmp_path):
    before = files(photos)
    out, back = tmp_path / "faces", tmp_path / "restored"
    result = run("extract", photos, out, *MODELS)
    assert result.exit_code == 0, result.output
    assert "3 faces of 3 photographs" in result.output
    assert {"one.png.0.png", "one.png.0.mask.png", "one.png.json", "none.png.json"} <= set(files(out))
    result = run("restore", out, back, "--quiet")
    assert result.exit_code == 0, result.output
    assert "3 photographs with 0 edited faces" in result.output
    for name in ("one.png", "sub/two.png", "none.png"):
        np.testing.assert_array_equal(read_image(back / f"{name}.png"), read_image(photos / name))
    crop = read_image(out / "sub" / "two.png.1.png")
    write_image(out / "sub" / "two.png.1.png", 255 - crop)
    result = run("restore", out, back, "--quiet")
    assert result.exit_code == 1
    assert result.output.count("is there already") == 3
    result = run("restore", out, back, "--overwrite", "--blend", "poisson", "--color", "reinhard", "--quiet")
    assert result.exit_code == 0, result.output
    assert "1 edited face in" in result.output
    new, old = read_image(back / "sub" / "two.png.png"), read_image(photos / "sub" / "two.png")
    changed = (new != old).any(2)
    assert 500 < changed.sum() < 0.3 * changed.size
    assert not changed[:, :180].any()
    np.testing.assert_array_equal(read_image(back / "one.png.png"), read_image(photos / "one.png"))
    assert files(photos) == before


def test_edits_survive_a_second_extraction(photos, tmp_path):
    out = tmp_path / "faces"
    run("extract", photos, out, *MODELS)
    write_image(out / "one.png.0.png", 255 - read_image(out / "one.png.0.png"))
    kept = files(out)
    result = run("extract", photos, out, *MODELS)
    assert result.exit_code == 1
    assert "was edited" in result.output
    assert files(out) == kept


def test_moved_missing_and_changed_photographs(photos, tmp_path):
    out = tmp_path / "faces"
    run("extract", photos, out, *MODELS)
    moved = tmp_path / "elsewhere"
    photos.rename(moved)
    result = run("restore", out, tmp_path / "a", "--quiet")
    assert result.exit_code == 1
    assert "--photos" in result.output
    result = run("restore", out, tmp_path / "b", "--photos", moved, "--quiet")
    assert result.exit_code == 0, result.output
    write_image(moved / "one.png", photographs.background(300, 400))
    result = run("restore", out, tmp_path / "c", "--photos", moved, "--quiet")
    assert result.exit_code == 1
    assert "is not the photograph that was extracted" in result.output
    assert "2 photographs" in result.output


def test_photographs_are_never_written_to(photos, tmp_path):
    (photos / "one.png").rename(photos / "one.jpg.png")  # the restored file of one.jpg has this name
    out = tmp_path / "faces"
    run("extract", photos / "one.jpg.png", out, *MODELS)
    sidecar = out / "one.jpg.png.json"
    content = json.loads(sidecar.read_text())
    content["name"] = "one.jpg"
    sidecar.write_text(json.dumps(content))
    before = files(photos)
    result = run("restore", out, photos, "--overwrite", "--quiet")
    assert result.exit_code == 1
    assert "is a photograph itself" in result.output
    assert files(photos) == before


def test_no_photograph_is_written_over_for_another(photos, tmp_path):
    write_image(photos / "one.png.png", photographs.background(30, 40))  # the name of the restored one.png
    out = tmp_path / "faces"
    run("extract", photos, out, *MODELS)
    before = files(photos)
    result = run("restore", out, photos, "--overwrite", "--quiet")
    assert result.exit_code == 1
    assert "one.png.png is a photograph itself" in result.output
    assert {name: data for name, data in files(photos).items() if name in before} == before


def test_crops_are_not_put_among_the_photographs(photos):
    for out in (photos, photos / "faces"):
        result = run("extract", photos, out, *MODELS)
        assert result.exit_code == 1
        assert "would be taken for photographs" in str(result.exception)


def test_two_folders_with_one_name(photos, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    write_image(other / "one.png", photographs.background(20, 20))
    result = run("align", photos, other, "--out", tmp_path / "x", *MODELS)
    assert "would both be one.png" in str(result.exception)


def test_nothing_to_restore(tmp_path):
    result = run("restore", tmp_path, tmp_path / "x")
    assert "holds no extracted faces" in str(result.exception)
