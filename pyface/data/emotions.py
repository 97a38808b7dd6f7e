"""Expressions as action units of the Facial Action Coding System (FACS).

The prototypes follow the table of emotions in Ekman, Friesen and Hager, "FACS Investigator's Guide" (2002),
limited to the units that the renderer draws (AU7, 16, 22 to 24 and 27 are not among them).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["ACTION_UNITS", "EMOTIONS", "EMOTION_SHARES", "PROTOTYPES", "prototype_table"]

# numbers of the action units that are drawn
ACTION_UNITS = (1, 2, 4, 5, 6, 9, 12, 15, 17, 20, 25, 26, 43)

EMOTIONS = ("neutral", "happy", "surprise", "sad", "angry", "disgust", "fear")

# share of each emotion in a drawn dataset
EMOTION_SHARES = {
    "neutral": 0.36,
    "happy": 0.32,
    "surprise": 0.08,
    "sad": 0.07,
    "angry": 0.07,
    "disgust": 0.05,
    "fear": 0.05,
}

# emotion -> action unit -> intensity at full strength, 0 to 1
PROTOTYPES: dict[str, dict[int, float]] = {
    "neutral": {},
    "happy": {6: 0.75, 12: 1.0, 25: 0.6},
    "surprise": {1: 0.9, 2: 0.9, 5: 0.7, 25: 0.8, 26: 0.8},
    "sad": {1: 0.8, 4: 0.5, 15: 0.9, 17: 0.5},
    "angry": {4: 1.0, 5: 0.5, 17: 0.6, 15: 0.15},
    "disgust": {9: 1.0, 15: 0.5, 17: 0.5, 4: 0.3, 25: 0.15},
    "fear": {1: 0.9, 2: 0.5, 4: 0.6, 5: 0.9, 20: 0.8, 25: 0.6, 26: 0.25},
}


def prototype_table() -> npt.NDArray[np.float64]:
    """The prototypes as numbers: float64 [len(EMOTIONS), len(ACTION_UNITS)], each in [0, 1]."""
    table = np.zeros((len(EMOTIONS), len(ACTION_UNITS)))
    for row, emotion in enumerate(EMOTIONS):
        for unit, intensity in PROTOTYPES[emotion].items():
            table[row, ACTION_UNITS.index(unit)] = intensity
    return table
