"""What is wrong with a dataset: `Problem`, one thing, and `Problems`, all that a loader has found.

Loaders have `on_problem`: "stop" ends with one `DataError` that lists what was found, "skip" leaves out what
is bad and goes on; the list is then in the loader's `problems`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator
from typing import Literal, get_args

from pyface.errors import DataError, ValueRangeError

__all__ = ["OnProblem", "Problem", "Problems"]

OnProblem = Literal["stop", "skip"]

_LISTED = 20


@dataclasses.dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a dataset.

    Attributes:
        file: what it is about, relative to the dataset with forward slashes; "" when it is the whole.
        line: from 1; of `source` when that is given, else of `file`. None for a picture or the whole.
        code: its kind in a word that stays the same, such as "not-image".
        reason: the rest of a sentence about the file, with what came and what is allowed.
        source: file of labels that the line stands in, where `file` is the picture that it is about.

    >>> print(Problem("a.png", 3, "label-form", "label is 'x', not a number", "labels.csv"))
    a.png (labels.csv line 3): label is 'x', not a number
    """

    file: str
    line: int | None
    code: str
    reason: str
    source: str = ""

    def __str__(self) -> str:
        line = f" line {self.line}" if self.line is not None else ""
        if not self.file:
            return self.reason
        place = f"{self.file} ({self.source}{line})" if self.source else f"{self.file}{line}"
        return f"{place}: {self.reason}"


class Problems:
    """Collects what is wrong with one dataset, and says all of it at once.

    >>> problems = Problems("faces", on_problem="skip")
    >>> problems.add("a.png", None, "empty", "has zero bytes")
    >>> problems.settle()   # with "stop" this raises DataError
    >>> [problem.code for problem in problems]
    ['empty']

    Args:
        dataset: what the message calls it: a path.
        on_problem: "stop" or "skip".
        advice: a last sentence of the message: what to do.

    Raises:
        ValueRangeError: another `on_problem`.
    """

    def __init__(
        self, dataset: str | os.PathLike[str], on_problem: OnProblem = "stop", *, advice: str = ""
    ) -> None:
        if on_problem not in get_args(OnProblem):
            raise ValueRangeError(
                'on_problem must be "stop" (one error that lists all problems) or "skip" (leave out what is '
                f"bad and go on); got {on_problem!r}."
            )
        self.dataset = str(dataset)
        self.on_problem = on_problem
        self.advice = advice
        self.found: list[Problem] = []

    def __len__(self) -> int:
        return len(self.found)

    def __iter__(self) -> Iterator[Problem]:
        return iter(self.found)

    def add(self, file: str, line: int | None, code: str, reason: str, source: str = "") -> None:
        """Note one problem; the arguments are those of `Problem`."""
        self.found.append(Problem(file, line, code, reason, source))

    def extend(self, problems: Iterable[Problem]) -> None:
        """Note several."""
        self.found += problems

    def files(self) -> set[str]:
        """The files that problems are about: what "skip" leaves out."""
        return {problem.file for problem in self.found if problem.file}

    def settle(self, counted: str | None = None) -> None:
        """Raise what was found so far when the loader is to stop at problems, else return.

        Args:
            counted: how the message counts, such as "3 of 10 pictures"; by default "3 problems".

        Raises:
            DataError: with "stop" and at least one problem; the first 20 are listed, the others counted.
        """
        if self.found and self.on_problem == "stop":
            raise DataError(self.message(counted))

    def message(self, counted: str | None = None) -> str:
        """The first 20 problems and the number of the others, in one line."""
        if counted is None:
            lead = f"{len(self)} problem{'s' if len(self) != 1 else ''} in {self.dataset}"
        else:
            lead = f"{counted} of {self.dataset} cannot be used"
        told = "; ".join(map(str, self.found[:_LISTED]))
        rest = f"; and {len(self) - _LISTED} more" if len(self) > _LISTED else ""
        advice = f". {self.advice}" if self.advice else ""
        return f"{lead}: {told}{rest}{advice}"
