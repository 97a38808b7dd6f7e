"""Labels of pictures: what they are (class, multi-hot, vector), and the files they are read from.

| file | form |
|--|--|
| dataset.json | {"labels": [[NAME, CLASS or [numbers]], ...]}; the list may be an object, or null |
| labels.json | the same, or {NAME: ...} or [[NAME, ...], ...] alone; a class may be a word |
| labels.csv | a first line with the names of the columns; the first column names the file |
| labels.npy | whole numbers [N] or numbers [N, D], rows in the order of the sorted names |

dataset.json is the layout of NVIDIA's StyleGAN2; `label_names` and `label_kind` in it are read too. A reader
never stops at the first fault: it collects what is wrong with each entry and keeps the rest.
"""

from __future__ import annotations

import collections
import csv
import dataclasses
import functools
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pyface.data.problems import Problem
from pyface.data.tree import bare_name
from pyface.errors import ValueRangeError

__all__ = [
    "KINDS",
    "LABEL_FILES",
    "LabelFile",
    "LabelSchema",
    "dataset_json",
    "read_labels",
    "schema_of",
]

LABEL_FILES = ("dataset.json", "labels.json", "labels.csv", "labels.npy")
KINDS = ("none", "class", "multi-hot", "vector")
MAX_CLASSES = 65536

Value = int | npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class LabelSchema:
    """What the labels of a dataset are.

    Attributes:
        kind: "none"; "class": one of `names`, given to the networks as a one-hot vector; "multi-hot": each of
            `names` holds (1) or not (0); "vector": any numbers.
        names: what the entries of a label vector mean.
    """

    kind: str = "none"
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS or (self.kind == "none") != (not self.names):
            raise ValueRangeError(
                f"a label schema has one of the kinds {', '.join(KINDS)}, and names unless it is none; "
                f"got {self.kind!r} with {len(self.names)} names."
            )


@dataclasses.dataclass
class LabelFile:
    """The labels of one file: `rows` has a class or a vector for each picture whose label is sound."""

    source: str
    schema: LabelSchema
    rows: dict[str, Value]
    faults: list[Problem]

    def finder(self) -> Callable[[str], Value | None]:
        """A function that gives the label of a picture, by its name with or without the spectrum's folder."""
        bare = {bare_name(name): row for name, row in self.rows.items()}
        return lambda name: self.rows.get(name, bare.get(bare_name(name)))

    def vector(self, value: Value) -> npt.NDArray[np.float32]:
        """A row as float32 [len(schema.names)]; classes as one-hot."""
        if isinstance(value, np.ndarray):
            return value
        one_hot = np.zeros(len(self.schema.names), np.float32)
        one_hot[value] = 1.0
        return one_hot


def schema_of(table: npt.NDArray[np.float32], names: Sequence[str]) -> LabelSchema:
    """The schema that the label vectors [N, len(names)] have by their values.

    "class" when there are at least two entries and each vector has a single 1 and else zeros; "multi-hot"
    when all entries are 0 or 1; else "vector".
    """
    if not names:
        return LabelSchema()
    if not np.isin(table, (0.0, 1.0)).all():
        return LabelSchema("vector", tuple(names))
    one_hot = len(names) > 1 and len(table) > 0 and bool((table.sum(axis=1) == 1).all())
    return LabelSchema("class" if one_hot else "multi-hot", tuple(names))


def dataset_json(rows: Sequence[tuple[str, Value]], schema: LabelSchema) -> str:
    """Text of a dataset.json in NVIDIA's layout, and label_names and label_kind; classes as numbers."""
    if schema.kind == "none":
        return json.dumps({"labels": None}) + "\n"

    def plain(value: Value) -> int | list[float]:
        if not isinstance(value, np.ndarray):
            return int(value)
        if schema.kind == "class":
            return int(value.argmax())
        return [float(str(v)) for v in value]  # the shortest number that gives the same float32

    labels = ",\n".join(json.dumps([name, plain(value)]) for name, value in rows)
    names, kind = json.dumps(list(schema.names)), json.dumps(schema.kind)
    return f'{{"labels": [\n{labels}\n],\n"label_names": {names},\n"label_kind": {kind}}}\n'


def read_labels(name: str, content: bytes, pictures: Sequence[str]) -> LabelFile:
    """Labels of one of LABEL_FILES.

    Args:
        name: of the file; its suffix decides how it is read.
        content: its bytes.
        pictures: names of the pictures in order (the rows of labels.npy).
    """
    log = _Log(name)
    if name.endswith(".npy"):
        return _typed(_npy_entries(content, pictures, log), None, None, log)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        log.whole(f"is not UTF-8 text at line {line}: {error.reason}", line)
        return LabelFile(name, LabelSchema(), {}, log.faults)
    if name.endswith(".csv"):
        return _typed(*_csv_entries(text, set(pictures), log), log)
    return _typed(*_json_entries(text, log), log)


@dataclasses.dataclass(frozen=True)
class _Entry:
    file: str
    value: Any
    line: int | Callable[[], int | None] | None  # a function where it is only looked for when it is wanted


class _Log:
    """Collects what is wrong with one file of labels."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.faults: list[Problem] = []

    def whole(self, reason: str, line: int | None = None) -> None:
        self.faults.append(Problem("", line, "labels", f"{self.source} {reason}"[:400]))

    def entry(self, entry: _Entry, code: str, reason: str) -> None:
        line = entry.line() if callable(entry.line) else entry.line
        self.faults.append(Problem(entry.file, line, code, reason, self.source))


_Found = tuple[list[_Entry], Any, str | None]  # entries, names and kind where the file says them


def _npy_entries(content: bytes, pictures: Sequence[str], log: _Log) -> list[_Entry]:
    try:
        table = np.load(io.BytesIO(content), allow_pickle=False)
    except Exception as error:  # np.load raises whatever the damaged header leads to
        log.whole(f"is not a readable array of numbers: {error}")
        return []
    if not isinstance(table, np.ndarray) or table.dtype.kind not in "biuf" or table.ndim not in (1, 2):
        shape = list(getattr(table, "shape", []))
        log.whole(f"must hold numbers [N] or [N, D]; got {getattr(table, 'dtype', type(table))} {shape}")
        return []
    if len(table) != len(pictures):
        log.whole(
            f"has {len(table)} rows for {len(pictures)} pictures; it must have one row for each, in the "
            "order of the sorted names"
        )
        return []
    if not len(table):
        return []
    if table.ndim == 1 and table.dtype.kind in "iu":
        return [_Entry(name, int(v), None) for name, v in zip(pictures, table, strict=True)]
    with np.errstate(over="ignore"):
        rows = table.reshape(len(table), -1).astype(np.float32)
    return [_Entry(name, row, None) for name, row in zip(pictures, rows, strict=True)]


def _json_entries(text: str, log: _Log) -> _Found:
    try:
        content = json.loads(text)
    except ValueError as error:
        log.whole(f"is not JSON: {error}", getattr(error, "lineno", None))
        return [], None, None
    except RecursionError:
        log.whole("is not JSON that can be read: too many brackets in brackets")
        return [], None, None
    strict = log.source == "dataset.json"
    names = kind = None
    labels = content
    if isinstance(content, dict) and ("labels" in content or not content):
        labels, names, kind = content.get("labels"), content.get("label_names"), content.get("label_kind")
    elif strict:
        has = ", ".join(map(repr, list(content)[:3])) if isinstance(content, dict) else type(content).__name__
        log.whole(f'must be an object with "labels"; got {has}')
        return [], None, None
    if kind is not None and kind not in KINDS:
        log.whole(f'has the "label_kind" {kind!r}; it must be one of {", ".join(KINDS)}')
        kind = None
    pairs = list(labels.items()) if isinstance(labels, dict) else labels or []
    if not isinstance(pairs, list):
        log.whole(f'"labels" must be a list of [name, label] or an object; got {type(labels).__name__}')
        return [], None, None
    entries = []
    for number, pair in enumerate(pairs):
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not isinstance(pair[0], str):
            log.whole(
                f'"labels" must be a list of [name, label]; entry {number + 1} is {json.dumps(pair)[:80]}'
            )
            continue
        entry = _Entry(_clean(pair[0]), pair[1], functools.partial(_line_of, text, pair[0]))
        if strict and isinstance(pair[1], str):
            log.entry(entry, "label-form", f"class {pair[1]!r} is a word; dataset.json numbers its classes")
        else:
            entries.append(entry)
    return entries, names, kind


def _line_of(text: str, name: str) -> int | None:
    for quoted in (json.dumps(name), json.dumps(name, ensure_ascii=False)):
        if (position := text.find(quoted)) >= 0:
            return text.count("\n", 0, position) + 1
    return None


def _clean(name: str) -> str:
    return name.replace("\\", "/").removeprefix("./")


def _csv_entries(text: str, pictures: set[str], log: _Log) -> _Found:
    nothing: _Found = ([], None, None)
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=max(",;\t", key=text.split("\n", 1)[0].count)
    )
    rows: list[tuple[int, list[str]]] = []
    try:
        rows += [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(row)]
    except csv.Error as error:
        log.whole(f"cannot be read: {error}", reader.line_num)
        return nothing
    header = rows.pop(0)[1] if rows else []
    if len(header) < 2:
        log.whole("must have at least two columns, the file and a label", 1)
        return nothing
    if _clean(header[0]) in pictures:
        log.whole("must begin with a line that names the columns, such as file,class", 1)
        return nothing
    entries = []
    for line, row in rows:
        entry = _Entry(_clean(row[0]), row[1:], line)
        if len(row) == len(header):
            entries.append(entry)
        else:
            log.entry(entry, "label-length", f"has {len(row)} cells, the first line has {len(header)}")
    if len(header) == 2:
        cells = [entry.value[0] for entry in entries if entry.value[0]]
        if header[1].lower() in ("class", "label") or any(_number(cell) is None for cell in cells):
            numbered = all(cell.isascii() and cell.isdigit() for cell in cells)
            return [_csv_class(entry, numbered) for entry in entries], None, "class"
    numbers = [_csv_numbers(entry, header[1:], log) for entry in entries]
    return [entry for entry in numbers if entry is not None], header[1:], None


def _csv_class(entry: _Entry, numbered: bool) -> _Entry:
    cell = entry.value[0]
    return dataclasses.replace(entry, value=None if not cell else int(cell) if numbered else cell)


def _csv_numbers(entry: _Entry, names: Sequence[str], log: _Log) -> _Entry | None:
    numbers = [_number(cell) for cell in entry.value]
    if None not in numbers:
        return dataclasses.replace(entry, value=numbers)
    bad = numbers.index(None)
    log.entry(entry, "label-form", f"{names[bad]} is {entry.value[bad]!r}, not a number")
    return None


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _typed(entries: list[_Entry], names: Any, kind: str | None, log: _Log) -> LabelFile:
    """Sound rows of one kind; what does not agree with the others becomes a fault."""
    first: dict[str, _Entry] = {}
    for entry in entries:
        if entry.file in first:
            log.entry(entry, "label-twice", "has two labels; the first counts")
        else:
            first[entry.file] = entry
    forms = {name: _form(entry.value) for name, entry in first.items()}
    form = next(iter(collections.Counter(f for f in forms.values() if f).most_common(1)), (None,))[0]
    kept = {}
    for file, entry in first.items():
        if forms[file] is None:
            shown = f"{entry.value!r:.60}"
            log.entry(
                entry, "label-form", f"label is {shown}; it must be a class (0, 1, ...) or a list of numbers"
            )
        elif forms[file] != form:
            log.entry(
                entry, "label-form", f"label is a {forms[file]}, most are a {form}: the file mixes them"
            )
        else:
            kept[file] = entry
    if names is not None and not (isinstance(names, list) and len(set(map(str, names))) == len(names)):
        log.whole(f'has "label_names" that are not different names: {names!r}')
        names = None
    words = None if names is None else [str(name) for name in names]
    schema, rows = (_vectors if form == "vector" else _classes)(kept, words, kind, log)
    return LabelFile(log.source, schema, rows, log.faults)


def _form(value: Any) -> str | None:
    if isinstance(value, np.ndarray):
        return "vector"
    if isinstance(value, list):
        return "vector" if value and all(isinstance(v, int | float) for v in value) else None
    if isinstance(value, str):
        return "word"
    return "class" if isinstance(value, int) and not isinstance(value, bool) else None


def _classes(
    entries: Mapping[str, _Entry], names: list[str] | None, kind: str | None, log: _Log
) -> tuple[LabelSchema, dict[str, Value]]:
    if kind not in (None, "class") and entries:
        log.whole(f'says "label_kind": {kind!r} but holds classes')
    if any(isinstance(entry.value, str) for entry in entries.values()):
        names = names or sorted({entry.value for entry in entries.values()})
        number = {word: i for i, word in enumerate(names)}
        numbered = {file: number.get(entry.value, -1) for file, entry in entries.items()}
    else:
        numbered = {file: entry.value for file, entry in entries.items()}
    rows: dict[str, Value] = {}
    for file, value in numbered.items():
        entry = entries[file]
        if 0 <= value < (len(names) if names else MAX_CLASSES):
            rows[file] = value
        elif names:
            log.entry(
                entry, "label-range", f"class {entry.value} is not one of the {len(names)} that have names"
            )
        else:
            wrong = "negative" if value < 0 else "too large"
            reason = f"class {value} is {wrong}; number classes from 0, up to {MAX_CLASSES - 1}"
            log.entry(entry, "label-range", reason)
    if not rows:
        return LabelSchema(), rows
    names = names or [f"label{i}" for i in range(max(int(v) for v in rows.values()) + 1)]
    return LabelSchema("class", tuple(names)), rows


def _vectors(
    entries: Mapping[str, _Entry], names: list[str] | None, kind: str | None, log: _Log
) -> tuple[LabelSchema, dict[str, Value]]:
    width = collections.Counter(len(entry.value) for entry in entries.values()).most_common(1)[0][0]
    if names is not None and len(names) != width:
        log.whole(f'has "label_names" that must be {width} different names; got {names!r}')
        names = None
    names = names or [f"label{i}" for i in range(width)]
    rows: dict[str, Value] = {}
    for file, entry in entries.items():
        if len(entry.value) != width:
            log.entry(entry, "label-length", f"label has {len(entry.value)} numbers, most have {width}")
            continue
        vector = _float32(entry.value)
        bad = np.flatnonzero(~np.isfinite(vector))
        if len(bad):
            log.entry(entry, "label-not-finite", f"{names[bad[0]]} is {entry.value[bad[0]]!s:.40}")
        elif kind in ("class", "multi-hot") and not _is_hot(vector, kind):
            wanted = "a single 1 and zeros" if kind == "class" else "0 and 1 alone"
            log.entry(entry, "label-range", f"a {kind} label has {wanted}; got {entry.value!s:.60}")
        else:
            rows[file] = vector
    if not rows:
        return LabelSchema(), rows
    schema = schema_of(np.stack([np.asarray(row) for row in rows.values()]), names)
    return (LabelSchema(kind, tuple(names)) if kind not in (None, "none") else schema), rows


def _float32(values: Sequence[float] | npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    try:
        with np.errstate(over="ignore"):
            return np.asarray(values, np.float64).astype(np.float32)
    except OverflowError:  # a whole number beyond float64
        return np.full(len(values), np.inf, np.float32)


def _is_hot(vector: npt.NDArray[np.float32], kind: str) -> bool:
    return bool(np.isin(vector, (0, 1)).all() and (kind == "multi-hot" or vector.sum() == 1))
