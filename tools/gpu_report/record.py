"""What a part has done so far, and the time it may take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Deadline", "PartError", "Record"]


class PartError(RuntimeError):
    """A part, or one item of it, could not be done; the text says why."""


class Deadline:
    """The time that a part may take, in seconds from now."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds until the end, at least 0."""
        return max(0.0, self._end - time.monotonic())

    def over(self) -> bool:
        """Whether nothing is left."""
        return self.left() == 0.0


@dataclass
class Record:
    """The items of one part: done with their results, failed and skipped with reasons, and left over.

    Every change is handed to `save`, so that what was measured outlives whatever comes.
    """

    items: dict[str, Any] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    save: Callable[[], None] = lambda: None

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Record:
        """Of a part's entry in the document."""
        return cls(dict(entry["items"]), dict(entry["failed"]), dict(entry["skipped"]), list(entry["left"]))

    def plan(self, names: Iterable[str]) -> None:
        """What is to be done, before anything is."""
        self.left = list(names)
        self.save()

    def done(self, name: str, result: Any) -> None:
        """An item with its result, a JSON value."""
        self._forget(name)
        self.items[name] = result
        self.save()

    def fail(self, name: str, why: str) -> None:
        """An item that went wrong."""
        self._forget(name)
        self.failed[name] = why
        self.save()

    def skip(self, name: str, why: str) -> None:
        """An item that cannot be done here."""
        self._forget(name)
        self.skipped[name] = why
        self.save()

    def _forget(self, name: str) -> None:
        self.left = [other for other in self.left if other != name]
        for found in (self.items, self.failed, self.skipped):
            found.pop(name, None)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {"items": self.items, "failed": self.failed, "skipped": self.skipped, "left": self.left}

    def one_by_one(self, do: Callable[[str, Deadline], Any], deadline: Deadline) -> None:
        """Does what is left, `do(name, deadline)` for each, until the time is over.

        An item that raises PartError has failed; one that was cut off by the end of the time stays left,
        unless it had all the time there was.
        """
        first = True
        for name in list(self.left):
            if deadline.over():
                return
            try:
                result = do(name, deadline)
            except PartError as error:
                if deadline.over() and not first:
                    return
                self.fail(name, str(error))
            else:
                self.done(name, result)
            first = False
