"""Write a dataset of generated people, look at one of them again, and check the whole.

    python tools/generate_dataset.py demo out/people --people 100 --pictures 8
    python tools/generate_dataset.py face.safetensors out/people --workers 4 --sheet people.png

Stop it whenever you like: the same command goes on. `pyface generate dataset` has more options.
"""

from __future__ import annotations

import io
from pathlib import Path

import click
import numpy as np
from PIL import Image
from tqdm import tqdm

from pyface.generation.checking import verify_dataset
from pyface.generation.dataset import EngineSettings, write_dataset
from pyface.generation.manifest import open_store
from pyface.generation.plan import Picture
from pyface.generation.regenerate import regenerate
from pyface.io.images import contact_sheet

SHOWN = 8  # people on the sheet


@click.command()
@click.argument("network")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--people", default=100, show_default=True)
@click.option("--pictures", default=8, show_default=True, help="Of each of them.")
@click.option("--variation", default=0.2, show_default=True, help="How far they differ, 0 to 1.")
@click.option("--seed", default=0, show_default=True)
@click.option("--precision", default="fp32", show_default=True, help="fp32 or bf16; fp16 on a GPU.")
@click.option("--workers", default=1, show_default=True, help="Processes.")
@click.option("--sheet", type=click.Path(path_type=Path), help="A picture of the first people.")
def main(
    network: str,
    out: Path,
    people: int,
    pictures: int,
    precision: str,
    workers: int,
    sheet: Path | None,
    **chosen: float,
) -> None:
    """Write OUT, shards of pictures by NETWORK, a checkpoint or the name of one that comes with pyface."""
    settings = EngineSettings(precision=precision)
    with tqdm(total=people * pictures, unit="img") as bar:
        written = write_dataset(
            out,
            network,
            identities=people,
            samples_per_identity=pictures,
            settings=settings,
            workers=workers,
            progress=bar.update,
            **chosen,
        )
    click.echo(f"{written.new} of {written.all_shards} shards are new; recipe {written.recipe.sha256[:12]}")
    click.echo(regenerate(out, people - 1, pictures - 1, network=network).verdict)
    report = verify_dataset(out)
    click.echo(f"{report.pictures} pictures checked, {len(report.faults)} faults")
    if sheet is not None:
        rows = [Picture(i, s) for i in range(min(SHOWN, people)) for s in range(pictures)]
        contact_sheet([stored(out, picture) for picture in rows], columns=pictures, path=sheet)


def stored(folder: Path, picture: Picture) -> np.ndarray:
    """Pixels uint8 [H, W, C] of a picture in the dataset, of the first spectrum."""
    file = next(iter(open_store(folder).read(picture).files.values()))
    return np.asarray(Image.open(io.BytesIO(file)))


if __name__ == "__main__":
    main()
