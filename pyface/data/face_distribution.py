"""Who is drawn, and how: the random distribution of renderer parameters.

What belongs to a person (shape, skin, hair, beard, glasses owned) depends on (seed, identity) alone; what
belongs to a picture (expression, gaze, pose, light, background, clothes) on (seed, identity, sample). Both
come from `pyface.io.rng`, so any picture can be drawn alone. Features that go together in people go together
here: a beard needs a face drawn as male, grey and receding hair come with age, light hair and eyes with light
    skin.

Shape parameters run from -1 to 1, their natural limits. They are spread wide (about 0.5 standard deviations)
so that different people can be told apart; a soft limit keeps the tails inside.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from pyface.data.emotions import ACTION_UNITS, EMOTION_SHARES, EMOTIONS, prototype_table
from pyface.io.rng import Domain, uniforms

__all__ = ["DISTRIBUTION_VERSION", "draw_identities", "draw_samples"]

# part of every recipe: raise it when a change below makes other pictures of the same seed
DISTRIBUTION_VERSION = 2

Column = npt.NDArray[np.float64]
Columns = dict[str, Column]

# hues of walls, landscapes and cloth: a tenth each of greens and purples, and those are never loud
_HUE_RANKS = np.array([0.0, 0.10, 0.40, 0.50, 0.60, 0.90, 1.0])
_HUES = np.array([-0.02, 0.03, 0.12, 0.22, 0.48, 0.64, 0.96])
_HUE_VIVIDNESS = np.array([0.8, 1.0, 1.0, 0.75, 0.75, 1.0, 0.5])

_IDENTITY_DRAWS = 160
_SAMPLE_DRAWS = 128


class _Draws:
    """Uniform numbers of one row per face, handed out column by column in the order of the code."""

    def __init__(
        self, seed: int, domain: Domain, identity: npt.ArrayLike, sample: npt.ArrayLike, n: int
    ) -> None:
        self._columns = uniforms(seed, domain, identity, sample, n)
        self._next = 0

    def uniform(self, low: float | Column = 0.0, high: float | Column = 1.0) -> Column:
        """Evenly between `low` and `high`."""
        u = self._columns[:, self._next]
        self._next += 1
        return low + (high - low) * u

    def chance(self, probability: float | Column) -> npt.NDArray[np.bool_]:
        """True with `probability`."""
        return self.uniform() < probability

    def bell(self, mean: float | Column = 0.0, deviation: float | Column = 1.0) -> Column:
        """Normal numbers by Box and Muller's transform."""
        radius = np.sqrt(-2.0 * np.log(self.uniform()))
        return mean + deviation * radius * np.cos(2.0 * np.pi * self.uniform())

    def shape(self, mean: float | Column = 0.0, deviation: float = 0.62) -> Column:
        """Bell-shaped within (-1, 1): the tanh of a normal number."""
        return np.tanh(self.bell(mean, deviation))

    def choice(self, shares: list[float] | Column) -> npt.NDArray[np.int64]:
        """0, 1, ... with the given shares, which need not sum to 1."""
        edges = np.cumsum(shares) / np.sum(shares)
        return np.minimum(np.searchsorted(edges, self.uniform(), side="right"), len(edges) - 1)

    def colour(self, saturation: float, darkest: float, brightest: float) -> Column:
        """Earth tones and blues mostly, saturation at most `saturation` and mostly low, value between the
        other two: [N, 3] sRGB.
        """
        rank, value = self.uniform(), self.uniform(darkest, brightest)
        hue, vivid = np.interp(rank, _HUE_RANKS, _HUES), np.interp(rank, _HUE_RANKS, _HUE_VIVIDNESS)
        return _rgb(hue % 1.0, saturation * vivid * self.uniform() ** 1.5, value)


def _rgb(hue: Column, saturation: Column, value: Column) -> Column:
    """HSV to RGB (A. R. Smith, "Color gamut transform pairs", SIGGRAPH 1978): [N, 3]."""
    corner = (hue[:, None] * 6.0 + np.array([0.0, 4.0, 2.0])) % 6.0
    pure = np.clip(np.abs(corner - 3.0) - 1.0, 0.0, 1.0)
    return value[:, None] * (1.0 - saturation[:, None] * (1.0 - pure))


def _ramp(x: Column, low: float, high: float) -> Column:
    """0 below `low`, 1 above `high` (or the other way round), a straight line between."""
    return np.clip((x - low) / (high - low), 0.0, 1.0)


def draw_identities(seed: int, identities: npt.ArrayLike) -> Columns:
    """What belongs to the people: parameter name -> float64 [N], and two columns that only `draw_samples`
    reads.

    Those are `glasses_habit` (share of pictures with glasses) and `make_up_habit`.

    Args:
        seed: of the dataset.
        identities: whole numbers [N].
    """
    draws = _Draws(seed, Domain.IDENTITY, identities, 0, _IDENTITY_DRAWS)
    male = draws.chance(0.5)
    sign = np.where(male, 1.0, -1.0)
    age = draws.uniform() ** 2.3
    face: Columns = {"age": age, "sex": np.clip(0.5 + sign * draws.uniform(0.28, 0.5), 0.0, 1.0)}
    _draw_complexion(draws, face)
    _draw_shape(draws, face, sign)
    _draw_hair(draws, face, male)
    _draw_beard(draws, face, male)
    _draw_accessories(draws, face, male)
    face["texture_seed"] = np.floor(draws.uniform(0.0, 65535.0))
    return face


def _draw_complexion(draws: _Draws, face: Columns) -> None:
    """Skin, hair colour and iris, which share their pigments; and the features that often come with them."""
    melanin = 0.03 + 0.92 * draws.uniform() ** 1.6
    fair = _ramp(melanin, 0.48, 0.18)
    single_lid = draws.chance(0.38) & (melanin > 0.1) & (melanin < 0.5)
    coiled = draws.chance(_ramp(melanin, 0.45, 0.7))
    pigment = draws.choice([0.16, 0.26, 0.26, 0.18, 0.14])  # black, dark brown, brown, dark and light blond
    light = np.array([0.03, 0.22, 0.42, 0.68, 0.90])[pigment] + draws.uniform(-0.06, 0.08)
    dark = draws.uniform(0.0, 0.16)
    face["melanin"] = melanin
    face["hair_tone"] = np.clip(np.where(single_lid, dark, dark + (light - dark) * fair), 0.0, 1.0)
    red = draws.chance(0.09 * fair) & ~single_lid
    face["hair_red"] = np.where(red, draws.uniform(0.6, 1.0), draws.uniform(0.0, 0.22) * fair)
    face["hair_tone"] = np.where(red, draws.uniform(0.3, 0.65), face["hair_tone"])
    age = face["age"]
    face["hair_grey"] = np.clip((age - 0.60 + draws.bell(0.0, 0.12)) / 0.38, 0.0, 1.0) * _ramp(age, 0.25, 0.5)
    light_eye = draws.chance((0.15 + 0.75 * _ramp(face["hair_tone"], 0.1, 0.75)) * fair) & ~single_lid
    face["iris_tone"] = np.where(
        light_eye, draws.uniform(0.5, 1.0), draws.uniform(0.0, 0.36) * (0.3 + 0.7 * fair)
    )
    speckled = draws.chance(0.12 * fair + 0.55 * red)
    face["freckles"] = np.where(speckled, draws.uniform(0.25, 0.9), draws.uniform(0.0, 0.1))
    face["blood"] = np.clip(draws.bell(0.5, 0.18), 0.05, 0.95)
    face["skin_gloss"] = draws.uniform(0.15, 0.6)
    face["lid_crease"] = np.where(single_lid, draws.uniform(0.0, 0.2), draws.uniform(0.4, 0.9))
    face["hair_curl"] = np.where(
        coiled, draws.uniform(0.7, 1.0), draws.uniform() ** 1.8 * np.where(single_lid, 0.2, 0.7)
    )
    face["_flat_bridge"] = np.where(single_lid | coiled, 1.0, 0.0)
    face["_full_lips"] = np.where(coiled, 1.0, 0.0)


def _draw_shape(draws: _Draws, face: Columns, sign: Column) -> None:
    """Bones and soft parts; `sign` is 1 for faces drawn as male, -1 as female."""
    age, flat, full = face["age"], face.pop("_flat_bridge"), face.pop("_full_lips")
    means: dict[str, float | Column] = {
        "head_width": 0.05 * sign,
        "face_length": 0.06 * sign,
        "forehead_height": 0.0,
        "jaw_width": 0.16 * sign,
        "cheek_size": 0.1 * flat,
        "cheek_height": 0.12 * flat - 0.1 * sign,
        "face_fat": 0.1 * age - 0.05,
        "chin_size": 0.14 * sign,
        "chin_height": 0.08 * sign,
        "brow_ridge": 0.18 * sign,
        "nose_width": 0.08 * sign + 0.35 * full,
        "nose_length": 0.04 * sign + 0.2 * age,
        "nose_height": 0.06 * sign - 0.2 * flat,
        "nose_bridge": 0.08 * sign - 0.45 * flat,
        "nose_tip": 0.06 * sign + 0.2 * age,
        "nose_tilt": -0.12 * sign - 0.15 * age,
        "eye_distance": 0.1 * flat,
        "eye_size": -0.16 * sign,
        "eye_openness": -0.14 * sign - 0.2 * age,
        "eye_height": 0.0,
        "eye_tilt": 0.18 * flat * (1.0 - full) - 0.05 * sign - 0.1 * age,
        "eye_depth": 0.14 * sign - 0.1 * flat,
        "brow_height": -0.14 * sign - 0.1 * age,
        "brow_thickness": 0.26 * sign,
        "brow_arch": -0.22 * sign,
        "upper_lip": -0.16 * sign - 0.3 * age + 0.4 * full,
        "lower_lip": -0.10 * sign - 0.2 * age + 0.35 * full,
        "mouth_width": 0.05 * sign,
        "mouth_height": 0.0,
        "lip_curve": 0.1 - 0.25 * age,
        "ear_size": 0.08 * sign + 0.25 * age,
        "ear_angle": 0.0,
        "neck_width": 0.25 * sign,
    }
    for name, mean in means.items():
        face[name] = draws.shape(mean)
    face["brow_density"] = np.clip(draws.bell(0.68 + 0.06 * sign - 0.15 * age, 0.13), 0.25, 1.0)


def _draw_hair(draws: _Draws, face: Columns, male: npt.NDArray[np.bool_]) -> None:
    """Length, cut and loss of hair."""
    age = face["age"]
    cut = np.where(male, draws.choice([0.08, 0.72, 0.12, 0.08]), 4 + draws.choice([0.12, 0.28, 0.60]))
    low = np.array([0.08, 0.20, 0.40, 0.65, 0.24, 0.48, 0.72])[cut]
    high = np.array([0.14, 0.36, 0.55, 0.95, 0.40, 0.68, 1.00])[cut]
    face["hair_length"] = draws.uniform(low, high)
    face["hairline"] = draws.shape(np.where(male, 0.1 + 0.2 * age, -0.05), 0.45)
    receding = draws.chance(0.08 + 0.4 * age) & male
    face["hair_recession"] = np.where(receding, draws.uniform(0.25, 1.0), draws.uniform(0.0, 0.2))
    bald = draws.chance(0.03 + 0.24 * age) & male
    face["baldness"] = np.where(bald, draws.uniform(0.45, 1.0), 0.0)
    face["hair_length"] = np.where(
        bald, np.minimum(face["hair_length"], draws.uniform(0.06, 0.22)), face["hair_length"]
    )
    face["hair_volume"] = np.clip(draws.bell(0.4 + 0.2 * _ramp(face["hair_curl"], 0.3, 1.0), 0.17), 0.05, 1.0)
    face["hair_part"] = draws.shape(0.0, 0.5)
    fringed = draws.chance(np.where(male, 0.10, 0.24)) & ~bald
    face["fringe"] = np.where(fringed, draws.uniform(0.5, 0.95), draws.uniform(0.0, 0.2))
    face["hair_recession"] = np.where(fringed, 0.0, face["hair_recession"])
    face["hair_tucked"] = draws.uniform()


def _draw_beard(draws: _Draws, face: Columns, male: npt.NDArray[np.bool_]) -> None:
    """At most one style of beard, and only on faces drawn as male."""
    style = np.where(
        male, draws.choice([0.42, 0.18, 0.25, 0.08, 0.07]), 0
    )  # shaved, stubble, full, goatee, moustache
    length = draws.uniform(0.35, 1.0)
    moustache = draws.uniform(0.4, 0.95)
    face["beard"] = np.where(style == 2, length, 0.0)
    face["goatee"] = np.where(style == 3, length, 0.0)
    face["moustache"] = np.where(style == 2, 0.85 * length, np.where(style >= 3, moustache, 0.0))
    face["moustache"] *= np.where((style == 3) & draws.chance(0.3), 0.0, 1.0)
    dark = _ramp(face["hair_tone"], 0.9, 0.2)
    shaved = draws.uniform(0.0, 0.22) * dark
    face["stubble"] = np.where(
        male, np.where(style == 0, shaved, np.where(style == 1, draws.uniform(0.4, 0.95), 0.35)), 0.0
    )


def _draw_accessories(draws: _Draws, face: Columns, male: npt.NDArray[np.bool_]) -> None:
    """Glasses that the person owns, make-up that the person wears."""
    wearer = draws.choice([0.62, 0.22, 0.16])
    face["glasses_habit"] = np.clip(np.array([0.0, 0.5, 1.0])[wearer] + 0.10 * face["age"], 0.0, 1.0)
    face["glasses_shape"] = draws.uniform()
    face["glasses_size"] = draws.shape(0.1, 0.4)
    face["glasses_thickness"] = draws.uniform()
    face["glasses_tone"] = draws.uniform()
    made_up = draws.chance(0.6) & ~male
    face["make_up_habit"] = np.where(made_up, draws.uniform(0.5, 1.0), 0.0)
    face["lipstick"] = np.where(made_up, draws.uniform(0.35, 0.95), 0.0)
    face["lipstick_tone"] = draws.uniform()


def draw_samples(
    seed: int,
    identities: npt.ArrayLike,
    samples: npt.ArrayLike,
    people: Columns,
    emotion: npt.NDArray[np.int64] | None = None,
) -> tuple[Columns, npt.NDArray[np.int64]]:
    """What belongs to the pictures: all parameters by name, float64 [N], and the emotion's index, int64 [N].

    Args:
        seed: of the dataset.
        identities: whole numbers [N].
        samples: whole numbers [N].
        people: of `draw_identities` for the same identities.
        emotion: index into EMOTIONS [N] instead of a drawn one.
    """
    draws = _Draws(seed, Domain.SAMPLE, identities, samples, _SAMPLE_DRAWS)
    face = dict(people)
    drawn = draws.choice([EMOTION_SHARES[name] for name in EMOTIONS])
    emotion = drawn if emotion is None else emotion
    _draw_expression(draws, face, emotion)
    _draw_pose(draws, face)
    _draw_light(draws, face)
    _draw_surroundings(draws, face)
    _vary_looks(draws, face)
    return face, emotion


def _draw_expression(draws: _Draws, face: Columns, emotion: npt.NDArray[np.int64]) -> None:
    """Action units: the emotion's prototype at some strength, plus speech, blinks and small movements."""
    strength = 0.42 + 0.55 * draws.uniform() ** 1.2
    prototype = prototype_table()[emotion]
    units: Columns = {}
    for column, unit in enumerate(ACTION_UNITS):
        meant = prototype[:, column] * strength * draws.uniform(0.75, 1.15)
        stray = np.where(draws.chance(0.10), draws.uniform(0.0, 0.22), 0.0)
        units[f"au{unit}"] = np.clip(meant + stray, 0.0, 1.0)
    closed_smile = draws.chance(0.35) & (emotion == EMOTIONS.index("happy"))
    units["au25"] = np.where(closed_smile, 0.0, units["au25"])
    speaking = draws.chance(0.14)
    units["au25"] = np.where(speaking, np.maximum(units["au25"], draws.uniform(0.3, 0.9)), units["au25"])
    units["au26"] = np.where(speaking, np.maximum(units["au26"], draws.uniform(0.1, 0.55)), units["au26"])
    units["au26"] = np.where(closed_smile & ~speaking, 0.0, units["au26"])
    units["au25"] = np.where(units["au26"] > 0.1, np.maximum(units["au25"], units["au26"]), units["au25"])
    blink = draws.chance(0.025)
    units["au43"] = np.where(blink, draws.uniform(0.7, 1.0), np.minimum(units["au43"], 0.12))
    units["au5"] = np.where(blink, 0.0, units["au5"])
    smiling = emotion == EMOTIONS.index("happy")
    units["au15"] = np.where(smiling, 0.0, units["au15"])
    units["au12"] = np.where(smiling, np.maximum(units["au12"], 0.35), np.minimum(units["au12"], 0.25))
    face.update(units)


def _draw_pose(draws: _Draws, face: Columns) -> None:
    """Head pose, gaze and framing: mostly towards the camera, as in a portrait."""
    turned = draws.chance(0.28)
    face["yaw"] = 0.75 * np.tanh(draws.bell(0.0, np.where(turned, 0.42, 0.17)) / 0.75)
    face["pitch"] = 0.35 * np.tanh(draws.bell(0.0, 0.10) / 0.35)
    face["roll"] = 0.30 * np.tanh(draws.bell(0.0, 0.06) / 0.30)
    at_camera = draws.chance(0.82)
    aside_x, aside_y = draws.shape(0.0, 0.35), draws.shape(-0.05, 0.30)
    jitter_x, jitter_y = draws.bell(0.0, 0.04), draws.bell(0.0, 0.04)
    face["gaze_x"] = np.where(at_camera, np.clip(-face["yaw"] / 0.52, -0.75, 0.75) + jitter_x, 0.8 * aside_x)
    face["gaze_y"] = np.where(at_camera, np.clip(-face["pitch"] / 0.44, -0.6, 0.6) + jitter_y, 0.6 * aside_y)
    face["scale"] = np.clip(draws.bell(1.0, 0.03), 0.92, 1.08)
    face["shift_x"] = np.clip(draws.bell(0.0, 0.015), -0.04, 0.04)
    face["shift_y"] = np.clip(draws.bell(0.0, 0.015), -0.04, 0.04)


def _draw_light(draws: _Draws, face: Columns) -> None:
    """Daylight, studio and lamps; never so dark or so bright that the face is lost."""
    side = np.where(draws.chance(0.5), 1.0, -1.0)
    face["key_azimuth"] = side * draws.uniform(0.1, 1.05)
    face["key_elevation"] = draws.uniform(0.15, 0.95)
    face["key_strength"] = draws.uniform(0.75, 1.15)
    face["key_warmth"] = np.clip(draws.bell(0.05, 0.35), -0.9, 0.9)
    face["key_softness"] = draws.uniform(0.25, 1.0)
    face["fill_strength"] = draws.uniform(0.22, 0.55)
    face["rim_strength"] = np.where(draws.chance(0.3), draws.uniform(0.25, 0.7), draws.uniform(0.0, 0.15))
    face["ambient"] = draws.uniform(0.35, 0.6)
    face["second_azimuth"] = draws.uniform(-np.pi, np.pi)
    face["second_strength"] = np.where(draws.chance(0.2), draws.uniform(0.2, 0.6), draws.uniform(0.0, 0.08))
    face["exposure"] = np.clip(draws.bell(1.0, 0.07), 0.82, 1.2)
    face["nir_strength"] = np.clip(draws.bell(1.0, 0.08), 0.8, 1.2)
    face["nir_ambient"] = draws.uniform(0.02, 0.25)


def _draw_surroundings(draws: _Draws, face: Columns) -> None:
    """Background and clothes."""
    face["background_kind"] = draws.choice([0.14, 0.20, 0.26, 0.20, 0.20]).astype(np.float64)
    first = draws.colour(0.6, 0.16, 0.92)
    other = draws.colour(0.5, 0.12, 0.85)
    near = np.clip(first * draws.uniform(0.45, 0.85)[:, None], 0.0, 1.0)
    second = np.where(draws.chance(0.6)[:, None], near, other)
    clothes = draws.colour(0.85, 0.06, 0.88)
    for i, channel in enumerate("rgb"):
        face[f"background_{channel}"] = first[:, i]
        face[f"background2_{channel}"] = second[:, i]
        face[f"clothes_{channel}"] = clothes[:, i]
    face["background_seed"] = np.floor(draws.uniform(0.0, 65535.0))
    face["clothes_kind"] = draws.choice([0.36, 0.28, 0.22, 0.14]).astype(np.float64)
    face["clothes_pattern"] = np.array([0.2, 0.62, 0.88])[draws.choice([0.62, 0.18, 0.20])]


def _vary_looks(draws: _Draws, face: Columns) -> None:
    """What changes from day to day: glasses on or off, make-up, a shave, hair."""
    wearing = draws.chance(face.pop("glasses_habit"))
    face["glasses"] = np.where(wearing, 1.0, 0.0)
    face["glasses_tint"] = np.where(draws.chance(0.02), draws.uniform(0.75, 1.0), draws.uniform(0.0, 0.18))
    face["lipstick"] = face["lipstick"] * np.where(draws.chance(face.pop("make_up_habit")), 1.0, 0.0)
    small: dict[str, Callable[[], Column]] = {
        "hair_volume": lambda: draws.bell(0.0, 0.04),
        "hair_part": lambda: draws.bell(0.0, 0.04),
        "hair_tucked": lambda: draws.bell(0.0, 0.12),
    }
    for name, change in small.items():
        face[name] = face[name] + change()
    face["stubble"] = np.where(
        face["stubble"] > 0.3, np.clip(face["stubble"] + draws.bell(0.0, 0.08), 0.3, 1.0), face["stubble"]
    )
    face["skin_gloss"] = face["skin_gloss"] + draws.bell(0.0, 0.05)
