"""VIS and NIR pictures are paired by their names, which say who is shown; what does not fit is listed."""

import json

import numpy as np
import pytest

from pyface.data import PairedSpectra
from pyface.errors import DataError, ValueRangeError
from pyface.io.images import write_image


def picture(i, channels=3):
    pixels = np.random.default_rng(i).integers(0, 256, (8, 8, channels), dtype=np.uint8)
    return pixels if channels == 3 else pixels[..., 0]


def write(folder, *names):
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(folder / name, picture(i, 3 if name.startswith("VIS") else 1))


def test_pairs_and_people(tmp_path):
    # written in another order than that of the names; NIR has more digits in no name and another suffix
    write(tmp_path, "NIR/12_003.png", "VIS/7_001.png", "VIS/12_001.png", "NIR/7_001.jpg", "VIS/12_003.png",
          "NIR/12_001.png")  # fmt: skip
    data = PairedSpectra(tmp_path)
    assert data.file_names("vis") == ["VIS/12_001.png", "VIS/12_003.png", "VIS/7_001.png"]
    assert data.file_names("nir") == ["NIR/12_001.png", "NIR/12_003.png", "NIR/7_001.jpg"]
    assert data.annotations["identity"].tolist() == [12, 12, 7]
    assert data.annotations["sample"].tolist() == [1, 3, 1]
    assert (data[0].identity, data[2].identity) == (12, 7)
    np.testing.assert_array_equal(data[1].image, picture(4))
    np.testing.assert_array_equal(data[1].nir, picture(0, 1))
    assert data.identity_names == ()
    assert len(data.filter(identity=12)) == 2
    assert {len(part) for part in data.split((0.5, 0.5))} == {1, 2}


def test_everything_wrong_is_listed(tmp_path):
    write(tmp_path, "VIS/1_1.png", "NIR/1_1.png", "VIS/2_1.png", "NIR/3_1.png", "VIS/portrait.png",
          "NIR/portrait.png", "VIS/1_1.webp")  # fmt: skip
    with pytest.raises(DataError) as caught:
        PairedSpectra(tmp_path)
    for told in (
        "VIS/2_1.png: NIR/2_1.png is not there",
        "NIR/3_1.png: VIS/3_1.png is not there",
        "VIS/portrait.png: its name is not {identity}_{sample}",
        "NIR/portrait.png: its name is not {identity}_{sample}",
        "VIS/1_1.webp: is the same sample as VIS/1_1.png",
    ):
        assert told in str(caught.value)
    data = PairedSpectra(tmp_path, on_problem="skip")
    assert data.file_names("vis") == ["VIS/1_1.png"]
    assert {p.code for p in data.problems} == {"no-partner", "name", "same-sample"}


def test_other_names(tmp_path):
    write(tmp_path, "VIS/anna/v_1.png", "NIR/anna/n_1.png", "VIS/bo_b/v_x.png", "NIR/bo_b/n_x.png")
    data = PairedSpectra(tmp_path, pattern={"vis": "{identity}/v_{sample}", "nir": "{identity}/n_{sample}"})
    assert data.identity_names == ("anna", "bo_b")
    assert data.annotations["identity"].tolist() == [0, 1]
    assert data.annotations["sample"].tolist() == ["1", "x"]
    assert data.file_names("nir") == ["NIR/anna/n_1.png", "NIR/bo_b/n_x.png"]
    with pytest.raises(ValueRangeError, match=r"\{identity\}"):
        PairedSpectra(tmp_path, pattern="{person}_{sample}")
    with pytest.raises(ValueRangeError, match="vis"):
        PairedSpectra(tmp_path, pattern={"vis": "{identity}"})


def test_one_spectrum_is_not_enough(tmp_path):
    write(tmp_path, "VIS/1_1.png")
    with pytest.raises(DataError, match="has the spectra vis"):
        PairedSpectra(tmp_path)


def test_labels_must_agree_with_names(tmp_path):
    write(tmp_path, "VIS/1_1.png", "NIR/1_1.png", "VIS/2_1.png", "NIR/2_1.png")
    lines = [{"file": "VIS/1_1.png", "identity": 1}, {"file": "VIS/2_1.png", "identity": 5}]
    (tmp_path / "labels.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(DataError, match=r"VIS/2_1\.png: is person 2 by its name, 5 in labels\.jsonl"):
        PairedSpectra(tmp_path)
    data = PairedSpectra(tmp_path, on_problem="skip")
    assert data.annotations["identity"].tolist() == [1]
