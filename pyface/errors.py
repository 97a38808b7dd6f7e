"""Every error that pyface raises for bad input, and the checks that build their texts.

A message says what was wrong, what came, what is allowed and what to do.
"""

from __future__ import annotations

__all__ = [
    "BackendError",
    "CheckpointError",
    "DTypeError",
    "DataError",
    "ExportError",
    "MissingExtraError",
    "ModelMissingError",
    "PyfaceError",
    "ShapeError",
    "TrainingError",
    "ValueRangeError",
]


class PyfaceError(Exception):
    """Base class of all pyface errors. The command line prints it as one line and exits with status 1."""


class ShapeError(PyfaceError, ValueError):
    """A tensor has the wrong number of axes or the wrong size along one."""


class DTypeError(PyfaceError, TypeError):
    """A tensor has an element type that the operation does not take."""


class ValueRangeError(PyfaceError, ValueError):
    """A number or a name is outside what is allowed."""


class BackendError(PyfaceError, RuntimeError):
    """The back-end that was asked for, or required by PYFACE_REQUIRE, cannot run here."""


class CheckpointError(PyfaceError, RuntimeError):
    """A checkpoint is damaged, of an unknown kind, or refused because reading it would run code."""


class ModelMissingError(CheckpointError):
    """A network is not in the cache; the message names the command to run, or the file and its place."""


class DataError(PyfaceError, RuntimeError):
    """A dataset or an output folder cannot be read or written as asked."""


class ExportError(PyfaceError, RuntimeError):
    """A network cannot be exported as asked, or an artefact is damaged, out of date or unlike its network."""


class MissingExtraError(PyfaceError, ImportError):
    """An optional package is needed; the message names the extra to install."""


class TrainingError(PyfaceError, RuntimeError):
    """A training run cannot go on: a loss is not finite or has exploded."""
