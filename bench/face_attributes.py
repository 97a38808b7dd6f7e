"""How far the attribute models can be trusted: rendered faces with known labels, and one photograph.

`python bench/face_attributes.py [--identities 100] [--samples 2]` prints the tables of docs/attributes.md.
Faces are aligned by their true landmarks, so that detection plays no part. A few minutes on one thread;
needs `pyface models fetch default`, and scikit-image for the photograph.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyface.data import ProceduralFaces
from pyface.faces import load_attributes
from pyface.faces.align import align_batch
from pyface.faces.attributes import EXPRESSIONS, AgeGender, Expression

SIDE = 192
# Eyes, nose tip and mouth corners of the astronaut in scikit-image (public domain).
ASTRONAUT = np.array([[203.7, 102.0], [247.3, 104.5], [225.5, 127.5], [201.5, 140.5], [245.5, 141.5]])
SHIFT = 0.03  # of the distance between the eyes, standard deviation of each landmark

Numbers = npt.NDArray[np.float32]


def roc_area(scores: Numbers, positive: npt.NDArray[np.bool_]) -> float:
    """Area under the ROC curve: the share of pairs in the right order."""
    pairs = scores[positive][:, None] - scores[~positive][None]
    return float((pairs > 0).mean() + (pairs == 0).mean() / 2)


def rendered(identities: int, samples: int) -> tuple[Tensor, list[dict[str, float]], list[str]]:
    """Aligned chips, the labels they were drawn with, and their emotions."""
    faces = ProceduralFaces(seed=5, identities=identities, samples_per_identity=samples, size=SIDE)
    chips, labels, emotions = [], [], []
    for start in range(0, len(faces), 64):
        part = [faces[i] for i in range(start, min(start + 64, len(faces)))]
        points = [sample.landmarks["5pt"] for sample in part]
        chips.append(align_batch([sample.image for sample in part], points, "dlib150", 150)[0])
        labels += [sample.attributes for sample in part]
        emotions += [sample.emotion for sample in part]
    return torch.cat(chips), labels, emotions


def rendered_table(chips: Tensor, labels: list[dict[str, float]], emotions: list[str]) -> None:
    found = load_attributes(threads=1).predict(chips)
    male = np.array([row["Male"] for row in labels], bool)
    young = np.array([row["Young"] for row in labels], bool)
    smiling = np.array([row["Smiling"] for row in labels], bool)
    print(f"rendered faces: {len(chips)}\n")
    print("| question | area under ROC | at the usual threshold |")
    print("|---|---|---|")
    right = ((found["male"] > 0.5) == male).mean()
    print(f"| drawn as male? | {roc_area(found['male'], male):.3f} | {right:.1%} right |")
    ages = f"mean age {found['age'][~young].mean():.1f}, of younger ones {found['age'][young].mean():.1f}"
    print(f"| drawn as 45 or older? | {roc_area(found['age'], ~young):.3f} | {ages} |")
    table = np.stack([found[f"expression={word}"] for word in EXPRESSIONS], 1)
    words = np.array(EXPRESSIONS)[table.argmax(1)]
    happy = f"of smiling faces {(words[smiling] == 'happy').mean():.1%} called happy"
    print(f"| smiling? | {roc_area(found['expression=happy'], smiling):.3f} | {happy} |")
    kinds = np.array(emotions)
    print("\n| drawn | faces | " + " | ".join(EXPRESSIONS) + " |")
    print("|---|---|" + "---|" * len(EXPRESSIONS))
    for kind in sorted(set(emotions)):
        counts = [str(int((words[kinds == kind] == word).sum())) for word in EXPRESSIONS]
        print(f"| {kind} | {int((kinds == kind).sum())} | " + " | ".join(counts) + " |")


def photograph_table() -> None:
    """One photograph, its landmarks moved at random: what of an answer is the face, and what the crop."""
    import skimage.data

    rng = np.random.default_rng(0)
    reach = SHIFT * np.linalg.norm(ASTRONAUT[1] - ASTRONAUT[0])
    points = [ASTRONAUT, *(ASTRONAUT + rng.normal(0, reach, (5, 2)) for _ in range(50))]
    chips = align_batch([skimage.data.astronaut()] * len(points), points, "dlib150", 150)[0]
    found = load_attributes(threads=1).predict(chips)
    print(f"\nastronaut, landmarks moved by {SHIFT:.0%} of the distance between the eyes, 50 times\n")
    print("| attribute | as it is | mean | standard deviation |")
    print("|---|---|---|---|")
    for name in ("age", "male", "expression=happy"):
        values = found[name]
        print(f"| {name} | {values[0]:.3g} | {values[1:].mean():.3g} | {values[1:].std():.2g} |")


def timing_table(chips: Tensor) -> None:
    print("\n| model | ms for one face | ms per face in batches of 32 |")
    print("|---|---|---|")
    for model in (AgeGender(threads=1), Expression()):
        times = []
        for batch in (chips[:1], chips[:32]):
            runs = []
            for _ in range(7):
                start = time.perf_counter()
                model.predict(batch)
                runs.append((time.perf_counter() - start) * 1e3 / len(batch))
            times.append(float(np.median(runs)))
        print(f"| {model.name} | {times[0]:.1f} | {times[1]:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--identities", type=int, default=100)
    parser.add_argument("--samples", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    chips, labels, emotions = rendered(options.identities, options.samples)
    rendered_table(chips, labels, emotions)
    photograph_table()
    timing_table(chips)


if __name__ == "__main__":
    main()
