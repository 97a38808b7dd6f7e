"""What a rendered face is called: CelebA attributes and demo conditions, each by a rule on its parameters.

The names are those of CelebA (Liu, Luo, Wang, Tang: "Deep learning face attributes in the wild", ICCV 2015).
Only attributes that the renderer can show are given. "Male" and every word about sex mean: as drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ATTRIBUTES", "CONDITIONS", "attribute_table", "condition_table"]

Column = npt.NDArray[np.floating[Any]]
Table = Mapping[str, Column]
Rule = Callable[[Table], npt.NDArray[np.bool_]]


def _has_hair(p: Table) -> npt.NDArray[np.bool_]:
    return (p["baldness"] < 0.7) & (p["hair_length"] > 0.05)


def _not_grey(p: Table) -> npt.NDArray[np.bool_]:
    return _has_hair(p) & (p["hair_grey"] < 0.5)


# attribute -> (rule in words, the rule)
_RULES: dict[str, tuple[str, Rule]] = {
    "5_o_Clock_Shadow": (
        "stubble of 0.4 or more and no beard",
        lambda p: (p["stubble"] >= 0.4) & (p["beard"] < 0.15) & (p["goatee"] < 0.15),
    ),
    "Arched_Eyebrows": ("brow_arch of 0.4 or more", lambda p: p["brow_arch"] >= 0.4),
    "Bald": ("baldness of 0.7 or more, or hair shaved to 0.05 or less", lambda p: ~_has_hair(p)),
    "Bangs": ("fringe of 0.5 or more and not bald", lambda p: (p["fringe"] >= 0.5) & _has_hair(p)),
    "Big_Lips": (
        "mean of upper_lip and lower_lip 0.4 or more",
        lambda p: (p["upper_lip"] + p["lower_lip"]) / 2 >= 0.4,
    ),
    "Big_Nose": (
        "mean of nose_width, nose_height and nose_tip 0.3 or more",
        lambda p: (p["nose_width"] + p["nose_height"] + p["nose_tip"]) / 3 >= 0.3,
    ),
    "Black_Hair": (
        "hair_tone below 0.17, hair_red below 0.4, less than half grey, not bald",
        lambda p: _not_grey(p) & (p["hair_tone"] < 0.17) & (p["hair_red"] < 0.4),
    ),
    "Blond_Hair": (
        "hair_tone of 0.6 or more, hair_red below 0.4, less than half grey, not bald",
        lambda p: _not_grey(p) & (p["hair_tone"] >= 0.6) & (p["hair_red"] < 0.4),
    ),
    "Brown_Hair": (
        "hair_tone from 0.17 to 0.6, hair_red below 0.4, less than half grey, not bald",
        lambda p: _not_grey(p) & (p["hair_tone"] >= 0.17) & (p["hair_tone"] < 0.6) & (p["hair_red"] < 0.4),
    ),
    "Bushy_Eyebrows": (
        "brow_thickness of 0.4 or more and brow_density of 0.6 or more",
        lambda p: (p["brow_thickness"] >= 0.4) & (p["brow_density"] >= 0.6),
    ),
    "Chubby": ("face_fat of 0.5 or more", lambda p: p["face_fat"] >= 0.5),
    "Eyeglasses": ("glasses above 0.5", lambda p: p["glasses"] > 0.5),
    "Goatee": (
        "goatee of 0.25 or more without a full beard",
        lambda p: (p["goatee"] >= 0.25) & (p["beard"] < 0.15),
    ),
    "Gray_Hair": ("at least half grey, not bald", lambda p: _has_hair(p) & (p["hair_grey"] >= 0.5)),
    "Heavy_Makeup": ("lipstick of 0.7 or more", lambda p: p["lipstick"] >= 0.7),
    "High_Cheekbones": ("cheek_height of 0.35 or more", lambda p: p["cheek_height"] >= 0.35),
    "Male": ("drawn as male: sex above 0.5", lambda p: p["sex"] > 0.5),
    "Mouth_Slightly_Open": (
        "lips parted (AU25 of 0.25 or more) or jaw dropped (AU26 of 0.15 or more)",
        lambda p: (p["au25"] >= 0.25) | (p["au26"] >= 0.15),
    ),
    "Mustache": ("moustache of 0.25 or more", lambda p: p["moustache"] >= 0.25),
    "Narrow_Eyes": (
        "eye_openness of -0.45 or less, or lids half closed (AU43 of 0.4 or more)",
        lambda p: (p["eye_openness"] <= -0.45) | (p["au43"] >= 0.4),
    ),
    "No_Beard": (
        "beard and goatee below 0.15 and stubble below 0.55",
        lambda p: (p["beard"] < 0.15) & (p["goatee"] < 0.15) & (p["stubble"] < 0.55),
    ),
    "Pale_Skin": ("melanin below 0.1", lambda p: p["melanin"] < 0.1),
    "Pointy_Nose": ("nose_tip of -0.4 or less", lambda p: p["nose_tip"] <= -0.4),
    "Receding_Hairline": (
        "hair_recession of 0.45 or more, or baldness from 0.3 to 0.7",
        lambda p: (p["hair_recession"] >= 0.45) | ((p["baldness"] >= 0.3) & (p["baldness"] < 0.7)),
    ),
    "Rosy_Cheeks": ("blood of 0.75 or more", lambda p: p["blood"] >= 0.75),
    "Smiling": ("lip corners pulled: AU12 of 0.3 or more", lambda p: p["au12"] >= 0.3),
    "Straight_Hair": ("hair_curl below 0.25, not bald", lambda p: _has_hair(p) & (p["hair_curl"] < 0.25)),
    "Wavy_Hair": (
        "hair_curl from 0.35 to 0.75, not bald",
        lambda p: _has_hair(p) & (p["hair_curl"] >= 0.35) & (p["hair_curl"] < 0.75),
    ),
    "Wearing_Lipstick": ("lipstick of 0.3 or more", lambda p: p["lipstick"] >= 0.3),
    "Young": ("age below 0.45 (about 45 years)", lambda p: p["age"] < 0.45),
}

# CelebA name -> rule in words
ATTRIBUTES = {name: words for name, (words, _) in _RULES.items()}

# what the demo generator is conditioned on; each lies in [0, 1]
CONDITIONS = ("smile", "mouth_open", "glasses", "beard", "hair_length", "male")


def attribute_table(parameters: Table) -> dict[str, npt.NDArray[np.bool_]]:
    """CelebA name -> bool [N], from columns of parameters [N]; `ATTRIBUTES` has the rules in words."""
    return {name: np.asarray(rule(parameters), bool) for name, (_, rule) in _RULES.items()}


def condition_table(parameters: Table) -> dict[str, npt.NDArray[np.float32]]:
    """Condition -> float32 [N] in [0, 1], from columns of parameters [N] by name.

    smile: AU12 from 0.05 to 0.6. mouth_open: the larger of AU26 from 0 to 0.6 and 0.6 AU25 (parted lips
    show teeth, a dropped jaw opens the mouth). glasses: worn or not. beard: 0.4 to 1 with the length of
    a full beard, 0.3 to 0.7 of a goatee, 0.3 of a moustache alone, less of stubble. hair_length: the
    parameter, reduced by baldness. male: drawn as male or not.
    """
    p = {name: np.asarray(values, np.float64) for name, values in parameters.items()}
    full = np.where(p["beard"] > 0, 0.4 + 0.6 * p["beard"], 0.0)
    goatee = np.where(p["goatee"] > 0, 0.3 + 0.4 * p["goatee"], 0.0)
    moustache = np.where(p["moustache"] > 0.1, 0.3, 0.0)
    table = {
        "smile": (p["au12"] - 0.05) / 0.55,
        "mouth_open": np.maximum(p["au26"] / 0.6, 0.6 * p["au25"]),
        "glasses": np.where(p["glasses"] > 0.5, 1.0, 0.0),
        "beard": np.maximum.reduce([full, goatee, moustache, 0.25 * p["stubble"]]),
        "hair_length": p["hair_length"] * (1.0 - 0.7 * p["baldness"]),
        "male": np.where(p["sex"] > 0.5, 1.0, 0.0),
    }
    return {name: np.clip(table[name], 0.0, 1.0).astype(np.float32) for name in CONDITIONS}
