"""NST against a plain loop."""

import numpy as np
import pytest
import tensorflow as tf

from distillers.nst import NST
from registry import UserError
from tests.distillers.harness import run_method_test


def maps_of(seed, shapes):
    random = np.random.default_rng(seed)
    return [random.normal(size=shape) for shape in shapes]


def mean_kernel(one, other):
    values = [
        np.dot(a / np.sqrt(np.sum(a**2)), b / np.sqrt(np.sum(b**2))) ** 2
        for a in one for b in other
    ]
    return np.mean(values)


def by_loop(teacher, student):
    total = 0.0
    for theirs, ours in zip(teacher, student, strict=True):
        of_images = []
        for i in range(len(ours)):
            t, s = (x[i].reshape(-1, x.shape[-1]).T for x in (theirs, ours))
            of_images.append(mean_kernel(t, t) + mean_kernel(s, s) - 2 * mean_kernel(s, t))
        total += np.mean(of_images)
    return total


def loss_of(teacher, student):
    return NST().compute_loss(*([tf.constant(tap) for tap in taps] for taps in (teacher, student)))


@pytest.mark.parametrize(
    ("teacher", "student"),
    [
        pytest.param([(2, 4, 5, 3)], [(2, 4, 5, 6)], id="more positions than channels"),
        pytest.param([(2, 2, 1, 7)], [(2, 2, 1, 3)], id="fewer"),
        pytest.param([(2, 3, 3, 4), (2, 1, 2, 5)], [(2, 3, 3, 4), (2, 1, 2, 5)], id="both"),
    ],
)
def test_loss_equals_a_loop(teacher, student):
    teacher, student = maps_of(0, teacher), maps_of(1, student)
    np.testing.assert_allclose(loss_of(teacher, student), by_loop(teacher, student), rtol=1e-9)


def test_sizes_may_differ_and_vectors_do_not_count():
    teacher, student = maps_of(2, [(3, 2, 3, 5)]), maps_of(3, [(3, 4, 3, 2)])
    halved = student[0].reshape(3, 2, 2, 3, 2).mean(axis=2)
    vectors = maps_of(4, [(3, 9), (3, 4)])
    found = loss_of([*teacher, vectors[0]], [*student, vectors[1]])
    np.testing.assert_allclose(found, by_loop(teacher, [halved]), rtol=1e-9)


@pytest.mark.parametrize("positions", [(5, 5), (1, 2)])
@pytest.mark.parametrize("student", ["equal", "zero", "a channel zero", "constant"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradient_is_finite(positions, student, dtype):
    (teacher,) = (tf.cast(tap, dtype) for tap in maps_of(5, [(3, *positions, 6)]))
    maps = {
        "equal": teacher,
        "zero": tf.zeros_like(teacher),
        "a channel zero": teacher * tf.cast([1, 0, 1, 1, 1, 1], teacher.dtype),
        "constant": tf.ones_like(teacher),
    }[student]
    with tf.GradientTape() as tape:
        tape.watch(maps)
        loss = NST().compute_loss([teacher + 0], [maps + 0])
    assert loss.dtype == tf.float32 and np.isfinite(loss)
    gradient = tf.cast(tape.gradient(loss, maps), tf.float32)
    assert np.all(np.isfinite(gradient)) and np.all(np.abs(gradient) < 100)


def test_training():
    """Also that the larger maps of the teacher are averaged, and that a person is told."""
    notes = run_method_test(NST()).notes
    assert len(notes) == 2 and "deep" in notes[1] and "compared at 2x2" in notes[1]


def test_weights_and_refusals():
    assert NST().distillation_weight == 50
    with pytest.raises(UserError, match="NST: weight must be above 0"):
        NST(weight=-1.0)
    with pytest.raises(UserError, match="1 of 1 taps are vectors"):
        NST().build([tf.zeros([2, 5])], [tf.zeros([2, 5])])
