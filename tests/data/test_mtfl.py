"""MTFL: a hand-made tree with known values, odd lines, and everything that can be wrong."""

from __future__ import annotations

import pickle
import zipfile

import numpy as np
import pytest

from pyface.data import MTFL
from pyface.errors import DataError, ValueRangeError
from pyface.io.images import write_image

# path as written, (height, width), points x1..x5 y1..y5, gender smile glasses pose
TRAINING = [
    (" lfw_5590\\Aaron_Eckhart_0001.jpg", (60, 50), "10 30 20.5 12.25 28 20 21 30 40.75 41", "1 1 2 3"),
    (" lfw_5590\\Aaron_Eckhart_0002.jpg", (60, 50), "11 31 21.5 13.25 29 20 21 30 40.75 41", "1 2 2 2"),
    ("  net_7876\\0001_0.jpg", (40, 40), "8 22 15 10 20 12 12 20 28 28", "2 1 1 3"),
    (" net_7876\\0002_0.jpg", (32, 48), "8 22 15 10 20 12 12 20 28 28", "2 2 2 1"),
]
TESTING = [
    (" AFLW\\0001-image20056.jpg", (90, 80), "20 60 40 25 55 30 30 50 70 70", "1 2 1 5"),
    (" lfw_5590\\Zoe Mary_Ball_0004.png", (60, 50), "10 30 20.5 12.25 28 20 21 30 40.75 41", "2 1 2 4"),
]


def line(path, points, codes):
    return f"{path} {points} {codes}\n"


def file_of(path):
    return path.strip().replace("\\", "/")


def put(root, rows, start):
    for number, (path, (height, width), *_) in enumerate(rows, start):
        target = root / file_of(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_image(target, np.full((height, width, 3), 20 * number, np.uint8), sync=False)


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "mtfl"
    put(root, TRAINING, 1)
    put(root, TESTING, 5)
    for name, rows in (("training.txt", TRAINING), ("testing.txt", TESTING)):
        text = "".join(line(path, points, codes) for path, _, points, codes in rows)
        (root / name).write_text(text + " \n")  # the published files end so
    return root


def test_a_tree_gives_its_exact_values(tree):
    faces = MTFL(tree)
    assert len(faces) == 6
    assert not list(faces.problems)
    table = faces.annotations
    assert table["split"].tolist() == ["training"] * 4 + ["testing"] * 2
    assert table["gender"].tolist() == [1, 1, 2, 2, 1, 2]
    assert table["smile"].tolist() == [1, 2, 1, 2, 2, 1]
    assert table["glasses"].tolist() == [2, 2, 1, 2, 1, 2]
    assert table["pose"].tolist() == [3, 2, 3, 1, 5, 4]
    assert table["Male"].tolist() == [True, True, False, False, True, False]
    assert table["Smiling"].tolist() == [True, False, True, False, False, True]
    assert table["Eyeglasses"].tolist() == [False, False, True, False, True, False]
    assert faces.sizes.tolist() == [[60, 50], [60, 50], [40, 40], [32, 48], [90, 80], [60, 50]]
    for i, (path, (height, width), points, _) in enumerate([*TRAINING, *TESTING]):
        sample = faces[i]
        assert sample.path == str(tree / file_of(path))
        assert sample.image.shape == (height, width, 3)
        assert abs(int(sample.image[5, 5, 0]) - 20 * (i + 1)) <= 2  # JPEG
        numbers = np.array(points.split(), float)
        np.testing.assert_array_equal(sample.landmarks["5pt"], np.stack([numbers[:5], numbers[5:]], 1) + 0.5)
        assert sample.attributes == {name: bool(table[name][i]) for name in ("Male", "Smiling", "Eyeglasses")}
        assert sample.identity == table["identity"][i]


def test_parts_and_people(tree):
    training, testing = MTFL(tree, "training"), MTFL(tree, "testing")
    assert (len(training), len(testing)) == (4, 2)
    assert training.file_names() == [file_of(row[0]) for row in TRAINING]
    identity = MTFL(tree).annotations["identity"]
    assert identity[0] == identity[1]  # two pictures of one name
    assert len(set(identity.tolist())) == 5
    np.testing.assert_array_equal(identity[:4], training.annotations["identity"])
    np.testing.assert_array_equal(identity[4:], testing.annotations["identity"])
    for part, test in MTFL(tree).folds(5):
        assert not set(part.annotations["identity"]) & set(test.annotations["identity"])
    (tree / "testing.txt").unlink()
    assert len(MTFL(tree)) == 4
    with pytest.raises(DataError, match=r"no testing\.txt"):
        MTFL(tree, "testing")
    with pytest.raises(ValueRangeError, match="all, training or testing"):
        MTFL(tree, "train")


def test_filtering_by_smile_really_filters(tree):
    """The published system's filter let every picture through."""
    faces = MTFL(tree)
    smiling = faces.filter(smile=1)
    assert len(smiling) == 3
    assert set(smiling.annotations["smile"].tolist()) == {1}
    assert all(sample.attributes["Smiling"] for sample in smiling)
    assert len(faces.filter(smile=2)) == 3
    assert len(faces.filter(Smiling=True, pose=3)) == 2
    assert len(faces.filter(pose={1, 5})) == 2


def test_classes_of_unequal_size_keep_their_own_counts(tree):
    """The published translation divided the sums of both classes by the number of smiles."""
    faces = MTFL(tree, crop="square", size=16)
    shares = {share.value: share for share in faces.balance(["Eyeglasses"])["Eyeglasses"]}
    for worn, rows in ((True, [2, 4]), (False, [0, 1, 3, 5])):
        part = faces.filter(Eyeglasses=worn)
        assert len(part) == len(part.images()) == shares[worn].count == len(rows)
        level = np.mean([20 * (row + 1) for row in rows])  # each picture's level tells its place
        assert abs(part.images().mean() - level) < 2


def test_pictures_of_different_sizes_need_a_crop(tree):
    faces = MTFL(tree)
    for ask in (lambda: faces.images(), lambda: faces.image_shape):
        with pytest.raises(DataError, match=r"different sizes.*60 x 50: 3.*and 1 more sizes.*crop="):
            ask()
    assert faces.images([0, 1]).shape == (2, 60, 50, 3)
    cropped = MTFL(tree, crop="square", size=20)
    assert cropped.images().shape == (6, 20, 20, 3)
    assert cropped.image_shape == (20, 20, 3)
    assert cropped.filter(smile=1).images().shape == (3, 20, 20, 3)
    # 60 x 50: the square begins at row 5
    wanted = (faces[0].landmarks["5pt"] - (0, 5)) * 20 / 50
    np.testing.assert_allclose(cropped[0].landmarks["5pt"], wanted, atol=1e-5)
    np.testing.assert_allclose(cropped.landmarks()[0], wanted, atol=1e-5)
    with pytest.raises(ValueRangeError, match="needs a crop"):
        MTFL(tree, size=20)
    with pytest.raises(ValueRangeError, match=r"\[4, 4096\]"):
        MTFL(tree, crop="square", size=1)


def test_training_takes_it(tree):
    faces = MTFL(tree, crop="square", size=16)
    assert faces.labels().shape == (6, 3)
    assert faces.label_schema.kind == "multi-hot"
    again = pickle.loads(pickle.dumps(faces))
    np.testing.assert_array_equal(again.images(), faces.images())


def test_a_zip_reads_the_same(tree, tmp_path):
    packed = tmp_path / "mtfl.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(tree.rglob("*.*")):
            archive.write(path, path.relative_to(tree))
    faces, first = MTFL(packed), MTFL(tree)
    np.testing.assert_array_equal(faces.landmarks(), first.landmarks())
    np.testing.assert_array_equal(faces[3].image, first[3].image)


POINTS = "8 22 15 10 20 12 12 20 28 28"
THIRD, FILE = "net_7876\\0001_0.jpg", "net_7876/0001_0.jpg"


@pytest.mark.parametrize(
    ("text", "file", "code", "reason"),
    [
        ("lfw_5590\\a.jpg 1 2 3\n", "training.txt", "form", "must have a path and 14 numbers; got 4 words"),
        ("1 2 3 4 5 1 2 3 4 5 1 1 1 3\n", "training.txt", "form", "got 14 words"),
        (line(THIRD, "8 22 x 10 20 12 12 20 28 28", "2 1 1 3"), FILE, "form", "'x' is not a number"),
        (line(THIRD, "8 22 nan 10 20 12 12 20 28 28", "2 1 1 3"), FILE, "not-finite", "not finite"),
        (line(THIRD, "8 22 1e39 10 20 12 12 20 28 28", "2 1 1 3"), FILE, "not-finite", "far too large"),
        (line(THIRD, POINTS, "0 1 1 3"), FILE, "range", "gender must be 1 male, 2 female; got 0"),
        (line(THIRD, POINTS, "1 3 1 3"), FILE, "range", "smile must be 1 smiling, 2 not; got 3"),
        (line(THIRD, POINTS, "1 1 1.5 3"), FILE, "range", "glasses must be 1 worn, 2 not; got 1.5"),
        (line(THIRD, POINTS, "1 1 1 6"), FILE, "range", "5 right profile; got 6"),
        (line("net_7876\\9.jpg", POINTS, "1 1 1 3"), "net_7876/9.jpg", "missing", "is not there"),
        (line("..\\a.jpg", POINTS, "1 1 1 3"), "../a.jpg", "outside", "outside of the dataset"),
        (line(TRAINING[1][0], POINTS, "1 1 1 3"), "lfw_5590/Aaron_Eckhart_0002.jpg", "twice", "txt line 2"),
    ],
)
def test_every_problem_has_file_line_and_reason(tree, text, file, code, reason):
    path = tree / "training.txt"
    lines = path.read_text().splitlines(keepends=True)
    lines[2] = text
    path.write_text("".join(lines))
    with pytest.raises(DataError, match=r"1 problem in .*training\.txt.*line 3"):
        MTFL(tree)
    faces = MTFL(tree, on_problem="skip")
    (problem,) = faces.problems
    assert (problem.file, problem.code, problem.line) == (file, code, 3)
    assert problem.source == ("" if file == "training.txt" else "training.txt")
    assert reason in problem.reason
    assert len(faces) == 5
    # what stays keeps its own labels
    assert faces.file_names()[2] == "net_7876/0002_0.jpg"
    assert faces.annotations["pose"].tolist() == [3, 2, 1, 5, 4]


def test_bad_pictures_and_files(tree):
    (tree / "net_7876/0001_0.jpg").write_bytes(b"")
    (tree / "AFLW/0001-image20056.jpg").write_text("words")
    faces = MTFL(tree, on_problem="skip")
    assert [(p.file, p.code) for p in faces.problems] == [
        ("net_7876/0001_0.jpg", "empty"),
        ("AFLW/0001-image20056.jpg", "not-image"),
    ]
    assert faces.annotations["pose"].tolist() == [3, 2, 1, 4]
    (tree / "training.txt").write_bytes(b"\xff\xff\n" + (tree / "training.txt").read_bytes())
    faces = MTFL(tree, "training", on_problem="skip")
    assert (len(faces), faces.problems.found[0].line, faces.problems.found[0].code) == (3, 1, "not-text")
    (tree / "training.txt").write_bytes(b"\xff\xff")
    (tree / "testing.txt").write_text(" \n")
    with pytest.raises(DataError, match=r"no picture that can be used.*not UTF-8 text.*has no lines"):
        MTFL(tree, on_problem="skip")
    with pytest.raises(DataError, match=r"no training\.txt or testing\.txt"):
        MTFL(tree / "lfw_5590")


def test_a_picture_in_both_parts_counts_once(tree):
    with (tree / "testing.txt").open("a") as file:
        file.write(line(TRAINING[0][0], *TRAINING[0][2:]))
    faces = MTFL(tree, on_problem="skip")
    assert [(p.code, p.source, p.line) for p in faces.problems] == [("twice", "testing.txt", 4)]
    assert len(faces) == 6
