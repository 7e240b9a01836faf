"""The fused batch normalisation against Keras's own."""

import copy

import keras
import numpy as np
import pytest
import tensorflow as tf

import nets
from nets import fuse_batch_normalization

SHAPE = (5, 6, 7, 3)


def layer(shape=SHAPE, seed=0, **options):
    made = keras.layers.BatchNormalization(
        **{"momentum": 0.9, "epsilon": 1e-3, "name": "norm", **options}
    )
    made.build((None, *shape[1:]))
    draw = np.random.default_rng(seed)
    for variable in made.weights:
        variable.assign(draw.uniform(0.5, 2, variable.shape))
    return made


def images(shape=SHAPE, dtype="float32"):
    drawn = np.random.default_rng(1).normal(3, 2, shape)
    return tf.cast(drawn, dtype), tf.cast(np.random.default_rng(2).normal(size=shape), dtype)


def results(norm, maps, weights, training, jit_compile=False):
    """Output, gradients by the maps and the layer's weights, and moving statistics after it."""

    @tf.function(jit_compile=jit_compile)
    def run(maps):
        with tf.GradientTape() as tape:
            tape.watch(maps)
            output = norm(maps, training=training)
            loss = tf.reduce_sum(tf.cast(output * weights, "float32"))
        return output, *tape.gradient(loss, [maps, *(w.value for w in norm.trainable_weights)])

    found = [np.asarray(tf.cast(one, "float64")) for one in run(maps)]
    return [*found, *(np.array(each) for each in norm.non_trainable_weights)]


def uses_kernel(norm, maps, training=True):
    function = tf.function(lambda maps: norm(maps, training=training))
    graph = function.get_concrete_function(maps).graph
    return any(op.type.startswith("FusedBatchNorm") for op in graph.get_operations())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [SHAPE, (1, 1, 1, 4), (1, 1, 2, 4)])
def test_values_gradients_and_statistics_are_keras_own(training, shape):
    maps, weights = images(shape)
    fused = fuse_batch_normalization(layer(shape))
    assert uses_kernel(fuse_batch_normalization(layer(shape)), maps)
    ours = results(fused, maps, weights, training)
    theirs = results(layer(shape), maps, weights, training)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5)


def test_compiled_by_xla():
    maps, weights = images()
    ours = results(fuse_batch_normalization(layer()), maps, weights, True, jit_compile=True)
    for one, other in zip(ours, results(layer(), maps, weights, True), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5)


def test_moving_statistics_by_hand():
    maps, _ = images()
    norm = fuse_batch_normalization(layer())
    before = [np.array(weight) for weight in norm.non_trainable_weights]
    norm(maps, training=True)
    flat = np.asarray(maps, "float64").reshape(-1, SHAPE[-1])
    for weight, was, now in zip(
        norm.non_trainable_weights, before, (flat.mean(0), flat.var(0)), strict=True
    ):
        np.testing.assert_allclose(np.array(weight), 0.9 * was + 0.1 * now, rtol=1e-5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_narrow_types(training, policy):
    """No further from float32 than the type's rounding; statistics of the rounded maps."""
    dtype = keras.DTypePolicy(policy).compute_dtype
    maps, weights = images(dtype=dtype)
    norm = fuse_batch_normalization(layer(dtype=policy))
    assert norm(maps, training=training).dtype == dtype
    norm = fuse_batch_normalization(layer(dtype=policy))
    assert uses_kernel(norm, maps)
    norm = fuse_batch_normalization(layer(dtype=policy))
    ours = results(norm, maps, weights, training)
    theirs = results(layer(), tf.cast(maps, "float32"), tf.cast(weights, "float32"), training)
    step = {"bfloat16": 2**-7, "float16": 2**-10}[dtype]
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=8 * step, atol=8 * step * np.abs(other).max())


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"synchronized": True}, SHAPE),
        ({"scale": False}, SHAPE),
        ({"center": False}, SHAPE),
        ({"axis": 1}, SHAPE),
        ({"dtype": "float64"}, SHAPE),
        ({}, (5, 3)),
    ],
)
def test_what_the_kernel_cannot_do_stays_keras_own(options, shape):
    dtype = options.get("dtype", "float32")
    maps, weights = images(shape, dtype)
    fused = fuse_batch_normalization(layer(shape, **options))
    assert not uses_kernel(fuse_batch_normalization(layer(shape, **options)), maps)
    for one, other in zip(
        results(fused, maps, weights, True),
        results(layer(shape, **options), maps, weights, True),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def test_replicas_share_statistics_in_training_only():
    maps, _ = images()
    norm = fuse_batch_normalization(layer(synchronized=True))
    assert not uses_kernel(norm, maps) and uses_kernel(norm, maps, training=False)


def test_frozen_layers_keep_their_statistics():
    norm = fuse_batch_normalization(layer())
    norm.trainable = False
    before = [np.array(weight) for weight in norm.weights]
    output = norm(images()[0], training=True)
    for weight, was in zip(norm.weights, before, strict=True):
        np.testing.assert_array_equal(np.array(weight), was)
    other = layer()
    np.testing.assert_allclose(output, other(images()[0], training=False), atol=1e-5)


def test_what_is_saved_is_keras_own(tmp_path):
    model = nets.build("ResNet_student", (8, 8, 3), 5, width=4)
    maps = tf.random.stateless_normal([3, 8, 8, 3], [0, 1])
    model(maps, training=True)
    assert '"module": "nets' not in model.to_json() and "registered_name\": null" in model.to_json()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert not uses_kernel(loaded, maps)
    np.testing.assert_allclose(loaded(maps), model(maps), rtol=1e-4, atol=1e-5)
    assert uses_kernel(nets.load(tmp_path / "model.keras").model, maps)


def test_nested_models_and_copies():
    inner = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.BatchNormalization()])
    image = keras.Input((8, 8, 3))
    model = fuse_batch_normalization(keras.Model(image, inner(image)))
    maps = tf.random.stateless_normal([3, 8, 8, 3], [0, 1])
    assert uses_kernel(model, maps)
    twin = copy.deepcopy(model)
    norm = twin.layers[1].layers[0]
    assert norm.call.__self__ is norm
    twin(maps, training=True)
    np.testing.assert_array_equal(np.array(inner.layers[0].moving_mean), np.zeros(3))


def test_application_networks_use_it():
    model = nets.build("keras.applications:MobileNetV2", (32, 32, 3), 4, alpha=0.35)
    assert uses_kernel(model, tf.zeros([1, 32, 32, 3]))
