"""Convolutions whose weight gradients can be switched off."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

__all__ = ["no_weight_gradients", "weight_gradients_enabled"]

_weight_gradients = True


def weight_gradients_enabled() -> bool:
    """False inside `no_weight_gradients()`."""
    return _weight_gradients


@contextlib.contextmanager
def no_weight_gradients(disable: bool = True) -> Iterator[None]:
    """Inside, backward passes through our convolutions leave the weights' gradients out (None).

    For penalties on gradients of images (R1, path length): they are taken with respect to pixels or latents,
    and the weights' own gradients in that pass would be computed for nothing. Wrap the `torch.autograd.grad`
    call; the backward pass of the penalty itself stands outside. The reference back-end takes torch's
    convolutions, which leave out what `torch.autograd.grad` does not ask for. disable=False changes nothing.
    """
    global _weight_gradients
    before = _weight_gradients
    _weight_gradients = before and not disable
    try:
        yield
    finally:
        _weight_gradients = before
