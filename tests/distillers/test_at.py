"""AT against a plain loop."""

import numpy as np
import pytest
import tensorflow as tf

from distillers.at import AT
from registry import UserError
from tests.distillers.harness import run_method_test

SHAPES = [(3, 4, 6, 5), (3, 2, 2, 7)]


def maps_of(seed, shapes=SHAPES):
    random = np.random.default_rng(seed)
    return [random.normal(size=shape) for shape in shapes]


def by_loop(teacher, student):
    total = 0.0
    for theirs, ours in zip(teacher, student, strict=True):
        squares = []
        for i in range(len(ours)):
            maps = []
            for image in (theirs[i], ours[i]):
                looks = np.array([np.mean(pixel**2) for row in image for pixel in row])
                maps.append(looks / np.sqrt(np.sum(looks**2)))
            squares += list((maps[0] - maps[1]) ** 2)
        total += np.mean(squares)
    return total


def loss_of(teacher, student):
    return AT().compute_loss(*([tf.constant(tap) for tap in taps] for taps in (teacher, student)))


def test_loss_equals_a_loop():
    teacher, student = maps_of(0), maps_of(1)
    np.testing.assert_allclose(loss_of(teacher, student), by_loop(teacher, student), rtol=1e-9)


def test_channels_and_sizes_may_differ_and_vectors_do_not_count():
    teacher, student = maps_of(2, [(3, 4, 6, 5)]), maps_of(3, [(3, 2, 6, 2)])
    halved = teacher[0].reshape(3, 2, 2, 6, 5).mean(axis=2)
    expected = by_loop([halved], student)
    vectors = maps_of(4, [(3, 9), (3, 4)])
    found = loss_of([*teacher, vectors[0]], [*student, vectors[1]])
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("student", ["equal", "zero", "constant"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradient_is_finite(student, dtype):
    teacher = [tf.cast(tap, dtype) for tap in maps_of(5)]
    maps = {
        "equal": teacher,
        "zero": [tf.zeros_like(tap) for tap in teacher],
        "constant": [tf.ones_like(tap) for tap in teacher],
    }[student]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([teacher, maps])
        loss = AT().compute_loss([tap + 0 for tap in teacher], [tap + 0 for tap in maps])
    assert loss.dtype == tf.float32 and np.isfinite(loss)
    gradients = tape.gradient(loss, maps)
    assert all(np.all(np.isfinite(np.array(tf.cast(g, tf.float32)))) for g in gradients)
    if student != "equal":
        assert tape.gradient(loss, teacher) == [None, None]


def test_training():
    """Also that the larger maps of the teacher are averaged, and that a person is told."""
    notes = run_method_test(AT()).notes
    assert len(notes) == 2 and "deep" in notes[1] and "compared at 2x2" in notes[1]


def test_weights_and_refusals():
    assert AT().distillation_weight == 100
    with pytest.raises(UserError, match="AT: weight must be above 0"):
        AT(weight=0.0)
    with pytest.raises(UserError, match="1 of 1 taps are vectors"):
        AT().build([tf.zeros([2, 5])], [tf.zeros([2, 5])])
