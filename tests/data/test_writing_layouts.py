"""Rendered trees of CK+ and MTFL: their loaders read back what was drawn."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from pyface.data import MTFL, CKPlus, ProceduralFaces, draw_faces
from pyface.data.ckplus_tree import FOLDERS
from pyface.data.emotions import ACTION_UNITS, PROTOTYPES
from pyface.data.writing_ckplus import draw_sequence, write_ckplus
from pyface.data.writing_mtfl import pose_code, write_mtfl
from pyface.errors import DataError, ValueRangeError
from pyface.io.images import read_image
from pyface.ops.face_render import face_parameters, face_render

SIZE = 48
PEOPLE, SEQUENCES, FRAMES = 3, 2, 4


@pytest.fixture(scope="module")
def ckplus(tmp_path_factory):
    return write_ckplus(
        tmp_path_factory.mktemp("written") / "ck", identities=PEOPLE, seed=11, size=SIZE, frames=FRAMES
    )


def drawn():
    """Each sequence as the default options of the writer draw it."""
    return [
        draw_sequence(11, i // SEQUENCES, i % SEQUENCES, FRAMES, uncoded=i % 4 == 3)
        for i in range(PEOPLE * SEQUENCES)
    ]


def test_ckplus_is_read_back_exactly(ckplus):
    faces = CKPlus(ckplus, frames="all", verify=True)
    assert not list(faces.problems)
    assert len(faces) == PEOPLE * SEQUENCES * FRAMES
    emotions, units = faces.emotions(), faces.action_units(with_intensity=True)
    for place, (key, sequence) in enumerate(zip(faces.sequences, drawn(), strict=True)):
        assert key == (f"S{sequence.identity:03d}", f"{sequence.number + 1:03d}")
        assert emotions[key] == (None if place == 5 else sequence.emotion)
        noted = {f"AU{u}": n / 5 if n else math.nan for u, n in sequence.noted.items()}
        read = units[key] | faces.extras.get(key, {})
        np.testing.assert_equal(read, noted)
        rendered = face_render(
            torch.from_numpy(sequence.parameters), SIZE, ("vis", "landmarks"), backend="cpu"
        )
        for frame in range(FRAMES):
            sample = faces[place * FRAMES + frame]
            assert sample.identity == sequence.identity
            points = rendered["landmarks"].numpy()[frame, :68]
            np.testing.assert_allclose(sample.landmarks["ibug68"], points, rtol=0, atol=1e-5)
            grey = rendered["vis"].numpy()[frame] @ [0.299, 0.587, 0.114]
            assert np.abs(sample.image[..., 0] - grey).max() <= 1
    assert list(emotions.values()).count(None) == 1


def test_what_is_noted_is_what_is_shown(ckplus):
    """Units at the peak have the intensity of their letter, others are 0; the first frame is neutral."""
    names = [p.name for p in face_parameters()]
    for sequence in drawn():
        for unit in ACTION_UNITS:
            ramp = sequence.parameters[:, names.index(f"au{unit}")]
            assert ramp[0] == 0
            assert (np.diff(ramp) >= 0).all()
            letter = sequence.noted.get(unit)
            if letter is None:
                assert ramp[-1] == 0
            elif letter > 0:
                assert ramp[-1] == np.float32(letter / 5)
            else:
                assert ramp[-1] > 0
        others = [i for i, name in enumerate(names) if not name.startswith("au")]
        assert (sequence.parameters[:, others] == sequence.parameters[0, others]).all()
        strongest = max(PROTOTYPES[sequence.emotion], key=PROTOTYPES[sequence.emotion].get)
        assert strongest in sequence.noted
        assert max(sequence.parameters[-1, [names.index(f"au{u}") for u in ACTION_UNITS]]) >= 0.6 - 1e-6
    with_nan = CKPlus(ckplus).annotations
    assert sum(int(np.isnan(with_nan[f"AU{u}"]).sum()) for u in ACTION_UNITS) == 1  # sequence 3 of 6
    assert all(not np.isnan(with_nan[f"AU{u}_present"]).any() for u in ACTION_UNITS)


def test_turned_eyes_are_coded_and_become_extras(tmp_path):
    look = {"gaze_x": 0.5, "gaze_y": -0.5}
    faces = CKPlus(
        write_ckplus(tmp_path / "ck", identities=1, sequences=1, frames=2, size=16, overrides=look)
    )
    (units,) = faces.extras.values()
    np.testing.assert_equal(units, {"AU61": math.nan, "AU64": math.nan})


def test_emotions_do_not_repeat_and_differ_among_people():
    first = [[draw_sequence(0, person, n, 2).emotion for n in range(6)] for person in range(6)]
    assert all(len(set(row)) == 6 for row in first)
    assert len({tuple(row) for row in first}) > 1
    assert draw_sequence(0, 0, 6, 2).emotion == first[0][0]
    chosen = draw_sequence(0, 0, 0, 2, overrides={"emotion": "happy", "au12": 0.4})
    assert chosen.emotion == "happy"
    assert chosen.noted[12] == 2  # an intensity that is given is not raised
    with pytest.raises(ValueRangeError, match="emotion must be one of"):
        draw_sequence(0, 0, 0, overrides={"emotion": "bored"})


def test_a_stopped_run_is_continued_to_the_same_bytes(ckplus, tmp_path):
    options = {"identities": PEOPLE, "seed": 11, "size": SIZE, "frames": FRAMES}
    stopped = tmp_path / "ck"

    def stop(count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_ckplus(stopped, **options, progress=stop)
    assert not json.loads((stopped / "card.json").read_text())["complete"]
    gone = next((stopped / FOLDERS["picture"]).rglob("*.png"))
    gone.rename(gone.parent / f".{gone.stem}.k1ll3d_1.png")  # what a killed process leaves behind
    steps = []
    write_ckplus(stopped, **options, progress=steps.append)
    assert sum(steps) == PEOPLE * SEQUENCES * FRAMES
    assert content(stopped) == content(ckplus)
    times = {path: path.stat().st_mtime_ns for path in stopped.rglob("*.png")}
    write_ckplus(stopped, **options)
    assert times == {path: path.stat().st_mtime_ns for path in stopped.rglob("*.png")}
    with pytest.raises(DataError, match=r"another recipe.*seed was 11, now 12"):
        write_ckplus(stopped, **options | {"seed": 12})


def content(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_colour_and_people_by_number(tmp_path):
    root = write_ckplus(
        tmp_path / "ck", identities=[7, 1234], sequences=1, frames=2, size=16, grey=False, unlabelled_every=0
    )
    faces = CKPlus(root)
    assert faces.annotations["identity"].tolist() == [7, 1234]
    assert faces.image_shape == (16, 16, 3)
    assert None not in faces.emotions().values()
    bad = (
        {"size": 8},
        {"frames": 1},
        {"sequences": 0},
        {"identities": []},
        {"identities": [1, 1]},
        {"identities": [1, 2**32]},
        {"workers": 0},
        {"unlabelled_every": -1},
    )
    for options in bad:
        with pytest.raises(ValueRangeError):
            write_ckplus(tmp_path / "bad", **{"identities": 1, **options})
    with pytest.raises(ValueRangeError, match="no face parameter"):
        write_ckplus(tmp_path / "bad", identities=1, overrides={"smile": 1})
    assert not (tmp_path / "bad").exists()


@pytest.fixture(scope="module")
def mtfl(tmp_path_factory):
    return write_mtfl(tmp_path_factory.mktemp("written") / "mtfl", identities=8, seed=3, size=SIZE, samples=3)


def test_mtfl_is_read_back_exactly(mtfl):
    faces = MTFL(mtfl, verify=True)
    assert not list(faces.problems)
    assert len(faces) == 24
    table = faces.annotations
    people, samples = table["identity"], np.array([int(f[-8:-4]) - 1 for f in faces.file_names()])
    assert table["split"].tolist() == ["training"] * 18 + ["testing"] * 6
    assert not set(people[:18]) & set(people[18:])
    parameters = draw_faces(3, people, samples).columns
    truth = ProceduralFaces(8, 3, seed=3, size=SIZE, spectra=("vis",))
    at = [int(p) * 3 + int(s) for p, s in zip(people, samples, strict=True)]
    for name in ("Male", "Smiling", "Eyeglasses"):
        np.testing.assert_array_equal(table[name], truth.annotations[name][at])
    np.testing.assert_array_equal(table["gender"], np.where(parameters["sex"] > 0.5, 1, 2))
    np.testing.assert_array_equal(table["pose"], pose_code(parameters["yaw"]))
    assert len({tuple(size) for size in faces.sizes.tolist()}) == 3
    drawn_points = truth.render(at, ("landmarks",))["landmarks"][:, 68:73]
    for i, sample in enumerate(faces):
        scale = sample.image.shape[0] / SIZE
        # the file has two decimals; a render of another size is the same face
        np.testing.assert_allclose(sample.landmarks["5pt"], drawn_points[i] * scale, atol=0.02)
        if sample.image.shape[0] == SIZE:
            assert np.abs(sample.image.astype(int) - truth[at[i]].image).mean() < 3  # JPEG


def test_mtfl_lies_as_the_published_one(mtfl):
    lines = (mtfl / "training.txt").read_text().splitlines()
    assert lines[-1] == " "
    words = lines[0].split()
    assert lines[0].startswith(" lfw_5590\\Person_000000_0001.jpg ")
    assert len(words) == 15
    assert sorted(p.name for p in mtfl.iterdir() if p.is_dir()) == ["AFLW", "lfw_5590", "net_7876"]
    assert read_image(mtfl / words[0].replace("\\", "/")).shape == (SIZE, SIZE, 3)


def test_poses_and_sizes(tmp_path):
    assert pose_code(np.radians([-60.0, -30, -10, 0, 10, 30, 60])).tolist() == [1, 2, 3, 3, 3, 4, 5]
    options = {"mixed_sizes": False, "testing_every": 0, "overrides": {"yaw": -1.0}}
    root = write_mtfl(tmp_path / "m", identities=2, samples=2, size=16, **options)
    faces = MTFL(root)
    assert set(faces.annotations["pose"].tolist()) == {1}
    assert faces.image_shape == (16, 16, 3)
    assert not (root / "testing.txt").exists()
    for options in ({"size": 8}, {"samples": 0}, {"identities": 0}, {"testing_every": -1}, {"workers": -1}):
        with pytest.raises(ValueRangeError):
            write_mtfl(tmp_path / "bad", **{"identities": 1, **options})


def test_a_stopped_mtfl_run_is_continued_to_the_same_bytes(mtfl, tmp_path):
    options = {"identities": 8, "seed": 3, "size": SIZE, "samples": 3}

    def stop(count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_mtfl(tmp_path / "m", **options, progress=stop)
    assert not (tmp_path / "m/training.txt").exists()
    steps = []
    write_mtfl(tmp_path / "m", **options, progress=steps.append)
    assert sum(steps) == 24
    assert content(tmp_path / "m") == content(mtfl)
