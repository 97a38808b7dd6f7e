"""Reads mutated checkpoints in a process that may do nothing else; started by test_conversion_fuzz.py.

    python conversion_fuzz_worker.py FOLDER FIRST LAST

FOLDER holds honest checkpoints. Mutation k is drawn from `random.Random(k)` alone. While a file is read, an
audit hook stands guard: anything but reading that file ends the process with status 90. A file that takes
more than 5 seconds ends it with SIGALRM, one that asks for more than 2 GB beyond what the process began with
ends it with status 91. Each line of the output is one finished mutation and what came of it.
"""

from __future__ import annotations

import importlib
import os
import pickletools
import random
import resource
import signal
import sys
from pathlib import Path

import torch

from pyface.errors import CheckpointError
from pyface.models.conversion import read_networks

SECONDS = 5
MEMORY = 2 << 30
ALPHABET = bytes(op.code.encode("latin-1")[0] for op in pickletools.opcodes)
armed: str | None = None


def guard(event: str, args: tuple) -> None:
    """End the process when a reader does more than read its file."""
    if armed is None or event == "object.__getattr__":
        return
    if event == "open" and str(args[0]) == armed and args[1] in ("rb", "r"):
        return
    os.write(2, f"forbidden while reading: {event} {args!r:.300}\n".encode())
    os._exit(90)


def opcode_positions(data: bytes) -> list[int]:
    """Where opcodes of the pickle stand; for archives, where their pickles are likely to."""
    try:
        return [position for _, _, position in pickletools.genops(data)]
    except ValueError:
        return list(range(min(len(data), 4000)))


def mutate(data: bytes, positions: list[int], chance: random.Random) -> bytes:
    """One to four changes, most of them at opcodes."""
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        at = chance.choice(positions) if chance.random() < 0.7 else chance.randrange(len(data))
        at = min(at + chance.choice((0, 0, 1, 2)), len(out) - 1)
        kind = chance.randrange(7)
        if kind == 0:
            out[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            out[at] = chance.choice(ALPHABET)
        elif kind == 2:
            out[at:at] = bytes(chance.choice(ALPHABET) for _ in range(chance.randrange(1, 6)))
        elif kind == 3:
            del out[at : at + chance.randrange(1, 9)]
        elif kind == 4:
            out[at : at + 4] = chance.choice((b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", b"\0\0\0\0"))
        elif kind == 5:
            start = chance.choice(positions)
            out[at:at] = out[start : start + chance.randrange(1, 200)]
        elif chance.random() < 0.3:
            del out[at:]
        else:
            other = min(chance.choice(positions), len(out) - 1)
            out[at], out[other] = out[other], out[at]
        if not out:
            return b"\x80"
    return bytes(out)


def main(folder: Path, first: int, last: int) -> None:
    """Read mutations first to last - 1."""
    global armed
    torch.set_num_threads(1)
    originals = sorted(folder.glob("honest-*"))
    contents = [path.read_bytes() for path in originals]
    positions = [opcode_positions(data) for data in contents]
    for path in originals:  # everything that is imported on first use is imported now
        read_networks(path, "all")
    importlib.import_module("encodings.cp437")  # for names in zip files
    scratch = folder / f"mutation-{first}"
    resource.setrlimit(resource.RLIMIT_AS, (used_memory() + MEMORY,) * 2)
    sys.addaudithook(guard)
    for index in range(first, last):
        chance = random.Random(index)
        chosen = chance.randrange(len(contents))
        scratch.write_bytes(mutate(contents[chosen], positions[chosen], chance))
        signal.alarm(SECONDS)
        armed = str(scratch)
        try:
            for network in read_networks(scratch, "all").values():
                network.build()
            outcome = "read"
        except CheckpointError as error:
            if "memory" in str(error.__cause__):  # torch's allocator says so in a RuntimeError
                os._exit(91)
            outcome = "refused"
        except MemoryError:
            os._exit(91)
        armed = None
        signal.alarm(0)
        print(index, outcome, flush=True)


def used_memory() -> int:
    """Address space of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
