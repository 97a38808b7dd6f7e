"""Commands with a time limit, and workers whose results count as soon as they are there."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_report.record import Deadline, PartError, Record

__all__ = ["ROOT", "Place", "Worker", "emit", "said"]

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tools/gpu_report.py"
_POLL_S = 0.1


@dataclass(frozen=True)
class Place:
    """Where a report is made.

    folder: builds and files between; env: of processes that import pyface; results: where the report lies.
    """

    folder: Path
    env: dict[str, str]
    quick: bool = False
    rivals: bool = True
    results: Path | None = None


def said(
    command: list[str],
    *,
    timeout: float = 600,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    allowed: tuple[int, ...] = (0,),
) -> str:
    """Standard output of a command. Raises PartError with the end of its output when it fails."""
    program = Path(command[0]).name
    try:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, cwd=cwd,
            start_new_session=True,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise PartError(f"{program} is not installed") from error
    try:
        output, errors = process.communicate(timeout=max(timeout, 0.1))
    except subprocess.TimeoutExpired as error:
        raise PartError(f"{program} took more than {timeout:.0f} s") from error
    finally:
        if process.poll() is None:
            _end(process)
    if process.returncode not in allowed:
        raise PartError(f"{program} gave {process.returncode}: {(output + errors).strip()[-3000:]}")
    return output


def _end(process: subprocess.Popen[Any]) -> None:
    """Ends a process that leads a session of its own, and those that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def emit(events: Path, **event: Any) -> None:
    """Adds an event to a worker's file.

    One of plan=[names], begin=name, item=name with done, failed or skipped, error=why nothing can be done.
    """
    with events.open("a", encoding="utf-8") as file:
        file.write(json.dumps(event) + "\n")


class Worker:
    """A process of this tool (`--inner NAME`) that does many items and tells of each as it goes.

    It is started again where it ends before its time: an error on the GPU may end a process, and the item
    that it was at has failed.
    """

    def __init__(self, place: Place, command: Callable[[Path, Path], list[str]], name: str) -> None:
        self._place, self._command = place, command
        self._events = place.folder / f"{name}.events"
        self._wanted = place.folder / f"{name}.wanted"

    @classmethod
    def inner(cls, place: Place, name: str, arguments: list[str]) -> Worker:
        """A worker that does `INNER[name]` of the tool."""

        def command(events: Path, wanted: Path) -> list[str]:
            files = ["--events", str(events), "--wanted", str(wanted)]
            return [sys.executable, str(SCRIPT), "--inner", name, *arguments, *files]

        return cls(place, command, "-".join([name, *arguments]).replace(",", "-").replace("/", "-"))

    def run(self, record: Record, deadline: Deadline) -> None:
        """Does what is left in the record (all there is when the record is new) until the time is over."""
        new = not (record.left or record.items or record.failed or record.skipped)
        while (new or record.left) and not deadline.over():
            self._events.write_text("")
            self._wanted.write_text("null" if new else json.dumps(record.left))
            before = list(record.left)
            at, code, count = self._follow(record, deadline)
            if code is None and new and not record.left and count == 0:
                raise PartError("the time was over before the first item began")
            if code is None:
                if at is not None and at in record.left and count == 0:
                    record.fail(at, "took all the time of a run of this part")
                return
            if code == 0:
                for name in list(record.left):
                    record.fail(name, "the worker left it out")
                return
            if at is None or at not in record.left:
                if new or record.left == before:
                    raise PartError(f"the worker ended with {code} before it began an item")
            else:
                record.fail(at, f"the process ended with {code}")
            new = False

    def _follow(self, record: Record, deadline: Deadline) -> tuple[str | None, int | None, int]:
        """(item it was at, exit status or None where its time was over, items finished) of one process."""
        process = subprocess.Popen(
            self._command(self._events, self._wanted), env=self._place.env, cwd=ROOT, start_new_session=True
        )
        at: str | None = None
        read = count = 0
        try:
            while True:
                ended = process.poll()
                with self._events.open(encoding="utf-8") as file:
                    file.seek(read)
                    text = file.read()
                whole = text.rfind("\n") + 1
                read += len(text[:whole].encode())
                for line in text[:whole].splitlines():
                    event = json.loads(line)
                    at = event.get("begin", at)
                    count += _take(record, event)
                if ended is not None or deadline.over():
                    return at, ended, count
                time.sleep(_POLL_S)
        finally:
            if process.poll() is None:
                _end(process)


def _take(record: Record, event: dict[str, Any]) -> int:
    """Writes an event down; 1 when it ends an item. Raises PartError for that of a worker that gave up."""
    if "error" in event:
        raise PartError(event["error"])
    if "plan" in event:
        record.plan(event["plan"])
    if "item" not in event:
        return 0
    if "done" in event:
        record.done(event["item"], event["done"])
    elif "failed" in event:
        record.fail(event["item"], event["failed"])
    else:
        record.skip(event["item"], event["skipped"])
    return 1
