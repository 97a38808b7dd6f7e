"""Sheets show the same latents for the whole run, with and without average, every spectrum, and labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyface.errors import ValueRangeError
from pyface.io.images import contact_sheet, read_image, to_uint8
from pyface.training import TrainingSet
from pyface.training.sheets import SampleSheets, caption


def _sheets(run, folder, **options):
    sheets = SampleSheets(
        folder, run.average.average, run.trainer.feed, 8, columns=4, rows=2, raw=run.generator, **options
    )
    run.trainer.callbacks.append(sheets)
    return sheets


def test_files_of_a_run(tmp_path, small_run):
    run = small_run()
    _sheets(run, tmp_path)
    run.trainer.run(8)
    assert {p.name for p in tmp_path.glob("*.png")} == {
        "reals.png",
        "fakes-init.png",
        "fakes-000000.png",
        "raw-000000.png",
    }


def test_tiles_are_the_networks_images(tmp_path, small_run):
    pixels = torch.zeros(3, 3, 16, 16, dtype=torch.uint8)
    run = small_run(TrainingSet.from_arrays(pixels), conditions=())
    sheets = _sheets(run, tmp_path)
    with torch.no_grad():
        next(run.generator.synthesis.parameters()).add_(1)
    sheets.save(run.trainer)
    for file, network in (("fakes", run.average.average), ("raw", run.generator)):
        with torch.no_grad():
            expected = to_uint8(network(sheets.latents, sheets.labels, noise_mode="const"))
        found = read_image(tmp_path / f"{file}-000000.png")
        assert np.array_equal(found, contact_sheet(list(expected), columns=4))
    again = SampleSheets(tmp_path, run.average.average, run.trainer.feed, 8)
    assert torch.equal(again.latents, sheets.latents), "the seed chooses the latents"


def test_each_spectrum_has_its_sheet_and_listeners_get_them(tmp_path, small_run):
    pixels = {
        "vis": torch.zeros(6, 3, 16, 16, dtype=torch.uint8),
        "nir": torch.zeros(6, 1, 16, 16, dtype=torch.uint8),
    }
    run = small_run(TrainingSet.from_arrays(pixels), conditions=(), spectra={"vis": 3, "nir": 1})
    heard = []
    _sheets(run, tmp_path).listeners.append(lambda trainer, name, sheet: heard.append((name, sheet.shape)))
    run.trainer.run(4)
    names = {p.name for p in tmp_path.glob("*.png")}
    assert {"reals-vis.png", "reals-nir.png", "fakes-000000-nir.png", "raw-000000-vis.png"} <= names
    assert {name for name, _ in heard} == {f"{k}-{s}" for k in ("reals", "fakes", "raw") for s in pixels}


def test_labels_stand_under_the_tiles(tmp_path, small_run):
    run = small_run()
    _sheets(run, tmp_path)
    run.trainer.run(4)
    sheet = read_image(tmp_path / "reals.png")
    assert sheet.shape[1] == 4 * 130 + 2, "small tiles are enlarged so that the words can be read"
    text = sheet[2 + 128 : 2 + 128 + 12]
    assert text.min() < 128


def test_captions():
    names = ["smile", "glasses", "male"]
    assert caption([1.0, 0.0, 0.7], names) == "smile, male .7"
    assert caption([0.0, 0.0, 0.0], names) == "-"
    assert caption([0.0, 0.1, 1.0], names) == "male"
    assert caption([-1.5, 0.25], ()) == "-1.5 0.25"
    assert caption([0.5] * 512, ()) == "vector of 512"
    assert caption([], ()) == ""


def test_large_images_make_smaller_sheets_and_sizes_are_checked(tmp_path, small_run):
    run = small_run()
    run.trainer.feed.data.size = (1024, 2048)
    sheets = SampleSheets(tmp_path, run.average.average, run.trainer.feed, 8)
    assert (sheets.columns, len(sheets.latents)) == (2, 8)
    with pytest.raises(ValueRangeError, match="1 or more; got 0, 8, 6"):
        SampleSheets(tmp_path, run.average.average, run.trainer.feed, 0)
