"""Cutting faces out: the one map, the mask, the features."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pyface.errors import ShapeError, ValueRangeError
from pyface.faces import Face
from pyface.faces.affine import inverse, transform_points
from pyface.faces.align import align
from pyface.faces.extract import ExtractedFace, FaceExtractor


def test_landmarks_are_moved_by_the_map(party):
    photo, faces, _ = party
    for face in faces:
        crop = FaceExtractor(size=200, margin=0.2).extract(photo, face)
        for scheme, points in face.landmarks.items():
            np.testing.assert_allclose(
                crop.landmarks[scheme], transform_points(crop.matrix, points), atol=1e-3
            )
            back = transform_points(inverse(crop.matrix), crop.landmarks[scheme])
            np.testing.assert_allclose(back, points, atol=1e-3)


@pytest.mark.parametrize("template", ["ffhq", "arcface112", "eyes", "mouth"])
def test_without_a_margin_the_map_is_that_of_align(party, template):
    photo, faces, _ = party
    crop = FaceExtractor(template, 112).extract(photo, faces[0])
    aligned = align(photo, faces[0], template, 112)
    np.testing.assert_allclose(crop.matrix, aligned.matrix, atol=1e-9)
    assert crop.template == template
    both = crop.valid & aligned.valid
    inside = both[3:-3, 3:-3]
    difference = np.abs(crop.image.astype(int) - aligned.image)[3:-3, 3:-3][inside]
    assert difference.mean() < 2.0


@pytest.mark.parametrize("margin", [-0.1, 0.0, 0.25])
def test_margin_shows_more_on_every_side(party, margin):
    photo, faces, _ = party
    plain = FaceExtractor(size=120).extract(photo, faces[0])
    wider = FaceExtractor(size=120, margin=margin).extract(photo, faces[0])
    corners = transform_points(inverse(wider.matrix), [(0, 0), (120, 120)])
    seen = transform_points(plain.matrix, corners)
    np.testing.assert_allclose(seen, [[-120 * margin] * 2, [120 + 120 * margin] * 2], atol=1e-6)


def test_own_scale_loses_nothing(party):
    photo, faces, _ = party
    for face in faces:
        crop = FaceExtractor(size=None).extract(photo, face)
        assert crop.extent <= crop.size < crop.extent + 1
        assert FaceExtractor(size=None, margin=0.5).extract(photo, face).extent == pytest.approx(
            2 * crop.extent
        )


def test_tall_and_wide_faces_are_centred(party):
    """A crop whose centring compared the height with the width twice never centred tall faces."""
    photo, faces, _ = party
    points = faces[0].landmarks["5pt"]
    middle = points.mean(0)
    for stretch in ([1.0, 1.6], [1.6, 1.0]):
        five = ((points - middle) * stretch + middle).astype(np.float32)
        crop = FaceExtractor("arcface112", 112).extract(photo, Face(faces[0].box, 1.0, {"5pt": five}))
        np.testing.assert_allclose(crop.landmarks["5pt"].mean(0), [56.5, 72.3], atol=0.2)
        assert crop.mask[56, 56] == 255


def test_levels_are_not_stretched(party):
    """A dull photograph stays dull: no crop is scaled to its own darkest and brightest level."""
    photo, faces, _ = party
    dull = (photo // 8 + 100).astype(np.uint8)
    crop = FaceExtractor(size=None).extract(dull, faces[0])
    assert crop.image.min() >= dull.min() - 3
    assert crop.image.max() <= dull.max() + 3


def test_no_face_gives_no_crop(party):
    assert FaceExtractor().extract_all(party[0], []) == []


def test_order_is_kept(party):
    photo, faces, _ = party
    extractor = FaceExtractor(size=64)
    for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
        crops = extractor.extract_all(photo, [faces[i] for i in order])
        for i, crop in zip(order, crops, strict=True):
            np.testing.assert_array_equal(crop.image, extractor.extract(photo, faces[i]).image)


def test_edge_faces_are_mirrored_and_marked(party):
    photo, faces, _ = party
    crop = FaceExtractor(size=128).extract(photo, faces[2])
    assert 0.1 < crop.valid.mean() < 0.95
    assert not FaceExtractor(size=128).extract(photo, faces[0]).valid.all() or crop.image[~crop.valid].any()
    assert crop.image[~crop.valid].std() > 5


def test_grey_photographs(party):
    photo, faces, _ = party
    crop = FaceExtractor(size=64).extract(photo[..., 1], faces[0])
    assert crop.image.shape == (64, 64)
    np.testing.assert_array_equal(crop.image, FaceExtractor(size=64).extract(photo, faces[0]).image[..., 1])
    assert crop.low_resolution(4).shape == (4, 4, 1)
    assert crop.histogram().shape == (1, 10)


# --- masks -------------------------------------------------------------------------------------------------


def test_hull_covers_the_landmarks(party):
    photo, faces, _ = party
    crop = FaceExtractor(size=256, feather=0.0, dilate=0.03).extract(photo, faces[0])
    at = np.floor(crop.landmarks["ibug68"]).astype(int)
    assert (crop.mask[at[:, 1], at[:, 0]] == 255).all()
    smaller = FaceExtractor(size=256, feather=0.0, dilate=0.0, forehead=False).extract(photo, faces[0])
    assert (crop.mask[smaller.mask == 255] == 255).all()
    assert (crop.mask > 0).sum() > 1.2 * (smaller.mask > 0).sum()


def test_segmentation_is_the_mask(party):
    photo, faces, areas = party
    extractor = FaceExtractor(size=None, mask="segmentation", dilate=0.0, feather=0.0)
    everyone = np.logical_or.reduce(areas)
    for face, area in zip(faces, areas, strict=True):
        crop = extractor.extract(photo, face, segmentation=everyone)
        own = FaceExtractor(size=None, mask="segmentation", dilate=0.0, feather=0.0).extract(
            photo, face, segmentation=area
        )
        np.testing.assert_array_equal(crop.mask, own.mask)
        covered = (crop.mask > 127).sum() / area.sum()
        assert 0.75 < covered < 1.2 or not crop.valid.all()
    grown = FaceExtractor(size=None, mask="segmentation", dilate=0.05, feather=0.0)
    crop = grown.extract(photo, faces[0], segmentation=areas[0])
    tight = extractor.extract(photo, faces[0], segmentation=areas[0])
    assert (crop.mask[tight.mask > 0] > 0).all()
    assert (crop.mask > 0).sum() > 1.1 * (tight.mask > 0).sum()


def test_a_parser_makes_the_mask(party):
    photo, faces, _ = party

    def left_half(crop):
        mask = np.zeros(crop.shape[:2], bool)
        mask[:, : crop.shape[1] // 2] = True
        return mask

    crop = FaceExtractor(size=64, mask=left_half, dilate=0.0, feather=0.0).extract(photo, faces[0])
    assert (crop.mask[:, :32] == 255).all()
    assert not crop.mask[:, 32:].any()
    with pytest.raises(ShapeError, match=r"parser must give bool \[64, 64\]; it gave uint8 \[64, 64, 3\]"):
        FaceExtractor(size=64, mask=lambda crop: crop).extract(photo, faces[0])


def test_box_and_oval(party):
    photo, faces, _ = party
    box = FaceExtractor(size=64, mask="box", feather=0.0).extract(photo, faces[0])
    assert (box.mask == 255).all()
    soft = FaceExtractor(size=64, mask="box", feather=0.1).extract(photo, faces[0])
    assert soft.mask[0].max() < 64
    oval = FaceExtractor(size=64, mask="oval").extract(photo, faces[0])
    hull = FaceExtractor(size=64, mask="hull").extract(photo, faces[0])
    both = (oval.mask > 127) & (hull.mask > 127)
    assert both.sum() > 0.75 * ((oval.mask > 127) | (hull.mask > 127)).sum()


# --- features ----------------------------------------------------------------------------------------------


def test_features(party):
    photo, faces, _ = party
    crop = FaceExtractor(size=96).extract(photo, faces[0])
    shares = crop.landmark_features("ibug68").reshape(68, 2)
    np.testing.assert_allclose((shares + 1) / 2 * 96, crop.landmarks["ibug68"], atol=1e-4)
    assert crop.landmark_features("5pt").shape == (10,)
    small = crop.low_resolution(8)
    blocks = crop.image.reshape(8, 12, 8, 12, 3).mean((1, 3))
    np.testing.assert_allclose((small + 1) * 127.5, blocks, atol=0.01)
    counts = (crop.histogram(10) + 1) / 2 * 96 * 96
    for channel in range(3):
        truth = np.histogram(crop.image[..., channel], bins=10, range=(0, 256))[0]
        np.testing.assert_allclose(counts[channel], truth, atol=0.01)
    masked = crop.histogram(10, masked=True)
    np.testing.assert_allclose(((masked + 1) / 2).sum(1), 1.0, atol=1e-5)
    assert np.abs(masked - crop.histogram(10)).max() > 0.01


@pytest.mark.parametrize("side", [1, 5, 7, 20])
def test_low_resolution_of_any_side_is_the_mean_of_areas(party, side):
    photo, faces, _ = party
    crop = FaceExtractor(size=96).extract(photo, faces[0])
    fine = crop.image.repeat(side, 0).repeat(side, 1).astype(np.float64)  # areas of whole pixels
    areas = fine.reshape(side, 96, side, 96, 3).mean((1, 3)) / 127.5 - 1
    found = crop.low_resolution(side)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, areas, atol=1e-5)


def test_low_resolution_of_a_large_crop_needs_no_more_memory_than_it():
    size, side = 1024, 333
    image = np.full((size, size, 3), 51, np.uint8)
    mask = np.zeros((size, size), np.uint8)
    crop = ExtractedFace(image, np.eye(2, 3), mask, {}, (size, size), "ffhq")
    np.testing.assert_allclose(crop.low_resolution(side), 51 / 127.5 - 1, atol=1e-5)


def test_feature_errors(party):
    photo, faces, _ = party
    crop = FaceExtractor(size=32).extract(photo, faces[0])
    with pytest.raises(ValueRangeError, match="no landmarks 'mesh468'; it has ibug68, 5pt"):
        crop.landmark_features("mesh468")
    with pytest.raises(ValueRangeError, match="side must be from 1 to 32; got 33"):
        crop.low_resolution(33)
    with pytest.raises(ValueRangeError, match="bins must be"):
        crop.histogram(0)
    with pytest.raises(ValueRangeError, match="mask of the crop is empty"):
        dataclasses.replace(crop, mask=crop.mask * 0).histogram(masked=True)


# --- errors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 2}, "size must be from 4 to 4096, or None; got 2"),
        ({"mask": "heart"}, "mask must be one of hull, oval, box, segmentation, or a callable; got 'heart'"),
        ({"margin": -0.5}, "margin must be from -0.45"),
        ({"dilate": 0.6}, "dilate must be from 0.0 to 0.5"),
        ({"feather": -0.1}, "feather must be from 0.0 to 0.5"),
        ({"template": "nose"}, "no template 'nose'"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(ValueRangeError, match=message):
        FaceExtractor(**arguments)


def test_bad_photographs(party):
    photo, faces, areas = party
    extractor = FaceExtractor(size=32)
    for bad in (photo.astype(np.float32), photo[..., :2], photo[:0], photo.tolist()):
        with pytest.raises(ShapeError, match="photo must be uint8"):
            extractor.extract(bad, faces[0])
    with pytest.raises(ShapeError, match=r"segmentation must be bool \[400, 640\].*got NoneType"):
        FaceExtractor(mask="segmentation").extract(photo, faces[0])
    with pytest.raises(ShapeError, match=r"np\.isin"):
        FaceExtractor(mask="segmentation").extract(photo, faces[0], segmentation=areas[0].astype(np.uint8))


def test_faces_that_are_none(party):
    photo, faces, areas = party
    far = Face(faces[0].box, 1.0, {k: p + 5000 for k, p in faces[0].landmarks.items()})
    with pytest.raises(ValueRangeError, match="outside the photograph of 640 x 400"):
        FaceExtractor().extract(photo, far)
    with pytest.raises(ValueRangeError, match="landmarks"):
        FaceExtractor().extract(photo, Face(faces[0].box, 1.0, {"5pt": np.full((5, 2), 50, np.float32)}))
    with pytest.raises(ValueRangeError, match="finite"):
        FaceExtractor().extract(photo, Face(faces[0].box, 1.0, {"5pt": np.full((5, 2), np.nan, np.float32)}))
    with pytest.raises(ValueRangeError, match="landmarks"):
        FaceExtractor().extract(photo, Face(faces[0].box, 1.0))
    with pytest.raises(ValueRangeError, match="its mask is empty"):
        FaceExtractor(mask="segmentation").extract(photo, faces[0], segmentation=areas[0] & False)


def test_a_face_of_one_pixel(party):
    photo, faces, _ = party
    points = faces[0].landmarks["5pt"]
    tiny = ((points - points.mean(0)) / 200 + [100.3, 80.4]).astype(np.float32)
    crop = FaceExtractor(size=64).extract(photo, Face(faces[0].box, 1.0, {"5pt": tiny}))
    assert crop.extent < 3
    assert FaceExtractor(size=None).extract(photo, Face(faces[0].box, 1.0, {"5pt": tiny})).size == 4
