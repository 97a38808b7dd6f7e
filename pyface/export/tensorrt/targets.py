"""GPUs that an engine is built for, batches that it takes, and what is refused before anything is built.

What TensorRT-RTX 1.7.1 builds was found by building each kind of layer for each of its targets; full TensorRT
has not been run, and for it only what the hardware rules out is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from pyface.errors import ExportError, ValueRangeError
from pyface.export.spec import PRECISIONS
from pyface.export.tensorrt.graph_facts import GraphFacts
from pyface.export.tensorrt.library import EXTRAS, Library

__all__ = [
    "DATACENTRE",
    "FULL_TARGETS",
    "check_generator",
    "check_graph",
    "check_precision",
    "check_profile",
    "choose_targets",
    "parse_capability",
    "present_capability",
]

FULL_TARGETS = (75, 80, 86, 87, 89, 90, 100, 103, 110, 120, 121)  # GPUs of TensorRT 10 and 11
DATACENTRE = (90, 100, 103)  # H100, H200, B200, B300: no targets of TensorRT-RTX
_SINCE = {"fp8": 89, "bf16": 80}  # first capability with tensor cores for the type
_DEFAULT_FROM = 80
_WRITTEN = re.compile(r"(?:sm_?)?(\d{1,2})\.?(\d)", re.IGNORECASE)


def parse_capability(text: str | int) -> int:
    """A compute capability as a number: 89 of "89", "8.9" or "sm_89".

    Raises:
        ValueRangeError: another form.

    >>> [parse_capability(word) for word in ("89", "12.0", "sm_75", 86)]
    [89, 120, 75, 86]
    """
    found = _WRITTEN.fullmatch(str(text).strip())
    if found is None:
        raise ValueRangeError(
            f'a compute capability is written as 89, "8.9" or "sm_89"; got {text!r}. nvidia-smi '
            "--query-gpu=compute_cap tells that of a GPU"
        )
    return int(found[1] + found[2])


def present_capability(device: int = 0) -> int | None:
    """Compute capability of a GPU in this machine, such as 89; None where there is none."""
    import torch

    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability(device)
    return major * 10 + minor


def check_profile(profile: Sequence[int] | None) -> tuple[int, int, int] | None:
    """(smallest, best, largest batch). Raises ValueRangeError unless they are three numbers in order."""
    if profile is None:
        return None
    sizes = tuple(profile)
    whole = len(sizes) == 3 and all(isinstance(size, int) and not isinstance(size, bool) for size in sizes)
    if not whole or not 1 <= sizes[0] <= sizes[1] <= sizes[2]:
        raise ValueRangeError(
            "profile must be three whole numbers, the smallest, best and largest batch, with 1 <= smallest "
            f"<= best <= largest, such as 1,8,32; got {','.join(map(str, sizes))}"
        )
    return sizes[0], sizes[1], sizes[2]


def choose_targets(
    library: Library, wanted: Iterable[str | int], precision: str, present: int | None
) -> tuple[int, ...]:
    """The compute capabilities to build for, in order.

    Args:
        library: TensorRT-RTX builds for any of its targets, TensorRT for the GPU present alone.
        wanted: as `parse_capability` takes them; none means the GPU present, else for TensorRT-RTX all of
            its targets from 8.0 on that have the precision.
        precision: a key of `PRECISIONS`.
        present: compute capability of the GPU in this machine; None where there is none.

    Raises:
        ExportError: the library cannot build for one of them, or the precision does not exist there.
        ValueRangeError: not the form of a compute capability, or no precision.
    """
    if precision not in PRECISIONS:
        raise ValueRangeError(f"precision must be one of {', '.join(PRECISIONS)}; got {precision!r}")
    chosen = tuple(sorted({parse_capability(word) for word in wanted}))
    if not library.targets:
        return _for_present(library, chosen, precision, present)
    if not chosen and present in library.targets:
        chosen = (present,)
    elif not chosen:
        since = _SINCE.get(precision, _DEFAULT_FROM)
        chosen = tuple(target for target in library.targets if target >= since)
    unknown = [target for target in chosen if target not in library.targets]
    if unknown:
        raise ExportError(_not_a_target(library, unknown[0]))
    check_precision(precision, chosen)
    return chosen


def _for_present(
    library: Library, chosen: tuple[int, ...], precision: str, present: int | None
) -> tuple[int, ...]:
    if present is None:
        raise ExportError(
            f"{library.title} measures kernels on the GPU that the engine is for, and there is no CUDA "
            f'device here. Build on that machine, or use TensorRT-RTX (--rtx, pip install "pyface-synth'
            f'[{EXTRAS["tensorrt-rtx"]}]"), which needs none'
        )
    if chosen not in ((), (present,)):
        raise ExportError(
            f"{library.title} builds for the GPU present alone, compute capability {present}; asked for were "
            f"{', '.join(map(str, chosen))}. Build on those machines, or use TensorRT-RTX (--rtx)"
        )
    if present not in FULL_TARGETS:
        raise ExportError(
            f"the GPU present has compute capability {present}, and TensorRT runs on "
            f"{', '.join(map(str, FULL_TARGETS))}. Use the native engine, which runs pyface's CUDA kernels"
        )
    check_precision(precision, (present,))
    return (present,)


def _not_a_target(library: Library, target: int) -> str:
    known = ", ".join(map(str, library.targets))
    text = f"{library.title} does not build for compute capability {target}; it knows {known}"
    if target in DATACENTRE:
        return (
            f"{text}. Use full TensorRT on that GPU (--no-rtx, pip install "
            f'"pyface-synth[{EXTRAS["tensorrt"]}]"), or the native engine, which runs pyface\'s CUDA kernels'
        )
    return f"{text}. Choose from these, or use the native engine, which runs pyface's CUDA kernels"


def check_precision(precision: str, capabilities: Sequence[int]) -> None:
    """Raises ExportError where a GPU has no such numbers: fp8 before 8.9, bf16 before 8.0."""
    since = _SINCE.get(precision, 0)
    early = [target for target in capabilities if target < since]
    if early:
        other = "int8" if precision == "fp8" else "fp16"
        raise ExportError(
            f"{precision} needs compute capability {since} or more; asked for were "
            f"{', '.join(map(str, early))}. Leave them out, or take {other}, which runs there"
        )


def check_graph(
    facts: GraphFacts, library: Library, capabilities: Sequence[int], profile: tuple[int, int, int] | None
) -> None:
    """Raises ExportError for a graph that the library would refuse, misread or die of, with the remedy.

    Args:
        facts: of the ONNX graph.
        library: that builds.
        capabilities: as `choose_targets` gave them.
        profile: as `check_profile` gave it.
    """
    for problem in (
        _nodes_problem(facts),
        _types_problem(facts, library, capabilities),
        _batch_problem(facts, profile),
    ):
        if problem:
            raise ExportError(problem)


def check_generator(library: Library, capabilities: Sequence[int]) -> None:
    """Raises ExportError where no generator can be built, whatever its precision; `check_graph` says more."""
    if problem := _products_problem(("styles",), library, capabilities):
        raise ExportError(problem)


def _nodes_problem(facts: GraphFacts) -> str:
    if facts.foreign:
        return (
            f"the graph has nodes that are neither of ONNX nor functions of its own: {_some(facts.foreign)}. "
            "A parser of TensorRT ends the process when it meets them; export without functions "
            "(pyface export onnx writes plain ONNX by default)"
        )
    if facts.uint8_inside:
        return (
            f"uint8 numbers are used inside the graph: {_some(facts.uint8_inside)}. TensorRT takes them as "
            "outputs alone; make the Cast to uint8 the last node, as --uint8 does"
        )
    return ""


def _types_problem(facts: GraphFacts, library: Library, capabilities: Sequence[int]) -> str:
    rtx = library.flavour == "tensorrt-rtx"
    if facts.precision == "fp8":
        check_precision("fp8", capabilities)
    if "bfloat16" in facts.types:
        check_precision("bf16", capabilities)
    if rtx and facts.bfloat16_transposed:
        return (
            "TensorRT-RTX has no transposed convolution of bfloat16, and the graph has: "
            f'{_some(facts.bfloat16_transposed)}. Export with the up form "phases" (the default for bf16), '
            "or take fp16"
        )
    return _products_problem(facts.float32_products, library, capabilities)


def _products_problem(products: Sequence[str], library: Library, capabilities: Sequence[int]) -> str:
    if library.flavour != "tensorrt-rtx" or 75 not in capabilities or not products:
        return ""
    return (
        "TensorRT-RTX has no float32 matrix product for compute capability 75, and the graph has: "
        f"{_some(products)}; mapping and styles are float32 in every precision. Leave 75 out; on such a GPU "
        f'use full TensorRT (pip install "pyface-synth[{EXTRAS["tensorrt"]}]") or the native engine'
    )


def _batch_problem(facts: GraphFacts, profile: tuple[int, int, int] | None) -> str:
    if facts.other_free_axes:
        return (
            f"axes besides the batch are free: {_some(facts.other_free_axes)}. Export with sizes for all of "
            "them"
        )
    if facts.batch is None and profile is None:
        return (
            "the batch of the graph is free, so the engine needs a profile: the smallest, best and largest "
            "batch, such as --profile 1,8,32"
        )
    if facts.batch is not None and profile not in (None, (facts.batch,) * 3):
        given = ",".join(map(str, profile or ()))
        return (
            f"the graph takes batches of {facts.batch} alone; got the profile {given}. Give no profile "
            "(profile=None, --profile none), or export with a free batch"
        )
    return ""


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
