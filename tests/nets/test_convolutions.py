"""Convolutions that another function computes for a while."""

import json
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from nets import convolutions_by, copy_model, open_convolutions

SHAPE = (8, 9, 3)


class Own(keras.layers.Conv2D):
    """A subclass may compute anything."""


def network():
    keras.utils.set_random_seed(0)
    image = keras.Input(SHAPE)
    inner = keras.Sequential(
        [keras.Input((4, 5, 6)), keras.layers.Conv2D(4, 2, name="inner_conv")], name="inner"
    )
    maps = keras.layers.Conv2D(
        6, 3, strides=2, padding="same", activation="relu", bias_initializer="ones", name="outer"
    )(image)
    return keras.Model(image, inner(maps), name="network")


def zeros(maps, kernel, strides, padding):
    return 0 * tf.nn.conv2d(maps, kernel, strides, padding)


def images():
    return tf.constant(np.random.default_rng(0).normal(size=(2, *SHAPE)).astype("float32"))


def graph_of(model):
    function = tf.function(lambda image: model(image, training=False))
    return [
        (op.type, [tuple(output.shape) for output in op.outputs])
        for op in function.get_concrete_function(images()).graph.get_operations()
    ]


def test_opened_convolutions_at_any_depth_and_only_within():
    model, image = network(), images()
    own = model(image)
    calls = []

    def counted(maps, kernel, strides, padding):
        calls.append((tuple(maps.shape), tuple(kernel.shape), tuple(strides), padding))
        return tf.nn.conv2d(maps, kernel, strides, padding)

    with convolutions_by(zeros):
        np.testing.assert_array_equal(model(image), own)  # not opened
    open_convolutions(model)
    np.testing.assert_array_equal(model(image), own)
    with convolutions_by(counted):
        np.testing.assert_allclose(model(image), own, rtol=1e-6)
        with convolutions_by(zeros):
            np.testing.assert_array_equal(model(image), 0 * own)
        assert len(calls) == 2
    assert calls == [
        ((2, *SHAPE), (3, 3, 3, 6), (2, 2), "SAME"), ((2, 4, 5, 6), (2, 2, 6, 4), (1, 1), "VALID")
    ]
    np.testing.assert_array_equal(model(image), own)


def test_under_mixed_precision_all_is_given_in_the_narrow_type():
    layer = keras.layers.Conv2D(2, 3, dtype="mixed_bfloat16")
    layer(images())
    open_convolutions(layer)

    def checked(maps, kernel, strides, padding):
        assert maps.dtype == kernel.dtype == tf.bfloat16
        return tf.nn.conv2d(maps, kernel, strides, padding)

    with convolutions_by(checked):
        layer(images())


@pytest.mark.parametrize("kind, options", [
    (keras.layers.Conv2D, {"dilation_rate": 2}),
    (keras.layers.Conv2D, {"groups": 3}),
    (Own, {}),
    (keras.layers.DepthwiseConv2D, {}),
])
def test_other_convolutions_stay_keras_own(kind, options):
    size = {} if kind is keras.layers.DepthwiseConv2D else {"filters": 3}
    layer = kind(kernel_size=3, **size, **options)
    own = layer(images())
    open_convolutions(layer)
    with convolutions_by(zeros):
        np.testing.assert_array_equal(layer(images()), own)
    assert np.abs(own).max() > 0


def test_files_copies_and_graphs_are_those_of_before(tmp_path):
    model = network()
    before, config = graph_of(model), model.get_config()
    model.save(tmp_path / "before.keras")
    open_convolutions(model)
    assert graph_of(model) == before
    assert model.get_config() == config
    with convolutions_by(zeros):
        model.save(tmp_path / "after.keras")
    saved = [
        json.loads(zipfile.ZipFile(tmp_path / f"{name}.keras").read("config.json"))
        for name in ("before", "after")
    ]
    assert saved[0] == saved[1]
    for copy in (keras.models.load_model(tmp_path / "after.keras"), copy_model(model)):
        np.testing.assert_array_equal(copy(images()), model(images()))
