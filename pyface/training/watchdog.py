"""Notices when a process of a run has died, hangs or has failed, and says which one it was."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pyface.errors import TrainingError

__all__ = ["Member", "Watchdog"]

NONE = "-"  # the verdict while there is none
WATCHED = 2  # how many of the following ranks each process listens to
RAISED_SECONDS = 60.0  # how long a process may take to end after it was told to


@dataclass(frozen=True)
class Member:
    """One process of a run.

    machine: names the kernel and the process namespace, "" where that cannot be known; started: start time
    of the process in the kernel's ticks, which tells it from a later one with the same number.
    """

    rank: int
    host: str
    pid: int
    machine: str = ""
    started: str = ""

    @classmethod
    def own(cls, rank: int) -> Member:
        """This process."""
        return cls(rank, socket.gethostname(), os.getpid(), _machine(), _started(os.getpid()))

    def __str__(self) -> str:
        return f"rank {self.rank} (host {self.host}, pid {self.pid})"

    def gone(self) -> bool:
        """Whether the process certainly runs no more; False for one on another machine."""
        return bool(self.machine) and self.machine == _machine() and _started(self.pid) != self.started

    def to_json(self) -> str:
        """As text for the store."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: bytes | str) -> Member:
        """What `to_json` wrote."""
        return cls(**json.loads(text))


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Start time of a process in ticks; "" when it has ended, reaped or not."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


class _Peer:
    """What this process last heard from another one."""

    def __init__(self, now: float) -> None:
        self.count = -1
        self.heard = now
        self.beat: dict[str, Any] = {}
        self.missing = 0  # looks in a row that found the process gone

    def hear(self, text: bytes, now: float) -> None:
        beat = json.loads(text)
        if beat["count"] != self.count:
            self.count, self.heard, self.beat = beat["count"], now, beat


class Watchdog:
    """Two threads beside the training of one process.

    The first writes a heartbeat into the store and reads those of the next two ranks; the second never
    touches the store, so that it also acts when the store is what hangs. The first process that finds
    another one dead, silent for `limit` seconds or `stall` seconds late for an exchange writes the verdict,
    which every process then reads. A main thread that does not take the verdict up within `grace` seconds,
    because it waits in an exchange, is ended together with its process: exit status 1, the verdict on stderr.

    store: a connection of its own to the store of the run. place: where the store is, for messages.
    """

    def __init__(
        self,
        store: Any,
        rank: int,
        members: Sequence[Member],
        place: str,
        *,
        limit: float = 60.0,
        stall: float = 1800.0,
        grace: float = 10.0,
    ) -> None:
        self._store = store
        self.members = list(members)
        self.rank = rank
        self.place = place
        self.limit, self.stall, self.grace = limit, stall, grace
        self.interval = min(2.0, limit / 4)
        self.verdict = ""
        self.step = 0
        self._doing, self._since, self._exchanges, self._waiting = "starting", time.monotonic(), 0, False
        self._count = 0
        self._answered = self._looked = time.monotonic()
        self._decided = threading.Event()
        self._stopped = threading.Event()
        self._decided_at = 0.0
        self._raised_at = 0.0
        size = len(self.members)
        self._next = [(rank + i) % size for i in range(1, min(WATCHED, size - 1) + 1)]
        self._peers = {r: _Peer(time.monotonic()) for r in range(size) if r != rank}
        self._threads = [
            threading.Thread(target=target, name=f"pyface-{name}", daemon=True)
            for name, target in (("heartbeat", self._talk_until_stopped), ("guard", self._guard))
        ]

    # ------------------------------------------------------------------ called by the main thread

    def announce(self) -> None:
        """Write the first heartbeat; all processes must have done so before any of them starts."""
        self._store.compare_set("verdict", "", NONE)
        self._beat()

    def start(self) -> None:
        """Begin to watch."""
        for thread in self._threads:
            thread.start()

    @contextmanager
    def doing(self, what: str, exchange: bool = True) -> Iterator[None]:
        """Say what the main thread does; an exchange is counted, and waiting in it is limited by `stall`."""
        self._exchanges += exchange
        self._doing, self._since, self._waiting = what, time.monotonic(), exchange
        try:
            yield
        finally:
            self._doing, self._since, self._waiting = "working", time.monotonic(), False

    def check(self) -> None:
        """Raise TrainingError when there is a verdict."""
        if self._decided.is_set():
            self._raised_at = self._raised_at or time.monotonic()
            raise TrainingError(self.verdict)

    def wait_for_verdict(self) -> str:
        """After an exchange has failed: who is to blame, or "" when nobody was found within the limit."""
        self._decided.wait(self.limit + 3 * self.interval)
        if self.verdict:
            self._raised_at = time.monotonic()
        return self.verdict

    def report(self, text: str) -> None:
        """Make the failure of this process the verdict, unless there is one already."""
        with suppress(RuntimeError):
            self._declare(f"{self.members[self.rank]} {text}")
            self._store.set(f"heard/{self.rank}", "")

    def linger(self) -> None:
        """Wait until the other processes have read the verdict: the store may end with this process."""
        end = time.monotonic() + 3 * self.interval + 2.0
        waiting = list(self._peers)
        with suppress(RuntimeError):
            while waiting and time.monotonic() < end:
                waiting = [r for r in waiting if not self.members[r].gone()]
                waiting = [r for r in waiting if not self._store.check([f"heard/{r}"])]
                time.sleep(0.05)

    def stop(self) -> None:
        """End both threads."""
        self._stopped.set()
        for thread in self._threads:
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join(self.interval + 5.0)

    # ------------------------------------------------------------------ the thread that uses the store

    def _talk_until_stopped(self) -> None:
        while not self._stopped.wait(self.interval):
            try:
                self._talk()
            except RuntimeError:  # the store does not answer: the guard counts the time
                self._look_at_processes(None)

    def _beat(self) -> None:
        self._count += 1
        beat = {
            "count": self._count,
            "step": self.step,
            "doing": self._doing,
            "exchanges": self._exchanges,
        }
        self._store.set(f"beat/{self.rank}", json.dumps(beat))

    def _talk(self) -> None:
        self._beat()
        late = self._waiting and time.monotonic() - self._since > self.stall
        ranks = sorted(self._peers) if late else self._next
        verdict, *beats = self._store.multi_get(["verdict", *(f"beat/{r}" for r in ranks)])
        now = time.monotonic()
        # A process that was stopped itself has heard nobody, which says nothing about the others.
        if now - self._looked > max(self.limit / 2, 2 * self.interval):
            for peer in self._peers.values():
                peer.heard = now
        self._looked = self._answered = now
        if verdict.decode() != NONE:
            self._store.set(f"heard/{self.rank}", "")
            self._decide(verdict.decode())
            return
        for rank, text in zip(ranks, beats, strict=True):
            self._peers[rank].hear(text, now)
        self._look_at_processes(now)
        if late and not self.verdict:
            self._declare(self._who_is_late())

    def _look_at_processes(self, now: float | None) -> None:
        """Find a watched process that is gone or silent; `now` is None when the store did not answer."""
        for rank in self._next if now is not None else self._peers:
            peer, member = self._peers[rank], self.members[rank]
            peer.missing = peer.missing + 1 if member.gone() else 0
            # A failing process writes its reason before it ends: the second look reads that first.
            if peer.missing >= 2:
                self._declare(f"{member} has died; {self._last_heard(peer)}. {_DEAD}")
                return
            if now is not None and now - peer.heard > self.limit:
                self._declare(
                    f"{member} has not been heard for {now - peer.heard:.0f} s (limit {self.limit:g} s); "
                    f"{self._last_heard(peer)}. {_SILENT}"
                )
                return

    @staticmethod
    def _last_heard(peer: _Peer) -> str:
        if not peer.beat:
            return "it was never heard after the start"
        return f"last heard at step {peer.beat['step']}, {peer.beat['doing']}"

    def _who_is_late(self) -> str:
        late = [r for r, p in sorted(self._peers.items()) if p.beat["exchanges"] < self._exchanges]
        waited = f"{time.monotonic() - self._since:.0f} s (limit {self.stall:g} s)"
        where = f"in {self._doing!r} of step {self.step}"
        if not late:
            return f"all processes have waited {where} for {waited}. {_NETWORK}"
        names = ", ".join(f"{self.members[r]}: {self._last_heard(self._peers[r])}" for r in late[:4])
        rest = f", and {len(late) - 4} more" if len(late) > 4 else ""
        return f"{names}{rest}; the others have waited for {waited} {where}. {_LATE}"

    def _declare(self, text: str) -> None:
        """Make `text` the verdict of all processes, unless another one was first."""
        try:
            text = self._store.compare_set("verdict", NONE, text).decode()
        except RuntimeError:
            if self.verdict:
                return
        self._decide(text)

    def _decide(self, text: str) -> None:
        if not self._decided.is_set():
            self.verdict, self._decided_at = text, time.monotonic()
            self._decided.set()

    # ------------------------------------------------------------------ the thread that does not

    def _guard(self) -> None:
        tick = min(0.5, self.interval)
        last = time.monotonic()
        while not self._stopped.wait(tick):
            now = time.monotonic()
            if now - last > self.limit / 2:  # this process was stopped; let the other thread look again
                self._answered = now
            last = now
            if not self.verdict and now - self._answered > self.limit:
                self._decide(
                    f"the meeting point of the processes at {self.place} has not answered for "
                    f"{now - self._answered:.0f} s (limit {self.limit:g} s). It lives in torchrun's launcher "
                    f"on the first node, or else in {self.members[0]}. {_SILENT}"
                )
            if not self.verdict:
                continue
            over = now - self._raised_at > RAISED_SECONDS if self._raised_at else False
            if over or (not self._raised_at and now - self._decided_at > self.grace):
                self._end()

    def _end(self) -> None:
        """End the process from outside its main thread."""
        if not self._raised_at:
            print(f"pyface: rank {self.rank} ends: {self.verdict}", file=sys.stderr)
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(1)


_RESUME = "Then start again with --resume and the last resume-*.pt file."
_DEAD = (
    "Look at its own output and at the kernel's log; the usual reason is memory (use a smaller --batch or "
    f"fewer processes). {_RESUME}"
)
_SILENT = f"Look whether its machine and the network between the machines are well. {_RESUME}"
_LATE = (
    "Either it hangs or its work between two exchanges is too long (then raise --rank-stall). "
    f"Look at what it does (py-spy dump --pid). {_RESUME}"
)
_NETWORK = f"The network between the machines is the likely reason (see NCCL_DEBUG=INFO). {_RESUME}"
