"""What all engines share: images made in batches of one size, so that each depends on its ws alone."""

from __future__ import annotations

import abc
import contextlib
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from pyface import __version__
from pyface.errors import ExportError, ShapeError, ValueRangeError
from pyface.export.engines.pixels import write_pixels
from pyface.export.spec import EngineSpec, precision_name, torch_precision
from pyface.models import Images

__all__ = ["NOISE_MODES", "Engine", "GeneratorFacts", "Settings"]

MAPPING_ROWS = 8  # latents mapped at a time, whatever the engine: ws are the same numbers in all of them
NOISE_MODES = ("const", "none")


@dataclass(frozen=True)
class GeneratorFacts:
    """The sizes of a generator, as `pyface.models.Generator` has them, and which weights it has."""

    z_dim: int
    c_dim: int
    w_dim: int
    num_ws: int
    resolution: tuple[int, int]
    spectra: Mapping[str, int]
    weights_sha256: str = ""

    @classmethod
    def of(cls, source: Any, weights_sha256: str = "") -> Self:
        """Those of a generator or of an `EngineSpec`."""
        height, width = source.resolution
        weights = source.weights_sha256 if isinstance(source, EngineSpec) else weights_sha256
        sizes = (source.z_dim, source.c_dim, source.w_dim, source.num_ws)
        return cls(*sizes, (height, width), dict(source.spectra), weights)


@dataclass(frozen=True)
class Settings:
    """How an engine runs: precision ("fp32" or "float32", ...), images at a time, device, the kind of noise,
    and CPU threads (None: as many as torch has).

    Raises:
        ValueRangeError: batch or threads below 1, an unknown precision or kind of noise.
    """

    precision: str = "fp32"
    batch: int = 8
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    noise: str = "const"
    threads: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", precision_name(self.precision))
        if self.batch < 1:
            raise ValueRangeError(f"batch must be 1 or more; got {self.batch}.")
        if self.threads is not None and self.threads < 1:
            raise ValueRangeError(f"threads must be 1 or more; got {self.threads}. Leave it out for torch's.")
        if self.noise not in NOISE_MODES:
            raise ValueRangeError(
                f"noise must be one of {', '.join(NOISE_MODES)}; got {self.noise!r}. An engine gives the "
                'same picture each time; for "random" call the generator itself.'
            )


Batch = dict[str, Tensor]  # rows that go through the runtime together, by the names of its inputs


class Engine(abc.ABC):
    """A generator on one runtime; a `pyface.models.Generator` whose numbers repeat.

    Any number of images goes through the runtime in batches of one size, the last one filled up, so that a
    picture depends on its ws and not on what is made with it. `mapping` runs in torch in float32, in batches
    of its own size, in all engines alike. Use it as a context manager, or `close` it. Engines keep the
    weights that they were opened with. One thread may use an engine at a time.

    Attributes:
        name: "torch", "native", "onnxruntime", "openvino", "tensorrt" or "tensorrt-rtx".
        precision: a key of `pyface.export.spec.PRECISIONS`.
        batch: images that the runtime makes at a time.
        device: where it runs; images are there too, pixels always on the CPU.
        noise: "const" or "none".
        inputs: ("ws",), or what an artefact with its mapping inside takes: "z", "c", "psi".
        reason: why this engine was chosen; "" where it was asked for.
        scratch: a folder that is removed with the engine.
        z_dim, c_dim, w_dim, num_ws, resolution, spectra: as in `pyface.models.Generator`.
    """

    name: ClassVar[str]

    def __init__(
        self,
        facts: GeneratorFacts,
        settings: Settings,
        mapping: nn.Module | None,
        inputs: tuple[str, ...] = ("ws",),
    ) -> None:
        self.z_dim, self.c_dim, self.w_dim, self.num_ws = facts.z_dim, facts.c_dim, facts.w_dim, facts.num_ws
        self.resolution, self.spectra = facts.resolution, facts.spectra
        self.precision, self.batch, self.device = settings.precision, settings.batch, settings.device
        self.noise, self.threads = settings.noise, settings.threads
        self.weights_sha256 = facts.weights_sha256
        self.inputs = inputs
        self.reason = ""
        self.scratch: tempfile.TemporaryDirectory[str] | None = None
        self._mapping = mapping if "ws" in inputs else None
        self._closed = False

    @abc.abstractmethod
    def _images(self, rows: Batch, psi: float) -> dict[str, Tensor]:
        """Images float32 [batch, C, H, W] by spectrum of a full batch of `inputs`, float32, dense, on
        `device`. The next call may reuse their memory. psi: where it is one of them."""

    @abc.abstractmethod
    def _facts(self) -> dict[str, Any]:
        """What else decides about the bytes of a picture: versions of the runtime, kind of processor."""

    @abc.abstractmethod
    def _release(self) -> None:
        """Frees what the runtime holds."""

    def _pixels(self, rows: Batch, psi: float, count: int, into: Mapping[str, Tensor]) -> None:
        """Writes the first `count` pictures of a batch into uint8 [count, H, W, C] of the CPU, pinned where
        the engine is on a GPU; then they are there when the GPU has done its work."""
        for name, images in self._images(rows, psi).items():
            if images.is_cpu:
                write_pixels(images[:count], into[name])
            else:
                pixels = torch.empty(into[name].shape, dtype=torch.uint8, device=images.device)
                write_pixels(images[:count], pixels)
                into[name].copy_(pixels, non_blocking=True)

    def mapping(
        self,
        z: Tensor,
        c: Tensor | None = None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Tensor:
        """ws float32 [N, num_ws, w_dim] of z [N, z_dim] and c [N, c_dim], the same numbers in all engines.

        Raises:
            ShapeError: z or c of a wrong shape, or missing.
            ValueRangeError: truncation_psi is not finite, or the network keeps no average of w.
            ExportError: the engine is closed, or was opened from an artefact without a mapping in torch.
        """
        self._check_open()
        self._check_psi(truncation_psi)
        if self._mapping is None:
            raise ExportError(self._no_mapping())
        self._check_latents(z, c)
        mapping = self._mapping
        ws = torch.empty(len(z), self.num_ws, self.w_dim, device=self.device)

        def run(rows: Batch, first: int, count: int) -> None:
            made = mapping(rows["z"], rows.get("c"), truncation_psi, truncation_cutoff)
            ws[first : first + count] = made[:count]

        self._in_batches(self._latents(z, c), MAPPING_ROWS, run)
        return ws

    def synthesis(self, ws: Tensor, noise_mode: str | None = None, precision: str | None = None) -> Images:
        """Images float32 [N, C, H, W] in about [-1, 1]; a dict by spectrum when there are several.

        Args:
            ws: [N, num_ws, w_dim].
            noise_mode, precision: None, or what the engine was opened with.

        Raises:
            ShapeError: ws of a wrong shape.
            ValueRangeError: another kind of noise or precision than the engine's.
            ExportError: the engine is closed, or was opened from an artefact that takes z.
        """
        self._check_options(noise_mode, precision)
        self._check_ws(ws)
        return self._all_images({"ws": ws})

    def pixels(self, ws: Tensor) -> dict[str, Tensor]:
        """{spectrum: uint8 [N, H, W, C]} on the CPU, of ws [N, num_ws, w_dim].

        Rounded as `pyface.io.images.to_uint8`. Raises as `synthesis`.
        """
        self._check_ws(ws)
        return self._all_pixels({"ws": ws})

    def __call__(
        self,
        z: Tensor,
        c: Tensor | None = None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        noise_mode: str | None = None,
        precision: str | None = None,
    ) -> Images:
        """Images of z and c. Arguments and errors as those of `mapping` and `synthesis`."""
        self._check_options(noise_mode, precision)
        if "ws" in self.inputs:
            return self.synthesis(self.mapping(z, c, truncation_psi, truncation_cutoff))
        self._check_call(z, c, truncation_psi, truncation_cutoff)
        return self._all_images(self._latents(z, c), truncation_psi)

    def pixels_of(
        self,
        z: Tensor,
        c: Tensor | None = None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> dict[str, Tensor]:
        """{spectrum: uint8 [N, H, W, C]} on the CPU, of z and c. Arguments and errors as of `mapping`."""
        if "ws" in self.inputs:
            return self.pixels(self.mapping(z, c, truncation_psi, truncation_cutoff))
        self._check_call(z, c, truncation_psi, truncation_cutoff)
        return self._all_pixels(self._latents(z, c), truncation_psi)

    def describe(self) -> dict[str, Any]:
        """What decides about the bytes of a picture besides its latent, for manifests: plain JSON."""
        return {
            "name": self.name,
            "precision": self.precision,
            "batch": self.batch,
            "noise": self.noise,
            "device": self.device.type,
            "weights_sha256": self.weights_sha256,
            "pyface": __version__,
            **self._facts(),
        }

    def close(self) -> None:
        """Free what the runtime holds; every later use is an ExportError. Closing twice is fine."""
        if not self._closed:
            self._closed = True
            self._mapping = None
            self._release()
            if self.scratch is not None:
                self.scratch.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *problem: object) -> None:
        self.close()

    def __repr__(self) -> str:
        size = "x".join(str(side) for side in self.resolution)
        return f"<{self.name} engine, {self.precision}, {size}, batch {self.batch}, {self.device}>"

    def _latents(self, z: Tensor, c: Tensor | None) -> Batch:
        return {"z": z, "c": c} if self.c_dim and c is not None else {"z": z}

    def _all_images(self, inputs: Batch, psi: float = 1.0) -> Images:
        rows, (height, width) = len(next(iter(inputs.values()))), self.resolution
        images = {
            name: torch.empty(rows, channels, height, width, device=self.device)
            for name, channels in self.spectra.items()
        }

        def run(batch: Batch, first: int, count: int) -> None:
            for name, made in self._images(batch, psi).items():
                images[name][first : first + count] = made[:count]

        self._in_batches(inputs, self.batch, run)
        return images if len(images) > 1 else next(iter(images.values()))

    def _all_pixels(self, inputs: Batch, psi: float = 1.0) -> dict[str, Tensor]:
        rows, (height, width) = len(next(iter(inputs.values()))), self.resolution
        on_gpu = self.device.type == "cuda"
        pixels = {
            name: torch.empty(rows, height, width, channels, dtype=torch.uint8, pin_memory=on_gpu)
            for name, channels in self.spectra.items()
        }

        def run(batch: Batch, first: int, count: int) -> None:
            into = {name: made[first : first + count] for name, made in pixels.items()}
            self._pixels(batch, psi, count, into)

        self._in_batches(inputs, self.batch, run)
        if on_gpu:
            torch.cuda.current_stream(self.device).synchronize()
        return pixels

    def _in_batches(self, inputs: Batch, size: int, run: Callable[[Batch, int, int], None]) -> None:
        """Calls `run(rows, first, count)` for each `size` rows of `inputs`, zeros behind the last.

        Rows are copied into memory of their own: how it is aligned is then always the same.
        """
        with torch.no_grad(), self._with_threads():
            for first in range(0, len(next(iter(inputs.values()))), size):
                rows = {}
                for name, tensor in inputs.items():
                    part = tensor[first : first + size]
                    rows[name] = torch.zeros(size, *part.shape[1:], device=self.device)
                    rows[name][: len(part)] = part
                run(rows, first, len(part))

    @contextlib.contextmanager
    def _with_threads(self) -> Iterator[None]:
        before = torch.get_num_threads()
        if self.threads is None or self.threads == before:
            yield
            return
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def _no_mapping(self) -> str:
        if "ws" not in self.inputs:
            return (
                f"this {self.name} engine was opened from an artefact that takes z and has its mapping "
                "inside. Call the engine with z, or pixels_of."
            )
        return (
            f"this {self.name} engine was opened from an artefact that takes ws, and has no mapping. "
            "Give open_engine the generator as `network`, or call synthesis with ws."
        )

    def _check_open(self) -> None:
        if self._closed:
            raise ExportError(f"this {self.name} engine is closed. Open another one with open_engine.")

    def _check_psi(self, psi: float) -> None:
        if not math.isfinite(psi):
            raise ValueRangeError(
                "truncation_psi must be a finite number, 0 for the average face to 1 for full variety; "
                f"got {psi}."
            )

    def _check_call(self, z: Tensor, c: Tensor | None, psi: float, cutoff: int | None) -> None:
        """Of an artefact that takes z."""
        self._check_open()
        self._check_psi(psi)
        self._check_latents(z, c)
        if cutoff is not None or (psi != 1 and "psi" not in self.inputs):
            raise ValueRangeError(
                f"the mapping inside this artefact has the inputs {', '.join(self.inputs)}; got "
                f"truncation_psi {psi} and truncation_cutoff {cutoff}. Export it with inputs ws for a "
                "mapping in torch."
            )

    def _check_latents(self, z: Tensor, c: Tensor | None) -> None:
        if z.ndim != 2 or z.shape[1] != self.z_dim:
            raise ShapeError(f"z must be [N, {self.z_dim}]; got {list(z.shape)}.")
        if c is None:
            if self.c_dim:
                raise ShapeError(f"c is missing; this generator needs c [N, {self.c_dim}].")
        elif tuple(c.shape) != (len(z), self.c_dim):
            raise ShapeError(
                f"c must be [{len(z)}, {self.c_dim}], a row for each of z; got {list(c.shape)}. "
                "Repeat a condition: c.expand(len(z), -1)"
            )

    def _check_ws(self, ws: Tensor) -> None:
        self._check_open()
        if "ws" not in self.inputs:
            raise ExportError(f"{self._no_mapping()[:-1]}; ws are inside.")
        if ws.ndim != 3 or tuple(ws.shape[1:]) != (self.num_ws, self.w_dim):
            raise ShapeError(
                f"ws must be [N, {self.num_ws}, {self.w_dim}]; got {list(ws.shape)}. "
                "A single w is repeated by w[:, None].expand(-1, num_ws, -1)"
            )

    def _check_options(self, noise_mode: str | None, precision: str | None) -> None:
        if noise_mode not in (None, self.noise):
            raise ValueRangeError(
                f"this engine was opened with noise {self.noise!r}; got noise_mode={noise_mode!r}. "
                "Open one with the noise you want (const or none)."
            )
        if precision is not None and precision_name(precision) != self.precision:
            raise ValueRangeError(
                f"this engine computes in {torch_precision(self.precision)}; got precision={precision!r}. "
                "Open one with the precision you want."
            )
