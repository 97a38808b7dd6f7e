"""The synthesis of StyleGAN2 without gradients on CUDA: few kernels a layer, recorded as a CUDA graph.

A layer that doubles the size is one kernel; any other is one kernel or, where `convolution_choice` takes
cuDNN, two; its image comes out of the same pass where one block of threads holds all its channels. Everything
about a batch size, element types and kinds of noise is planned once (`_stylegan2_cuda_program`).
"""

from __future__ import annotations

import contextlib
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyface.errors import ShapeError
from pyface.models._graph_replay import CudaRecorder, Recorder, Replayed
from pyface.models._stylegan2_cuda_program import Program, ProgramKey
from pyface.models._stylegan2_cuda_weights import CudaWeights
from pyface.models._stylegan2_engine_network import Known, KnownLayer, known, last_known
from pyface.models.stylegan2_config import PRECISIONS
from pyface.nn import SynthesisBlock
from pyface.ops._autograd import NativePrimitives
from pyface.ops._dispatch import dispatch_modes, primitives
from pyface.ops._native import Backend

if TYPE_CHECKING:
    from pyface.models.stylegan2 import SynthesisNetwork

__all__ = ["cuda_dtypes", "release", "synthesize_on_cuda"]

_MOST_HEADS = 8  # channels of images that one kernel makes
_MOST_CHANNELS = 4096  # that a kernel doubling the size reads
_MOST_SAMPLES = 65535
_MOST_PROGRAMS = 4  # of a network
_MOST_SHARE = 8  # an 8th of the device's memory is kept for a network
_TENSOR_CORES = (8, 0)
_TAPS = 4
_lock = threading.Lock()
_states: weakref.WeakKeyDictionary[Known, _State] = weakref.WeakKeyDictionary()


def cuda_dtypes(
    network: SynthesisNetwork, ws: Tensor, precision: str | None
) -> tuple[torch.dtype, ...] | None:
    """The element type of each block in which `synthesize_on_cuda` can do what is asked, or None.

    None: the layers themselves have to. They have to in training mode (weights change at every step, and the
    memory is wanted elsewhere), where a gradient is wanted, under tracing, autocast and dispatch modes, while
    a graph is being recorded, with other back-ends than the CUDA kernels, with hooks on any layer, with
    layers that are not of our classes, for other architectures than "skip" and filters of other than four
    taps, and in 16 bits below compute capability 8.0.
    """
    if (
        torch.compiler.is_compiling()
        or network.training
        or ws.dtype != torch.float32
        or not 0 < len(ws) <= _MOST_SAMPLES
    ):
        return None
    config = network.config
    if (
        config.architecture != "skip"
        or len(config.resample_filter) != _TAPS
        or sum(config.resample_filter) == 0
    ):
        return None
    if sum(config.spectra.values()) > _MOST_HEADS:
        return None
    if max(config.channels(size) for size in network.sizes) > _MOST_CHANNELS:
        return None
    k = _kernels_for(ws)
    if k is None or not _is_eager(ws):
        return None
    dtypes = _dtypes(network, precision)
    capability = k.capability(ws.device)
    if capability is not None and capability < _TENSOR_CORES and set(dtypes) != {torch.float32}:
        return None
    found = known(network)
    if found is None or not found[0].is_plain(("auto", "cuda")):
        return None
    parameters = found[1]
    if any(p.dtype != torch.float32 or p.device != ws.device or not p.is_contiguous() for p in parameters):
        return None
    if torch.is_grad_enabled() and (ws.requires_grad or any(p.requires_grad for p in parameters)):
        return None
    return dtypes


def _kernels_for(ws: Tensor) -> Backend | None:
    chosen = primitives(ws, "auto")
    if isinstance(chosen, NativePrimitives) and chosen.backend.has_convolutions:
        return chosen.backend
    return None


def _is_eager(ws: Tensor) -> bool:
    if dispatch_modes() or torch.is_autocast_enabled(ws.device.type):
        return False
    return not (ws.is_cuda and torch.cuda.is_current_stream_capturing())


def _dtypes(network: SynthesisNetwork, precision: str | None) -> tuple[torch.dtype, ...]:
    """Of each block. The lowest goes with the next: alone in float32 it would take as long as several."""
    blocks = network.blocks()
    if precision is not None:
        return (PRECISIONS[precision],) * len(blocks)
    own = [block.dtype_16bit or torch.float32 for block in blocks]
    return (own[min(1, len(own) - 1)], *own[1:])


def synthesize_on_cuda(
    network: SynthesisNetwork,
    ws: Tensor,
    noise: Sequence[Mapping[str, Tensor | None]],
    dtypes: tuple[torch.dtype, ...],
) -> dict[str, Tensor]:
    """Images [N, C, H, W] by spectrum.

    Args:
        network: that `cuda_dtypes` has just accepted.
        ws: [N, num_ws, w_dim].
        noise: of each block, by the names of its convolutions.
        dtypes: what `cuda_dtypes` gave.
    """
    spectra = network.config.spectra
    k = _kernels_for(ws)
    if k is None:
        raise RuntimeError("the kernels that were there a moment ago are gone")
    recorder = _recorder(ws.device) if network.cuda_graphs else None
    place = torch.cuda.device(ws.device) if ws.is_cuda else contextlib.nullcontext()
    with torch.inference_mode(False), torch.no_grad(), place:
        image = _state(network, k, ws.device).image(_tracked(network), ws, noise, dtypes, recorder)
    return dict(zip(spectra, image.split(list(spectra.values()), 1), strict=True))


def release(network: SynthesisNetwork) -> None:
    """Free the memory and the graphs that are kept for `network` from call to call."""
    for known_network, state in list(_states.items()):
        if state.network() is network:
            state.free()
            _states.pop(known_network, None)


def _state(network: SynthesisNetwork, k: Backend, device: torch.device) -> _State:
    """What is kept for the layers of `network` on `device`."""
    layers = last_known(network)
    with _lock:
        found = _states.get(layers)
        if found is None or found.device != device or found.k.name != k.name:
            if found is not None:
                found.free()
            found = _states[layers] = _State(network, layers, k, device)
        return found


def _recorder(device: torch.device) -> Recorder | None:
    return CudaRecorder(device) if device.type == "cuda" else None


class _State:
    """Weights and programs of a network on a device. One call at a time."""

    def __init__(self, network: SynthesisNetwork, layers: Known, k: Backend, device: torch.device) -> None:
        self.k, self.device, self.network = k, device, weakref.ref(network)
        self._layers = layers.layers
        self._lock = threading.Lock()
        self._ws = (network.num_ws, network.w_dim)
        blocks = network.blocks()
        first = weakref.ref(blocks[0])
        self.weights = CudaWeights(k, lambda: _const(first), device)
        self._filters = [blocks[layer.block].filter.taps for layer in self._layers]
        self._programs: OrderedDict[tuple[ProgramKey, bool], tuple[Program, Replayed]] = OrderedDict()
        self._last: tuple[torch.cuda.Stream, torch.cuda.Event] | None = None

    def image(
        self,
        tracked: Sequence[Tensor],
        ws: Tensor,
        noise: Sequence[Mapping[str, Tensor | None]],
        dtypes: tuple[torch.dtype, ...],
        recorder: Recorder | None,
    ) -> Tensor:
        """Images [N, C, H, W]. tracked: what weights follow. recorder: of calls from their second on."""
        given = [noise[layer.block].get(layer.name) for layer in self._layers]
        kinds = tuple(_kind(layer, values) for layer, values in zip(self._layers, given, strict=True))
        key = ProgramKey(len(ws), tuple(dtypes[layer.block] for layer in self._layers), kinds)
        with self._lock:
            self._wait()
            self.weights.follow(tracked)
            program, run = self._program(key, recorder)
            program.load(ws, given)
            changed = self.weights.look()
            run()
            if changed():
                self.weights.refill()
                program.load(ws, given)
                run()
            image = program.image.clone()
            self._leave()
        return image

    def _program(self, key: ProgramKey, recorder: Recorder | None) -> tuple[Program, Replayed]:
        name = (key, recorder is not None)
        found = self._programs.get(name)
        if found is None:
            program = Program(self.k, self._layers, self.weights, self._filters, self._ws, key)
            found = self._programs[name] = (program, Replayed(program.run, recorder))
            self._make_room()
        else:
            self._programs.move_to_end(name)
        return found

    def most_bytes(self) -> int:
        """How much memory programs may keep in all."""
        if self.device.type != "cuda":
            return sys.maxsize
        total: int = torch.cuda.get_device_properties(self.device).total_memory
        return total // _MOST_SHARE

    def _make_room(self) -> None:
        """Give up the oldest programs where there are too many, or too large ones for this device."""
        most = self.most_bytes()
        while len(self._programs) > _MOST_PROGRAMS or most < sum(p.bytes for p, _ in self._programs.values()):
            self._synchronize()
            self._programs.popitem(last=False)

    def free(self) -> None:
        """Give memory back; the GPU has to be through with it."""
        with self._lock:
            self._synchronize()
            self._programs.clear()

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _wait(self) -> None:
        """Let this stream wait for the last call, where that was on another stream."""
        if self.device.type == "cuda" and self._last is not None:
            stream, done = self._last
            here = torch.cuda.current_stream(self.device)
            if here != stream:
                here.wait_event(done)

    def _leave(self) -> None:
        if self.device.type == "cuda":
            here = torch.cuda.current_stream(self.device)
            done = torch.cuda.Event() if self._last is None else self._last[1]
            done.record(here)
            self._last = (here, done)


def _const(block: weakref.ref[SynthesisBlock]) -> Tensor:
    found = block()
    if found is None:
        raise RuntimeError("the network is gone")
    return found.const


def _tracked(network: SynthesisNetwork) -> list[Tensor]:
    """All that weights are made of."""
    layers = last_known(network)
    found: list[Tensor] = [*(layers.parameters(network) or ())]
    return found + [layer.conv.noise_const for layer in layers.layers if layer.conv.use_noise]


def _kind(layer: KnownLayer, noise: Tensor | None) -> str:
    if noise is None:
        return ""
    if tuple(noise.shape[-2:]) != layer.conv.size:
        raise ShapeError(f"noise of {layer.name} must be of size {layer.conv.size}; got {list(noise.shape)}")
    if noise is layer.conv.noise_const:
        return "const"
    return "own" if noise.ndim == 4 and noise.shape[0] > 1 else "shared"
