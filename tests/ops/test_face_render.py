"""The face renderer: the same bytes everywhere, errors, and labels that lie on what is drawn."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.ndimage import distance_transform_edt

from pyface.data import draw_faces
from pyface.errors import BackendError, DTypeError, ShapeError, ValueRangeError
from pyface.ops import _native
from pyface.ops.face_render import OUTPUTS, face_parameters, face_render

Array = npt.NDArray[Any]
ALL = tuple(OUTPUTS)
SKIN, EYE, MOUTH, TEETH, LIPS, BROWS = 1, 2, 6, 7, 8, 9
JAW, BROW_POINTS, NOSE, EYES, LIP_POINTS = (
    list(range(a, b)) for a, b in ((0, 17), (17, 27), (27, 36), (36, 48), (48, 68))
)


def neutral(**changes: float) -> torch.Tensor:
    """[1, P]: the default face with some parameters changed."""
    unknown = set(changes) - {p.name for p in face_parameters()}
    assert not unknown
    return torch.tensor([[changes.get(p.name, p.default) for p in face_parameters()]])


def random_faces(count: int, seed: int = 5, **overrides: Any) -> torch.Tensor:
    return torch.from_numpy(draw_faces(seed, np.arange(count), 0, overrides).parameters)


def share_within_one_level(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(((a.int() - b.int()).abs() <= 1).double().mean())


def same_bytes(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(a[name].numpy().tobytes() == b[name].numpy().tobytes() for name in a)


# ---- the same picture


def test_batch_and_threads_do_not_change_a_byte() -> None:
    faces = random_faces(5)
    threads = torch.get_num_threads()
    whole = face_render(faces, 48)
    try:
        torch.set_num_threads(3)
        threaded = face_render(faces, 48)
    finally:
        torch.set_num_threads(threads)
    alone = [face_render(faces[i : i + 1], 48) for i in range(len(faces))]
    joined = {name: torch.cat([one[name] for one in alone]) for name in ALL}
    assert same_bytes(whole, threaded)
    assert same_bytes(whole, joined)


@pytest.mark.parametrize("name", ALL)
def test_an_output_is_the_same_alone(name: str) -> None:
    faces = random_faces(2)
    both = face_render(faces, 40)
    assert same_bytes(face_render(faces, 40, (name,)), {name: both[name]})


def test_texture_follows_its_seed() -> None:
    pictures = [face_render(neutral(texture_seed=seed), 48, ("vis",))["vis"] for seed in (1.0, 1.0, 2.0)]
    assert torch.equal(pictures[0], pictures[1])
    assert not torch.equal(pictures[0], pictures[2])


def test_instruction_sets_agree(tmp_path: Path) -> None:
    isa = pytest.importorskip("pyface._cpu").isa_available()
    program = (
        "import sys, torch\n"
        "from pyface.ops.face_render import face_render\n"
        "torch.save(face_render(torch.load(sys.argv[1]), 64), sys.argv[2])\n"
    )
    torch.save(random_faces(4), tmp_path / "faces.pt")
    pictures = {}
    for name in isa:
        output = tmp_path / f"{name}.pt"
        subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / "faces.pt"), str(output)],
            env={**os.environ, "PYFACE_CPU_ISA": name, "OMP_NUM_THREADS": "1"},
            check=True,
            timeout=120,
        )
        pictures[name] = torch.load(output)
    for name in isa[1:]:
        for output in ("vis", "nir"):
            assert share_within_one_level(pictures[isa[0]][output], pictures[name][output]) >= 0.999
        same_class = pictures[isa[0]]["segmentation"] == pictures[name]["segmentation"]
        assert float(same_class.double().mean()) >= 0.999


@pytest.mark.parametrize(("size", "schedule"), [(33, 1), (64, 2)])
def test_emulated_kernel_agrees_with_the_cpu(size: int, schedule: int) -> None:
    faces = random_faces(3, seed=9)
    expected = face_render(faces, size)
    try:
        with _native.use("emu", schedule=schedule):
            got = face_render(faces, size)
            labels = face_render(faces[:1], size, ("segmentation", "depth"))
    except BackendError as error:
        pytest.skip(str(error))
    for name in ("vis", "nir"):
        assert share_within_one_level(expected[name], got[name]) >= 0.999
    assert float((expected["segmentation"] == got["segmentation"]).double().mean()) >= 0.999
    assert torch.equal(torch.isinf(expected["depth"]), torch.isinf(got["depth"]))
    torch.testing.assert_close(expected["depth"], got["depth"], atol=0.01, rtol=0)
    torch.testing.assert_close(expected["landmarks"], got["landmarks"], atol=1e-3, rtol=0)
    assert same_bytes(labels, {name: got[name][:1] for name in labels})


def test_empty_batch_and_smallest_size() -> None:
    drawn = face_render(neutral()[:0], 16)
    assert [tuple(drawn[name].shape) for name in ALL] == [
        (0, 16, 16, 3),
        (0, 16, 16),
        (0, 16, 16),
        (0, 16, 16),
        (0, 73, 2),
    ]
    assert face_render(neutral(), 16)["vis"].shape == (1, 16, 16, 3)


# ---- errors


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((neutral().double(), 32), DTypeError, "params must be float32; got torch.float64"),
        ((neutral()[0], 32), ShapeError, "params must be \\[N, "),
        ((neutral()[:, 1:], 32), ShapeError, "one column for each of face_parameters\\(\\)"),
        ((neutral(melanin=1.5), 32), ValueRangeError, "params\\[0\\]: melanin is 1.5; allowed: 0 to 1"),
        ((neutral(yaw=float("nan")), 32), ValueRangeError, "yaw is nan; allowed: -1.2 to 1.2"),
        ((neutral(), 15), ValueRangeError, "size must be 16 to 1024 pixels; got 15"),
        ((neutral(), 1025), ValueRangeError, "size must be 16 to 1024 pixels; got 1025"),
        ((neutral(), 32, ()), ValueRangeError, "outputs must be some of vis, nir"),
        ((neutral(), 32, "vis"), ValueRangeError, "outputs must be some of vis, nir"),
        ((neutral(), 32, ("alpha",)), ValueRangeError, "got \\('alpha',\\)"),
        ((neutral().to("meta"), 32), BackendError, "face_render cannot run on meta"),
    ],
)
def test_errors_say_what_is_allowed(arguments: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        face_render(*arguments)


def test_there_is_no_torch_reference() -> None:
    with pytest.raises(BackendError, match="face_render has no torch reference"):
        face_render(neutral(), 32, backend="reference")


# ---- landmarks lie on what is drawn

BARE = {"glasses": 0.0, "fringe": 0.0, "hair_length": (0.0, 0.4)}


def distance_to_edge(mask: Array, points: Array) -> Array:
    """Pixels from each point to the boundary of `mask`."""
    away = np.where(mask, distance_transform_edt(mask), distance_transform_edt(~mask)) - 0.5
    column, row = np.clip(points.astype(int), 0, mask.shape[0] - 1).T
    return away[row, column]


def distance_to(mask: Array, points: Array) -> Array:
    """Pixels from each point to the nearest pixel of `mask`, 0 inside."""
    column, row = np.clip(points.astype(int), 0, mask.shape[0] - 1).T
    return distance_transform_edt(~mask)[row, column]


@pytest.mark.parametrize("yaw", [(-0.25, 0.25), (-0.7, -0.4), (0.4, 0.7)], ids=["front", "left", "right"])
def test_landmarks_lie_on_drawn_features(yaw: tuple[float, float]) -> None:
    faces = random_faces(40, yaw=yaw, **BARE)
    drawn = face_render(faces, 128, ("segmentation", "landmarks"))
    off: dict[str, list[Array]] = {"eyes": [], "outer lips": [], "inner lips": [], "brows": [], "nose": []}
    for classes, points in zip(drawn["segmentation"].numpy(), drawn["landmarks"].numpy(), strict=True):
        mouth = np.isin(classes, (MOUTH, TEETH, LIPS))
        if (classes == EYE).sum() > 20:  # closed eyes show no eye
            off["eyes"].append(distance_to_edge(classes == EYE, points[EYES]))
        off["outer lips"].append(distance_to_edge(mouth, points[48:60]))
        off["inner lips"].append(distance_to(mouth, points[60:68]))
        off["brows"].append(distance_to(classes == BROWS, points[BROW_POINTS]))
        off["nose"].append(distance_to(np.isin(classes, (SKIN, LIPS)), points[NOSE]))
    for feature, distances in off.items():
        far = np.stack(distances)
        assert np.percentile(far, 98) <= 1.6, feature
        assert np.median(far) <= 0.6, feature
    assert len(off["eyes"]) >= 30


def test_jaw_points_follow_the_outline_of_a_frontal_face() -> None:
    faces = random_faces(30, yaw=0.0, pitch=0.0, roll=0.0, beard=0.0, goatee=0.0, **BARE)
    drawn = face_render(faces, 128, ("segmentation", "landmarks"))
    for classes, points in zip(drawn["segmentation"].numpy(), drawn["landmarks"].numpy(), strict=True):
        face = np.isin(classes, (SKIN, EYE, MOUTH, TEETH, LIPS, BROWS))
        assert distance_to_edge(face, points[JAW]).max() <= 3.5
        assert np.all(np.diff(points[3:14, 0]) > 0)
        assert points[8, 1] == points[JAW, 1].max()


def test_five_points_repeat_the_ibug_points() -> None:
    points = face_render(random_faces(20, **BARE), 128, ("landmarks",))["landmarks"].numpy()
    for side, contour in ((68, range(36, 42)), (69, range(42, 48))):
        centre = points[:, list(contour)].mean(1)
        assert np.linalg.norm(points[:, side] - centre, axis=1).max() < 3
    assert np.linalg.norm(points[:, 71] - points[:, 48], axis=1).max() < 1
    assert np.linalg.norm(points[:, 72] - points[:, 54], axis=1).max() < 1


# ---- an action unit moves its own part, in its own direction


@functools.cache
def at_rest() -> Array:
    return face_render(neutral(au25=0.2), 128, ("landmarks",))["landmarks"][0].numpy()


def moved(unit: str) -> Array:
    """[73, 2]: how far each point moves, in pixels at size 128, right and up."""
    points = face_render(neutral(**{"au25": 0.2, unit: 1.0}), 128, ("landmarks",))["landmarks"][0].numpy()
    shift: Array = points - at_rest()
    return shift * (1, -1)


def gap(unit: str | None, upper: int, lower: int) -> float:
    shift = moved(unit) if unit else np.zeros((73, 2))
    return float((at_rest()[lower] - at_rest()[upper])[1] + (shift[upper] - shift[lower])[1])


@pytest.mark.parametrize(
    ("unit", "points", "right", "up"),
    [
        ("au1", (21, 22), 0, 2),
        ("au2", (17, 26), 0, 2),
        ("au4", (21, 22), 0, -2),
        ("au5", (37, 38, 43, 44), 0, 0.6),
        ("au6", (40, 41, 46, 47), 0, 0.3),
        ("au9", (21, 22), 0, -1),
        ("au12", (48, 54), 0, 2),
        ("au12", (54,), 1, 0),
        ("au12", (48,), -1, 0),
        ("au15", (48, 54), 0, -1.5),
        ("au17", (57, 66), 0, 0.4),
        ("au20", (54,), 1, 0),
        ("au20", (48,), -1, 0),
        ("au26", (8, 57), 0, -3),
        ("au43", (37, 38, 43, 44), 0, -2),
    ],
)
def test_action_unit_moves_its_points(unit: str, points: tuple[int, ...], right: float, up: float) -> None:
    shift = moved(unit)[list(points)]
    for axis, least in ((0, right), (1, up)):
        if least:
            assert np.all(shift[:, axis] * np.sign(least) >= abs(least)), shift


def test_brows_are_drawn_together_and_the_mouth_opens() -> None:
    shift = moved("au4")
    assert shift[21, 0] > 0.5 > -0.5 > shift[22, 0]
    assert gap("au25", 62, 66) > gap(None, 62, 66) + 1
    assert gap("au26", 62, 66) > gap(None, 62, 66) + 4
    assert gap("au43", 37, 41) < 0.3 * gap(None, 37, 41)


UPPER = ("au1", "au2", "au4", "au5", "au43")
LOWER = ("au15", "au17", "au20", "au25", "au26")


@pytest.mark.parametrize("unit", [*UPPER, "au6", "au9", "au12", *LOWER])
def test_action_unit_leaves_the_rest(unit: str) -> None:
    shift = np.abs(moved(unit)).max(1)
    if unit in (*UPPER, "au6"):
        assert shift[LIP_POINTS + JAW[4:13]].max() < 0.3
    if unit in (*LOWER, "au12"):
        assert shift[BROW_POINTS + EYES].max() < 0.3
    if unit in ("au1", "au2"):
        assert shift[EYES].max() < 0.3
    if unit in ("au5", "au43", "au6"):
        assert shift[BROW_POINTS].max() < 0.3


@pytest.mark.parametrize("unit", [*UPPER, *LOWER])
def test_action_unit_changes_pixels_of_its_half(unit: str) -> None:
    before, after = (
        face_render(neutral(**{unit: amount}), 96, ("vis",))["vis"][0].int().numpy() for amount in (0.0, 1.0)
    )
    points = at_rest() * 96 / 128
    inner = slice(int(points[36, 0]), int(points[45, 0]))  # a dropped jaw moves the outline of the cheeks too
    rows = (np.abs(after - before).max(-1) > 6)[:, inner].sum(1)
    assert rows.sum() > 30
    if unit in UPPER:
        assert rows[int(points[33, 1]) :].sum() == 0
    else:
        assert rows[: int(points[EYES, 1].max())].sum() <= 0.01 * rows.sum()


# ---- one set of rays


def test_depth_and_segmentation_agree_on_the_background() -> None:
    drawn = face_render(random_faces(10), 96)
    background = drawn["segmentation"] == 0
    assert torch.equal(background, torch.isinf(drawn["depth"]))
    depth = drawn["depth"][~background]
    assert float(depth.min()) > 6
    assert float(depth.max()) < 11


def shifted(mask: Array, right: int, down: int) -> Array:
    return np.roll(mask, (down, right), (1, 2))


@pytest.mark.parametrize("spectrum", ["vis", "nir"])
def test_pictures_have_their_edges_where_the_labels_have_them(spectrum: str) -> None:
    faces = random_faces(12, background_kind=0.0, hair_curl=0.0)
    drawn = face_render(faces, 96)
    picture = drawn[spectrum].double().numpy()
    picture = picture.mean(-1) if picture.ndim == 4 else picture
    solid = drawn["segmentation"].numpy() != 0
    slope = np.abs(picture - shifted(picture, 1, 0))  # between a pixel and its left neighbour
    edge = solid != shifted(solid, 1, 0)
    edge[:, :, 0] = False
    on = slope[edge].mean()
    for right in (-3, -2, 2, 3):
        beside = shifted(edge, right, 0)
        assert slope[beside].mean() < 0.6 * on
