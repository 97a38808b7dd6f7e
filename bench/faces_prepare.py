"""How fast a folder of photographs is prepared, and what the time goes into."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from pyface.data import ProceduralFaces
from pyface.data.face_crops import CropSettings
from pyface.data.prepare import prepare
from pyface.io.images import write_image

SIZE, SEED, BATCH = 256, 9, 32


def preparation(*, quick: bool, threads: int) -> dict[str, Any]:
    """Photographs per second of `pyface data prepare` on rendered faces, and the share of each stage.

    2,000 pictures of 256 pixels (64 when quick), FFHQ alignment at 256 and 64 pixels, identity features,
    `threads` workers.
    """
    count = 64 if quick else 2000
    faces = ProceduralFaces(count, 1, SIZE, ("vis",), seed=SEED)
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "photographs"
        raw.mkdir()
        for start in range(0, count, BATCH):
            part = range(start, min(start + BATCH, count))
            for number, image in zip(part, faces.images(part), strict=True):
                write_image(raw / f"{number:06d}_000.png", image, compression=1, sync=False)
        report = prepare(raw, Path(folder) / "out", CropSettings(SIZE, also=(64,)), workers=threads)
    facts = report.to_dict()
    chosen = ("photographs", "faces", "rejected", "photographs_per_second", "stage_shares")
    milliseconds = {name: round(1e3 * spent / count, 2) for name, spent in facts["stages"].items()}
    return {"size": SIZE, "workers": threads, "milliseconds": milliseconds} | {k: facts[k] for k in chosen}
