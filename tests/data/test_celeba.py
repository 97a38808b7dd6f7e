"""CelebA in its three layouts, written by hand with the oddities of the published files; what is refused."""

import time
import zipfile

import numpy as np
import pytest

from pyface.data import CelebA
from pyface.data.celeba_tables import CELEBA_ATTRIBUTES, COLUMNS, read_table
from pyface.data.problems import Problems
from pyface.errors import DataError, ValueRangeError
from pyface.io.images import write_image

RNG = np.random.default_rng(5)
COUNT = 8
HOLDS = RNG.choice([-1, 1], (COUNT, 40))
POINTS = np.array([69, 109, 106, 113, 77, 142, 73, 152, 108, 154]) + RNG.integers(-3, 4, (COUNT, 10))
BOXES = np.array([95, 71, 226, 313]) + RNG.integers(0, 9, (COUNT, 4))
PEOPLE = np.array([2880, 2937, 2880, 7, 7, 9_999, 12, 2880])
PARTS = np.array([0, 0, 1, 2, 2, 0, 1, 0])
VALUES = {
    "list_attr_celeba": HOLDS,
    "list_landmarks_align_celeba": POINTS,
    "list_bbox_celeba": BOXES,
    "identity_CelebA": PEOPLE[:, None],
    "list_eval_partition": PARTS[:, None],
}
NAMES = [f"{i + 1:06d}.jpg" for i in range(COUNT)]
PICTURES = RNG.integers(0, 256, (COUNT, 218, 178, 3), dtype=np.uint8)


def rows(kind, names=NAMES, blanks=" "):
    """Rows with blanks that vary, as those of list_attr_celeba.txt do."""
    table = zip(names, VALUES[kind].tolist(), strict=True)
    return [blanks.join((name, *(f"{v:2d}" for v in row))) for name, row in table]


def text(kind, count=COUNT):
    head = [] if kind in ("identity_CelebA", "list_eval_partition") else [str(count), " ".join(COLUMNS[kind])]
    if kind == "list_bbox_celeba":
        head[1] = "image_id " + head[1]
    return "\n".join([*head, *rows(kind)]) + "\n"


def csv(kind):
    lines = [",".join(("image_id", *COLUMNS[kind]))]
    lines += [",".join((name, *map(str, r))) for name, r in zip(NAMES, VALUES[kind].tolist(), strict=True)]
    return "\r\n".join(lines)


def make(folder, layout, suffix="png"):
    place = {
        "flat": "img_align_celeba",
        "official": "Img/img_align_celeba_png",
        "kaggle": "img_align_celeba/img_align_celeba",
    }[layout]
    (folder / place).mkdir(parents=True)
    order = np.random.default_rng(1).permutation(
        COUNT
    )  # files appear in another order than that of their names
    for i in order:
        write_image(folder / place / f"{i + 1:06d}.{suffix}", PICTURES[i])
    for kind in VALUES:
        part = {"official": "Eval/" if kind == "list_eval_partition" else "Anno/"}.get(layout, "")
        (folder / part).mkdir(exist_ok=True)
        if layout != "kaggle":
            (folder / f"{part}{kind}.txt").write_text(text(kind))
        elif kind != "identity_CelebA":
            (folder / f"{kind}.csv").write_text(csv(kind))
    return folder


@pytest.fixture
def flat(tmp_path):
    return make(tmp_path / "flat", "flat")


def assert_exact(data, chosen, people=True):
    """The dataset is the rows `chosen` of the tables above, in this order, in every view of it."""
    assert [name.rpartition("/")[2] for name in data.file_names()] == [f"{i + 1:06d}.png" for i in chosen]
    table = data.annotations
    np.testing.assert_array_equal(np.stack([table[n] for n in CELEBA_ATTRIBUTES], 1), HOLDS[chosen] == 1)
    assert all(table[name].dtype == bool for name in CELEBA_ATTRIBUTES)
    np.testing.assert_array_equal(data.labels(), HOLDS[chosen] == 1)
    np.testing.assert_array_equal(data.landmarks("5pt"), POINTS[chosen].reshape(-1, 5, 2) + 0.5)
    np.testing.assert_array_equal(data.boxes.values, BOXES[chosen])
    assert data.boxes.frame == "original"
    assert table["partition"].tolist() == [("train", "valid", "test")[PARTS[i]] for i in chosen]
    if people:
        assert table["identity"].tolist() == PEOPLE[chosen].tolist()
    np.testing.assert_array_equal(data.images(), PICTURES[chosen])
    for i, row in enumerate(chosen):
        sample = data[i]
        np.testing.assert_array_equal(sample.image, PICTURES[row])
        np.testing.assert_array_equal(sample.landmarks["5pt"], POINTS[row].reshape(5, 2) + 0.5)
        assert sample.attributes == dict(zip(CELEBA_ATTRIBUTES, HOLDS[row] == 1, strict=True))
        assert sample.identity == (PEOPLE[row] if people else None)


@pytest.mark.parametrize("layout", ["flat", "official", "kaggle"])
def test_every_layout_is_read_exactly(tmp_path, layout):
    data = CelebA(make(tmp_path / "x", layout))
    assert_exact(data, list(range(COUNT)), people=layout != "kaggle")
    assert data.image_shape == (218, 178, 3)
    assert len(data.problems) == 0
    assert data.label_schema.kind == "multi-hot"
    assert ("identity" in data.annotations) == (layout != "kaggle")
    assert len(CELEBA_ATTRIBUTES) == 40
    assert {"Wearing_Necktie", "Young"} < set(CELEBA_ATTRIBUTES)  # a published list of 38 lacks them


def test_parts_people_and_filters(flat):
    for number, part in enumerate(("train", "valid", "test")):
        assert_exact(CelebA(flat, part), np.flatnonzero(number == PARTS).tolist())
    data = CelebA(flat)
    assert len(data.filter(identity=7)) == 2
    assert len(data.filter(Smiling=True)) == int((HOLDS[:, CELEBA_ATTRIBUTES.index("Smiling")] == 1).sum())
    first, second = data.split((0.5, 0.5))
    assert not set(first.annotations["identity"]) & set(second.annotations["identity"])
    with pytest.raises(ValueRangeError, match="split must be"):
        CelebA(flat, "training")
    (flat / "list_eval_partition.txt").unlink()
    with pytest.raises(DataError, match="has no list_eval_partition"):
        CelebA(flat, "train")
    assert len(CelebA(flat)) == COUNT


def test_attributes_alone_are_enough(flat):
    for kind in VALUES:
        if kind != "list_attr_celeba":
            (flat / f"{kind}.txt").unlink()
    data = CelebA(flat)
    np.testing.assert_array_equal(data.labels(), HOLDS == 1)
    assert (data.boxes, data[0].landmarks, data[0].identity) == (None, {}, None)
    with pytest.raises(DataError, match="has no list_landmarks_align_celeba"):
        CelebA(flat, crop="ffhq")
    (flat / "list_attr_celeba.txt").unlink()
    with pytest.raises(DataError, match=r"no table of CelebA .* ImageFolder"):
        CelebA(flat)


def test_rows_are_matched_by_name_not_by_position(flat):
    """Pictures and labels must not be joined by the order in which they are found (seed system 3, bug 1)."""
    order = np.random.default_rng(2).permutation(COUNT)
    for kind in VALUES:
        lines = text(kind).splitlines()
        head, body = lines[:-COUNT], lines[-COUNT:]
        (flat / f"{kind}.txt").write_text("\n".join([*head, *(body[i] for i in order)]) + "\n")
    assert_exact(CelebA(flat), list(range(COUNT)))


def test_blanks_byte_order_mark_and_column_order(flat):
    head = [str(COUNT), " ".join(CELEBA_ATTRIBUTES) + " "]
    body = ["  " + row.replace(" ", "\t  ") + "  \r" for row in rows("list_attr_celeba")]
    content = "\n".join([*head, "", *body, "", ""])
    (flat / "list_attr_celeba.txt").write_bytes(b"\xef\xbb\xbf" + content.encode())
    back = np.arange(40)[::-1]
    lines = [",".join(("image_id", *(CELEBA_ATTRIBUTES[i] for i in back)))]
    lines += [",".join([f'"{n}"', *map(str, r)]) for n, r in zip(NAMES, HOLDS[:, back].tolist(), strict=True)]
    assert_exact(CelebA(flat), list(range(COUNT)))
    (flat / "list_attr_celeba.txt").unlink()
    (flat / "list_attr_celeba.csv").write_text("\n".join(lines))
    assert_exact(CelebA(flat), list(range(COUNT)))
    (flat / "list_attr_celeba.txt").write_text(text("list_attr_celeba"))
    with pytest.raises(DataError, match=r"list_attr_celeba\.txt and list_attr_celeba\.csv; keep one"):
        CelebA(flat)


def replaced(path, line, to):
    lines = path.read_text().split("\n")
    lines[line - 1] = to
    path.write_text("\n".join(lines))


def test_every_problem_is_told_with_file_and_line(flat):
    attr, landmarks = flat / "list_attr_celeba.txt", flat / "list_landmarks_align_celeba.txt"
    replaced(attr, 1, "12")
    replaced(attr, 3, rows("list_attr_celeba")[0] + " 1")
    replaced(attr, 4, " ".join([NAMES[1], "0", *map(str, HOLDS[1, 1:])]))
    replaced(landmarks, 5, " ".join([NAMES[2], *map(str, POINTS[2, :4]), "nan", *map(str, POINTS[2, 5:])]))
    replaced(flat / "identity_CelebA.txt", 4, "")
    replaced(flat / "list_eval_partition.txt", 5, f"{NAMES[4]} 3")
    (flat / "img_align_celeba" / "000006.png").unlink()
    write_image(flat / "img_align_celeba" / "000009.png", PICTURES[0])
    with attr.open("a") as file:
        file.write(rows("list_attr_celeba")[5] + "\n")
    with pytest.raises(DataError) as caught:
        CelebA(flat)
    wanted = {
        "list_attr_celeba.txt line 1: says 12 rows and has 9",
        "list_attr_celeba.txt line 3: 000001.jpg has 42 cells; wanted are 41",
        "list_attr_celeba.txt line 4: 5_o_Clock_Shadow of 000002.jpg is '0'; it must be 1 or -1",
        "list_attr_celeba.txt line 11: 000006.jpg stands in line 8 too; that counts",
        "list_attr_celeba.txt line 8: 000006.jpg is not among the pictures",
        "list_landmarks_align_celeba.txt line 5: nose_x of 000003.jpg is 'nan'; it must be a whole number",
        "list_eval_partition.txt line 5: partition of 000005.jpg is '3'; it must be 0, 1 or 2",
        "img_align_celeba/000004.png: has no row in identity_CelebA.txt",
        *(f"img_align_celeba/000009.png: has no row in {kind}.txt" for kind in VALUES),
    }
    assert f"{len(wanted)} problems in {flat}: " in str(caught.value)
    data = CelebA(flat, on_problem="skip")
    assert {str(problem) for problem in data.problems} == wanted
    assert len(data.problems) == len(wanted)
    assert_exact(data, [6, 7])


def test_damaged_heads(flat):
    attr = flat / "list_attr_celeba.txt"
    replaced(attr, 2, " ".join(CELEBA_ATTRIBUTES[:38]))
    with pytest.raises(
        DataError, match=r"line 2: must name its 40 columns, names 38; lacks .*Necktie, Young"
    ):
        CelebA(flat)
    assert CelebA(flat, on_problem="skip").label_names == ()
    replaced(attr, 2, "")
    with pytest.raises(DataError, match="has no line with the names of its 40 columns"):
        CelebA(flat)
    replaced(attr, 2, " ".join((*CELEBA_ATTRIBUTES[:39], "Old")))
    with pytest.raises(DataError, match="lacks Young; has Old"):
        CelebA(flat)
    attr.write_bytes(b"")
    with pytest.raises(DataError, match="has no line with the names"):
        CelebA(flat)


def test_no_pictures(tmp_path, flat):
    with pytest.raises(DataError, match="no pictures in img_align_celeba"):
        CelebA(tmp_path / "flat" / "img_align_celeba")
    (flat / "img_align_celeba").rename(flat / "img_celeba")
    with pytest.raises(DataError, match="img_celeba has the photographs before alignment"):
        CelebA(flat)
    (flat / "img_align_celeba.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"unpack img_align_celeba\.zip"):
        CelebA(flat)


def test_pictures_of_another_size_or_damaged(flat):
    place = flat / "img_align_celeba"
    write_image(place / "000002.png", PICTURES[0][:100])
    (place / "000005.png").write_bytes((place / "000005.png").read_bytes()[:-60])
    data = CelebA(flat)  # no picture is read
    with pytest.raises(DataError, match=r"000002\.png.* is 178 x 100 .*are 178 x 218"):
        data[1]
    with pytest.raises(DataError, match=r"000005\.png"):
        data.images([4])
    with pytest.raises(DataError, match=r"2 problems .*is 178 x 100"):
        CelebA(flat, verify=True)
    assert_exact(CelebA(flat, verify=True, on_problem="skip"), [0, 2, 3, 5, 6, 7])
    write_image(place / "000003.png", PICTURES[2][..., 0])  # grey is repeated
    np.testing.assert_array_equal(CelebA(flat)[2].image, PICTURES[2][..., :1].repeat(3, axis=2))


def test_jpeg_beside_png(flat):
    write_image(flat / "img_align_celeba" / "000001.jpg", PICTURES[0])
    with pytest.raises(DataError, match=r"000001\.png: is the same picture as img_align_celeba/000001\.jpg"):
        CelebA(flat)
    assert CelebA(flat, on_problem="skip").file_names()[0] == "img_align_celeba/000001.jpg"


def test_centre_crops_move_the_points(flat):
    data = CelebA(flat, crop="centre178")
    np.testing.assert_array_equal(data.images(), PICTURES[:, 20:198])
    np.testing.assert_array_equal(data[3].landmarks["5pt"], POINTS[3].reshape(5, 2) + 0.5 - [0, 20])
    data = CelebA(flat, crop="centre178+15")
    np.testing.assert_array_equal(data.images(), PICTURES[:, 35:213])
    data = CelebA(flat, crop="centre128+12", size=64)
    assert data.images().shape == (COUNT, 64, 64, 3)
    wanted = (POINTS[0].reshape(5, 2) + 0.5 - [25, 57]) / 2
    np.testing.assert_allclose(data[0].landmarks["5pt"], wanted, atol=1e-4)
    assert CelebA(flat, crop="centre178").fingerprint() != data.fingerprint() != ""
    for crop in ("centre200", "centre178+21", "centre0"):
        with pytest.raises(ValueRangeError, match="within 178 x 218"):
            CelebA(flat, crop=crop)


@pytest.mark.parametrize(("crop", "eyes"), [("arcface112", 112), ("ffhq", 96)])
def test_crops_by_points(flat, crop, eyes):
    data = CelebA(flat, crop=crop, size=eyes)
    assert data.images([0, 1]).shape == (2, eyes, eyes, 3)
    points = data[0].landmarks["5pt"]
    assert (points > 0).all()
    assert (points < eyes).all()
    assert abs(points[0, 1] - points[1, 1]) < 0.12 * eyes  # the eyes are level


def test_boxes_are_never_applied_to_aligned_pictures(flat):
    data = CelebA(flat)
    np.testing.assert_array_equal(data.boxes.within("original"), BOXES)
    with pytest.raises(ValueRangeError, match="original photographs, not in the aligned"):
        data.boxes.within("aligned")
    with pytest.raises(ValueRangeError, match="never applied"):
        CelebA(flat, crop="bbox")


def test_from_a_zip(flat, tmp_path):
    with zipfile.ZipFile(tmp_path / "celeba.zip", "w") as archive:
        for path in sorted(flat.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(flat).as_posix())
    assert_exact(CelebA(tmp_path / "celeba.zip"), list(range(COUNT)))


def test_a_table_of_all_202_599_rows_is_read_fast():
    """Measured in processor time: others use the machine too."""
    count = 202_599
    holds = np.random.default_rng(0).choice([-1, 1], (997, 40))
    tails = [" ".join(f"{v:2d}" for v in row) for row in holds.tolist()]
    lines = [str(count), " ".join(CELEBA_ATTRIBUTES)]
    lines += [f"{i + 1:06d}.jpg {tails[i % 997]}" for i in range(count)]
    content = "\n".join(lines).encode()
    problems = Problems("x")
    begun = time.process_time()
    table = read_table("list_attr_celeba.txt", content, problems)
    assert time.process_time() - begun < 3.0
    assert len(problems) == 0
    assert table.names[-1] == "202599.jpg"
    np.testing.assert_array_equal(table.values, holds[np.arange(count) % 997])
    np.testing.assert_array_equal(table.lines, np.arange(count) + 3)
