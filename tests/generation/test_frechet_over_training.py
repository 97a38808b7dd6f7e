"""The command behind the table of distances over training: its files, its verdict, its messages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pyface.io.checkpoint import save_model
from pyface.models import FaceRecognition, GeneratorConfig, RecognitionConfig, StyleGAN2Generator

TOOL = Path(__file__).resolve().parents[2] / "tools" / "frechet_over_training.py"


def measure(folder, *arguments):
    command = [sys.executable, TOOL, folder, *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, env=environment, check=False
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with three snapshots; the last one is the first again."""
    folder = tmp_path_factory.mktemp("run")
    config = GeneratorConfig(16, z_dim=8, w_dim=8, mapping_layers=1, channel_base=128, channel_max=8)
    for kimg, seed in ((1, 0), (2, 1), (10, 0)):
        torch.manual_seed(seed)
        path = folder / f"snapshot-{kimg:06d}.safetensors"
        save_model(path, StyleGAN2Generator(config), extra={"training": {"kimg": kimg}})
    records = [{"kimg": 1.0, "cpu_seconds": 60.0}, {"kimg": 8.0, "cpu_seconds": 90.0}]
    (folder / "stats.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    torch.manual_seed(0)
    sizes = RecognitionConfig(resolution=16, channels=(4, 4, 6, 6, 8), num_features=6, embedding_dim=4)
    save_model(folder / "extractor.safetensors", FaceRecognition(sizes))
    return folder


def test_table_and_verdict(run, tmp_path):
    out = tmp_path / "report"
    data = ("--data", "procedural:60x1@16", "--images", 40, "--extractor", run / "extractor.safetensors")
    done = measure(run, *data, "--out", out, "--sheet", tmp_path / "sheet.png", "--require-fall")
    assert done.returncode == 1, done.stderr  # the first and last snapshots are the same network
    report = json.loads((out / "frechet.json").read_text())
    rows = report["snapshots"]
    assert [row["kimg"] for row in rows] == [1, 2, 10]
    assert [row["cpu_minutes"] for row in rows] == [1.0, 1.0, 1.5]
    assert rows[0]["frechet"] == pytest.approx(rows[2]["frechet"], rel=1e-6)
    assert rows[1]["frechet"] != pytest.approx(rows[0]["frechet"], rel=1e-3)
    assert not report["falls_monotonically"]
    assert report["nearest_training"]["training_images"] == 60
    assert (tmp_path / "sheet.png").exists()
    text = (out / "frechet.md").read_text()
    assert "does not always fall" in text
    assert text.count("\n| ") == 4  # three snapshots and the real images


def test_an_empty_folder_is_named(tmp_path):
    done = measure(tmp_path, "--data", "procedural:60x1@16")
    assert done.returncode == 1
    assert "snapshot-*.safetensors" in done.stderr
