"""Names the layer where a step went wrong, and notices losses that grow before they are lost."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pyface.errors import TrainingError
from pyface.training.distributed import Ranks

if TYPE_CHECKING:
    from pyface.training.loop import Trainer
    from pyface.training.phases import Batch, Phase

__all__ = [
    "DivergenceError",
    "LayerRecord",
    "LossGrowth",
    "diagnosis",
    "first_not_finite",
    "name_of_parameter",
    "refuse_not_finite",
    "watched_layers",
]

LARGE = 1e5  # outputs of healthy layers stay far below: 16-bit layers are clamped at 256


class DivergenceError(TrainingError):
    """A loss or a gradient of a phase is not finite or has exploded; the weights are as before the step."""


@dataclass(frozen=True)
class Sighting:
    """A layer's output, or the gradient that arrived there: what was wrong with it."""

    layer: str
    nans: int
    infinite: int
    values: int
    largest: float
    largest_input: float

    @property
    def finite(self) -> bool:
        """Whether every value was finite."""
        return self.nans == self.infinite == 0


@dataclass
class LayerRecord:
    """The first layers of a pass whose outputs, or gradients, were not finite or were large.

    Layers inside others report before these, so the innermost is the one that is named.
    """

    bad: Sighting | None = None
    large: Sighting | None = None
    bad_gradient: Sighting | None = None

    def text(self) -> str:
        """What a user should know of it; empty when all was well."""
        parts = []
        if self.bad is not None:
            of_inputs = (
                f"its inputs reach {self.bad.largest_input:.3g}"
                if math.isfinite(self.bad.largest_input)
                else "its inputs are not finite either"
            )
            parts.append(
                f"The first output that is not finite is that of {self.bad.layer}: {self.bad.nans} NaN and "
                f"{self.bad.infinite} infinite of {self.bad.values} values; {of_inputs}."
            )
        if self.large is not None and (self.bad is None or self.large.layer != self.bad.layer):
            parts.append(f"Values grow large first at {self.large.layer}, up to {self.large.largest:.3g}.")
        if self.bad is None and self.bad_gradient is not None:
            parts.append(
                f"All outputs are finite; the first gradient that is not arrives at "
                f"{self.bad_gradient.layer}: {self.bad_gradient.nans} NaN and "
                f"{self.bad_gradient.infinite} infinite of {self.bad_gradient.values} values."
            )
        return " ".join(parts)


def _sighting(layer: str, value: Tensor, inputs: Sequence[Any] = ()) -> Sighting:
    value = value.detach()
    nans = int(torch.isnan(value).sum())
    infinite = int(torch.isinf(value).sum())
    kept = [t.detach() for t in inputs if isinstance(t, Tensor) and t.is_floating_point() and t.numel()]
    reach = max((float(t.abs().amax()) for t in kept), default=0.0)
    reach = math.nan if any(bool(torch.isnan(t).any()) for t in kept) else reach
    largest = float(value.abs().amax()) if value.numel() and not nans else math.nan
    return Sighting(layer, nans, infinite, value.numel(), largest, reach)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)


@contextmanager
def watched_layers(modules: dict[str, nn.Module]) -> Iterator[LayerRecord]:
    """Record the first bad layer of everything that these modules compute inside the block."""
    record = LayerRecord()
    handles = []

    def hook_of(layer: str) -> Callable[[nn.Module, Any, Any], None]:
        def gradient(value: Tensor) -> None:
            if record.bad_gradient is None and not bool(torch.isfinite(value).all()):
                record.bad_gradient = _sighting(layer, value)

        def output(_module: nn.Module, inputs: Any, outputs: Any) -> None:
            for value in _tensors(outputs):
                if record.bad is None:
                    seen = _sighting(layer, value, inputs)
                    if not seen.finite:
                        record.bad = seen
                    elif record.large is None and seen.largest > LARGE:
                        record.large = seen
                if value.requires_grad:
                    value.register_hook(gradient)

        return output

    known: set[int] = set()
    for name, root in modules.items():
        for path, module in root.named_modules():
            if id(module) not in known:
                known.add(id(module))
                layer = f"{name}.{path}" if path else name
                handles.append(module.register_forward_hook(hook_of(f"{layer} ({type(module).__name__})")))
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()


def name_of_parameter(modules: dict[str, nn.Module], parameter: nn.Parameter) -> str:
    """Such as "G.synthesis.b8.conv0.weight"."""
    for name, module in modules.items():
        for path, found in module.named_parameters():
            if found is parameter:
                return f"{name}.{path}"
    return f"a parameter of shape {list(parameter.shape)}"


def first_not_finite(state: Any, path: str = "") -> tuple[str, Tensor] | None:
    """Path and value of the first floating-point tensor in nested dictionaries that is not finite."""
    if isinstance(state, Tensor):
        bad = state.is_floating_point() and not bool(torch.isfinite(state).all())
        return (path, state) if bad else None
    if isinstance(state, dict):
        items: Any = state.items()
    elif isinstance(state, list | tuple):
        items = enumerate(state)
    else:
        return None
    for key, value in items:
        if found := first_not_finite(value, f"{path}.{key}" if path else str(key)):
            return found
    return None


def refuse_not_finite(trainer: Trainer, state: dict[str, Any]) -> None:
    """Raise TrainingError when a state that is to be saved holds NaN or infinity; name the tensor."""
    found = first_not_finite(state)
    if found is None:
        return
    where, value = found
    bad = int((~torch.isfinite(value)).sum())
    raise TrainingError(
        f"training diverged: {where} holds {bad} of {value.numel()} values that are not finite after step "
        f"{trainer.step_number} ({trainer.images_seen / 1000:g} kimg). No checkpoint was written; "
        + go_on_from(trainer)
    )


def go_on_from(trainer: Trainer) -> str:
    """The last sentence of a failure: which file to go on from, and with what."""
    if trainer.last_checkpoint is None:
        return "there is none before it either: start again with a lower learning rate or a higher --gamma."
    return (
        f"the last good one is {trainer.last_checkpoint}: go on from it by --resume with a higher --gamma, "
        "or by --start-from with a lower learning rate."
    )


def diagnosis(trainer: Trainer, phase: Phase, batches: Sequence[Batch]) -> str:
    """Which weight, layer or gradient is at fault, found by running a phase again on the same numbers.

    batches: those of the step, with their draws at the beginning. Nothing is exchanged with other processes,
    no optimiser step is done and gradients are dropped.
    """
    phase.optimizer.zero_grad(set_to_none=True)
    found = first_not_finite({n: dict(m.named_parameters()) for n, m in trainer.modules.items()})
    if found is not None:
        bad = int((~torch.isfinite(found[1])).sum())
        return f"The weight {found[0]} holds {bad} of {found[1].numel()} values that are not finite."
    with watched_layers(trainer.modules) as record:
        phase.gradients([replace(batch, ranks=Ranks()) for batch in batches])
    bad_gradient = phase.not_finite_gradient()
    phase.optimizer.zero_grad(set_to_none=True)
    text = record.text()
    if bad_gradient is not None and record.bad is None:
        name = name_of_parameter(trainer.modules, bad_gradient)
        text = f"{text} The first parameter with a gradient that is not finite is {name}.".strip()
    return text


class LossGrowth:
    """Tells when a loss stays far above its own recent past, long before it is not finite.

    A weighted loss is growing when `patience` values in a row are beyond `factor` times the median of the
    last `window` magnitudes, and beyond `floor`.
    """

    def __init__(
        self, factor: float = 20.0, patience: int = 16, window: int = 256, floor: float = 10.0
    ) -> None:
        self.factor = factor
        self.patience = patience
        self.floor = floor
        self._past: deque[float] = deque(maxlen=window)
        self._above = 0
        self.median = 0.0

    @property
    def growing(self) -> bool:
        """Whether the loss has been too high for long enough."""
        return self._above >= self.patience

    def add(self, value: float) -> bool:
        """Take the next value; True when the loss begins to grow with it."""
        magnitude = abs(value)
        if len(self._past) >= 4 * self.patience:
            self.median = statistics.median(self._past)
            high = magnitude > max(self.factor * self.median, self.floor)
            self._above = self._above + 1 if high else 0
        self._past.append(magnitude)
        return self._above == self.patience
