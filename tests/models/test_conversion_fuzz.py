"""Mutated checkpoints run no code, do not hang, and do not blow up: 1,000 of them, 10,000 with --runslow."""

from __future__ import annotations

import importlib.util
import io
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pyface
from pyface.models import GeneratorConfig, StyleGAN2Generator, nvidia_name_map

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs RLIMIT_AS and /proc")

_spec = importlib.util.spec_from_file_location(
    "snapshot_writer", Path(__file__).parents[1] / "snapshot_writer.py"
)
writer = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(writer)

WORKER = Path(__file__).with_name("conversion_fuzz_worker.py")
KERNEL = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])) / 64


def rosinality_state() -> dict[str, torch.Tensor]:
    """The smallest generator of that layout: 8 pixels, 2 channels."""
    state = {
        "style.1.weight": torch.randn(2, 2),
        "style.1.bias": torch.randn(2),
        "input.input": torch.randn(1, 2, 4, 4),
    }
    for index, name in enumerate(("conv1", "convs.0", "convs.1")):
        size = 4 if index == 0 else 8
        state |= {
            f"{name}.conv.weight": torch.randn(1, 2, 2, 3, 3),
            f"{name}.conv.modulation.weight": torch.randn(2, 2),
        }
        state |= {f"{name}.conv.modulation.bias": torch.ones(2), f"{name}.activate.bias": torch.zeros(2)}
        state |= {
            f"{name}.noise.weight": torch.zeros(1),
            f"noises.noise_{index}": torch.randn(1, 1, size, size),
        }
    for name in ("to_rgb1", "to_rgbs.0"):
        state |= {f"{name}.conv.weight": torch.randn(1, 3, 2, 1, 1), f"{name}.bias": torch.zeros(1, 3, 1, 1)}
        state |= {
            f"{name}.conv.modulation.weight": torch.randn(2, 2),
            f"{name}.conv.modulation.bias": torch.ones(2),
        }
    return state | {"convs.0.conv.blur.kernel": KERNEL * 4, "to_rgbs.0.upsample.kernel": KERNEL * 4}


def honest_files(folder: Path) -> None:
    """Small checkpoints of both layouts: two pickle protocols, two torch containers."""
    torch.manual_seed(0)
    network = StyleGAN2Generator(
        GeneratorConfig(8, z_dim=2, w_dim=2, mapping_layers=1, channel_base=16, channel_max=2)
    )
    state = network.state_dict()
    named = {theirs: state[ours] for theirs, ours in nvidia_name_map(network.config).items()}
    tree = writer.module_tree(named | {"synthesis.b8.resample_filter": KERNEL}, {}, {"": "Generator"})
    for protocol in (3, 4):
        snapshot = {"training_set_kwargs": {"path": "a.zip"}, "G_ema": tree, "augment_pipe": None}
        (folder / f"honest-{protocol}.pkl").write_bytes(writer.dumps(snapshot, protocol))
    for zipped in (True, False):
        buffer = io.BytesIO()
        file = {"g_ema": rosinality_state(), "latent_avg": torch.zeros(2)}
        torch.save(file, buffer, _use_new_zipfile_serialization=zipped)
        (folder / f"honest-{zipped}.pt").write_bytes(buffer.getvalue())


def run_workers(folder: Path, count: int, processes: int = 2) -> dict[str, int]:
    """How many of `count` mutations ended how; fails when a worker did anything but finish."""
    honest_files(folder)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    environment["PYTHONPATH"] = str(Path(pyface.__file__).parents[1])
    bounds = [count * k // processes for k in range(processes + 1)]
    workers = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(folder), str(first), str(last)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for first, last in itertools.pairwise(bounds)
    ]  # fmt: skip
    outcomes: dict[str, int] = {}
    for worker, first in zip(workers, bounds[:-1], strict=True):
        out, err = worker.communicate()
        lines = out.split("\n")[:-1]
        assert worker.returncode == 0, (
            f"mutation {first + len(lines)}: status {worker.returncode}\n{err[-2000:]}"
        )
        for line in lines:
            outcomes[line.split()[1]] = outcomes.get(line.split()[1], 0) + 1
    assert sum(outcomes.values()) == count
    return outcomes


def test_a_thousand_mutations(tmp_path):
    outcomes = run_workers(tmp_path, 1000)
    assert outcomes["refused"] > 500
    assert outcomes["read"] > 20  # a mutation of a weight's bytes is a checkpoint still


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_thousand_mutations(tmp_path):
    run_workers(tmp_path, 10_000)


@pytest.mark.parametrize(
    ("statement", "status"),
    [
        ("open('/dev/null', 'wb')", 90),
        ("eval('1')", 90),
        ("time.sleep(60)", -14),
        ("bytearray(4 << 30)", 91),
    ],
)
def test_the_guard_itself_notices(statement, status, tmp_path):
    """The worker ends as it should when a reader misbehaves."""
    honest_files(tmp_path)
    text = WORKER.read_text().replace("SECONDS = 5", "import time\nSECONDS = 1")
    text = text.replace(
        "        try:\n            for", f"        try:\n            {statement}\n            for"
    )
    assert statement in text
    worker = tmp_path / "worker.py"
    worker.write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(Path(pyface.__file__).parents[1])}
    command = [sys.executable, str(worker), str(tmp_path), "0", "1"]
    assert subprocess.run(command, env=environment, capture_output=True, timeout=120).returncode == status
