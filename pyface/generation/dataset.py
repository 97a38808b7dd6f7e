"""Writing a dataset of generated faces: what is asked for becomes a recipe, and its shards are written.

>>> from pyface.generation.dataset import write_dataset
>>> write_dataset("faces", "demo", identities=1000, samples_per_identity=4)       # doctest: +SKIP

The same call goes on where a stopped one was, and does nothing where the dataset is complete.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, TypedDict, Unpack

import torch

from pyface.errors import ExportError, ValueRangeError
from pyface.export.engine import Engine, open_engine
from pyface.export.engines.sources import is_artefact
from pyface.generation.encoding import Codec, Encoder
from pyface.generation.manifest import STORES, dataset_part
from pyface.generation.network import condition_names, condition_vector, sha256_of
from pyface.generation.pipeline import Observer, write_shards
from pyface.generation.plan import DatasetRecipe, Plan
from pyface.generation.records import Record
from pyface.generation.sampling import Sampler, label_samples, passing_conditions
from pyface.generation.workers import run_workers

__all__ = ["VARIATION", "DatasetChoices", "EngineSettings", "Work", "Written", "make_recipe", "write_dataset"]

VARIATION = 0.2  # of several samples of an identity: as alike as renders of one person (docs/datasets.md)
_BATCH = 16
_MOST_ENCODERS = 8
_MOST_WORKERS = 4  # without being asked: each has a copy of the network and its own memory


class DatasetChoices(TypedDict, total=False):
    """What can be chosen of a recipe; the fields of `DatasetRecipe` of the same name say what they mean.

    count: pictures of as many people, instead of identities and samples_per_identity. condition: values by
    name that all pictures have; the rest of the vector is 0. label: number of an entry that is 1 for all. By
    default conditions are drawn as they occur in the training data. vary: conditions that are drawn for every
    sample, or "all"; by default those that come and go on one person. library: that encodes, see `Codec.of`.
    """

    count: int | None
    identities: int | None
    samples_per_identity: int | None
    seed: int
    variation: float | None
    truncation_psi: float
    noise: str
    condition: Mapping[str, float] | None
    label: int | None
    vary: Sequence[str] | None
    storage: str
    shard_size: int
    image: str
    quality: int
    subsampling: str
    library: str


@dataclass(frozen=True)
class EngineSettings:
    """Which engine, and how it runs; see `pyface.export.engine.open_engine`.

    engine: a name, "auto", or the path of a file that was exported from the network with ws as its input.
    precision, batch: None: fp32 and 16, or those of the exported file. threads: of the engine on a CPU; one
    by default, since the last bits of a picture depend on their number: more processes use more cores.
    encoders: threads that encode beside the engine; None: as many as suit the device. force: take an exported
    file that failed its certificate.
    """

    engine: str = "auto"
    precision: str | None = None
    batch: int | None = None
    device: str = "auto"
    threads: int = 1
    encoders: int | None = None
    force: bool = False

    def __post_init__(self) -> None:
        for name in ("batch", "threads", "encoders"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueRangeError(f"{name} must be 1 or more; got {value}.")

    def open(self, network: str | Path, noise: str) -> Engine:
        """The engine. Raises as `open_engine`, and ExportError when `network` is an exported file."""
        if is_artefact(network):
            raise ExportError(
                f"{network} is an exported file. Name the checkpoint it was made of as the network, which "
                "has the mapping and the conditions, and the file as the engine (--engine)."
            )
        exported = is_artefact(self.engine)
        return open_engine(
            self.engine if exported else network,
            "auto" if exported else self.engine,
            precision=self.precision,
            batch=self.batch or (None if exported else _BATCH),
            device=self.device,
            threads=self.threads,
            noise=noise,
            network=network if exported else None,
            force=self.force,
        )

    def of_worker(self, worker: int) -> EngineSettings:
        """Those of one of several processes on this machine, which share its GPUs."""
        if self.device in ("auto", "cuda") and torch.cuda.device_count() > 1:
            return replace(self, device=f"cuda:{worker % torch.cuda.device_count()}")
        return self

    def usual_workers(self) -> int:
        """Processes that suit this machine: one for each GPU, or for each core, at most four."""
        if self.device == "cpu" or not torch.cuda.is_available():
            return min(_MOST_WORKERS, len(os.sched_getaffinity(0)))
        return torch.cuda.device_count() if self.device in ("auto", "cuda") else 1

    def encoders_beside(self, device: str, workers: int = 1) -> int:
        """Threads that encode beside an engine on a kind of device.

        On a GPU every core is free for them. On a CPU they have what the engine leaves: two, so that one
        encodes while the other waits for its turn.
        """
        if self.encoders is not None:
            return self.encoders
        free = len(os.sched_getaffinity(0)) // workers if device == "cuda" else 2
        return max(1, min(_MOST_ENCODERS, free))


@dataclass(frozen=True)
class Work:
    """What a call of `write_dataset` is about to do.

    Attributes:
        recipe: of the dataset.
        pictures: that this call sees to, those that are there already among them.
        engine: in words, and why it was taken.
    """

    recipe: DatasetRecipe
    pictures: int
    engine: str

    @classmethod
    def of(cls, engine: Engine, recipe: DatasetRecipe, shards: Sequence[int]) -> Self:
        """The work of writing `shards`."""
        plan, why = Plan(recipe), f": {engine.reason}" if engine.reason else ""
        pictures = sum(plan.size(shard) for shard in shards)
        return cls(recipe, pictures, f"{engine.name} engine, {engine.precision}, on {engine.device}{why}")


@dataclass(frozen=True)
class Written:
    """What a call of `write_dataset` did.

    Attributes:
        folder: the dataset.
        recipe: of it.
        all_shards: of the dataset.
        shards: that this call was to see to.
        new: those of them that it wrote; the others were there.
        complete: whether the whole dataset is finished; False while other processes write their share.
    """

    folder: Path
    recipe: DatasetRecipe
    all_shards: int
    shards: int
    new: int
    complete: bool


def make_recipe(network: str | Path, engine: Engine, **choices: Unpack[DatasetChoices]) -> DatasetRecipe:
    """The recipe of a dataset that `engine`, opened from `network`, shall make.

    Raises:
        ValueRangeError: neither or both of count and identities, samples without identities, or values that
            no recipe has.
        MissingExtraError: the library that encodes is not installed.
    """
    chosen: dict[str, Any] = {name: value for name, value in choices.items() if value is not None}
    identities, samples = _people(chosen)
    variation = chosen.pop("variation", VARIATION if samples > 1 else 0.0)
    codec = Codec.of(
        chosen.pop("image", "jpeg"),
        quality=chosen.pop("quality", 95),
        subsampling=chosen.pop("subsampling", "4:2:0"),
        library=chosen.pop("library", "auto"),
    )
    names = condition_names(network, engine.c_dim)
    fixed = _fixed(names, chosen.pop("condition", {}), chosen.pop("label", None))
    drawn = _conditions(network, names, fixed, chosen.pop("vary", None), samples)
    return DatasetRecipe(
        network=Path(network).name,
        network_sha256=sha256_of(network),
        seed=chosen.pop("seed", 0),
        identities=identities,
        samples_per_identity=samples,
        variation=variation,
        engine=engine.name,
        precision=engine.precision,
        batch=engine.batch,
        noise=engine.noise,
        resolution=engine.resolution,
        spectra=engine.spectra,
        image=codec.image,
        quality=codec.quality,
        subsampling=codec.subsampling,
        encoder=codec.library,
        encoder_version=codec.version,
        **drawn,
        **{name: value for name, value in chosen.items() if name != "noise"},
    )


def check_people(count: int | None, identities: int | None, samples: int | None) -> None:
    """Raises ValueRangeError unless one of count and identities is given; samples need identities."""
    if (count is None) == (identities is None):
        came = "both" if count is not None else "neither"
        raise ValueRangeError(
            f"give either --count, for pictures of as many people, or --ids with --samples-per-id, for "
            f"several pictures of each; got {came}."
        )
    if samples is not None and identities is None:
        raise ValueRangeError(
            f"--samples-per-id {samples} needs --ids, the number of people; got --count {count}, which makes "
            "one picture of each."
        )


def _people(chosen: dict[str, Any]) -> tuple[int, int]:
    """Identities, and samples of each."""
    count, identities = chosen.pop("count", None), chosen.pop("identities", None)
    samples = chosen.pop("samples_per_identity", None)
    check_people(count, identities, samples)
    return (count if identities is None else identities), (1 if samples is None else samples)


def _fixed(names: tuple[str, ...], values: Mapping[str, float], label: int | None) -> tuple[float, ...]:
    """The vector that all pictures have; () when conditions are drawn."""
    if label is not None:
        if not 0 <= label < len(names):
            allowed = f"must be from 0 to {len(names) - 1}" if names else "needs a conditional generator"
            raise ValueRangeError(f"--class {allowed}; got {label}.")
        values = {**values, names[label]: 1.0}
    return tuple(condition_vector(values, names).tolist()) if values else ()


def _conditions(
    network: str | Path, names: tuple[str, ...], fixed: tuple[float, ...], vary: Any, samples: int
) -> dict[str, Any]:
    """The fields of the recipe that say where conditions come from."""
    if vary == "all":
        vary = names if samples > 1 else ()
    if fixed or not names:
        rule = "fixed" if names else "none"
        return {"conditions": names, "condition_rule": rule, "condition": fixed, "varying": vary or ()}
    if vary is None:
        vary = passing_conditions(names) if samples > 1 else ()
    rule = "fair" if label_samples(network, len(names)) is None else "samples"
    return {"conditions": names, "condition_rule": rule, "varying": tuple(vary)}


def write_dataset(
    out: str | os.PathLike[str],
    network: str | Path,
    *,
    settings: EngineSettings | None = None,
    workers: int = 1,
    shard_index: int = 0,
    num_shards: int = 1,
    begun: Callable[[Work], None] | None = None,
    progress: Callable[[int], None] | None = None,
    **choices: Unpack[DatasetChoices],
) -> Written:
    """Write a dataset, or go on where an earlier call with the same choices was stopped.

    Every file appears whole or not at all, and its bytes depend on the choices and the engine alone: not on
    workers, on what was interrupted, nor on how the work was divided.

    Args:
        out: folder of the dataset; new, empty, or of the same recipe.
        network: checkpoint of a generator, or the name of one that comes with pyface.
        settings: which engine, and how it runs.
        workers: processes, each with an engine of its own. With more than 1 the calling program must be
            importable: its work stands behind `if __name__ == "__main__":`.
        shard_index, num_shards: divide the work beforehand: this call writes shards shard_index,
            shard_index + num_shards, ... The calls may be on several machines that share the folder.
        begun: called before the work begins.
        progress: called with the number of pictures that are there more than before.
        **choices: see `DatasetChoices`.

    Raises:
        ValueRangeError, MissingExtraError: as `make_recipe`; workers, shard_index or num_shards out of range.
        CheckpointError: the network is missing, damaged or no generator.
        ExportError: the engine cannot run here, or not this network or precision.
        DataError: the folder holds another dataset (the message names what differs), is damaged, or cannot be
            written; or workers died again and again.
    """
    settings = settings or EngineSettings()
    _check(workers, choices)
    with settings.open(network, choices.get("noise", "const")) as engine:
        recipe = make_recipe(network, engine, **choices)
        share = Plan(recipe).share(shard_index, num_shards)
        if begun is not None:
            begun(Work.of(engine, recipe, share))
        with dataset_part(out, recipe, index=shard_index, of=num_shards, made_by=engine.describe()) as store:
            there = store.committed(share)
            todo = [shard for shard in share if shard not in there]
            reports = _Progress(progress)
            reports.made(sum(record.pictures for record in there.values()))
            if settings.engine == "auto":
                settings = replace(settings, engine=engine.name)
            workers = min(workers, max(1, len(todo)))
            job = _Job(store.folder, recipe, network, settings, workers)
            if workers == 1:
                job.write(engine, todo, reports)
            elif todo:
                engine.close()
                run_workers(job, todo, workers, observer=reports)
    complete = len(store.record_files()) == store.plan.shards
    return Written(store.folder, recipe, store.plan.shards, len(share), len(todo), complete)


def _check(workers: int, choices: DatasetChoices) -> None:
    """What can be told before a network is loaded."""
    if workers < 1:
        raise ValueRangeError(f"workers must be 1 or more; got {workers}.")
    check_people(choices.get("count"), choices.get("identities"), choices.get("samples_per_identity"))


class _Progress:
    """Counts pictures for `progress`."""

    def __init__(self, progress: Callable[[int], None] | None) -> None:
        self._progress = progress

    def made(self, pictures: int) -> None:
        if self._progress is not None and pictures:
            self._progress(pictures)

    def done(self, shard: int, record: Record) -> None:
        pass


@dataclass(frozen=True)
class _Job:
    """Writing shards of one dataset; what a worker process is given."""

    folder: Path
    recipe: DatasetRecipe
    network: str | Path
    settings: EngineSettings
    workers: int

    def __call__(self, shards: Iterator[int], observer: Observer, worker: int) -> None:
        settings = self.settings.of_worker(worker)
        with settings.open(self.network, self.recipe.noise) as engine:
            self.write(engine, shards, observer)

    def write(self, engine: Engine, shards: Iterable[int], observer: Observer) -> None:
        """Write `shards` with an engine that is open."""
        recipe, made_by = self.recipe, engine.describe()
        writer = STORES[recipe.storage].writer
        codec = Codec(
            recipe.image, recipe.quality, recipe.subsampling, recipe.encoder, recipe.encoder_version
        )
        write_shards(
            shards,
            Plan(recipe),
            Sampler(recipe, engine.z_dim, label_samples(self.network, engine.c_dim)),
            engine,
            lambda shard: writer(self.folder, recipe, shard, made_by),
            Encoder(codec).encode,
            encoders=self.settings.encoders_beside(engine.device.type, self.workers),
            observer=observer,
        )
