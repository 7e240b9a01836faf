"""Copies answer as the original does, whatever its layers keep beside their weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import nets
from nets.copying import global_policy
from registry import UserError
from tests.transformer import transformer

RAW = np.random.default_rng(0).uniform(0, 255, (6, 8, 8, 3)).astype("float32")
MEAN, DEVIATION = RAW.mean((0, 1, 2)), RAW.std((0, 1, 2))


def adapted():
    layer = keras.layers.Normalization(name="normal")
    layer.adapt(RAW)
    return layer


def model(nested=False, policy="float32"):
    """Convolution without bias, mean over positions, of normalised images."""
    layers = [adapted(), keras.layers.Conv2D(4, 3, use_bias=False, dtype=policy, name="conv")]
    image = keras.Input((8, 8, 3))
    body = keras.Sequential([keras.Input((8, 8, 3)), *layers], name="body")
    maps = body(image) if nested else layers[1](layers[0](image))
    return keras.Model(image, keras.layers.GlobalAveragePooling2D(dtype=policy)(maps), name="own")


def expected(kernel):
    """What `model` gives of the raw images, by its definition."""
    images = (RAW.astype("float64") - MEAN) / DEVIATION
    windows = np.lib.stride_tricks.sliding_window_view(images, (3, 3), axis=(1, 2))
    return np.einsum("nhwcij,ijcd->nd", windows, np.float64(kernel)) / 36


@pytest.mark.parametrize("nested", [False, True])
def test_adapted_normalization_is_copied(nested):
    original = model(nested)
    kernel = original.trainable_variables[0].numpy()
    copy = nets.copy_model(original)
    np.testing.assert_allclose(copy(RAW), expected(kernel), rtol=1e-4, atol=1e-5)
    original.trainable_variables[0].assign(0 * kernel)
    np.testing.assert_allclose(copy(RAW), expected(kernel), rtol=1e-4, atol=1e-5)
    assert not {id(v) for v in copy.variables} & {id(v) for v in original.variables}


def test_a_copy_for_other_sizes_and_one_in_another_type():
    original = model(policy="mixed_bfloat16")
    kernel = original.trainable_variables[0].numpy()
    wide = nets.copy_model(original, inputs=keras.Input((None, None, 3)))
    assert wide(np.concatenate([RAW, RAW], axis=2)).shape == (6, 4)
    exact = nets.copy_model(original, dtype="float32")
    assert {layer.compute_dtype for layer in exact.layers} == {"float32"}
    np.testing.assert_allclose(exact(RAW), expected(kernel), rtol=1e-4, atol=1e-5)
    assert nets.is_narrow(original) and not nets.is_narrow(exact)


def test_states_of_dropout_and_of_batch_normalisation_are_copied():
    image = keras.Input((8, 8, 3))
    maps = keras.layers.BatchNormalization(name="norm")(image)
    original = keras.Model(image, keras.layers.Dropout(0.5, seed=3)(maps))
    original(RAW, training=True)
    copy = nets.copy_model(original)
    np.testing.assert_allclose(copy.get_layer("norm").moving_mean, 0.01 * MEAN, rtol=1e-4)
    np.testing.assert_allclose(copy(RAW), original(RAW), rtol=1e-5)
    dropped = [np.asarray(each(RAW, training=True)) == 0 for each in (copy, original)]
    np.testing.assert_array_equal(*dropped)
    assert 0.3 < dropped[0].mean() < 0.7


def test_an_efficientnet_with_measured_statistics_is_copied():
    original = keras.applications.EfficientNetB0(
        weights=None, input_shape=(32, 32, 3), classes=3, classifier_activation=None
    )
    normal = next(x for x in original.layers if isinstance(x, keras.layers.Normalization))
    normal.adapt(RAW / 255)
    images = np.random.default_rng(1).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    np.testing.assert_allclose(
        nets.copy_model(original)(images), original(images), rtol=1e-3, atol=1e-5
    )


class Forgetful(keras.layers.Layer):
    """Keeps a tensor that it neither saves nor states in its config."""

    factor = 1.0

    def call(self, inputs):
        return self.factor * inputs


class Faithful(Forgetful):
    """Likewise, but it saves the tensor."""

    def save_own_variables(self, store):
        super().save_own_variables(store)
        store["factor"] = self.factor

    def load_own_variables(self, store):
        self.factor = store.pop("factor")
        super().load_own_variables(store)


def test_state_that_a_layer_saves_in_its_own_way_is_copied_and_other_state_is_refused():
    for kind in (Faithful, Forgetful):
        image = keras.Input((2,))
        layer = kind()
        original = keras.Model(image, layer(image), name="own")
        layer.factor = np.float32(2.5)
        if kind is Faithful:
            assert float(nets.copy_model(original)(np.ones((1, 2)))[0, 0]) == 2.5
        else:
            with pytest.raises(UserError, match="'own' cannot be copied.*Forgetful"):
                nets.copy_model(original)


def test_a_lookup_is_copied_with_its_vocabulary():
    words = keras.layers.StringLookup(vocabulary=["no", "yes"])
    text = keras.Input((), dtype="string")
    copy = nets.copy_model(keras.Model(text, words(text)))
    np.testing.assert_array_equal(copy(tf.constant(["yes", "other", "no"])), [2, 0, 1])


def test_fresh_weights_keep_what_was_measured():
    original = model(nested=True)
    original.trainable = False
    keras.utils.set_random_seed(5)
    fresh = nets.reinitialize(original)
    kernel = fresh.trainable_variables[0].numpy()
    assert np.abs(kernel - original.variables[-1].numpy()).max() > 1e-2
    np.testing.assert_allclose(fresh(RAW), expected(kernel), rtol=1e-4, atol=1e-5)
    keras.utils.set_random_seed(5)
    np.testing.assert_array_equal(nets.reinitialize(original).trainable_variables[0], kernel)


def test_assigned_weights_take_effect_when_the_state_is_renewed():
    layer = adapted()
    network = keras.Sequential([keras.Input((8, 8, 3)), layer])
    layer.variables[0].assign([1.0, 2.0, 3.0])
    layer.variables[1].assign([4.0, 4.0, 4.0])
    nets.renew_state(network)
    np.testing.assert_allclose(network(RAW), (RAW - [1, 2, 3]) / 2, rtol=1e-5, atol=1e-5)


def test_a_model_of_several_devices_is_copied_to_one():
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        original = model()
    kernel = original.trainable_variables[0].numpy()
    copy = nets.copy_model(original)
    np.testing.assert_allclose(copy(RAW), expected(kernel), rtol=1e-4, atol=1e-5)


def test_frozen_parameters_are_counted_without_batch_statistics():
    inner = keras.Sequential([
        keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, name="conv"),
        keras.layers.BatchNormalization(),
    ])
    model = keras.Sequential([
        keras.Input((8, 8, 3)), inner, keras.layers.Flatten(), keras.layers.Dense(5),
    ])
    assert nets.count_frozen(model) == 0
    inner.get_layer("conv").trainable = False
    assert nets.count_frozen(model) == 3 * 3 * 3 * 4 + 4
    inner.trainable = False
    assert nets.count_frozen(model) == 3 * 3 * 3 * 4 + 4 + 2 * 4
    assert [layer.trainable for layer in model.layers] == [False, True, True]


def test_layers_within_layers_get_the_precision_of_the_copy():
    original = transformer()
    with global_policy("mixed_bfloat16"):
        copy = nets.copy_model(original, dtype="float32")
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    assert {layer.compute_dtype for layer in copy._flatten_layers()} == {"float32"}
    images = RAW / 255
    np.testing.assert_allclose(copy(images), original(images), rtol=1e-5, atol=1e-6)
