"""How well embedders tell rendered people apart, and how long they take: prints tables, writes JSON.

    python bench/faces_identity.py --identities 200 --samples 5 --out identity.json

People, pose, light, expression and glasses are those that `ProceduralFaces` draws; every parameter of a
person lies inside its limits. Faces are aligned by the landmarks of the renderer ("truth") and by those of
the default detector and landmarker ("found"); how many faces were not found stands beside the rows.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pyface.data import ProceduralFaces
from pyface.faces import convert, load_detector, load_embedder, load_landmarker
from pyface.faces.align import align_batch
from pyface.faces.embed import distances
from pyface.faces.protocols import Detector, Embedder, Landmarker
from pyface.metrics import verification

EMBEDDERS = ("dlib", "dlib-rendered", "recognition-64")
SEED = 4
_PART = 50

Landmarks = list[dict[str, npt.NDArray[np.float32]] | None]


def measure(
    identities: int = 200,
    samples: int = 5,
    size: int = 160,
    sources: Sequence[str] = ("truth", "found"),
    seed: int = SEED,
) -> dict[str, Any]:
    """Rows of accuracy for every embedder and source of landmarks, with and without glasses.

    Args:
        identities: how many people.
        samples: pictures of each.
        size: of the pictures in pixels.
        sources: of the landmarks: "truth" and "found".
        seed: of the people.
    """
    faces = ProceduralFaces(identities, samples, size=size, spectra=("vis",), seed=seed)
    glasses = faces.draw().columns["glasses"] > 0.5
    who = np.repeat(np.arange(identities), samples)
    embedders = {name: load_embedder(name) for name in EMBEDDERS}
    run = {name: embedder for name, embedder in embedders.items() if name != "dlib-rendered"}
    vectors, missed = embed_pictures(faces, run, sources)
    project = embedders[
        "dlib-rendered"
    ].network.project  # of the vectors that dlib gave: the same as embedding
    for source in sources:
        found = vectors["dlib", source]
        vectors["dlib-rendered", source] = [None if one is None else project(one[None])[0] for one in found]
    rows = []
    for (name, source), found in sorted(vectors.items(), key=lambda item: EMBEDDERS.index(item[0][0])):
        seen = np.array([vector is not None for vector in found])
        for glasses_too in (True, False):
            chosen = seen if glasses_too else seen & ~glasses
            kept = torch.stack([vector for vector, keep in zip(found, chosen, strict=True) if keep])
            row = {"embedder": name, "landmarks": source, "glasses": glasses_too}
            rows.append(row | accuracy(embedders[name], kept, who[chosen]))
    about = {"identities": identities, "samples": samples, "size": size, "seed": seed, "not found": missed}
    return {"about": about, "rows": rows}


def identity(quick: bool, threads: int) -> dict[str, Any]:
    """The section "identity" of bench/faces.py: accuracy and timings."""
    torch.set_num_threads(threads)
    found = measure(10 if quick else 200, 2 if quick else 5)
    return found | {"timings": timings(repeats=2 if quick else 7)}


def embed_pictures(
    faces: ProceduralFaces, embedders: dict[str, Embedder], sources: Sequence[str]
) -> tuple[dict[tuple[str, str], list[torch.Tensor | None]], int]:
    """(embedder, source) -> a vector for each picture, None where no face was found; how often that was."""
    vectors: dict[tuple[str, str], list[torch.Tensor | None]] = {
        (name, source): [] for name in embedders for source in sources
    }
    missed = 0
    for start in range(0, len(faces), _PART):
        part = faces.render(range(start, min(start + _PART, len(faces))))
        pictures = list(part["vis"])
        for source in sources:
            if source == "truth":
                landmarks: Landmarks = [{"5pt": points[68:]} for points in part["landmarks"]]
            else:
                landmarks = found_landmarks(pictures)
                missed += sum(points is None for points in landmarks)
            present = [i for i, points in enumerate(landmarks) if points is not None]
            for name, embedder in embedders.items():
                aligned, _ = align_batch(
                    [pictures[i] for i in present],
                    [points for points in landmarks if points is not None],
                    embedder.template,
                    embedder.size,
                )
                with torch.inference_mode():
                    found = dict(zip(present, embedder.embed(aligned), strict=True))
                vectors[name, source] += [found.get(i) for i in range(len(pictures))]
        print(f"{start + len(pictures)} of {len(faces)} pictures", file=sys.stderr)
    return vectors, missed


def found_landmarks(pictures: Sequence[npt.NDArray[np.uint8]]) -> Landmarks:
    """What the default detector and landmarker say of the best face of each picture."""
    detector, landmarker = _finders()
    best = [faces[0] if faces else None for faces in detector.detect(pictures)]
    present = [i for i, face in enumerate(best) if face is not None]
    points = landmarker.landmarks([pictures[i] for i in present], [face for face in best if face is not None])
    placed = {
        i: {"5pt": convert(at, landmarker.scheme, "5pt")} for i, at in zip(present, points, strict=True)
    }
    return [placed.get(i) for i in range(len(pictures))]


@functools.cache
def _finders() -> tuple[Detector, Landmarker]:
    return load_detector(), load_landmarker()


def accuracy(embedder: Embedder, vectors: torch.Tensor, who: npt.NDArray[np.int64]) -> dict[str, float]:
    """Error rates over all pairs, the mean distances, and the errors at the embedder's own threshold."""
    apart = distances(embedder, vectors, vectors).double().numpy()
    first, second = np.tril_indices(len(who), -1)
    values, same = apart[first, second], who[first] == who[second]
    rates = verification(-values[same], -values[~same])
    limit = embedder.threshold if embedder.metric == "l2" else 1 - embedder.threshold
    return {
        "pictures": len(who),
        "auc": rates.auc,
        "eer": rates.eer,
        **{f"tar at far {rate}": share for rate, share in rates.tar.items()},
        "same": float(values[same].mean()),
        "other": float(values[~same].mean()),
        "limit": limit,
        "false non-matches": float((values[same] >= limit).mean()),
        "false matches": float((values[~same] < limit).mean()),
        "limit at far 0.01": float(np.quantile(values[~same], 0.01)),
        "limit at eer": float(np.quantile(values[same], 1 - rates.eer)),
    }


def timings(batches: Sequence[int] = (1, 16), repeats: int = 7) -> list[dict[str, Any]]:
    """Milliseconds for each picture, aligned already: the median of `repeats` runs."""
    rows = []
    for name, options in (
        ("dlib", {}),
        ("dlib", {"precision": "bfloat16"}),
        ("recognition-64", {}),
        ("recognition-64", {"precision": "bfloat16"}),
    ):
        embedder = load_embedder(name, **options)
        for batch in batches:
            faces = torch.rand(batch, 3, embedder.size, embedder.size) * 2 - 1
            times = []
            with torch.inference_mode():
                for number in range(repeats + 2):
                    start = time.perf_counter()
                    embedder.embed(faces)
                    times += [time.perf_counter() - start] if number >= 2 else []
            milliseconds = 1e3 * statistics.median(times) / batch
            precision = options.get("precision", "float32")
            rows.append({"embedder": name, "precision": precision, "batch": batch, "ms": milliseconds})
    return rows


def report(found: dict[str, Any]) -> str:
    """The rows as Markdown tables."""
    lines = [
        "| embedder | landmarks | pictures | AUC | EER | accepted at FMR 1e-2 / 1e-3 | same / other |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        which = "all" if row["glasses"] else "without glasses"
        lines.append(
            f"| {row['embedder']} | {row['landmarks']} | {which}, {row['pictures']} | {row['auc']:.4f} | "
            f"{row['eer']:.3f} | {row['tar at far 0.01']:.3f} / {row['tar at far 0.001']:.3f} | "
            f"{row['same']:.2f} / {row['other']:.2f} |"
        )
    lines += ["", "| embedder | precision | batch | ms per picture |", "|---|---|---|---|"]
    lines += [
        f"| {r['embedder']} | {r['precision']} | {r['batch']} | {r['ms']:.1f} |" for r in found["timings"]
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--identities", type=int, default=200)
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--sources", nargs="+", default=["truth", "found"], choices=["truth", "found"])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    found = measure(arguments.identities, arguments.samples, arguments.size, arguments.sources)
    found["about"] |= {"threads": torch.get_num_threads(), "torch": torch.__version__}
    found["timings"] = timings()
    print(json.dumps(found["about"]), report(found), sep="\n")
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
