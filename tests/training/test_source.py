"""`--data` takes published datasets by name or by what their files are, in the sizes that training takes."""

import numpy as np
import pytest

from pyface.data import CelebA
from pyface.data.writing_celeba import write_celeba
from pyface.data.writing_mtfl import write_mtfl
from pyface.data.writing_spectra import write_spectra
from pyface.errors import DataError, PyfaceError, ValueRangeError
from pyface.generation.evaluation import real_sets
from pyface.training.source import open_training_set


@pytest.fixture(scope="module")
def celeba(tmp_path_factory):
    return write_celeba(tmp_path_factory.mktemp("data") / "celeba", identities=4, samples=2, pictures="png")


def test_celeba_by_name_with_a_crop(celeba):
    data = open_training_set(f"celeba:crop=centre128+12,split=train:{celeba}", conditions=("Male", "Young"))
    faces = CelebA(celeba, "train", crop="centre128+12")
    assert (len(data), data.size) == (4, (128, 128))
    np.testing.assert_array_equal(data.labels.numpy(), faces.labels(("Male", "Young")))
    pixels = data.images["vis"].numpy().transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(pixels, faces.images())  # row i of the labels belongs to picture i
    small = open_training_set(f"celeba:crop=centre128:{celeba}", resolution=(32, 32), conditions=())
    assert small.size == (32, 32)


def test_recognised_by_its_files(celeba, tmp_path):
    data = open_training_set(str(celeba))
    assert (len(data.label_names), data.label_kind, data.size) == (40, "multi-hot", (218, 178))
    pairs = write_spectra(tmp_path / "pairs", identities=2, samples=2, size=16)
    data = open_training_set(f"spectra:{pairs}", spectra=("vis", "nir"))
    assert data.channels == {"vis": 3, "nir": 1}
    assert len(open_training_set(str(pairs)).label_names) == 6  # a folder with labels
    with pytest.raises(PyfaceError, match="178"):
        open_training_set(str(celeba), resolution=(64, 64))
    mtfl = write_mtfl(tmp_path / "mtfl", identities=2, size=48)
    with pytest.raises(DataError, match='crop="square"'):
        open_training_set(str(mtfl))
    assert open_training_set(f"mtfl:crop=square,size=32:{mtfl}").size == (32, 32)


def test_nothing_there_and_unknown_options(celeba):
    with pytest.raises(DataError, match=r"/nowhere does not exist\. .* celeba:PATH"):
        open_training_set("celeba:/nowhere")
    with pytest.raises(ValueRangeError, match="CelebA has no option 'crops'"):
        open_training_set(f"celeba:crops=x:{celeba}")


def test_held_out_parts_of_one_dataset(celeba):
    train, test = (f"celeba:crop=centre128,split={part}:{celeba}" for part in ("train", "test"))
    sets = real_sets(train, 2, held_out=test)
    assert (len(sets.held_out), len(sets.training)) == (2, 4)
    with pytest.raises(ValueRangeError, match="held-out images would show the people"):
        real_sets(train, 2, held_out=f"celeba:{celeba}")
