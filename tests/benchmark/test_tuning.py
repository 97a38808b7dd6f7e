"""The tuning of the CPU's synthesis layers: the table that is written, read, refused and followed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pyface.benchmark import tuning
from pyface.errors import DataError
from pyface.models import GeneratorConfig, StyleGAN2Generator
from pyface.ops import engine_choice
from pyface.ops.engine_choice import RULE, Choice, LayerShape
from pyface.ops.styled_conv import best_choice, engine_dtype, engine_isa

pytest.importorskip("pyface._cpu")

SHAPES = [LayerShape("float32", 1, 20, 20, 8, 8), LayerShape("float32", 2, 20, 33, 8, 6)]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("PYFACE_HOME", str(tmp_path))
    engine_choice.reload()
    yield tmp_path
    engine_choice.reload()


def write(path: Path, layers: list[dict[str, object]], **changes: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"format": engine_choice.FORMAT, "isa": engine_isa(), "layers": layers, **changes}
    path.write_text(json.dumps(document), encoding="utf-8")
    engine_choice.reload()


def row(shape: LayerShape, choice: Choice) -> dict[str, object]:
    return {**shape._asdict(), "choice": vars(choice)}


def test_tune_writes_the_table_that_is_read(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "ROUNDS", 1)
    monkeypatch.setattr(tuning, "layer_shapes", lambda dtypes: SHAPES)
    lines: list[str] = []
    path = tuning.tune(report=lines.append)
    assert path == home / "tuning" / "cpu.json"
    assert len(lines) == len(SHAPES) + 1
    isa, table = engine_choice.read_table(path)
    assert isa == engine_isa()
    assert list(table) == SHAPES
    assert best_choice(torch.float32, 2, (33, 20, 3, 3), (16, 12)) == table[SHAPES[1]]
    document = json.loads(path.read_text(encoding="utf-8"))
    for layer in document["layers"]:
        assert layer["torch_ms"] > 0
        assert all(candidate["ms"] > 0 for candidate in layer["candidates"])
    assert document["machine"]["threads"] == 1


def test_tune_writes_where_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "ROUNDS", 1)
    monkeypatch.setattr(tuning, "layer_shapes", lambda dtypes: SHAPES[:1])
    path = tmp_path / "some" / "table.json"
    assert tuning.tune(path, lambda line: None) == path
    assert engine_choice.read_table(path)[0] == engine_isa()


def test_batches_stay_together_up_to_one_size() -> None:
    def measured(side: int, *times: float) -> dict[str, object]:
        """Times of the rule and another cut, together and then one by one."""
        choices = [Choice(cut, -1, together) for together in (True, False) for cut in (0, 1 << 20)]
        rows = [{**vars(choice), "ms": ms} for choice, ms in zip(choices, times, strict=True)]
        return {**LayerShape("float32", 1, 32, 32, side, side)._asdict(), "candidates": rows}

    rows = [measured(8, 3, 2, 9, 9), measured(16, 5, 5, 4, 4.5), measured(32, 2, 1.99, 6, 6)]
    rows.append(measured(64, 9, 9, 8, 7))
    tuning.decide(rows)
    assert [row["choice"] for row in rows] == [
        vars(Choice(1 << 20, -1, True)),
        vars(Choice(0, -1, True)),  # its own time would be shorter alone, but the next one gains more
        vars(Choice(0, -1, True)),  # hardly slower than the other cut
        vars(Choice(1 << 20, -1, False)),
    ]


def test_all_shapes_of_the_networks_are_there() -> None:
    shapes = tuning.layer_shapes([torch.float32])
    assert LayerShape("float32", 1, 512, 512, 4, 4) in shapes
    assert LayerShape("float32", 2, 128, 64, 128, 128) in shapes  # 256 px, channel_base 16384
    assert LayerShape("float32", 1, 32, 32, 1024, 1024) in shapes
    assert len(shapes) == len(set(shapes)) == 23


def test_without_a_row_the_rule_holds(home: Path) -> None:
    write(home / "tuning" / "cpu.json", [row(SHAPES[0], Choice(1 << 18, -1, False))])
    assert best_choice(torch.float32, 1, (20, 20, 3, 3), (8, 8)) == Choice(1 << 18, -1, False)
    assert best_choice(torch.float32, 1, (21, 20, 3, 3), (8, 8)) == RULE
    assert RULE.takes_together(32, 32)
    assert not RULE.takes_together(32, 64)
    assert Choice(together=True).takes_together(512, 512)


def test_a_table_of_another_instruction_set_is_left_alone(home: Path) -> None:
    write(home / "tuning" / "cpu.json", [row(SHAPES[0], Choice(1 << 18, 1, True))], isa="another")
    assert best_choice(torch.float32, 1, (20, 20, 3, 3), (8, 8)) == RULE


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "cannot be read"),
        ("[]", "must have format"),
        ('{"format": 99}', "must have format"),
        ('{"format": 1}', "damaged: KeyError"),
        ('{"format": 1, "isa": "avx2", "layers": 7}', "damaged: TypeError"),
        ('{"format": 1, "isa": "avx2", "layers": [{"dtype": "float32"}]}', "damaged: KeyError"),
    ],
)
def test_a_damaged_table_is_named_and_the_rule_holds(home: Path, text: str, problem: str) -> None:
    path = home / "tuning" / "cpu.json"
    path.parent.mkdir()
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=problem) as caught:
        engine_choice.read_table(path)
    assert str(path) in str(caught.value)
    assert "--tune" in str(caught.value)
    with pytest.warns(RuntimeWarning, match="cut by the rule"):
        assert best_choice(torch.float32, 1, (20, 20, 3, 3), (8, 8)) == RULE


@pytest.mark.parametrize(
    "change",
    [
        {"chunk_bytes": -1},
        {"chunk_bytes": 1 << 31},
        {"chunk_bytes": 1.5},
        {"groups_inside": 2},
        {"groups_inside": True},
        {"together": 1},
    ],
)
def test_choices_that_do_not_exist_are_refused(home: Path, change: dict[str, object]) -> None:
    path = home / "table.json"
    write(path, [{**SHAPES[0]._asdict(), "choice": {**vars(RULE), **change}}])
    with pytest.raises(DataError, match=next(iter(change))):
        engine_choice.read_table(path)


def test_the_shipped_table_is_sound() -> None:
    path = Path(engine_choice.__file__).parent / "tuning" / "cpu.json"
    if not path.is_file():
        pytest.skip("no table is shipped")
    isa, table = engine_choice.read_table(path)
    assert isa == "amx"
    assert set(tuning.layer_shapes([torch.bfloat16, torch.float32])) == set(table)


def test_images_do_not_depend_on_the_choice(home: Path) -> None:
    torch.manual_seed(0)
    network = StyleGAN2Generator(
        GeneratorConfig(64, channel_base=4096, channel_max=128, z_dim=32, w_dim=32, mapping_layers=1)
    )
    network.eval().requires_grad_(False)
    ws = torch.randn(3, network.num_ws, 32)
    config = network.config
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        if engine_dtype(ws, dtype) != dtype:
            continue
        images = []
        for choice in (RULE, Choice(1 << 14, 0, True), Choice(1 << 20, 1, False)):
            layers = []
            for before, size in zip((None, *config.sizes), config.sizes, strict=False):
                channels = config.channels(size)
                layers.append(row(LayerShape(name, 1, channels, channels, *size), choice))
                if before is not None:
                    layers.append(
                        row(LayerShape(name, 2, config.channels(before), channels, *before), choice)
                    )
            write(home / "tuning" / "cpu.json", layers)
            images.append(network.synthesis(ws, noise_mode="const", precision=name))
        torch.testing.assert_close(images[1], images[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(images[2], images[0], rtol=0, atol=1e-5)
