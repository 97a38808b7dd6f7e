"""Children of fork (DataLoader workers) may call every CPU op with many threads and must not hang."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("pyface._cpu", reason="the CPU module is not built")

CALL_EVERY_OP = """
import os, torch
from pyface import _cpu
torch.set_num_threads(1)
N, C, S = 2, 16, 128
x = torch.ones(N, C, S, S)
side, taps, weight_sq = torch.ones(N, C), torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8, torch.ones(256, 512)
styles = torch.ones(8, 512)

def call_every_op(threads):
    p = lambda tensor: tensor.data_ptr()
    y, demod = torch.zeros_like(x), torch.zeros(8, 256)
    results = []
    for run in (
        lambda: _cpu.bias_act(p(x), 0, p(y), 0, N, C, S * S, 2, 0.2, 1.0, -1.0, threads),
        lambda: _cpu.bias_act_grad(p(x), p(x), 0, p(y), 0, N, C, S * S, 2, 0.2, 1.0, -1.0, threads),
        lambda: _cpu.upfirdn2d(p(x), p(taps), p(y), 0, N, C, S, S, S, S, False, True, False, 4, 4,
                               1, 1, 1, 1, 2, 2, 1.0, threads),
        lambda: _cpu.modulate(p(x), p(side), p(y), 0, N, C, S * S, False, threads),
        lambda: _cpu.demodulate(p(weight_sq), p(styles), p(demod), 0, 8, 256, 512, 1e-8, threads),
        lambda: _cpu.conv_epilogue(p(x), 0, 0, 0, 0, p(y), 0, N, C, S * S, False, False, 2, 0.2, 1.0, -1.0,
                                   threads),
    ):
        run()
        results.append(float(y.double().sum() + demod.double().sum()))
    return results
"""

FORK = """
before = len(os.listdir("/proc/self/task"))
want = call_every_op(2)
assert len(os.listdir("/proc/self/task")) > before, "the parent must have started an OpenMP thread"
child = os.fork()
if child == 0:
    same = call_every_op(4) == want
    alone = len(os.listdir("/proc/self/task")) == 1
    os._exit(0 if same and alone else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert call_every_op(2) == want
"""

LOADER = """
class Calls(torch.utils.data.Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, index):
        return torch.tensor(call_every_op(4))

want = torch.tensor(call_every_op(2))
for batch in torch.utils.data.DataLoader(Calls(), num_workers=2, multiprocessing_context="fork"):
    assert torch.equal(batch[0], want)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="fork and /proc are tested on Linux")
@pytest.mark.parametrize("body", [FORK, LOADER], ids=["fork", "dataloader"])
def test_every_op_in_a_forked_child(body: str) -> None:
    command = [sys.executable, "-c", CALL_EVERY_OP + body]
    environment = {**os.environ, "OMP_NUM_THREADS": "4", "OMP_THREAD_LIMIT": "8"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
