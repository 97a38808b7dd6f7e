"""Memory that a training step frees is kept for the next one instead of going back to the system."""

from __future__ import annotations

import ctypes

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt's parameters (glibc, malloc.h)
_LARGEST_MAPPED = (1 << 30, 32 << 20)  # bytes; older glibc refuses more than 32 MB


def keep_freed_memory() -> bool:
    """Let glibc's malloc serve large tensors from memory that was freed before; True where that took effect.

    A step allocates the same large activations over and over. By default malloc maps and unmaps those above
    32 MB, and gives the top of its heap back, so that every step pays for fresh pages: 5 to 10 % of a step on
    a CPU. The memory in use at the peak stays what it is; it is given back when the process ends. Does
    nothing on systems without glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    mapped = any(mallopt(_MMAP_THRESHOLD, size) == 1 for size in _LARGEST_MAPPED)
    return mallopt(_TRIM_THRESHOLD, 2**31 - 1) == 1 and mapped
