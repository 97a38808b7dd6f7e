"""Sets of real images share nobody; generated images depend on their number alone; copies are found."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyface.data import ProceduralFaces
from pyface.data.writing_mtfl import write_mtfl
from pyface.errors import ValueRangeError
from pyface.generation.evaluation import (
    GeneratedImages,
    NearestTraining,
    condition_choices,
    image_batches,
    real_sets,
)
from pyface.generation.network import load_network
from pyface.io.images import write_image


class MeanColours:
    dim = 48
    fingerprint = "colours"

    def __call__(self, images):
        return torch.nn.functional.adaptive_avg_pool2d(images.float(), 4).flatten(1)


def test_real_sets_share_nobody(tmp_path):
    rendered = real_sets("procedural:30x2@16", 20)
    assert (len(rendered.training), len(rendered.held_out), len(rendered.others)) == (60, 20, 20)
    assert rendered.held_out.seed != rendered.others.dataset.seed
    for i, pixels in enumerate(ProceduralFaces(20, 1, size=16, spectra=("vis",)).images()):
        write_image(tmp_path / f"{i}.png", pixels, sync=False)
    halves = real_sets(str(tmp_path), 10)
    images = [x.tobytes() for part in (halves.held_out, halves.others) for x in part.images()]
    assert len(set(images)) == 20


@pytest.mark.parametrize("part", ["", "split=all,"])
def test_a_part_of_the_data_is_not_held_out_from_all_of_it(tmp_path, part):
    write_mtfl(tmp_path, identities=4, samples=1, size=16, mixed_sizes=False)
    testing = f"mtfl:split=testing,crop=square,size=16:{tmp_path}"
    with pytest.raises(ValueRangeError, match="would show the people of"):
        real_sets(f"mtfl:{part}crop=square,size=16:{tmp_path}", 1, held_out=testing)
    apart = real_sets(f"mtfl:split=training,crop=square,size=16:{tmp_path}", 1, held_out=testing)
    assert (len(apart.training), len(apart.held_out)) == (3, 1)


def test_batches_are_shrunk_as_for_training():
    faces = ProceduralFaces(3, 1, size=32, spectra=("vis",))
    (batch,) = image_batches(faces, (16, 16))
    assert (batch.dtype, batch.shape) == (torch.uint8, (3, 3, 16, 16))
    (whole,) = image_batches(faces, (32, 32))
    wanted = whole.float().reshape(3, 3, 16, 2, 16, 2).mean((3, 5))
    assert (batch.float() - wanted).abs().max() <= 0.5


def test_an_image_depends_on_its_number_alone(network):
    generator = load_network(network)
    choices = np.array([[1, 0], [0, 1]], np.float32)
    a = torch.cat(list(GeneratedImages(generator, 10, choices, batch=4)))
    b = torch.cat(list(GeneratedImages(generator, 10, choices, batch=10)))
    assert (a.int() - b.int()).abs().max() <= 1
    assert len(GeneratedImages(generator, 10, choices, batch=4)) == 3
    other = torch.cat(list(GeneratedImages(generator, 10, choices, seed=1)))
    assert not torch.equal(a, other)


def test_conditions_of_an_unconditional_network(network):
    assert condition_choices(network, 0, ProceduralFaces(2, 1, size=16)) is None


def test_copies_and_mirrored_copies_are_found():
    rng = torch.Generator().manual_seed(0)
    training = torch.randint(0, 256, (40, 3, 16, 16), generator=rng).to(torch.uint8)
    held_out = torch.randint(0, 256, (20, 3, 16, 16), generator=rng).to(torch.uint8)
    copies = torch.cat([training[7:8], training[30:31].flip(3), held_out[:1]])
    extractor = MeanColours()
    found = NearestTraining.search(
        extractor, extractor(copies), extractor(held_out), iter(training.split(16)), shown=2, neighbours=3
    )
    assert found.indices[:, 0].tolist() == [7, 30]
    assert found.indices.shape == (2, 3)
    assert all(len(set(row)) == 3 for row in found.indices.tolist())
    assert found.generated == pytest.approx(0, abs=1e-3)
    assert found.held_out > 1
    assert found.ratio < 0.01
