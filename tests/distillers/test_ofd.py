"""OFD against plain loops, and its margins against sampling."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import distillers
import nets
from distillers.ofd import _normalization_margin, batch_margin, normalized_margin
from registry import UserError
from tests.distillers.harness import run_method_test


def taps_of(seed, dtype=tf.float64, shapes=((4, 4, 3), (2, 2, 5), (6,))):
    random = np.random.default_rng(seed)
    return [tf.constant(random.normal(size=(4, *shape)), dtype) for shape in shapes]


def built(teacher, student, **settings):
    return distillers.get("OFD")(**settings).build(teacher, student)


def connected(loss, student, training):
    """The student's taps through the connectors' weights, by NumPy."""
    found = []
    for number, tap in enumerate(student):
        convolution, normalization = loss.layers[2 * number : 2 * number + 2]
        kernel = np.asarray(convolution.kernel, np.float64).reshape(tap.shape[-1], -1)
        maps = np.asarray(tap, np.float64) @ kernel
        axes = tuple(range(maps.ndim - 1))
        mean = maps.mean(axes) if training else np.asarray(normalization.moving_mean)
        variance = maps.var(axes) if training else np.asarray(normalization.moving_variance)
        found.append((maps - mean) / np.sqrt(variance + normalization.epsilon))
    return found


def by_loop(teacher, student):
    """The paper's loss with the margins of the batch, entry by entry."""
    total = 0.0
    for i, (t, s) in enumerate(zip(teacher, student, strict=True)):
        part = 0.0
        for channel in range(t.shape[-1]):
            theirs, ours = t[..., channel].ravel(), s[..., channel].ravel()
            negative = theirs[theirs < 0]
            margin = negative.mean() if len(negative) else 0.0
            for one, other in zip(theirs, ours, strict=True):
                one = max(one, margin)
                if one > 0 or other > one:
                    part += (one - other) ** 2
        total += part / len(t) / 2 ** (len(teacher) - 1 - i)
    return total


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("activated", [False, True])
def test_loss_equals_a_loop(training, activated):
    teacher, student = taps_of(0), taps_of(1, shapes=((4, 4, 2), (2, 2, 7), (3,)))
    if activated:
        teacher = [tf.nn.relu(tap) for tap in teacher]
    loss = built(teacher, student)
    expected = by_loop([tap.numpy() for tap in teacher], connected(loss, student, training))
    noted = np.array(loss.layers[1].moving_mean)
    found = loss.compute_loss(teacher, student, training=training)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.array_equal(noted, loss.layers[1].moving_mean) != training


def test_a_larger_teacher_is_averaged():
    teacher, student = taps_of(2, shapes=((4, 6, 3),)), taps_of(3, shapes=((2, 3, 4),))
    loss = built(teacher, student)
    averaged = teacher[0].numpy().reshape(4, 2, 2, 3, 2, 3).mean(axis=(2, 4))
    expected = by_loop([averaged], connected(loss, student, training=False))
    np.testing.assert_allclose(loss.compute_loss(teacher, student), expected, rtol=1e-5)
    (note,) = loss.notes
    assert "tap 1" in note and "from 4x6 to 2x3" in note


def test_margin_of_a_normalised_channel():
    """The mean of a million draws where they are negative; three deviations if they hardly are."""
    draws = np.random.default_rng(4).normal(size=1_000_000)
    mean, deviation = np.array([0.0, 1.0, -0.5, 0.3]), np.array([1.0, 2.0, 0.7, 0.2])
    samples = draws[:, None] * deviation + mean
    expected = [np.mean(x[x < 0]) for x in samples.T]
    np.testing.assert_allclose(normalized_margin(mean, deviation), expected, rtol=0.01)
    rare = normalized_margin(np.array([4.0, 2.0, -2.0]), np.array([1.0, 0.0, 0.0]))
    np.testing.assert_allclose(rare, [-3, 0, -2])


def test_margin_of_a_batch():
    found = batch_margin(tf.constant([[-1.0, 2, 0], [-3, 1, -4], [5, 0, 0]]))
    np.testing.assert_allclose(found, [-2, 0, -4])


def test_margins_come_from_the_batch_normalisation_that_is_tapped():
    image = keras.Input((4, 4, 2))
    convolved = keras.layers.Conv2D(3, 1)(image)
    layer = keras.layers.BatchNormalization()
    normalised = layer(convolved)
    layer.gamma.assign([-1.0, 2.0, 0.5])
    layer.beta.assign([0.2, -1.0, 0.1])
    teacher = [normalised, keras.layers.ReLU()(normalised)]
    student = [keras.Input((4, 4, 2)), keras.Input((4, 4, 2))]
    loss = built(teacher, student)
    expected = normalized_margin(np.array([0.2, -1.0, 0.1]), np.array([1.0, 2.0, 0.5]))
    very_negative = [tf.fill([1, 4, 4, 3], -100.0), tf.zeros([1, 4, 4, 3])]
    for layer in loss.layers[::2]:
        layer.kernel.assign(tf.zeros_like(layer.kernel))
    # The student gives 0 everywhere: above the margins at the first tap, where they are the target,
    # and at most 0 where the second tap is silent.
    found = loss.compute_loss(very_negative, [tf.zeros([1, 4, 4, 2])] * 2)
    np.testing.assert_allclose(found, 16 * np.sum(expected**2) / 2, rtol=1e-5)


def test_a_batch_normalisation_within_a_model_is_seen():
    within = keras.Input((4, 4, 2))
    layer = keras.layers.BatchNormalization(name="bn")
    inner = keras.Model(within, layer(keras.layers.Conv2D(3, 1)(within)), name="inner")
    image = keras.Input((4, 4, 2))
    maps = keras.layers.ReLU()(inner(image))
    layer.beta.assign([0.2, -1.0, 0.1])
    model = keras.Model(image, keras.layers.Dense(5)(keras.layers.Flatten()(maps)))
    features = nets.feature_extractor(model, nets.outputs_of(model, taps=["inner/bn"]))
    expected = normalized_margin(np.array([0.2, -1.0, 0.1]), np.ones(3))
    np.testing.assert_allclose(_normalization_margin(features.output["maps"][0]), expected)


@pytest.mark.parametrize("change", [tf.zeros_like, tf.ones_like, lambda x: x])
@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float32])
def test_finite_and_no_gradient_for_the_teacher(change, dtype):
    teacher = [change(tap) for tap in taps_of(5, dtype)]
    student = [change(tap) for tap in taps_of(6, dtype)]
    built_loss = built(teacher, student)
    with tf.GradientTape() as tape:
        tape.watch([*teacher, *student])
        loss = built_loss.compute_loss(teacher, student, training=True)
    gradients = tape.gradient(loss, [*teacher, *student], unconnected_gradients="none")
    assert np.isfinite(loss)
    assert gradients[:3] == [None] * 3
    for gradient, tap in zip(gradients[3:], student, strict=True):
        assert gradient.dtype == tap.dtype
        assert np.all(np.isfinite(tf.cast(gradient, tf.float32)))


def test_both_names():
    assert distillers.get("CO") is distillers.get("OFD")
    assert distillers.create("co(weight=0.5)").distillation_weight == 0.5


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match="OFD: weight must be above 0"):
        distillers.get("OFD")(weight=0.0)
    with pytest.raises(UserError, match="OFD .* tap 1 is a map .* a vector"):
        built([tf.zeros([1, 4, 4, 3])], [tf.zeros([1, 3])])
    with pytest.raises(UserError, match="OFD has layers of its own"):
        distillers.get("OFD")().compute_loss(taps_of(7), taps_of(8))


def test_training():
    run_method_test(distillers.get("OFD")(weight=1.0))
