"""The synthesis on CUDA, run by the emulator, against the layers in float64; its plans and recordings."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from pyface.errors import ShapeError
from pyface.models import GeneratorConfig, StyleGAN2Generator
from pyface.models import _stylegan2_cuda as cuda
from pyface.models import _stylegan2_cuda_program as program
from pyface.models._graph_replay import Replayed
from pyface.models._stylegan2_engine_network import last_known
from pyface.ops import _native, convolution_choice

pytest.importorskip("pyface._emu", reason="built without PYFACE_EMU")

# Error relative to the standard deviation of the image: (largest, root mean square).
LIMITS = {"float32": (5e-5, 1e-5), "bfloat16": (0.15, 0.01), "float16": (0.02, 0.002)}


@pytest.fixture(autouse=True)
def emulator() -> Iterator[None]:
    with _native.use("emu", schedule=2):
        yield


def random_generator(resolution: object = 16, seed: int = 0, **settings: object) -> StyleGAN2Generator:
    """A generator whose noise and biases matter."""
    torch.manual_seed(seed)
    defaults = {"channel_base": 256, "channel_max": 16, "z_dim": 16, "w_dim": 16, "mapping_layers": 1}
    network = StyleGAN2Generator(GeneratorConfig(resolution, **{**defaults, **settings}))  # type: ignore[arg-type]
    for name, parameter in network.named_parameters():
        if name.endswith("noise_strength"):
            parameter.data.fill_(0.2)
        elif name.endswith("bias"):
            parameter.data.add_(torch.randn_like(parameter) * 0.2)
    return network.eval().requires_grad_(False)


@contextlib.contextmanager
def on_cpu_kernels() -> Iterator[None]:
    """Inside, the layers run on the CPU kernels: the emulator would take long for gradients."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_native, "_override", None)
        yield


def joined(image: Tensor | dict[str, Tensor]) -> Tensor:
    return image if isinstance(image, Tensor) else torch.cat(list(image.values()), dim=1)


def runs(network: StyleGAN2Generator, ws: Tensor, precision: str | None = "float32") -> bool:
    return cuda.cuda_dtypes(network.synthesis, ws, precision) is not None


def some_ws(network: StyleGAN2Generator, n: int = 2, seed: int = 1) -> Tensor:
    return torch.randn(n, network.num_ws, network.w_dim, generator=torch.Generator().manual_seed(seed))


def check(network: StyleGAN2Generator, ws: Tensor, precision: str = "float32", **options: object) -> None:
    """The image against that of the layers in float64."""
    options = options or {"noise_mode": "const"}
    assert runs(network, ws, precision)
    got = joined(network.synthesis(ws, precision=precision, **options))
    if "noise" in options:
        noise = options["noise"]
        assert isinstance(noise, dict)
        options = {**options, "noise": {name: values.double() for name, values in noise.items()}}
    wanted = joined(copy.deepcopy(network).double().synthesis(ws.double(), **options))
    assert got.shape == wanted.shape
    assert got.dtype == torch.float32
    error = (got - wanted) / wanted.std()
    largest, rms = LIMITS[precision]
    assert error.abs().max() <= largest
    assert error.square().mean().sqrt() <= rms


@pytest.mark.parametrize("precision", list(LIMITS))
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"resolution": (20, 16), "initial_size": (5, 4)},
        {"resolution": (6, 24), "initial_size": (3, 12)},
        {"channel_base": 80, "channel_max": 11},
        {"spectra": {"vis": 3, "nir": 1}},
        {"conv_clamp": 0.5},
        {"use_noise": False},
        {"resample_filter": (1, 2, 3, 4)},
        {"activation": "swish"},
    ],
    ids=str,
)
def test_error_against_float64(settings: dict[str, object], precision: str) -> None:
    network = random_generator(**settings)  # type: ignore[arg-type]
    check(network, some_ws(network), precision)


@pytest.mark.parametrize("precision", list(LIMITS))
def test_every_route(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images made inside convolutions and beside them, ours and torch's convolutions, in turns."""
    network = random_generator(16)
    ws = some_ws(network, 1)
    seen: list[program.Route] = []
    check(network, ws, precision)
    seen += program_of(network).routes
    assert precision == "float32" or any(route.fused for route in seen)
    assert any(not route.fused for route in seen if not route.styled)
    cuda.release(network.synthesis)

    def by_turns(
        capability: object, shape: convolution_choice.ConvShape, dtype: torch.dtype, with_image: bool = False
    ) -> str:
        taken.append("torch" if len(taken) % 3 else "pyface")
        return taken[-1]

    taken: list[str] = []
    monkeypatch.setattr(convolution_choice, "choose", by_turns)
    for first in range(3):
        taken = ["pyface"] * first
        check(network, ws, precision)
        assert {route.ours for route in program_of(network).routes} == {True, False}
        cuda.release(network.synthesis)


def program_of(network: StyleGAN2Generator) -> program.Program:
    """The program that ran last."""
    return list(cuda._states[last_known(network.synthesis)]._programs.values())[-1][0]


def test_a_measured_choice_counts_and_images_count_by_rule() -> None:
    shape = convolution_choice.ConvShape("conv", "", 1, 128, 128, 128, 128, 3, 1, False)
    assert convolution_choice.choose((9, 0), shape, torch.bfloat16) == "torch"
    assert convolution_choice.choose((9, 0), shape, torch.bfloat16, with_image=True) == "pyface"
    assert convolution_choice.choose((9, 0), shape, torch.float32, with_image=True) == "torch"


def test_blocks_of_16_bits() -> None:
    network = random_generator(16, num_16bit_res=1)
    ws = some_ws(network)
    dtypes = cuda.cuda_dtypes(network.synthesis, ws, None)
    assert dtypes == (torch.float32, torch.float32, torch.float16)
    got = network.synthesis(ws, noise_mode="const")
    wanted = network.synthesis(ws, noise_mode="const", precision="float32")
    assert not torch.equal(got, wanted)
    assert (got - wanted).square().mean().sqrt() <= LIMITS["float16"][1] * wanted.std()
    assert cuda.cuda_dtypes(random_generator(8, num_16bit_res=1).synthesis, ws, None) == (torch.float16,) * 2


@pytest.mark.parametrize("kind", ["shared", "own", "some"])
def test_given_noise(kind: str) -> None:
    network = random_generator()
    shapes = network.synthesis.noise_shapes()
    noise = {name: torch.randn(size if kind == "shared" else (2, 1, *size)) for name, size in shapes.items()}
    if kind == "some":
        noise.pop("b8.conv0")
        noise["b8.conv1"] = torch.randn(8, 8).t()
    check(network, some_ws(network), noise_mode="given", noise=noise)
    check(network, some_ws(network), noise_mode="none")


def test_random_noise_is_that_of_the_layers() -> None:
    network = random_generator()
    ws = some_ws(network)

    def image() -> Tensor:
        return joined(network.synthesis(ws, generator=torch.Generator().manual_seed(7)))

    fused = image()
    handle = network.synthesis.b8.register_forward_hook(lambda *_: None)  # the layers themselves run now
    assert not runs(network, ws)
    with on_cpu_kernels():
        layers = image()
    handle.remove()
    assert not torch.equal(fused, layers)
    torch.testing.assert_close(fused, layers, rtol=0, atol=1e-4 * float(layers.std()))
    assert not torch.equal(network.synthesis(ws), network.synthesis(ws))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_weights_follow_an_optimiser_step(precision: str, fused: bool) -> None:
    """Also a fused one, which leaves the versions of tensors as they are."""
    network = random_generator()
    ws = some_ws(network)
    before = network.synthesis(ws, noise_mode="const", precision=precision)
    network.requires_grad_(True)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1, fused=fused)
    with on_cpu_kernels():
        network.synthesis(ws, noise_mode="const").square().mean().backward()
    optimizer.step()
    network.requires_grad_(False)
    after = network.synthesis(ws, noise_mode="const", precision=precision)
    assert (after - before).abs().max() > 0.1 * before.std()
    check(network, ws, precision)
    network.load_state_dict(random_generator(seed=5).state_dict())
    check(network, ws, precision)
    network.synthesis.b16.conv1.weight.data.mul_(0.5)
    check(network, ws, precision)
    network.synthesis.b8.conv0.noise_strength.data.add_(1)
    check(network, ws, precision)
    network.synthesis.b4.conv1.noise_const.mul_(-1)
    check(network, ws, precision)
    twin = copy.deepcopy(network)
    twin.synthesis.b8.conv0.weight.mul_(-1)
    check(twin, ws, precision)
    check(network, ws, precision)


def test_notices_changes_of_the_layers() -> None:
    network = random_generator()
    ws = some_ws(network, 1)
    check(network, ws)
    block, other = network.synthesis.b8, random_generator(seed=9).synthesis.b8
    block.conv0 = other.conv0
    check(network, ws)
    block.heads["vis"] = other.heads["vis"]
    check(network, ws)
    block.conv1.weight = other.conv1.weight
    check(network, ws)
    block.conv1.affine.bias.data = other.conv1.affine.bias.data + 1
    check(network, ws)
    network.synthesis.b4.const = torch.nn.Parameter(-network.synthesis.b4.const, requires_grad=False)
    check(network, ws)


def test_leaves_to_the_layers_what_it_cannot_do() -> None:
    network = random_generator()
    ws = some_ws(network, 1)
    assert runs(network, ws)
    assert runs(network, ws, "bfloat16")
    assert not runs(network, ws.clone().requires_grad_())
    with torch.no_grad():
        assert runs(network, ws.clone().requires_grad_())
    assert not runs(network, ws[:0])
    assert not runs(copy.deepcopy(network).double(), ws.double())
    assert not runs(random_generator(architecture="resnet"), ws)
    assert not runs(random_generator(resample_filter=(1, 2, 1)), ws)
    assert not runs(random_generator(spectra={"many": 9}), ws)
    assert not runs(copy.deepcopy(network).requires_grad_(True), ws)
    assert not runs(copy.deepcopy(network).train(), ws)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not runs(network, ws)
    hooked = copy.deepcopy(network)
    hooked.synthesis.b8.conv0.register_forward_hook(lambda *_: None)
    assert not runs(hooked, ws)
    elsewhere = copy.deepcopy(network)
    elsewhere.synthesis.b8.conv0.backend = "cpu"
    assert not runs(elsewhere, ws)
    small = random_generator(8, channel_max=8)
    ws = some_ws(small, 1).requires_grad_()
    gradient = torch.autograd.grad(small.synthesis(ws, noise_mode="const").sum(), ws)[0]
    assert gradient.abs().max() > 0


def test_refuses_old_devices_in_16_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_generator()
    monkeypatch.setattr(_native._Emu, "capability", lambda *_: (7, 5))
    assert not runs(network, some_ws(network), "float16")
    assert runs(network, some_ws(network), "float32")
    check(network, some_ws(network))


def test_noise_of_a_wrong_size() -> None:
    network = random_generator()
    network.synthesis.b8.conv0.noise_const = torch.zeros(4, 4)
    with pytest.raises(ShapeError, match=r"noise of conv0 must be of size \(8, 8\); got \[4, 4\]"):
        network.synthesis(some_ws(network), noise_mode="const")


def test_images_outlive_later_calls_and_modes() -> None:
    network = random_generator()
    first, second = some_ws(network), some_ws(network, seed=2)
    with torch.inference_mode():
        kept = network.synthesis(first, noise_mode="const")
        values = kept.clone()
    network.synthesis(second, noise_mode="const")
    assert torch.equal(kept, values)
    with torch.no_grad():
        assert torch.equal(network.synthesis(first, noise_mode="const"), values)


def test_calls_from_several_threads_at_once() -> None:
    network = random_generator(8)
    ws = [some_ws(network, seed=seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(lambda w: network.synthesis(w, noise_mode="const"), ws))
    for w, image in zip(ws, images, strict=True):
        assert torch.equal(image, network.synthesis(w, noise_mode="const"))


class Recorder:
    """Stands for CUDA graphs: what it has recorded runs on the same tensors."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0
        self.error = ""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        if self.error:
            raise RuntimeError(self.error)
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            work()

        return replay


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    made = Recorder()
    monkeypatch.setattr(cuda, "_recorder", lambda device: made)
    return made


def test_records_at_the_second_call_and_replays_from_then(recorder: Recorder) -> None:
    network = random_generator(8)
    ws = [some_ws(network, seed=seed) for seed in range(4)]
    network.synthesis.cuda_graphs = False
    plain = [network.synthesis(w, noise_mode="const") for w in ws]
    assert recorder.recorded == 0
    network.synthesis.cuda_graphs = True
    for w, image in zip(ws, plain, strict=True):
        assert torch.equal(network.synthesis(w, noise_mode="const"), image)
    assert (recorder.recorded, recorder.replayed) == (1, 3)


def test_a_recording_follows_weights_and_noise(recorder: Recorder) -> None:
    network = random_generator(8)
    ws = some_ws(network)
    for _ in range(3):
        check(network, ws)
    recorded = recorder.recorded
    network.synthesis.b8.conv1.weight.mul_(-1)
    check(network, ws)
    network.synthesis.b8.conv0.weight.data.mul_(2)
    check(network, ws)
    assert recorder.recorded == recorded == 1
    for seed in range(3):
        made = [
            network.synthesis(ws, generator=torch.Generator().manual_seed(seed)),
            network.synthesis(ws, generator=torch.Generator().manual_seed(seed)),
        ]
        assert torch.equal(*made)
    assert recorder.recorded == 2


def test_each_kind_of_call_has_its_recording(recorder: Recorder) -> None:
    network = random_generator(8)
    kinds: list[tuple[int, str, str]] = [
        (1, "const", "float32"), (2, "const", "float32"), (1, "none", "float32"), (1, "const", "bfloat16"),
    ]  # fmt: skip
    for _ in range(2):
        for n, noise_mode, precision in kinds:
            network.synthesis(some_ws(network, n), noise_mode=noise_mode, precision=precision)
    assert recorder.recorded == len(kinds)
    state = cuda._states[last_known(network.synthesis)]
    assert len(state._programs) == len(kinds) == cuda._MOST_PROGRAMS
    network.synthesis(some_ws(network, 3), noise_mode="const")  # takes the place of the one used longest ago
    assert [key.n for key, _ in state._programs] == [2, 1, 1, 3]
    network.synthesis.release_memory()
    assert last_known(network.synthesis) not in cuda._states
    network.synthesis.release_memory()
    check(network, some_ws(network))


def test_keeps_no_program_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_generator(8)
    ws = some_ws(network)
    before = network.synthesis(ws, noise_mode="const")
    state = cuda._states[last_known(network.synthesis)]
    kept = program_of(network).bytes
    monkeypatch.setattr(state, "most_bytes", lambda: kept)
    network.synthesis(ws[:1], noise_mode="const")
    assert [key.n for key, _ in state._programs] == [1]
    assert torch.equal(network.synthesis(ws, noise_mode="const"), before)
    assert [key.n for key, _ in state._programs] == [2]
    monkeypatch.setattr(state, "most_bytes", lambda: kept - 1)
    assert network.synthesis(torch.cat([ws, ws]), noise_mode="const").shape[0] == 4
    assert not state._programs


def test_goes_on_without_a_recording(recorder: Recorder) -> None:
    network = random_generator(8)
    ws = some_ws(network)
    first = network.synthesis(ws, noise_mode="const")
    recorder.error = "operation not permitted when stream is capturing"
    with pytest.warns(RuntimeWarning, match="could not be recorded as a CUDA graph.*not permitted"):
        assert torch.equal(network.synthesis(ws, noise_mode="const"), first)
    assert torch.equal(network.synthesis(ws, noise_mode="const"), first)
    assert recorder.recorded == 0


def test_replayed_work() -> None:
    calls: list[int] = []
    recorder = Recorder()
    work = Replayed(lambda: calls.append(1), recorder)
    work()
    assert (len(calls), work.is_recorded) == (1, False)
    work()
    work()
    assert (len(calls), work.is_recorded, recorder.recorded, recorder.replayed) == (3, True, 1, 2)
    plain = Replayed(lambda: calls.append(1), None)
    plain()
    plain()
    assert (len(calls), plain.is_recorded) == (5, False)


def test_a_program_keeps_to_its_memory() -> None:
    """Two runs read and write the same addresses, and allocate nothing that stays."""
    network = random_generator()
    network.synthesis(some_ws(network), noise_mode="const")
    found = program_of(network)
    places = [found.image.data_ptr(), *(place.data_ptr() for place in found._places)]
    network.synthesis(some_ws(network, seed=4), noise_mode="const")
    assert program_of(network) is found
    assert places == [found.image.data_ptr(), *(place.data_ptr() for place in found._places)]


def test_networks_are_let_go() -> None:
    import gc
    import weakref

    network = random_generator(8)
    network.synthesis(some_ws(network), noise_mode="const")
    count = len(cuda._states)
    gone = weakref.ref(network.synthesis)
    del network
    gc.collect()
    assert gone() is None
    assert len(cuda._states) < count


# ---- on a GPU; tools/gpu_report.py runs the tests of these names


@pytest.fixture
def gpu() -> Iterator[str]:
    """The device, its convolutions by cuDNN in whole float32 and in the same order each time."""
    found = _native._load("cuda")
    if isinstance(found, str):
        pytest.skip(f"back-end cuda cannot run here: {found}")
    if (_native.capability() or (0, 0)) < (8, 0):
        pytest.skip("there are no kernels for 16 bits below compute capability 8.0")
    with torch.backends.cudnn.flags(torch.backends.cudnn.enabled, False, True, False):
        yield "cuda"


@pytest.mark.parametrize("precision", list(LIMITS))
@pytest.mark.parametrize("taken", ["by rule", "pyface", "torch"])
def test_on_the_gpu_error_against_float64(
    gpu: str, taken: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if taken != "by rule":
        monkeypatch.setattr(convolution_choice, "choose", lambda *_: taken)
    for settings in ({}, {"resolution": (20, 16), "initial_size": (5, 4)}, {"spectra": {"vis": 3, "nir": 1}}):
        network = random_generator(**settings).to(gpu)
        for seed in range(3):  # planned, recorded, replayed
            check(network, some_ws(network, seed=seed).to(gpu), precision)
        assert taken == "by rule" or {route.ours for route in program_of(network).routes} == {
            taken == "pyface"
        }


@pytest.mark.parametrize("precision", list(LIMITS))
def test_on_the_gpu_replays_what_runs_alone(gpu: str, precision: str) -> None:
    """New ws, noise and weights reach a recording: the bits are those of kernels launched one by one."""
    network = random_generator().to(gpu)
    eager = copy.deepcopy(network)
    eager.synthesis.cuda_graphs = False
    for call in range(6):
        if call == 3:
            for one in (network, eager):
                one.synthesis.b16.conv0.weight.mul_(-0.5)
        ws = some_ws(network, seed=call).to(gpu)
        images = [
            joined(one.synthesis(ws, precision=precision, generator=torch.Generator(gpu).manual_seed(call)))
            for one in (network, eager)
        ]
        assert torch.equal(*images)
