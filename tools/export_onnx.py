"""A network of pyface as an ONNX file, certified, and run once by ONNX Runtime.

    python tools/export_onnx.py demo demo.onnx --precision fp16 --uint8

What `pyface export onnx` does, as a script to start from.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from pyface.cli.export import certificate_line
from pyface.errors import PyfaceError
from pyface.export import export_onnx, open_artefact
from pyface.export.artefact import Artefact
from pyface.export.runners import open_runner


def arguments(given: list[str] | None) -> argparse.Namespace:
    """What was typed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", help="a .safetensors file, or a name such as demo")
    parser.add_argument("out", type=Path, help="the .onnx file to write")
    parser.add_argument("--precision", default="fp32", help="fp32, fp16 or bf16")
    parser.add_argument("--opset", type=int, help="20 where it is left out, 22 for bf16")
    parser.add_argument("--uint8", action="store_true", help="pictures as uint8 [N, H, W, C]")
    parser.add_argument("--rows", type=int, default=4, help="of the batch that is run; 0 for none")
    return parser.parse_args(given)


def run_once(artefact: Artefact, rows: int) -> None:
    """Time a batch of normal numbers and say what came out."""
    random = np.random.default_rng(0)
    inputs = {
        spec.name: random.standard_normal(spec.concrete(rows), np.float32) if spec.shape else np.float32(0.7)
        for spec in artefact.spec.inputs
    }
    inputs = {name: np.asarray(value) for name, value in inputs.items()}
    with open_runner(artefact) as runner:
        runner.run(inputs)
        started = time.perf_counter()
        outputs = runner.run(inputs)
        seconds = time.perf_counter() - started
        print(f"{runner.runtime}: {rows} rows in {seconds * 1000:.1f} ms")
    for name, array in outputs.items():
        print(f"  {name}: {array.dtype} {list(array.shape)}, from {array.min():.3g} to {array.max():.3g}")


def main(given: list[str] | None = None) -> int:
    """Export, read back, run."""
    options = arguments(given)
    try:
        export_onnx(
            options.network,
            options.out,
            precision=options.precision,
            opset=options.opset,
            uint8=options.uint8,
        )
        artefact = open_artefact(options.out)
        print(f"{artefact.path}: {artefact.size / 1e6:.1f} MB, opset {artefact.spec.opset}")
        print(f"certificate: {certificate_line(artefact.parity)}")
        if options.rows > 0:
            run_once(artefact, options.rows)
    except PyfaceError as error:
        print(f"export_onnx: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
