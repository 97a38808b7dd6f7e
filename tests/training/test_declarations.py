"""One trainer for every model: four systems declared over public pieces learn, and resume to the bit."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

from pyface.training import Feed, LossTerm, Phase, Trainer, TrainingSet
from pyface.training.adversary import Adversary, lazy_phases
from pyface.training.losses import cross_entropy, cycle, identity, l1, perceptual
from pyface.training.phases import adam
from pyface.training.recipes.stylegan2 import StyleGAN2Recipe, build

SIZE = 8


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _coloured(count=64):
    """Faces of a sort: noise around dark (label 0) or bright (label 1), with a shape of their own."""
    rng = torch.Generator().manual_seed(0)
    bright = torch.arange(count) % 2
    shape = torch.rand(count, 3, SIZE, SIZE, generator=rng) * 80
    pixels = (shape + torch.where(bright == 1, 160, 20)[:, None, None, None]).to(torch.uint8)
    return TrainingSet.from_arrays(pixels, torch.eye(2)[bright], ("dark", "bright"))


class Translator(nn.Module):
    """Images in the look of a label."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(5, 16, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(16, 3, 3, padding=1)
        )

    def forward(self, images, labels):
        maps = labels[:, :, None, None].expand(-1, -1, SIZE, SIZE)
        return torch.tanh(self.layers(torch.cat([images, maps], 1)))


class TwoHeads(nn.Module):
    """A critic that also says which label an image shows."""

    def __init__(self, width=24):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, width, 4, 2, 1),
            nn.LeakyReLU(0.2),
        )
        self.source, self.label = nn.Conv2d(width, 1, 1), nn.Linear(width * 4, 2)

    def forward(self, images):
        features = self.body(images)
        return self.source(features), self.label(features.flatten(1))


def star_gan():
    """Choi et al. 2018: WGAN-GP, classification of real and translated images, cycle."""
    torch.manual_seed(1)
    G, D = Translator(), TwoHeads()

    def translated(batch):
        if "translated" not in batch.shared:
            wanted = batch.label_of(batch.draws)
            batch.shared["translated"] = G(batch.real, wanted), wanted
        return batch.shared["translated"]

    adversary = Adversary(
        lambda images, labels, batch: D(images)[0],
        translated,
        lambda batch: (batch.real, batch.labels),
        "wasserstein",
    )
    shows = LossTerm("shows", lambda batch: cross_entropy(D(translated(batch)[0])[1], translated(batch)[1]))
    reads = LossTerm("reads", lambda batch: cross_entropy(D(batch.real)[1], batch.labels))
    back = LossTerm("cycle", lambda batch: cycle(batch.real, G(translated(batch)[0], batch.labels)), 10.0)
    critic = [*adversary.discriminator_terms(), reads]
    both = {"lr": 2e-3, "betas": (0.5, 0.99)}
    maker = [*adversary.generator_terms(), shows, back]
    phases = lazy_phases(
        "critic", list(D.parameters()), critic, adversary.penalties(gradient=(1, 10.0)), **both
    )
    phases += lazy_phases("generator", list(G.parameters()), maker, **both)
    return Trainer(phases, {"G": G, "D": D}, Feed(_coloured(), 16))


def autoencoder():
    """L1, perceptual and identity loss between pictures and what comes back through a bottleneck."""
    torch.manual_seed(2)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(16, 8, 4, 2, 1), nn.LeakyReLU(0.2),
        nn.ConvTranspose2d(8, 16, 4, 2, 1), nn.LeakyReLU(0.2), nn.ConvTranspose2d(16, 3, 4, 2, 1),
    )  # fmt: skip
    eyes = nn.Conv2d(3, 8, 3, padding=1).requires_grad_(False)
    embed = nn.Linear(3 * SIZE * SIZE, 16).requires_grad_(False)
    layers = [eyes, lambda images: torch.relu(eyes(images))]

    def made(batch):
        return batch.shared.setdefault("made", net(batch.real))

    terms = [
        LossTerm("l1", lambda batch: l1(made(batch), batch.real)),
        LossTerm("perceptual", lambda batch: perceptual(layers, made(batch), batch.real)),
        LossTerm("identity", lambda batch: identity(lambda x: embed(x.flatten(1)), made(batch), batch.real)),
    ]
    parameters = list(net.parameters())
    phase = Phase("autoencoder", parameters, terms, adam(parameters, 4e-3, (0.9, 0.99)))
    return Trainer([phase], {"net": net}, Feed(_coloured(), 16))


def r3gan():
    """Huang et al. 2024: relativistic pairing with R1 and R2 at every step."""
    torch.manual_seed(3)
    G = nn.Sequential(
        nn.Linear(8, 64), nn.LeakyReLU(0.2), nn.Linear(64, 3 * SIZE * SIZE), nn.Unflatten(1, (3, SIZE, SIZE))
    )
    D = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1))

    def generated(batch):
        if "generated" not in batch.shared:
            batch.shared["generated"] = G(batch.draws.normal(8))
        return batch.shared["generated"], batch.labels

    adversary = Adversary(
        lambda images, labels, batch: D(images),
        generated,
        lambda batch: (batch.real, batch.labels),
        "relativistic",
    )
    penalties = adversary.penalties(r1=(1, 0.2), r2=(1, 0.2))
    both = {"lr": 1e-3, "betas": (0.0, 0.9)}
    phases = lazy_phases("generator", list(G.parameters()), adversary.generator_terms(), **both)
    phases += lazy_phases(
        "discriminator", list(D.parameters()), adversary.discriminator_terms(), penalties, **both
    )
    return Trainer(phases, {"G": G, "D": D}, Feed(_coloured(), 32))


def two_discriminators(second="half", rounds=1, **changes):
    """StyleGAN2 with a second discriminator, as the recipe has it."""
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(150, 250, (16, 3, 16, 16), generator=rng).to(torch.uint8)
    recipe = StyleGAN2Recipe(
        resolution=16, batch=8, channel_base=128, channel_max=8, z_dim=8, w_dim=8, mapping_layers=2,
        ema_kimg=0.05, second_discriminator=second, r1_interval=4, path_length_interval=0, lr_generator=0.02,
        lr_discriminator=0.01, gamma=0.1, **changes,
    )  # fmt: skip
    return build(recipe, TrainingSet.from_arrays(pixels), rounds=rounds).trainer


DECLARATIONS = {
    "star gan": star_gan,
    "autoencoder": autoencoder,
    "r3gan": r3gan,
    "half": two_discriminators,
    "patch": lambda: two_discriminators("patch"),
    "hinge": lambda: two_discriminators("none", loss="hinge"),
    "wasserstein": lambda: two_discriminators("none", loss="wasserstein", gradient_penalty_interval=2),
    "relativistic": lambda: two_discriminators("patch", loss="relativistic", r2_interval=4),
}


def _state(trainer):
    return {
        f"{name}.{key}": tensor.clone()
        for name, module in trainer.modules.items()
        for key, tensor in module.state_dict().items()
    }


@pytest.mark.parametrize("name", DECLARATIONS)
def test_resume_is_exact(name):
    whole = DECLARATIONS[name]()
    for _ in range(3):
        whole.step()
    file = io.BytesIO()
    torch.save(whole.state_dict(), file)
    file.seek(0)
    resumed = DECLARATIONS[name]()
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(3):
        assert whole.step() == resumed.step()
    ours, theirs = _state(whole), _state(resumed)
    for key, tensor in ours.items():
        assert torch.equal(tensor, theirs[key]), key


@pytest.mark.parametrize(
    "changes",
    [
        {"second": "patch", "loss": "relativistic", "r2_interval": 2},
        {"second": "none", "loss": "wasserstein"},
    ],
)
def test_micro_batches_give_the_gradients_of_the_batch(changes):
    runs = [two_discriminators(rounds=rounds, **changes) for rounds in (1, 2)]
    for trainer in runs:
        for module in trainer.modules.values():
            module.double()
        _train(trainer, 3)
    ours, theirs = (_state(trainer) for trainer in runs)
    for key, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[key], rtol=1e-8, atol=1e-11, msg=key)


def _train(trainer, steps):
    return [trainer.step() for _ in range(steps)]


def test_a_translation_flips_the_attribute():
    trainer = star_gan()
    _train(trainer, 250)
    data = _coloured()
    images = data.images["vis"].float() / 127.5 - 1
    with torch.no_grad():
        there = trainer.modules["G"](images, 1 - data.labels)
        back = trainer.modules["G"](there, data.labels)
    dark, bright = data.labels.bool().unbind(1)
    real = images[dark].mean(), images[bright].mean()
    assert there[bright].mean() < (real[0] + sum(real) / 2) / 2, (real, there[bright].mean())
    assert there[dark].mean() > (real[1] + sum(real) / 2) / 2, (real, there[dark].mean())
    assert l1(back, images) < 0.2


def test_an_autoencoder_learns():
    losses = _train(autoencoder(), 150)
    assert losses[0]["l1"] > 0.3
    assert losses[-1]["l1"] < 0.2, losses[-1]
    assert losses[-1]["identity"] < 0.1 * losses[0]["identity"] + 0.02
    assert losses[-1]["perceptual"] < 0.2 * losses[0]["perceptual"]


def test_relativistic_pairing_with_r1_and_r2_finds_both_modes():
    trainer = r3gan()
    _train(trainer, 400)
    with torch.no_grad():
        made = trainer.modules["G"](torch.randn(256, 8, generator=torch.Generator().manual_seed(9)))
    level = made.mean((1, 2, 3))
    images = _coloured().images["vis"].float() / 127.5 - 1
    low, high = images[0::2].mean().item(), images[1::2].mean().item()
    middle = (low + high) / 2
    assert 0.15 < (level > middle).float().mean() < 0.85
    assert abs(level[level > middle].mean() - high) < 0.2
    assert abs(level[level <= middle].mean() - low) < 0.2


@pytest.mark.parametrize("name", ["half", "patch", "hinge", "wasserstein", "relativistic"])
def test_relatives_of_stylegan2_learn_the_level(name):
    trainer = DECLARATIONS[name]()
    losses = _train(trainer, 60)
    terms = set().union(*losses)
    if name in ("half", "patch"):
        assert {"adversarial_2", "fake_2", "real_2", "r1_2"} <= terms
    if name == "wasserstein":
        assert {"gradient_penalty", "fake", "real"} <= terms
    if name == "relativistic":
        assert {"pair", "pair_2", "r1", "r2", "r2_2"} <= terms
        assert "fake" not in terms
    torch.manual_seed(0)
    with torch.no_grad():
        made = trainer.modules["G_ema"](torch.randn(32, 8))
    assert abs(made.mean() - 0.57) < 0.25, made.mean()  # the mean of the training images
