"""Random numbers belong to samples: the split over processes and rounds changes nothing."""

from __future__ import annotations

import pytest
import torch

from pyface.errors import ShapeError, ValueRangeError
from pyface.nn.norm import append_minibatch_std
from pyface.training import TrainingSet
from pyface.training.draws import Draws, Rows, rows_of_rank
from pyface.training.recipes.stylegan2 import StyleGAN2Recipe, build


@pytest.mark.parametrize(("ranks", "rounds"), [(1, 1), (2, 1), (1, 3), (2, 3)])
def test_the_parts_make_up_the_batch_and_get_its_numbers(ranks, rounds):
    key, total = (7, 3, 1), 12
    whole = Draws(key, Rows(torch.arange(total), total))
    expected = [whole.normal(2), whole.uniform(3), whole.integers(1000), whole.shrunk(2).normal(4)]
    seen = []
    for rank in range(ranks):
        for rows in rows_of_rank(total, rank, ranks, rounds, 2):
            draws = Draws(key, rows)
            assert torch.equal(draws.normal(2), expected[0][rows.index])
            assert torch.equal(draws.uniform(3), expected[1][rows.index])
            assert torch.equal(draws.integers(1000), expected[2][rows.index])
            half = draws.shrunk(2)
            assert torch.equal(half.normal(4), expected[3][half.rows.index])
            assert half.rows.total == 6
            seen += rows.index.tolist()
    assert sorted(seen) == list(range(total))


def test_other_keys_other_numbers():
    rows = Rows(torch.arange(4), 4)
    first = Draws((1, 2, 0), rows).normal(8)
    assert torch.equal(first, Draws((1, 2, 0), rows).normal(8))
    for key in [(2, 2, 0), (1, 3, 0), (1, 2, 1)]:
        assert not torch.equal(first, Draws(key, rows).normal(8)), key


def test_groups_are_consecutive_samples():
    features = torch.randn(12, 3, 2, 2, dtype=torch.float64)
    [rows] = rows_of_rank(12, 0, 1, 1, 4)
    whole = append_minibatch_std(features[rows.index], 4, 1)[:, -1, 0, 0]
    expected = torch.empty(12, dtype=torch.float64)
    for start in (0, 4, 8):
        group = features[start : start + 4]
        expected[start : start + 4] = (group.var(0, unbiased=False) + 1e-8).sqrt().mean()
    torch.testing.assert_close(whole, expected[rows.index])


def test_illegal_splits_are_refused_with_legal_batches():
    with pytest.raises(ValueRangeError, match="Use a batch of 24 or 48"):
        rows_of_rank(32, 0, 3, 2, 4)
    with pytest.raises(ShapeError, match="first axis"):
        Draws((0, 0, 0), Rows(torch.arange(4), 8)).noise([8, 2])
    with pytest.raises(ValueRangeError, match="Use a batch of 16"):  # a part would cut a group
        rows_of_rank(8, 0, 2, 2, 4)
    with pytest.raises(ValueRangeError, match="multiple of 2"):
        Rows(torch.tensor([3, 4, 5]), 12).shrunk(2)


def test_accumulated_gradients_equal_those_of_the_whole_batch():
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (16, 3, 8, 8), dtype=torch.uint8, generator=rng)
    data = TrainingSet.from_arrays(pixels, torch.rand(16, 2, generator=rng), ["a", "b"])
    recipe = StyleGAN2Recipe(
        resolution=(8, 8), batch=8, channel_base=64, channel_max=8, z_dim=8, w_dim=8, mapping_layers=2,
        mbstd_group=2, conditions=("a", "b"), mirror=True, path_length_interval=0, r1_interval=1,
    )  # fmt: skip
    found = []
    for rounds in (1, 4):
        run = build(recipe, data, rounds=rounds)
        for module in run.trainer.modules.values():
            module.double()
        for _ in range(2):
            run.trainer.step()
        found.append({
            f"{name}.{key}": tensor
            for name, module in run.trainer.modules.items()
            for key, tensor in module.state_dict().items()
        })  # fmt: skip
    assert any(key.endswith("w_avg") for key in found[0])
    torch.testing.assert_close(found[0], found[1], rtol=1e-8, atol=1e-10)


def test_running_statistics_move_once_however_many_rounds():
    """Path length included: w_avg and the mean length are those of the whole batch. The generator stands."""
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (16, 3, 8, 8), dtype=torch.uint8, generator=rng)
    recipe = StyleGAN2Recipe(
        resolution=(8, 8), batch=8, channel_base=64, channel_max=8, z_dim=8, w_dim=8, mapping_layers=2,
        mbstd_group=2, path_length_interval=1, lr_generator=1e-300,
    )  # fmt: skip
    found = []
    for rounds in (1, 4):
        run = build(recipe, TrainingSet.from_arrays(pixels), rounds=rounds)
        for module in run.trainer.modules.values():
            module.double()
        for _ in range(2):
            run.trainer.step()
        found.append((run.generator.mapping.w_avg, run.trainer.modules["path_length"].mean))
    assert all(float(tensor.abs().sum()) > 0 for tensor in found[0])
    torch.testing.assert_close(found[0], found[1], rtol=1e-8, atol=1e-12)
