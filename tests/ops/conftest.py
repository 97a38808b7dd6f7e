"""The back-ends that every op test runs on; those that cannot run here skip with the reason."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch

from pyface.errors import BackendError
from pyface.ops import _native


@dataclass(frozen=True)
class Place:
    """A back-end under test: what to pass as `backend`, and where tensors belong."""

    name: str
    backend: str
    device: str

    def put(self, *tensors: torch.Tensor | None) -> list[torch.Tensor | None]:
        """`tensors` on this back-end's device; memory layouts stay."""
        return [None if t is None else t.to(self.device) for t in tensors]

    def __str__(self) -> str:
        return self.name


@pytest.fixture(params=["reference", "cpu", "emu", "cuda"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """Each back-end in turn. The emulator runs its threads in random order."""
    name = request.param
    if name == "reference":
        yield Place(name, "reference", "cpu")
        return
    with contextlib.ExitStack() as stack:
        device = "cuda" if name == "cuda" else "cpu"
        if name == "emu":
            try:
                stack.enter_context(_native.use("emu", schedule=2))
            except BackendError as error:
                pytest.skip(str(error))
        else:
            found = _native._load(name)
            if not isinstance(found, _native.Backend):
                pytest.skip(f"back-end {name} cannot run here: {found}")
        yield Place(name, "auto" if name == "emu" else name, device)
