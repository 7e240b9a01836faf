"""What methods that compare singular vectors share."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import distillers
from distillers.singular_vectors import sum_over_pairs
from op_util.dfv import TapPair

METHODS = "SSKD_SVD", "KD_SVD", "KD_EID"


def test_the_sum_over_pairs_leaves_out_bad_samples_and_makes_up_for_them():
    """The first pair has two of four samples, which count twice; the second has all."""
    pairs = [
        TapPair(3, tf.constant([1.0, np.nan, 4.0, 16.0]), tf.constant([True, False, True, False])),
        TapPair(2, tf.constant([1.0, 2.0, 3.0, 4.0]), tf.fill([4], True)),
    ]
    total, dropped = sum_over_pairs(pairs, lambda k, distance: 100**k * distance)
    np.testing.assert_allclose(total, 100**3 * 2 * (1 + 4) + 100**2 * 10)
    np.testing.assert_allclose(dropped, (2 / 4 + 0) / 2)


@pytest.mark.parametrize("name", METHODS)
def test_the_picture_is_each_taps_first_left_vector(name):
    random = np.random.default_rng(0)
    maps = [random.normal(size=(2, 4, 4, 3)).astype(np.float32) for _ in range(2)]
    vector = random.normal(size=(2, 5)).astype(np.float32)
    method = distillers.create(name)
    pictures = method.pictures([*maps, vector], [maps[1], maps[0], vector])
    (taps,) = pictures.values()
    assert list(pictures) == ["singular_vectors"] and [len(each) for each in taps] == [2, 2]
    for network, order in zip(taps, (maps, maps[::-1]), strict=True):
        for found, tap in zip(network, order, strict=True):
            left = np.linalg.svd(tap.reshape(2, 16, 3))[0][:, :, 0].reshape(2, 4, 4)
            np.testing.assert_allclose(np.abs(found), np.abs(left), atol=1e-5)
    assert method.pictures([vector], [vector]) == {}
    assert distillers.create("AT").pictures(maps, maps) == {}


@pytest.mark.parametrize("method", METHODS)
def test_fewer_vectors_than_asked_for_are_told(method):
    taps = [keras.KerasTensor((None, *shape)) for shape in ((8, 8, 6), (2, 2, 6), (1, 1, 6))]
    few = distillers.create(f"{method}(num_dfv=4)")
    (told,) = few.check_features(taps, taps)
    assert told == (
        f"{method}: the teacher's tap 3 has 1 singular vector, so num_dfv is 1 from there on, "
        "not 4"
    )
    assert few.check_features(taps[:2], taps[:2]) == []
    (told,) = few.check_features(taps[:2], [taps[0], taps[2]])
    assert told.startswith(f"{method}: the student's tap 2 has 1 singular vector")
