"""Divergences between class probabilities, computed from logits."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

# The log-probability of excluded classes: its exponential is 0, and it is finite, so the difference
# of two of them is 0.
LOW = -1e9


def kl_divergence(p: tf.Tensor, q: tf.Tensor) -> tf.Tensor:
    """``KL(p || q)`` of each row, ``[B]``; p and q are log-probabilities ``[B, classes]``."""
    return tf.reduce_sum(tf.exp(p) * (p - q), axis=1)


def log_softmax_without(logits: tf.Tensor, left_out: tf.Tensor) -> tf.Tensor:
    """``log softmax`` over the classes that are not left out.

    Args:
        logits: ``[B, classes]``.
        left_out: bool ``[B, classes]``; these classes get probability 0 and do not contribute to
            the `kl_divergence` of two such results.

    Returns:
        ``[B, classes]``, finite.
    """
    low = tf.constant(LOW, logits.dtype)
    total = tf.reduce_logsumexp(tf.where(left_out, low, logits), axis=1, keepdims=True)
    return tf.where(left_out, low, logits - total)


def softened_divergence(teacher: tf.Tensor, student: tf.Tensor, temperature: float) -> tf.Tensor:
    """``T^2 KL(softmax(teacher / T) || softmax(student / T))``, mean over the batch.

    Hinton, Vinyals & Dean, "Distilling the knowledge in a neural network", 2015.

    Args:
        teacher, student: logits ``[B, classes]``.
        temperature: T, above 0.
    """
    teacher, student = (tf.nn.log_softmax(z / temperature) for z in (teacher, student))
    return temperature**2 * tf.reduce_mean(kl_divergence(teacher, student))


def transformed_divergence(
    teacher: tf.Tensor, student: tf.Tensor, power: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """``KL(p^power / U || q)`` and ``U = sum of p^power`` of each image ``[B]``, p and q the class
    probabilities of teacher and student.

    Zheng & Yang, "Knowledge distillation based on transformed teacher matching", ICLR 2024.

    Args:
        teacher, student: logits ``[B, classes]``.
        power: above 0; 1 / T for a temperature T of the teacher.
    """
    powers = power * tf.nn.log_softmax(teacher)
    log_total = tf.reduce_logsumexp(powers, axis=1)
    divergence = kl_divergence(powers - log_total[:, None], tf.nn.log_softmax(student))
    return divergence, tf.exp(log_total)


class Decoupled(NamedTuple):
    """Class probabilities in the parts that DKD compares, as logarithms (Zhao et al., "Decoupled
    knowledge distillation", CVPR 2022, section 3.1).

    Attributes:
        target: of the target class, ``[B]``.
        others: of all other classes together, ``[B]``.
        among_others: of each other class, given that it is one of them, ``[B, classes]``; the
            target class has a log-probability so low that its probability is 0.
    """

    target: tf.Tensor
    others: tf.Tensor
    among_others: tf.Tensor


def decoupled(logits: tf.Tensor, is_target: tf.Tensor) -> Decoupled:
    """The parts of ``softmax(logits)``.

    Args:
        logits: ``[B, classes]``.
        is_target: bool ``[B, classes]``, one true in each row.
    """
    log_total = tf.reduce_logsumexp(logits, axis=1)
    target = tf.reduce_sum(tf.where(is_target, logits, 0), axis=1)
    others = tf.reduce_logsumexp(tf.where(is_target, tf.cast(LOW, logits.dtype), logits), axis=1)
    return Decoupled(
        target - log_total, others - log_total, log_softmax_without(logits, is_target)
    )
