"""Live bytes of tensors: which storages exist while code runs, of what kind, and how many bytes at the
worst."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["OTHER", "Peak", "StorageTracker"]

OTHER = "activations"  # what nobody has named: saved for backward passes, and temporaries

Workspace = Callable[[str, Sequence[Any], Any], int]


@dataclass
class Peak:
    """The worst moment of a section: bytes by kind, the scratch memory of the op that ran, and its name."""

    parts: dict[str, int] = field(default_factory=dict)
    workspace: int = 0
    op: str = ""

    @property
    def total(self) -> int:
        """Bytes of tensors and scratch memory together."""
        return sum(self.parts.values()) + self.workspace


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _tensors(each)


class StorageTracker(TorchDispatchMode):
    """Inside it, every new tensor storage is counted until it is freed.

    workspace(op, arguments, result) gives the bytes that an op needs beside its tensors while it runs.
    `peaks` has the worst moment of every `section`.
    """

    def __init__(self, workspace: Workspace | None = None) -> None:
        super().__init__()
        self.peaks: dict[str, Peak] = {}
        self._workspace = workspace
        self._section = ""
        self._worst = -1
        # address -> (weak reference, kind, bytes). Python's weak references break on storages that autograd
        # alone holds, so the dead are swept out instead; until then the sum over all is an upper bound.
        self._live: dict[int, tuple[StorageWeakRef, str, int]] = {}
        self._sums = {OTHER: 0}
        self._bound = 0

    @property
    def parts(self) -> dict[str, int]:
        """Bytes of the live storages by kind."""
        for key in [key for key, (reference, _, _) in self._live.items() if reference.expired()]:
            self._forget(key)
        return dict(self._sums)

    @property
    def total(self) -> int:
        """Bytes of the live storages."""
        return sum(self.parts.values())

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Inside, the worst moment is kept as that of `name`."""
        before = self._section, self._worst
        self._section, self._worst = name, -1
        self._compare(0, "")
        try:
            yield
        finally:
            self._section, self._worst = before

    def classify(self, tensors: Iterable[Tensor], kind: str) -> None:
        """Count the storages of these tensors as `kind` from now on."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._forget(storage._cdata)
            self._note(storage, kind)

    def _note(self, storage: torch.UntypedStorage, kind: str) -> None:
        key, size = storage._cdata, storage.nbytes()
        known = self._live.get(key)
        if known is not None:
            if known[2] == size:
                return
            self._forget(key)  # resized
        if size == 0:
            return
        self._live[key] = (StorageWeakRef(storage), kind, size)
        self._sums[kind] = self._sums.get(kind, 0) + size
        self._bound += size

    def _forget(self, key: int) -> None:
        found = self._live.pop(key, None)
        if found is not None:
            self._sums[found[1]] -= found[2]
            self._bound -= found[2]

    def _compare(self, workspace: int, op: str) -> None:
        if self._bound + workspace <= self._worst:
            return
        peak = Peak(self.parts, workspace, op)
        if peak.total > self._worst:
            self._worst = peak.total
            self.peaks[self._section] = peak

    def execute(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """What an op gives; subclasses may do otherwise."""
        return func(*args, **kwargs)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = self.execute(func, args, kwargs or {})
        for tensor in _tensors(result):
            self._note(tensor.untyped_storage(), OTHER)
        self._compare(self._workspace(func.name(), args, result) if self._workspace else 0, func.name())
        return result
