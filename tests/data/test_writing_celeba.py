"""Rendered trees of CelebA and of VIS and NIR are read back exactly, and a stopped run is continued."""

import json

import numpy as np
import pytest

from pyface.data import ATTRIBUTES, CelebA, PairedSpectra, ProceduralFaces
from pyface.data.celeba_tables import CELEBA_ATTRIBUTES
from pyface.data.writing_celeba import UNKNOWN_ATTRIBUTES, write_celeba
from pyface.data.writing_spectra import write_spectra
from pyface.errors import DataError, ValueRangeError

PEOPLE, SAMPLES, SEED = 5, 3, 9
COUNT = PEOPLE * SAMPLES


def written(folder, **options):
    return write_celeba(folder, identities=PEOPLE, samples=SAMPLES, seed=SEED, **options)


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    return written(tmp_path_factory.mktemp("celeba") / "official", pictures="png")


@pytest.fixture(scope="module")
def truth():
    """The photographs from which the aligned pictures are cut, by identity and sample."""
    placed = {"scale": 0.56, "roll": 0.0, "shift_x": 0.0, "shift_y": 0.0}
    return list(ProceduralFaces(PEOPLE, SAMPLES, 288, ("vis",), SEED, **placed))


def found_in(photo, picture):
    """Left and top of the picture within the photograph, found by its pixels."""
    windows = np.lib.stride_tricks.sliding_window_view(photo[..., 0], (218, 178))
    corner = windows[:, :, ::31, ::29] == picture[::31, ::29, 0]
    tops, lefts = np.nonzero(corner.all(axis=(2, 3)))
    return next(
        (x, y)
        for x, y in zip(lefts.tolist(), tops.tolist(), strict=True)
        if np.array_equal(photo[y : y + 218, x : x + 178], picture)
    )


def test_what_is_written_is_read_back_exactly(official, truth):
    data = CelebA(official, verify=True)
    assert len(data) == COUNT
    assert len(data.problems) == 0
    seen = set()
    for sample, box in zip(data, data.boxes.values.tolist(), strict=True):
        same = [t for t in truth if t.identity == sample.identity and matches(t, sample)]
        assert len(same) == 1
        seen.add(same[0].path)
        left, top = found_in(same[0].image, sample.image)
        exact = same[0].landmarks["5pt"] - [left, top]
        np.testing.assert_array_equal(sample.landmarks["5pt"], np.rint(exact - 0.5) + 0.5)
        middle = sample.landmarks["5pt"][:2].mean(axis=0)
        np.testing.assert_allclose(middle, [89, 111], atol=1.1)
        x, y, width, height = box  # in the photograph, where it holds every landmark
        points = same[0].landmarks["ibug68"]
        assert (points >= [x, y]).all()
        assert (points <= [x + width, y + height]).all()
    assert len(seen) == COUNT


def matches(photo, sample):
    """Whether a photograph has the attributes of a sample and shows it."""
    attributes = {name: photo.attributes.get(name, False) for name in CELEBA_ATTRIBUTES}
    try:
        return attributes == sample.attributes and bool(found_in(photo.image, sample.image))
    except StopIteration:
        return False


@pytest.mark.parametrize("layout", ["flat", "kaggle"])
def test_all_layouts_say_the_same(official, tmp_path, layout):
    first = CelebA(official)
    data = CelebA(written(tmp_path / layout, layout=layout))
    lacking = {"identity"} if layout == "kaggle" else set()
    assert set(first.annotations) - set(data.annotations) == lacking
    for name, column in data.annotations.items():
        np.testing.assert_array_equal(column, first.annotations[name])
    np.testing.assert_array_equal(data.landmarks(), first.landmarks())
    np.testing.assert_array_equal(data.boxes.values, first.boxes.values)
    # JPEG is near the pixels that were rendered
    assert np.abs(data.images().astype(int) - first.images()).mean() < 2.5


def test_parts_share_nobody_and_the_card_says_what_is_unknown(official):
    parts = [set(CelebA(official, part).annotations["identity"]) for part in ("train", "valid", "test")]
    assert [len(part) for part in parts] == [3, 1, 1]
    assert set.union(*parts) == set(range(PEOPLE))
    card = json.loads((official / "card.json").read_text())
    assert card["complete"] is True
    assert card["images"] == COUNT
    assert card["unknown_attributes"] == list(UNKNOWN_ATTRIBUTES)
    assert set(UNKNOWN_ATTRIBUTES) == set(CELEBA_ATTRIBUTES) - set(ATTRIBUTES)
    table = CelebA(official).annotations
    assert not any(table[name].any() for name in UNKNOWN_ATTRIBUTES)
    assert list(table["identity"]) != sorted(table["identity"])  # names do not tell who it is


def test_a_stopped_run_is_continued(official, tmp_path):
    files = sorted(p.relative_to(official) for p in official.rglob("*") if p.is_file())
    stopped = 0

    def stop(count):
        nonlocal stopped
        stopped += count
        if stopped == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        written(tmp_path / "again", pictures="png", progress=stop)
    assert not (tmp_path / "again" / "Anno").exists()
    assert list((tmp_path / "again" / "Img" / "img_align_celeba_png").iterdir())
    written(tmp_path / "again", pictures="png")
    assert sorted(p.relative_to(tmp_path / "again") for p in (tmp_path / "again").rglob("*.*")) == files
    for file in files:
        assert (tmp_path / "again" / file).read_bytes() == (official / file).read_bytes()
    with pytest.raises(DataError, match="another recipe"):
        written(tmp_path / "again", pictures="jpg")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "photo.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="not empty"):
        written(tmp_path / "other")
    assert (tmp_path / "other" / "photo.jpg").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layout": "x"}, "layout"),
        ({"pictures": "webp"}, "jpg or png"),
        ({"size": 64}, "178"),
        ({"workers": 0}, "workers"),
    ],
)
def test_bad_options(tmp_path, options, words):
    with pytest.raises(ValueRangeError, match=words):
        written(tmp_path / "x", **options)
    assert not (tmp_path / "x").exists()


def test_spectra_are_read_back_exactly(tmp_path):
    folder = write_spectra(tmp_path / "pairs", identities=3, samples=2, size=32, seed=4)
    data = PairedSpectra(folder)
    faces = ProceduralFaces(3, 2, 32, ("vis", "nir"), 4)
    assert data.annotations["identity"].tolist() == [0, 0, 1, 1, 2, 2]
    for sample, face in zip(data, faces, strict=True):
        np.testing.assert_array_equal(sample.image, face.image)
        np.testing.assert_array_equal(sample.nir, face.nir)
        assert sample.identity == face.identity
    (folder / "labels.jsonl").unlink()  # names alone say who it is
    (folder / "dataset.json").unlink()
    assert PairedSpectra(folder).annotations["identity"].tolist() == [0, 0, 1, 1, 2, 2]
