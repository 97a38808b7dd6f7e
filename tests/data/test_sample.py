"""Filtering, splitting, labels and batches of a face dataset."""

import numpy as np
import pytest
import torch

from pyface.data import FaceDataset, Sample, collate
from pyface.errors import DataError, ValueRangeError


class Numbers(FaceDataset):
    """Twelve people, person k with k + 1 pictures; the picture says its index."""

    spectra = ("vis",)
    image_shape = (2, 2, 3)
    label_names = ("smile",)

    def __init__(self):
        self.identity = np.repeat(np.arange(12), np.arange(1, 13))
        n = len(self.identity)
        self.table = {
            "identity": self.identity,
            "smile": np.linspace(0, 1, n).astype(np.float32),
            "Male": self.identity % 2 == 0,
            "emotion": np.where(np.arange(n) % 3 == 0, "happy", "sad"),
        }

    @property
    def annotations(self):
        return self.table

    def __len__(self):
        return len(self.identity)

    def __getitems__(self, indices):
        return [
            Sample(
                image=np.full((2, 2, 3), i, np.uint8),
                identity=int(self.identity[i]),
                landmarks={"5pt": np.ones((5, 2))},
            )
            for i in indices
        ]

    def images(self, indices=None, spectrum="vis"):
        self._checked_spectrum(spectrum)
        return np.stack([np.full((2, 2, 3), i, np.uint8) for i in self._checked_indices(indices)])


faces = Numbers()


def test_items_and_bad_indices():
    assert faces[3].image[0, 0, 0] == 3
    assert faces[-1].image[0, 0, 0] == len(faces) - 1
    with pytest.raises(IndexError, match="out of range"):
        faces[len(faces)]
    with pytest.raises(IndexError):
        faces.images([len(faces)])


def test_filter_by_value_range_set_and_function():
    chosen = faces.filter(Male=True, smile=(0.2, 0.8), identity=range(11), emotion="happy")
    table = chosen.annotations
    assert len(chosen) > 0
    assert table["Male"].all()
    assert (table["smile"] >= 0.2).all()
    assert (table["smile"] <= 0.8).all()
    assert set(table["identity"]) <= {0, 2, 4, 6, 8, 10}
    assert set(table["emotion"]) == {"happy"}
    assert [s.identity for s in chosen] == table["identity"].tolist()
    np.testing.assert_array_equal(
        chosen.images()[:, 0, 0, 0], [chosen[i].image[0, 0, 0] for i in range(len(chosen))]
    )
    assert len(faces.filter(identity=lambda i: i > 10)) == 12
    assert len(faces.filter(identity={1, 2}).filter(identity=[2])) == 3
    with pytest.raises(ValueRangeError, match=r"no column 'Smile'; there are Male"):
        faces.filter(Smile=1)


@pytest.mark.parametrize("fractions", [(0.8, 0.1, 0.1), (0.5, 0.5), (1.0,), (0.3, 0.2)])
def test_split_shares_no_identity(fractions):
    parts = faces.split(fractions, seed=3)
    people = [set(part.annotations["identity"].tolist()) for part in parts]
    for i in range(len(people)):
        assert people[i]
        assert all(not people[i] & people[j] for j in range(i))
    for part, fraction in zip(parts, fractions, strict=True):
        assert abs(len(part) / len(faces) - fraction) < 0.16
    if sum(fractions) == 1:
        assert sum(map(len, parts)) == len(faces)
    again = faces.split(fractions, seed=3)
    assert [p.indices.tolist() for p in parts] == [p.indices.tolist() for p in again]


def test_split_depends_on_the_seed_and_refuses_nonsense():
    a, b = (faces.split((0.5, 0.5), seed=s)[0].indices.tolist() for s in (0, 1))
    assert a != b
    for bad in ((), (0.5, 0.6), (0.5, -0.1), [1 / 13] * 13):
        with pytest.raises(ValueRangeError):
            faces.split(bad)


def test_labels():
    assert faces.labels().shape == (len(faces), 1)
    labels = faces.labels(["Male", "emotion=happy", "smile"])
    assert labels.dtype == np.float32
    np.testing.assert_array_equal(labels[:, 0], faces.table["Male"])
    np.testing.assert_array_equal(labels[:, 1], faces.table["emotion"] == "happy")
    assert faces.labels([]).shape == (len(faces), 0)
    with pytest.raises(ValueRangeError, match="emotion=happy"):
        faces.labels(["emotion"])
    with pytest.raises(ValueRangeError, match="no column"):
        faces.labels(["none"])


def test_collate():
    batch = collate([faces[i] for i in (1, 5)])
    assert batch["image"].shape == (2, 3, 2, 2)
    assert batch["identity"].tolist() == [1, 2]
    assert batch["landmarks"]["5pt"].shape == (2, 5, 2)
    assert "nir" not in batch
    assert batch["samples"][0].image is None
    with pytest.raises(DataError, match="size"):
        collate([faces[0], Sample(image=np.zeros((3, 3, 3), np.uint8))])
    loader = torch.utils.data.DataLoader(faces, batch_size=5, collate_fn=collate)
    assert sum(len(b["identity"]) for b in loader) == len(faces)


def test_folds_share_nobody_and_cover_everything():
    folds = faces.folds(4, seed=1)
    assert len(folds) == 4
    seen = []
    for training, test in folds:
        people = [set(part.annotations["identity"].tolist()) for part in (training, test)]
        assert not people[0] & people[1]
        assert len(training) + len(test) == len(faces)
        assert sorted([*training.indices, *test.indices]) == list(range(len(faces)))
        assert abs(len(test) - len(faces) / 4) <= 12  # whole people; the largest has 12 pictures
        seen += test.indices.tolist()
    assert sorted(seen) == list(range(len(faces)))
    again = faces.folds(4, seed=1)
    assert [test.indices.tolist() for _, test in again] == [test.indices.tolist() for _, test in folds]
    assert [test.indices.tolist() for _, test in faces.folds(4, seed=2)] != [
        t.indices.tolist() for _, t in folds
    ]


def test_as_many_folds_as_people_leave_one_out():
    for _, test in faces.folds(12):
        assert len(set(test.annotations["identity"])) == 1
    for k in (0, 1, 13):
        with pytest.raises(ValueRangeError, match=r"\[2, 12\]"):
            faces.folds(k)


def test_folds_of_a_subset_are_of_the_subset():
    part = faces.filter(identity=range(3, 9))
    for training, test in part.folds(3):
        assert set(training.annotations["identity"]) | set(test.annotations["identity"]) == set(range(3, 9))
        assert test.image_shape == (2, 2, 3)


def test_balance_counts_pictures_and_people():
    balance = faces.balance()
    assert "identity" not in balance
    no, yes = balance["Male"]
    assert (no.value, yes.value) == (False, True)
    assert yes.count == faces.table["Male"].sum()
    assert yes.share == pytest.approx(yes.count / len(faces))
    assert (yes.people, yes.people_share) == (6, 0.5)
    assert [share.value for share in balance["emotion"]] == ["happy", "sad"]
    bins = balance["smile"]
    assert len(bins) == 5
    assert sum(share.count for share in bins) == len(faces)
    assert bins[0].value == (0.0, 0.2)
    assert faces.filter(smile=lambda v: (v >= 0.2) & (v < 0.4)).annotations["smile"].size == bins[1].count
    with pytest.raises(ValueRangeError, match="no column 'Smile'"):
        faces.balance(["Smile"])


def test_balance_of_what_is_not_known_and_of_one_picture():
    one = Numbers()
    one.table = one.table | {
        "AU12": np.where(np.arange(78) < 10, np.nan, 0.2).astype(np.float32),
        "emotion": np.where(np.arange(78) < 3, "", "happy"),
    }
    unit = one.balance(["AU12"])["AU12"]
    assert [(share.value, share.count) for share in unit] == [(0.2, 68), (None, 10)]
    emotion = one.balance(["emotion"])["emotion"]
    assert [(share.value, share.count, share.people) for share in emotion] == [
        ("happy", 75, 10),
        (None, 3, 2),
    ]
    with pytest.raises(ValueRangeError, match=r"AU12.*not known of 10 of 78"):
        one.labels(["AU12"])
    assert one.filter(AU12=(0, 1)).labels(["AU12"]).shape == (68, 1)
    assert len(one.filter(AU12=(0, 1)).filter(identity=11).balance()["Male"]) == 2
