"""From a list of shards to shards on the disk: latents -> engine -> encoders -> writer, all at once.

Four kinds of threads hand batches on: one draws latents a little ahead, the calling one runs the engine, some
encode (the codecs release the GIL), and one writes in order. The queue between engine and writer is bounded,
so a slow disk or codec slows the engine down instead of filling the memory. The next shard begins while the
last one is flushed to the disk.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyface.data.ordered import in_order
from pyface.generation.plan import Picture, Plan
from pyface.generation.records import Record, Writer
from pyface.generation.sampling import Sampler

__all__ = ["Observer", "PixelSource", "chunks_of", "write_shards"]

Pixels = npt.NDArray[np.uint8]
Encode = Callable[[Pixels], bytes]

_AHEAD = 3  # chunks that may wait between engine and writer, for each encoding thread
_DRAWN = 256  # pictures whose latents are drawn together
_QUIET = 10  # how far encoders step back behind the engine, as `nice` counts


class PixelSource(Protocol):
    """What the pipeline needs of an engine; see `pyface.export.engine.open_engine`."""

    def mapping(self, z: Tensor, c: Tensor | None = None, truncation_psi: float = 1.0) -> Tensor: ...

    def pixels(self, ws: Tensor) -> Mapping[str, Tensor]: ...


class Observer(Protocol):
    """Who wants to know how far the work is."""

    def made(self, pictures: int) -> None:
        """So many more pictures are in their shard, which is not complete yet."""

    def done(self, shard: int, record: Record) -> None:
        """A shard is complete."""


@dataclass(frozen=True)
class _Chunk:
    """Pictures of one shard that go through the engine together."""

    shard: int
    pictures: list[Picture]
    last: bool
    conditions: Tensor
    latents: Tensor


@dataclass(frozen=True)
class _Encoded:
    chunk: _Chunk
    images: Future[list[dict[str, bytes]]]


def chunks_of(plan: Plan, shard: int) -> list[list[Picture]]:
    """The pictures of a shard as they go through the engine: the recipe's batch at a time."""
    pictures, batch = plan.pictures(shard), plan.recipe.batch
    return [pictures[start : start + batch] for start in range(0, len(pictures), batch)]


def write_shards(
    shards: Iterable[int],
    plan: Plan,
    sampler: Sampler,
    engine: PixelSource,
    open_shard: Callable[[int], Writer],
    encode: Encode,
    *,
    encoders: int = 1,
    observer: Observer | None = None,
) -> int:
    """Write `shards`, taken from the iterable when their turn comes, and return how many they were.

    The bytes depend neither on the number of threads nor on which shards a call is given. A shard is
    committed whole or left out, also when this is interrupted.

    Args:
        shards: numbers of `plan`'s shards.
        plan: which pictures they have.
        sampler: of the same recipe.
        engine: makes pixels; used by the calling thread alone.
        open_shard: gives the writer of a shard.
        encode: bytes of an image uint8 [H, W, C]; called by many threads at a time.
        encoders: threads that encode.
        observer: told by the thread that writes.

    Raises:
        Exception: what a part of the pipeline raised; shards committed before stay.
    """
    waiting: queue.Queue[_Encoded | None] = queue.Queue(maxsize=_AHEAD * encoders)
    writing = _WritingThread(waiting, open_shard, plan.recipe.conditions, observer)
    with ThreadPoolExecutor(encoders, "encode", initializer=_step_back) as pool:
        writing.start()
        try:
            for chunk in _drawn(shards, plan, sampler):
                pixels = _pixels(engine, chunk, plan.recipe.truncation_psi)
                if writing.failed.is_set():
                    break
                waiting.put(_Encoded(chunk, pool.submit(_encoded, pixels, encode)))
        except BaseException:
            writing.stopped.set()
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            writing.join()
    if writing.error is not None:
        raise writing.error
    return writing.written


def _step_back() -> None:
    """Let the engine's threads run first where there are fewer cores than threads."""
    with contextlib.suppress(OSError, AttributeError):  # another operating system
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _QUIET)


def _drawn(shards: Iterable[int], plan: Plan, sampler: Sampler) -> Iterator[_Chunk]:
    """The chunks of all shards with their latents, drawn in a thread of its own while the engine runs.

    Numbers are drawn for some hundred pictures at a time, which costs a third of drawing them by the chunk.
    """

    def blocks() -> Iterator[tuple[int, list[list[Picture]], int]]:
        for shard in shards:
            chunks = chunks_of(plan, shard)
            step = max(1, _DRAWN // plan.recipe.batch)
            for start in range(0, len(chunks), step):
                yield shard, chunks[start : start + step], len(chunks) - start - 1

    def drawn(block: tuple[int, list[list[Picture]], int]) -> list[_Chunk]:
        shard, chunks, left = block
        pictures = [picture for chunk in chunks for picture in chunk]
        sizes = [len(chunk) for chunk in chunks]
        parts = zip(
            sampler.conditions(pictures).split(sizes), sampler.latents(pictures).split(sizes), strict=True
        )
        return [
            _Chunk(shard, chunk, i == left, c, z)
            for i, (chunk, (c, z)) in enumerate(zip(chunks, parts, strict=True))
        ]

    for block in in_order(drawn, blocks(), 1):
        yield from block


def _pixels(engine: PixelSource, chunk: _Chunk, psi: float) -> dict[str, Tensor]:
    with torch.inference_mode():
        ws = engine.mapping(chunk.latents, chunk.conditions, truncation_psi=psi)
        return dict(engine.pixels(ws))


def _encoded(pixels: Mapping[str, Tensor], encode: Encode) -> list[dict[str, bytes]]:
    """{spectrum: bytes} for each picture of uint8 [N, H, W, C] by spectrum."""
    arrays = {name: made.numpy() for name, made in pixels.items()}
    count = len(next(iter(arrays.values())))
    return [{name: encode(array[i]) for name, array in arrays.items()} for i in range(count)]


class _WritingThread:
    """What puts encoded chunks into shards, in order, and commits them.

    After a failure, or when it is stopped, it throws the open shard away and goes on emptying the queue, so
    that nobody waits for room in it.
    """

    def __init__(
        self,
        waiting: queue.Queue[_Encoded | None],
        open_shard: Callable[[int], Writer],
        names: tuple[str, ...],
        observer: Observer | None,
    ) -> None:
        self.stopped, self.failed = threading.Event(), threading.Event()
        self.error: BaseException | None = None
        self.written = 0
        self._ended = False
        self._waiting, self._open, self._names, self._observer = waiting, open_shard, names, observer
        self._thread = threading.Thread(target=self._run, name="write", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        """Wait until everything in the queue is done with."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            while (first := self._next()) is not None:
                self._write(first)
        except BaseException as error:
            self.error = error
            self.failed.set()
            while self._take() is not None:
                pass

    def _take(self) -> _Encoded | None:
        """What comes next in the queue; None from its end on."""
        if not self._ended:
            item = self._waiting.get()
            self._ended = item is None
            return item
        return None

    def _next(self) -> _Encoded | None:
        item = self._take()
        if self.stopped.is_set():
            raise _StoppedError
        return item

    def _write(self, first: _Encoded) -> None:
        """One shard, whose first chunk is given."""
        with self._open(first.chunk.shard) as writer:
            self._add(writer, first)
            item = first
            while not item.chunk.last:
                if (following := self._next()) is None:
                    raise _StoppedError
                item = following
                self._add(writer, item)
            record = writer.commit()
        self.written += 1
        if self._observer is not None:
            self._observer.done(first.chunk.shard, record)

    def _add(self, writer: Writer, item: _Encoded) -> None:
        rows = item.chunk.conditions.tolist()
        for picture, row, images in zip(item.chunk.pictures, rows, item.images.result(), strict=True):
            writer.add(picture, images, dict(zip(self._names, row, strict=True)))
        if self._observer is not None:
            self._observer.made(len(rows))


class _StoppedError(Exception):
    """The engine has stopped in the middle of a shard."""
