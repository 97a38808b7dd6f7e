"""Images, grids, videos and labelled datasets made by a generator.

>>> import pyface
>>> from pyface.generation import images_of_seeds
>>> G = pyface.load("demo")                                             # doctest: +SKIP
>>> for seed, image in images_of_seeds(G, [0, 1, 2]): ...               # doctest: +SKIP
"""

from pyface.generation.images import images_of_seeds, latents_of_seeds, parse_numbers
from pyface.generation.network import condition_names, condition_vector, load_network

__all__ = [
    "condition_names",
    "condition_vector",
    "images_of_seeds",
    "latents_of_seeds",
    "load_network",
    "parse_numbers",
]
