"""Exchanges between processes, and what they say when one of them dies, hangs or fails."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pyface.errors import ValueRangeError
from pyface.training.distributed import Ranks, join_ranks

SCRIPT = Path(__file__).with_name("rank_scenarios.py")
ENVIRONMENT = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def play(name: str, folder: Path) -> dict[int, dict[str, Any]]:
    """Run a scenario; returns of each rank its log, exit status, seconds and findings."""
    subprocess.run(
        [sys.executable, str(SCRIPT), name, str(folder), free_port()],
        check=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    found: dict[int, dict[str, Any]] = {}
    for path in folder.glob("*.status"):
        rank = int(path.stem)
        result = folder / f"{rank}.json"
        found[rank] = {
            "log": (folder / f"{rank}.log").read_text(),
            **json.loads(path.read_text()),
            "found": json.loads(result.read_text()) if result.exists() else None,
        }
    return found


def test_exchanges_of_three_processes(tmp_path):
    ranks = play("exchanges", tmp_path)
    assert [ranks[r]["status"] for r in range(3)] == [0, 0, 0], ranks
    for rank in range(3):
        found = ranks[rank]["found"]
        assert found["average"] == [[1.0] * 6, [0.0, 2.0, 4.0, 6.0], [1.0] * 8, [1.0] * 5]
        assert found["mean"] == 1.0
        assert found["broadcast"] == [[0.5] * 3, [0]]
        assert found["agree"] == ["", "SIGTERM", "é1"]
        assert found["waited"] >= 0.9
        assert "at step 7: rank 1 differs from rank 0 in b, c." in found["unequal"]


def test_a_killed_rank_is_named(tmp_path):
    ranks = play("killed", tmp_path)
    assert ranks[1]["status"] == -9
    assert ranks[0]["status"] == 1
    assert ranks[0]["seconds"] < 20
    assert "rank 1 (host " in ranks[0]["log"]
    assert "has died; last heard at step" in ranks[0]["log"]


def test_a_silent_rank_is_named_by_all_others(tmp_path):
    ranks = play("frozen", tmp_path)
    for rank in (0, 1):
        assert ranks[rank]["status"] == 1
        assert ranks[rank]["seconds"] < 30
        assert "rank 2 (host " in ranks[rank]["log"]
        assert "has not been heard for" in ranks[rank]["log"]


def test_a_rank_that_does_not_come_is_named(tmp_path):
    ranks = play("late", tmp_path)
    assert ranks[0]["status"] == 1
    assert "rank 1 (host " in ranks[0]["log"]
    assert "waited for" in ranks[0]["log"]
    assert "in 'averaging' of step 3" in ranks[0]["log"]


def test_the_error_of_one_rank_reaches_all(tmp_path):
    ranks = play("failed", tmp_path)
    assert ranks[2]["log"].startswith("raised: picture 7")
    for rank in (0, 1):
        assert ranks[rank]["status"] == 1
        assert "failed at step 3: DataError: picture 7 is broken" in ranks[rank]["log"]


def test_absent_ranks_are_named(tmp_path):
    ranks = play("absent", tmp_path)
    assert [ranks[r]["status"] for r in (0, 1)] == [1, 1]
    assert "of 3 processes 1 did not come within 2 s: rank 2." in ranks[0]["log"]
    # Rank 0 holds the store: rank 1 may find it closed before its own time is over.
    assert "rank 2." in ranks[1]["log"] or "The output of rank 0" in ranks[1]["log"]


@pytest.mark.parametrize("name", ["training_rounds", "training_three", "training_ada"])
def test_many_processes_train_the_same_weights_as_one(name, tmp_path):
    ranks = play(name, tmp_path)
    assert all(rank["status"] == 0 for rank in ranks.values()), ranks
    found = ranks[0]["found"]
    assert found["tensors"] > 60
    assert found["worst"] < 1.0


def test_a_signal_to_one_process_saves_and_ends_all(tmp_path):
    ranks = play("stopped", tmp_path)
    assert all(rank["status"] == 0 for rank in ranks.values()), ranks
    for rank in (0, 1):
        found = ranks[rank]["found"]
        assert (found["steps"], found["interrupted"]) == (3, "SIGTERM")
        assert "at step 2: rank 1 differs from rank 0 in D.b4.conv.weight. " in found["unequal"]
        assert "The weight D.b4.conv.weight holds" in found["diverged"]
    assert ranks[0]["found"]["files"] == ["resume-000000.pt", "snapshot-000000.safetensors"]
    assert ranks[0]["found"]["resumed"] == [3, True]
    assert ranks[0]["found"]["alone"] == 4


def test_divergence_in_one_process_is_named_by_all(tmp_path):
    ranks = play("diverged", tmp_path)
    assert [ranks[r]["status"] for r in range(2)] == [0, 0], ranks
    found = ranks[0]["found"]
    assert found == ranks[1]["found"]
    assert found["steps"] == 2
    assert "loss 'adversarial' of phase 'generator' is nan at step 2" in found["text"]
    assert "The first output that is not finite is that of D.b8.conv0 (" in found["text"]


def test_one_process_exchanges_nothing(monkeypatch):
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    with join_ranks() as ranks:
        assert type(ranks) is Ranks
        assert ranks.main
        value = torch.ones(2, requires_grad=True)
        assert not ranks.mean(value).requires_grad
        ranks.average([value])
        assert ranks.agree("text") == "text"
        with ranks.main_first("nothing"):
            pass


def test_incomplete_environment_is_refused(monkeypatch):
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ValueRangeError, match="WORLD_SIZE, MASTER_ADDR, MASTER_PORT is not"):
        join_ranks()
