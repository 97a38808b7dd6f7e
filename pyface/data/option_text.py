"""Options of loaders and writers as text: what stands behind NAME= on a command line."""

from __future__ import annotations

from pyface.errors import ValueRangeError

__all__ = ["plain_text", "several", "whole_number", "yes_or_no"]

_YES, _NO = ("yes", "true", "1"), ("no", "false", "0")


def plain_text(name: str, text: str) -> str:
    """The text as it is."""
    return text


def whole_number(name: str, text: str) -> int:
    """A number from 0.

    Raises:
        ValueRangeError: it is none; `name` is what the message calls the option.
    """
    if not (text.isascii() and text.isdigit()):
        raise ValueRangeError(f"{name} needs a whole number; got {text!r}.")
    return int(text)


def yes_or_no(name: str, text: str) -> bool:
    """Whether it says yes.

    Raises:
        ValueRangeError: it says neither; `name` is what the message calls the option.
    """
    word = text.lower()
    if word not in (*_YES, *_NO):
        raise ValueRangeError(f"{name} needs yes or no; got {text!r}.")
    return word in _YES


def several(name: str, text: str) -> list[str]:
    """The words that "+" divides, as in AU12+AU25."""
    return [word for word in text.split("+") if word]
