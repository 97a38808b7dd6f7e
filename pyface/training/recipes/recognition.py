"""The network of features and identities, trained on rendered people alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyface.data import ProceduralFaces
from pyface.errors import ShapeError, ValueRangeError
from pyface.models import FaceRecognition, RecognitionConfig
from pyface.ops.face_render import face_parameters
from pyface.training.degradations import DEGRADATIONS, WARP_GRID, degraded
from pyface.training.feed import Feed, TrainingSet
from pyface.training.loop import Trainer
from pyface.training.phases import Batch, LossTerm, Phase, as_spectra

__all__ = ["RecognitionRecipe", "RecognitionRun", "build", "cosine_margin_loss", "described_faces", "train"]

IDENTITY = "identity"
_HIDDEN = ("texture_seed", "background_seed", "nir_strength", "nir_ambient")  # not to be read off a picture


@dataclass(frozen=True)
class RecognitionRecipe:
    """How the network is trained.

    Args:
        epochs: how often every picture is seen.
        batch: pictures in a step.
        lr: highest learning rate of AdamW, reached after a tenth of the steps; it falls to 0 as a cosine.
        weight_decay: of AdamW.
        scale, margin: of the identity loss, see `cosine_margin_loss`.
        identity_weight, parameter_weight, degradation_weight: of the three losses.
        degraded_share: share of pictures to which each degradation is done, each on its own.
        precision: "float32" or "bfloat16", of the convolutions while training; the result computes in
            float32.
        seed: of the weights and of every draw.
        network: sizes of the network.
    """

    epochs: float = 5.0
    batch: int = 64
    lr: float = 0.002
    weight_decay: float = 0.02
    scale: float = 24.0
    margin: float = 0.2
    identity_weight: float = 0.3
    parameter_weight: float = 40.0
    degradation_weight: float = 3.0
    degraded_share: float = 0.2
    precision: str = "bfloat16"
    seed: int = 0
    network: RecognitionConfig = field(default_factory=RecognitionConfig)

    def __post_init__(self) -> None:
        if self.precision not in ("float32", "bfloat16"):
            raise ValueRangeError(f"precision must be float32 or bfloat16; got {self.precision!r}.")
        if self.epochs <= 0 or not 0 <= self.degraded_share <= 1:
            raise ValueRangeError(
                f"epochs must be above 0 and degraded_share in [0, 1]; got {self.epochs} and "
                f"{self.degraded_share}."
            )

    def plain(self) -> dict[str, Any]:
        """Every field as a JSON value."""
        return {**asdict(self), "network": self.network.to_dict()}


@dataclass
class RecognitionRun:
    """A trainer and the network that it trains; `heads` serve training only."""

    trainer: Trainer
    network: FaceRecognition
    heads: TrainingHeads
    images: int


def described_faces(
    identities: int, samples: int, size: int, seed: int, progress: Callable[[Any], Any] | None = None
) -> TrainingSet:
    """Rendered people with all that is known of each picture as its labels.

    The first label is the number of the person; the others are the renderer's parameters that a picture
    shows, scaled to zero mean and unit variance over the renderer's distribution (by 4,096 draws with this
    seed). progress: wraps the iterable of chunks, like tqdm.
    """
    faces = ProceduralFaces(identities, samples, size=size, spectra=("vis",), seed=seed)
    names = tuple(p.name for p in face_parameters() if p.name not in _HIDDEN)
    columns = [i for i, p in enumerate(face_parameters()) if p.name in names]
    starts: Any = range(0, len(faces), 256)
    pixels = np.empty((len(faces), 3, size, size), np.uint8)
    drawn = np.empty((len(faces), len(names)), np.float32)
    for start in progress(starts) if progress else starts:
        chosen = range(start, min(start + 256, len(faces)))
        pixels[start : chosen.stop] = faces.images(chosen).transpose(0, 3, 1, 2)
        drawn[start : chosen.stop] = faces.draw(chosen).parameters[:, columns]
    many = ProceduralFaces(4096, 1, size=size, spectra=("vis",), seed=seed).draw().parameters[:, columns]
    spread = many.std(0)
    scaled = (drawn - many.mean(0)) / np.where(spread > 1e-6, spread, 1.0)
    people = (np.arange(len(faces)) // samples).astype(np.float32)[:, None]
    labels = torch.from_numpy(np.concatenate([people, np.clip(scaled, -4.0, 4.0)], 1))
    source = f"procedural:{identities}x{samples}@{size}, seed {seed}"
    return TrainingSet.from_arrays(torch.from_numpy(pixels), labels, (IDENTITY, *names), source)


def cosine_margin_loss(
    embeddings: Tensor, centres: Tensor, people: Tensor, scale: float, margin: float
) -> Tensor:
    """Cross-entropy of who is shown, where the right person's cosine has to win by `margin`.

    Source: Wang et al. 2018, "CosFace: Large margin cosine loss for deep face recognition", equation 4.

    Args:
        embeddings: [N, D] of unit length.
        centres: [P, D], a vector for every person, of any length.
        people: int64 [N].
        scale: s, by which cosines are multiplied.
        margin: m, taken off the cosine with the right person's centre.
    """
    if people.shape != embeddings.shape[:1]:
        raise ShapeError(f"people must be [{embeddings.shape[0]}]; got {list(people.shape)}")
    cosines = embeddings @ F.normalize(centres, dim=1).T
    margins = torch.zeros_like(cosines).scatter_(1, people[:, None], margin)
    return F.cross_entropy(scale * (cosines - margins), people)


class TrainingHeads(nn.Module):
    """What is trained along and then left behind: a vector for every person, and two linear readings."""

    def __init__(self, network: RecognitionConfig, people: int, parameters: int) -> None:
        super().__init__()
        # Only their directions count. Adam moves an entry by about the learning rate in each step, so short
        # vectors turn in time and long ones hardly at all.
        self.centres = nn.Parameter(0.05 * torch.randn(people, network.embedding_dim))
        self.shown = nn.Linear(network.num_features, parameters)
        self.worse = nn.Linear(network.num_features, len(DEGRADATIONS))


class _Losses:
    """The three losses of one batch; the first asked for makes the features that the others share."""

    def __init__(self, recipe: RecognitionRecipe, network: FaceRecognition, heads: TrainingHeads) -> None:
        self.recipe = recipe
        self.network = network
        self.heads = heads

    def _described(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Features of the degraded batch, and the strengths of what was done to it [N, 4]."""
        if "features" not in batch.shared:
            clean = as_spectra(batch.real)["vis"]
            chance, amount = batch.draws.uniform(2, len(DEGRADATIONS)).unbind(1)
            strengths = torch.where(chance < self.recipe.degraded_share, amount, 0.0)
            noise = batch.draws.noise(clean.shape)
            bends = batch.draws.normal(2, WARP_GRID, WARP_GRID)
            images = degraded(clean, strengths, noise, bends)
            bfloat16 = self.recipe.precision == "bfloat16"
            with torch.autocast(clean.device.type, torch.bfloat16, enabled=bfloat16):
                features = self.network.features(images)
            batch.shared["features"] = features, strengths
        found: tuple[Tensor, Tensor] = batch.shared["features"]
        return found

    def identity(self, batch: Batch) -> Tensor:
        """CosFace loss of the embedding."""
        embeddings = self.network.embedding_of(self._described(batch)[0])
        people = batch.labels[:, 0].long()
        return cosine_margin_loss(
            embeddings, self.heads.centres, people, self.recipe.scale, self.recipe.margin
        )

    def parameters(self, batch: Batch) -> Tensor:
        """Mean squared error of the renderer's parameters, read off the features."""
        return F.mse_loss(self.heads.shown(self._described(batch)[0]), batch.labels[:, 1:])

    def degradation(self, batch: Batch) -> Tensor:
        """Mean squared error of the strengths of what was done, in standard deviations of a strength."""
        features, strengths = self._described(batch)
        share = self.recipe.degraded_share
        variance = max(share / 3 - (share / 2) ** 2, 1e-6)
        return F.mse_loss(self.heads.worse(features), strengths) / variance


def build(recipe: RecognitionRecipe, data: TrainingSet) -> RecognitionRun:
    """Network, heads and trainer for data of `described_faces`.

    Raises ValueRangeError for data without identities or of another size than the network's.
    """
    if not data.label_names or data.label_names[0] != IDENTITY:
        raise ValueRangeError("the recipe needs data of described_faces: their first label is the identity.")
    size = recipe.network.resolution
    if data.size != (size, size):
        raise ValueRangeError(
            f"the network sees {size}x{size}; the data are {data.size[0]}x{data.size[1]}. "
            "Render them at the network's resolution."
        )
    people = int(data.labels[:, 0].max().item()) + 1
    state = torch.get_rng_state()
    torch.manual_seed(recipe.seed)
    network = FaceRecognition(recipe.network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    heads = TrainingHeads(recipe.network, people, data.labels.shape[1] - 1)
    torch.set_rng_state(state)
    parameters = [*network.parameters(), *heads.parameters()]
    losses = _Losses(recipe, network, heads)
    terms = [
        LossTerm("identity", losses.identity, recipe.identity_weight),
        LossTerm("parameters", losses.parameters, recipe.parameter_weight),
        LossTerm("degradation", losses.degradation, recipe.degradation_weight),
    ]
    optimizer = torch.optim.AdamW(
        parameters, lr=recipe.lr, weight_decay=recipe.weight_decay, betas=(0.9, 0.98), fused=True
    )
    phase = Phase("recognition", parameters, terms, optimizer)
    feed = Feed(data, recipe.batch, seed=recipe.seed)
    trainer = Trainer([phase], {"network": network, "heads": heads}, feed, seed=recipe.seed)
    return RecognitionRun(trainer, network, heads, int(recipe.epochs * len(data)))


def train(run: RecognitionRun, recipe: RecognitionRecipe) -> Iterator[dict[str, float]]:
    """Train to the end, yielding the losses of every step; the network is left in evaluation mode.

    The learning rate follows from the number of the step, so a run whose trainer got its state back goes on
    as if it had not been interrupted.
    """
    trainer = run.trainer
    steps = max(run.images // recipe.batch, 1)
    warm = max(steps // 10, 1)
    run.network.train()
    while trainer.step_number < steps:
        rise = min((trainer.step_number + 1) / warm, 1.0)
        fall = 0.5 * (1.0 + math.cos(math.pi * trainer.step_number / steps))
        for group in trainer.phases[0].optimizer.param_groups:
            group["lr"] = recipe.lr * rise * fall
        yield trainer.step()
    run.network.eval()
