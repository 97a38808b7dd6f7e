"""Training: phases of weighted losses, the loop that runs them, and one recipe per system.

>>> from pyface.training.recipes.stylegan2 import StyleGAN2Recipe, build
>>> trainer = build(StyleGAN2Recipe(resolution=64, kimg=10), training_set)      # doctest: +SKIP
>>> trainer.run()                                                               # doctest: +SKIP
"""

from pyface.training.feed import Feed, TrainingSet
from pyface.training.loop import Callback, Trainer
from pyface.training.phases import Batch, LossTerm, Phase

__all__ = ["Batch", "Callback", "Feed", "LossTerm", "Phase", "Trainer", "TrainingSet"]
