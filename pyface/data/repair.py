"""A repaired copy of a dataset: every picture of one size and mode, every label sound; the original stays."""

from __future__ import annotations

import collections
import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from pyface.data.check import CheckReport, check, initial_size
from pyface.data.files import DatasetFiles, open_files, stem_of
from pyface.data.inspection import Picture
from pyface.data.labels import Value, dataset_json
from pyface.data.ordered import in_order
from pyface.data.packing import DatasetSink, new_dataset
from pyface.data.redraw import RESIZE_FILTERS, Redrawn, redraw, redraw_levels
from pyface.data.tree import DATASET_JSON, FOLDERS, LABELS, bare_name
from pyface.errors import DataError, ValueRangeError

__all__ = ["RepairReport", "Repaired", "legal_size", "repair"]

_FATAL = ("duplicate", "no-partner", "stray")


@dataclasses.dataclass(frozen=True)
class Repaired:
    """What became of one file: its name in the copy (None: left out) and what was done to it."""

    file: str
    into: str | None
    actions: tuple[str, ...]


@dataclasses.dataclass
class RepairReport:
    """What `repair` did. `size` is the height and width of all pictures of the copy."""

    out: str
    before: CheckReport
    size: tuple[int, int]
    files: list[Repaired] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """The report as JSON takes it."""
        return {
            "out": self.out,
            "size": {"height": self.size[0], "width": self.size[1]},
            "kept": sum(f.into is not None for f in self.files),
            "changed": sum(f.into is not None and bool(f.actions) for f in self.files),
            "left_out": sum(f.into is None for f in self.files),
            "files": [dataclasses.asdict(f) for f in self.files if f.actions],
            "notes": self.notes,
        }


@dataclasses.dataclass
class _Sample:
    """Pictures that belong together, by kind, the one with the label first."""

    bare: str
    pictures: dict[str, Picture]
    reason: str | None = None  # why it is left out
    label: Value | None = None
    record: dict[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class _Content:
    sample: _Sample
    pictures: dict[str, Redrawn]


def legal_size(height: int, width: int) -> tuple[int, int]:
    """The size itself when a StyleGAN2 can have it, else the square of 4 times a power of two next to it.

    Next to it: the largest that is at most 10 % larger than the shorter side.
    """
    if initial_size(height, width) is not None:
        return height, width
    side = 4
    while side * 2 <= 1.1 * min(height, width):
        side *= 2
    return side, side


def repair(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    resolution: tuple[int, int] | None = None,
    resize_filter: str = "lanczos",
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
    report: CheckReport | None = None,
) -> RepairReport:
    """Write a copy of a dataset that `check` finds nothing wrong with.

    Pictures that are right are copied byte for byte; others become PNG: turned upright, converted to RGB (or
    grey where most are), cut to the shape at their centre and resized. Unreadable and double pictures, those
    without partner, and those without a sound label where there are labels, are left out. Labels become
    dataset.json (and labels.jsonl where there was one).

    Args:
        source: folder or zip; never written to.
        out: new folder, or new .zip (uncompressed).
        resolution: (height, width) of all pictures; by default what most have, or the legal size next to it.
        resize_filter: "lanczos" or "box".
        workers: threads; all cores by default.
        progress: called with the number of pictures finished since the last call.
        report: of `check` of the same source, when it is there already.

    Raises:
        DataError: nothing can be kept, or `out` cannot be written or would touch the source.
        ValueRangeError: an unknown filter.
    """
    if resize_filter not in RESIZE_FILTERS:
        raise ValueRangeError(
            f"resize_filter must be one of {', '.join(RESIZE_FILTERS)}; got {resize_filter!r}."
        )
    with new_dataset(out, source) as sink:  # refuses before the work
        before = report or check(source, resolution=resolution, workers=workers)
        if before.expected is None:
            reasons = "; ".join(f"{f.file or source}: {f.reason}" for f in before.faults[:5])
            raise DataError(
                f"{source} has no picture that can be read ({reasons}); there is nothing to repair"
            )
        done = RepairReport(str(out), before, resolution or legal_size(*before.expected))
        samples = _samples(before, done)
        draw = _Drawing(open_files(source), done.size, before.grey, resize_filter)
        kept = _write(samples, draw, sink, done, workers or os.cpu_count() or 1, progress)
        if not kept:
            raise DataError(f"{source}: no picture is left after leaving out those that cannot be repaired")
        _write_labels(kept, before, sink, done)
    return done


def _samples(before: CheckReport, done: RepairReport) -> list[_Sample]:
    """The samples in order, with labels, and the reason for each that has to be left out."""
    wrong = collections.defaultdict(list)
    for fault in before.faults:
        wrong[fault.file].append(fault)
    spectra = [k for k in ("vis", "nir") if any(n.startswith(FOLDERS[k] + "/") for n in before.pictures)]
    groups: dict[str, dict[str, Picture]] = collections.defaultdict(dict)
    for picture in before.pictures.values():
        stray = next((f.reason for f in wrong[picture.name] if f.code in ("stray", "same-sample")), None)
        if stray:
            done.files.append(Repaired(picture.name, None, (f"left out: {stray}",)))
        else:
            members = groups[(stem_of if spectra else bare_name)(picture.name)]
            first = members.setdefault(picture.kind, picture)
            if first is not picture:
                done.files.append(
                    Repaired(picture.name, None, (f"left out: is the same sample as {first.name}",))
                )
    label_of = before.labels.finder() if before.labels is not None and before.labels.rows else None
    records = {bare_name(file): record for file, record in before.records.items()}
    samples = []
    for members in groups.values():
        chosen = {k: members[k] for k in (*(spectra or ["vis"]), "segmentation", "depth") if k in members}
        bare = bare_name(next(iter(chosen.values())).name)
        sample = _Sample(bare, chosen)
        main = [p for k, p in chosen.items() if k in ("vis", "nir")]
        faults = [f for p in main for f in wrong[p.name]]
        broken = [
            p.error[1] if len(main) == 1 else f"{p.name} {p.error[1]}" for p in main if p.error is not None
        ]
        fatal = [f.reason for f in faults if f.code in _FATAL]
        labels = [
            f.reason for p in main for n in (p.name, bare) for f in wrong[n] if f.code.startswith("label")
        ]
        if not main:
            sample.reason = "no picture belongs to it"
        elif broken or fatal:
            sample.reason = (broken or fatal)[0]
        else:
            if label_of is not None:
                sample.label = next(
                    (row for row in (label_of(p.name) for p in main) if row is not None), None
                )
            sample.record = records.get(bare)
            if (label_of is not None and sample.label is None) or (records and sample.record is None):
                sample.reason = (labels or ["has no label"])[0]
        samples.append(sample)
    return samples


class _Drawing:
    """Makes the pictures of a sample as they shall be; used by several threads."""

    def __init__(self, files: DatasetFiles, size: tuple[int, int], grey: bool, resize_filter: str) -> None:
        self.files, self.size, self.grey, self.filter = files, size, grey, resize_filter

    def __call__(self, sample: _Sample) -> _Content:
        if sample.reason is not None:
            return _Content(sample, {})
        made = {kind: self._one(picture, False) for kind, picture in sample.pictures.items()}
        changed = [kind for kind, picture in made.items() if picture.content is not None]
        suffixes = {PurePosixPath(picture.name).suffix for picture in sample.pictures.values()}
        if len(suffixes) > 1 or (changed and suffixes != {".png"}):  # one name for all: all become PNG
            made |= {k: self._one(p, True) for k, p in sample.pictures.items() if k not in changed}
        return _Content(sample, made)

    def _one(self, picture: Picture, anew: bool) -> Redrawn:
        if picture.error is not None:
            return Redrawn(None, (f"left out: {picture.error[1]}",), lost=True)
        data = self.files.read(picture.name)
        if picture.kind in ("segmentation", "depth"):
            return redraw_levels(data, picture, self.size, anew)
        grey = self.grey if picture.kind == "vis" else True
        return redraw(data, picture, self.size, grey, self.filter, anew)


@dataclasses.dataclass(frozen=True)
class _Kept:
    sample: _Sample
    names: dict[str, str]  # kind -> name in the copy
    drawn: dict[str, Redrawn]


def _write(
    samples: Sequence[_Sample],
    draw: _Drawing,
    sink: DatasetSink,
    done: RepairReport,
    workers: int,
    progress: Callable[[int], None] | None,
) -> list[_Kept]:
    kept = []
    taken: set[str] = {DATASET_JSON, LABELS}
    seen: dict[tuple[str, bytes], str] = {}
    for content in in_order(draw, samples, workers):
        sample, pictures = content.sample, content.pictures
        if progress:
            progress(len(sample.pictures))
        reason = sample.reason or _double(pictures, sample, seen)
        if reason is not None:
            done.files += [Repaired(p.name, None, (f"left out: {reason}",)) for p in sample.pictures.values()]
            continue
        anew = any(picture.content is not None for picture in pictures.values())
        bare, renamed = _free_name(sample.bare, anew, taken)
        names = {}
        for kind, redrawn in pictures.items():
            old = sample.pictures[kind].name
            if redrawn.lost:
                done.files.append(Repaired(old, None, redrawn.actions))
                continue
            names[kind] = f"{FOLDERS[kind]}/{bare}" if bare_name(old) != old else bare
            data = draw.files.read(old) if redrawn.content is None else redrawn.content
            sink.write(names[kind], data)
            actions = redrawn.actions + ((f"renamed: {renamed}",) if renamed else ())
            done.files.append(Repaired(old, names[kind], actions))
        kept.append(_Kept(sample, names, pictures))
    return kept


def _double(pictures: dict[str, Redrawn], sample: _Sample, seen: dict[tuple[str, bytes], str]) -> str | None:
    """Why a sample is the same as an earlier one, now that both are repaired."""
    digests = [
        (kind, redrawn.digest or sample.pictures[kind].digest, sample.pictures[kind].name)
        for kind, redrawn in pictures.items()
        if kind in ("vis", "nir")
    ]
    for kind, digest, _ in digests:
        if (kind, digest) in seen:
            return f"is the same picture as {seen[kind, digest]} once repaired"
    seen.update({(kind, digest): name for kind, digest, name in digests})
    return None


def _free_name(bare: str, anew: bool, taken: set[str]) -> tuple[str, str | None]:
    """A name that no other file has in any case of letters, and why more than its suffix changed."""
    plain = "".join(c if c.isprintable() and c != "\\" else "_" for c in bare)
    safe = PurePosixPath(*(part for part in PurePosixPath(plain).parts if part not in ("..", "/")))
    reason = None if str(safe) == bare else "its name could not be kept"
    name = safe.with_suffix(".png") if anew else safe
    number = 1
    while str(name).casefold() in taken:
        number += 1
        name = safe.with_name(f"{safe.stem}-{number}{'.png' if anew else safe.suffix}")
        reason = "the name is taken"
    taken.add(str(name).casefold())
    return str(name), reason


def _write_labels(kept: Sequence[_Kept], before: CheckReport, sink: DatasetSink, done: RepairReport) -> None:
    if before.labels is not None and before.labels.rows:
        rows = [(next(iter(k.names.values())), k.sample.label) for k in kept if k.sample.label is not None]
        sink.write(DATASET_JSON, dataset_json(rows, before.schema).encode())
        if before.labels.source != DATASET_JSON:
            done.notes.append(f"{before.labels.source} became {DATASET_JSON}")
    elif before.labels is not None:
        done.notes.append(f"{before.labels.source} has no label that can be used: the copy has none")
    if before.records:
        lines = [json.dumps(_moved_record(k, done)) + "\n" for k in kept if k.sample.record is not None]
        sink.write(LABELS, "".join(lines).encode())
    if before.ignored:
        done.notes.append(f"{len(before.ignored)} files that are not read were not copied")


def _moved_record(kept: _Kept, done: RepairReport) -> dict[str, Any]:
    """A record of labels.jsonl with the new names, its landmarks moved with the picture."""
    record = dict(kept.sample.record or {})
    first = next(iter(kept.names.values()))
    record["file"] = first
    if isinstance(record.get("files"), dict):
        record["files"] = kept.names
    drawn = kept.drawn[next(iter(kept.names))]
    if drawn.turned:
        lost = [key for key in ("landmarks", "pose") if record.pop(key, None)]
        if lost:
            done.notes.append(
                f"{first}: turned upright, so its {' and '.join(lost)} were left out of {LABELS}"
            )
    elif drawn.moved and isinstance(record.get("landmarks"), dict):
        left, top, scale_x, scale_y = drawn.moved
        record["landmarks"] = {
            scheme: np.round((np.asarray(points, float) - (left, top)) * (scale_x, scale_y), 2).tolist()
            for scheme, points in record["landmarks"].items()
        }
    return record
