"""Statistics gathered in blocks equal those of the whole; numbers of different extractors do not mix."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyface.errors import CheckpointError, DTypeError, ShapeError, ValueRangeError
from pyface.metrics import FaceFeatures, FeatureExtractor, FeatureStatistics, features_of, frechet_between
from pyface.models import FaceRecognition, RecognitionConfig


def small_network(seed=0, **config):
    torch.manual_seed(seed)
    sizes = {"resolution": 16, "channels": (4, 4, 4, 4, 8), "num_features": 12, "embedding_dim": 6}
    return FaceRecognition(RecognitionConfig(**(sizes | config))).eval()


def uint8_images(n, seed=0, channels=3, size=16):
    return torch.randint(0, 256, (n, channels, size, size), generator=torch.Generator().manual_seed(seed)).to(
        torch.uint8
    )


@pytest.mark.parametrize("cuts", [(), (1,), (3, 4), (10, 10, 33)])
def test_blocks_give_what_the_whole_gives(cuts):
    x = np.random.RandomState(0).randn(50, 7) * np.arange(1, 8) + 1e6  # far from zero: nothing may cancel
    found = FeatureStatistics(7)
    for part in np.split(x, cuts):
        found.add(part)
    assert found.count == 50
    np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-14)
    np.testing.assert_allclose(found.covariance, np.cov(x.T), rtol=1e-9, atol=1e-9)


def test_merging_gives_what_the_whole_gives():
    x = np.random.RandomState(1).randn(40, 5)
    a, b = FeatureStatistics.of(x[:13], "e"), FeatureStatistics.of(x[13:], "e")
    a.merge(b)
    whole = FeatureStatistics.of(x, "e")
    assert a.count == whole.count
    np.testing.assert_allclose(a.mean, whole.mean, atol=1e-15)
    np.testing.assert_allclose(a.covariance, whole.covariance, atol=1e-14)
    empty = FeatureStatistics(5, "e")
    empty.merge(a)
    empty.merge(FeatureStatistics(5, "e"))
    np.testing.assert_array_equal(empty.covariance, a.covariance)


def test_save_and_load(tmp_path):
    found = FeatureStatistics.of(np.random.RandomState(2).randn(9, 4), "print")
    found.save(tmp_path / "s.npz")
    again = FeatureStatistics.load(tmp_path / "s.npz")
    assert (again.count, again.fingerprint, again.dim) == (9, "print", 4)
    np.testing.assert_array_equal(again.covariance, found.covariance)
    (tmp_path / "bad.npz").write_bytes(b"PK no archive")
    whole = (tmp_path / "s.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    np.save(tmp_path / "array.npy", np.zeros(3))
    for name in ("bad.npz", "cut.npz", "array.npy", "absent.npz"):
        with pytest.raises(CheckpointError, match=name):
            FeatureStatistics.load(tmp_path / name)


def test_another_format_is_refused(tmp_path):
    np.savez(tmp_path / "s.npz", format=2, count=3, mean=np.zeros(2), scatter=np.eye(2), fingerprint="print")
    with pytest.raises(CheckpointError, match="has format 2"):
        FeatureStatistics.load(tmp_path / "s.npz")


def test_different_extractors_are_refused():
    x = np.random.RandomState(3).randn(30, 4)
    a, b = FeatureStatistics.of(x, "one"), FeatureStatistics.of(x, "two")
    with pytest.raises(ValueRangeError, match="different extractors"):
        a.merge(b)
    with pytest.raises(ValueRangeError, match="different extractors"):
        frechet_between(a, b)


def test_bad_features_are_refused():
    with pytest.raises(ShapeError):
        FeatureStatistics(3).add(np.zeros((2, 4)))
    with pytest.raises(ShapeError):
        FeatureStatistics.of(np.zeros(4))
    with pytest.raises(ValueRangeError, match="not finite"):
        FeatureStatistics.of(np.full((2, 2), np.nan))
    with pytest.raises(ValueRangeError, match="two images"):
        _ = FeatureStatistics.of(np.zeros((1, 2))).covariance


def test_extractor_is_pinned_by_its_fingerprint():
    network = small_network()
    extractor = FaceFeatures(network, batch=4)
    assert isinstance(extractor, FeatureExtractor)
    assert extractor.fingerprint == FaceFeatures(small_network()).fingerprint
    assert extractor.fingerprint != FaceFeatures(small_network(seed=1)).fingerprint
    with torch.no_grad():
        network.stem[0].weight[0, 0, 0, 0] += 1e-6
    assert extractor.fingerprint != FaceFeatures(network).fingerprint


@pytest.mark.parametrize("channels", [1, 3])
def test_extractor_follows_the_network_whatever_the_batch(channels):
    network = small_network()
    images = uint8_images(10, channels=channels, size=20)
    found = FaceFeatures(network, batch=4)(images)
    with torch.no_grad():
        wanted = network.features(images.float() / 127.5 - 1)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    batches = features_of(FaceFeatures(network), images.split(3))
    torch.testing.assert_close(batches, wanted, atol=1e-5, rtol=1e-5)


def test_extractor_takes_uint8_only():
    with pytest.raises(DTypeError, match="uint8"):
        FaceFeatures(small_network())(torch.zeros(1, 3, 16, 16))
    with pytest.raises(ValueRangeError, match="batch"):
        FaceFeatures(small_network(), batch=0)
    assert features_of(FaceFeatures(small_network()), []).shape == (0, 12)
