"""The processes of a run: what they must share, so that they stay one training."""

from __future__ import annotations

import atexit
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta
from types import TracebackType
from typing import Any, NoReturn

import torch
from torch import Tensor

from pyface.errors import TrainingError, ValueRangeError
from pyface.training.watchdog import Member, Watchdog

__all__ = ["ProcessRanks", "Ranks", "end_process", "join_ranks"]


class Ranks:
    """A run of one process. Every exchange with others is nothing.

    device: that the process must use; None leaves the choice to the caller.
    """

    rank: int = 0
    size: int = 1
    device: torch.device | None = None

    @property
    def main(self) -> bool:
        """Whether this process writes the files of the run."""
        return self.rank == 0

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over the processes."""

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a value over the processes, without gradient."""
        return value.detach()

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Give every process the tensors of process 0."""

    def agree(self, text: str) -> str:
        """The first text that is not empty, by rank; empty when no process has one."""
        return text

    def check_equal(self, named: dict[str, Tensor], step: int) -> None:
        """Raise TrainingError when the processes do not hold the same bits."""

    def at_step(self, step: int) -> None:
        """Say which step begins, for the messages of the other processes."""

    def main_first(self, what: str) -> AbstractContextManager[None]:
        """A block that process 0 runs first, alone and as long as it takes; the others follow when it has
        left it."""
        return nullcontext()

    def close(self) -> None:
        """Leave the run, all processes together."""

    def __enter__(self) -> Ranks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; after an error, tell the other processes of it instead of waiting for them."""
        if error is None:
            self.close()


class ProcessRanks(Ranks):
    """The processes that torchrun started, of which this is one (made by `join_ranks`).

    device: of this process. A process that dies, hangs or fails ends all others with a TrainingError that
    names it; use the object as a context manager, so that the error of this process reaches them too.
    """

    def __init__(self, rank: int, size: int, device: torch.device, store: Any, watchdog: Watchdog) -> None:
        self.rank = rank
        self.size = size
        self.device: torch.device = device
        self.members = watchdog.members
        self.watchdog = watchdog
        self._store = store
        self._turns = 0
        self._open = True

    @contextmanager
    def _exchange(self, what: str) -> Iterator[None]:
        self.watchdog.check()
        with self.watchdog.doing(what):
            try:
                yield
            except RuntimeError as error:
                reason = str(error).splitlines()[0]
                raise TrainingError(
                    self.watchdog.wait_for_verdict()
                    or f"the exchange {what!r} of step {self.watchdog.step} failed ({reason}), though every "
                    "process is alive. Look at the network between the machines, and whether all processes "
                    "run the same version with the same options."
                ) from error

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over the processes: one sum for each element type."""

        def exchange(flat: Tensor) -> None:
            torch.distributed.all_reduce(flat)
            flat.div_(self.size)

        with self._exchange("averaging"):
            _as_flat(tensors, exchange)

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a value over the processes, without gradient."""
        found = value.detach().clone()
        self.average([found])
        return found

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Give every process the tensors of process 0."""
        with self._exchange("sharing the state of rank 0"):
            _as_flat(tensors, lambda flat: torch.distributed.broadcast(flat, 0))

    def agree(self, text: str) -> str:
        """The first text that is not empty, by rank; empty when no process has one."""
        with self._exchange("agreeing"):
            flag = torch.tensor([self.size - self.rank if text else 0])
            torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
            first = self.size - int(flag)
            return self._gather(text)[first] if first < self.size else ""

    def check_equal(self, named: dict[str, Tensor], step: int) -> None:
        """Raise TrainingError, in all processes, when they do not hold the same bits.

        The checksum is CRC-32 of the bytes. The message names the first tensors that differ and the ranks
        that differ from the majority.
        """
        sums = {name: _checksum(tensor) for name, tensor in named.items()}
        text = "\n".join(f"{value:08x} {name}" for name, value in sums.items())
        with self._exchange("comparing the weights"):
            whole = zlib.crc32(text.encode())
            ends = torch.tensor([whole, -whole])
            torch.distributed.all_reduce(ends, torch.distributed.ReduceOp.MAX)
            if ends[0] == -ends[1]:
                return
            texts = self._gather(text)
        raise TrainingError(_differences(texts, step))

    def at_step(self, step: int) -> None:
        """Say which step begins, for the messages of the other processes."""
        self.watchdog.step = step

    @contextmanager
    def main_first(self, what: str) -> Iterator[None]:
        """A block that process 0 runs first, alone and as long as it takes; the others follow when it has
        left it."""
        key = f"turn/{self._turns}"
        self._turns += 1
        if self.main:
            with self.watchdog.doing(what, exchange=False):
                yield
            self._store.set(key, "done")
            return
        with self.watchdog.doing(f"waiting for rank 0: {what}", exchange=False):
            pause = 0.02
            while not self._store.check([key]):
                self.watchdog.check()
                time.sleep(pause)
                pause = min(pause * 1.5, 1.0)
        yield

    def close(self) -> None:
        """Leave the run, all processes together. Raises TrainingError when another one has failed."""
        if not self._open:
            return
        with self._exchange("ending"):
            self._gather("")
        self._open = False
        self.watchdog.stop()
        # Nobody may take the store away while another one's watchdog still listens to it.
        with suppress(RuntimeError):
            self._gather("")
        torch.distributed.destroy_process_group()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        elif self._open:
            self._open = False
            text = " ".join(str(error).split())
            self.watchdog.report(f"failed at step {self.watchdog.step}: {type(error).__name__}: {text}")
            if self.main:
                self.watchdog.linger()
            self.watchdog.stop()
            if self.device.type == "cuda":  # NCCL would wait for its partners when it is taken down
                atexit.register(end_process, 1)

    def _gather(self, text: str) -> list[str]:
        """The text of every process, by rank."""
        own = torch.frombuffer(bytearray(text.encode()) or bytearray(1), dtype=torch.uint8)
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        torch.distributed.all_gather(lengths, torch.tensor([len(text.encode())]))
        longest = max(int(n) for n in lengths)
        if longest == 0:
            return [""] * self.size
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: len(text.encode())] = own[: len(text.encode())]
        found = [torch.zeros_like(padded) for _ in range(self.size)]
        torch.distributed.all_gather(found, padded)
        pairs = zip(found, lengths, strict=True)
        return [bytes(t[: int(n)].tolist()).decode(errors="replace") for t, n in pairs]


def end_process(status: int) -> NoReturn:
    """End this process without taking the interpreter down.

    For processes of a run whose work is done: threads that are still in C++ when the interpreter ends can
    abort it ("terminate called without an active exception", seen once in some forty runs), and torchrun
    would call the whole run failed.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _as_flat(tensors: Sequence[Tensor], exchange: Callable[[Tensor], None]) -> None:
    """Run `exchange` on one flat tensor for each element type, and put its values back into the tensors."""
    kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor.detach())
    for found in kinds.values():
        flat = torch.cat([tensor.reshape(-1) for tensor in found])
        exchange(flat)
        parts = flat.split([tensor.numel() for tensor in found])
        for tensor, part in zip(found, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))
        if flat.is_cuda:  # wait here, where the watchdog knows what for, and not at the next look at a value
            torch.cuda.current_stream(flat.device).synchronize()


def _checksum(tensor: Tensor) -> int:
    """CRC-32 of the shape and of the bytes in logical order."""
    plain = tensor.detach().cpu().contiguous().reshape(-1)
    start = zlib.crc32(f"{tensor.dtype} {list(tensor.shape)}".encode())
    return zlib.crc32(plain.view(torch.uint8).numpy().data, start) if plain.numel() else start


def _differences(texts: Sequence[str], step: int) -> str:
    """The message about processes whose checksum lists are not the same."""
    counts = {text: texts.count(text) for text in texts}
    usual = max(counts, key=lambda text: (counts[text], -texts.index(text)))
    others = [rank for rank, text in enumerate(texts) if text != usual]
    tables = [dict(line.split(" ", 1)[::-1] for line in text.splitlines()) for text in texts]
    reference = texts.index(usual)
    names = [
        name
        for name in dict.fromkeys(name for table in tables for name in table)
        if any(tables[rank].get(name) != tables[reference].get(name) for rank in others)
    ]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (
        f"the processes no longer hold the same weights at step {step}: "
        f"{'rank' if len(others) == 1 else 'ranks'} {', '.join(map(str, others))} "
        f"{'differs' if len(others) == 1 else 'differ'} from rank {reference} in "
        f"{', '.join(names[:5])}{more}. "
        "Resume from a checkpoint written before this step; if it comes again, "
        "look at the memory and the GPU of those machines, and whether all of them run the same versions."
    )


def join_ranks(
    device: torch.device | str = "cpu", *, limit: float = 60.0, stall: float = 1800.0, join: float = 300.0
) -> Ranks:
    """The processes that torchrun started with this one; the run of one process without torchrun.

    device: "cpu" (gloo) or "cuda" (NCCL, and gloo for what lies on the CPU; every process takes the GPU of
    its LOCAL_RANK). limit: seconds without a heartbeat after which a process is taken for dead. stall:
    seconds that the others wait for one in an exchange. join: seconds to wait for all to come.
    Raises ValueRangeError when torchrun's environment is incomplete or names more processes than GPUs,
    TrainingError when not all processes come.
    """
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in names if name not in os.environ]
    if len(missing) == len(names) or os.environ.get("WORLD_SIZE") == "1":
        return Ranks()
    if missing:
        raise ValueRangeError(
            f"{', '.join(n for n in names if n not in missing)} is set, but {', '.join(missing)} is not. "
            "Start the processes with torchrun, which sets all of them, or unset them for one process."
        )
    if limit <= 0 or stall <= 0:
        raise ValueRangeError(f"limit and stall must be greater than 0 seconds; got {limit:g} and {stall:g}.")
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    own = _device_of_rank(torch.device(device))
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    prefix = f"pyface/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    main_store = _connect(host, port, rank == 0 and not hosted, join, prefix)
    members = _meet(main_store, rank, size, join)
    own_line = _connect(host, port, False, limit, prefix)
    watchdog = Watchdog(own_line, rank, members, f"{host}:{port}", limit=limit, stall=stall)
    watchdog.announce()
    _await(main_store, "beat", size, join)
    watchdog.start()
    ranks = ProcessRanks(rank, size, own, main_store, watchdog)
    with ranks._exchange("connecting"):
        torch.distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if own.type == "cuda" else "gloo",
            store=main_store,
            rank=rank,
            world_size=size,
            # The watchdog names the process that is late; torch's own limit comes after it.
            timeout=timedelta(seconds=stall + 3 * limit),
        )
    return ranks


def _device_of_rank(device: torch.device) -> torch.device:
    if device.type != "cuda":
        return device
    local = int(os.environ.get("LOCAL_RANK", "0"))
    here = int(os.environ.get("LOCAL_WORLD_SIZE", str(local + 1)))
    count = torch.cuda.device_count()
    if here > count:
        raise ValueRangeError(
            f"torchrun started {here} processes on this machine, which has {count} GPUs; every process needs "
            f"one of its own. Use --nproc-per-node {max(count, 1)}, or --device cpu."
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def _connect(host: str, port: int, master: bool, seconds: float, prefix: str) -> Any:
    try:
        store = torch.distributed.TCPStore(
            host, port, None, master, timedelta(seconds=seconds), wait_for_workers=False, multi_tenant=True
        )
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(
            f"cannot {'open' if master else 'reach'} the meeting point of the processes at {host}:{port} "
            f"({reason}). Look at MASTER_ADDR and MASTER_PORT (torchrun: --rdzv-endpoint), the firewall, and "
            "whether the first process runs."
        ) from error
    return torch.distributed.PrefixStore(prefix, store)


def _meet(store: Any, rank: int, size: int, seconds: float) -> list[Member]:
    """Wait for all processes; returns them by rank."""
    store.set(f"who/{rank}", Member.own(rank).to_json())
    return [Member.from_json(text) for text in store.multi_get(_await(store, "who", size, seconds))]


def _await(store: Any, kind: str, size: int, seconds: float) -> list[str]:
    """Wait until every process has written its key of a kind; returns the keys by rank."""
    keys = [f"{kind}/{r}" for r in range(size)]
    end = time.monotonic() + seconds
    try:
        while not store.check(keys):
            if time.monotonic() > end:
                absent = [str(r) for r, key in enumerate(keys) if not store.check([key])]
                break
            time.sleep(0.05)
        else:
            return keys
    except RuntimeError as error:
        raise TrainingError(
            f"the meeting point closed while this process waited for all {size} to come. "
            "The output of rank 0, or of torchrun on the first node, says why."
        ) from error
    raise TrainingError(
        f"of {size} processes {len(absent)} did not come within {seconds:g} s: rank "
        f"{', '.join(absent[:8])}{' ...' if len(absent) > 8 else ''}. Look at their output, and whether "
        "every node was started with the same number of nodes and processes."
    )
