"""The pipeline against a plain loop: same bytes whatever the threads, bounded, clean when a part fails."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from pyface.errors import DataError
from pyface.generation.encoding import Codec, Encoder
from pyface.generation.pipeline import chunks_of, write_shards
from pyface.generation.plan import Plan
from pyface.generation.sampling import Sampler
from pyface.generation.shards import ShardStore, members

SIZE = (8, 8)


class Engine:
    """ws are z and c side by side; a picture shows them."""

    def __init__(self, spectra=("vis",), fail_at=None):
        self.spectra, self.fail_at, self.made = spectra, fail_at, 0

    def mapping(self, z, c=None, truncation_psi=1.0):
        return torch.cat([z * truncation_psi, c], 1)

    def pixels(self, ws):
        if self.fail_at is not None and self.made >= self.fail_at:
            raise self.error
        self.made += len(ws)
        levels = (ws[:, :64].reshape(-1, *SIZE, 1) * 40 + 128).clamp(0, 255).to(torch.uint8)
        return {name: levels.repeat(1, 1, 1, 3) + i for i, name in enumerate(self.spectra)}

    error: BaseException = RuntimeError("the engine broke")


def whole_shards(folder):
    """Numbers of the shards in a folder that has nothing else."""
    names = {path.name for path in folder.iterdir()}
    whole = {n for n in range(10) if f"shard-{n:06d}.json" in names}
    assert names == {f"shard-{n:06d}.{kind}" for n in whole for kind in ("tar", "json")}
    return whole


@pytest.fixture
def plan(storage):
    return Plan(
        storage.recipe(
            resolution=SIZE, spectra={"vis": 3, "nir": 3}, image="png", batch=3, shard_size=7, identities=10
        )
    )


def run(plan, folder, engine=None, shards=None, encode=None, **options):
    folder.mkdir(exist_ok=True)
    codec = Codec.of("png")
    return write_shards(
        range(plan.shards) if shards is None else shards,
        plan,
        Sampler(plan.recipe, 64),
        engine or Engine(tuple(plan.recipe.spectra)),
        lambda shard: ShardStore.writer(folder, plan.recipe, shard, {"engine": "test"}),
        encode or Encoder(codec).encode,
        **options,
    )


def test_the_bytes_are_those_of_a_plain_loop(plan, storage, tmp_path):
    assert run(plan, tmp_path / "a") == 3
    sampler, engine, encode = (
        Sampler(plan.recipe, 64),
        Engine(("vis", "nir")),
        Encoder(Codec.of("png")).encode,
    )
    for shard in range(plan.shards):
        found = dict(members(tmp_path / "a" / f"shard-{shard:06d}.tar"))
        assert len(found) == 4 * len(plan.pictures(shard))
        for picture in plan.pictures(shard):
            z, c = sampler.latents([picture]), sampler.conditions([picture])
            for spectrum, pixels in engine.pixels(engine.mapping(z, c)).items():
                assert found[f"{picture.key}.{spectrum}.png"] == encode(pixels[0].numpy())


@pytest.mark.parametrize("encoders", [1, 4])
def test_neither_threads_nor_division_change_the_bytes(plan, storage, tmp_path, encoders):
    run(plan, tmp_path / "a")
    run(plan, tmp_path / "b", shards=[2], encoders=encoders)
    run(plan, tmp_path / "b", shards=[0, 1], encoders=encoders)
    assert storage.tree(tmp_path / "a") == storage.tree(tmp_path / "b")


def test_chunks_cover_a_shard(plan):
    chunks = chunks_of(plan, 0)
    assert [len(chunk) for chunk in chunks] == [3, 3, 1]
    assert sum(chunks, []) == plan.pictures(0)  # noqa: RUF017


def test_observers_hear_of_every_picture_and_shard(plan, tmp_path):
    class Seen:
        pictures, shards = 0, ()

        def made(self, pictures):
            self.pictures += pictures

        def done(self, shard, record):
            assert record.sha256
            self.shards += (shard,)

    seen = Seen()
    run(plan, tmp_path / "a", observer=seen)
    assert seen.pictures == plan.recipe.count
    assert seen.shards == (0, 1, 2)


def test_a_slow_codec_holds_the_engine_back(plan, tmp_path):
    engine, go, seen = Engine(("vis", "nir")), threading.Event(), []

    def encode(pixels):
        seen.append(engine.made)
        go.wait(20)
        return b"x"

    thread = threading.Thread(target=run, args=(plan, tmp_path / "a", engine), kwargs={"encode": encode})
    thread.start()
    before = -1
    while engine.made != before:
        before = engine.made
        time.sleep(0.3)
    held = engine.made
    go.set()
    thread.join()
    assert held <= 3 * 6  # chunks that wait, that is encoded, and that the engine holds in its hands
    assert engine.made == plan.recipe.count


@pytest.mark.parametrize("where", ["engine", "encoder", "disk"])
def test_a_failure_ends_everything_and_leaves_whole_shards(plan, storage, tmp_path, where, monkeypatch):
    engine, encode, calls = Engine(("vis", "nir")), None, []
    if where == "engine":
        engine.fail_at = 10
    elif where == "encoder":

        def encode(pixels):
            calls.append(1)
            if len(calls) > 20:
                raise RuntimeError("the codec broke")
            return b"x"
    else:
        inner = ShardStore.writer.add

        def add(self, picture, *rest):
            if picture.identity == 5:
                raise OSError(28, "No space left on device")
            inner(self, picture, *rest)

        monkeypatch.setattr(ShardStore.writer, "add", add)
    before = threading.active_count()
    with pytest.raises((RuntimeError, DataError), match=r"broke|disk is full"):
        run(plan, tmp_path / "a", engine, encode=encode)
    assert threading.active_count() == before
    whole = whole_shards(tmp_path / "a")
    assert not whole & {1, 2}
    monkeypatch.undo()
    if where != "encoder":
        run(plan, tmp_path / "b")
        run(plan, tmp_path / "a", shards=sorted({0, 1, 2} - whole))
        assert storage.tree(tmp_path / "a") == storage.tree(tmp_path / "b")


def test_an_interrupt_leaves_whole_shards(plan, tmp_path):
    engine = Engine(("vis", "nir"), fail_at=16)
    engine.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        run(plan, tmp_path / "a", engine)
    assert whole_shards(tmp_path / "a") <= {0, 1}


def test_no_shards(plan, tmp_path):
    assert run(plan, tmp_path / "a", shards=[]) == 0
    assert not list((tmp_path / "a").iterdir())
