"""What a run has left in its folder, read for a report."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from pyface.errors import DataError
from pyface.io.images import read_image
from pyface.training import events, statistics

__all__ = ["RunFolder", "Sheet", "SheetRow", "data_uri", "read_run", "spread_over"]

CHECKPOINTS = 12  # sheets of a kind in a report: the first, the last, and others evenly between them
SHEET_WIDTH = 1100
_SHEET = re.compile(r"(fakes)-(init|\d+)(?:-([A-Za-z]\w*))?\.png|(reals)(?:-([A-Za-z]\w*))?\.png")


@dataclass(frozen=True)
class Sheet:
    """A picture of a run, when it was made ("start", "120 kimg"), and the one without average."""

    path: Path
    label: str
    raw: Path | None = None


@dataclass(frozen=True)
class SheetRow:
    """The sheets of one kind ("fakes" or "reals") and spectrum, oldest first."""

    kind: str
    spectrum: str
    sheets: Sequence[Sheet]


@dataclass(frozen=True)
class RunFolder:
    """name of the folder, configuration (recipe.json), records (stats.jsonl), events, and sheets."""

    name: str
    configuration: dict[str, Any]
    records: list[dict[str, Any]]
    events: list[dict[str, Any]]
    sheets: list[SheetRow]

    @property
    def columns(self) -> list[str]:
        """Names of all columns with numbers, in the order of their first appearance."""
        found: dict[str, None] = {}
        for record in self.records:
            for name, value in record.items():
                if name != "kimg" and isinstance(value, int | float) and not isinstance(value, bool):
                    found.setdefault(name)
        return list(found)

    def column(self, name: str) -> tuple[list[float], list[float]]:
        """kimg and values of a column, where it has some."""
        pairs = [(r["kimg"], r[name]) for r in self.records if isinstance(r.get(name), int | float)]
        return [float(k) for k, _ in pairs], [float(v) for _, v in pairs]

    @property
    def span(self) -> tuple[float, float]:
        """From which to which kimg the curves go: from 0, but for records that begin late."""
        kimg = [float(r["kimg"]) for r in self.records]
        late = len(kimg) > 8 and min(kimg) > 0.5 * max(kimg)
        return (min(kimg) if late else 0.0), max(kimg)

    @property
    def state(self) -> str:
        """ "finished", "interrupted", "failed", or "running" when the run did not say how it ended."""
        ends = {"finished", "interrupted", "failed"}
        last = next((e["event"] for e in reversed(self.events) if e.get("event") != "warning"), "")
        return last if last in ends else "running"


def read_run(folder: Path) -> RunFolder:
    """Read a run. Raises DataError when the folder holds none."""
    records = [r for r in statistics.read_records(folder / statistics.FILE) if "kimg" in r]
    if not records and not (folder / "recipe.json").exists():
        raise DataError(
            f"{folder} holds no run: neither stats.jsonl nor recipe.json is there. "
            "Give the folder that was --out of pyface train."
        )
    configuration: dict[str, Any] = {}
    if (folder / "recipe.json").exists():
        try:
            configuration = dict(json.loads((folder / "recipe.json").read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise DataError(f"{folder / 'recipe.json'} is damaged ({error}); remove it.") from error
    history = statistics.read_records(folder / events.FILE)
    begins = [i for i, event in enumerate(history) if event.get("event") == "started"]
    history = history[begins[-1] :] if begins else history  # of a used folder the last run alone
    return RunFolder(folder.resolve().name, configuration, records, history, _sheets(folder))


def _sheets(folder: Path) -> list[SheetRow]:
    found: dict[tuple[str, str], list[tuple[int, Sheet]]] = {}
    for path in sorted(folder.glob("*.png")):
        match = _SHEET.fullmatch(path.name)
        if match is None:
            continue
        kind, when, spectrum = match[1] or match[4], match[2] or "", match[3] or match[5] or ""
        kimg = int(when) if when.isdigit() else -1
        label = "" if kind == "reals" else "start" if kimg < 0 else f"{kimg} kimg"
        raw = path.with_name(path.name.replace("fakes", "raw", 1)) if kind == "fakes" else path
        sheet = Sheet(path, label, raw if raw != path and raw.exists() else None)
        found.setdefault((kind, spectrum), []).append((kimg, sheet))
    order = ("fakes", "reals")
    return [
        SheetRow(kind, spectrum, spread_over([sheet for _, sheet in sorted(rows, key=lambda r: r[0])]))
        for (kind, spectrum), rows in sorted(
            found.items(), key=lambda item: (item[0][1], order.index(item[0][0]))
        )
    ]


def spread_over(sheets: Sequence[Sheet], count: int = CHECKPOINTS) -> list[Sheet]:
    """At most `count` of them, the first and the last included, at even distances."""
    if len(sheets) <= count:
        return list(sheets)
    return [sheets[round(i * (len(sheets) - 1) / (count - 1))] for i in range(count)]


def data_uri(path: Path) -> str:
    """A picture as the text of an image source: WebP, at most SHEET_WIDTH wide."""
    image = Image.fromarray(read_image(path)).convert("RGB")
    if image.width > SHEET_WIDTH:
        height = round(image.height * SHEET_WIDTH / image.width)
        image = image.resize((SHEET_WIDTH, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=84)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
