"""The callbacks of a run that a person follows: line, statistics, sheets, checkpoints, history."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyface.training.checkpoint import Snapshots
from pyface.training.collapse import DiversityWatch
from pyface.training.events import Events
from pyface.training.feed import Feed
from pyface.training.loop import Callback
from pyface.training.loss_watch import LossWatch
from pyface.training.progress import Deadline, Progress
from pyface.training.report import ReportPage
from pyface.training.sheets import SampleSheets
from pyface.training.statistics import Statistics
from pyface.training.tensorboard import TensorBoard

__all__ = ["observers"]


def observers(
    folder: Path,
    feed: Feed,
    generator: Any,
    average: Any,
    snapshots: Snapshots,
    *,
    total: int,
    interval: int,
    tick: int = 4000,
    minutes: float | None = None,
    tensorboard: bool = False,
    seed: int = 0,
) -> list[Callback]:
    """What watches a run, in the order in which it must be called.

    generator and its running average: `average` is what the sheets `fakes-*` show and `snapshots` saves.
    total: images at which the run ends; interval: images between two sheets, tick: between two records of
    stats.jsonl; minutes: ends the run, if it comes first; tensorboard: write for it too; seed: of the
    latents of sheets. A run without a generator (None) has neither sheets nor a diversity.
    """
    progress = Progress(total)
    events = Events(folder, progress.say)
    statistics = Statistics(folder, tick)
    losses = LossWatch(events.warn)
    snapshots.keep_all = losses.growing
    first: list[Callback] = [Deadline(minutes)] if minutes is not None else []
    last: list[Callback] = [ReportPage(folder, progress.say)]
    board = TensorBoard(folder) if tensorboard else None
    if board is not None:
        last.append(board)
        statistics.listeners.append(board.record)
    sheets: list[SampleSheets] = []
    if generator is not None:
        statistics.sources.append(DiversityWatch(generator, feed, events.warn, seed=seed))
        sheets.append(SampleSheets(folder, average, feed, interval, seed=seed, raw=generator))
        sheets[0].listeners += [board.sheet] if board is not None else []
    return [*first, progress, statistics, losses, *sheets, snapshots, events, *last]
