"""Layers with parameters, built on `pyface.ops`; the networks made of them live in `pyface.models`."""

from pyface.nn.conv import EqualizedConv2d
from pyface.nn.critic import CriticBlock, CriticHead
from pyface.nn.filters import ResampleFilter, set_backend
from pyface.nn.linear import EqualizedLinear
from pyface.nn.mapping import MappingNetwork
from pyface.nn.norm import append_minibatch_std, normalize_second_moment
from pyface.nn.style import StyledConv2d, StyledHead
from pyface.nn.synthesis import SynthesisBlock

__all__ = [
    "CriticBlock",
    "CriticHead",
    "EqualizedConv2d",
    "EqualizedLinear",
    "MappingNetwork",
    "ResampleFilter",
    "StyledConv2d",
    "StyledHead",
    "SynthesisBlock",
    "append_minibatch_std",
    "normalize_second_moment",
    "set_backend",
]
