"""Certificates: an artefact run beside its network, and how near its numbers are.

    certificate = certify(open_artefact("demo.onnx"), load("demo"))
    print(certificate.table())

The truth is the network itself in torch, in float32, layer by layer, in torch's own operations.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from pyface import __version__
from pyface.errors import ExportError, MissingExtraError, ShapeError, ValueRangeError
from pyface.export.artefact import Artefact, open_artefact, sha256_of_network
from pyface.export.engine_runners import TensorRtRunner
from pyface.export.gates import Agreement, Gate, compare, gate_of, scale_of
from pyface.export.runners import RUNTIMES, Runner, absence, default_runtime, obstacle, open_runner
from pyface.export.spec import EngineSpec
from pyface.export.truth import GeneratorTruth, IdentityDrift, Limits, NetworkTruth, in_parts
from pyface.faces.protocols import Embedder
from pyface.faces.registry import load_embedder
from pyface.io.hashing import sha256_of
from pyface.models import StyleGAN2Generator, find_checkpoint, load
from pyface.nn import set_backend

__all__ = ["BATCHES", "SEEDS", "Certificate", "Measurement", "RuntimeResult", "certify", "verify_artefact"]

Numbers = npt.NDArray[Any]

BATCHES = (1, 3, 8)
SEEDS = tuple(range(8))
PSI = 0.7  # of all batches but the first, which has 1


@dataclass(frozen=True)
class Measurement:
    """One output of one batch.

    Attributes:
        batch: rows.
        psi: truncation; None where the artefact takes none.
        output: its name.
        agreement: how near it is to the truth.
        identity_drift: largest 1 - cosine between embeddings of a picture and its truth; None where there
            are no pictures, or none that the embedder takes.
    """

    batch: int
    psi: float | None
    output: str
    agreement: Agreement
    identity_drift: float | None


@dataclass(frozen=True)
class RuntimeResult:
    """What one runtime made of an artefact: its name, where and by which version it ran, the numbers."""

    runtime: str
    device: str
    versions: Mapping[str, str]
    measurements: tuple[Measurement, ...]

    @property
    def passed(self) -> bool:
        """Whether all of it keeps to the gate."""
        return all(measurement.agreement.passed for measurement in self.measurements)


@dataclass(frozen=True)
class Certificate:
    """How near an artefact is to its network.

    Attributes:
        gate: what was allowed.
        artefact_sha256, weights_sha256: of what was compared; "" where a runner was given without a file.
        truth: how the network was run.
        embedder: by which identities were compared; "" for none.
        seeds: a batch of n has the first n of them.
        results: one for each runtime that ran it.
        left_out: runtime, or "batch N", that was not run -> why.
        versions: of pyface and torch.
    """

    gate: Gate
    artefact_sha256: str
    weights_sha256: str
    truth: str
    embedder: str
    seeds: tuple[int, ...]
    results: tuple[RuntimeResult, ...]
    left_out: Mapping[str, str]
    versions: Mapping[str, str]

    @property
    def passed(self) -> bool:
        """Whether every runtime keeps to the gate."""
        return bool(self.results) and all(result.passed for result in self.results)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it; numbers that are not finite become None."""
        entry = asdict(self) | {"passed": self.passed}
        for result, plain in zip(self.results, entry["results"], strict=True):
            plain["passed"] = result.passed
        return _finite(entry)

    def failures(self) -> list[str]:
        """A line for each output that fails its gate."""
        return [
            f"{result.runtime}: {m.output} of batch {m.batch} has an RMSE of {m.agreement.rmse:.2g} and a "
            f"largest error of {m.agreement.max_error:.2g} standard deviations; allowed are "
            f"{m.agreement.rmse_limit:.2g} and {m.agreement.max_error_limit:.2g}"
            for result in self.results
            for m in result.measurements
            if not m.agreement.passed
        ]

    def table(self) -> str:
        """The numbers, a line for each output."""
        lines = [_HEAD]
        for result in self.results:
            lines += [_line(result, measurement) for measurement in result.measurements]
        lines += [f"{name} left out: {reason}" for name, reason in self.left_out.items()]
        return "\n".join(lines)


def certify(
    artefact: Artefact | Runner,
    network: nn.Module,
    spec: EngineSpec | None = None,
    *,
    runtimes: Sequence[str] | None = None,
    embedder: Embedder | str | None = "recognition-64",
    frame: str = "rendered",
    seeds: Sequence[int] = SEEDS,
    batches: Sequence[int] = BATCHES,
    threads: int | None = None,
) -> Certificate:
    """How near an artefact is to its network, by running both on the same latents.

    A batch of n has the latents of the first n seeds; the first batch is drawn with psi 1, the others with
    0.7. Conditions and noise that the artefact takes come from the same seeds. Networks that are no
    generators get normal numbers. Larger batches than an artefact takes go through it in parts.

    Args:
        artefact: a file, run by every runtime that is installed and can run it; or a runner, such as
            `pyface.export.engine_runners.EngineRunner` of an engine.
        network: the network that it was made of; it is not changed.
        spec: what the artefact is; None takes the artefact's own.
        runtimes: keys of `pyface.export.runners.RUNTIMES` to run a file by, all of which must be able to.
        embedder: for identities, of generated pictures that are square, of 1 or 3 channels, and not smaller
            than it takes; a name or file of `pyface.faces.load_embedder`, or None.
        frame: the template by which the generator's faces are aligned, see `pyface.faces.embed.in_frame`.
        seeds: of latents.
        batches: how many rows at a time.
        threads: of the runtimes.

    Raises:
        MissingExtraError: no runtime that could run it is installed.
        ExportError: a runtime fails, or the network's own numbers are not finite.
        ValueRangeError: no seeds, or batches below 1.
    """
    _check_draws(seeds, batches)
    described = artefact.spec if spec is None else spec
    identity = _identity(embedder, frame) if described.part != "mapping" else None
    certifier = _Certifier(network, described, seeds, batches, identity)
    left_out: dict[str, str] = {}
    if isinstance(artefact, Artefact):
        chosen, left_out = _runtimes(described, runtimes)
        results = [_of_file(certifier, artefact, name, threads) for name in chosen]
    else:
        results = [certifier.run(artefact)]
    drifts = [m.identity_drift for result in results for m in result.measurements]
    used = certifier.identity if any(drift is not None for drift in drifts) else None
    return Certificate(
        gate=gate_of(described.precision),
        artefact_sha256=artefact.sha256 if isinstance(artefact, Artefact) else "",
        weights_sha256=described.weights_sha256,
        truth="torch, float32, layer by layer",
        embedder="" if used is None else used.embedder.name,
        seeds=tuple(seeds),
        results=tuple(results),
        left_out=left_out | certifier.refused,
        versions={"pyface": __version__, "torch": torch.__version__},
    )


def verify_artefact(
    path: str | os.PathLike[str],
    against: nn.Module | str | os.PathLike[str],
    *,
    other_weights: bool = False,
    **options: Any,
) -> Certificate:
    """The certificate of an artefact on disk, made anew.

    Args:
        path: of the artefact; its description lies beside it.
        against: the network it was made of: a module, or a path or name that `pyface.load` takes.
        other_weights: compare it with a network of other weights too.
        **options: runtimes, embedder, frame, seeds, batches and threads of `certify`.

    Raises:
        ExportError: the artefact is damaged, was made of other weights or another kind of network, or a
            runtime fails.
        CheckpointError: `against` is no network.
    """
    artefact = open_artefact(path)
    network: nn.Module = against if isinstance(against, nn.Module) else load(against)
    hashes = {sha256_of_network(network)}
    if not isinstance(against, nn.Module):
        hashes.add(sha256_of(find_checkpoint(against)))
    if artefact.spec.weights_sha256 not in hashes and not other_weights:
        name = "this module" if isinstance(against, nn.Module) else os.fspath(against)
        raise ExportError(
            f"{artefact.path.name} was made of weights with sha256 {artefact.spec.weights_sha256[:16]}..., "
            f"and {name} has {' or '.join(f'{found[:16]}...' for found in sorted(hashes))}. Name the file of "
            "the network that it was made of, or compare them with --other-weights (other_weights=True)"
        )
    _require_alike(artefact, network)
    return certify(artefact, network, **options)


def _require_alike(artefact: Artefact, network: nn.Module) -> None:
    """Raise ExportError where a network of other weights is of another kind or size too."""
    spec = artefact.spec
    found = getattr(network, "architecture", type(network).__name__)
    if found != spec.architecture:
        raise ExportError(f"{artefact.path.name} is a {spec.architecture}, and a {found} was named")
    if not isinstance(network, StyleGAN2Generator):
        return
    for name in ("z_dim", "c_dim", "w_dim", "num_ws", "resolution", "spectra"):
        if getattr(network, name) != getattr(spec, name):
            raise ExportError(
                f"{artefact.path.name} has {name} {getattr(spec, name)}, and the network "
                f"{getattr(network, name)}: they cannot be compared"
            )


class _Certifier:
    """The truth, computed once for all runtimes, and what they are given."""

    def __init__(
        self,
        network: nn.Module,
        spec: EngineSpec,
        seeds: Sequence[int],
        batches: Sequence[int],
        identity: IdentityDrift | None,
    ) -> None:
        exact = copy.deepcopy(network).cpu().float().eval().requires_grad_(False)
        set_backend(exact, "reference")
        self.truth: GeneratorTruth | NetworkTruth = (
            GeneratorTruth(exact, spec)
            if isinstance(exact, StyleGAN2Generator)
            else NetworkTruth(exact, spec)
        )
        self.pictures = isinstance(self.truth, GeneratorTruth) and spec.part != "mapping"
        self.gate, self.seeds, self.batches = gate_of(spec.precision), seeds, batches
        self.identity = identity if self.pictures else None
        self.refused: dict[str, str] = {}

    def run(self, runner: Runner) -> RuntimeResult:
        """What `runner` makes of all batches."""
        limits = _batch_limits(runner)
        pairs = []
        for number, rows in enumerate(self.batches):
            seeds = [self.seeds[row % len(self.seeds)] for row in range(rows)]
            psi = self.truth.psi(1.0 if number == 0 else PSI)
            inputs = self.truth.inputs(seeds, psi)
            try:
                truth = self.truth.outputs(seeds, psi, limits)
            except ShapeError as error:  # a discriminator's minibatch statistics
                self.refused[f"batch {rows}"] = str(error)
                continue
            pairs.append((rows, psi, in_parts(runner.run, inputs, limits), truth))
        if not pairs:
            raise ExportError(f"the network itself refuses all batches: {self.refused}")
        measurements = tuple(self._measured(pairs))
        return RuntimeResult(runner.runtime, runner.device, dict(runner.versions), measurements)

    def _measured(
        self, pairs: Sequence[tuple[int, float | None, Mapping[str, Numbers], Mapping[str, Numbers]]]
    ) -> Iterator[Measurement]:
        scales = {
            name: scale_of(np.concatenate([truth[name] for _, _, _, truth in pairs]), self.pictures)
            for name in pairs[0][3]
        }
        for rows, psi, found, truth in pairs:
            for name, right in truth.items():
                agreement = compare(found[name], right, self.gate, pictures=self.pictures, scale=scales[name])
                drift = None if self.identity is None else self.identity.drift(found[name], right)
                yield Measurement(rows, psi, name, agreement, drift)


def _check_draws(seeds: Sequence[int], batches: Sequence[int]) -> None:
    if not seeds or not batches or min(batches) < 1:
        raise ValueRangeError(
            f"seeds and batches must not be empty, batches 1 or more; got {seeds}, {batches}"
        )


def _of_file(certifier: _Certifier, artefact: Artefact, runtime: str, threads: int | None) -> RuntimeResult:
    runner: Runner
    if runtime in RUNTIMES:
        runner = open_runner(artefact, runtime=runtime, threads=threads)
    else:
        runner = TensorRtRunner(artefact)
    try:
        return certifier.run(runner)
    finally:
        runner.close()


def _identity(embedder: Embedder | str | None, frame: str) -> IdentityDrift | None:
    if embedder is None:
        return None
    return IdentityDrift(load_embedder(embedder) if isinstance(embedder, str) else embedder, frame)


def _runtimes(spec: EngineSpec, wanted: Sequence[str] | None) -> tuple[list[str], dict[str, str]]:
    """(runtimes that will run it, the others with the reason)."""
    if wanted is not None:
        if unknown := [name for name in wanted if name not in RUNTIMES]:
            raise ValueRangeError(f"runtime must be one of {', '.join(RUNTIMES)}; got {', '.join(unknown)}")
        return list(wanted), {}
    if spec.format.startswith("tensorrt"):
        return [spec.format], {}
    reasons = {name: obstacle(spec, name) or absence(name) for name in RUNTIMES}
    chosen = [name for name, reason in reasons.items() if reason is None]
    if not chosen:
        raise MissingExtraError(f"a certificate needs a runtime: {reasons[default_runtime(spec)]}")
    return chosen, {name: reason for name, reason in reasons.items() if reason is not None}


def _batch_limits(runner: Runner) -> Limits:
    """The smallest and largest batch that a runner takes; None for any."""
    if runner.batch is not None:
        return runner.batch, runner.batch
    if runner.spec.profile is not None:
        return runner.spec.profile[0], runner.spec.profile[2]
    return 1, None


def _finite(value: Any) -> Any:
    """JSON has no infinity."""
    if isinstance(value, Mapping):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


_HEAD = (
    f"{'runtime':<12}{'batch':>5}{'psi':>5}  {'output':<10}{'max/std':>9}{'RMSE/std':>10}{'PSNR':>7}"
    f"{'differ':>8}{'levels':>7}{'identity':>10}"
)


def _line(result: RuntimeResult, measurement: Measurement) -> str:
    found = measurement.agreement
    cells = (
        f"{result.runtime:<12}{measurement.batch:>5}",
        f"{_cell(measurement.psi, '.1f'):>5}  {measurement.output:<10}",
        f"{found.max_error:>9.1e}{found.rmse:>10.1e}{_cell(found.psnr, '.1f'):>7}",
        f"{_cell(found.differing, '.2%'):>8}{_cell(found.levels, 'd'):>7}",
        f"{_cell(measurement.identity_drift, '.1e'):>10}",
        "" if found.passed else f"  FAILED: allowed {found.max_error_limit:.1e} and {found.rmse_limit:.1e}",
    )
    return "".join(cells)


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
