"""Worker processes: each shard reported once, dead workers replaced, errors and bad luck told."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

# children import this module by name to find the jobs
sys.path.insert(0, str(Path(__file__).parent))
import jobs_of_workers as jobs

from pyface.errors import DataError
from pyface.generation.workers import run_workers


class Observed:
    def __init__(self):
        self.pictures, self.records, self.most = 0, {}, 0

    def made(self, pictures):
        self.pictures += pictures
        self.most = max(self.most, self.pictures)

    def done(self, shard, record):
        assert shard not in self.records
        self.records[shard] = record


def test_every_shard_is_reported_once():
    seen, started = Observed(), []
    assert run_workers(jobs.Square(), range(3, 12), 2, observer=seen, started=started.append) == 9
    assert seen.records == {n: n * n for n in range(3, 12)}
    assert seen.pictures == 9
    assert len(set(started)) == 2
    assert run_workers(jobs.Square(), [], 2) == 0


def test_a_killed_worker_is_replaced_and_its_shards_are_done(tmp_path):
    seen, started = Observed(), []
    job = jobs.KilledOnce(str(tmp_path / "killed"))
    assert run_workers(job, range(8), 2, observer=seen, started=started.append) == 8
    assert set(seen.records) == set(range(8))
    assert seen.pictures == 8  # what the dead one had made was taken back
    assert len(started) == 3


def test_workers_that_always_die_are_given_up():
    with pytest.raises(DataError, match=r"workers in a row have died \(by signal 9\).*lower --workers"):
        run_workers(jobs.AlwaysKilled(), range(4), 1)


def test_errors_come_back():
    with pytest.raises(DataError, match="the disk is full"):
        run_workers(jobs.Failing(DataError("the disk is full")), range(4), 2)
    with pytest.raises(RuntimeError, match=r"a worker failed:(.|\n)*ZeroDivisionError: zero"):
        run_workers(jobs.Failing(ZeroDivisionError("zero")), range(4), 1)


def test_an_interrupt_ends_the_workers():
    started = []

    class Interrupted(Observed):
        def done(self, shard, record):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_workers(jobs.Square(), range(100), 2, observer=Interrupted(), started=started.append)
    for process in started:
        with pytest.raises(ProcessLookupError):
            os.kill(process, signal.SIG_DFL)
