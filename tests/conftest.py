"""Options and fixtures of the whole suite: --runslow, and the golden arrays."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SUBSET = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--runslow", action="store_true", default=False, help="also run tests marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--runslow"):
        return
    skip = pytest.mark.skip(reason="slow: run with --runslow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


class Golden(Mapping[str, np.ndarray]):
    """The arrays of one golden file. A missing array skips the test while the committed subset is in use."""

    def __init__(self, path: Path, subset: bool) -> None:
        self.path = path
        self.subset = subset
        with np.load(path) as file:
            self._arrays = {name: file[name] for name in file.files}

    @property
    def files(self) -> list[str]:
        return list(self._arrays)

    def cases(self) -> list[dict[str, Any]]:
        """The arguments of every case that is present, each with its `id`."""
        return json.loads(self._arrays["meta"].item())

    def __contains__(self, name: object) -> bool:
        return name in self._arrays

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._arrays and self.subset:
            pytest.skip(f"{self.path.name}: {name} is not in the committed subset; set PYFACE_GOLDEN")
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


def golden_file(name: str) -> Path | None:
    """Path of golden file `name` in PYFACE_GOLDEN, else in the committed subset."""
    folder = Path(os.environ["PYFACE_GOLDEN"]) if os.environ.get("PYFACE_GOLDEN") else SUBSET
    path = folder / name
    return path if path.exists() else None


def load_golden(name: str) -> Golden:
    """Golden file `name`; the test is skipped where it is absent."""
    path = golden_file(name)
    if path is None:
        pytest.skip(f"{name} is not in the committed subset; set PYFACE_GOLDEN to the full folder")
    return Golden(path, subset=path.parent == SUBSET)


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Golden]:
    """`golden("bias_act.npz")["c000_x"]`: arrays measured on the public reference networks."""
    return load_golden


@pytest.fixture(scope="session")
def golden_path() -> Callable[[str], Path]:
    """`golden_path("tiny_nv_layout.pkl")`: path of a golden file thatholds no arrays; skips without it."""

    def find(name: str) -> Path:
        path = golden_file(name)
        if path is None:
            pytest.skip(f"{name} is not in the committed subset; set PYFACE_GOLDEN to the full folder")
        return path

    return find
