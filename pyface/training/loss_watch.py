"""Warns when a loss grows beyond its past, and when gradients are not finite."""

from __future__ import annotations

from collections.abc import Callable

from pyface.training.divergence import LossGrowth, name_of_parameter
from pyface.training.loop import Callback, Trainer
from pyface.training.phases import EXPLODED, PATIENCE

__all__ = ["LossWatch"]


class LossWatch(Callback):
    """Watches every loss term of a run.

    warn: called with the trainer and the text, once when a term begins to grow (`LossGrowth`; again after a
    recovery) and once for each phase whose gradient is not finite.
    """

    def __init__(self, warn: Callable[[Trainer, str], None]) -> None:
        self.warn = warn
        self._terms: dict[str, LossGrowth] = {}
        self._told: set[str] = set()

    def growing(self) -> bool:
        """Whether a loss is too high now: checkpoints from before it should be kept."""
        return any(growth.growing for growth in self._terms.values())

    def on_step(self, trainer: Trainer, losses: dict[str, float]) -> None:
        for phase in trainer.phases:
            for term in phase.terms:
                if term.name in losses:
                    growth = self._terms.setdefault(term.name, LossGrowth())
                    if growth.add(losses[term.name] * term.weight):
                        self._warn_of_growth(trainer, phase.name, term.name, losses[term.name], growth)
            if phase.bad_gradients and phase.name not in self._told:
                self._told.add(phase.name)
                parameter = phase.not_finite_gradient_seen
                name = (
                    name_of_parameter(trainer.modules, parameter) if parameter is not None else "none alone"
                )
                self.warn(
                    trainer,
                    f"a gradient of phase {phase.name!r} was not finite (first parameter: {name}) and was "
                    f"limited. In 16 bits this happens now and then; {PATIENCE} times in a row end the run.",
                )

    def _warn_of_growth(
        self, trainer: Trainer, phase: str, term: str, value: float, growth: LossGrowth
    ) -> None:
        self.warn(
            trainer,
            f"loss {term!r} of phase {phase!r} has grown to {value:.4g}, far beyond its past (median of its "
            f"weighted size {growth.median:.3g}). At {EXPLODED:g} the run ends. Older checkpoints are kept "
            "while it lasts; if the sheets get worse, go on from one before it: by --resume with a higher "
            "--gamma, or by --start-from with a lower learning rate.",
        )
