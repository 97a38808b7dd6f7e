"""What a call costs before any work is done: every layer of bias_act, and each public op, at 1 x 8 x 4 x 4.

    python bench/ops/call_overhead.py [--out FILE.json] [--rounds 15]

Microseconds of the thread's processor time, one thread; 300 calls a sample, samples interleaved.
"""

from __future__ import annotations

import argparse
import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pyface import ops
from pyface.benchmark.machine import machine_facts
from pyface.benchmark.method import Variant, measure, threads
from pyface.ops import _checks, _kernels, _native

CALLS = 300


def variants() -> dict[str, Callable[[], Any]]:
    """What is measured, by name; needs the native CPU module."""
    g = torch.Generator().manual_seed(0)
    x, b, styles = (torch.randn(*shape, generator=g) for shape in ((1, 8, 4, 4), (8,), (1, 8)))
    weight, f = torch.randn(8, 8, 3, 3, generator=g), ops.setup_filter([1, 3, 3, 1])
    leaf, y = x.clone().requires_grad_(), torch.empty_like(x)
    native = _native.resolve(x, "cpu")
    if native is None:
        raise RuntimeError("pyface._cpu is not built")
    settings = _checks.activation_settings("bias_act", "lrelu", None, None, None)
    e = ops._composition.Epilogue(*settings)
    pointers = x.data_ptr(), b.data_ptr(), y.data_ptr()
    function = torch.nn.functional.leaky_relu
    lrelu: dict[str, Any] = {"act": "lrelu"}
    return {
        "bias_act: native function, ready pointers": lambda: native.bias_act(
            *pointers, 0, 1, 8, 16, 2, 0.2, 1.4, -1.0, 1
        ),
        "bias_act: kernel with its output": lambda: _kernels.bias_act(native, x, b, 1, e),
        "bias_act: public, no gradient": lambda: ops.bias_act(x, b, **lrelu),
        "bias_act: public, with gradient": lambda: ops.bias_act(leaf, b, **lrelu),
        "bias_act: registered op": lambda: torch.ops.pyface.bias_act.default(x, b, 1, 2, 0.2, 1.4, -1.0),
        "bias_act: torch formula": lambda: (function(x + b.view(1, -1, 1, 1), 0.2) * 1.4).clamp(-256, 256),
        "bias_act: torch formula with gradient": lambda: (
            function(leaf + b.view(1, -1, 1, 1), 0.2) * 1.4
        ).clamp(-256, 256),
        "upfirdn2d": lambda: ops.upfirdn2d(x, f, padding=1),
        "conv2d_resample 3x3": lambda: ops.conv2d_resample(x, weight, padding=1),
        "torch conv2d 3x3": lambda: torch.nn.functional.conv2d(x, weight, padding=1),
        "conv_epilogue": lambda: ops.conv_epilogue(x, styles, bias=b, **lrelu),
        "modulated_conv2d_act 3x3": lambda: ops.modulated_conv2d_act(
            x, weight, styles, padding=1, bias=b, **lrelu
        ),
        "one torch addition": lambda: x + x,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    with threads(1):
        cases = {name: Variant(run) for name, run in variants().items()}
        gc.disable()
        timings = measure(cases, rounds=arguments.rounds, calls=CALLS, cold=False)
        gc.enable()
        facts = machine_facts("cpu", 1)
    figures = {name: sorted(1e3 * t for t in timing.best) for name, timing in timings.items()}
    rows = {
        name: {"median_us": times[len(times) // 2], "least_us": times[0]} for name, times in figures.items()
    }
    for name, row in rows.items():
        print(f"{name:45s} median {row['median_us']:7.2f} us   least {row['least_us']:7.2f} us")
    if arguments.out is not None:
        document = {"machine": facts, "size": "1x8x4x4 float32", "calls": CALLS, "cases": rows}
        arguments.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
