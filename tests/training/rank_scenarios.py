"""What the processes of test_distributed.py do: `python rank_scenarios.py SCENARIO FOLDER PORT`.

torch is imported once, then each rank is a fork. Output and exit status of a rank go to FOLDER/RANK.log and
FOLDER/RANK.status, what a rank found to FOLDER/RANK.json.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pyface.errors import DataError, PyfaceError
from pyface.training import Callback, Trainer, TrainingSet
from pyface.training.checkpoint import Snapshots, load_state, restore_state
from pyface.training.distributed import Ranks, join_ranks
from pyface.training.loop import EqualityCheck
from pyface.training.recipes.stylegan2 import StyleGAN2Recipe, StyleGAN2Run, build


def exchanges(ranks: Ranks) -> dict[str, Any]:
    """Three processes and every exchange once."""
    assert ranks.size == 3
    mixed = [
        torch.full([2, 3], float(ranks.rank)),
        torch.arange(4, dtype=torch.float64) * (ranks.rank + 1),
        torch.full([1, 2, 2, 2], float(ranks.rank)).to(memory_format=torch.channels_last),
        torch.full([5], float(ranks.rank), dtype=torch.bfloat16),
    ]
    ranks.average(mixed)
    shared = [torch.full([3], ranks.rank + 0.5), torch.tensor(ranks.rank)]
    ranks.broadcast(shared)
    before = time.monotonic()
    with ranks.main_first("building a cache"):
        if ranks.main:
            time.sleep(1.0)
        waited = time.monotonic() - before
    equal = {"a": torch.arange(5), "b": torch.ones(2, 2, dtype=torch.bfloat16), "c": torch.zeros([])}
    ranks.check_equal(equal, 3)
    equal["b"][1, 1] += ranks.rank == 1
    equal["c"] += ranks.rank == 1
    try:
        ranks.check_equal(equal, 7)
        unequal = ""
    except PyfaceError as error:
        unequal = str(error)
    return {
        "average": [t.flatten().tolist() for t in mixed],
        "mean": ranks.mean(torch.tensor(float(ranks.rank), requires_grad=True)).item(),
        "broadcast": [t.flatten().tolist() for t in shared],
        "agree": [
            ranks.agree(""),
            ranks.agree("SIGTERM" if ranks.rank == 2 else ""),
            ranks.agree(f"é{ranks.rank}" if ranks.rank else ""),
        ],
        "waited": waited,
        "unequal": unequal,
    }


def _steps(ranks: Ranks, at_third: Callable[[], None]) -> dict[str, Any]:
    """Steps without end; the last rank does something at the third."""
    for step in range(10_000):
        ranks.at_step(step)
        if step == 3 and ranks.rank == ranks.size - 1:
            at_third()
        ranks.average([torch.ones(1000)])
        time.sleep(0.01)
    return {}


def killed(ranks: Ranks) -> dict[str, Any]:
    """The last rank is killed."""
    return _steps(ranks, lambda: os.kill(os.getpid(), signal.SIGKILL))


def frozen(ranks: Ranks) -> dict[str, Any]:
    """The last rank is stopped, as by a machine that went away: no heartbeat, no closed connection."""
    return _steps(ranks, lambda: os.kill(os.getpid(), signal.SIGSTOP))


def late(ranks: Ranks) -> dict[str, Any]:
    """The last rank lives, but does not come to the exchange."""
    return _steps(ranks, lambda: time.sleep(1000))


def failed(ranks: Ranks) -> dict[str, Any]:
    """The last rank ends with an error."""

    def fail() -> None:
        raise DataError("picture 7 is\nbroken")

    return _steps(ranks, fail)


SMALL: dict[str, Any] = {
    "resolution": (8, 8),
    "channel_base": 64,
    "channel_max": 8,
    "z_dim": 8,
    "w_dim": 8,
    "mapping_layers": 2,
    "conditions": ("a", "b"),
    "mirror": True,
    "path_length_interval": 2,
    "r1_interval": 2,
    "seed": 5,
}


def _trained(ranks: Ranks, rounds: int, **changes: Any) -> dict[str, torch.Tensor]:
    """Everything that three steps in float64 have moved, by name."""
    run = _small_run(ranks, rounds=rounds, **changes)
    for module in run.trainer.modules.values():
        module.double()
    for _ in range(3):
        run.trainer.step()
    return {
        f"{name}.{key}": tensor
        for name, module in run.trainer.modules.items()
        for key, tensor in module.state_dict().items()
    }


def _training(ranks: Ranks, rounds: int, **changes: Any) -> dict[str, Any]:
    """How far the weights of these processes are from those of one process, in units of rtol 1e-8."""
    found = _trained(ranks, rounds, **changes)
    ranks.check_equal(found, 3)
    if not ranks.main:
        return {}
    alone = _trained(Ranks(), rounds, **changes)
    far = [(found[k] - v).abs() / (1e-12 + 1e-8 * v.abs()) for k, v in alone.items()]
    return {"worst": max(t.max().item() for t in far), "tensors": len(far)}


class _AtStep(Callback):
    """Does something in one rank after a step."""

    every_rank = True

    def __init__(self, rank: int, step: int, action: Callable[[Trainer], None]) -> None:
        self.rank, self.step, self.action = rank, step, action

    def on_step(self, trainer: Trainer, losses: dict[str, float]) -> None:
        if trainer.ranks.rank == self.rank and trainer.step_number == self.step:
            self.action(trainer)


def _small_run(ranks: Ranks, **changes: Any) -> StyleGAN2Run:
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8, generator=rng)
    data = TrainingSet.from_arrays(pixels, torch.rand(40, 2, generator=rng), ["a", "b"])
    options = {"batch": 8, "mbstd_group": 2, **changes}
    rounds = options.pop("rounds", 1)
    return build(StyleGAN2Recipe(**SMALL, **options), data, ranks=ranks, rounds=rounds)


def stopped(ranks: Ranks) -> dict[str, Any]:
    """A signal to one process saves and ends both; one process alone goes on; unequal weights are found."""
    folder = Path(sys.argv[2]) / "run"
    folder.mkdir(exist_ok=True)
    run = _small_run(ranks)
    torch.manual_seed(ranks.rank)
    if not ranks.main:  # as another processor may draw other numbers from the same seed
        torch.nn.init.normal_(run.discriminator.state_dict()["b4.conv.weight"])
    run.trainer.callbacks += [
        _AtStep(1, 3, lambda trainer: os.kill(os.getpid(), signal.SIGTERM)),
        EqualityCheck(1000),
        Snapshots(folder, run.average.average, 1000, run.recipe.plain(), {}),
    ]
    run.trainer.run(8000)
    found: dict[str, Any] = {
        "steps": run.trainer.step_number,
        "interrupted": run.trainer.interrupted,
        "files": sorted(path.name for path in folder.iterdir()) if ranks.main else [],
    }
    if ranks.main:
        alone = _small_run(Ranks())
        restore_state(alone.trainer, load_state(folder / "resume-000000.pt"))
        pairs = zip(run.generator.parameters(), alone.generator.parameters(), strict=True)
        found["resumed"] = alone.trainer.step_number, all(torch.equal(a, b) for a, b in pairs)
        alone.trainer.run(alone.trainer.images_seen + 8)
        found["alone"] = alone.trainer.step_number
    again = _small_run(ranks)

    def flip_a_bit(trainer: Trainer) -> None:
        weight = again.discriminator.state_dict()["b4.conv.weight"]
        weight.view(torch.int32).bitwise_xor_(torch.tensor([1] + [0] * (weight.shape[-1] - 1)).int())

    again.trainer.callbacks += [_AtStep(1, 2, flip_a_bit), EqualityCheck(16)]
    try:
        again.trainer.run(800)
    except PyfaceError as error:
        found["unequal"] = str(error)
    third = _small_run(ranks)
    weight = third.discriminator.state_dict()["b4.conv.weight"]
    third.trainer.callbacks.append(
        _AtStep(1, 2, lambda trainer: weight.mul_(float("nan")).sum().item() is None)
    )
    try:
        third.trainer.run(800)
    except PyfaceError as error:
        found["diverged"] = str(error)
    return found


def diverged(ranks: Ranks) -> dict[str, Any]:
    """A layer of the second process alone goes wrong in the third step."""
    run = _small_run(ranks)
    if ranks.rank == 1:
        run.discriminator.get_submodule("b8.conv0").register_forward_hook(
            lambda module, inputs, output: output * float("nan") if run.trainer.step_number == 2 else None
        )
    try:
        run.trainer.run(800)
    except PyfaceError as error:
        return {"text": str(error), "steps": run.trainer.step_number}
    return {}


def training_rounds(ranks: Ranks) -> dict[str, Any]:
    """Two processes, each with two micro-batches."""
    return _training(ranks, 2, batch=16, mbstd_group=4)


def training_three(ranks: Ranks) -> dict[str, Any]:
    """Three processes with one micro-batch."""
    return _training(ranks, 1, batch=12, mbstd_group=2)


def training_ada(ranks: Ranks) -> dict[str, Any]:
    """Two processes with adaptive augmentation, which ends in the middle of its interval."""
    ada: dict[str, Any] = {"augment": "ada", "augment_set": "bgcfnc", "augment_p": 0.5, "ada_kimg": 0.1}
    return _training(ranks, 2, batch=16, mbstd_group=4, ada_interval=2, **ada)


SCENARIOS: dict[str, tuple[Callable[[Ranks], dict[str, Any]], int, dict[str, float]]] = {
    "exchanges": (exchanges, 3, {}),
    "killed": (killed, 2, {"limit": 8.0}),
    "frozen": (frozen, 3, {"limit": 4.0}),
    "late": (late, 2, {"stall": 2.0}),
    "failed": (failed, 3, {}),
    "stopped": (stopped, 2, {}),
    "diverged": (diverged, 2, {}),
    "training_rounds": (training_rounds, 2, {}),
    "training_three": (training_three, 3, {}),
    "training_ada": (training_ada, 2, {}),
    "absent": (exchanges, 3, {"join": 2.0}),
}


def run_rank(name: str, rank: int, folder: Path, port: str) -> int:
    """One process of a scenario; returns its exit status."""
    scenario, size, options = SCENARIOS[name]
    log = os.open(folder / f"{rank}.log", os.O_WRONLY | os.O_CREAT, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    torch.set_num_threads(1)
    try:
        with join_ranks("cpu", **options) as ranks:
            ranks.watchdog.grace = 3.0
            (folder / f"{rank}.json").write_text(json.dumps(scenario(ranks)))
    except PyfaceError as error:
        print(f"raised: {error}", flush=True)
        return 1
    return 0


def main() -> None:
    """Fork the ranks, wait for them, and write how they ended."""
    name, folder, port = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    size = SCENARIOS[name][1]
    running = {}
    for rank in range(size - (name == "absent")):
        pid = os.fork()
        if pid == 0:
            status = 70
            try:
                status = run_rank(name, rank, folder, port)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(status)
        running[pid] = rank
    started = time.monotonic()
    while running:
        pid, status = os.waitpid(-1, 0)
        rank = running.pop(pid)
        ended = {"status": os.waitstatus_to_exitcode(status), "seconds": time.monotonic() - started}
        (folder / f"{rank}.status").write_text(json.dumps(ended))
        if name in ("frozen", "late") and len(running) == 1 and size - 1 in running.values():
            os.kill(next(iter(running)), signal.SIGKILL)


if __name__ == "__main__":
    main()
