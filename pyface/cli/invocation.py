"""The command line as it is noted in what a command makes."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["command_line"]


def command_line(arguments: Sequence[str] | None = None) -> str:
    """The command that runs, as a shell takes it; of absolute paths the last part alone.

    A dataset is given to others, and absolute paths tell of the machine and of whose it is.

    >>> command_line(["data", "prepare", "/home/anna/my photos", "out", "--embedder=/srv/net.onnx"])
    "pyface data prepare 'my photos' out --embedder=net.onnx"
    """
    return shlex.join(["pyface", *map(_told, sys.argv[1:] if arguments is None else arguments)])


def _told(word: str) -> str:
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return option + equals + (Path(value).name if Path(value).is_absolute() else value)
