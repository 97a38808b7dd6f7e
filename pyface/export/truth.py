"""What artefacts are compared with: inputs drawn from seeds, and what the network itself makes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyface.export.network_form import NetworkForm
from pyface.export.spec import EngineSpec
from pyface.faces.embed import in_frame
from pyface.faces.protocols import Embedder
from pyface.io.images import to_uint8
from pyface.models import StyleGAN2Generator

__all__ = ["GeneratorTruth", "IdentityDrift", "Limits", "NetworkTruth", "in_parts"]

Numbers = npt.NDArray[Any]
Limits = tuple[int, int | None]  # the smallest and largest batch that a runner takes; None for any

_PIXELS_AT_ONCE = 4 * 256 * 256  # for the memory of their features


class GeneratorTruth:
    """Latents of seeds, and what a generator makes of them."""

    def __init__(self, network: StyleGAN2Generator, spec: EngineSpec) -> None:
        self.network, self.spec = network, spec
        self._known: dict[tuple[int, float], dict[str, Numbers]] = {}

    def psi(self, wanted: float) -> float | None:
        """None where it has no average of w to move to."""
        return None if self.network.mapping.w_avg_decay is None else wanted

    def inputs(self, seeds: Sequence[int], psi: float | None) -> dict[str, Numbers]:
        """What the artefact takes for these seeds."""
        z, c, noise = self._drawn(seeds)
        with torch.no_grad():
            ws = self.network.mapping(z, c, 1.0 if psi is None else psi)
        given = {"z": z, "ws": ws, "noise": noise}
        if c is not None:
            given["c"] = c
        arrays = {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in given.items()}
        arrays["psi"] = np.array(1.0 if psi is None else psi, np.float32)
        return {tensor.name: arrays[tensor.name] for tensor in self.spec.inputs}

    def outputs(self, seeds: Sequence[int], psi: float | None, _: Limits) -> dict[str, Numbers]:
        """Outputs by name; of a picture made before, as it was."""
        key = 1.0 if psi is None else psi
        missing = [seed for seed in dict.fromkeys(seeds) if (seed, key) not in self._known]
        height, width = self.network.resolution
        step = max(1, _PIXELS_AT_ONCE // (height * width))
        for start in range(0, len(missing), step):
            part = missing[start : start + step]
            made = self._made(part, key)
            for row, seed in enumerate(part):
                self._known[seed, key] = {name: tensor[row].numpy() for name, tensor in made.items()}
        return {
            tensor.name: np.stack([self._known[seed, key][tensor.name] for seed in seeds])
            for tensor in self.spec.outputs
        }

    def _made(self, seeds: Sequence[int], psi: float) -> dict[str, Tensor]:
        z, c, noise = self._drawn(seeds)
        with torch.no_grad():
            ws = self.network.mapping(z, c, psi)
            if self.spec.part == "mapping":
                return {"ws": ws}
            mode = "given" if self.spec.noise_mode == "input" else self.spec.noise_mode
            images = self.network.synthesis(
                ws, mode, self._layers(noise) if mode == "given" else None, precision="float32"
            )
        return images if isinstance(images, dict) else {next(iter(self.network.spectra)): images}

    def _drawn(self, seeds: Sequence[int]) -> tuple[Tensor, Tensor | None, Tensor]:
        """z, c and noise of these seeds; z as `--seeds` of `pyface generate` has it.

        c is 0 or 1 in each place, and 0 in all for every fourth seed: a condition whose length is 0.
        """
        sizes = [height * width for height, width in self.network.synthesis.noise_shapes().values()]
        drawn: list[tuple[Numbers, ...]] = []
        for seed in seeds:
            random = np.random.RandomState(seed)
            latent, condition = random.randn(self.network.z_dim), random.rand(self.network.c_dim) < 0.5
            drawn.append((latent, condition & (seed % 4 != 3), random.randn(sum(sizes))))
        z, c, noise = (
            torch.from_numpy(np.stack(rows).astype(np.float32)) for rows in zip(*drawn, strict=True)
        )
        return z, c if self.network.c_dim else None, noise

    def _layers(self, noise: Tensor) -> list[Tensor]:
        shapes = list(self.network.synthesis.noise_shapes().values())
        parts = noise.split([height * width for height, width in shapes], dim=1)
        return [part.reshape(-1, 1, *shape) for part, shape in zip(parts, shapes, strict=True)]


class NetworkTruth:
    """Normal numbers of seeds, and what a network that is no generator makes of them."""

    def __init__(self, network: nn.Module, spec: EngineSpec) -> None:
        self.network, self.spec = network, spec
        self.form = NetworkForm(network)

    def psi(self, _: float) -> None:
        """It has none."""

    def inputs(self, seeds: Sequence[int], _: float | None) -> dict[str, Numbers]:
        """What the artefact takes for these seeds: pictures half as wide as others, to lie in [-1, 1]."""
        drawn: dict[str, list[Numbers]] = {tensor.name: [] for tensor in self.spec.inputs}
        for seed in seeds:
            random = np.random.RandomState(seed)
            for tensor in self.spec.inputs:
                width = 0.5 if len(tensor.shape) == 4 else 1.0
                drawn[tensor.name].append((random.randn(*tensor.concrete(1)[1:]) * width).astype(np.float32))
        return {name: np.stack(rows) for name, rows in drawn.items()}

    def outputs(self, seeds: Sequence[int], psi: float | None, limits: Limits) -> dict[str, Numbers]:
        """Outputs by name, computed in the parts in which the artefact computes them."""

        def expected(inputs: Mapping[str, Numbers]) -> dict[str, Numbers]:
            with torch.no_grad():
                made = self.form.expected(self.network, *(torch.from_numpy(x) for x in inputs.values()))
            return {tensor.name: found.numpy() for tensor, found in zip(self.spec.outputs, made, strict=True)}

        return in_parts(expected, self.inputs(seeds, psi), limits)


class IdentityDrift:
    """How far the identity in pictures has moved."""

    def __init__(self, embedder: Embedder, frame: str) -> None:
        self.embedder = embedder
        self._embed = in_frame(embedder, frame)

    def drift(self, found: Numbers, truth: Numbers) -> float | None:
        """Largest 1 - cosine over pictures; None where the embedder does not take them.

        Where `found` was rounded to uint8, `truth` is rounded too.
        """
        channels, height, width = truth.shape[1:]
        if channels not in (1, 3) or height != width or height < self.embedder.size:
            return None
        if found.dtype == np.uint8:
            found, truth = (
                pixels.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(127.5) - 1
                for pixels in (found, to_uint8(truth))
            )
        if not np.isfinite(found).all():
            return None
        with torch.no_grad():
            first, second = (self._vectors(pictures) for pictures in (found, truth))
        return float((1 - F.cosine_similarity(first, second, dim=1)).max().clamp(min=0))

    def _vectors(self, pictures: Numbers) -> Tensor:
        images = torch.from_numpy(np.ascontiguousarray(pictures)).expand(-1, 3, -1, -1)
        return self._embed(images).double()


def in_parts(
    run: Callable[[Mapping[str, Numbers]], Mapping[str, Numbers]],
    inputs: Mapping[str, Numbers],
    limits: Limits,
) -> dict[str, Numbers]:
    """Outputs of `run` for all rows, in parts that it takes; short ones are filled up by their last row."""
    rows = next(len(array) for array in inputs.values() if array.ndim)
    smallest, largest = limits
    parts = []
    for start in range(0, rows, largest or rows):
        count = min(rows - start, largest or rows)
        indices = [start + min(row, count - 1) for row in range(max(count, smallest))]
        part = {name: array[indices] if array.ndim else array for name, array in inputs.items()}
        parts.append({name: array[:count] for name, array in run(part).items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
