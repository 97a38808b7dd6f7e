"""The memory plan: what is tracked is what is alive, a rehearsal is the real step, and a prediction holds."""

from __future__ import annotations

import gc
from dataclasses import replace

import pytest
import torch

from pyface.errors import ValueRangeError
from pyface.ops.rehearsal import eager_under_modes
from pyface.training import remedies as remedies_module
from pyface.training.measuring import measure_peak
from pyface.training.plan import MemoryPlan, micro_batches, plan, recipe_of
from pyface.training.recipes.stylegan2 import StyleGAN2Recipe, build
from pyface.training.rehearsal import BETWEEN, blank_set, rehearse, track_step
from pyface.training.remedies import available_memory, parse_bytes, remedies, text_of_bytes
from pyface.training.tracking import OTHER, StorageTracker

SMALL = StyleGAN2Recipe(
    resolution=(16, 16), batch=8, channel_base=256, channel_max=32, z_dim=16, w_dim=16, mapping_layers=2
)
MB = 2**20


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _trainer(recipe, rounds=1):
    data = blank_set(recipe.resolution, recipe.spectra, recipe.conditions)
    return build(recipe, data, rounds=rounds).trainer


def test_the_tracker_counts_what_is_alive():
    with StorageTracker() as tracker:
        a = torch.zeros(MB, dtype=torch.uint8)
        with tracker.section("two"):
            b = a.float()  # 4 MiB
            view = b[10:]
            del b
            assert tracker.total == 5 * MB
            del view
        assert tracker.total == MB
        with tracker.section("in place"):
            a.add_(1)
            a.view(2, -1).mul_(2)
        tracker.classify([a], "weights")
        assert (tracker.parts["weights"], tracker.parts[OTHER]) == (MB, 0)
        del a
        assert tracker.total == 0
    assert tracker.peaks["two"].total == 5 * MB
    assert tracker.peaks["two"].op == "aten::_to_copy"
    assert tracker.peaks["in place"].total == MB


def test_the_tracker_adds_the_workspace_of_the_running_op():
    def workspace(op, arguments, result):
        return 3 * MB if op == "aten::mm" else 0

    with StorageTracker(workspace) as tracker, tracker.section("all"):
        x = torch.zeros(512, 512)
        y = x @ x
        del y
        z = x + 1
    peak = tracker.peaks["all"]
    assert (peak.workspace, peak.op, peak.total) == (3 * MB, "aten::mm", 5 * MB)
    del z


def test_the_tracker_sees_saved_tensors_of_double_backward():
    x = torch.zeros(MB // 4, requires_grad=True)
    with StorageTracker() as tracker:
        y = (x * x).sum()
        (g,) = torch.autograd.grad(y, [x], create_graph=True)
        held = tracker.total
        loss = g.square().sum()
        loss.backward()
        assert tracker.peaks[""].total > held >= MB
        del y, g, loss
        gc.collect()
        assert tracker.total == x.grad.nbytes


@pytest.mark.parametrize(
    ("changes", "rounds"),
    [
        ({}, 1),
        ({"precision": "bfloat16"}, 1),
        ({"precision": "float16", "path_length_interval": 0}, 1),
        ({"conditions": ("smile",), "freeze_d": 1, "mirror": True}, 2),
    ],
)
def test_a_rehearsal_takes_what_the_real_step_takes(changes, rounds):
    recipe = replace(SMALL, **changes)
    with eager_under_modes(), StorageTracker() as tracker:
        real = track_step(_trainer(recipe, rounds), tracker)
    rehearsed = rehearse(lambda: _trainer(recipe, rounds))
    assert rehearsed.keys() == real.keys()
    phases = set(real) - {"", BETWEEN}
    assert {"generator", "discriminator", "r1"} <= phases
    for phase in phases:
        assert rehearsed[phase].parts == pytest.approx(real[phase].parts, rel=1e-3, abs=2048), phase
        assert rehearsed[phase].total == pytest.approx(real[phase].total, rel=1e-3), phase


def test_augmentation_is_rehearsed_at_its_most():
    recipe = replace(SMALL, augment="ada", path_length_interval=0)
    with eager_under_modes(), StorageTracker() as tracker:
        real = track_step(_trainer(recipe), tracker)
    rehearsed = rehearse(lambda: _trainer(recipe))
    plain = rehearse(lambda: _trainer(replace(recipe, augment="none")))
    for phase in (
        "generator",
        "discriminator",
        "r1",
    ):  # the random numbers differ, and with them what is read
        assert rehearsed[phase].total == pytest.approx(real[phase].total, rel=0.02), phase
        assert rehearsed[phase].total > plain[phase].total, phase


def test_a_rehearsal_leaves_the_ops_as_they_were():
    rehearse(lambda: _trainer(SMALL))
    trainer = _trainer(SMALL)
    weights = trainer.modules["G"].synthesis.b16.conv1.weight
    before = weights.clone()
    trainer.step()
    assert weights.isfinite().all()
    assert not torch.equal(weights, before)


def test_parts_make_the_peak_and_less_at_a_time_takes_less():
    whole = plan(SMALL)
    assert (whole.micro_batch, whole.rounds, whole.device) == (8, 1, "cpu")
    assert set(whole.parts) == {"weights", "gradients", "Adam", "running average", OTHER}
    assert whole.peak == whole.phases[whole.phase] == max(whole.phases.values())
    assert whole.to_dict()["peak"] == whole.peak
    generator = sum(p.nbytes for p in _trainer(SMALL).modules["G"].parameters())
    assert whole.parts["running average"] == pytest.approx(generator, rel=0.2)  # and buffers

    wide = replace(SMALL, channel_base=2048, channel_max=128)
    one, two = plan(wide), plan(wide, 4)
    assert (two.micro_batch, two.rounds) == (4, 2)
    assert 0.4 < two.parts[OTHER] / one.parts[OTHER] < 0.75
    assert two.parts["weights"] == one.parts["weights"]
    shared = plan(wide, processes=2)
    assert (shared.micro_batch, shared.processes) == (4, 2)
    assert shared.peak < one.peak


def test_legal_micro_batches():
    assert micro_batches(replace(SMALL, batch=16)) == [16, 8, 4]
    assert micro_batches(replace(SMALL, batch=16), processes=2) == [8, 4]
    assert micro_batches(replace(SMALL, batch=6, mbstd_group=1, path_length_batch_shrink=2)) == [6, 2]
    assert micro_batches(replace(SMALL, batch=6, mbstd_group=1, path_length_interval=0)) == [6, 3, 2, 1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"micro_batch": 3}, "must divide the 8 samples of a process; got 3. Use 8, 4"),
        ({"micro_batch": 0}, "got 0"),
        ({"processes": 3}, "cannot be split over 3 processes"),
        ({"device": "meta"}, "cpu or cuda; got 'meta'"),
    ],
)
def test_mistakes_are_named(arguments, words):
    with pytest.raises(ValueRangeError, match=words):
        plan(SMALL, **arguments)
    with pytest.raises(ValueRangeError, match="int is no configuration"):
        recipe_of(3)


@pytest.mark.parametrize(
    "changes",
    [{}, {"precision": "bfloat16", "path_length_interval": 0, "batch": 16}],
    ids=["float32", "bfloat16"],
)
def test_the_prediction_is_within_a_fifth_of_the_measured_peak(changes):
    recipe = StyleGAN2Recipe(resolution=(32, 32), batch=8, channel_base=4096, channel_max=256)
    recipe = replace(recipe, **changes)
    predicted, measured = plan(recipe), measure_peak(recipe, steps=2)
    assert predicted.peak == pytest.approx(measured.peak, rel=0.2)
    beyond_imports = predicted.peak - measured.imported
    assert beyond_imports == pytest.approx(measured.training, rel=0.2)


@pytest.fixture
def formula(monkeypatch):
    """A plan by a formula in place of rehearsals: 100 bytes of weights and activations by sizes."""

    def made(recipe, micro_batch=None, device="cpu", *, processes=1):
        size = micro_batch or recipe.batch // processes
        each = recipe.resolution[0] * recipe.channel_base // 1024
        each //= 2 if recipe.precision != "float32" else 1
        phases = {"generator": 300 + size * each, "path length": 300 + size * each * 3 // 2}
        parts = {"weights": 100 + recipe.channel_max - 512, OTHER: size * each * 3 // 2}
        rounds = recipe.batch // size // processes
        rest = phases["path length"] - sum(parts.values())
        return MemoryPlan(device, size, rounds, processes, rest, parts, 0, 0, "path length", phases)

    monkeypatch.setattr(remedies_module, "plan", made)
    return made


def test_remedies_come_by_cost(formula):
    recipe = StyleGAN2Recipe(resolution=(64, 64), batch=32)
    before = formula(recipe)
    assert before.peak == 300 + 32 * 1024 * 3 // 2
    found = remedies(recipe, before.peak // 2, planned=before)
    assert [remedy.options for remedy in found] == [
        "--precision bfloat16",
        "--batch-gpu 8",  # 16 leaves 150 bytes too many
        "--cbase 8192",
        "--resolution 32",
    ]
    assert all(remedy.cost and remedy.plan.peak < before.peak for remedy in found)
    only = remedies(replace(recipe, precision="bfloat16"), 10**6)
    assert only[0].options == "--batch-gpu 16"


def test_changes_are_summed_up_when_none_is_enough(formula):
    recipe = StyleGAN2Recipe(resolution=(64, 64), batch=32)
    last = remedies(recipe, 2000)[-1]
    assert last.options == "--precision bfloat16 --pl-batch-shrink 4 --cbase 8192 --batch-gpu 4"
    assert (last.cost, last.plan.peak) == ("all of these", 300 + 4 * 256 * 3 // 2)
    assert remedies(recipe, 1)[-1].cost != "all of these"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("24GB", 24 * 10**9),
        ("8GiB", 8 * 2**30),
        ("500 mb", 5 * 10**8),
        ("1.5TB", 15 * 10**11),
        ("1024", 1024),
    ],
)
def test_sizes_are_read(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0GB", "24 apples", "1.2.3GB"])
def test_other_sizes_are_refused(text):
    with pytest.raises(ValueRangeError, match="such as 24GB, 8GiB or auto"):
        parse_bytes(text)


def test_sizes_are_said():
    assert (text_of_bytes(6_130_000_000), text_of_bytes(350_400_000)) == ("6.1 GB", "350 MB")


def test_the_memory_of_this_machine(tmp_path, monkeypatch):
    free = available_memory("cpu")
    assert 10**7 < free < 10**14
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    assert list(remedies_module._control_group(tmp_path)) == [600000]
    (tmp_path / "memory.max").write_text("max\n")
    assert list(remedies_module._control_group(tmp_path)) == []
    if not torch.cuda.is_available():
        with pytest.raises(ValueRangeError, match="--gpu 24GB"):
            available_memory("cuda")
