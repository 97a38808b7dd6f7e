"""stats.jsonl is a function of the run: interrupted or not, the records are the same."""

from __future__ import annotations

import json

import pytest
import torch

from pyface.errors import ValueRangeError
from pyface.training.checkpoint import load_state, restore_state, save_state
from pyface.training.collapse import DiversityWatch
from pyface.training.statistics import WALL_CLOCK, Statistics, read_records


class Strength:
    """A follower with a figure, as the controller of an augmentation is."""

    def __init__(self):
        self.p = 0.0

    def after_step(self, trainer):
        self.p = trainer.images_seen / 100

    def figures(self):
        return {"ada/p": self.p}


def _watched(small_run, folder, interval=12, **changes):
    run = small_run(**changes)
    statistics = Statistics(folder, interval)
    watch = DiversityWatch(run.generator, run.trainer.feed, lambda *_: None, images=8)
    statistics.sources.append(watch)
    run.trainer.followers.append(Strength())
    run.trainer.callbacks.append(statistics)
    return run


def _bare(records):
    return [{k: v for k, v in record.items() if k not in WALL_CLOCK} for record in records]


def test_records_hold_means_figures_sources_and_the_clock(tmp_path, small_run):
    run = _watched(small_run, tmp_path, interval=8)
    seen = []
    run.trainer.callbacks[-1].listeners.append(lambda trainer, record: seen.append(record))
    single = []
    step = run.trainer.step
    run.trainer.step = lambda: single.append(step()) or single[-1]
    run.trainer.run(20)
    records = read_records(tmp_path / "stats.jsonl")
    assert [r["kimg"] for r in records] == [0.008, 0.016, 0.02]
    assert [r.get("partial", False) for r in records] == [False, False, True]
    assert list(records[0])[-4:] == list(WALL_CLOCK)
    assert seen == records[:2], "listeners get the full records"
    first = single[:2]
    assert records[0]["loss/fake"] == (first[0]["fake"] + first[1]["fake"]) / 2
    assert records[0]["loss/r1"] == first[0]["r1"], "a lazy term is averaged over its own steps"
    assert records[0]["ada/p"] == pytest.approx(0.06)
    assert 0 < records[0]["diversity"] < 10
    assert records[0]["peak_memory_mb"] > 10
    assert records[-1]["seconds"] >= records[0]["seconds"]


@pytest.mark.parametrize("at", [4, 12, 20])
def test_an_interrupted_run_leaves_the_same_records(tmp_path, small_run, at):
    """Stopped inside and at the end of a record, then killed after further steps, then resumed."""
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = _watched(small_run, tmp_path / "whole")
    whole.trainer.run(36)
    parts = _watched(small_run, tmp_path / "parts")
    parts.trainer.run(at)
    save_state(tmp_path / "resume.pt", parts.trainer, {})
    parts.trainer.run(28)  # what it wrote here is lost with the weights
    with (tmp_path / "parts" / "stats.jsonl").open("a") as file:
        file.write('{"kimg": 0.0')  # killed while it wrote
    rest = _watched(small_run, tmp_path / "parts")
    restore_state(rest.trainer, load_state(tmp_path / "resume.pt"))
    rest.trainer.run(36)
    expected = read_records(tmp_path / "whole" / "stats.jsonl")
    found = read_records(tmp_path / "parts" / "stats.jsonl")
    assert [r["kimg"] for r in found] == [0.012, 0.024, 0.036]
    assert _bare(found) == _bare(expected), "equal to the bit"
    seconds = [r["seconds"] for r in found]
    assert seconds == sorted(seconds), "the clock goes on over the interruption"
    assert all(line.startswith("{") for line in (tmp_path / "parts" / "stats.jsonl").read_text().splitlines())


def test_a_new_run_in_a_used_folder_keeps_the_old_records_aside(tmp_path, small_run):
    for _ in range(2):
        _watched(small_run, tmp_path, interval=4).trainer.run(8)
    assert len(read_records(tmp_path / "stats.jsonl")) == 2
    assert len(read_records(tmp_path / "stats-previous.jsonl")) == 2


def test_records_are_json_also_when_a_figure_is_not_finite(tmp_path, small_run):
    run = _watched(small_run, tmp_path, interval=4)
    run.trainer.callbacks[-1].sources.append(lambda trainer: {"odd": float("nan")})
    run.trainer.run(4)
    line = (tmp_path / "stats.jsonl").read_text()
    assert json.loads(line, parse_constant=lambda name: pytest.fail(name))["odd"] is None


def test_the_interval_is_checked(tmp_path):
    with pytest.raises(ValueRangeError, match=r"1 image or more; got 0"):
        Statistics(tmp_path, 0)


def test_the_sums_are_plain_values(tmp_path, small_run):
    run = _watched(small_run, tmp_path, interval=1000)
    run.trainer.run(8)
    state = run.trainer.state_dict()["callbacks"]["Statistics"]
    torch.save(state, tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True) == state
    assert state["sums"]["fake"][1] == 2.0
