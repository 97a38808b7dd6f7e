"""How much arithmetic a piece of work is: the matrix products and convolutions that torch is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

__all__ = ["count_flops"]


class _Counting(TorchDispatchMode):
    """Adds up the FLOP of every operation that torch has a formula for."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The operation's own result."""
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += int(formula(*args, **(kwargs or {}), out_val=result))
        return result


def count_flops(run: Callable[[], object]) -> int:
    """FLOP of the matrix products and convolutions, forward and backward, of one call of `run`.

    A multiplication and an addition count 2. Element-wise work and filters count nothing: beside a
    convolution they are small, and the true amount is never less than what this gives.
    """
    with _Counting() as counting:
        run()
    return counting.flops
