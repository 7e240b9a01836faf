"""Preprocessing by name, against Keras' own."""

import keras
import numpy as np
import pytest

import nets
from registry import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3)).astype(np.uint8)
STATISTICS = ((100.0, 110.0, 120.0), (50.0, 60.0, 70.0))


@pytest.mark.parametrize(
    ("name", "family"), [("tf", "mobilenet_v2"), ("torch", "densenet"), ("caffe", "resnet50")]
)
def test_it_is_what_networks_of_keras_were_trained_with(name, family):
    own = getattr(keras.applications, family).preprocess_input
    found = nets.named_preprocessing(name, *STATISTICS)(IMAGES)
    np.testing.assert_allclose(found, own(IMAGES.astype("float32")), rtol=1e-5, atol=1e-5)


def test_raw_scaled_and_standardised():
    found = {name: nets.named_preprocessing(name, *STATISTICS)(IMAGES).numpy()
             for name in ("none", "unit", "data")}
    np.testing.assert_array_equal(found["none"], IMAGES)
    np.testing.assert_allclose(found["unit"], IMAGES / 255, rtol=1e-6)
    expected = (IMAGES - np.array(STATISTICS[0])) / STATISTICS[1]
    np.testing.assert_allclose(found["data"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["torch", "caffe"])
def test_what_is_for_colours_is_refused_for_grey_images(name):
    with pytest.raises(UserError, match=f"preprocessing {name} is for 3 channels, not 1"):
        nets.named_preprocessing(name, (1.0,), (2.0,))


def test_for_networks_of_other_channels():
    grey = nets.Standardize((10.0,), (2.0,), size=(4, 4))
    assert grey.for_channels(3) == nets.Standardize((10.0,) * 3, (2.0,) * 3, size=(4, 4))
    colours = nets.Standardize((1.0, 2.0, 6.0), (1.0, 1.0, 4.0))
    assert colours.for_channels(1) == nets.Standardize((3.0,), (2.0,))
    assert colours.for_channels(3) == colours.for_channels(4) == colours
