"""Recipes and plans: what they name, and what they refuse."""

from __future__ import annotations

import dataclasses
import json

import pytest

from pyface.errors import DataError, ValueRangeError
from pyface.generation.plan import DatasetRecipe, Picture, Plan

RECIPE = DatasetRecipe(
    network="net.safetensors",
    network_sha256="0" * 64,
    seed=5,
    identities=5,
    samples_per_identity=3,
    resolution=(16, 16),
    spectra={"vis": 3, "nir": 1},
    variation=0.3,
    conditions=("smile", "glasses"),
    condition_rule="samples",
    varying=("smile",),
    shard_size=4,
)


def changed(**fields):
    return dataclasses.replace(RECIPE, **fields)


def test_a_recipe_survives_json():
    again = DatasetRecipe.from_dict(json.loads(json.dumps(RECIPE.to_dict())))
    assert again == RECIPE
    assert again.sha256 == RECIPE.sha256
    assert changed(seed=6).sha256 != RECIPE.sha256


def test_differences_are_named():
    assert RECIPE.differences(changed(seed=6, image="png")) == ["seed", "image", "quality", "subsampling"]
    assert RECIPE.differences(RECIPE) == []


def test_every_picture_lies_in_one_shard():
    plan = Plan(RECIPE)
    assert plan.shards == 4
    parts = [plan.pictures(shard) for shard in range(plan.shards)]
    assert [len(part) for part in parts] == [plan.size(shard) for shard in range(4)] == [4, 4, 4, 3]
    flat = [picture for part in parts for picture in part]
    assert flat == [Picture(identity, sample) for identity in range(5) for sample in range(3)]
    assert all(plan.shard_of(p) == shard for shard, part in enumerate(parts) for p in part)
    assert Picture(12, 3).key == "00000012_0003"


@pytest.mark.parametrize("of", [1, 2, 3, 7])
def test_shares_are_disjoint_and_whole(of):
    plan = Plan(RECIPE)
    shares = [list(plan.share(index, of)) for index in range(of)]
    assert sorted(shard for share in shares for shard in share) == list(range(plan.shards))


def test_pictures_that_are_not_there():
    plan = Plan(RECIPE)
    for picture in (Picture(5, 0), Picture(0, 3), Picture(-1, 0)):
        with pytest.raises(ValueRangeError, match="identities 0 to 4 with samples 0 to 2"):
            plan.shard_of(picture)
    with pytest.raises(ValueRangeError, match="from 0 to 3"):
        plan.pictures(4)
    for index, of in ((2, 2), (-1, 2)):
        with pytest.raises(ValueRangeError, match="--shard-index must be from 0 to 1"):
            plan.share(index, of)
    with pytest.raises(ValueRangeError, match="--num-shards"):
        plan.share(0, 0)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"seed": -1}, "seed must be"),
        ({"seed": 2**64}, "seed must be"),
        ({"identities": 0}, "identities must be"),
        ({"samples_per_identity": 0}, "samples_per_identity must be"),
        ({"shard_size": 0}, "shard_size must be"),
        ({"batch": 0}, "batch must be"),
        ({"quality": 101}, "quality must be"),
        ({"variation": 1.5}, "variation must be from 0 to 1"),
        ({"variation": float("nan")}, "variation must be from 0 to 1"),
        ({"truncation_psi": float("nan")}, "truncation_psi must be a finite number"),
        ({"noise": "random"}, "noise must be const or none"),
        ({"image": "webp"}, "image must be jpeg or png"),
        ({"storage": "zip"}, "storage must be shards or folder"),
        ({"subsampling": "4:1:1"}, "subsampling must be"),
        ({"condition_rule": "none"}, "unconditional"),
        ({"varying": ("hat",)}, "hat cannot vary .* smile, glasses"),
        ({"condition_rule": "fixed", "condition": (1.0, 0.0)}, "smile cannot vary"),
        ({"condition_rule": "fixed", "condition": (1.0,), "varying": ()}, "must have 2 numbers"),
        ({"condition_rule": "fixed", "condition": (1.0, float("nan"))}, "finite"),
    ],
)
def test_bad_recipes(fields, text):
    with pytest.raises(ValueRangeError, match=text):
        changed(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"condition_rule": "fixed", "condition": (0.0, 1.0), "varying": ()},
        {"conditions": (), "condition_rule": "none", "varying": ()},
        {"varying": ()},
    ],
)
def test_samples_that_would_be_the_same_picture_are_refused(fields):
    with pytest.raises(ValueRangeError, match="--variation more than 0"):
        changed(variation=0.0, **fields)
    assert changed(variation=0.0, samples_per_identity=1, **fields).count == 5
    assert changed(variation=0.1, **fields).samples_differ


def test_a_damaged_recipe():
    entry = RECIPE.to_dict()
    with pytest.raises(DataError, match="damaged or of another version"):
        DatasetRecipe.from_dict(entry | {"colour": "red"})
    entry.pop("seed")
    with pytest.raises(DataError, match="damaged or of another version"):
        DatasetRecipe.from_dict(entry)
