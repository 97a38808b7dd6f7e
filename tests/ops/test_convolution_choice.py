"""Which convolutions take our kernels: the rule, measured tables, and what is said of bad ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from pyface.cli.doctor import command
from pyface.errors import DataError
from pyface.ops import convolution_choice as choice
from pyface.ops.convolution_choice import ConvShape

HOPPER = (9, 0)
PLAIN = ConvShape("conv", "", 8, 256, 256, 64, 64, 3, 1, False)
ROW = {**PLAIN._replace(dtype="float16")._asdict(), "pyface_ms": 0.1, "torch_ms": 0.2}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the user's tables, empty at first."""
    monkeypatch.setenv("PYFACE_HOME", str(tmp_path))
    choice.reload()
    yield tmp_path / "tuning"
    choice.reload()


def write(folder: Path, **changes: Any) -> Path:
    document = {"format": 1, "capability": [9, 0], "shapes": [ROW], **changes}
    folder.mkdir(exist_ok=True)
    path = folder / "sm_90.json"
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize(
    ("shape", "taken"),
    [
        (PLAIN, "torch"),
        (PLAIN._replace(height=512, width=512), "pyface"),
        (PLAIN._replace(height=16, width=16), "pyface"),
        (PLAIN._replace(height=32, width=32), "torch"),
        (PLAIN._replace(transposed=True, stride=2), "pyface"),
        (PLAIN._replace(op="weight_grad"), "torch"),
    ],
)
def test_rule(shape: ConvShape, taken: str) -> None:
    assert choice.choose(HOPPER, shape, torch.bfloat16) == taken
    assert choice.choose(HOPPER, shape, torch.float16) == taken
    assert choice.choose(HOPPER, shape, torch.float32) == "torch"
    assert choice.choose((7, 5), shape, torch.float16) == "torch"
    assert choice.choose(None, shape, torch.float32) == "pyface"


def test_measured_shapes_go_before_the_rule(home: Path) -> None:
    slower = {**ROW, "n": 64, "pyface_ms": 0.3}
    write(home, shapes=[ROW, slower])
    assert choice.choose(HOPPER, PLAIN, torch.float16) == "pyface"
    assert choice.choose(HOPPER, PLAIN._replace(n=16), torch.float16) == "pyface"
    assert choice.choose(HOPPER, PLAIN._replace(n=32), torch.float16) == "torch"
    assert choice.choose(HOPPER, PLAIN, torch.bfloat16) == "torch"
    assert choice.choose((8, 0), PLAIN, torch.float16) == "torch"
    assert choice.describe(HOPPER) == f"sm_90: 2 measured shapes, else by rule ({choice.RULE})"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 7}, r"must have format 1; got 7"),
        ({"capability": [8, 0]}, r"was measured for capability \[8, 0\]; it must be \[9, 0\]"),
        ({"shapes": [{**ROW, "op": "dance"}]}, r"is damaged: ValueError: .*is no convolution"),
        ({"shapes": [{**ROW, "n": 0}]}, r"must be numbers of 1 or more"),
        ({"shapes": [{**ROW, "torch_ms": -1}]}, r"pyface_ms and torch_ms must be above 0; got 0.1 and -1"),
        ({"shapes": [{"op": "conv"}]}, r"is damaged: KeyError: 'dtype'"),
        ({"shapes": 3}, r"is damaged: TypeError"),
    ],
)
def test_a_bad_table_is_an_error_that_says_what_is_wrong(
    home: Path, changes: dict[str, Any], message: str
) -> None:
    path = write(home, **changes)
    with pytest.raises(DataError, match=message) as error:
        choice.choose(HOPPER, PLAIN, torch.float16)
    assert str(path) in str(error.value)
    assert "Delete the file or measure it anew with `pyface bench --tune --device cuda`." in str(error.value)


def test_a_file_that_is_no_json_is_an_error(home: Path) -> None:
    write(home).write_text("{")
    with pytest.raises(DataError, match=r"sm_90\.json cannot be read"):
        choice.describe(HOPPER)


def test_doctor_says_what_convolutions_go_by(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyface.ops._native.capability", lambda: None)
    assert f"cuda convolutions: by rule ({choice.RULE})" in CliRunner().invoke(command).output
    monkeypatch.setattr("pyface.ops._native.capability", lambda: HOPPER)
    assert f"cuda convolutions: sm_90: by rule ({choice.RULE})" in CliRunner().invoke(command).output
    write(home, format=7)
    choice.reload()
    assert "cuda convolutions: error, the convolution table" in CliRunner().invoke(command).output
