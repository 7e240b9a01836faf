"""Logits, and what is asked of several losses alike."""

import numpy as np
import tensorflow as tf


def logits(seed, images=7, scale=3.0):
    """The teacher's and the student's, float64 ``[2, images, 5]``."""
    return np.random.default_rng(seed).normal(size=(2, images, 5)) * scale


def gradients(method, teacher, student, **context):
    """The loss, and its gradients at the teacher's and the student's outputs."""
    teacher, student = tf.constant(teacher), tf.constant(student)
    with tf.GradientTape() as tape:
        tape.watch((teacher, student))
        loss = method.compute_loss(teacher, student, **context)
    return loss, *tape.gradient(loss, (teacher, student))


def assert_gradient(method, teacher, student, **context):
    """The student's gradient is that of central differences, and the teacher gets none."""
    _, theirs, ours = gradients(method, teacher, student, **context)
    assert theirs is None or not np.any(theirs)
    step = 1e-6 * np.random.default_rng(99).normal(size=student.shape)
    ahead, behind = (
        float(method.compute_loss(tf.constant(teacher), tf.constant(student + s), **context))
        for s in (step, -step)
    )
    np.testing.assert_allclose(np.sum(ours * step), (ahead - behind) / 2, rtol=1e-5)


def assert_finite_in_bfloat16(method, teacher, student, **context):
    """Loss and gradient of bfloat16 outputs are finite, and the loss is about that of float64."""
    teacher16, student16 = (tf.cast(tf.constant(x), tf.bfloat16) for x in (teacher, student))
    with tf.GradientTape() as tape:
        tape.watch(student16)
        loss = method.compute_loss(teacher16, student16, **context)
    assert loss.dtype == tf.float32
    gradient = tf.cast(tape.gradient(loss, student16), tf.float32).numpy()
    assert np.all(np.isfinite(gradient)) and np.any(gradient)
    exact = method.compute_loss(tf.constant(teacher), tf.constant(student), **context)
    np.testing.assert_allclose(loss, exact, rtol=0.1)
