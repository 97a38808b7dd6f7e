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
