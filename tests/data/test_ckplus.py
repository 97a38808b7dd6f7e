"""CK+: a hand-made tree with known values, the odd cases of real trees, and everything that can be wrong."""

from __future__ import annotations

import math
import pickle
import shutil
import zipfile

import numpy as np
import pytest

from pyface.data import CKPlus, collate
from pyface.errors import DataError, ValueRangeError
from pyface.io.images import write_image

POINTS = np.random.default_rng(0).uniform(5, 40, (68, 2))

# (subject, sequence): frames, units as written, emotion as written
SEQUENCES = {
    ("S005", "001"): (
        3,
        "   1.0000000e+00   3.0000000e+00\n   2.0000000e+00   0.0000000e+00\n",
        "3.0000000e+00",
    ),
    ("S005", "002"): (2, "1.2e+01 5.0e+00\n2.5000000e+01\t4.0000000e+00\n", "   5.0000000e+00\n"),
    ("S010", "001"): (4, "\n  9.0000000e+00   2.0000000e+00 \r\n 6.2e+01 1.0\r\n\n", None),
    ("S010", "004"): (1, "4.0 5.0\n7.0 4\n", " 1.0000000e+00 "),
    ("S999", "001"): (3, "  2.0000000e+01   1.0000000e+00\n", "2.0000000e+00\n"),
    ("S999", "003"): (5, "1.2000000e+01   1.0000000e+00\n", "7.0000000e+00"),
}


def name(kind, subject, sequence, frame):
    folder = {"": "cohn-kanade-images", "_landmarks": "Landmarks", "_facs": "FACS", "_emotion": "Emotion"}[
        kind
    ]
    suffix = ".txt" if kind else ".png"
    return f"{folder}/{subject}/{sequence}/{subject}_{sequence}_{frame:08d}{kind}{suffix}"


def put(root, file, content):
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, np.ndarray):
        write_image(path, content, sync=False)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def picture(subject, sequence, frame, height=49, width=64):
    """A grey picture whose level tells which it is."""
    return np.full((height, width), int(subject[1:]) % 100 + 10 * int(sequence) + frame, np.uint8)


def points_of(frame):
    return POINTS + frame


def points_text(points):
    return "".join(f"   {x:.7e}   {y:.7e}\n" for x, y in points)


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "ck"
    for (subject, sequence), (frames, units, emotion) in SEQUENCES.items():
        for frame in range(1, frames + 1):
            put(root, name("", subject, sequence, frame), picture(subject, sequence, frame))
            put(root, name("_landmarks", subject, sequence, frame), points_text(points_of(frame)))
        put(root, name("_facs", subject, sequence, frames), units)
        if emotion is not None:
            put(root, name("_emotion", subject, sequence, frames), emotion)
    return root


def test_a_tree_gives_its_exact_values(tree):
    faces = CKPlus(tree)
    assert len(faces) == len(faces.sequences) == 6
    assert not list(faces.problems)
    assert faces.emotions() == {
        ("S005", "001"): "disgust",
        ("S005", "002"): "happy",
        ("S010", "001"): None,
        ("S010", "004"): "angry",
        ("S999", "001"): "contempt",
        ("S999", "003"): "surprise",
    }
    assert faces.action_units()["S005", "001"] == {"AU1": 1.0, "AU2": 1.0}
    units = faces.action_units(with_intensity=True)
    assert units["S005", "001"]["AU1"] == 0.6
    assert math.isnan(units["S005", "001"]["AU2"])
    assert units["S005", "002"] == {"AU12": 1.0, "AU25": 0.8}
    assert units["S010", "001"] == {"AU9": 0.4}
    assert faces.extras == {("S010", "001"): {"AU62": 0.2}}
    assert repr(faces).endswith("6 pictures (peak); 6 sequences of 3 people, 5 with an emotion)")


def test_columns_and_samples_say_the_same(tree):
    faces = CKPlus(tree)
    table = faces.annotations
    assert table["identity"].tolist() == [5, 5, 10, 10, 999, 999]
    assert table["sequence"].tolist() == [1, 2, 1, 4, 1, 3]
    assert table["frame"].tolist() == [3, 2, 4, 1, 3, 5]
    assert table["emotion"].tolist() == ["disgust", "happy", "", "angry", "contempt", "surprise"]
    assert set(table["phase"]) == {"peak"}
    np.testing.assert_array_equal(table["AU12"], np.array([0, 1, 0, 0, 0, 0.2], np.float32))
    np.testing.assert_array_equal(table["AU2"], [np.nan, 0, 0, 0, 0, 0])  # present, intensity not given
    np.testing.assert_array_equal(table["AU2_present"], [1, 0, 0, 0, 0, 0])
    for i, sample in enumerate(faces):
        assert sample.identity == table["identity"][i]
        assert sample.emotion == (table["emotion"][i] or None)
        assert len(sample.action_units) == 30
        for unit in (1, 2, 12):
            np.testing.assert_equal(np.float32(sample.action_units[f"AU{unit}"]), table[f"AU{unit}"][i])
        subject, sequence = faces.sequences[i]
        frame = table["frame"][i]
        np.testing.assert_array_equal(sample.image, picture(subject, sequence, frame)[..., None])
        np.testing.assert_allclose(sample.landmarks["ibug68"], points_of(frame) + 0.5, atol=1e-4)
        assert sample.path.endswith(f"{subject}_{sequence}_{frame:08d}.png")
    np.testing.assert_array_equal(faces.images()[:, 0, 0, 0], [s.image[0, 0, 0] for s in faces])
    np.testing.assert_allclose(faces.landmarks(), [s.landmarks["ibug68"] for s in faces])


def test_frames(tree):
    both = CKPlus(tree, frames="neutral+peak")
    assert len(both) == 2 * 6 - 1  # one sequence has a single frame, its peak
    table = both.annotations
    neutral = table["phase"] == "neutral"
    assert set(table["frame"][neutral]) == {1}
    assert set(table["emotion"][neutral]) == {"neutral"}
    assert all((table[f"AU{u}_present"][neutral] == 0).all() for u in both.units)
    assert set(both[0].action_units.values()) == {0.0}
    everything = CKPlus(tree, frames="all")
    assert len(everything) == 18
    rise = everything.filter(phase="rise")
    assert len(rise) == 18 - 11
    assert set(rise.annotations["emotion"]) == {""}
    assert np.isnan(rise.annotations["AU12_present"]).all()
    assert rise[0].action_units == {}
    assert rise[0].emotion is None
    last = CKPlus(tree, frames="last:2")
    assert last.annotations["frame"].tolist() == [2, 3, 2, 3, 4, 1, 2, 3, 4, 5]
    assert last.annotations["emotion"].tolist()[:2] == ["disgust", "disgust"]
    assert CKPlus(tree, frames="last:99").annotations["phase"].tolist().count("neutral") == 0
    for bad in ("", "last:0", "last", "first"):
        with pytest.raises(ValueRangeError, match="last:k"):
            CKPlus(tree, frames=bad)


def test_helpers(tree):
    faces = CKPlus(tree)
    sums = faces.action_unit_sums()
    assert {unit: n for unit, n in sums.items() if n} == {
        "AU1": 1, "AU2": 1, "AU4": 1, "AU7": 1, "AU9": 1, "AU12": 2, "AU20": 1, "AU25": 1,
    }  # fmt: skip
    assert faces.action_unit_sums(with_intensity=True)["AU12"] == 1.2
    assert faces.action_unit_sums(with_intensity=True)["AU2"] == 0  # its intensity is not known
    assert faces.aus_with_min_rate(2 / 6) == ["AU12"]
    assert len(faces.aus_with_min_rate(0)) == 30
    square = CKPlus(tree, frames="all").peak_frames(24)
    assert square.shape == (6, 24, 24, 1)
    assert square[:, 0, 0, 0].tolist() == faces.images()[:, 0, 0, 0].tolist()
    assert faces.peak_frames(40, square=False).shape == (6, 30, 40, 1)
    with pytest.raises(ValueRangeError):
        faces.peak_frames(1)


def test_units_can_be_chosen_and_the_others_are_extras(tree):
    faces = CKPlus(tree, action_units=["AU12", 62, "au1"])
    assert faces.units == (12, 62, 1)
    assert faces.label_names == ("AU12_present", "AU62_present", "AU1_present")
    wanted = [[0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0], [1, 0, 0]]
    np.testing.assert_array_equal(faces.labels(), wanted)
    assert faces.label_schema.kind == "multi-hot"
    assert list(faces.extras["S005", "001"]) == ["AU2"]
    assert faces[2].action_units == {"AU12": 0.0, "AU62": 0.2, "AU1": 0.0}
    for bad in ([], [12, "AU12"], ["smile"], [0]):
        with pytest.raises(ValueRangeError, match="action_units"):
            CKPlus(tree, action_units=bad)


def test_folds_and_splits_share_nobody(tree):
    faces = CKPlus(tree, frames="all")
    for training, test in faces.folds(3):
        assert not set(training.annotations["subject"]) & set(test.annotations["subject"])
    a, b = faces.split((0.5, 0.5))
    assert not set(a.annotations["identity"]) & set(b.annotations["identity"])


def test_filter_and_balance(tree):
    faces = CKPlus(tree)
    assert faces.filter(AU12=(0.5, 1)).annotations["subject"].tolist() == ["S005"]
    assert len(faces.filter(AU2_present=1)) == 1
    assert len(faces.filter(emotion={"angry", "happy"})) == 2
    emotion = {share.value: share.count for share in faces.balance()["emotion"]}
    assert emotion == {"angry": 1, "contempt": 1, "disgust": 1, "happy": 1, "surprise": 1, None: 1}
    with pytest.raises(ValueRangeError, match=r"AU2.*not known of 1"):
        faces.labels(["AU2"])


def test_batches_and_workers(tree):
    faces = CKPlus(tree)
    batch = collate([faces[i] for i in range(6)])
    assert batch["image"].shape == (6, 1, 49, 64)
    assert batch["landmarks"]["ibug68"].shape == (6, 68, 2)
    again = pickle.loads(pickle.dumps(faces))
    np.testing.assert_array_equal(again.images(), faces.images())
    assert again.fingerprint() == faces.fingerprint() != CKPlus(tree, crop="square", size=32).fingerprint()


def test_what_macs_and_windows_leave_behind_is_not_read(tree):
    for file in (
        ".DS_Store",
        "cohn-kanade-images/.DS_Store",
        "cohn-kanade-images/S005/001/.DS_Store",
        "cohn-kanade-images/S005/001/._S005_001_00000001.png",
        "Landmarks/S005/001/._S005_001_00000001_landmarks.txt",
        "Emotion/S005/._001",
        "cohn-kanade-images/S005/001/Thumbs.db",
        "FACS/ReadMe.doc",
        "README.txt",
        "__MACOSX/cohn-kanade-images/S005/001/._S005_001_00000001.png",
    ):
        put(tree, file, b"\x00\x05\x16\x07")
    faces = CKPlus(tree, frames="all")
    assert len(faces) == 18
    assert not list(faces.problems)


def test_missing_folders_are_not_known_rather_than_wrong(tree):
    before = CKPlus(tree)
    shutil.rmtree(tree / "Emotion")
    assert set(CKPlus(tree).emotions().values()) == {None}
    shutil.rmtree(tree / "Landmarks/S005/001")
    faces = CKPlus(tree)
    assert "ibug68" not in faces[0].landmarks
    assert "ibug68" in faces[1].landmarks
    assert np.isnan(faces.landmarks()[0]).all()
    shutil.rmtree(tree / "Landmarks")
    shutil.rmtree(tree / "FACS")
    faces = CKPlus(tree)
    assert np.isnan(faces.annotations["AU1"]).all()
    assert not faces.annotations["facs"].any()
    assert set(faces.action_units().values()) == {None}
    assert faces[0].action_units == {}
    assert sum(faces.action_unit_sums().values()) == 0
    np.testing.assert_array_equal(faces.images(), before.images())
    with pytest.raises(ValueRangeError, match="not known"):
        faces.labels()


def test_an_emotion_is_not_carried_over_from_the_sequence_before(tree):
    """An existing but empty folder once took the sequence's before, and a missing one shortened the list."""
    (tree / name("_emotion", "S005", "002", 2)).unlink()  # its folder stays, as in the published tree
    shutil.rmtree(tree / "Emotion/S999/001")
    faces = CKPlus(tree)
    assert faces.annotations["emotion"].tolist() == ["disgust", "", "", "angry", "", "surprise"]
    assert faces[1].emotion is None
    assert faces[3].emotion == "angry"


def test_labels_stay_with_their_pictures_when_one_is_bad(tree):
    """Lists of images and of labels once had different lengths and slid against each other."""
    (tree / name("", "S005", "002", 2)).write_bytes(b"")
    faces = CKPlus(tree, on_problem="skip")
    assert [p.code for p in faces.problems] == ["empty"]
    assert faces.annotations["emotion"].tolist() == ["disgust", "", "angry", "contempt", "surprise"]
    for i in range(5):
        sample = faces[i]
        frame = int(faces.annotations["frame"][i])
        subject, sequence = faces.annotations["subject"][i], f"{faces.annotations['sequence'][i]:03d}"
        np.testing.assert_array_equal(sample.image, picture(subject, sequence, frame)[..., None])
        assert sample.emotion == faces.emotions()[subject, sequence]


def test_sizes_and_colours_may_differ(tree):
    colour = np.zeros((48, 64, 3), np.uint8)
    colour[:] = (200, 100, 50)
    put(tree, name("", "S999", "003", 5), colour)
    faces = CKPlus(tree)
    assert faces.sizes.tolist() == [[49, 64]] * 5 + [[48, 64]]
    assert faces[0].image.shape == (49, 64, 3)
    assert faces[5].image.shape == (48, 64, 3)
    assert faces[5].image[0, 0].tolist() == [200, 100, 50]  # RGB
    for ask in (lambda: faces.images(), lambda: faces.image_shape, lambda: faces.folds(3)[0][0].image_shape):
        with pytest.raises(DataError, match=r"different sizes.*49 x 64.*48 x 64.*crop"):
            ask()
    assert faces.images(range(5)).shape == (5, 49, 64, 3)
    assert faces.filter(subject="S005").image_shape == (49, 64, 3)
    cropped = CKPlus(tree, crop="square", size=24)
    assert cropped.image_shape == (24, 24, 3)
    assert cropped.images().shape == (6, 24, 24, 3)
    # the centre of the picture stays the centre: (32, 24.5) of 49 x 64 is (12, 12)
    moved = cropped.landmarks()[0]
    np.testing.assert_allclose(moved, (points_of(3) + 0.5 - (7, 0)) * 24 / 49, atol=1e-4)
    np.testing.assert_allclose(cropped[0].landmarks["ibug68"], moved)
    with pytest.raises(ValueRangeError, match="needs a crop"):
        CKPlus(tree, size=64)


def test_a_zip_and_nested_folders_read_the_same(tree, tmp_path):
    nested = tmp_path / "nested"
    for folder in tree.iterdir():
        shutil.copytree(folder, nested / f"archive of {folder.name}" / folder.name)
    packed = tmp_path / "ck.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(tree.rglob("*.*"), reverse=True):  # the order of files does not matter
            archive.write(path, f"CK+/{path.relative_to(tree)}")
        archive.writestr("__MACOSX/CK+/cohn-kanade-images/S005/001/._S005_001_00000001.png", b"\0")
    first = CKPlus(tree)
    for source in (nested, packed):
        other = CKPlus(source)
        np.testing.assert_array_equal(other.images(), first.images())
        assert other.emotions() == first.emotions()
        np.testing.assert_array_equal(other.landmarks(), first.landmarks())


FACS = name("_facs", "S005", "001", 3)
EMOTION = name("_emotion", "S005", "001", 3)
LANDMARKS = name("_landmarks", "S005", "001", 3)
PICTURE = name("", "S005", "001", 3)


@pytest.mark.parametrize(
    ("file", "content", "code", "line", "reason"),
    [
        (FACS, b"", "empty", None, "has zero bytes"),
        (FACS, b" \r\n\t", "empty", None, "has no numbers"),
        (FACS, b"\xef\xbb\xbf", "empty", None, "has no numbers"),
        (FACS, b"\xff\xfe1\x00", "not-text", None, "is not text"),
        (FACS, b"1.0 3.0\nsmile\n", "form", 2, "must be 2 numbers; got 'smile'"),
        (FACS, b"1.0 3.0 4.0\n", "form", 1, "must be 2 numbers"),
        (FACS, b"1.0 nan\n", "form", 1, "must be 2 numbers"),
        (FACS, b"\n1.5 3\n", "range", 2, "1.5 is not the number of an action unit"),
        (FACS, b"1 6\n", "range", 1, "from 0 to 5; got 6"),
        (FACS, b"1 2.5\n", "range", 1, "from 0 to 5; got 2.5"),
        (FACS, b"1 2\n4 1\n1 3\n", "twice", 3, "action unit 1 stands here"),
        (EMOTION, b"", "empty", None, "has zero bytes"),
        (EMOTION, b"happy", "form", 1, "must be one number"),
        (EMOTION, b"8.0000000e+00", "range", 1, "from 0 to 7; got 8"),
        (EMOTION, b"3.5", "range", 1, "got 3.5"),
        (EMOTION, b"3\n5\n", "form", 2, "must hold one number; got 2"),
        (LANDMARKS, b"", "empty", None, "has zero bytes"),
        (LANDMARKS, points_text(POINTS[:67]).encode(), "landmarks", None, "must have 68 points; got 67"),
        (LANDMARKS, points_text([*POINTS, POINTS[0]]).encode(), "landmarks", None, "got 69"),
        (LANDMARKS, b"1 2\n" * 67 + b"1 inf\n", "form", 68, "must be 2 numbers"),
        (LANDMARKS, b"1 2\n" * 67 + b"1e39 2\n", "range", 68, "far outside"),
        (PICTURE, b"", "empty", None, "has zero bytes"),
        (PICTURE, b"\x89PNG\r\n\x1a\nwords", "not-image", None, "is not a PNG"),
    ],
)
def test_every_problem_has_file_line_and_reason(tree, file, content, code, line, reason):
    (tree / file).write_bytes(content)
    with pytest.raises(DataError, match="1 problem in") as stopped:
        CKPlus(tree)
    assert file in str(stopped.value)
    assert 'on_problem="skip"' in str(stopped.value)
    faces = CKPlus(tree, on_problem="skip")
    (problem,) = faces.problems
    assert (problem.file, problem.code, problem.line) == (file, code, line)
    assert reason in problem.reason
    if file == PICTURE:
        assert len(faces) == 5
        return
    assert len(faces) == 6
    sample = faces[0]
    assert (sample.action_units == {}) == (file == FACS)
    assert (sample.emotion is None) == (file == EMOTION)
    assert (sample.landmarks == {}) == (file == LANDMARKS)
    assert len(faces[1].action_units) == 30


def test_the_same_unit_with_the_same_intensity_twice_is_no_problem(tree):
    (tree / FACS).write_text("1 3\n2 0\n1 3\n2 0\n")
    assert CKPlus(tree).action_units()["S005", "001"] == {"AU1": 1.0, "AU2": 1.0}


def test_a_label_of_another_frame_than_the_peak_is_not_used(tree):
    (tree / FACS).rename(tree / name("_facs", "S005", "001", 2))
    (tree / EMOTION).rename(tree / name("_emotion", "S005", "001", 9))
    faces = CKPlus(tree, on_problem="skip")
    assert [p.code for p in faces.problems] == ["not-peak", "not-peak"]
    assert "is of frame 9, but the last picture of S005/001 is frame 3" in faces.problems.message()
    assert faces[0].emotion is None
    assert faces[0].action_units == {}


def test_problems_of_the_tree(tree):
    put(tree, name("_emotion", "S005", "001", 2), "3")
    put(tree, "cohn-kanade-images/S010/001/S010_004_00000009.png", picture("S010", "004", 9))
    put(tree, "cohn-kanade-images/S010/001/portrait.png", picture("S010", "004", 9))
    put(tree, name("_facs", "S011", "001", 9), "1 2")
    put(tree, name("", "S999", "003", 5).replace(".png", ".jpg"), picture("S999", "003", 5))
    (tree / name("_landmarks", "S999", "003", 5)).unlink()
    faces = CKPlus(tree, on_problem="skip")
    found = {(p.file.rpartition("/")[2], p.code) for p in faces.problems}
    assert found == {
        ("S005_001_00000003_emotion.txt", "several"),
        ("S010_004_00000009.png", "name"),
        ("portrait.png", "name"),
        ("S011_001_00000009_facs.txt", "no-pictures"),
        ("S999_003_00000005.png", "twice"),
        ("S999_003_00000005.jpg", "no-landmarks"),
    }
    assert len(faces) == 6
    assert faces.emotions()["S005", "001"] is None


def test_a_long_list_of_problems_is_cut_and_counted(tree):
    for i in range(25):
        put(tree, f"Emotion/S005/001/wrong{i}.txt", "1")
    with pytest.raises(DataError, match=r"25 problems in .*wrong0\.txt.*; and 5 more") as stopped:
        CKPlus(tree)
    assert str(stopped.value).count("is not named as a file of Emotion") == 20


def test_damage_behind_the_header_is_found_when_asked_for(tree):
    path = tree / PICTURE
    write_image(path, np.random.default_rng(0).integers(0, 256, (49, 64), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:-900])
    faces = CKPlus(tree)
    with pytest.raises(DataError, match="S005_001_00000003"):
        faces.images()
    assert len(CKPlus(tree, on_problem="skip", verify=True)) == 5
    with pytest.raises(DataError, match="truncated or damaged"):
        CKPlus(tree, verify=True)


def test_a_folder_without_the_dataset(tmp_path, tree):
    with pytest.raises(DataError, match="does not exist"):
        CKPlus(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    for wrong in (tmp_path / "empty", tree / "cohn-kanade-images"):
        with pytest.raises(DataError, match="has no pictures of CK"):
            CKPlus(wrong)
    for path in tree.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"no picture that can be used.*zero bytes"):
        CKPlus(tree, on_problem="skip")
