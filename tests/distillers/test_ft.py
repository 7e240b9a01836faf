"""FT against plain loops and SciPy's convolutions; its stages, and what they train."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.signal import correlate

from distillers import Trains
from distillers.ft import FT, factor_loss, reconstruction_loss
from registry import UserError
from tests.distillers.harness import run_method_test

SHAPES = [(2, 8, 8, 3), (2, 4, 5, 6)]
STUDENT_SHAPES = [(2, 8, 8, 3), (2, 4, 5, 4)]


def maps_of(seed, shapes, dtype="float32"):
    random = np.random.default_rng(seed)
    return [tf.constant(random.normal(size=shape), dtype) for shape in shapes]


def built(teacher, student, **hyper_parameters):
    keras.utils.set_random_seed(0)
    loss = FT(**hyper_parameters).build(teacher, student)
    random = np.random.default_rng(1)
    for layer in loss.layers:
        layer.bias.assign(random.normal(size=layer.bias.shape))
    return loss


def convolved(loss, part, maps):
    """Three convolutions with leaky ReLU; a transposed one is that of the turned kernel."""
    for layer in loss.layers:
        if layer.name.startswith(part):
            kernel = np.array(layer.kernel, np.float64)
            if "decoder" in part:
                kernel = np.transpose(kernel[::-1, ::-1], (0, 1, 3, 2))
            padded = np.pad(maps, ((0, 0), (1, 1), (1, 1), (0, 0)))
            found = [
                [correlate(image, kernel[..., out], mode="valid") for out in range(kernel.shape[3])]
                for image in padded
            ]
            maps = np.moveaxis(np.array(found)[..., 0], 1, -1) + np.array(layer.bias)
            maps = np.where(maps > 0, maps, 0.1 * maps)
    return maps


def factor_loss_by_loop(teacher, student):
    values = []
    for t, s in zip(teacher, student, strict=True):
        t, s = t / np.sqrt(np.sum(t**2)), s / np.sqrt(np.sum(s**2))
        values += [abs(a - b) for a, b in zip(t.ravel(), s.ravel(), strict=True)]
    return np.mean(values)


def test_factor_loss_equals_a_loop():
    teacher, student = np.random.default_rng(2).normal(size=(2, 3, 4, 5, 6))
    found = factor_loss(tf.constant(teacher), tf.constant(student))
    np.testing.assert_allclose(found, factor_loss_by_loop(teacher, student), rtol=1e-9)
    larger = tf.repeat(tf.repeat(teacher, 2, axis=1), 3, axis=2)
    np.testing.assert_allclose(factor_loss(larger, tf.constant(student)), found, rtol=1e-9)


def test_stages_losses():
    teacher, student = maps_of(3, SHAPES), maps_of(4, STUDENT_SHAPES)
    loss = built(teacher, student)
    factor = convolved(loss, "paraphraser_encoder", np.array(teacher[1], np.float64))
    assert factor.shape == (2, 4, 5, 3)
    made = convolved(loss, "paraphraser_decoder", factor)
    found = loss.compute_loss(teacher, student, stage="paraphraser")
    true = np.array(teacher[1], np.float64)
    relative = [np.sum((made[i] - true[i]) ** 2) / np.sum(true[i] ** 2) for i in range(2)]
    np.testing.assert_allclose(found, np.mean(relative), rtol=1e-5)
    translated = convolved(loss, "translator", np.array(student[1], np.float64))
    expected = factor_loss_by_loop(factor, translated)
    for context in ({}, {"stage": "train"}):
        found = loss.compute_loss(teacher, student, **context)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert [stage.weight for stage in loss.stages] == [1.0, 500.0]


def test_training():
    distiller = run_method_test(FT())
    (note,) = distiller.notes
    assert note.startswith("last tap ") and "compared at 2x2" in note
    paraphraser, train = distiller.distillation_losses[0].stages
    assert (paraphraser.trains, paraphraser.main_weight) == (Trains.NOTHING, 0)
    assert train.new_optimizer
    assert [*paraphraser.layers, *train.layers] == distiller.method_layers
    np.testing.assert_allclose([paraphraser.share, train.share], [0.11, 0.89])


def test_the_paraphraser_learns_maps_of_any_size_alike():
    """A residual teacher's maps, at the rate that its student trains by; the plain mean square
    diverges within a few steps there."""
    (maps,) = maps_of(8, [(16, 4, 4, 8)])
    after = {}
    for scale in (1.0, 64.0):
        keras.utils.set_random_seed(0)
        teacher = [tf.nn.relu(maps + 1) * scale]
        built_loss = FT().build(teacher, teacher)  # biases of zero: all is homogeneous
        optimizer = keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True)
        kernels = [
            layer.kernel for layer in built_loss.layers if layer.name.startswith("paraphraser")
        ]
        for _ in range(20):
            with tf.GradientTape() as tape:
                loss = built_loss.compute_loss(teacher, teacher, stage="paraphraser")
            optimizer.apply(tape.gradient(loss, [kernel.value for kernel in kernels]), kernels)
        after[scale] = float(loss)
    assert after[1.0] < 0.5
    np.testing.assert_allclose(after[64.0], after[1.0], rtol=1e-3)


def test_a_map_of_zeros_adds_nothing_to_the_reconstruction():
    maps = tf.concat([tf.zeros([1, 2, 2, 3]), tf.ones([1, 2, 2, 3])], axis=0)
    with tf.GradientTape() as tape:
        tape.watch(maps)
        loss = reconstruction_loss(maps, tf.fill([2, 2, 2, 3], 3.0))
    np.testing.assert_allclose(loss, 4 / 2)
    assert np.all(np.isfinite(tape.gradient(loss, maps)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("student", ["equal", "zero", "constant"])
def test_gradient_is_finite(dtype, student):
    (teacher,) = maps_of(5, SHAPES[1:], dtype)
    maps = {
        "equal": teacher, "zero": tf.zeros_like(teacher), "constant": tf.ones_like(teacher)
    }[student]
    built_loss = FT().build([teacher], [maps])  # biases of zero, so that zeros stay zeros
    with tf.GradientTape() as tape:
        tape.watch(maps)
        loss = built_loss.compute_loss([teacher + 0], [maps + 0])
    assert loss.dtype == tf.float32 and np.isfinite(loss)
    translator = [layer.kernel for layer in built_loss.layers if "translator" in layer.name]
    for gradient in tape.gradient(loss, [maps, *(kernel.value for kernel in translator)]):
        assert np.all(np.abs(tf.cast(gradient, tf.float32)) < 100)


@pytest.mark.parametrize("wrong", [{"paraphraser_share": 2.0}, {"rate": 0.0}, {"weight": 0.0}])
def test_nonsense_is_refused(wrong):
    with pytest.raises(UserError, match=f"FT: {next(iter(wrong))} must be"):
        FT(**wrong)


def test_taps_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="rate 0.01 of the teacher.s 6 channels leaves"):
        built(maps_of(6, SHAPES), maps_of(7, STUDENT_SHAPES), rate=0.01)
    with pytest.raises(UserError, match="FT compares the last tap, .* teacher's is a vector"):
        built(maps_of(6, [(2, 5)]), maps_of(7, [(2, 5)]))
