"""The examples in docstrings give what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import pyface

NATIVE = ("pyface._cpu", "pyface._cuda", "pyface._emu")


def _modules():
    names = [m.name for m in pkgutil.walk_packages(pyface.__path__, "pyface.", onerror=lambda _: None)]
    return [name for name in names if name not in NATIVE and not name.endswith("__main__")]


@pytest.mark.parametrize("name", _modules())
def test_examples(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0
