"""What the columns of stats.jsonl are called in a report, and what they mean."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Column", "column_of"]


@dataclass(frozen=True)
class Column:
    """title: over the curve. note: what it means. zero: its axis begins at 0."""

    title: str
    note: str = ""
    zero: bool = False


_KNOWN = {
    "loss/adversarial": Column("Generator", "what the generator pays for being recognised", zero=True),
    "loss/fake": Column("Discriminator, generated", "what it pays for generated images", zero=True),
    "loss/real": Column("Discriminator, real", "what it pays for real images", zero=True),
    "loss/r1": Column("R1", "half the squared gradient at real images, without its weight", zero=True),
    "loss/path_length": Column("Path length", "spread of image changes per step in W, without its weight"),
    "augment_p": Column(
        "ADA p", "probability of each augmentation; beyond 0.8 the data are too few", zero=True
    ),
    "real_sign": Column("Overfitting", "mean sign of the discriminator at real images; ADA holds it at 0.6"),
    "diversity": Column(
        "Diversity", "distance of generated images to each other; real images have 1, collapse 0", zero=True
    ),
    "images_per_second": Column("Images per second", "wall clock, of all processes together", zero=True),
    "seconds": Column("Time", "seconds of wall clock since the start, without interruptions", zero=True),
    "cpu_seconds": Column("Processor time", "seconds, of all threads of the first process", zero=True),
    "peak_memory_mb": Column("Peak memory", "MB, of the GPU or of the process", zero=True),
}


def column_of(name: str) -> Column:
    """Title and meaning of a column; an unknown one goes by its name."""
    if name in _KNOWN:
        return _KNOWN[name]
    kind, _, rest = name.partition("/")
    return Column(f"{rest} (loss)" if kind == "loss" and rest else name)
