"""Builds shared by the tests of the native layer."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest


def _load(name: str) -> Any:
    """A module of this folder: tests are collected without packages."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Programs that run the kernel bodies in the emulator, built at their first use."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed; the emulator's programs are built with it")
    return _load("emulator_build").EmulatorBuild(tmp_path_factory.mktemp("emulator"))
