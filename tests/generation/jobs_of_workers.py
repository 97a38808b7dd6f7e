"""What the workers of the tests do; in a module of its own, which worker processes import."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path


class Square:
    def __call__(self, shards, observer, worker):
        for shard in shards:
            observer.made(1)
            observer.done(shard, shard * shard)


@dataclasses.dataclass
class KilledOnce:
    """Dies at shard 3, of which it has made a picture, unless the file is there."""

    mark: str

    def __call__(self, shards, observer, worker):
        for shard in shards:
            observer.made(1)
            if shard == 3 and not Path(self.mark).exists():
                Path(self.mark).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            observer.done(shard, None)


class AlwaysKilled:
    def __call__(self, shards, observer, worker):
        next(shards)
        os.kill(os.getpid(), signal.SIGKILL)


@dataclasses.dataclass
class Failing:
    error: Exception

    def __call__(self, shards, observer, worker):
        raise self.error
