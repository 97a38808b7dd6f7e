"""Reads arguments of `pyface generate dataset` as JSON lists, one a line, and forks a child for each.

Prints "ready", then the child's process id, and when it has ended its exit status (negative for a signal);
then it waits for a line before it lets the number go, so that nobody kills another process. Everything that
takes long to load is loaded once, here; the child goes through the real command line.
"""

from __future__ import annotations

import json
import os
import sys

import torch

import pyface.cli
import pyface.cli.generate
import pyface.generation.dataset
import pyface.generation.manifest


def main() -> None:
    torch.set_num_threads(1)
    print("ready", flush=True)
    for line in iter(sys.stdin.readline, ""):
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            sys.argv = ["pyface", "generate", "dataset", *json.loads(line)]
            pyface.cli.main()
            os._exit(0)
        print(child, flush=True)
        ended = os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        killed = ended.si_code in (os.CLD_KILLED, os.CLD_DUMPED)
        print(-ended.si_status if killed else ended.si_status, flush=True)
        sys.stdin.readline()
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
