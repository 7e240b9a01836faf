"""PCGrad's projections against its algorithm in NumPy."""

import numpy as np
import tensorflow as tf

from op_util.gradient_surgery import without_conflicts


def algorithm_1(gradients):
    projected = []
    for i, gradient in enumerate(gradients):
        own = gradient.copy()
        for j, other in enumerate(gradients):
            if i != j and own @ other < 0:
                own = own - own @ other / (other @ other) * other
        projected.append(own)
    return np.stack(projected)


def test_projections_equal_algorithm_1():
    random = np.random.default_rng(0)
    changed = 0
    for _ in range(20):
        gradients = random.normal(size=(4, 5))
        found = without_conflicts(tf.constant(gradients))
        np.testing.assert_allclose(found, algorithm_1(gradients), atol=1e-12)
        changed += not np.allclose(found, gradients)
    assert changed > 10


def test_two_tasks_do_not_conflict_afterwards():
    gradients = np.array([[1.0, 0.2, 0.0], [-1.0, 0.5, 0.3]])
    first, second = without_conflicts(tf.constant(gradients)).numpy()
    np.testing.assert_allclose([first @ gradients[1], second @ gradients[0]], 0, atol=1e-12)


def test_agreeing_and_zero_gradients_are_unchanged():
    gradients = np.array([[1.0, 0.0], [0.5, 1.0], [0.0, 0.0]], np.float32)
    np.testing.assert_array_equal(without_conflicts(tf.constant(gradients)), gradients)
