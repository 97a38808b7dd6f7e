"""Drawn faces: addressed, inside the limits, with the correlations that are promised."""

import numpy as np
import pytest

from pyface.data import ACTION_UNITS, EMOTIONS, draw_faces, face_parameters_for
from pyface.data.emotions import EMOTION_SHARES, PROTOTYPES, prototype_table
from pyface.data.face_distribution import draw_identities
from pyface.errors import ValueRangeError
from pyface.ops.face_render import face_parameters

N = 4000


@pytest.fixture(scope="module")
def drawn():
    return draw_faces(11, np.arange(N), 0)


def test_independent_of_batch_and_order():
    people, pictures = np.repeat(np.arange(6), 3), np.tile(np.arange(3), 6)
    whole = face_parameters_for(5, people, pictures)
    order = np.random.default_rng(0).permutation(18)
    np.testing.assert_array_equal(whole[order], face_parameters_for(5, people[order], pictures[order]))
    alone = np.concatenate(
        [face_parameters_for(5, int(i), int(s)) for i, s in zip(people, pictures, strict=True)]
    )
    np.testing.assert_array_equal(whole, alone)
    assert not np.array_equal(whole, face_parameters_for(6, people, pictures))


def test_identity_stays_and_picture_changes():
    p = draw_faces(5, 3, np.arange(20)).columns
    for name in (
        "head_width",
        "nose_length",
        "melanin",
        "hair_tone",
        "hair_length",
        "beard",
        "age",
        "sex",
        "texture_seed",
    ):
        assert len(set(p[name].tolist())) == 1, name
    for name in ("yaw", "key_azimuth", "background_r", "clothes_r", "gaze_x", "exposure"):
        assert len(set(p[name].tolist())) > 4, name


def test_every_parameter_is_drawn_inside_its_limits(drawn):
    for name, values in drawn.columns.items():
        parameter = next(p for p in face_parameters() if p.name == name)
        assert np.isfinite(values).all()
        assert values.min() >= np.float32(parameter.low), name
        assert values.max() <= np.float32(parameter.high), name
        assert values.std() > 0, name


def test_identities_are_spread_wide(drawn):
    shape = draw_identities(11, np.arange(200))
    names = [p.name for p in face_parameters() if p.low == -1 and p.high == 1 and p.name in shape]
    assert len(names) >= 25
    table = np.stack([shape[name] for name in names if name not in ("hair_part", "glasses_size")], axis=1)
    assert (table.std(axis=0) > 0.35).all()
    distance = np.linalg.norm(table[:, None] - table[None], axis=2)[np.triu_indices(200, 1)]
    assert distance.min() > 1.0


def test_correlations(drawn):
    p = drawn.columns
    male = p["sex"] > 0.5
    assert 0.45 < male.mean() < 0.55
    for name in ("beard", "moustache", "goatee", "stubble", "baldness"):
        assert p[name][~male].max() == 0, name
        assert p[name][male].max() > 0.4, name
    assert p["lipstick"][male].max() == 0
    assert p["hair_length"][~male].mean() > p["hair_length"][male].mean() + 0.2
    assert p["brow_thickness"][male].mean() > p["brow_thickness"][~male].mean() + 0.2
    assert p["jaw_width"][male].mean() > p["jaw_width"][~male].mean() + 0.1
    young, old = p["age"] < 0.25, p["age"] > 0.75
    assert p["hair_grey"][young].max() == 0
    assert p["hair_grey"][old].mean() > 0.4
    dark, fair = p["melanin"] > 0.6, p["melanin"] < 0.2
    assert p["hair_tone"][dark].max() < 0.25
    assert p["hair_tone"][fair].max() > 0.7
    assert p["iris_tone"][dark].max() < 0.4
    assert p["iris_tone"][fair].max() > 0.8


def test_one_style_of_beard(drawn):
    p = drawn.columns
    assert not ((p["beard"] > 0) & (p["goatee"] > 0)).any()
    assert (p["moustache"][p["beard"] > 0] > 0).all()


def test_emotions_have_their_prototypes(drawn):
    p = drawn.columns
    share = np.bincount(drawn.emotions, minlength=len(EMOTIONS)) / N
    np.testing.assert_allclose(share, [EMOTION_SHARES[e] for e in EMOTIONS], atol=0.03)
    assert prototype_table().shape == (len(EMOTIONS), len(ACTION_UNITS))
    for k, emotion in enumerate(EMOTIONS):
        chosen = drawn.emotions == k
        for unit, strength in PROTOTYPES[emotion].items():
            if unit not in (5, 25) and strength >= 0.5:
                assert p[f"au{unit}"][chosen].min() > 0.3 * strength, (emotion, unit)
    happy = drawn.emotions == EMOTIONS.index("happy")
    assert p["au12"][happy].min() >= 0.3
    assert p["au12"][~happy].max() < 0.3
    open_jaw = p["au26"] > 0.1
    assert (p["au25"][open_jaw] >= p["au26"][open_jaw]).all()


def test_overrides():
    changed = draw_faces(
        5, np.arange(50), 0, {"yaw": 0.0, "emotion": "sad", "melanin": (0.2, 0.4), "glasses": 1}
    )
    p = changed.columns
    assert not p["yaw"].any()
    assert (p["glasses"] == 1).all()
    assert p["melanin"].min() >= np.float32(0.2)
    assert p["melanin"].max() <= np.float32(0.4)
    assert p["melanin"].std() > 0.01
    assert set(changed.emotions.tolist()) == {EMOTIONS.index("sad")}
    plain = draw_faces(5, np.arange(50), 0).columns
    np.testing.assert_array_equal(p["nose_width"], plain["nose_width"])


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"nose": 1.0}, "no face parameter 'nose'"),
        ({"yaw": 9.0}, "yaw must be"),
        ({"age": (0.0, 2.0)}, "age must be"),
        ({"emotion": "bored"}, "emotion must be one of"),
        ({"age": "old"}, "age must be"),
        ({"age": float("nan")}, "age"),
    ],
)
def test_bad_overrides_are_refused(bad, words):
    with pytest.raises(ValueRangeError, match=words):
        draw_faces(0, 0, 0, bad)
