"""The network of action units, trained on rendered faces as the detector and the face mesh find them."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pyface.data import ACTION_UNITS, face_parameters_for
from pyface.errors import DataError, ValueRangeError
from pyface.faces.action_units import expression_picture, presence
from pyface.faces.expression_geometry import GEOMETRY, NUM_EVEN, expression_geometry
from pyface.faces.protocols import Detector, Landmarker
from pyface.io.rng import Domain, uniforms
from pyface.models import ActionUnitConfig, ActionUnitNetwork
from pyface.ops.face_render import face_parameters, face_render
from pyface.training.degradations import DEGRADATIONS, WARP_GRID, degraded
from pyface.training.feed import Feed, TrainingSet
from pyface.training.loop import Trainer
from pyface.training.phases import Batch, LossTerm, Phase, as_spectra

__all__ = [
    "MARGIN",
    "UNITS",
    "ActionUnitLosses",
    "ActionUnitRecipe",
    "ActionUnitRun",
    "FaceSource",
    "ObservedFaces",
    "build",
    "centre_presence",
    "independent_units",
    "observed_faces",
    "train",
]

UNITS = tuple(f"AU{unit}" for unit in ACTION_UNITS)
MARGIN = 8  # pixels around the aligned picture, which training moves about

_SHOWN_SHARE = 0.3  # of independent units: how often each is drawn over its whole range
_JPEG_SHARE, _JPEG_QUALITY = 0.4, (35, 95)
_CHUNK = 64

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Bar = Callable[[Any], Any]


@dataclass(frozen=True)
class ActionUnitRecipe:
    """How the network is trained.

    Args:
        epochs: how often every picture is seen before the network is refined.
        batch: pictures in a step.
        lr: highest learning rate of AdamW, reached after a tenth of the steps; it falls to 0 as a cosine.
        weight_decay: of AdamW.
        presence_weight: of the loss of who is present, beside that of the intensity.
        missed_weight: how much worse a missed unit is than one seen where there is none, in that loss.
        presence_sharpness: by how much logits are multiplied about the threshold of presence in that loss.
        hidden_share: how often the pictures are hidden from the network, and how often the geometry.
        geometry_noise: standard deviation of what is added to the features, in theirs.
        degraded_share: share of pictures to which noise, blur and blocks are done, each on its own.
        degradation: largest strength of them, in [0, 1]; see `pyface.training.degradations`.
        light: standard deviation of the logarithm of contrast and gamma.
        moved: standard deviation of shift (share of the size), turn (radians) and scale (logarithm).
        precision: "float32" or "bfloat16", of the network while training; the result computes in float32.
        refine_epochs, refine_lr: then the learning rate starts again at `refine_lr` and falls to 0 once more,
            with half of `degradation`.
        refined_units, refined_weight: units whose losses count so many times while refining: those that
            applications ask for, of a unit the size of a pixel.
        seed: of the weights and of every draw.
        network: sizes of the network.
    """

    epochs: float = 14.0
    batch: int = 64
    lr: float = 0.002
    weight_decay: float = 0.02
    presence_weight: float = 1.0
    missed_weight: float = 1.5
    presence_sharpness: float = 2.0
    hidden_share: float = 0.1
    geometry_noise: float = 0.2
    degraded_share: float = 0.3
    degradation: float = 0.5
    light: float = 0.25
    moved: tuple[float, float, float] = (0.02, 0.04, 0.04)
    precision: str = "bfloat16"
    refine_epochs: float = 12.0
    refine_lr: float = 0.001
    refined_units: tuple[str, ...] = ("AU12", "AU25", "AU26")
    refined_weight: float = 4.0
    seed: int = 0
    network: ActionUnitConfig = field(
        default_factory=lambda: ActionUnitConfig(
            units=UNITS, geometry=GEOMETRY, odd_geometry=len(GEOMETRY) - NUM_EVEN
        )
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "moved", tuple(self.moved))
        object.__setattr__(self, "refined_units", tuple(self.refined_units))
        if self.precision not in ("float32", "bfloat16"):
            raise ValueRangeError(f"precision must be float32 or bfloat16; got {self.precision!r}.")
        if self.epochs <= 0 or not 0 <= self.degraded_share <= 1 or not 0 <= self.hidden_share <= 0.5:
            raise ValueRangeError(
                "epochs must be above 0, degraded_share in [0, 1] and hidden_share in [0, 0.5]; "
                f"got {self.epochs}, {self.degraded_share} and {self.hidden_share}."
            )

    def plain(self) -> dict[str, Any]:
        """Every field as a JSON value."""
        return {
            **asdict(self),
            "moved": list(self.moved),
            "refined_units": list(self.refined_units),
            "network": self.network.to_dict(),
        }


@dataclass(frozen=True)
class FaceSource:
    """Which faces are rendered.

    identities, samples, size, seed: as for `pyface.data.ProceduralFaces`. independent: units are drawn each
    on its own (see `independent_units`) instead of as parts of an emotion. compressed: a share of the
    pictures goes through JPEG before anything looks at them.
    """

    identities: int
    samples: int
    size: int
    seed: int
    independent: bool = False
    compressed: bool = False

    def __str__(self) -> str:
        units = ", units independent" if self.independent else ""
        jpeg = ", JPEG" if self.compressed else ""
        return f"procedural:{self.identities}x{self.samples}@{self.size}, seed {self.seed}{units}{jpeg}"


@dataclass(frozen=True)
class ObservedFaces:
    """Rendered faces as the detector and the mesh found them.

    Attributes:
        pictures: uint8 [N, 1, S, S], aligned and grey, MARGIN pixels wider on every side than the network's.
        meshes: float32 [N, 468, 3], in pixels of the rendered picture.
        units: what was drawn, float32 [N, len(UNITS)] in [0, 1].
        identities: int64 [N], different in every source.
        missed: pictures in which no face was found; they are left out.
    """

    pictures: Pixels
    meshes: Floats
    units: Floats
    identities: npt.NDArray[np.int64]
    missed: int

    def __len__(self) -> int:
        return len(self.units)

    @property
    def geometry(self) -> Floats:
        """Features of the meshes: float32 [N, len(GEOMETRY)]."""
        return expression_geometry(self.meshes)

    @classmethod
    def joined(cls, parts: Sequence[ObservedFaces]) -> ObservedFaces:
        """Several as one; people of different parts are different people."""
        people, start = [], 0
        for part in parts:
            people.append(part.identities + start)
            start += int(part.identities.max(initial=-1)) + 1
        return cls(
            np.concatenate([part.pictures for part in parts]),
            np.concatenate([part.meshes for part in parts]),
            np.concatenate([part.units for part in parts]),
            np.concatenate(people),
            sum(part.missed for part in parts),
        )

    def training_set(self, source: str) -> TrainingSet:
        """Pictures, with units and geometry as their labels."""
        labels = torch.from_numpy(np.concatenate([self.units, self.geometry], 1))
        return TrainingSet.from_arrays(torch.from_numpy(self.pictures), labels, (*UNITS, *GEOMETRY), source)


def independent_units(
    seed: int, identities: npt.ArrayLike, samples: npt.ArrayLike
) -> npt.NDArray[np.float32]:
    """Intensities float32 [N, len(UNITS)] in which no unit tells of another, but for what excludes itself.

    Three in ten times a unit is drawn uniformly from 0 to 1, two in ten from 0 to 0.2, else it is 0. A
    dropped jaw (AU26) parts the lips (AU25); closed eyes (AU43, one in ten) raise no lid (AU5); a pulled
    corner of the lips (AU12) is not depressed (AU15). A network that learns emotions only would read AU6 off
    every smile.
    """
    who, which = (np.atleast_1d(np.asarray(a, np.int64)) for a in (identities, samples))
    count = len(UNITS)
    # sample numbers beyond those of a dataset, so that the draws are not those of its pictures
    drawn = uniforms(seed, Domain.SAMPLE, who, which + 2**31, 2 * count)
    chance, amount = drawn[:, :count], drawn[:, count:]
    units = np.where(chance < _SHOWN_SHARE, amount, np.where(chance < 0.5, 0.2 * amount, 0.0))
    at = {unit: column for column, unit in enumerate(ACTION_UNITS)}
    units[:, at[43]] = np.where(chance[:, at[43]] < 0.1, amount[:, at[43]], 0.1 * amount[:, at[43]])
    units[:, at[5]] *= units[:, at[43]] < 0.2
    units[:, at[15]] *= units[:, at[12]] < 0.3
    jaw, lips = units[:, at[26]], units[:, at[25]]
    units[:, at[25]] = np.where(jaw > 0.1, np.maximum(jaw, lips), lips)
    return units.astype(np.float32)


def drawn_parameters(source: FaceSource) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Renderer parameters [N, P] of a source, and who each picture shows [N]."""
    people, pictures = np.divmod(np.arange(source.identities * source.samples), source.samples)
    parameters = face_parameters_for(source.seed, people, pictures)
    if source.independent:
        names = [p.name for p in face_parameters()]
        columns = [names.index(f"au{unit}") for unit in ACTION_UNITS]
        parameters[:, columns] = independent_units(source.seed, people, pictures)
    return parameters, people


def observed_faces(
    source: FaceSource,
    detector: Detector,
    landmarker: Landmarker,
    config: ActionUnitConfig,
    progress: Bar | None = None,
) -> ObservedFaces:
    """Faces rendered, found by `detector`, measured by `landmarker` and cut out, as in use.

    progress: wraps the iterable of chunks, like tqdm.

    Raises DataError when no face was found.
    """
    parameters, people = drawn_parameters(source)
    names = [p.name for p in face_parameters()]
    units = parameters[:, [names.index(f"au{unit}") for unit in ACTION_UNITS]]
    pictures: list[Pixels] = []
    meshes: list[Floats] = []
    found: list[int] = []
    starts: Any = range(0, len(parameters), _CHUNK)
    for start in progress(starts) if progress else starts:
        some = range(start, min(start + _CHUNK, len(parameters)))
        rendered = face_render(torch.from_numpy(parameters[some.start : some.stop]), source.size, ("vis",))
        photos = _photographs(source, rendered["vis"].numpy(), people[some.start : some.stop], some)
        best = [faces[0] if faces else None for faces in detector.detect(photos)]
        kept = [(photo, face, i) for photo, face, i in zip(photos, best, some, strict=True) if face]
        points = landmarker.landmarks([k[0] for k in kept], [k[1] for k in kept])
        for (photo, _, i), mesh in zip(kept, points, strict=True):
            crop = expression_picture(photo, mesh, config.size, config.eye_distance, MARGIN)
            pictures.append(crop[None])
            meshes.append(mesh)
            found.append(i)
    if not found:
        raise DataError(f"no face was found in {source}. Check the detector.")
    return ObservedFaces(
        np.stack(pictures),
        np.stack(meshes),
        np.ascontiguousarray(units[found]),
        people[found].astype(np.int64),
        len(parameters) - len(found),
    )


def _photographs(
    source: FaceSource, renders: Pixels, people: npt.NDArray[np.int64], numbers: Sequence[int]
) -> list[Pixels]:
    """The renders, some of them as JPEG at a drawn quality leaves them."""
    if not source.compressed:
        return list(renders)
    chance, quality = uniforms(source.seed, Domain.SAMPLE, people, np.asarray(numbers) + 3 * 2**30, 2).T
    low, high = _JPEG_QUALITY
    photos = []
    for image, often, share in zip(renders, chance, quality, strict=True):
        if often < _JPEG_SHARE:
            file = io.BytesIO()
            Image.fromarray(image).save(file, "JPEG", quality=int(low + share * (high - low)))
            image = np.asarray(Image.open(file))
        photos.append(image)
    return photos


class ActionUnitLosses:
    """Both losses of one batch; the first asked for makes the logits that the other shares."""

    def __init__(self, recipe: ActionUnitRecipe, network: ActionUnitNetwork) -> None:
        self.recipe = recipe
        self.network = network
        self.thresholds = torch.tensor([presence(unit) for unit in recipe.network.units])
        self.refining = False

    @property
    def _weights(self) -> Tensor:
        """How much each unit counts, with mean 1."""
        units = self.recipe.network.units
        often = [self.recipe.refined_weight if u in self.recipe.refined_units else 1.0 for u in units]
        weights = torch.tensor(often if self.refining else [1.0] * len(units))
        return weights / weights.mean()

    def _logits(self, batch: Batch) -> Tensor:
        if "logits" not in batch.shared:
            recipe, config, draws = self.recipe, self.recipe.network, batch.draws
            mirrored = draws.uniform(1) < 0.5
            pictures = altered(
                as_spectra(batch.real)["vis"],
                batch,
                recipe,
                recipe.degradation * (0.5 if self.refining else 1.0),
            )
            pictures = torch.where(mirrored[:, :, None, None], pictures.flip(3), pictures)
            geometry = batch.labels[:, len(config.units) :]
            signs = torch.ones_like(geometry)
            even = geometry.shape[1] - config.odd_geometry
            signs[:, even:] = torch.where(mirrored, -1.0, 1.0)
            noise = draws.normal(geometry.shape[1]) * self.network.geometry_spread
            chance = draws.uniform(1)
            shown = torch.cat([chance >= recipe.hidden_share, chance < 1 - recipe.hidden_share], 1).float()
            with torch.autocast(pictures.device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
                logits = self.network(pictures, geometry * signs + recipe.geometry_noise * noise, shown)
            batch.shared["logits"] = logits
        found: Tensor = batch.shared["logits"]
        return found

    def intensity(self, batch: Batch) -> Tensor:
        """Cross-entropy of the intensities, less the entropy that nothing could take away."""
        wanted = batch.labels[:, : len(self.recipe.network.units)]
        p = wanted.clamp(1e-4, 1 - 1e-4)
        weights = self._weights.to(p.device)
        entropy = -(weights * (p * p.log() + (1 - p) * (1 - p).log())).mean()
        return F.binary_cross_entropy_with_logits(self._logits(batch), wanted, weights) - entropy

    def presence(self, batch: Batch) -> Tensor:
        """Cross-entropy of being on the right side of the threshold of presence."""
        wanted = batch.labels[:, : len(self.recipe.network.units)]
        thresholds = self.thresholds.to(wanted.device)
        over = (self._logits(batch) - thresholds.logit()) * self.recipe.presence_sharpness
        worse = torch.full_like(thresholds, self.recipe.missed_weight)
        present = (wanted >= thresholds).float()
        weights = self._weights.to(wanted.device)
        return F.binary_cross_entropy_with_logits(over, present, weights, pos_weight=worse)


def altered(pictures: Tensor, batch: Batch, recipe: ActionUnitRecipe, degradation: float) -> Tensor:
    """The inner part of pictures [N, 1, S + 2 MARGIN, ...], moved, in another light, and degraded."""
    draws, size = batch.draws, recipe.network.size
    count = pictures.shape[0]
    shift, turn, scale = recipe.moved
    numbers = draws.normal(6)
    angle, factor = turn * numbers[:, 0], torch.exp(scale * numbers[:, 1]) * size / pictures.shape[3]
    cosine, sine = factor * angle.cos(), factor * angle.sin()
    moves = 2 * shift * numbers[:, 2:4]
    rows = [torch.stack([cosine, -sine, moves[:, 0]], 1), torch.stack([sine, cosine, moves[:, 1]], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), [count, 1, size, size], align_corners=False)
    x = F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
    gamma, contrast = (
        torch.exp(recipe.light * numbers[:, 4:6]).clamp(0.4, 2.5).view(count, 2, 1, 1, 1).unbind(1)
    )
    x = ((x + 1) / 2).clamp(1e-3, 1.0) ** gamma * 2 - 1
    x = x * contrast
    chance, amount = draws.uniform(2, len(DEGRADATIONS)).unbind(1)
    strengths = torch.where(chance < recipe.degraded_share, degradation * amount, 0.0)
    strengths[:, DEGRADATIONS.index("warp")] = 0.0  # it would bend the expression
    bends = torch.zeros(count, 2, WARP_GRID, WARP_GRID, device=x.device)
    return degraded(x, strengths, draws.noise(x.shape), bends).clamp(-1.0, 1.0)


@dataclass
class ActionUnitRun:
    """A trainer and the network that it trains, for so many images, and then so many to refine it."""

    trainer: Trainer
    network: ActionUnitNetwork
    losses: ActionUnitLosses
    images: int
    refine_images: int


def build(recipe: ActionUnitRecipe, data: TrainingSet) -> ActionUnitRun:
    """Network and trainer for data of `ObservedFaces.training_set`.

    Raises ValueRangeError for data with other labels, or pictures of another size than the network's.
    """
    config = recipe.network
    if data.label_names != (*config.units, *config.geometry):
        raise ValueRangeError(
            "the recipe needs data of ObservedFaces.training_set: labels are the network's units, then its "
            f"geometry; got {', '.join(data.label_names[:4]) or 'none'} ..."
        )
    side = config.size + 2 * MARGIN
    if data.size != (side, side):
        raise ValueRangeError(
            f"pictures must be {side}x{side} (the network's {config.size} and {MARGIN} on every side); got "
            f"{data.size[0]}x{data.size[1]}."
        )
    state = torch.get_rng_state()
    torch.manual_seed(recipe.seed)
    network = ActionUnitNetwork(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    torch.set_rng_state(state)
    geometry = data.labels[:, len(config.units) :].double()
    even = torch.arange(geometry.shape[1]) < geometry.shape[1] - config.odd_geometry
    # mirrored pictures are seen as often, so what changes its sign has mean 0
    mean = torch.where(even, geometry.mean(0), 0.0)
    network.geometry_mean.copy_(mean)
    network.geometry_spread.copy_((geometry - mean).square().mean(0).sqrt().clamp_min(1e-4))
    parameters = list(network.parameters())
    losses = ActionUnitLosses(recipe, network)
    terms = [
        LossTerm("intensity", losses.intensity),
        LossTerm("presence", losses.presence, recipe.presence_weight),
    ]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    phase = Phase("action units", parameters, terms, optimizer)
    feed = Feed(data, recipe.batch, seed=recipe.seed)
    trainer = Trainer([phase], {"network": network}, feed, seed=recipe.seed)
    images, more = int(recipe.epochs * len(data)), int(recipe.refine_epochs * len(data))
    return ActionUnitRun(trainer, network, losses, images, more)


def train(run: ActionUnitRun, recipe: ActionUnitRecipe) -> Iterator[dict[str, float]]:
    """Train to the end, yielding the losses of every step; the network is left in evaluation mode.

    The learning rate follows from the number of the step, so a run whose trainer got its state back goes on
    as if it had not been interrupted.
    """
    trainer = run.trainer
    first = max(run.images // recipe.batch, 1)
    more = run.refine_images // recipe.batch
    run.network.train()
    while trainer.step_number < first + more:
        run.losses.refining = trainer.step_number >= first
        done, steps, lr = (
            (trainer.step_number - first, more, recipe.refine_lr)
            if run.losses.refining
            else (trainer.step_number, first, recipe.lr)
        )
        rise = min((done + 1) / max(steps // 10, 1), 1.0)
        fall = 0.5 * (1.0 + math.cos(math.pi * done / steps))
        for group in trainer.phases[0].optimizer.param_groups:
            group["lr"] = lr * rise * fall
        yield trainer.step()
    run.network.eval()


_SHIFTS = np.linspace(-0.6, 0.6, 49)  # of logits


@torch.inference_mode()
def centre_presence(network: ActionUnitNetwork, faces: ObservedFaces) -> dict[str, float]:
    """Shift every output so that F1 of presence is best where it is asked for; gives the shifts in logits.

    A regression draws readings towards the mean, so that a threshold on them misses more than it calls in
    vain. `faces` are those that were learnt from; nothing else about them is fitted.
    """
    inner = faces.pictures[:, :, MARGIN:-MARGIN, MARGIN:-MARGIN]
    pictures = torch.from_numpy(np.ascontiguousarray(inner)).float() / 127.5 - 1.0
    parts = zip(pictures.split(256), torch.from_numpy(faces.geometry).split(256), strict=True)
    logits = torch.cat([network(*part) for part in parts]).double().numpy()
    bias = network.head.get_parameter(f"{len(network.head) - 1}.bias")
    shifts = {}
    for column, unit in enumerate(network.config.units):
        threshold = presence(unit)
        present = faces.units[:, column] >= threshold
        called = logits[:, column, None] + _SHIFTS >= math.log(threshold / (1.0 - threshold))
        right = (called & present[:, None]).sum(0)
        f1 = 2.0 * right / np.maximum(called.sum(0) + present.sum(), 1)
        f1 = np.convolve(np.pad(f1, 2, mode="edge"), np.full(5, 0.2), "valid")  # no single lucky shift
        best = np.flatnonzero(f1 >= f1.max() - 1e-12)
        shifts[unit] = float(_SHIFTS[best[np.abs(_SHIFTS[best]).argmin()]])
        bias[column] += shifts[unit]
    return shifts
