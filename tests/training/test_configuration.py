"""Recipes from texts and files: every kind of value, every mistake, and what a resumed run may change."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass

import pytest

from pyface.errors import CheckpointError, DataError, ValueRangeError
from pyface.training.configuration import (
    changes,
    check_fields,
    describe,
    from_plain,
    parse_settings,
    plain,
    read_toml,
    resolve,
    setting,
    settings,
    to_toml,
)


@dataclass(frozen=True)
class Toy:
    """Has a field of every kind."""

    count: int = setting(3, "how many", least=1, most=9)
    rate: float = setting(0.5, "how fast", above=0, changeable=True)
    limit: float | None = setting(None, "where to stop; none: nowhere")
    loud: bool = setting(False, "whether it is heard")
    colour: str = setting("red", "which one", choices=("red", "blue"), option="hue")
    title: str = setting("a", "any text")
    size: tuple[int, int] = setting((4, 4), "height and width")
    decay: tuple[float, float] = setting((0.0, 0.9), "of both")
    names: tuple[str, ...] = setting((), "of the labels")
    spectra: dict[str, int] = setting({"vis": 3}, "channels of each")

    def __post_init__(self):
        check_fields(self)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("count=7", 7),
        ("rate=1e-3", 0.001),
        ("rate=2", 2.0),
        ("limit=none", None),
        ("limit=3", 3.0),
        ("loud=true", True),
        ("loud=off", False),
        ("colour=blue", "blue"),
        ("title=x = y, z", "x = y, z"),
        ("title=none", "none"),
        ("size=80x64", (80, 64)),
        ("size=(80, 64)", (80, 64)),
        ("size=64", (64, 64)),
        ("decay=0,0.99", (0.0, 0.99)),
        ("names=smile, glasses", ("smile", "glasses")),
        ("names=", ()),
        ("spectra=vis=3,nir=1", {"vis": 3, "nir": 1}),
        ("spectra={vis: 3}", {"vis": 3}),
    ],
)
def test_texts_are_read_by_the_type_of_the_field(text, value):
    name = text.partition("=")[0]
    found = parse_settings(Toy, [text])
    assert found == {name: value}
    assert type(found[name]) is type(value)
    assert getattr(resolve(Toy, found), name) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cuont=3", "no field 'cuont'; nearest: count"),
        ("zzz=3", "no field 'zzz'. --help-config"),
        ("count", "--set takes field=value"),
        ("count=3.5", "count must be a whole number, 1 or more, at most 9; got '3.5'. Meaning: how many."),
        ("count=0", "got '0'"),
        ("count=10", "got '10'"),
        ("rate=0", "a number greater than 0; got '0'"),
        ("rate=nan", "got 'nan'"),
        ("rate=inf", "got 'inf'"),
        ("limit=far", "a number or none; got 'far'"),
        ("loud=perhaps", "true or false"),
        ("colour=green", "one of red, blue; got 'green'"),
        ("size=4x4x4", "height and width as whole numbers"),
        ("decay=1", "2 numbers separated by commas"),
        ("spectra=vis", "pairs of NAME=a whole number"),
    ],
)
def test_bad_texts_are_named(text, words):
    with pytest.raises(ValueRangeError) as error:
        parse_settings(Toy, [text])
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "values",
    [
        {"count": True},
        {"count": "3"},
        {"rate": "fast"},
        {"loud": 1},
        {"title": 3},
        {"size": (4, 4, 4)},
        {"size": 4.5},
        {"names": "smile"},
        {"names": [1]},
        {"spectra": ["vis"]},
        {"spectra": {"vis": "3"}},
        {"limit": float("nan")},
    ],
)
def test_values_of_other_types_are_refused(values):
    (name,) = values
    with pytest.raises(ValueRangeError, match=f"{name} must be"):
        resolve(Toy, values)
    with pytest.raises(ValueRangeError, match=f"{name} must be"):
        Toy(**values)


def test_later_layers_win():
    assert resolve(Toy) == Toy()
    merged = resolve(Toy, {"count": 4, "rate": 0.1}, {"count": 5}, {"size": [8, 6], "limit": 2})
    assert merged == Toy(count=5, rate=0.1, size=(8, 6), limit=2.0)
    assert isinstance(merged.limit, float)


def test_descriptions_and_stored_recipes_are_configurations():
    assert resolve(Toy, tomllib.loads(describe(Toy))) == Toy()
    for each in settings(Toy).values():
        assert each.meaning in describe(Toy)
    assert settings(Toy)["colour"].option == "hue"
    assert settings(Toy)["count"].option == "count"
    changed = Toy(title='quo"ted \\ ü', names=("a", "b c"), limit=1e-9, loud=True, spectra={"a b": 1})
    values = tomllib.loads(to_toml(changed, {"recipe": "toy", "data": "x"}))
    assert (values.pop("recipe"), values.pop("data")) == ("toy", "x")
    assert resolve(Toy, values) == changed
    assert from_plain(Toy, plain(changed)) == changed
    assert plain(changed)["names"] == ["a", "b c"]


def test_bad_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"absent.toml cannot be read"):
        read_toml(tmp_path / "absent.toml")
    (tmp_path / "bad.toml").write_text("count = \n")
    with pytest.raises(ValueRangeError, match=r"bad.toml is no valid TOML: .*line 1"):
        read_toml(tmp_path / "bad.toml")


def test_a_resumed_run_may_change_only_what_is_marked():
    stored = plain(Toy(count=4))
    assert changes(Toy, stored, {"count": 4, "size": (4, 4)}) == {}
    assert changes(Toy, stored, {"rate": 0.25}) == {"rate": (0.5, 0.25)}
    with pytest.raises(CheckpointError) as error:
        changes(Toy, stored, {"count": 5, "limit": 3, "rate": 1})
    text = str(error.value)
    assert "count is 4, asked for is 5" in text
    assert "limit is none, asked for is 3.0" in text
    assert "May change: rate." in text
