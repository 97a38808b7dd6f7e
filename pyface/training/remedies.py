"""What lowers the memory of a training, in the order of what it costs, each with the peak that it leads
to."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pyface.errors import ValueRangeError
from pyface.training.configuration import settings
from pyface.training.plan import MemoryPlan, micro_batches, plan

__all__ = ["Remedy", "available_memory", "parse_bytes", "remedies", "text_of_bytes"]

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def parse_bytes(text: str) -> int:
    """Bytes of a size such as "24GB" (10^9), "8GiB" (2^30) or "500 MB". Raises ValueRangeError for anything
    else."""
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([A-Za-z]*)\s*", text)
    if found is None or found[2].upper() not in _UNITS or not float(found[1]) > 0:
        raise ValueRangeError(f"a size is a number and a unit, such as 24GB, 8GiB or auto; got {text!r}.")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def text_of_bytes(count: int) -> str:
    """A number of bytes for people: "6.1 GB", "350 MB"."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def available_memory(device: str) -> int:
    """Bytes that a new process can take on a device now: free memory of the GPU, or of the machine.

    On the CPU a control group's limit counts where it is lower. Raises ValueRangeError where nothing tells.
    """
    if torch.device(device).type == "cuda":
        if not torch.cuda.is_available():
            raise ValueRangeError(
                "this machine has no CUDA device to ask. Name its memory, such as --gpu 24GB."
            )
        return int(torch.cuda.mem_get_info(device)[0])
    found = [*_meminfo(), *_control_group()]
    if not found:
        raise ValueRangeError(
            "this system does not tell how much memory is free. Name it, such as --ram 16GB."
        )
    return min(found)


def _meminfo() -> Iterator[int]:
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        if "SC_AVPHYS_PAGES" in os.sysconf_names:
            yield os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return
    found = re.search(r"MemAvailable:\s+(\d+) kB", text)
    if found is not None:
        yield int(found[1]) * 1024


def _control_group(folder: Path = Path("/sys/fs/cgroup")) -> Iterator[int]:
    """What the limit of this process's control group leaves (version 2, or version 1)."""
    for most, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            limit, current = ((folder / name).read_text(encoding="ascii").strip() for name in (most, used))
        except OSError:
            continue
        if limit.isdigit() and int(limit) < 2**60:
            yield max(int(limit) - int(current), 0)


@dataclass(frozen=True)
class Remedy:
    """Options that lower the peak, what they cost, and the plan with them."""

    options: str
    cost: str
    plan: MemoryPlan


@dataclass(frozen=True)
class _Change:
    """One way to lower the peak: a recipe made smaller, and the options that do so."""

    options: str
    cost: str
    recipe: Any


def _option(recipe: Any, field: str) -> str:
    """A field's name on the command line."""
    return f"--{settings(type(recipe))[field].option}"


def _sixteen_bit(recipe: Any) -> _Change | None:
    if getattr(recipe, "precision", "") != "float32":
        return None
    return _Change(
        "--precision bfloat16",
        "rounding in the upper resolutions; faster where the processor has 16-bit units",
        replace(recipe, precision="bfloat16"),
    )


def _fewer_paths(recipe: Any) -> _Change | None:
    shrink = getattr(recipe, "path_length_batch_shrink", 0)
    if not shrink or not getattr(recipe, "path_length_interval", 0) or recipe.batch % (2 * shrink):
        return None
    return _Change(
        f"{_option(recipe, 'path_length_batch_shrink')} {2 * shrink}",
        "path length on half as many samples: a noisier regulariser",
        replace(recipe, path_length_batch_shrink=2 * shrink),
    )


def _narrower(recipe: Any) -> _Change | None:
    if getattr(recipe, "channel_base", 0) < 2048:
        return None
    return _Change(
        f"{_option(recipe, 'channel_base')} {recipe.channel_base // 2}",
        "half the channels in the upper resolutions: other networks, less detail",
        replace(recipe, channel_base=recipe.channel_base // 2),
    )


def _thinner(recipe: Any) -> _Change | None:
    if getattr(recipe, "channel_max", 0) < 64:
        return None
    return _Change(
        f"{_option(recipe, 'channel_max')} {recipe.channel_max // 2}",
        "half the channels in the lower resolutions: other networks, less variety",
        replace(recipe, channel_max=recipe.channel_max // 2),
    )


def _smaller(recipe: Any) -> _Change | None:
    height, width = recipe.resolution
    if min(height, width) < 32 or height % 2 or width % 2:
        return None
    size = f"{height // 2}" if height == width else f"{height // 2}x{width // 2}"
    return _Change(
        f"--resolution {size}", "smaller images", replace(recipe, resolution=(height // 2, width // 2))
    )


_CHANGES: tuple[Callable[[Any], _Change | None], ...] = (_fewer_paths, _narrower, _thinner, _smaller)
_LESS_AT_A_TIME = "the same result in more rounds, somewhat slower"


def remedies(
    recipe: Any,
    limit: int,
    micro_batch: int | None = None,
    device: str = "cpu",
    *,
    processes: int = 1,
    planned: MemoryPlan | None = None,
) -> list[Remedy]:
    """What brings the peak under `limit` bytes, cheapest first: every single change, then sums of them until
    it fits.

    planned: the plan as things are, if it has been made. Sixteen bits and a smaller micro-batch come first,
    for they leave the result as it is or nearly so.
    """
    before = planned or plan(recipe, micro_batch, device, processes=processes)

    def of(changed: Any, size: int) -> MemoryPlan | None:
        try:
            return plan(changed, size, device, processes=processes)
        except ValueRangeError:  # the recipe refuses that size, or the batch does not split so
            return None

    found: list[Remedy] = []
    size = before.micro_batch
    half = _sixteen_bit(recipe)
    if half is not None and (made := of(half.recipe, size)) is not None:
        found.append(Remedy(half.options, half.cost, made))
    found += _fewer_at_a_time(recipe, limit, before, of)
    for change in _CHANGES:
        one = change(recipe)
        made = None if one is None else of(one.recipe, size)
        if one is not None and made is not None and made.peak < before.peak:
            found.append(Remedy(one.options, one.cost, made))
    if not any(remedy.plan.peak <= limit for remedy in found):
        found += _together(recipe, limit, before, of)
    return found


_Plan = Callable[[Any, int], MemoryPlan | None]


def _fewer_at_a_time(recipe: Any, limit: int, before: MemoryPlan, of: _Plan, words: str = "") -> list[Remedy]:
    """The largest micro-batch that fits, or the smallest there is; none where it cannot be lowered."""
    sizes = [size for size in micro_batches(recipe, before.processes) if size < before.micro_batch]
    best: MemoryPlan | None = None
    while sizes:
        middle = len(sizes) // 2
        made = of(recipe, sizes[middle])
        if made is None:
            del sizes[middle]
            continue
        fits = made.peak <= limit
        best = made if best is None or fits or best.peak > limit else best
        sizes = sizes[:middle] if fits else sizes[middle + 1 :]
    if best is None:
        return []
    options = f"{words} --batch-gpu {best.micro_batch}".strip()
    return [Remedy(options, _LESS_AT_A_TIME if not words else "all of these", best)]


def _together(recipe: Any, limit: int, before: MemoryPlan, of: _Plan) -> list[Remedy]:
    """The first sum of changes that fits: sixteen bits, fewer samples at a time, then narrower, then
    smaller."""
    words: list[str] = []
    for change in (_sixteen_bit, _fewer_paths, _narrower, _thinner, _smaller, _narrower, _thinner, _smaller):
        one = change(recipe)
        if one is None:
            continue
        option = one.options.split()[0]
        words = [word for word in words if word.split()[0] != option] + [one.options]
        recipe = one.recipe
        least = next(
            (m for n in reversed(micro_batches(recipe, before.processes)) if (m := of(recipe, n))), None
        )
        if least is not None and least.peak <= limit:
            return _fewer_at_a_time(recipe, limit, before, of, " ".join(words)) or [
                Remedy(" ".join(words), "all of these", least)
            ]
    return []
