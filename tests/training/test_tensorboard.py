"""What TensorBoard gets of a run; without the package the option says what to install."""

from __future__ import annotations

import sys
from typing import ClassVar

import numpy as np
import pytest

from pyface.errors import MissingExtraError
from pyface.training import tensorboard
from pyface.training.sheets import SampleSheets
from pyface.training.statistics import Statistics, read_records
from pyface.training.tensorboard import TensorBoard


class Notes:
    """Stands for the writer of torch."""

    made: ClassVar[list] = []

    def __init__(self, folder, purge_step=None):
        self.folder, self.purge_step = folder, purge_step
        self.scalars, self.images, self.closed = [], [], False
        Notes.made.append(self)

    def add_scalar(self, name, value, step):
        self.scalars.append((name, value, step))

    def add_image(self, name, pixels, step, dataformats):
        assert dataformats == "HWC"
        self.images.append((name, pixels.shape, step))

    def close(self):
        self.closed = True


def _watched(small_run, folder):
    run = small_run()
    board = TensorBoard(folder)
    statistics = Statistics(folder, 4)
    statistics.listeners.append(board.record)
    sheets = SampleSheets(
        folder, run.average.average, run.trainer.feed, 8, columns=2, rows=2, raw=run.generator
    )
    sheets.listeners.append(board.sheet)
    run.trainer.callbacks += [statistics, sheets, board]
    return run


def test_records_and_sheets_go_to_the_writer(tmp_path, small_run, monkeypatch):
    monkeypatch.setattr(tensorboard, "_summary_writer", lambda: Notes)
    Notes.made.clear()
    run = _watched(small_run, tmp_path)
    run.trainer.run(8)
    run.trainer.run(12)
    first, second = Notes.made
    assert first.folder == str(tmp_path / "tensorboard")
    assert first.purge_step is None
    assert second.purge_step == 9, "what was written beyond 8 images is replaced"
    records = read_records(tmp_path / "stats.jsonl")
    expected = [(k, v, 4) for k, v in records[0].items() if k != "kimg"]
    assert first.scalars[: len(expected)] == expected
    assert {step for _, _, step in first.scalars} == {4, 8}
    assert [(name, step) for name, _, step in first.images] == [
        ("reals", 0),
        ("fakes", 0),
        ("fakes", 8),
        ("raw", 8),
    ]
    assert first.closed
    assert second.closed


def test_the_writer_is_closed_after_an_error(tmp_path, small_run, monkeypatch):
    monkeypatch.setattr(tensorboard, "_summary_writer", lambda: Notes)
    run = _watched(small_run, tmp_path)
    run.trainer.step = lambda: (_ for _ in ()).throw(RuntimeError("it broke"))
    with pytest.raises(RuntimeError, match="it broke"):
        run.trainer.run(8)
    assert Notes.made[-1].closed


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'pyface-synth\[train\]'"):
        TensorBoard(tmp_path)


def test_the_real_package_reads_it_back(tmp_path, small_run):
    pytest.importorskip("tensorboard", reason="the extra `train` is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = _watched(small_run, tmp_path)
    run.trainer.run(8)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    records = read_records(tmp_path / "stats.jsonl")
    found = [(e.step, e.value) for e in events.Scalars("loss/fake")]
    assert [step for step, _ in found] == [4, 8]
    np.testing.assert_allclose([value for _, value in found], [r["loss/fake"] for r in records], rtol=1e-6)
    assert {"reals", "fakes", "raw"} <= set(events.Tags()["images"])
