"""The .pyi files of the native modules name the same functions as the modules themselves."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import pyface

MODULES = ("_cpu", "_cuda", "_emu")


def stub_signatures(path: Path) -> dict[str, list[str]]:
    """Function name -> argument names, from a stub file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        node.name: [a.arg for a in node.args.posonlyargs + node.args.args]
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
    }


@pytest.mark.parametrize("name", MODULES)
def test_stub_names_every_function(name: str) -> None:
    stub = Path(pyface.__file__).parent / f"{name}.pyi"
    try:
        module = importlib.import_module(f"pyface.{name}")
    except ImportError as error:
        pytest.skip(f"pyface.{name} is not built here: {error}")
    functions = {key for key, value in vars(module).items() if callable(value) and not key.startswith("__")}
    signatures = stub_signatures(stub)
    assert set(signatures) == functions
    for function, arguments in signatures.items():
        declared = (getattr(module, function).__doc__ or "").split("\n", 1)[0]
        missing = [argument for argument in arguments if f"{argument}:" not in declared]
        assert not missing, f"{name}.{function}: the stub names {missing}, the module says {declared}"
