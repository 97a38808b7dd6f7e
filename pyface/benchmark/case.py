"""One thing that is measured: the same work done in several ways.

Names of the ways, the same in every case: "pyface" is ours and stands first; "torch eager" is the plain torch
expression, as one writes it down; names that begin with "torch eager, " are better forms of it ("torch eager,
in place", "torch eager, separable", "torch eager, best form"). The best form of a case is the fastest of all
whose name begins with "torch eager". "torch.compile", "OpenVINO" and "ONNX Runtime" are made from the formula
of a workload by `pyface.benchmark.rivals`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

__all__ = [
    "BEST_FORM",
    "EAGER",
    "OURS",
    "Case",
    "Formula",
    "Part",
    "Variant",
    "Workload",
    "eager_form",
    "inferred",
]

OURS, EAGER = "pyface", "torch eager"


def eager_form(form: str) -> str:
    """The name of a better form of the plain expression, such as "torch eager, in place"."""
    return f"{EAGER}, {form}"


BEST_FORM = eager_form("best form")


def inferred(function: Callable[..., Tensor], *inputs: Tensor) -> Callable[[], Tensor]:
    """What calls `function(*inputs)` in inference mode."""

    def run() -> Tensor:
        with torch.inference_mode():
            return function(*inputs)

    return run


@dataclass(frozen=True)
class Part:
    """A piece of work that is done `weight` times, on average, each time the whole is done once."""

    run: Callable[[], Tensor | None]
    weight: float = 1.0


@dataclass(frozen=True)
class Variant:
    """One way to do the work.

    run: does it once and gives the result. prepare: called before every `run`, outside of the measured time.
    parts: by name, where the work has parts that are due at different intervals: each is measured by itself,
    their weighted sum stands for the whole, and `run` is called for its result alone. result: puts what the
    last `run` made into the form of the reference, outside of the measured time; None: `run` gives it.
    """

    run: Callable[[], Tensor | None]
    prepare: Callable[[], None] | None = None
    parts: Mapping[str, Part] = field(default_factory=dict)
    result: Callable[[], Tensor] | None = None


@dataclass(frozen=True)
class Formula:
    """The work in plain torch, as other runtimes take it.

    module: float32, in eval mode, weights inside; module(*inputs) gives one tensor. inputs: what varies from
    call to call, as it arrives: float32, or bfloat16 where tensors come and go in bfloat16; the result leaves
    in the type of the first of them. Other runtimes compute in the precision of the case whatever arrives.
    better: by the name of a runtime, a form of the module that it is faster with.
    also: further variants by name, such as "OpenVINO, transposed": the runtime and the form it is given.
    """

    module: nn.Module
    inputs: tuple[Tensor, ...]
    better: Mapping[str, nn.Module] = field(default_factory=dict)
    also: Mapping[str, tuple[str, nn.Module]] = field(default_factory=dict)


@dataclass(frozen=True)
class Workload:
    """The work of a case, built on a device.

    variants: by name; the first one is ours, the others are what it is compared with. reference: the result
    in float64, or None where there is nothing to compare. bytes: least memory traffic, every input read and
    every output written once. flops: arithmetic of the cheapest algorithm among the variants, or 0. items:
    images per run, or 0. tolerance: largest allowed error of ours relative to the largest reference value.
    formula: what torch.compile, OpenVINO and ONNX Runtime are given; None where they cannot do the work.
    errors: the result of every variant is compared with `reference`, not of ours alone. peak: width of the
    range of images; errors then come as PSNR too. left_out: ways that cannot do the work, with reasons.
    """

    variants: Mapping[str, Variant]
    reference: Callable[[], Tensor] | None = None
    bytes: int = 0
    flops: int = 0
    items: int = 0
    tolerance: float = 0.0
    formula: Formula | None = None
    errors: bool = True
    peak: float = 0.0
    left_out: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """What is measured, and how to set it up.

    name: unique, such as "bias_act/1x128x256x256/float32/nchw". group: the table it stands in. op, size,
    dtype and layout: the columns that tell it apart. build: sets the work up on a device ("cpu", "cuda");
    raises ImportError or pyface's BackendError where the work cannot be done. calls: runs per sample, for
    work of microseconds. cold: evict the caches before every sample. quick: measured in a quick run too.
    rounds: samples of each variant, at most; 0 leaves it to the run. threads: CPU threads of this case; 0
    takes the run's. screen: a short plain label, with which the case stands on the screen of `pyface bench`.
    rivals: measure torch.compile, OpenVINO and ONNX Runtime where the workload has a formula.
    """

    name: str
    group: str
    op: str
    size: str
    dtype: str
    layout: str
    build: Callable[[str], Workload] = field(repr=False)
    calls: int = 1
    cold: bool = True
    quick: bool = False
    rounds: int = 0
    threads: int = 0
    screen: str = ""
    rivals: bool = True
