"""IResNet: recognised by its shapes, equal to its formula, and what is said of other files."""

from __future__ import annotations

import pickle

import pytest
import torch
import torch.nn.functional as F

from pyface.errors import CheckpointError, DTypeError, ShapeError, ValueRangeError
from pyface.models import ARCHITECTURES, IResNet, IResNetConfig
from pyface.models.iresnet import DEPTHS, load_iresnet

SMALL = {"blocks": (2, 1, 3, 1), "channels": (4, 6, 8, 10), "size": 32, "embedding_dim": 12}


def make(**config):
    torch.manual_seed(0)
    network = IResNet(IResNetConfig(**(SMALL | config)))
    for module in network.modules():  # statistics as of a trained network
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.3)
        elif isinstance(module, torch.nn.PReLU):
            torch.nn.init.uniform_(module.weight, 0.1, 0.4)
    return network.eval()


def faces(n=2, size=32, seed=0):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def formula(state, x):
    """The network in the names of insightface's files, one line an operation."""

    def norm(x, name):
        keys = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"{name}.{key}"] for key in keys))

    x = F.prelu(norm(F.conv2d(x, state["conv1.weight"], padding=1), "bn1"), state["prelu.weight"])
    for stage, blocks in enumerate(SMALL["blocks"], start=1):
        for block in range(blocks):
            name, stride = f"layer{stage}.{block}", 2 if block == 0 else 1
            y = F.conv2d(norm(x, f"{name}.bn1"), state[f"{name}.conv1.weight"], padding=1)
            y = F.prelu(norm(y, f"{name}.bn2"), state[f"{name}.prelu.weight"])
            y = norm(F.conv2d(y, state[f"{name}.conv2.weight"], stride=stride, padding=1), f"{name}.bn3")
            if block == 0:
                x = norm(F.conv2d(x, state[f"{name}.downsample.0.weight"], stride=2), f"{name}.downsample.1")
            x = x + y
    x = norm(x, "bn2").flatten(1)
    return norm(F.linear(x, state["fc.weight"], state["fc.bias"]), "features")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"module." + name: value for name, value in state.items()},
        lambda state: {"model": {"module.backbone." + name: value for name, value in state.items()}},
        lambda state: {name: value.half() for name, value in state.items() if "tracked" not in name},
    ],
)
def test_a_state_dict_makes_the_network(tmp_path, wrap):
    network = make()
    state = {
        name: value.half().float() if value.is_floating_point() else value
        for name, value in network.state_dict().items()
    }
    torch.save(wrap(state), tmp_path / "a.pth")
    random_state = torch.get_rng_state()
    found = load_iresnet(tmp_path / "a.pth")
    assert torch.equal(torch.get_rng_state(), random_state)
    assert found.config == network.config
    assert (found.training, any(p.requires_grad for p in found.parameters())) == (False, False)
    torch.testing.assert_close(found(faces()), formula(state, faces()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("depth", DEPTHS)
def test_depths(depth):
    with torch.device("meta"):
        network = IResNet(IResNetConfig(DEPTHS[depth]))
    assert network.depth == str(depth)
    convolutions = [
        m for m in network.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)
    ]
    assert len(convolutions) + 1 == {18: 18, 34: 34, 50: 50, 100: 100, 200: 198}[depth]
    sizes = {18: 24.0, 34: 34.1, 50: 43.6, 100: 65.2}  # millions, as published with the networks
    if depth in sizes:
        assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(sizes[depth], abs=0.1)


def test_gradients_reach_the_images():
    network = make().double()
    images = faces(1).double().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: network(x).square().sum(), images, nondet_tol=0, fast_mode=True)


class _Evil:
    def __reduce__(self):
        return print, ("run",)


def test_what_is_said_of_other_files(tmp_path, capsys):
    path = tmp_path / "a.pth"
    state = dict(make().state_dict())

    def saved(thing):
        torch.save(thing, path)
        return path

    def without(*names):
        return {name: value for name, value in state.items() if name not in names}

    plain = tmp_path / "plain.pth"
    plain.write_bytes(pickle.dumps(_Evil()))
    damaged = tmp_path / "damaged.pth"
    damaged.write_bytes(saved(state).read_bytes()[:5000])
    huge = state | {f"layer{i}.0.conv2.weight": torch.zeros(0).reshape(300_000, 0, 3, 3) for i in (1, 2, 3)}
    cases = [
        (lambda: tmp_path / "none.pth", "there is no file"),
        (lambda: tmp_path, "cannot read|damaged"),
        (lambda: plain, "refused: it is a pickle that holds more than weights"),
        (lambda: saved({"state_dict": state, "optimizer": _Evil()}), "refused"),
        (lambda: damaged, "damaged"),
        (lambda: saved([1, 2]), "holds no state dict"),
        (lambda: saved({"weights": 3}), "holds no state dict"),
        (lambda: saved({"a.weight": torch.zeros(3)}), "is no IResNet"),
        (lambda: saved(state | {"layer1.0.conv2.weight": torch.tensor(1.0)}), "is no IResNet"),
        (
            lambda: saved(without("bn1.weight", "layer3.2.prelu.weight")),
            "bn1.weight is missing; layer3.2.prelu.weight is",
        ),
        (lambda: saved(state | {"head.weight": torch.zeros(3)}), "head.weight is left over"),
        (lambda: saved(state | {"bn2.bias": torch.zeros(3)}), r"bn2.bias is \[3\], needed is \[10\]"),
        (lambda: saved(without(*[n for n in state if n.startswith("layer2")])), "is no IResNet"),
        (lambda: saved(state | {"fc.weight": torch.zeros(12, 0)}), "make no network"),
        (lambda: saved(huge), "does not fit .*needed is .*and .* more"),
        (lambda: saved(state | {"conv1.weight": state["conv1.weight"].to_sparse()}), "no plain tensor"),
    ]
    for make_path, text in cases:
        target = make_path()
        with pytest.raises(CheckpointError, match=text):
            load_iresnet(target)
    assert "run" not in capsys.readouterr().out


def test_bad_calls_and_configurations():
    network = make()
    cases = [
        (lambda: network(faces()[0]), ShapeError, r"\[N, 3, 32, 32\]"),
        (lambda: network(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)), DTypeError, "uint8"),
        (lambda: IResNetConfig(blocks=(1, 2)), ValueRangeError, "four numbers"),
        (lambda: IResNetConfig(size=100), ValueRangeError, "multiple of 16"),
        (lambda: IResNetConfig(embedding_dim=0), ValueRangeError, "embedding_dim"),
    ]
    for call, error, text in cases:
        with pytest.raises(error, match=text):
            call()
    architecture = ARCHITECTURES["iresnet"]
    assert architecture.config.from_dict(network.config.to_dict()) == network.config
    assert make(blocks=(1, 1, 1, 2)).depth == "1-1-1-2"
