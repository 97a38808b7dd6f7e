"""Processes that write shards, one asking for the next shard when it is ready for it.

A worker that dies is replaced, and what it had begun is given to another one: shards are written whole or not
at all and always with the same bytes, so doing one again does no harm. Nothing is shared but the folder.
"""

from __future__ import annotations

import collections
import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from pyface.errors import DataError, PyfaceError
from pyface.generation.pipeline import Observer

__all__ = ["Job", "run_workers"]

_PATIENCE = 10.0  # seconds for a process to end whose pipe is closed
_DEATHS = 3  # in a row, for each worker, without a single shard between them


class Job(Protocol):
    """What a worker does; it must be picklable."""

    def __call__(self, shards: Iterator[int], observer: Observer, worker: int) -> object:
        """Write each of `shards` and report it to `observer`. worker: its number, from 0."""


class _Worker:
    """A process, the end of its pipe, and the shards that it has been given but not reported."""

    def __init__(self, job: Job, number: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.number = number
        self.begun: set[int] = set()
        self.made = 0  # pictures of a shard that is not finished
        self.dismissed = False
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(job, theirs, number), daemon=True)
        # a Ctrl-C in a terminal reaches all processes; the first one alone decides what follows
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()

    def end(self) -> None:
        """Ends the process, unless it was dismissed and ends by itself."""
        if not self.dismissed or self.begun:
            self.process.kill()
        self.process.join()
        self.pipe.close()


def run_workers(
    job: Job,
    shards: Iterable[int],
    workers: int,
    *,
    observer: Observer | None = None,
    started: Callable[[int], None] | None = None,
) -> int:
    """Have `workers` processes do `job` until all shards are reported, and return how many that are.

    Args:
        job: done by each worker; sent to it by pickle.
        shards: their numbers.
        workers: at least 1.
        observer: told what workers report; of a worker that died, pictures of unfinished shards are taken
            back as a negative number.
        started: called with the process id of each worker.

    Raises:
        DataError: workers die without getting anything done.
        PyfaceError, OSError: what `job` raised in a worker; all workers are ended then.
        RuntimeError: another exception in a worker, with its traceback.
    """
    todo = collections.deque(shards)
    pool = _Pool(job, todo, observer, started)
    try:
        for number in range(min(workers, len(todo))):
            pool.start(number)
        while pool.members:
            pool.step()
    finally:
        pool.end()
    return pool.finished


class _Pool:
    """The workers of one run, and what is left to do."""

    def __init__(
        self,
        job: Job,
        todo: collections.deque[int],
        observer: Observer | None,
        started: Callable[[int], None] | None,
    ) -> None:
        self.members: list[_Worker] = []
        self.finished = 0
        self._job, self._todo, self._observer, self._started = job, todo, observer, started
        self._deaths = 0

    def start(self, number: int) -> None:
        worker = _Worker(self._job, number)
        self.members.append(worker)
        if self._started is not None and worker.process.pid is not None:
            self._started(worker.process.pid)

    def end(self) -> None:
        for worker in self.members:
            worker.end()
        self.members.clear()

    def step(self) -> None:
        """Wait until workers say something or end, and answer."""
        ready = wait([worker.pipe for worker in self.members])
        for worker in [worker for worker in self.members if worker.pipe in ready]:
            try:
                message = worker.pipe.recv()
            except (EOFError, OSError, pickle.UnpicklingError):
                self._ended(worker)
            else:
                self._answer(worker, message)

    def _answer(self, worker: _Worker, message: tuple[Any, ...]) -> None:
        kind = message[0]
        if kind == "failed":
            raise message[1]
        if kind == "next":
            shard = self._todo.popleft() if self._todo else None
            if shard is None:
                worker.dismissed = True
            else:
                worker.begun.add(shard)
            with contextlib.suppress(OSError):  # it died; its end of the pipe will say so
                worker.pipe.send(shard)
            return
        if kind == "made":
            self._made(worker, message[1])
            return
        _, shard, record = message
        worker.begun.discard(shard)
        worker.made = 0
        self.finished += 1
        self._deaths = 0
        if self._observer is not None:
            self._observer.done(shard, record)

    def _made(self, worker: _Worker, pictures: int) -> None:
        worker.made += pictures
        if self._observer is not None and pictures:
            self._observer.made(pictures)

    def _ended(self, worker: _Worker) -> None:
        """Let a worker go; where it had not finished, another one gets what it had begun."""
        worker.process.join(_PATIENCE)
        worker.end()
        self.members.remove(worker)
        if worker.dismissed and not worker.begun:
            return
        self._made(worker, -worker.made)
        self._todo.extendleft(sorted(worker.begun, reverse=True))
        self._deaths += 1
        if self._deaths > _DEATHS * (len(self.members) + 1):
            code = worker.process.exitcode
            reason = f"by signal {-code}" if code is not None and code < 0 else f"with exit code {code}"
            raise DataError(
                f"{self._deaths} workers in a row have died ({reason}) and none has finished a shard. Where "
                "the system ends them for want of memory, lower --workers or --batch; what is written stays, "
                "and the same command goes on from there."
            )
        if self._todo:
            self.start(worker.number)


def _serve(job: Job, pipe: Connection, number: int) -> None:
    """The life of a worker."""
    _end_with_parent()

    report = _Report(pipe)

    def shards() -> Iterator[int]:
        report.say("next")
        while (shard := pipe.recv()) is not None:
            yield shard
            report.say("next")

    try:
        job(shards(), report, number)
    except Exception as error:
        report.say("failed", _portable(error))


class _Report:
    """What a worker says to the first process; shards are asked for by one thread, reported by another."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._lock = pipe, threading.Lock()

    def say(self, *message: Any) -> None:
        with self._lock:
            self._pipe.send(message)

    def made(self, pictures: int) -> None:
        self.say("made", pictures)

    def done(self, shard: int, record: Any) -> None:
        self.say("done", shard, record)


def _portable(error: Exception) -> Exception:
    """The error itself where it survives pickle, else what it says."""
    if isinstance(error, PyfaceError | OSError):
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            return RuntimeError(str(error))
        return error
    return RuntimeError("a worker failed:\n" + "".join(traceback.format_exception(error)))


def _end_with_parent() -> None:
    """End this process when its parent ends, however that happens: nobody would take its reports."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()
