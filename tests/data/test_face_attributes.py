"""Attributes and conditions follow their rules."""

import numpy as np
import pytest

from pyface.data import ATTRIBUTES, CONDITIONS, draw_faces
from pyface.data.face_attributes import attribute_table, condition_table

# CelebA's forty, list_attr_celeba.txt
CELEBA = {
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs",
    "Big_Lips", "Big_Nose", "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows",
    "Chubby", "Double_Chin", "Eyeglasses", "Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones",
    "Male", "Mouth_Slightly_Open", "Mustache", "Narrow_Eyes", "No_Beard", "Oval_Face", "Pale_Skin",
    "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks", "Sideburns", "Smiling", "Straight_Hair",
    "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick", "Wearing_Necklace",
    "Wearing_Necktie", "Young",
}  # fmt: skip


@pytest.fixture(scope="module")
def columns():
    return draw_faces(2, np.arange(6000), 1).columns


def test_names_are_celebas_and_every_attribute_occurs(columns):
    table = attribute_table(columns)
    assert set(table) == set(ATTRIBUTES)
    assert set(table) <= CELEBA
    for name, values in table.items():
        assert values.dtype == bool
        assert 0.01 < values.mean() < 0.95, name


def test_exclusions(columns):
    t = attribute_table(columns)
    colours = sum(t[name].astype(int) for name in ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair"))
    assert colours.max() == 1
    assert not (t["Bald"] & (colours > 0)).any()
    assert not (t["Bald"] & t["Bangs"]).any()
    assert not (t["Straight_Hair"] & t["Wavy_Hair"]).any()
    assert not (t["Goatee"] & t["No_Beard"]).any()
    assert not (~t["Male"] & (t["Mustache"] | t["Goatee"] | ~t["No_Beard"])).any()
    np.testing.assert_array_equal(t["Eyeglasses"], columns["glasses"] > 0.5)


def test_conditions_lie_in_range_and_agree_with_attributes(columns):
    c, t = condition_table(columns), attribute_table(columns)
    assert tuple(c) == CONDITIONS
    for name, values in c.items():
        assert values.dtype == np.float32
        assert values.min() >= 0, name
        assert values.max() <= 1, name
        assert values.std() > 0.1, name
    np.testing.assert_array_equal(c["glasses"] == 1, t["Eyeglasses"])
    np.testing.assert_array_equal(c["male"] == 1, t["Male"])
    assert c["smile"][t["Smiling"]].min() > 0.4
    assert c["smile"][~t["Smiling"]].max() < 0.5
    assert c["mouth_open"][~t["Mouth_Slightly_Open"]].max() <= 0.26
    assert c["beard"][t["No_Beard"] & ~t["Mustache"]].max() < 0.2
    assert c["beard"][columns["beard"] > 0].min() >= 0.4
