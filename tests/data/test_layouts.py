"""Datasets opened by layout: recognised by their files, or named."""

from __future__ import annotations

import numpy as np
import pytest

from pyface.data import MTFL, CelebA, CKPlus, ImageFolder, PairedSpectra
from pyface.data.layouts import LAYOUTS, layout_of, open_dataset, open_named, parse_named
from pyface.data.writing_celeba import write_celeba
from pyface.data.writing_ckplus import write_ckplus
from pyface.data.writing_mtfl import write_mtfl
from pyface.data.writing_spectra import write_spectra
from pyface.errors import DataError, ValueRangeError
from pyface.io.images import write_image


def put(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".png":
            write_image(path, np.zeros((8, 8, 3), np.uint8), sync=False)
        else:
            path.write_text("")
    return root


def test_layouts_are_recognised(tmp_path):
    assert layout_of(put(tmp_path / "a", "1.png", "2.png")) == "folder"
    assert layout_of(put(tmp_path / "b", "VIS/1_1.png", "NIR/1_1.png")) == "spectra"
    assert layout_of(put(tmp_path / "b", "VIS/index.txt")) == "spectra"  # what is no picture says nothing
    assert layout_of(put(tmp_path / "c", "VIS/1_1.png", "NIR/1_1.png", "labels.jsonl")) == "folder"
    assert layout_of(put(tmp_path / "d", "VIS/1.png", "NIR/1.png")) == "folder"
    assert layout_of(put(tmp_path / "e", "training.txt", "AFLW/1.png")) == "folder"  # no such lines in it
    (tmp_path / "e" / "training.txt").write_text(" AFLW\\1.png 1 2 3 4 5 1 2 3 4 5 1 1 2 3\n")
    assert layout_of(tmp_path / "e") == "mtfl"
    assert layout_of(put(tmp_path / "f", "Anno/list_attr_celeba.txt", "img_align_celeba/1.png")) == "celeba"
    assert layout_of(put(tmp_path / "g", "x/cohn-kanade-images/S005/001/S005_001_00000001.png")) == "ckplus"
    assert set(LAYOUTS) == {"folder", "spectra", "ckplus", "celeba", "mtfl"}


def test_datasets_are_opened(tmp_path):
    faces = open_dataset(write_ckplus(tmp_path / "ck", identities=1, size=16, frames=2), frames="all")
    assert isinstance(faces, CKPlus)
    assert len(faces) == 4
    assert isinstance(open_dataset(write_mtfl(tmp_path / "m", identities=1, size=16)), MTFL)
    both = put(tmp_path / "both", "VIS/1_1.png", "NIR/1_1.png")
    assert isinstance(open_dataset(both), PairedSpectra)
    assert type(open_dataset(both, "folder")) is ImageFolder
    one = open_named(f"folder:spectra=nir,cache=yes:{both}")
    assert (one.spectra, len(one)) == (("nir",), 1)
    with pytest.raises(ValueRangeError, match=r"CKPlus has no option 'frame'; it has frames, action_units"):
        open_dataset(tmp_path / "ck", frame="all")
    with pytest.raises(ValueRangeError, match="layout must be one of folder, spectra"):
        open_dataset(both, "zip")
    with pytest.raises(DataError, match="does not exist"):
        open_dataset(tmp_path / "nowhere")


def test_files_of_two_layouts_are_refused_until_one_is_named(tmp_path):
    both = write_mtfl(tmp_path / "both", identities=2, size=16)
    (both / "list_attr_celeba.txt").write_text("")
    with pytest.raises(DataError, match=r"more than one layout: celeba, mtfl\. .* mtfl:.*both"):
        layout_of(both)
    with pytest.raises(DataError, match="more than one layout"):
        open_dataset(both)
    assert isinstance(open_dataset(both, "mtfl"), MTFL)
    assert isinstance(open_named(f"mtfl:{both}"), MTFL)
    labelled = write_mtfl(tmp_path / "labelled", identities=2, size=16)
    (labelled / "dataset.json").write_text("{}")
    with pytest.raises(DataError, match="more than one layout: folder, mtfl"):
        layout_of(labelled)


def test_written_trees_are_recognised(tmp_path):
    for layout in ("flat", "official", "kaggle"):
        tree = write_celeba(tmp_path / layout, identities=1, samples=2, layout=layout)
        assert isinstance(open_named(str(tree)), CelebA)
    assert layout_of(write_spectra(tmp_path / "s", identities=1, samples=2, size=16)) == "folder"


@pytest.mark.parametrize(
    ("text", "layout", "options", "path"),
    [
        ("/data/x", None, {}, "/data/x"),
        ("celeba:/data/x", "celeba", {}, "/data/x"),
        (
            "celeba:crop=centre178+15,size=64:C:/x=y",
            "celeba",
            {"crop": "centre178+15", "size": "64"},
            "C:/x=y",
        ),
        ("ckplus:frames=last:3,crop=face:x", "ckplus", {"frames": "last:3", "crop": "face"}, "x"),
        ("other:/data/x", None, {}, "other:/data/x"),
        ("celeba:a=b", "celeba", {}, "a=b"),
    ],
)
def test_named_sources(text, layout, options, path):
    assert parse_named(text) == (layout, options, path)
