"""When memory runs out, the message says where and what to change."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pyface.errors import TrainingError
from pyface.training.failures import is_out_of_memory

SCRIPT = """
import resource, sys
import torch
from pyface.training import Feed, LossTerm, Phase, Trainer, TrainingSet
torch.set_num_threads(1)
weight = torch.nn.Parameter(torch.ones(1))
term = LossTerm("large", lambda batch: (weight * torch.ones(2**33)).sum())
phase = Phase("greedy", [weight], [term], torch.optim.SGD([weight], lr=0.1))
feed = Feed(TrainingSet.from_arrays(torch.zeros(8, 3, 32, 16, dtype=torch.uint8)), 8)
trainer = Trainer([phase], {}, feed, rounds=2)
size = 4 * 2**30
resource.setrlimit(resource.RLIMIT_AS, (size, size))
try:
    trainer.run(8)
except Exception as error:
    print(type(error).__name__, "|", error)
"""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
            True,
        ),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("out of memory"), False),
        (TrainingError("out of memory on cpu"), False),
    ],
)
def test_what_counts_as_out_of_memory(error, expected):
    assert is_out_of_memory(error) is expected


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_AS holds on Linux only")
def test_a_real_lack_of_memory_says_what_to_change():
    root = Path(sys.modules["pyface"].__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=300, cwd=root, check=False
    )
    assert done.returncode == 0, done.stderr
    name, text = done.stdout.strip().split(" | ")
    assert name == "TrainingError"
    assert text.startswith("out of memory on cpu, in phase 'greedy' of step 0 (0 kimg): ")
    assert "4 of the 8 images of a batch were computed at once, at 32x16." in text
    for advice in ("lower --batch-gpu", "--precision bfloat16", "--pl-interval 0", "`pyface plan`"):
        assert advice in text


def test_callbacks_hear_of_the_failure_and_other_errors_stay_as_they_are(small_run):
    from pyface.training import Callback

    class Ear(Callback):
        heard = None

        def on_step(self, trainer, losses):
            raise self.fault

        def on_error(self, trainer, error):
            self.heard = error

    run = small_run()
    ear = Ear()
    run.trainer.callbacks.append(ear)
    ear.fault = MemoryError("too much")
    with pytest.raises(
        TrainingError, match=r"out of memory on cpu, between two steps .*: too much\. 4 of the 4"
    ):
        run.trainer.run(4)
    assert isinstance(ear.heard, TrainingError)
    ear.fault = KeyError("mine")
    with pytest.raises(KeyError, match="mine"):
        run.trainer.run(8)
    assert ear.heard is ear.fault
