"""MLKD: soft logits at several temperatures, and how images and classes relate in them."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from distillers.loss import Combination
from distillers.method import Method
from distillers.reading import Logits
from distillers.registration import register
from op_util.divergence import softened_divergence
from plugins import option
from registry import UserError


def multi_level_loss(
    teacher: tf.Tensor, student: tf.Tensor, temperatures: Sequence[float]
) -> tf.Tensor:
    """``sum over T of (T^2 KL + L_batch) share_B + L_class share_C``.

    As in the authors' code, ``share_B`` is the share of images of which the teacher's confidence is
    at most the batch's median, ``share_C`` that of classes likewise, and the three terms have one
    weight.

    Args:
        teacher, student: logits ``[B, classes]``.
        temperatures: each T, above 0.
    """
    probabilities = tf.nn.softmax(teacher)
    images = share_up_to_median(tf.reduce_max(probabilities, axis=1))
    classes = share_up_to_median(tf.reduce_sum(probabilities, axis=0))
    loss = 0.0
    for temperature in temperatures:
        p, q = (tf.nn.softmax(z / temperature) for z in (teacher, student))
        loss += softened_divergence(teacher, student, temperature) * images
        loss += relations_loss(p, q) * images
        loss += relations_loss(tf.transpose(p), tf.transpose(q)) * classes
    return loss


def relations_loss(teacher: tf.Tensor, student: tf.Tensor) -> tf.Tensor:
    """``||T T^T - S S^T||_F^2 / N`` of two matrices T and S, ``[N, M]``."""
    theirs, ours = (tf.matmul(rows, rows, transpose_b=True) for rows in (teacher, student))
    rows = tf.cast(tf.shape(teacher)[0], teacher.dtype)
    return tf.reduce_sum(tf.square(theirs - ours)) / rows


def share_up_to_median(values: tf.Tensor) -> tf.Tensor:
    """The share of ``values [N]`` that are at most their median, about a half."""
    ordered, size = tf.sort(values), tf.shape(values)[0]
    median = (ordered[(size - 1) // 2] + ordered[size // 2]) / 2
    return tf.reduce_mean(tf.cast(values <= median, values.dtype))


@register("MLKD")
class MLKD(Method):
    """Jin, Wang & Lin, "Multi-level logit distillation", CVPR 2023, with one view of each image.

    The paper adds a second, strongly augmented view, and trains longer; this is the form that Sun
    et al. (ICCV 2025) compare fairly with other methods, with their temperatures. Departures: the
    main loss has its full weight; theirs is 0.1, next to 0.9 of this one. The gradient is clipped
    (see `Combination.CLIP`); the authors add the losses.

    Args:
        temperatures: each T that divides the logits of both networks.
        weight: of this loss. None: 0.9, or 0.1 for a student without normalisation layers, which
            0.9 makes diverge.
        clip: the largest norm of this loss's gradient, as a multiple of the weighted main loss's;
            1e9 adds the losses unclipped.
        main_weight: weight of the main loss.
    """

    paper = "Jin et al., CVPR 2023"
    reads = Logits()
    combination = Combination.CLIP
    usual_weight = 0.9
    weight_without_normalization = 0.1
    couples_samples = True

    temperatures: tuple[float, ...] = option((4.0, 3.0, 5.0, 2.0, 6.0), above=0)
    weight: float | None = option(None, above=0)
    clip: float = option(1.0, above=0)
    main_weight: float = option(1.0, minimum=0)

    def check(self) -> None:
        if not self.temperatures:
            raise UserError(f"{self.label('temperatures')} must be one or more, such as 4;3;5")

    def loss(self, teacher: tf.Tensor, student: tf.Tensor) -> tf.Tensor:
        return multi_level_loss(teacher, student, self.temperatures)
