"""Engines as runners of arrays, so that they are certified as files are.

with open_engine("demo", "native", precision="bf16") as engine:
    certificate = certify(EngineRunner(engine), load("demo"))
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pyface.export.artefact import Artefact
from pyface.export.engines.fixed_batch import Engine
from pyface.export.runners import checked_inputs
from pyface.export.spec import BATCH, EngineSpec, TensorSpec

__all__ = ["EngineRunner", "TensorRtRunner"]

Array = npt.NDArray[Any]


class EngineRunner:
    """An engine of `pyface.export.open_engine` from ws to float32 pictures. Attributes as in `Runner`.

    Args:
        engine: of a generator whose mapping runs in torch; it stays open.
    """

    batch: int | None = None  # an engine fills up batches itself

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.runtime, self.device = engine.name, engine.device.type
        self.versions: Mapping[str, str] = {"torch": torch.__version__}
        self.spec = _spec_of(engine)

    def run(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any] | None = None) -> dict[str, Array]:
        """Pictures float32 [N, C, H, W] by spectrum, of ws float32 [N, num_ws, w_dim].

        outputs: arrays to write to; fresh ones where names are missing.
        """
        arrays, _ = checked_inputs(self.spec, inputs, None)
        made = self.engine.synthesis(torch.from_numpy(arrays["ws"]).to(self.engine.device))
        images = made if isinstance(made, dict) else {next(iter(self.engine.spectra)): made}
        return _delivered(images, outputs)

    def close(self) -> None:
        """Nothing: the engine is the caller's."""


class TensorRtRunner:
    """An engine of TensorRT or TensorRT-RTX on the GPU it was built for, over arrays of the CPU.

    Args:
        artefact: of `pyface.export.tensorrt.build_engine`.

    Raises:
        ExportError, MissingExtraError: as `pyface.export.tensorrt.load_engine`.
    """

    device = "cuda"

    def __init__(self, artefact: Artefact) -> None:
        from pyface.export.tensorrt import load_engine

        self.spec, self.runtime, self.batch = artefact.spec, artefact.spec.format, artefact.spec.batch
        self._engine = load_engine(artefact)
        self.versions: Mapping[str, str] = {self.runtime: self._engine.library.version}

    def run(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any] | None = None) -> dict[str, Array]:
        """The outputs by name. Arguments and errors as `pyface.export.runners.CpuRunner.run`."""
        arrays, _ = checked_inputs(self.spec, inputs, self.batch)
        given = {
            name: torch.from_numpy(array).to(self._engine.device.device) if array.ndim else float(array)
            for name, array in arrays.items()
        }
        return _delivered(self._engine.run(given), outputs)

    def close(self) -> None:
        """Free the engine."""
        self._engine.close()


def _spec_of(engine: Engine) -> EngineSpec:
    return EngineSpec(
        format=engine.name,
        architecture="stylegan2-generator",
        part="synthesis",
        precision=engine.precision,
        opset=0,
        up_form="",
        inputs=(TensorSpec("ws", "float32", (BATCH, engine.num_ws, engine.w_dim)),),
        outputs=tuple(
            TensorSpec(name, "float32", (BATCH, channels, *engine.resolution))
            for name, channels in engine.spectra.items()
        ),
        noise_mode=engine.noise,
        z_dim=engine.z_dim,
        c_dim=engine.c_dim,
        w_dim=engine.w_dim,
        num_ws=engine.num_ws,
        resolution=engine.resolution,
        spectra=dict(engine.spectra),
        weights_sha256=engine.weights_sha256,
    )


def _delivered(made: Mapping[str, torch.Tensor], outputs: Mapping[str, Any] | None) -> dict[str, Array]:
    found = {name: tensor.cpu().numpy() for name, tensor in made.items()}
    for name, room in (outputs or {}).items():
        into = room.detach().numpy() if hasattr(room, "detach") else room
        np.copyto(into, found[name])
        found[name] = into
    return found
