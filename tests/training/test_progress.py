"""The progress line: what it tells, how it behaves on a terminal and in a log, and the time limit."""

from __future__ import annotations

import io
import json
import os

import pytest

from pyface.errors import ValueRangeError
from pyface.training.events import Events
from pyface.training.progress import Deadline, Progress, duration


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Strength:
    def after_step(self, trainer):
        pass

    def figures(self):
        return {"ada/p": 0.125}


def test_a_log_gets_lines(small_run):
    stream = io.StringIO()
    run = small_run()
    run.trainer.followers.append(Strength())
    run.trainer.callbacks.append(Progress(8, seconds=0.0, stream=stream))
    run.trainer.run(8)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert "\r" not in stream.getvalue()
    for word in ("0.0 of 0.008 kimg", "img/s", "0:00 left", "adversarial ", "real ", "ada/p 0.125"):
        assert word in lines[-1]


def test_a_terminal_line_is_rewritten_and_fits(small_run, monkeypatch):
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((60, 24)))
    stream = Terminal()
    run = small_run()
    progress = Progress(8, seconds=0.0, stream=stream)
    run.trainer.callbacks.append(progress)
    run.trainer.run(8)
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert text.endswith("\n"), "the line is closed at the end"
    parts = text.rstrip("\n").split("\r\x1b[K")[1:]
    assert len(parts) == 2
    assert all(len(part) <= 59 for part in parts)


def test_lines_are_rare_by_default_and_warnings_do_not_tear_them(small_run):
    assert Progress(8, stream=io.StringIO()).seconds == 30
    stream = Terminal()
    progress = Progress(8, stream=stream)
    assert progress.seconds == 2
    progress.seconds = 0.0
    run = small_run()
    run.trainer.callbacks.append(progress)
    progress.on_start(run.trainer)
    progress.on_step(run.trainer, run.trainer.step())
    progress.say("a word")
    assert stream.getvalue().endswith("\na word\n")


def test_the_deadline_ends_the_run(small_run):
    run = small_run()
    run.trainer.callbacks.append(Deadline(1e-9))
    run.trainer.run(4000)
    assert run.trainer.images_seen == 4
    assert run.trainer.interrupted == "the time limit"
    with pytest.raises(ValueRangeError, match="minutes must be greater than 0"):
        Deadline(0)


def test_events_are_the_history_of_a_run(small_run, tmp_path):
    said = []
    run = small_run()
    events = Events(tmp_path, said.append)
    run.trainer.callbacks += [Deadline(1e-9), events]
    run.trainer.run(8)
    run.trainer.callbacks.pop(0)
    run.trainer.interrupted = ""
    events.warn(run.trainer, "look at this")
    run.trainer.run(8)
    run.trainer.step = lambda: (_ for _ in ()).throw(RuntimeError("it broke"))
    with pytest.raises(RuntimeError, match="it broke"):
        run.trainer.run(12)
    records = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [r["event"] for r in records] == [
        "started",
        "interrupted",
        "warning",
        "resumed",
        "finished",
        "resumed",
        "failed",
    ]
    assert records[1]["text"] == "the time limit"
    assert records[-1]["text"] == "it broke"
    assert records[-1]["kimg"] == 0.008
    assert said == ["stopped by the time limit at 0.0 kimg; saved", "warning: look at this"]


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3723, "1:02:03")])
def test_durations(seconds, text):
    assert duration(seconds) == text
