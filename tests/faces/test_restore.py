"""Putting faces back: exact outside the mask, 40 dB and more inside, whatever blends."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from scipy import ndimage

from pyface.data import ProceduralFaces
from pyface.errors import DTypeError, ShapeError, ValueRangeError
from pyface.faces import Face
from pyface.faces.blend import BLENDS
from pyface.faces.color import COLORS
from pyface.faces.extract import FaceExtractor
from pyface.faces.restore import FaceReconstructor

EVERY = list(itertools.product(BLENDS, COLORS))


@pytest.fixture(scope="module")
def stranger():
    """A rendered face of somebody else, and its landmarks."""
    sample = ProceduralFaces([77], 1, 256, ("vis",))[0]
    return sample.image, Face(np.zeros(4, np.float32), 1.0, sample.landmarks)


def swapped_in(stranger, crop):
    return FaceExtractor(size=crop.size).extract(*stranger).image


@pytest.mark.parametrize("blend", BLENDS)
def test_an_unchanged_crop_keeps_40_decibels(party, photographs, blend):
    """At the photograph's own scale; turned faces and faces at the edge too."""
    photo, faces, _ = party
    for face in faces:
        crop = FaceExtractor(size=None).extract(photo, face)
        reconstructor = FaceReconstructor(blend)
        found, weight = reconstructor.restore(photo, crop), reconstructor.weight(crop)
        np.testing.assert_array_equal(found[weight == 0], photo[weight == 0])
        assert photographs.psnr(found, photo, weight > 0) >= 40
        if blend == "alpha":
            assert photographs.psnr(found, photo, weight == 1) >= 40
        else:
            assert photographs.psnr(found, photo, weight == 1) >= 38


@pytest.mark.parametrize("seed", range(3))
def test_sharp_renders_keep_40_decibels(photographs, seed):
    """Pictures as the renderer gives them, at 128 pixels: sharper than photographs."""
    for sample in (ProceduralFaces(4, 1, 128, ("vis",), seed=seed)[i] for i in range(4)):
        crop = FaceExtractor(size=None).extract(
            sample.image, Face(np.zeros(4, np.float32), 1.0, sample.landmarks)
        )
        reconstructor = FaceReconstructor()
        found, weight = reconstructor.restore(sample.image, crop), reconstructor.weight(crop)
        assert photographs.psnr(found, sample.image, weight == 1) >= 40


def test_a_real_photograph_keeps_40_decibels(photographs):
    data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")
    photo = data.astronaut()
    five = np.array([[196, 109], [246, 110], [221, 137], [200, 157], [245, 158]], np.float32) + 0.5
    for template in ("ffhq", "arcface112", "eyes"):
        crop = FaceExtractor(template, None).extract(photo, Face(np.zeros(4, np.float32), 1.0, {"5pt": five}))
        reconstructor = FaceReconstructor()
        found, weight = reconstructor.restore(photo, crop), reconstructor.weight(crop)
        assert photographs.psnr(found, photo, weight == 1) >= 40


@pytest.mark.parametrize(("blend", "color"), EVERY)
def test_another_face_changes_nothing_outside(party, stranger, blend, color):
    photo, faces, _ = party
    kept = photo.copy()
    for face in faces[:3]:
        crop = FaceExtractor(size=160).extract(photo, face)
        reconstructor = FaceReconstructor(blend, color)
        found = reconstructor.restore(photo, crop, swapped_in(stranger, crop))
        weight = reconstructor.weight(crop)
        np.testing.assert_array_equal(found[weight == 0], photo[weight == 0])
        assert np.abs(found[weight == 1].astype(int) - photo[weight == 1]).mean() > 3
        assert found.dtype == np.uint8
    np.testing.assert_array_equal(photo, kept)


def test_the_mask_ends_where_the_crop_says(party):
    """No pixel further than one pixel of the crop from its mask is touched."""
    photo, faces, _ = party
    crop = FaceExtractor(size=64).extract(photo, faces[0])
    weight = FaceReconstructor().weight(crop)
    y, x = np.mgrid[: photo.shape[0], : photo.shape[1]] + 0.5
    u = np.floor(crop.matrix[0, 0] * x + crop.matrix[0, 1] * y + crop.matrix[0, 2]).astype(int)
    v = np.floor(crop.matrix[1, 0] * x + crop.matrix[1, 1] * y + crop.matrix[1, 2]).astype(int)
    reach = np.pad(crop.mask, 2)
    near = np.zeros((64, 64), bool)
    for dy, dx in itertools.product(range(1, 4), repeat=2):
        near |= reach[dy : dy + 64, dx : dx + 64] > 0
    seen = (u >= 0) & (u < 64) & (v >= 0) & (v < 64)
    allowed = np.zeros(weight.shape, bool)
    allowed[seen] = near[v[seen], u[seen]]
    assert not weight[~allowed].any()


@pytest.mark.parametrize("color", ["reinhard", "histogram"])
def test_colours_are_those_of_the_photograph(party, stranger, color):
    photo, faces, _ = party
    crop = FaceExtractor(size=200).extract(photo, faces[0])
    new = swapped_in(stranger, crop) // 2
    weight = FaceReconstructor().weight(crop)
    core = weight == 1
    plain = FaceReconstructor().restore(photo, crop, new)[core].mean(0)
    found = FaceReconstructor(color=color).restore(photo, crop, new)[core].mean(0)
    wanted = photo[core].mean(0)
    assert np.abs(found - wanted).max() < 16
    assert np.abs(plain - wanted).max() > 30


def test_poisson_takes_the_level_from_around(party):
    """A crop that is brighter all over comes back as if it were not."""
    photo, faces, _ = party
    photo = (photo // 2 + 40).astype(np.uint8)
    crop = FaceExtractor(size=None).extract(photo, faces[0])
    reconstructor = FaceReconstructor("poisson")
    plain = reconstructor.restore(photo, crop)
    brighter = reconstructor.restore(photo, crop, crop.image + np.uint8(40))
    assert np.abs(brighter.astype(int) - plain).max() <= 1


@pytest.mark.parametrize("size", [64, 400])
def test_any_size_of_crop(party, photographs, size):
    """Crops smaller and larger than the face, and new crops of another size than the one that was cut."""
    photo, faces, _ = party
    crop = FaceExtractor(size=size).extract(photo, faces[0])
    found = FaceReconstructor().restore(photo, crop)
    weight = FaceReconstructor().weight(crop)
    assert photographs.psnr(found, photo, weight > 0) > (26 if size == 64 else 40)
    double = np.asarray(crop.image).repeat(2, 0).repeat(2, 1)
    other = FaceReconstructor().restore(photo, crop, double)
    assert photographs.psnr(other, found, weight > 0) > 30


def test_tensors_of_generators(party):
    photo, faces, _ = party
    crop = FaceExtractor(size=96).extract(photo, faces[0])
    tensor = torch.from_numpy(crop.image).permute(2, 0, 1).float() / 127.5 - 1
    plain = FaceReconstructor().restore(photo, crop)
    for given in (tensor, tensor[None], tensor.clone().requires_grad_(), tensor.double()):
        found = FaceReconstructor().restore(photo, crop, given)
        assert np.abs(found.astype(int) - plain).max() <= 1


def test_detail_of_the_photograph(party, photographs):
    """Only changes are added: an unchanged crop gives the photograph itself, at any scale."""
    photo, faces, _ = party
    reconstructor = FaceReconstructor(detail="photo")
    for face in faces:
        crop = FaceExtractor(size=48).extract(photo, face)
        np.testing.assert_array_equal(reconstructor.restore(photo, crop), photo)
    crop = FaceExtractor(size=48).extract(photo, faces[0])
    darker = crop.image - crop.image // 4
    found = reconstructor.restore(photo, crop, darker)
    core = reconstructor.weight(crop) == 1
    np.testing.assert_allclose(found[core].mean(), photo[core].mean() * 0.75, atol=2)
    grain = np.abs(np.diff(photo.astype(float), axis=1))[:, :, 1][core[:, 1:]].mean()
    kept = np.abs(np.diff(found.astype(float), axis=1))[:, :, 1][core[:, 1:]].mean()
    lost = np.abs(np.diff(FaceReconstructor().restore(photo, crop, darker).astype(float), axis=1))
    assert kept > 0.8 * grain > lost[:, :, 1][core[:, 1:]].mean()


def test_several_faces_do_not_disturb_each_other(stranger, photographs):
    """Overlapping masks: the larger face lies on top, as nearer faces do; outside of all nothing changes."""
    photo, faces, _ = photographs.photograph(
        [(0.6, 0.2, (180, 150)), (0.9, -0.1, (250, 200))], 380, 480, seed=9
    )
    extractor = FaceExtractor(size=128, dilate=0.1)
    crops = extractor.extract_all(photo, faces)
    news = [swapped_in(stranger, crop) for crop in crops]
    for blend in BLENDS:
        reconstructor = FaceReconstructor(blend, "reinhard")
        small, large = (reconstructor.weight(crop) for crop in crops)
        assert ((small > 0) & (large > 0)).sum() > 100
        found = reconstructor.restore_all(photo, crops, news)
        outside = (small == 0) & (large == 0)
        np.testing.assert_array_equal(found[outside], photo[outside])
        alone = reconstructor.restore(photo, crops[0], news[0])
        np.testing.assert_array_equal(found[large == 0], alone[large == 0])
        turned_round = reconstructor.restore_all(photo, crops[::-1], news[::-1])
        np.testing.assert_array_equal(found, turned_round)
    top = FaceReconstructor()
    both, one = top.restore_all(photo, crops, news), top.restore(photo, crops[1], news[1])
    np.testing.assert_array_equal(both[large == 1], one[large == 1])


def test_frames_without_a_face_pass_unchanged(party, photographs):
    """Face, no face, face: nothing is kept from one frame to the next, and nothing is missing."""
    photo, faces, _ = party
    empty = photographs.background(120, 160)
    extractor, reconstructor = FaceExtractor(size=64), FaceReconstructor("multiband", "reinhard")
    frames = [(empty, []), (photo, faces), (empty, []), (photo, faces[:1])]
    found = [reconstructor.restore_all(f, extractor.extract_all(f, known)) for f, known in frames]
    np.testing.assert_array_equal(found[0], empty)
    np.testing.assert_array_equal(found[2], empty)
    assert found[0] is not empty
    fresh = FaceReconstructor("multiband", "reinhard")
    np.testing.assert_array_equal(found[3], fresh.restore_all(photo, extractor.extract_all(photo, faces[:1])))


def test_levels_are_not_stretched(party):
    photo, faces, _ = party
    dull = (photo // 8 + 100).astype(np.uint8)
    crop = FaceExtractor(size=None).extract(dull, faces[0])
    for blend in BLENDS:
        found = FaceReconstructor(blend).restore(dull, crop)
        assert np.abs(found.astype(int) - dull).max() <= 6


def test_erode_and_feather(party):
    photo, faces, _ = party
    crop = FaceExtractor(size=128, feather=0.05).extract(photo, faces[0])
    plain = FaceReconstructor().weight(crop)
    eroded = FaceReconstructor(erode=0.05).weight(crop)
    softer = FaceReconstructor(feather=0.15).weight(crop)
    sharp = FaceReconstructor(feather=0.0).weight(crop)
    near = ndimage.binary_dilation(plain > 0, iterations=2)
    for other in (eroded, softer, sharp):
        assert not other[~near].any()
    assert 0.6 < (eroded > 0).sum() / (plain > 0).sum() < 0.9
    assert (softer == 1).sum() < 0.8 * (plain == 1).sum()
    assert (sharp == 1).sum() > 1.2 * (plain == 1).sum()
    gone = FaceReconstructor(erode=0.5)
    assert not gone.weight(crop).any()
    np.testing.assert_array_equal(gone.restore(photo, crop, 255 - crop.image), photo)


def test_sharpen_and_blur(party):
    photo, faces, _ = party
    crop = FaceExtractor(size=None).extract(photo, faces[0])
    core = FaceReconstructor().weight(crop) == 1

    def contrast(sharpen):
        found = FaceReconstructor(sharpen=sharpen).restore(photo, crop).astype(float)
        return np.abs(np.diff(found, axis=1))[core[:, 1:]].mean()

    assert contrast(-1.0) < 0.8 * contrast(0.0)
    assert contrast(1.0) > 1.2 * contrast(0.0)


def test_grey_photographs(party):
    photo, faces, _ = party
    for grey in (photo[..., 0], photo[..., :1]):
        crop = FaceExtractor(size=100).extract(grey, faces[0])
        for blend, color in EVERY:
            reconstructor = FaceReconstructor(blend, color)
            found = reconstructor.restore(grey, crop, 255 - crop.image)
            assert found.shape == grey.shape
            outside = reconstructor.weight(crop) == 0
            np.testing.assert_array_equal(found[outside], grey[outside])


@pytest.mark.parametrize(("blend", "color"), EVERY)
def test_faces_below_a_pixel_and_empty_masks(party, blend, color):
    photo, faces, _ = party
    points = faces[0].landmarks["5pt"]
    for divisor in (30.0, 200.0, 3000.0):
        tiny = ((points - points.mean(0)) / divisor + [100.3, 80.4]).astype(np.float32)
        crop = FaceExtractor(size=64).extract(photo, Face(faces[0].box, 1.0, {"5pt": tiny}))
        reconstructor = FaceReconstructor(blend, color)
        found = reconstructor.restore(photo, crop, 255 - crop.image)
        outside = reconstructor.weight(crop) == 0
        assert outside.sum() > outside.size - 100
        np.testing.assert_array_equal(found[outside], photo[outside])
    empty = dataclasses.replace(crop, mask=crop.mask * 0)
    np.testing.assert_array_equal(FaceReconstructor(blend, color).restore(photo, empty), photo)


def test_errors(party):
    photo, faces, _ = party
    crop = FaceExtractor(size=64).extract(photo, faces[0])
    restore = FaceReconstructor().restore
    for bad, message in (
        ({"blend": "paste"}, "blend must be one of alpha, poisson, multiband; got 'paste'"),
        ({"color": "lab"}, "color must be one of none, reinhard, histogram"),
        ({"detail": "both"}, "detail must be one of crop, photo"),
        ({"erode": -0.1}, "erode must be from"),
        ({"feather": 0.7}, "feather must be from"),
        ({"sharpen": -2}, "sharpen must be from -1.0 to 10.0"),
    ):
        with pytest.raises(ValueRangeError, match=message):
            FaceReconstructor(**bad)
    with pytest.raises(ShapeError, match=r"size that the face was cut from, \[400, 640\]; got \[200, 640\]"):
        restore(photo[::2], crop)
    with pytest.raises(ShapeError, match="photo must be uint8"):
        restore(photo.astype(float), crop)
    with pytest.raises(ShapeError, match="square with 3 channels"):
        restore(photo, crop, crop.image[:-1])
    with pytest.raises(ShapeError, match="square with 3 channels"):
        restore(photo, crop, crop.image[..., 0])
    with pytest.raises(ShapeError, match="crop must be uint8"):
        restore(photo, crop, crop.image.astype(float))
    with pytest.raises(DTypeError, match=r"floating point in \[-1, 1\]; got torch.uint8"):
        restore(photo, crop, torch.zeros([3, 8, 8], dtype=torch.uint8))
    with pytest.raises(ShapeError, match="a crop for each face; got 1 for 2 faces"):
        FaceReconstructor().restore_all(photo, [crop, crop], [None])
    with pytest.raises(ShapeError, match=r"mask must be uint8 \[64, 64\]"):
        restore(photo, dataclasses.replace(crop, mask=crop.mask[1:]))
