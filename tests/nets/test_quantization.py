"""Fake quantisation against NumPy, gradients, folding, and which networks it works for."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import nets
from nets.quantization import (
    FakeQuantize,
    fake_quantize_weights,
    fold_batch_normalization,
    quantize,
    with_rounded_weights,
)
from registry import UserError


@pytest.fixture
def random():
    return np.random.default_rng(0)


def rounded_weights(kernel):
    """To -127..127 steps for each channel, in float64."""
    step = np.abs(np.float64(kernel)).max(axis=tuple(range(kernel.ndim - 1))) / 127
    return np.clip(np.round(kernel / step), -127, 127) * step


def rounded(values, low, high):
    """To 256 levels between two values, moved so that 0 is one of them, in float64."""
    step = (np.float64(high) - low) / 255
    zero = np.round(-low / step)
    return (np.clip(np.round(values / step) + zero, 0, 255) - zero) * step


def ranges(model):
    """Low and high of each `FakeQuantize`, by name."""
    return {layer.name: [float(each) for each in layer.get_weights()] for layer in model.layers
            if isinstance(layer, FakeQuantize)}


def fill(model, seed=1):
    """Give batch normalisation statistics and weights that are far from the initial ones."""
    random = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            fill(layer, seed)
        elif isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([random.uniform(0.5, 1.5, each.shape) for each in layer.weights])
    return model


@pytest.mark.parametrize("shape", [(3, 3, 4, 6), (7, 5), (3, 3, 8)])
def test_weights_are_rounded_by_channel(shape, random):
    kernel = random.normal(size=shape).astype("float32")
    kernel[..., 2] *= 100
    kernel[..., 1] = 0
    kernel[..., 1].flat[0] = 1e-3
    with tf.GradientTape() as tape:
        given = tf.Variable(kernel)
        found = fake_quantize_weights(given)
        total = tf.reduce_sum(found * kernel)
    np.testing.assert_allclose(found, rounded_weights(kernel), rtol=1e-4, atol=1e-6)
    # The gradient passes through the rounding as if it were not there.
    np.testing.assert_allclose(tape.gradient(total, given), kernel, rtol=1e-6)
    assert np.isfinite(fake_quantize_weights(tf.zeros(shape))).all()


@pytest.mark.parametrize(("low", "high"), [(-1.3, 4.1), (0.0, 6.0), (-2.0, 0.0), (0.7, 2.0)])
def test_activations_are_rounded_within_their_range(low, high, random):
    values = random.normal(0, 3, (4, 5, 5, 2)).astype("float32")
    layer = FakeQuantize(dtype="float32")
    layer.build(values.shape)
    layer.set_weights([np.float32(low), np.float32(high)])
    with tf.GradientTape() as tape:
        given = tf.Variable(values)
        found = layer(given)
        total = tf.reduce_sum(found)
    gradients = tape.gradient(total, [given, *layer.trainable_variables])
    low = min(low, 0.0)  # 0 is always a level
    np.testing.assert_allclose(found, rounded(values, low, high), atol=1e-5)
    step = (high - low) / 255
    inside = (values > low + step) & (values < high - step)
    outside = (values < low - step) | (values > high + step)
    assert inside.any() and outside.any()
    assert (gradients[0].numpy()[inside] == 1).all() and not gradients[0].numpy()[outside].any()
    # The ends have what is clipped at them, scaled.
    scale = np.sqrt(np.prod(values.shape[1:]) * 127)
    if high > 0:
        clipped = (values > high - step / 2).sum()
        np.testing.assert_allclose(gradients[2] * scale, clipped, atol=3)
    if low < 0:
        clipped = (values < low + step / 2).sum()
        np.testing.assert_allclose(gradients[1] * scale, clipped, atol=3)


def test_a_network_computes_as_in_numpy(random):
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 5, 3))
    maps = keras.layers.Conv2D(4, 1, use_bias=False)(image)
    maps = keras.layers.ReLU()(keras.layers.BatchNormalization()(maps))
    logits = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(maps))
    model = fill(keras.Model(image, logits, name="small"))
    images = random.normal(size=(8, 6, 5, 3)).astype("float32")
    found = quantize(model, [images])
    fakes = list(ranges(found).values())
    assert len(fakes) == 4  # image, ReLU, pooled, logits
    kernel, gamma, beta, mean, variance, dense, bias = (
        np.float64(each) for each in model.get_weights()
    )
    scale = gamma / np.sqrt(variance + 1e-3)
    x = rounded(images, *fakes[0])
    x = x @ rounded_weights(kernel[0, 0] * scale) + beta - mean * scale
    x = rounded(np.maximum(x, 0), *fakes[1])
    x = rounded(x.mean((1, 2)), *fakes[2])
    expected = rounded(x @ rounded_weights(dense) + bias, *fakes[3])
    step = (fakes[3][1] - fakes[3][0]) / 255
    differences = np.abs(found(images) - expected)
    # In float32 a value may fall on the other side of a rounding.
    assert differences.max() <= 1.01 * step and np.mean(differences < step / 10) > 0.8
    # The ranges are those of the values.
    np.testing.assert_allclose(fakes[0], [images.min(), images.max()], rtol=1e-6)
    assert fakes[1][0] == 0 < fakes[1][1]


def mixed_network():
    """Batch normalisation after every layer that it can be a part of, and where it cannot."""
    keras.utils.set_random_seed(0)
    inner_image = keras.Input((8, 8, 4))
    maps = keras.layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2)(inner_image)
    maps = keras.layers.BatchNormalization(scale=False)(maps)
    inner = keras.Model(inner_image, keras.layers.ReLU(6.0)(maps), name="inner")

    image = keras.Input((8, 8, 3))
    maps = keras.layers.Conv2D(4, 3, padding="same", name="first")(image)
    maps = keras.layers.BatchNormalization(epsilon=0.1)(maps)
    maps = inner(maps)
    maps = shortcut = keras.layers.BatchNormalization(name="alone")(maps)  # after a ReLU
    maps = keras.layers.Conv2D(8, 1, activation="relu")(maps)
    maps = keras.layers.BatchNormalization(center=False)(maps)  # after an activation
    maps = keras.layers.Add()([maps, shortcut])
    maps = keras.layers.Concatenate()([maps, keras.ops.pad(maps, ((0, 0),) * 3 + ((1, 1),))])
    maps = keras.layers.MaxPooling2D(2)(maps)
    vector = keras.layers.Flatten()(maps)
    vector = keras.layers.BatchNormalization()(keras.layers.Dense(6, use_bias=False)(vector))
    return fill(keras.Model(image, keras.layers.Dense(5)(keras.layers.ReLU()(vector))))


def test_folding_batch_normalization_changes_nothing(random):
    model = mixed_network()
    before = [each.copy() for each in model.get_weights()]
    folded = fold_batch_normalization(model)
    images = random.normal(size=(4, 8, 8, 3)).astype("float32")
    expected = model(images, training=False)
    np.testing.assert_allclose(folded(images), expected, rtol=1e-4, atol=1e-4)
    kinds = {type(layer) for layer in folded.layers}
    assert keras.layers.BatchNormalization not in kinds and keras.Model not in kinds
    assert isinstance(folded.get_layer("alone"), keras.layers.DepthwiseConv2D)
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


def preprocessed(kind):
    """A network from images of 0..255 that begins as those with pretrained weights do."""
    keras.utils.set_random_seed(0)
    image = maps = keras.Input((8, 8, 3))
    if kind == "caffe":
        maps = keras.ops.flip(maps, axis=-1)
    scaling = {
        "scalar": keras.layers.Rescaling(1 / 127.5, -1.0, name="scaling"),
        "caffe": keras.layers.Rescaling(1.0, [-104.0, -117.0, -124.0], name="scaling"),
        "torch": keras.layers.Rescaling(
            [0.017, 0.0175, 0.0174], np.array([-2.1, -2.0, -1.8]), name="scaling"
        ),
        "measured": keras.layers.Normalization(
            mean=[120.0, 110.0, 90.0], variance=[4000.0, 3600.0, 0.0], name="scaling"
        ),
        "inverse": keras.layers.Normalization(
            mean=[1.0, 2.0, 3.0], variance=[1e-4, 4e-4, 9e-4], invert=True, name="scaling"
        ),
    }[kind]
    maps = keras.layers.Conv2D(6, 3, use_bias=False)(scaling(maps))
    maps = keras.layers.ReLU()(keras.layers.BatchNormalization()(maps))
    logits = keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(maps))
    return fill(keras.Model(image, logits, name="raw"))


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("kind", ["scalar", "caffe", "torch", "measured", "inverse"])
def test_preprocessing_within_a_network_becomes_convolutions_that_are_not_trained(
    kind, nested, random
):
    model = preprocessed(kind)
    if nested:
        image = keras.Input((8, 8, 3))
        model = keras.Model(image, model(image))
    images = random.integers(0, 256, (16, 8, 8, 3)).astype("float32")
    expected = model(images, training=False).numpy()
    folded = fold_batch_normalization(model)
    np.testing.assert_allclose(folded(images), expected, rtol=1e-4, atol=1e-4 * np.ptp(expected))
    kinds = {type(each) for each in folded.layers}
    assert not kinds & {
        keras.layers.Rescaling, keras.layers.Normalization, keras.layers.BatchNormalization
    }
    nets.check_quantizable(model)
    found = quantize(model, [images])
    # Kernel and bias of the convolution and of the dense layer, and ranges.
    assert len(found.trainable_weights) == 4 + 2 * len(ranges(found))
    assert np.abs(found(images) - expected).max() < 0.05 * np.ptp(expected)
    np.testing.assert_allclose(with_rounded_weights(found)(images), found(images), atol=1e-4)


def test_a_network_may_take_whole_numbers(random):
    image = keras.Input((8, 8, 3), dtype="uint8", name="photo")
    maps = keras.layers.Conv2D(6, 3)(keras.layers.Rescaling(1 / 255)(image))
    logits = keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(maps))
    model = keras.Model(image, logits)
    images = random.integers(0, 256, (16, 8, 8, 3)).astype("uint8")
    expected = model(images, training=False).numpy()
    nets.check_quantizable(model)
    found = quantize(model, [images])
    assert found.inputs[0].name == "photo" and found.inputs[0].dtype == "float32"
    assert np.abs(found(images) - expected).max() < 0.05 * np.ptp(expected)


def test_reversed_channels_lose_nothing(random):
    image = keras.Input((2, 2, 3))
    reversed_ = keras.ops.flip(image, axis=-1)
    logits = keras.layers.Dense(12, use_bias=False)
    model = keras.Model(image, logits(keras.layers.Flatten()(reversed_)))
    logits.set_weights([np.eye(12)])
    images = random.integers(0, 256, (64, 2, 2, 3)).astype("float32")
    images[0, 0, 0, :2] = 0, 255
    found = quantize(model, [images])(images).numpy().reshape(images.shape)
    np.testing.assert_allclose(found, images[..., ::-1], atol=1e-3)


@pytest.mark.parametrize(("layer", "verb"), [
    (lambda maps: keras.layers.Rescaling(2.0)(keras.layers.Flatten()(maps)), "scales"),
    (keras.layers.Rescaling(np.ones([4, 4, 3])), "scales"),
    (keras.layers.Normalization(axis=(1, 2, 3)), "scales"),
    (lambda maps: keras.ops.flip(maps, axis=2), "reverses"),
])
def test_preprocessing_of_other_things_than_channels_is_refused(layer, verb):
    image = keras.Input((4, 4, 3))
    maps = layer(image)
    maps = maps if len(maps.shape) == 2 else keras.layers.Flatten()(maps)
    model = keras.Model(image, keras.layers.Dense(2)(maps))
    with pytest.raises(UserError, match=f"cannot be quantised: what it {verb} are no channels"):
        nets.check_quantizable(model)


def test_a_layer_that_is_called_twice_keeps_one_kernel(random):
    image = keras.Input((4, 4, 3))
    shared, normal = keras.layers.Conv2D(3, 1), keras.layers.BatchNormalization()
    model = fill(keras.Model(image, keras.layers.Flatten()(normal(shared(normal(shared(image)))))))
    folded = fold_batch_normalization(model)
    images = random.normal(size=(2, 4, 4, 3)).astype("float32")
    np.testing.assert_allclose(folded(images), model(images), rtol=1e-4, atol=1e-4)
    assert len(folded.weights) == 4  # kernel and bias of the layer, scale and offset


@pytest.mark.parametrize(
    ("name", "options"),
    [("ResNet_student", {"width": 8}), ("VGG_student", {"width": 4}),
     ("VGG_stride_student", {"width": 4}), ("MobileNet_student", {"width": 8, "first": 8}),
     ("ResNeXt_student", {})],
)
def test_networks_of_this_project_give_about_the_same(name, options, random):
    keras.utils.set_random_seed(0)
    model = fill(nets.build(name, (16, 16, 3), 10, **options))
    images = random.normal(size=(16, 16, 16, 3)).astype("float32")
    found = nets.quantize(model, [images[:8], images[8:]])
    expected = model(images, training=False).numpy()
    assert found.name == model.name
    outputs = nets.outputs_of(model)
    for each in {*outputs.taps, outputs.embedding, outputs.logits}:
        assert isinstance(found.get_layer(each), FakeQuantize) or "pool" in each
    assert nets.feature_extractor(found, nets.outputs_of(found)).output["maps"]
    differences = np.abs(found(images) - expected)
    assert 0 < differences.max() < 0.15 * np.ptp(expected)
    rounded_ones = {type(layer).__name__ for layer in found.layers if "Quantized" in str(layer)}
    assert rounded_ones and not any(
        type(layer) in (keras.layers.Conv2D, keras.layers.Dense, keras.layers.DepthwiseConv2D)
        for layer in found.layers
    )


def test_parts_of_a_network_may_have_layers_of_the_same_names(random):
    def block(name, channels):
        given = keras.Input((8, 8, channels))
        maps = keras.layers.Conv2D(4, 3, padding="same", activation="relu", name="conv")(given)
        return keras.Model(given, maps, name=name)

    image = keras.Input((8, 8, 3))
    maps = block("b2", 4)(block("b1", 3)(image))
    flat = keras.layers.Flatten()(maps)
    model = keras.Model(image, keras.layers.Dense(5, name="conv")(flat), name="blocks")
    images = random.normal(size=(8, 8, 8, 3)).astype("float32")
    found = quantize(model, [images])
    expected = model(images).numpy()
    assert np.abs(found(images) - expected).max() < 0.1 * np.ptp(expected)
    taps = nets.quantized_names(model, found, ["b1/conv", "b2/conv", "b2", "conv"])
    assert len(set(taps[:2])) == 2 and taps[1] == taps[2] and taps[3] not in taps[:3]
    tapped = nets.feature_extractor(found, nets.outputs_of(found, taps[:2]))(images)["maps"]
    wanted = nets.feature_extractor(model, nets.outputs_of(model, ["b1/conv", "b2/conv"]))(images)
    for ours, theirs in zip(tapped, wanted["maps"], strict=True):
        assert np.abs(ours - theirs).max() < 0.1 * np.max(theirs)


def test_what_is_saved_is_what_was_trained(tmp_path, random):
    model = quantize(mixed_network(), [random.normal(size=(4, 8, 8, 3)).astype("float32")])
    images = random.normal(size=(4, 8, 8, 3)).astype("float32")
    expected = model(images)
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(nets.load(tmp_path / "model.keras").model(images), expected)
    plain = with_rounded_weights(model)
    np.testing.assert_allclose(plain(images), expected, atol=1e-5)
    kinds = {type(layer).__module__.split(".")[0] for layer in plain.layers
             if not isinstance(layer, FakeQuantize)}
    assert kinds == {"keras"}
    # Rounding the rounded weights to the same steps changes nothing.
    for layer in plain.layers:
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense)):
            kernel = layer.get_weights()[0]
            np.testing.assert_allclose(rounded_weights(kernel), kernel, rtol=1e-5, atol=1e-7)


def test_it_trains_to_a_smaller_loss(random):
    keras.utils.set_random_seed(0)
    model = quantize(mixed_network(), [random.normal(size=(4, 8, 8, 3)).astype("float32")])
    images = random.normal(size=(32, 8, 8, 3)).astype("float32")
    labels = np.arange(32) % 5
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss)
    history = model.fit(images, labels, batch_size=16, epochs=8, verbose=0).history["loss"]
    assert history[-1] < 0.9 * history[0]
    assert all(low <= 0 < high for low, high in ranges(model).values())


class OwnConvolution(keras.layers.Conv2D):
    pass


@pytest.mark.parametrize("head", [
    lambda maps: keras.layers.BatchNormalization(name="odd")(
        keras.layers.GlobalAveragePooling2D()(maps)
    ),
    lambda maps: keras.layers.BatchNormalization(name="odd")(keras.layers.Flatten()(maps)),
    lambda maps: keras.layers.BatchNormalization(name="odd")(
        keras.layers.Dense(4, activation="relu")(keras.layers.Flatten()(maps))
    ),
    lambda maps: keras.layers.Flatten()(keras.layers.BatchNormalization(axis=1, name="odd")(maps)),
])
def test_batch_normalisation_that_cannot_be_folded_is_refused_before_training(head):
    image = keras.Input((4, 4, 3))
    maps = keras.layers.Conv2D(4, 1, activation="relu")(image)
    model = keras.Model(image, keras.layers.Dense(2)(head(maps)))
    outer = keras.Input((4, 4, 3))
    for each in (model, keras.Model(outer, model(outer))):
        with pytest.raises(UserError, match=r"'odd' \(BatchNormalization\) cannot be quantised"):
            nets.check_quantizable(each)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (keras.layers.Conv2D(4, 1, activation="swish", name="odd"), r"'odd' \(Conv2D\).*silu"),
        (keras.layers.Activation("tanh", name="odd"), r"'odd' \(Activation\).*tanh"),
        (keras.layers.LayerNormalization(name="odd"), r"'odd' \(LayerNormalization\)"),
        (keras.layers.PReLU(name="odd"), r"'odd' \(PReLU\)"),
        (OwnConvolution(4, 1, name="odd"), r"'odd' \(OwnConvolution\)"),
        (keras.ops.sort, r"\(Sort\)"),
    ],
)
def test_what_cannot_be_quantised_is_named(layer, message):
    image = keras.Input((4, 4, 3))
    model = keras.Model(image, keras.layers.Dense(2)(keras.layers.Flatten()(layer(image))))
    outer = keras.Model(image, model(image))
    with pytest.raises(UserError, match=message):
        nets.check_quantizable(outer)
