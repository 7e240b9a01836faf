import keras
import numpy as np
import pytest
import tensorflow as tf

import nets
from experiment.export.serving import resize, serving_model
from tests.experiment.export.networks import DEVIATION, MEAN, images, student


@pytest.mark.parametrize("reverses", [False, True])
@pytest.mark.parametrize("raw_size", [16, 40, 9])
def test_raw_images_become_probabilities_as_by_the_preprocessing(raw_size, reverses):
    model = student()
    preprocessing = nets.Standardize(MEAN, DEVIATION, (16, 16), reverses)
    raw = images(5, raw_size)
    expected = tf.nn.softmax(model(preprocessing(raw), training=False))
    served = serving_model(model, preprocessing, (raw_size, raw_size, 3))
    assert served.input.dtype == "uint8"
    np.testing.assert_allclose(served(raw), expected, atol=2e-5)
    for_integers = serving_model(
        model, preprocessing, (raw_size, raw_size, 3), for_integers=True
    )
    np.testing.assert_allclose(for_integers(raw.astype("float32")), expected, atol=2e-5)


@pytest.mark.parametrize("size", [(5, 7), (20, 30), (5, 30), (12, 11)])
def test_resizing_is_that_of_tensorflow_to_any_size(size):
    maps = np.random.default_rng(0).normal(size=(2, 12, 11, 3)).astype("float32")
    given = keras.Input((12, 11, 3))
    model = keras.Model(given, resize(given, size))
    np.testing.assert_allclose(
        model(maps), tf.image.resize(maps, size, antialias=True), atol=1e-5
    )
