"""KD_EID against KD_SVD; both against NumPy in test_kd_svd."""

import numpy as np
import tensorflow as tf

import distillers
from tests.distillers.harness import run_method_test
from tests.reference import relative_error


def test_eigenvectors_give_the_loss_of_singular_vectors_in_float32():
    random = np.random.default_rng(0)
    shapes = (8, 8, 24), (4, 4, 48), (2, 2, 64)
    teacher, student = (
        [tf.constant(np.maximum(random.normal(size=(4, *s)), 0), tf.float32) for s in shapes]
        for _ in range(2)
    )
    found = {}
    for name in ("KD_SVD", "KD_EID"):
        with tf.GradientTape() as tape:
            tape.watch(student)
            loss = distillers.get(name)().compute_loss(teacher, student)
        found[name] = float(loss), tape.gradient(loss, student)
    np.testing.assert_allclose(found["KD_EID"][0], found["KD_SVD"][0], rtol=1e-5)
    assert relative_error(found["KD_EID"][1], found["KD_SVD"][1]) < 1e-3


def test_training():
    """With adapters from the student's channels to the teacher's."""
    assert len(run_method_test(distillers.get("KD_EID")()).method_layers) == 2
