"""Recipes from defaults, a TOML file and `key=value` texts; their description; what a resumed run may change.

A recipe is a frozen dataclass whose fields are made by `setting`. Everything here works on any of them, so a
new recipe needs neither code for its options nor for its files.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyface.errors import CheckpointError, DataError, ValueRangeError

__all__ = [
    "Setting",
    "changes",
    "check_fields",
    "checked",
    "describe",
    "from_plain",
    "parse_settings",
    "plain",
    "read_toml",
    "resolve",
    "setting",
    "settings",
    "shown",
    "to_toml",
]


@dataclass(frozen=True)
class Setting:
    """One field of a recipe.

    meaning: one line for people. kind: its type. choices: the only values, when there are few. above, least,
    most: bounds of a number. changeable: whether a resumed run may have another value. option: its name on
    the command line, without dashes.
    """

    name: str
    meaning: str
    kind: Any
    default: Any
    choices: tuple[Any, ...] = ()
    above: float | None = None
    least: float | None = None
    most: float | None = None
    changeable: bool = False
    option: str = ""

    @property
    def allowed(self) -> str:
        """What the field may be, in words."""
        if self.choices:
            return f"one of {', '.join(str(choice) for choice in self.choices)}"
        words = _allowed(self.kind)
        if self.above is not None:
            words += f" greater than {self.above:g}"
        if self.least is not None:
            words += f", {self.least:g} or more"
        if self.most is not None:
            words += f", at most {self.most:g}"
        return words


def setting(
    default: Any,
    meaning: str,
    *,
    choices: Sequence[Any] = (),
    above: float | None = None,
    least: float | None = None,
    most: float | None = None,
    changeable: bool = False,
    option: str = "",
) -> Any:
    """A dataclass field with its default and its meaning; the arguments are those of `Setting`."""
    about: dict[str, Any] = {"meaning": meaning, "choices": tuple(choices), "option": option}
    about |= {"above": above, "least": least, "most": most, "changeable": changeable}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=about)
    return dataclasses.field(default=default, metadata=about)


def settings(recipe: type) -> dict[str, Setting]:
    """Every field of a recipe class, by name, in order."""
    kinds = typing.get_type_hints(recipe)
    found = {}
    for field in dataclasses.fields(recipe):
        made = field.default_factory
        default = field.default if made is dataclasses.MISSING else made()
        about = {"meaning": "", "option": "", **field.metadata}
        about["option"] = about["option"] or field.name.replace("_", "-")
        found[field.name] = Setting(field.name, kind=kinds[field.name], default=default, **about)
    return found


def resolve(recipe: type, *layers: Mapping[str, Any]) -> Any:
    """The recipe made of its defaults and of layers of {field: value}, of which later ones win.

    Raises ValueRangeError for an unknown field (naming the nearest), a value of another type, and for what
    the recipe itself refuses.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        merged.update(layer)
    return recipe(**checked(recipe, merged))


def checked(recipe: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as the recipe's types (lists as tuples, whole numbers as floats where floats are meant)."""
    known = settings(recipe)
    found = [(_named(known, name), value) for name, value in values.items()]
    return {target.name: _typed(target, value) for target, value in found}


def check_fields(recipe: Any) -> None:
    """Give every field of a recipe the type that it declares; for `__post_init__`.

    Raises ValueRangeError with the field, what came and what is allowed.
    """
    for name, each in settings(type(recipe)).items():
        object.__setattr__(recipe, name, _typed(each, getattr(recipe, name)))


def from_plain(recipe: type, values: Mapping[str, Any]) -> Any:
    """The recipe that `plain` wrote. Raises ValueRangeError as `resolve` does."""
    return resolve(recipe, values)


def plain(recipe: Any) -> dict[str, Any]:
    """The recipe as values that JSON can hold."""
    return {field.name: _json(getattr(recipe, field.name)) for field in dataclasses.fields(recipe)}


def _json(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_json(item) for item in value]
    return {key: _json(item) for key, item in value.items()} if isinstance(value, Mapping) else value


def read_toml(path: str | Path) -> dict[str, Any]:
    """What a TOML file holds. Raises DataError when it is absent, ValueRangeError when it is no TOML."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}). --config takes a TOML file.") from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueRangeError(f"{path} is no valid TOML: {error}. A line is `name = value`.") from error


def parse_settings(recipe: type, texts: Iterable[str]) -> dict[str, Any]:
    """{field: value} of "field=value" texts, read by each field's type; the last of a field counts.

    Numbers as Python writes them, true or false, none, texts without quotes; tuples as 4,4; sizes also as
    80x64 or 64; dictionaries as vis=3,nir=1. Raises ValueRangeError for a text without =, an unknown field or
    a value of another type.
    """
    known = settings(recipe)
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueRangeError(f"--set takes field=value, such as batch=16; got {text!r}.")
        target = _named(known, name.strip())
        found[target.name] = _typed(target, _read(target.kind, value.strip()), text=value.strip())
    return found


def _named(known: Mapping[str, Setting], name: str) -> Setting:
    name = name.replace("-", "_")
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    near += [other for other in known if name in other and other not in near]
    hint = f"; nearest: {', '.join(near[:5])}" if near else ""
    raise ValueRangeError(f"the recipe has no field {name!r}{hint}. --help-config lists all of them.")


_UNREADABLE = object()
Size = tuple[int, int]


def _read(kind: Any, text: str) -> Any:
    """The value of `kind` that a text stands for, or _UNREADABLE."""
    parts = typing.get_args(kind)
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        options = (_read(part, text) for part in sorted(parts, key=lambda part: part is str))
        return next((value for value in options if value is not _UNREADABLE), _UNREADABLE)
    if kind is type(None):
        return None if text.lower() in ("none", "null", "") else _UNREADABLE
    if kind is bool:
        words = {"true": True, "yes": True, "on": True, "1": True}
        words |= {"false": False, "no": False, "off": False, "0": False}
        return words.get(text.lower(), _UNREADABLE)
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            return _UNREADABLE
    if typing.get_origin(kind) is tuple:
        text = text.lower().replace("x", ",") if kind == Size else text
        items = [item.strip(" '\"") for item in text.strip("()[] ").split(",") if item.strip(" '\"")]
        items = items * 2 if kind == Size and len(items) == 1 else items
        each = [parts[0]] * len(items) if parts[-1] is ... else list(parts)
        if len(items) != len(each):
            return _UNREADABLE
        return _all_read([_read(one, item) for one, item in zip(each, items, strict=True)], tuple)
    if typing.get_origin(kind) is dict:
        pairs = [
            item.replace(":", "=").partition("=") for item in text.strip("{} ").split(",") if item.strip()
        ]
        values = [_read(parts[1], value.strip()) for _, _, value in pairs]
        keys = [key.strip(" '\"") for key, _, _ in pairs]
        return _all_read(values, lambda found: dict(zip(keys, found, strict=True)))
    return text


def _all_read(values: list[Any], make: Any) -> Any:
    return _UNREADABLE if any(value is _UNREADABLE for value in values) else make(values)


def _typed(target: Setting, value: Any, text: str | None = None) -> Any:
    """`value` as the field's type. Raises ValueRangeError with the field, what came and what is allowed."""
    found = value if value is _UNREADABLE else _fitted(target.kind, value)
    good = found is not _UNREADABLE and (not target.choices or found in target.choices)
    if good and isinstance(found, int | float) and not isinstance(found, bool):
        good = target.above is None or found > target.above
        good = good and (target.least is None or found >= target.least)
        good = good and (target.most is None or found <= target.most)
    if good:
        return found
    came = repr(text) if text is not None else repr(value)
    meaning = f" Meaning: {target.meaning.rstrip('.')}." if target.meaning else ""
    raise ValueRangeError(f"{target.name} must be {target.allowed}; got {came}.{meaning}")


def _fitted(kind: Any, value: Any) -> Any:
    """`value` converted where nothing is lost (list to tuple, int to float), else _UNREADABLE."""
    parts = typing.get_args(kind)
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        options = (_fitted(part, value) for part in parts)
        return next((found for found in options if found is not _UNREADABLE), _UNREADABLE)
    if kind is type(None):
        return None if value is None else _UNREADABLE
    if kind is float:
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        return float(value) if number else _UNREADABLE
    if kind is int:
        return value if isinstance(value, int) and not isinstance(value, bool) else _UNREADABLE
    if origin is tuple:
        if kind == Size and isinstance(value, int):
            value = (value, value)
        if not isinstance(value, tuple | list):
            return _UNREADABLE
        each = [parts[0]] * len(value) if parts[-1] is ... else list(parts)
        if len(each) != len(value):
            return _UNREADABLE
        return _all_read([_fitted(one, item) for one, item in zip(each, value, strict=True)], tuple)
    if origin is dict:
        if not isinstance(value, Mapping):
            return _UNREADABLE
        return _all_read(
            [_fitted(parts[1], item) for item in value.values()],
            lambda found: dict(zip(map(str, value), found, strict=True)),
        )
    return value if isinstance(value, kind) else _UNREADABLE


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _allowed(kind: Any) -> str:
    parts = typing.get_args(kind)
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("none" if part is type(None) else _allowed(part) for part in parts)
    if kind == Size:
        return "height and width as whole numbers, such as 80x64 or 64"
    if origin is tuple:
        many = "" if parts[-1] is ... else f"{len(parts)} "
        word = {int: "whole numbers", float: "numbers", str: "texts"}.get(parts[0], "values")
        return f"{many}{word} separated by commas"
    if origin is dict:
        return f"pairs of NAME={_WORDS.get(parts[1], 'value')}, separated by commas"
    return _WORDS.get(kind, str(kind))


def changes(recipe: type, stored: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """{field: (stored value, given value)} of what a resumed run does otherwise than it did before.

    stored: the recipe of the resume file as `plain` wrote it. given: what this call asks for.
    Raises CheckpointError, naming the fields, where one that must not change is given another value.
    """
    known = settings(recipe)
    old = plain(from_plain(recipe, stored))
    new = {name: _json(value) for name, value in checked(recipe, given).items()}
    found = {name: (old[name], value) for name, value in new.items() if value != old[name]}
    refused = [name for name in found if not known[name].changeable]
    if refused:
        said = "; ".join(f"{n} is {shown(found[n][0])}, asked for is {shown(found[n][1])}" for n in refused)
        free = ", ".join(name for name, each in known.items() if each.changeable)
        raise CheckpointError(
            f"the run to resume was started with another recipe: {said}. Leave these out to go on with the "
            f"stored ones, or start a new run from its weights with --start-from. May change: {free}."
        )
    return found


def shown(value: Any) -> str:
    """A value as TOML writes it; none for None, which TOML does not have."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {shown(item)}" for key, item in value.items()) + " }"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(shown(item) for item in value) + "]"
    return json.dumps(str(value), ensure_ascii=False)


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() else json.dumps(key)


def describe(recipe: type) -> str:
    """Every field with its default and its meaning, as a TOML file that `--config` takes."""
    return _toml({name: each.default for name, each in settings(recipe).items()}, recipe)


def to_toml(recipe: Any, heading: Mapping[str, Any] | None = None) -> str:
    """A resolved recipe as a TOML file that `--config` takes; `heading` is written before it."""
    lines = [f"{_key(name)} = {shown(value)}\n" for name, value in (heading or {}).items()]
    values = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}
    return "".join(lines) + ("\n" if lines else "") + _toml(values, type(recipe))


def _toml(values: Mapping[str, Any], recipe: type) -> str:
    lines = []
    for name, each in settings(recipe).items():
        lines += [f"# {each.meaning.rstrip('.')} ({each.allowed})\n"]
        lines += [f"# {name} =\n" if values[name] is None else f"{name} = {shown(values[name])}\n"]
    return "".join(lines)
