"""The tables of CelebA: a name and whole numbers in each row, read at some hundred thousand rows a second.

| table | before the rows | a row |
|--|--|--|
| list_attr_celeba | count; 40 names | 000001.jpg -1 1 ... (spaces vary) |
| list_landmarks_align_celeba | count; lefteye_x lefteye_y righteye_x ... | 000001.jpg 69 109 ... |
| list_bbox_celeba | count; image_id x_1 y_1 width height | 000001.jpg 95 71 226 313 |
| identity_CelebA | nothing | 000001.jpg 2880 |
| list_eval_partition | nothing | 000001.jpg 0 |

Liu, Luo, Wang, Tang: "Deep learning face attributes in the wild", ICCV 2015. As .csv (Kaggle) the cells are
divided by commas, there is no count, and the first line has names in every table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt

from pyface.data.problems import Problems

__all__ = ["CELEBA_ATTRIBUTES", "COLUMNS", "Table", "read_table"]

CELEBA_ATTRIBUTES = (
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips",
    "Big_Nose", "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin",
    "Eyeglasses", "Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open",
    "Mustache", "Narrow_Eyes", "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline",
    "Rosy_Cheeks", "Sideburns", "Smiling", "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat",
    "Wearing_Lipstick", "Wearing_Necklace", "Wearing_Necktie", "Young",
)  # fmt: skip

# table -> its columns behind the name
COLUMNS = {
    "list_attr_celeba": CELEBA_ATTRIBUTES,
    "list_landmarks_align_celeba": (
        "lefteye_x", "lefteye_y", "righteye_x", "righteye_y", "nose_x", "nose_y",
        "leftmouth_x", "leftmouth_y", "rightmouth_x", "rightmouth_y",
    ),
    "list_bbox_celeba": ("x_1", "y_1", "width", "height"),
    "identity_CelebA": ("identity",),
    "list_eval_partition": ("partition",),
}  # fmt: skip

_PICTURES = (".jpg", ".jpeg", ".png")
_HEADED = ("list_attr_celeba", "list_landmarks_align_celeba", "list_bbox_celeba")
_LONGEST = 9  # digits that fit into int32 without a check
_BLOCK = 2**18


@dataclasses.dataclass
class Table:
    """The sound rows of a table.

    Attributes:
        source: its file.
        names: of the pictures, as the table has them.
        values: int32 [N, C], columns in the order of `COLUMNS`.
        lines: int64 [N], line of each row, from 1.
        bad: names of pictures whose row is there but cannot be used.
    """

    source: str
    names: list[str]
    values: npt.NDArray[np.int32]
    lines: npt.NDArray[np.int64]
    bad: set[str]

    def stems(self) -> list[str]:
        """The names without suffix, as the pictures of the PNG variant are called in the same tables."""
        return [name.rpartition(".")[0] or name for name in self.names]


def read_table(source: str, content: bytes, problems: Problems) -> Table | None:
    """The table in a file; None when nothing of it can be used. What is wrong with it is noted.

    Args:
        source: name of the file, which says what table it is.
        content: its bytes.
        problems: takes what is wrong: codes "header", "count", "row", "value" and "twice".
    """
    content = content.removeprefix(b"\xef\xbb\xbf")
    kind = PurePosixPath(source).stem
    count, header, begin = _head(content)
    order = _order(source, kind, header, begin, problems)
    if order is None:
        return None
    names: list[str] = []
    bad: set[str] = set()
    values = [np.zeros((0, len(order)), np.int32)]
    lines = [np.zeros(0, np.int64)]
    rows = 0
    for words, first_line in _blocks(content):
        taken = np.flatnonzero(words.per_line)
        taken = taken[begin:] if first_line == 0 else taken
        rows += len(taken)
        block = _rows(source, kind, words, taken, order, first_line + 1, problems)
        names += block.names
        bad |= block.bad
        values.append(block.values)
        lines.append(block.lines)
    if count is not None and count != rows:
        problems.add(source, 1, "count", f"says {count} rows and has {rows}")
    return _without_twins(Table(source, names, np.concatenate(values), np.concatenate(lines), bad), problems)


def _blocks(content: bytes) -> Iterator[tuple[_Words, int]]:
    """Some lines at a time, few enough to stay in the processor's cache, and the number of lines before."""
    start = line = 0
    while start < len(content):
        end = content.find(b"\n", start + _BLOCK) + 1 or len(content)
        words = _Words(content[start:end])
        yield words, line
        start, line = end, line + content.count(b"\n", start, end)


def _rows(
    source: str,
    kind: str,
    words: _Words,
    rows: npt.NDArray[np.int64],
    order: Sequence[int],
    first_line: int,
    problems: Problems,
) -> Table:
    """The sound ones of the lines `rows` of `words`, whose first line has the number `first_line`."""
    columns = COLUMNS[kind]
    names = words.texts(words.first[rows])
    whole = words.per_line[rows] == 1 + len(columns)
    bad = set()
    for row in np.flatnonzero(~whole).tolist():
        bad.add(names[row])
        reason = f"{names[row]} has {words.per_line[rows[row]]} cells; wanted are {1 + len(columns)}"
        problems.add(source, int(rows[row]) + first_line, "row", reason)
    kept = np.flatnonzero(whole)
    cells = words.first[rows[kept], None] + 1 + np.asarray(order)
    values, numbers = words.whole_numbers(cells)
    numbers &= _in_range(kind, values)
    for row, column in _first_bad(numbers):
        name = names[kept[row]]
        bad.add(name)
        came = words.texts(cells[row, column : column + 1])[0]
        reason = f"{columns[column]} of {name} is {came!r:.40}; {_wanted(kind)}"
        problems.add(source, int(rows[kept[row]]) + first_line, "value", reason)
    sound = np.flatnonzero(numbers.all(axis=1))
    lines = rows[kept[sound]] + first_line
    return Table(source, [names[i] for i in kept[sound].tolist()], values[sound], lines, bad)


def _first_bad(numbers: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """(row, column) of the first bad cell of each bad row."""
    rows = np.flatnonzero(~numbers.all(axis=1))
    return list(zip(rows.tolist(), (~numbers[rows]).argmax(axis=1).tolist(), strict=True))


def _in_range(kind: str, values: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    if kind == "list_attr_celeba":
        return (values == 1) | (values == -1)
    if kind == "list_eval_partition":
        return (values >= 0) & (values <= 2)
    if kind == "identity_CelebA":
        return values >= 0
    return np.ones(values.shape, bool)


def _wanted(kind: str) -> str:
    allowed = {
        "list_attr_celeba": "1 or -1",
        "list_eval_partition": "0, 1 or 2",
        "identity_CelebA": "a whole number from 0",
    }
    return f"it must be {allowed.get(kind, 'a whole number')}"


def _without_twins(table: Table, problems: Problems) -> Table:
    """The table with the first row of each picture."""
    if len(set(table.names)) == len(table.names):
        return table
    first: dict[str, int] = {}
    for row, name in enumerate(table.names):
        if first.setdefault(name, row) != row:
            before = int(table.lines[first[name]])
            problems.add(
                table.source,
                int(table.lines[row]),
                "twice",
                f"{name} stands in line {before} too; that counts",
            )
    kept = list(first.values())
    return Table(table.source, list(first), table.values[kept], table.lines[kept], table.bad)


def _head(content: bytes) -> tuple[int | None, list[str] | None, int]:
    """The count and the names that stand before the rows, where they do, and the number of these lines."""
    words = _Words(b"\n".join(content[:8192].split(b"\n")[:4]))
    count = None
    used = 0
    for line in np.flatnonzero(words.per_line)[:2].tolist():
        cells = words.texts(words.first[line] + np.arange(words.per_line[line]))
        if used == 0 and len(cells) == 1 and cells[0].isascii() and cells[0].isdigit():
            count = int(cells[0])
            used = 1
        elif not cells[0].lower().endswith(_PICTURES):
            return count, cells[1:] if cells[0] == "image_id" else cells, used + 1
        else:
            break
    return count, None, used


def _order(
    source: str, kind: str, header: list[str] | None, lines: int, problems: Problems
) -> Sequence[int] | None:
    """Where each of the table's columns stands in its rows; None when that is not known."""
    columns = COLUMNS[kind]
    if header is None:
        if kind in _HEADED:
            problems.add(source, 1, "header", f"has no line with the names of its {len(columns)} columns")
            return None
        return range(len(columns))
    if set(header) == set(columns) and len(header) == len(columns):
        return [header.index(name) for name in columns]
    if len(columns) == 1 and len(header) == 1:
        return [0]
    missing = [name for name in columns if name not in header]
    strange = [name for name in header if name not in columns]
    told = "; ".join(
        f"{word} {', '.join(names[:5])}" for word, names in (("lacks", missing), ("has", strange)) if names
    )
    reason = f"must name its {len(columns)} columns, names {len(header)}{'; ' if told else ''}{told}"
    problems.add(source, lines, "header", reason)
    return None


class _Words:
    """The words of a text, whatever stands between them: blanks, commas, quotes.

    Attributes:
        per_line: int64 [lines], number of words.
        first: int64 [lines], position of the line's first word among all words.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._bytes = np.frombuffer(content, np.uint8)
        inside = (self._bytes > 32) & (self._bytes != ord(",")) & (self._bytes != ord('"'))
        edges = np.flatnonzero(np.diff(inside, prepend=False, append=False))
        self._starts, self._ends = edges[::2], edges[1::2]
        line_ends = np.append(np.flatnonzero(self._bytes == ord("\n")), len(content))
        after = np.searchsorted(self._starts, line_ends)
        self.first = np.concatenate([[0], after[:-1]])
        self.per_line = after - self.first

    def texts(self, which: npt.NDArray[np.int64]) -> list[str]:
        """Words by position."""
        bounds = zip(self._starts[which].tolist(), self._ends[which].tolist(), strict=True)
        if self._content.isascii():
            text = self._content.decode("ascii")
            return [text[a:b] for a, b in bounds]
        return [self._content[a:b].decode("utf-8", "replace") for a, b in bounds]

    def whole_numbers(
        self, which: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        """Words by position as numbers: int32 of the same shape, and whether they are whole numbers."""
        start = self._starts[which]
        length = self._ends[which] - start
        negative = self._bytes[start] == ord("-") if start.size else np.zeros(start.shape, bool)
        start += negative
        length -= negative
        proper = (length >= 1) & (length <= _LONGEST)
        values = np.zeros(start.shape, np.int32)
        for place in range(min(int(length.max(initial=0)), _LONGEST)):
            active = place < length
            digit = self._bytes[np.where(active, start + place, 0)].astype(np.int32) - ord("0")
            proper &= ~active | ((digit >= 0) & (digit <= 9))
            values = np.where(active, values * 10 + digit, values)
        return np.where(negative, -values, values), proper
