"""How much memory a training will take at its worst moment, and what to lower when that is too much.

The tensors are counted by rehearsing a step (`rehearsal`); what torch, the convolution library and the
allocator take beside them is measured on CPUs (bench/results/*/memory.json). The figures for GPUs are
estimates that have not been compared with one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from pyface.errors import ValueRangeError
from pyface.training.distributed import Ranks
from pyface.training.draws import rows_of_rank
from pyface.training.loop import Trainer
from pyface.training.recipes import RECIPES, Recipe
from pyface.training.rehearsal import blank_set, rehearse
from pyface.training.tracking import Peak

__all__ = ["MemoryPlan", "micro_batches", "plan", "recipe_of"]


@dataclass(frozen=True)
class _Surroundings:
    """What a process takes beside its tensors.

    base: bytes of the interpreter, the libraries and the kernels that they compile. allocator: bytes that its
    pools hold per byte of live tensors at the worst moment.
    """

    base: int
    allocator: float


# cpu: measured with torch 2.13 and glibc 2.36: 233 MB after the imports, 125 MB more once every kind of op
# has run, and a heap that is 1.15 to 1.4 times the live tensors. cuda: the context, the libraries' kernels
# and cuBLAS's buffers, and what a caching allocator leaves unused between its blocks; estimated.
_SURROUNDINGS = {"cpu": _Surroundings(358_000_000, 1.25), "cuda": _Surroundings(800_000_000, 1.1)}


@dataclass(frozen=True)
class MemoryPlan:
    """The predicted peak of one process, in bytes.

    parts: tensors alive at the worst moment, by kind: weights, gradients, Adam, running average, activations
    (what is saved for backward passes, and temporaries). workspace: scratch memory of the op that runs then.
    allocator: what its pools hold unused. base: the runtime. phase: where the worst moment is; phases: the
    peak of each. micro_batch: samples of a process at a time, of which `rounds` make its share of a batch.
    """

    device: str
    micro_batch: int
    rounds: int
    processes: int
    base: int
    parts: dict[str, int]
    workspace: int
    allocator: int
    phase: str
    phases: dict[str, int]

    @property
    def peak(self) -> int:
        """All parts together."""
        return self.base + sum(self.parts.values()) + self.workspace + self.allocator

    def to_dict(self) -> dict[str, Any]:
        """The plan as values that JSON can hold."""
        return {**asdict(self), "peak": self.peak}


class _Pretended(Ranks):
    """The first of several processes, which exchanges nothing but takes the memory of it."""

    def __init__(self, size: int) -> None:
        self.size = size

    def average(self, tensors: Sequence[Tensor]) -> None:
        """One flat copy, as the all-reduce needs it."""
        for kind in {tensor.dtype for tensor in tensors}:
            torch.cat([tensor.flatten() for tensor in tensors if tensor.dtype == kind])


def plan(
    recipe: Any,
    micro_batch: int | None = None,
    device: str = "cpu",
    *,
    processes: int = 1,
    build: Callable[..., Any] | None = None,
) -> MemoryPlan:
    """The memory that training by `recipe` takes on a device of this kind ("cpu" or "cuda").

    micro_batch: samples per process at a time; None for the whole share of a process. build(recipe, training
    set, ranks=..., rounds=...) gives an object with a `trainer`; None takes the recipe's own. Raises
    ValueRangeError when the batch cannot be split so.
    """
    kind = torch.device(device).type
    if kind not in _SURROUNDINGS:
        raise ValueRangeError(f"memory can be planned for {' or '.join(_SURROUNDINGS)}; got {device!r}.")
    rounds = _rounds(recipe, micro_batch, processes)
    make = build or recipe_of(recipe).build

    def trainer() -> Trainer:
        data = blank_set(recipe.resolution, recipe.spectra, recipe.conditions)
        ranks = _Pretended(processes) if processes > 1 else None
        made: Trainer = make(recipe, data, ranks=ranks, rounds=rounds).trainer
        return made

    peaks = rehearse(trainer, workspace=_WORKSPACES[kind])
    around = _SURROUNDINGS[kind]
    phases = {name: _whole(peak, around) for name, peak in peaks.items() if name}
    phase = max(phases, key=lambda name: phases[name])
    worst = peaks[phase]
    return MemoryPlan(
        kind,
        recipe.batch // (rounds * processes),
        rounds,
        processes,
        around.base,
        worst.parts,
        worst.workspace,
        phases[phase] - around.base - worst.total,
        phase,
        phases,
    )


def _whole(peak: Peak, around: _Surroundings) -> int:
    return around.base + peak.workspace + int(around.allocator * (peak.total - peak.workspace))


def recipe_of(config: Any) -> Recipe:
    """The recipe that a configuration belongs to. Raises ValueRangeError for another object."""
    for each in RECIPES.values():
        if type(config) is each.config:
            return each
    raise ValueRangeError(
        f"{type(config).__name__} is no configuration of {', '.join(RECIPES)}; give build=."
    )


def _rounds(recipe: Any, micro_batch: int | None, processes: int) -> int:
    if processes < 1 or recipe.batch % processes:
        raise ValueRangeError(
            f"a batch of {recipe.batch} cannot be split over {processes} processes. Use a divisor of it."
        )
    share = recipe.batch // processes
    if micro_batch is None:
        return 1
    if micro_batch < 1 or share % micro_batch:
        legal = ", ".join(map(str, micro_batches(recipe, processes)))
        raise ValueRangeError(
            f"--batch-gpu must divide the {share} samples of a process; got {micro_batch}. Use {legal}."
        )
    return share // micro_batch


def micro_batches(recipe: Any, processes: int = 1) -> list[int]:
    """Numbers of samples at a time into which the share of a process can be split, largest first."""
    share = recipe.batch // processes
    group = min(getattr(recipe, "mbstd_group", 1), recipe.batch)
    shrink = (
        getattr(recipe, "path_length_batch_shrink", 1) if getattr(recipe, "path_length_interval", 0) else 1
    )
    return list(_legal(recipe.batch, share, processes, group, shrink))


def _legal(batch: int, share: int, processes: int, group: int, shrink: int) -> Iterator[int]:
    for rounds in range(1, share + 1):
        size, rest = divmod(share, rounds)
        if rest or (rounds > 1 and (size % shrink or size % group)):
            continue
        try:
            rows_of_rank(batch, 0, processes, rounds, group)
        except ValueRangeError:
            continue
        yield size


def _cpu_workspace(op: str, arguments: Sequence[Any], result: Any) -> int:
    """Bytes of oneDNN's scratch memory: reordered weights, and their gradient before it is reordered.

    Measured on AMX and AVX-512 in channels_last: the weights once forward and for the input's gradient, twice
    for their own; nothing that grows with the images.
    """
    if op == "aten::convolution":
        return int(arguments[1].nbytes)
    if op == "aten::convolution_backward":
        return int(arguments[2].nbytes) * (2 if arguments[-1][1] else 1)
    return 0


def _cuda_workspace(op: str, arguments: Sequence[Any], result: Any) -> int:
    """Bytes that cuDNN may ask for: images copied into another layout, in and out. An estimate."""
    if op == "aten::convolution":
        return int(arguments[0].nbytes + result.nbytes)
    if op == "aten::convolution_backward":
        return int(arguments[0].nbytes + arguments[1].nbytes)
    return 0


_WORKSPACES = {"cpu": _cpu_workspace, "cuda": _cuda_workspace}
