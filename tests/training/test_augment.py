"""The augmentation pipe: golden values, samples that depend on themselves alone, statistics, derivatives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyface.errors import DTypeError, ShapeError, ValueRangeError
from pyface.training.augment import AugmentPipe
from pyface.training.augment_filters import band_filters, filter_bands, reflected, wavelet_low_pass
from pyface.training.augment_geometry import resample, warp
from pyface.training.augment_parameters import Dice, affine_matrices, colour_matrices
from pyface.training.augment_settings import AUGMENT_SETS, TRANSFORMS, Augmentations, augmentations
from pyface.training.draws import Draws, Rows

QUIET = tuple(name for name in TRANSFORMS if name != "noise")
GOLDEN = [f"{name}/p{q}" for name in QUIET for q in (20, 50, 80)] + ["all/p30", "sq/all/p65"]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _draws(total, index=None, key=(0, 0, 0)):
    rows = torch.arange(total) if index is None else torch.as_tensor(index)
    return Draws(key, Rows(rows, total))


def _images(*shape, seed=0, dtype=torch.float32):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 2 - 1


def _only(*names):
    return Augmentations(**dict.fromkeys(names, 1.0))


@pytest.mark.parametrize("case", GOLDEN)
def test_golden(golden, case):
    arrays = golden("augment.npz")
    expected = arrays[case]
    images = torch.from_numpy(arrays["sq/img" if case.startswith("sq/") else "img"])
    name, percentile = case.rsplit("/p", 1)
    pipe = AugmentPipe(_only(*QUIET) if name.endswith("all") else _only(name), p=1)
    result = pipe(images, percentile=int(percentile) / 100)
    np.testing.assert_allclose(result.numpy(), expected, atol=2e-5, rtol=0)


def test_golden_filters(golden):
    arrays = golden("augment.npz")
    np.testing.assert_allclose(wavelet_low_pass().numpy(), arrays["Hz_geom"], atol=1e-7)
    np.testing.assert_allclose(band_filters().numpy(), arrays["Hz_fbank"], atol=1e-7)


def test_bands_sum_to_one():
    whole = torch.zeros(43, dtype=torch.float64)
    whole[21] = 1
    torch.testing.assert_close(band_filters().sum(0), whole, atol=1e-11, rtol=0)


@pytest.mark.parametrize("kinds", ["bgcfnc", "bg"])
def test_a_sample_is_the_same_in_every_batch(kinds):
    pipe = AugmentPipe(kinds, p=0.7)
    images = _images(6, 3, 20, 17)
    whole = pipe(images, _draws(6))
    parts = [pipe(images[rows], _draws(6, rows)) for rows in ([0, 3], [1, 2, 5], [4])]
    again = torch.cat(parts)[torch.tensor([0, 2, 3, 1, 5, 4])]
    assert torch.equal(whole, again), "on one thread, to the bit"
    assert not torch.equal(whole, pipe(images, _draws(6, key=(0, 1, 0))))


def test_threads_change_nothing_but_rounding():
    pipe = AugmentPipe("bg", p=1)
    images = _images(7, 2, 15, 22, dtype=torch.float64)
    alone = pipe(images, _draws(7))
    torch.set_num_threads(3)
    torch.testing.assert_close(alone, pipe(images, _draws(7)), atol=1e-12, rtol=1e-10)


def test_p_zero_is_the_identity_without_draws():
    images = _images(2, 3, 8, 8)
    assert AugmentPipe("bgcfnc", p=0)(images) is images


@pytest.mark.parametrize("kinds", AUGMENT_SETS)
def test_every_set_keeps_shape_and_dtype(kinds):
    pipe = AugmentPipe(kinds, p=1)
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        images = _images(3, 1, 9, 12).to(dtype)
        result = pipe(images, _draws(3))
        assert result.dtype == dtype
        assert result.shape == images.shape
        assert torch.isfinite(result).all()
        assert not torch.equal(result, images)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 3), (7, 1), (40, 3), (5, 64)])
def test_any_size(size):
    images = _images(4, 3, *size)
    for percentile in (None, 0.05, 0.95):
        result = AugmentPipe("bgcfnc", p=1)(images, _draws(4), percentile=percentile)
        assert result.shape == images.shape
        assert torch.isfinite(result).all()


def test_untouched_samples_come_back_as_they_are():
    pipe = AugmentPipe(_only(*QUIET), p=0.05)
    images = _images(64, 3, 8, 8)
    result = pipe(images, _draws(64))
    same = (result == images).flatten(1).all(1)
    assert 5 < int(same.sum()) < 60, "14 transforms at 5 %: about 40 % of the samples escape all of them"


@pytest.mark.parametrize("p", [0.2, 0.8])
def test_probabilities(p):
    count = 20000
    dice = Dice(count, p, _draws(count))
    tolerance = 4 * (p * (1 - p) / count) ** 0.5
    assert abs(dice.happens(1.0).mean() - p) < tolerance
    assert abs(dice.happens(0.5).mean() - p / 2) < tolerance
    eye = np.eye(3)
    for name, share in {"scale": p, "aniso": p, "xfrac": p, "rotate": p, "xflip": p / 2}.items():
        dice = Dice(count, p, _draws(count))
        moved = (affine_matrices(_only(name), dice, 64, 64) != eye).any(axis=(1, 2))
        assert abs(moved.mean() - share) < tolerance, name
    dice = Dice(count, p, _draws(count))
    turned = (affine_matrices(_only("rotate90"), dice, 64, 64) != eye).any(axis=(1, 2))
    assert abs(turned.mean() - p * 3 / 4) < tolerance


def test_strengths():
    count = 20000
    kinds = _only("scale")
    zoom = 1 / affine_matrices(kinds, Dice(count, 1, _draws(count)), 64, 64)[:, 0, 0]
    assert abs(np.log2(zoom).std() - 0.2) < 0.005
    moved = affine_matrices(_only("xint"), Dice(count, 1, _draws(count)), 64, 32)
    assert set(np.unique(moved[:, 0, 2])) == set(range(-4, 5))
    assert set(np.unique(moved[:, 1, 2])) == set(range(-8, 9))
    bright = colour_matrices(_only("brightness"), Dice(count, 1, _draws(count)))[:, 0, 3]
    assert abs(bright.std() - 0.2) < 0.005
    noisy = AugmentPipe(_only("noise"), p=1)(torch.zeros(2000, 1, 8, 8), _draws(2000))
    assert abs(float(noisy.square().mean().sqrt()) - 0.1) < 0.005
    cut = AugmentPipe(_only("cutout"), p=1)(torch.ones(2000, 1, 16, 16), _draws(2000))
    assert abs(float(cut[:, :, 8, 8].mean()) - 3 / 4) < 0.05, "half the centres of each axis hide the middle"
    assert abs(float(cut[:, :, 0, 0].mean()) - 15 / 16) < 0.03


def test_a_whole_turn_and_integer_shift_by_hand():
    """A shift by whole pixels of a smooth picture is exact; what enters is the mirror image."""
    ramp = torch.arange(24, dtype=torch.float64)[None, None, None, :].expand(1, 1, 16, 24).contiguous()
    inverse = np.eye(3)[None].copy()
    inverse[0, 0, 2] = -3
    moved = resample(ramp, inverse, wavelet_low_pass())[0, 0, 8]
    torch.testing.assert_close(moved[8:18], ramp[0, 0, 8, 5:15], atol=2e-3, rtol=0)
    half = np.diag([-1.0, -1.0, 1.0])[None]
    turned = resample(ramp, half, wavelet_low_pass())[0, 0, 8]
    torch.testing.assert_close(turned[6:18], ramp[0, 0, 8].flip(0)[6:18], atol=2e-1, rtol=0)


def test_spectra_share_geometry_and_not_colour():
    vis, nir = _images(5, 3, 16, 16), _images(5, 1, 16, 16, seed=1)
    pipe = AugmentPipe(_only("scale", "rotate", "xfrac", "cutout"), p=1)
    both = pipe({"vis": vis, "nir": nir}, _draws(5))
    torch.testing.assert_close(both["vis"], pipe(vis, _draws(5)))
    torch.testing.assert_close(both["nir"], pipe(nir, _draws(5)))
    coloured = AugmentPipe("color", p=1)
    grey = _images(5, 1, 4, 4)
    two = coloured({"a": grey, "b": grey}, _draws(5))
    torch.testing.assert_close(two["a"], coloured(grey, _draws(5)))
    assert not torch.allclose(two["a"], two["b"])


def test_one_channel_is_the_mean_of_three_equal_ones():
    grey = _images(6, 1, 6, 7)
    pipe = AugmentPipe("color", p=1)
    colour = pipe(grey.expand(-1, 3, -1, -1), _draws(6))
    torch.testing.assert_close(pipe(grey, _draws(6)), colour.mean(1, keepdim=True))
    many = AugmentPipe(_only("brightness", "contrast"), p=1)
    four = many(grey.expand(-1, 4, -1, -1), _draws(6))
    torch.testing.assert_close(four, many(grey, _draws(6)).expand(-1, 4, -1, -1))


def test_reflection_equals_numpy():
    image = _images(1, 2, 3, 5)
    expected = np.pad(image.numpy(), ((0, 0), (0, 0), (7, 8), (11, 4)), mode="reflect")
    np.testing.assert_array_equal(reflected(image, -11, 9, -7, 11).numpy(), expected)
    np.testing.assert_array_equal(reflected(image, 1, 3, 1, 2).numpy(), image[:, :, 1:2, 1:3].numpy())
    np.testing.assert_array_equal(reflected(image, -2, 3, 0, 3).numpy(), expected[:, :, 7:10, 9:14])


def test_filtering_equals_the_sum_of_the_bands():
    images = _images(3, 2, 30, 25, dtype=torch.float64)
    gains = np.array([[1.5, 0.5, 2, 1], [1, 1, 1, 1], [0.3, 1, 1, 4]])
    bands = band_filters()
    result = filter_bands(images, gains, bands)
    wide = reflected(images, -21, 46, -21, 51)
    for axis in (3, 2):
        shape = (1, 1, 1, 43) if axis == 3 else (1, 1, 43, 1)
        flat = wide.reshape(-1, 1, *wide.shape[2:])
        each = [torch.nn.functional.conv2d(flat, band.reshape(shape)).reshape(3, 2, -1) for band in bands]
        size = (wide.shape[2], wide.shape[3] - 42) if axis == 3 else (wide.shape[2] - 42, wide.shape[3])
        weights = torch.from_numpy(gains).t()[:, :, None, None]
        wide = sum(w * e for w, e in zip(weights, each, strict=True)).reshape(3, 2, *size)
    torch.testing.assert_close(result, wide, atol=1e-6, rtol=1e-6)
    assert torch.equal(result[1], images[1])


def test_warp_has_all_derivatives():
    images = _images(2, 2, 5, 4, dtype=torch.float64).requires_grad_(True)
    grid = _images(2, 3, 6, 2, seed=3, dtype=torch.float64) * 1.3
    assert torch.autograd.gradcheck(lambda x: warp(x, grid), (images,))
    assert torch.autograd.gradgradcheck(lambda x: warp(x, grid).square(), (images,))


@pytest.mark.parametrize("kinds", ["bg", "color", "filter", "bgcfnc"])
def test_second_derivatives(kinds):
    pipe = AugmentPipe(kinds, p=0.9)
    images = _images(2, 3, 4, 5, dtype=torch.float64).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: pipe(x, _draws(2)), (images,))
    assert torch.autograd.gradgradcheck(lambda x: pipe(x, _draws(2)).pow(3), (images,))


def test_channels_last_and_strided_images():
    images = _images(3, 3, 16, 12)
    pipe = AugmentPipe("bgcfnc", p=1)
    expected = pipe(images, _draws(3))
    last = pipe(images.contiguous(memory_format=torch.channels_last), _draws(3))
    torch.testing.assert_close(last, expected)
    strided = images.transpose(2, 3).contiguous().transpose(2, 3)
    torch.testing.assert_close(pipe(strided, _draws(3)), expected)


def test_a_pipe_in_other_precision_does_the_same():
    images = _images(3, 3, 12, 10, dtype=torch.float64)
    pipe = AugmentPipe("bgcf", p=0.75)
    expected = pipe(images, _draws(3))
    assert torch.equal(pipe.double()(images, _draws(3)), expected)


def test_state_is_p_alone():
    pipe = AugmentPipe("bgc", p=0.25)
    assert set(pipe.state_dict()) == {"p"}
    other = AugmentPipe("bgc")
    other.load_state_dict(pipe.state_dict())
    assert float(other.p) == 0.25


def test_errors():
    pipe = AugmentPipe("bgc", p=0.5)
    with pytest.raises(ValueRangeError, match=r"'bcg' is not known; allowed: blit, geom, color"):
        augmentations("bcg")
    with pytest.raises(ValueRangeError, match="p is the probability"):
        AugmentPipe("bgc", p=-0.1)
    with pytest.raises(ValueRangeError, match="xflip is a relative probability from 0 to 1; got 2"):
        Augmentations(xflip=2)
    with pytest.raises(ValueRangeError, match="scale_std must be 0 or more"):
        Augmentations(scale_std=-1)
    with pytest.raises(ValueRangeError, match="4 relative probabilities"):
        Augmentations(imgfilter_bands=(1, 1, 1))
    with pytest.raises(ValueRangeError, match="needs draws"):
        pipe(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueRangeError, match="percentile must lie between 0 and 1"):
        pipe(torch.zeros(1, 3, 8, 8), percentile=1.0)
    with pytest.raises(ShapeError, match=r"\[N, C, H, W\]"):
        pipe(torch.zeros(3, 8, 8), _draws(3))
    with pytest.raises(ShapeError, match="N, H and W must be equal"):
        pipe({"vis": torch.zeros(1, 3, 8, 8), "nir": torch.zeros(1, 1, 4, 4)}, _draws(1))
    with pytest.raises(DTypeError, match="uint8"):
        pipe(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), _draws(1))
    with pytest.raises(ValueRangeError, match=r"lumaflip, hue, saturation need images of 1 or 3 channels"):
        pipe(torch.zeros(1, 4, 8, 8), _draws(1))
    with pytest.raises(ValueRangeError, match="draws are for 2 samples; the images are 3"):
        pipe(torch.zeros(3, 3, 8, 8), _draws(2))
