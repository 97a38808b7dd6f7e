"""The two tables of docs/datasets.md that are about pictures: how alike people are, and what codecs cost.

python bench/generated_datasets.py people       # cosines of recognition-64, demo generator
python bench/generated_datasets.py codecs       # pictures a second of one core, KiB a picture
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyface.data import ProceduralFaces
from pyface.errors import MissingExtraError
from pyface.export import open_engine
from pyface.faces import load_embedder
from pyface.faces.embed import in_frame
from pyface.generation.dataset import make_recipe
from pyface.generation.encoding import Codec, Encoder
from pyface.generation.plan import Plan
from pyface.generation.sampling import Sampler, label_samples
from pyface.metrics.verification import pair_scores, verification

NETWORK = "demo"
VARIATIONS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
CODECS = (
    ("jpeg", "4:2:0", "pillow"),
    ("jpeg", "4:4:4", "pillow"),
    ("jpeg", "4:2:0", "imagecodecs"),
    ("png", "4:2:0", "pillow"),
    ("png", "4:2:0", "isal"),
)


def people(identities: int, samples: int) -> Iterator[str]:
    """A row for each variation, two for what --vary changes, and one for renders."""
    wanted = [(v, None) for v in VARIATIONS] + [(0.3, ()), (0.3, "all")]
    with open_engine(NETWORK, "native", batch=16, threads=1) as engine:
        for variation, vary in wanted:
            recipe = make_recipe(
                NETWORK,
                engine,
                identities=identities,
                samples_per_identity=samples,
                variation=variation,
                vary=vary,
            )
            sampler = Sampler(recipe, engine.z_dim, label_samples(NETWORK, engine.c_dim))
            pictures = [
                picture for shard in range(Plan(recipe).shards) for picture in Plan(recipe).pictures(shard)
            ]
            ws = engine.mapping(sampler.latents(pictures), sampler.conditions(pictures))
            told = "" if vary is None else f", --vary {vary or 'none'}"
            yield row(f"v = {variation}{told}", engine.synthesis(ws), [p.identity for p in pictures])
    faces = ProceduralFaces(identities, samples, size=64, spectra=("vis",), seed=4)
    drawn = torch.from_numpy(np.stack([faces[i].image for i in range(len(faces))]))
    images = drawn.permute(0, 3, 1, 2).float() / 127.5 - 1
    yield row("renders of people", images, np.repeat(np.arange(identities), samples))


def row(name: str, images: Tensor, who: Sequence[int] | npt.NDArray[np.int64]) -> str:
    """Mean cosine of one person and of two, and the equal error rate."""
    embed = in_frame(load_embedder("recognition-64"), "rendered")
    with torch.inference_mode():
        vectors = torch.cat([embed(part) for part in images.split(50)])
    same, other = pair_scores(torch.nn.functional.normalize(vectors, dim=1), who)
    rate = verification(same, other).eer
    return f"| {name} | {same.mean():.2f} | {other.mean():.2f} | {100 * rate:.1f} % |"


def codecs(size: int, count: int) -> Iterator[str]:
    """A row for each codec that is installed: smooth colours with grain, one core, median of five rounds."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] / size
    waves = np.stack([np.sin(6 * x + k) * np.cos(5 * y - k) for k in range(3)], axis=-1)
    pictures = [
        np.clip(128 + 90 * waves + random.normal(0, 1.5, waves.shape), 0, 255).astype(np.uint8)
        for _ in range(count)
    ]
    for image, subsampling, library in CODECS:
        try:
            encoder = Encoder(Codec.of(image, subsampling=subsampling, library=library))
        except MissingExtraError as error:
            yield f"| {image} | {library} | {error} | |"
            continue
        seconds, sizes = [], [0]
        for _ in range(5):
            begun = time.thread_time()
            sizes = [len(encoder.encode(picture)) for picture in pictures]
            seconds.append(time.thread_time() - begun)
        rate, kib = count / statistics.median(seconds), statistics.mean(sizes) / 1024
        words = f"{image}, {subsampling}" if image == "jpeg" else image
        yield f"| {words} | {library} | {rate:.0f} pictures/s | {kib:.0f} KiB |"


def main() -> None:
    """Prints the rows of a table as they are measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", choices=["people", "codecs"])
    parser.add_argument("--identities", type=int, default=100)
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--size", type=int, default=256, help="of a picture that is encoded")
    parser.add_argument("--count", type=int, default=100, help="pictures that are encoded in a round")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = (
        people(options.identities, options.samples)
        if options.table == "people"
        else codecs(options.size, options.count)
    )
    for line in rows:
        print(line, flush=True)


if __name__ == "__main__":
    main()
