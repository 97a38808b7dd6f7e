"""Everything that is wrong with a dataset on disk, file by file: what stands behind `pyface data check`."""

from __future__ import annotations

import collections
import dataclasses
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from pyface.data.files import IMAGE_SUFFIXES, DatasetFiles, ZipFiles, open_files, paired_files
from pyface.data.inspection import PICTURE_SUFFIXES, Picture, inspect, judge, looks_like_picture
from pyface.data.labels import LABEL_FILES, LabelFile, LabelSchema, read_labels
from pyface.data.ordered import in_order
from pyface.data.problems import Problem
from pyface.data.tree import CARD, FOLDERS, LABELS, bare_name, parse_records
from pyface.errors import DataError

__all__ = ["CheckReport", "check", "initial_size"]

_KINDS = {folder: kind for kind, folder in FOLDERS.items()}


@dataclasses.dataclass
class CheckReport:
    """What `check` found.

    Attributes:
        source: folder or zip.
        pictures: every picture file, by name, in order.
        faults: everything that is wrong, in order of files.
        ignored: files that are neither pictures nor labels, and are not read.
        expected: height and width that the pictures should have; None without a readable picture.
        grey: whether the pictures (of visible light) are grey.
        primary: names of the pictures that labels belong to.
        labels: the file of labels; None without one.
        records: labels.jsonl by the file that each record names.
    """

    source: str
    pictures: dict[str, Picture] = dataclasses.field(default_factory=dict)
    faults: list[Problem] = dataclasses.field(default_factory=list)
    ignored: list[str] = dataclasses.field(default_factory=list)
    expected: tuple[int, int] | None = None
    grey: bool = False
    primary: list[str] = dataclasses.field(default_factory=list)
    labels: LabelFile | None = None
    records: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return not self.faults

    @property
    def schema(self) -> LabelSchema:
        return self.labels.schema if self.labels is not None else LabelSchema()

    @property
    def bad_files(self) -> list[str]:
        """Names of all files with a fault, in order."""
        return sorted({fault.file for fault in self.faults if fault.file})

    def count(self, attribute: Callable[[Picture], Any]) -> collections.Counter[Any]:
        """How many readable pictures have each value of an attribute."""
        return collections.Counter(attribute(p) for p in self.pictures.values() if p.format)

    def balance(self) -> dict[str, dict[str, float]]:
        """Of each label name: how many pictures have it (class, multi-hot), or mean, std, min and max."""
        if self.labels is None or not self.labels.rows:
            return {}
        names = self.schema.names
        if self.schema.kind == "class":
            chosen = collections.Counter(
                int(row.argmax()) if isinstance(row, np.ndarray) else int(row)
                for row in self.labels.rows.values()
            )
            return {name: {"count": chosen[i]} for i, name in enumerate(names)}
        table = np.stack([self.labels.vector(row) for row in self.labels.rows.values()])
        if self.schema.kind == "multi-hot":
            return {name: {"count": int(n)} for name, n in zip(names, table.sum(axis=0), strict=True)}
        columns = table.T.astype(np.float64)
        return {
            name: {
                "mean": float(c.mean()),
                "std": float(c.std()),
                "min": float(c.min()),
                "max": float(c.max()),
            }
            for name, c in zip(names, columns, strict=True)
        }

    def plain(self) -> dict[str, Any]:
        """The report as JSON takes it."""
        height, width = self.expected or (None, None)
        return {
            "source": self.source,
            "ok": self.ok,
            "pictures": len(self.pictures),
            "bad_files": len(self.bad_files),
            "expected": None if height is None else {"height": height, "width": width},
            "sizes": {f"{h}x{w}": n for (h, w), n in self.count(lambda p: (p.height, p.width)).most_common()},
            "modes": dict(self.count(lambda p: p.mode).most_common()),
            "formats": dict(self.count(lambda p: p.format).most_common()),
            "labels": {
                "file": self.labels.source if self.labels else None,
                "kind": self.schema.kind,
                "names": list(self.schema.names),
                "rows": len(self.labels.rows) if self.labels else 0,
                "balance": self.balance(),
            },
            "faults": [dataclasses.asdict(fault) for fault in self.faults],
            "ignored": self.ignored,
        }


def check(
    source: str | os.PathLike[str],
    *,
    resolution: tuple[int, int] | None = None,
    square: bool = False,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> CheckReport:
    """Read and decode every picture of a folder or zip and every label, and list all that is wrong.

    Args:
        source: folder or .zip.
        resolution: (height, width) that is to be trained: pictures must have this size or a whole multiple of
            it, all the same one. By default the size that most pictures have.
        square: list each picture that is not square.
        workers: threads that decode; all cores by default.
        progress: called with the number of pictures read since the last call.

    Raises:
        DataError: the source does not exist. All else is in the report.
    """
    files = open_files(source)
    report = CheckReport(str(source))
    try:
        names = files.names()
    except DataError as error:
        report.faults.append(Problem("", None, "unreadable", str(error)))
        return report
    faults: list[Problem] = []
    found = _inspected(files, _picture_kinds(files, names, report), workers, progress)
    report.pictures = {picture.name: picture for picture in found}
    trees = {p.kind for p in found if p.name.startswith((FOLDERS["vis"] + "/", FOLDERS["nir"] + "/"))}
    first = "nir" if trees == {"nir"} else "vis"
    report.primary = [
        p.name
        for p in found
        if p.kind == first
        and p.name.lower().endswith(IMAGE_SUFFIXES)
        and (not trees or p.name.startswith(FOLDERS[first] + "/"))
    ]
    if not report.primary:
        faults.append(Problem("", None, "empty", f"has no picture ({', '.join(IMAGE_SUFFIXES)})"))
    sound = [p for p in found if p.error is None]
    report.expected = _expected_size([p for p in sound if p.kind in ("vis", "nir")], resolution)
    report.grey = _mostly_grey([p for p in sound if p.kind == "vis"])
    for picture in found:
        grey = report.grey if picture.kind == "vis" else True
        faults += [Problem(picture.name, None, code, reason) for code, reason in judge(picture, grey)]
        faults += [
            Problem(picture.name, None, *wrong) for wrong in _size_faults(picture, report, resolution, square)
        ]
    faults += _strays(found, trees)
    faults += _alike(found)
    faults += _odd_names(files, names)
    faults += _partners(found, trees)
    faults += _label_faults(files, set(names), report)
    faults += _record_faults(files, set(names), report)
    order = {name: i for i, name in enumerate(names)}
    report.faults = sorted(faults, key=lambda f: (f.file != "", order.get(f.file, len(order)), f.file))
    return report


def _picture_kinds(files: DatasetFiles, names: Sequence[str], report: CheckReport) -> list[tuple[str, str]]:
    """Names of pictures and their kinds; the rest that is neither known nor a picture is noted as ignored."""
    known = {*LABEL_FILES, LABELS, CARD}
    found = []
    for name in names:
        top, slash, _ = name.partition("/")
        kind = _KINDS.get(top, "vis") if slash else "vis"
        if name.lower().endswith(PICTURE_SUFFIXES):
            found.append((name, kind))
        elif name in known:
            continue
        elif looks_like_picture(files, name):
            found.append((name, kind))
        else:
            report.ignored.append(name)
    return found


def _inspected(
    files: DatasetFiles,
    wanted: Sequence[tuple[str, str]],
    workers: int | None,
    progress: Callable[[int], None] | None,
) -> list[Picture]:
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # what a decoder would say of a file becomes its fault, or is harmless
        for picture in in_order(lambda pair: inspect(files, *pair), wanted, workers or os.cpu_count() or 1):
            found.append(picture)
            if progress:
                progress(1)
    return found


def _expected_size(pictures: Sequence[Picture], resolution: tuple[int, int] | None) -> tuple[int, int] | None:
    sizes = collections.Counter((p.height, p.width) for p in pictures)
    if resolution is not None:
        height, width = resolution
        multiples = [s for s in sizes if s[0] % height == 0 and s[0] // height * width == s[1]]
        return max(multiples, key=lambda s: sizes[s]) if multiples else resolution
    return sizes.most_common(1)[0][0] if sizes else None


def _mostly_grey(pictures: Sequence[Picture]) -> bool:
    """Whether more pictures are grey than in colour; palettes count as colour."""
    return 2 * sum(p.grey for p in pictures) > len(pictures)


def _size_faults(
    picture: Picture, report: CheckReport, resolution: tuple[int, int] | None, square: bool
) -> Iterator[tuple[str, str]]:
    if picture.error is not None or report.expected is None:
        return
    height, width = report.expected
    had = f"is {picture.width} x {picture.height} (width x height)"
    if picture.width != picture.height and (square or (resolution is not None and height == width)):
        yield "not-square", f"{had}, not square"
    elif (picture.height, picture.width) != (height, width):
        wanted = "most are" if resolution is None else "wanted is"
        yield "size", f"{had}, {wanted} {width} x {height}"


def _strays(found: Sequence[Picture], trees: set[str]) -> Iterator[Problem]:
    for picture in found:
        if trees and not picture.name.startswith(tuple(f"{folder}/" for folder in _KINDS)):
            yield Problem(picture.name, None, "stray", "lies outside of VIS and NIR and is not read")


def _alike(found: Sequence[Picture]) -> Iterator[Problem]:
    """Pictures with the same bytes as an earlier one of their kind."""
    seen: dict[tuple[str, bytes], str] = {}
    for picture in found:
        if picture.kind in ("vis", "nir") and picture.length:
            first = seen.setdefault((picture.kind, picture.digest), picture.name)
            if first != picture.name:
                yield Problem(picture.name, None, "duplicate", f"has the same bytes as {first}")


def _odd_names(files: DatasetFiles, names: Sequence[str]) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for name in names:
        if not name.isprintable() or "\\" in name:
            yield Problem(name, None, "name", "has letters in its name that other systems cannot keep")
        first = seen.setdefault(name.casefold(), name)
        if first != name:
            reason = f"differs from {first} in upper and lower case only; some systems cannot keep both"
            yield Problem(name, None, "case", reason)
    if isinstance(files, ZipFiles):
        for name, count in collections.Counter(files.entries()).items():
            if count > 1:
                yield Problem(name, None, "twice", f"stands {count} times in the zip; the last one is read")


def _partners(found: Sequence[Picture], trees: set[str]) -> Iterator[Problem]:
    """Pictures that one spectrum has and the other lacks, and two of a spectrum that share a partner."""
    if trees != {"vis", "nir"}:
        return
    pictures = [p.name for p in found if p.name.startswith((FOLDERS["vis"] + "/", FOLDERS["nir"] + "/"))]
    yield from paired_files(pictures, ("vis", "nir"), "", suffixes=PICTURE_SUFFIXES)[2]


def _label_faults(files: DatasetFiles, names: set[str], report: CheckReport) -> Iterator[Problem]:
    found = []
    for name in LABEL_FILES:
        if name in names:
            try:
                found.append(read_labels(name, files.read(name), report.primary))
            except DataError as error:
                yield Problem(name, None, "labels", str(error))
    found = [labels for labels in found if labels.rows or labels.faults]
    for labels in found[1:]:
        yield Problem(labels.source, None, "labels", f"{found[0].source} holds labels too; keep one of them")
    if not found:
        return
    labels = report.labels = found[0]
    for fault in labels.faults:
        yield dataclasses.replace(fault, file=fault.file or labels.source)
    present = {*report.pictures, *map(bare_name, report.pictures)}
    accused = {bare_name(fault.file) for fault in labels.faults if fault.file}
    for file in labels.rows:
        if file not in present:
            yield Problem(
                file, None, "label-without-file", f"has a label in {labels.source} but is not there"
            )
    if not labels.rows:
        return
    label_of = labels.finder()
    for name in report.primary:
        if label_of(name) is None and bare_name(name) not in accused:
            yield Problem(name, None, "label-missing", f"has no label in {labels.source}")


def _record_faults(files: DatasetFiles, names: set[str], report: CheckReport) -> Iterator[Problem]:
    """What is wrong with labels.jsonl."""
    if LABELS not in names:
        return
    try:
        text = files.read(LABELS).decode("utf-8")
    except (DataError, UnicodeDecodeError) as error:
        yield Problem(LABELS, None, "labels", f"cannot be read as UTF-8 text: {error}")
        return
    for number, record in parse_records(text):
        if isinstance(record, str):
            yield Problem(LABELS, number, "labels", record)
            continue
        if record["file"] in report.records:
            yield Problem(record["file"], number, "label-twice", f"has two records in {LABELS}", LABELS)
            continue
        report.records[record["file"]] = record
        for file in dict.fromkeys((record["file"], *record.get("files", {}).values())):
            if file not in names:
                yield Problem(
                    file, number, "label-without-file", f"has a record in {LABELS} but is not there", LABELS
                )
    known = {bare_name(file) for file in report.records}
    for name in report.primary:
        if bare_name(name) not in known:
            yield Problem(name, None, "label-missing", f"has no record in {LABELS}")


def initial_size(height: int, width: int) -> tuple[int, int] | None:
    """The first layer's (height, width) of a StyleGAN2 for pictures of this size; None when there is none.

    (4, 4) for squares of 4 times a power of two; (5, 4) for 80 x 64. Both sides must be the same power of two
    times numbers up to 16.
    """
    doublings = min((height & -height).bit_length(), (width & -width).bit_length()) - 1
    small = height >> doublings, width >> doublings
    if doublings < 2 or max(small) > 16:
        return None
    while min(small) < 4 and doublings > 0:
        small, doublings = (small[0] * 2, small[1] * 2), doublings - 1
    return small
