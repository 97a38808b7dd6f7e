"""Live bytes of tensors: which storages exist while code runs, of what kind, and how many bytes at the
worst."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
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
    `peaks` has the worst moment of every `section`. Works on real and on fake tensors; enter it inside
    FakeTensorMode. Numbers read from fake tensors are 0, and no two of them are equal.
    """

    def __init__(self, workspace: Workspace | None = None) -> None:
        super().__init__()
        self.parts: dict[str, int] = {OTHER: 0}
        self.total = 0
        self.peaks: dict[str, Peak] = {}
        self._workspace = workspace
        self._section = ""
        self._worst = -1
        self._live: dict[int, tuple[Any, str, int]] = {}  # address -> (weak reference, kind, bytes)

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
        self._live[key] = (weakref.ref(storage, lambda _: self._forget(key)), kind, size)
        self.parts[kind] = self.parts.get(kind, 0) + size
        self.total += size

    def _forget(self, key: int) -> None:
        found = self._live.pop(key, None)
        if found is not None:
            self.parts[found[1]] -= found[2]
            self.total -= found[2]

    def _compare(self, workspace: int, op: str) -> None:
        if self.total + workspace > self._worst:
            self._worst = self.total + workspace
            self.peaks[self._section] = Peak(dict(self.parts), workspace, op)

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
