"""KD_EID against KD_SVD; both against NumPy in test_kd_svd."""

import numpy as np
import tensorflow as tf

import distillers
from tests.distillers.harness import run_method_test
from tests.reference import relative_error

KD_EID, KD_SVD = map(distillers.get, ("KD_EID", "KD_SVD"))


def maps_of_both():
    random = np.random.default_rng(0)
    shapes = (8, 8, 24), (4, 4, 48), (2, 2, 64)
    return [
        [tf.constant(np.maximum(random.normal(size=(4, *s)), 0), tf.float32) for s in shapes]
        for _ in range(2)
    ]


def test_eigenvectors_give_the_loss_of_singular_vectors_in_float32(monkeypatch):
    """By default KD_SVD decomposes each map as it is, and KD_EID none."""
    with tf.device("CPU"):
        teacher, student = maps_of_both()
    svd, calls = tf.linalg.svd, []

    def counted(*args, **named):
        calls.append(args)
        return svd(*args, **named)

    monkeypatch.setattr(tf.linalg, "svd", counted)
    found = {}
    for method in (KD_SVD(), KD_EID()):
        calls.clear()
        with tf.GradientTape() as tape, tf.device("CPU"):
            tape.watch(student)
            loss = method.compute_loss(teacher, student)
        found[method.name] = float(loss), tape.gradient(loss, student)
        assert len(calls) == (len(teacher) + len(student) if method.name == "KD_SVD" else 0)
    np.testing.assert_allclose(found["KD_EID"][0], found["KD_SVD"][0], rtol=1e-5)
    assert relative_error(found["KD_EID"][1], found["KD_SVD"][1]) < 1e-3


def test_training():
    """With adapters from the student's channels to the teacher's."""
    assert len(run_method_test(KD_EID()).method_layers) == 2
