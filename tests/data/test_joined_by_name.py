"""What two published systems got wrong when they read faces, held for every loader.

Pictures taken in the order of a listing and labels in that of a file, so that they did not belong together;
rows that a second run appended; pictures as BGR; numbers of 0 to 255 given to a network that makes -1 to 1.
"""

import os

import numpy as np
import pytest
import torch

from pyface.data import MTFL, CelebA, CKPlus, ImageFolder, PairedSpectra
from pyface.data.writing_celeba import write_celeba
from pyface.data.writing_ckplus import write_ckplus
from pyface.data.writing_mtfl import write_mtfl
from pyface.data.writing_spectra import write_spectra
from pyface.io.images import to_uint8, write_image
from pyface.training.feed import Feed
from pyface.training.source import from_dataset

OPENED = {
    "celeba": lambda root: CelebA(root, crop="centre178", size=48),
    "ckplus": lambda root: CKPlus(root, frames="all"),
    "folder": ImageFolder,
    "mtfl": lambda root: MTFL(root, crop="square", size=48),
    "spectra": PairedSpectra,
}


def write_again(root):
    """Every tree; what is there already stays as it is."""
    write_celeba(root / "celeba", identities=4, samples=2, seed=3, pictures="png")
    write_ckplus(root / "ckplus", identities=2, sequences=2, frames=3, size=48)
    write_mtfl(root / "mtfl", identities=4, samples=2, size=48)
    write_spectra(root / "spectra", identities=3, samples=2, size=48)
    write_spectra(root / "folder", identities=3, samples=2, size=48)


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    root = tmp_path_factory.mktemp("trees")
    write_again(root)
    return root


def listed_otherwise(monkeypatch, seed):
    """Make folders list their files in another order, as file systems do."""
    walk, scan, rng = os.walk, os.listdir, np.random.default_rng(seed)

    def shuffled(*arguments, **options):
        for folder, folders, files in walk(*arguments, **options):
            rng.shuffle(folders)
            rng.shuffle(files)
            yield folder, folders, files

    monkeypatch.setattr(os, "walk", shuffled)
    monkeypatch.setattr(os, "listdir", lambda *a: sorted(scan(*a), key=lambda _: rng.random()))


def everything(data):
    """Pictures, labels and points of a dataset, by column and by sample."""
    columns = {name: np.asarray(values) for name, values in data.annotations.items()}
    samples = [(s.path, s.identity, s.attributes, s.action_units, s.emotion) for s in data]
    points = [{k: v.tolist() for k, v in s.landmarks.items()} for s in data]
    return columns, repr(samples), points, data.images(), [s.image for s in data]


@pytest.mark.parametrize("kind", sorted(OPENED))
def test_the_order_of_a_listing_changes_nothing(trees, kind, monkeypatch):
    first = everything(OPENED[kind](trees / kind))
    for seed in range(2):
        with monkeypatch.context() as patch:
            listed_otherwise(patch, seed)
            again = everything(OPENED[kind](trees / kind))
        assert again[1:3] == first[1:3]
        np.testing.assert_array_equal(again[3], first[3])
        np.testing.assert_array_equal(again[3], np.stack(again[4]))  # picture i is sample i's
        for name, values in first[0].items():
            np.testing.assert_array_equal(again[0][name], values)


@pytest.mark.parametrize("kind", sorted(OPENED))
def test_columns_and_samples_say_the_same(trees, kind):
    data = OPENED[kind](trees / kind)
    table = data.annotations
    for i, sample in enumerate(data):
        if "identity" in table:
            assert sample.identity == table["identity"][i]
        for name, holds in sample.attributes.items():
            assert holds == bool(table[name][i])
        for name, intensity in sample.action_units.items():
            np.testing.assert_allclose(table[name][i], intensity)


def test_a_second_run_appends_nothing(trees):
    before = {path: path.read_bytes() for path in sorted(trees.rglob("*")) if path.is_file()}
    write_again(trees)
    after = {path: path.read_bytes() for path in sorted(trees.rglob("*")) if path.is_file()}
    assert after == before


def test_red_is_the_first_channel(tmp_path):
    red = np.zeros((218, 178, 3), np.uint8)
    red[..., 0] = 200
    (tmp_path / "img_align_celeba").mkdir()
    for name in ("000001.jpg", "000002.png"):
        write_image(tmp_path / "img_align_celeba" / name, red)
    (tmp_path / "identity_CelebA.txt").write_text("000001.jpg 1\n000002.jpg 2\n")
    for data in (CelebA(tmp_path), ImageFolder(tmp_path / "img_align_celeba")):
        assert np.abs(data.images().astype(int) - red).max() <= 2


def test_networks_are_given_minus_one_to_one_with_the_labels_of_the_same_pictures(trees):
    faces = CelebA(trees / "celeba", crop="centre128")
    feed = Feed(from_dataset(faces, "celeba", conditions=("Male", "Young")), len(faces))
    images, labels = feed.next()[0]
    assert images.dtype == torch.float32
    assert -1 <= images.min() < -0.5 < 0.5 < images.max() <= 1
    pixels, table = faces.images(), faces.labels(("Male", "Young"))
    for image, label in zip(to_uint8(images), labels.numpy(), strict=True):
        same = [i for i in range(len(faces)) if np.array_equal(pixels[i], image)]
        assert len(same) == 1
        np.testing.assert_array_equal(label, table[same[0]])
