"""SHA-256 of files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

__all__ = ["sha256_of"]


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
