"""The generator in torch: layer by layer, or on the fused kernels of pyface."""

from __future__ import annotations

import abc
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pyface.errors import BackendError, ExportError
from pyface.export.engines.fixed_batch import Engine, GeneratorFacts, Settings
from pyface.export.spec import torch_precision
from pyface.models._stylegan2_cuda import cuda_dtypes
from pyface.models._stylegan2_engine import engine_precision
from pyface.models.stylegan2 import SynthesisNetwork
from pyface.nn import set_backend
from pyface.ops.styled_conv import engine_isa, release_memory

__all__ = ["NativeEngine", "TorchEngine", "fused_refusal"]


class _ModuleEngine(Engine):
    """An engine over the network itself, which is the engine's own: nobody else changes it."""

    def __init__(self, network: Any, facts: GeneratorFacts, settings: Settings) -> None:
        super().__init__(facts, settings, network.mapping)
        self._synthesis: Any = network.synthesis
        self._options = {"noise_mode": settings.noise, "precision": torch_precision(settings.precision)}

    def _images(self, rows: dict[str, Tensor], psi: float) -> dict[str, Tensor]:
        made = self._synthesis(rows["ws"], **self._options)
        return made if isinstance(made, dict) else {next(iter(self.spectra)): made}

    def _facts(self) -> dict[str, Any]:
        if self.device.type == "cuda":
            return {"torch": torch.__version__, "processor": torch.cuda.get_device_name(self.device)}
        # One thread or several may add up in another order: the last bit of a number depends on it.
        threads = self.threads or torch.get_num_threads()
        return {"torch": torch.__version__, "processor": self._instructions(), "threads": threads}

    @abc.abstractmethod
    def _instructions(self) -> str:
        """The instruction set that is used on a CPU."""

    def _release(self) -> None:
        self._synthesis = None


class TorchEngine(_ModuleEngine):
    """Layer by layer in torch's own operations: needs no native module, and is what others are held to."""

    name: ClassVar[str] = "torch"

    def __init__(self, network: Any, facts: GeneratorFacts, settings: Settings) -> None:
        set_backend(network.synthesis, "reference")
        super().__init__(network, facts, settings)

    def _instructions(self) -> str:
        return str(torch.backends.cpu.get_cpu_capability())


class NativeEngine(_ModuleEngine):
    """All layers in the fused kernels of pyface, on the CPU or on CUDA."""

    name: ClassVar[str] = "native"

    def __init__(self, network: Any, facts: GeneratorFacts, settings: Settings) -> None:
        reason = fused_refusal(network, settings)
        if reason is not None:
            raise ExportError(
                f"the native engine cannot run this generator here: {reason}. Take another engine: torch, "
                'onnxruntime, openvino, or "auto".'
            )
        super().__init__(network, facts, settings)

    def _instructions(self) -> str:
        return engine_isa()

    def _release(self) -> None:
        if self.device.type == "cuda":
            self._synthesis.release_memory()
        else:
            release_memory()
        super()._release()


def fused_refusal(network: Any, settings: Settings) -> str | None:
    """Why the fused kernels cannot run `network` (frozen, on the device of `settings`), or None."""
    synthesis = network.synthesis
    if not isinstance(synthesis, SynthesisNetwork):
        return f"its synthesis is a {type(synthesis).__name__}, not one of pyface's"
    ws = torch.zeros(settings.batch, synthesis.num_ws, synthesis.w_dim, device=settings.device)
    precision = torch_precision(settings.precision)
    try:
        with torch.no_grad():
            if settings.device.type == "cuda":
                accepted = cuda_dtypes(synthesis, ws, precision) is not None
            else:
                accepted = engine_precision(synthesis, ws, precision) is not None
    except BackendError as error:
        return str(error).rstrip(".")
    return None if accepted else _why_not(synthesis, settings)


def _why_not(network: SynthesisNetwork, settings: Settings) -> str:
    """What stands in the way of the fused kernels, as far as the configuration tells."""
    config = network.config
    if config.architecture != "skip":
        return f'its architecture is "{config.architecture}", and the fused kernels have "skip" alone'
    if settings.device.type == "cpu" and config.activation != "lrelu":
        return f'its activation is "{config.activation}", and the fused kernels have "lrelu" alone'
    if tuple(config.resample_filter) != (1, 3, 3, 1):
        return (
            f"its resample filter is {list(config.resample_filter)}, and the fused kernels have [1, 3, 3, 1]"
        )
    if any(isinstance(module, nn.Module) and module._forward_hooks for module in network.modules()):
        return "a layer of it has a forward hook"
    return (
        f"the kernels for {settings.device.type} are not built, or lack {settings.precision} or this many "
        "channels or spectra (pyface doctor says which back-ends run)"
    )
