"""RKD: distances between two samples, and angles between three, are those of the teacher."""

from __future__ import annotations

import tensorflow as tf

from distillers.loss import Combination
from distillers.method import Method
from distillers.reading import Embedding
from distillers.registration import register
from op_util.vectors import lengths, unit_vectors
from plugins import option


def differences(samples: tf.Tensor) -> tf.Tensor:
    """``[B, B, D]`` of samples ``[B, D]``: at ``[i, j]`` sample j minus sample i."""
    return samples[None, :, :] - samples[:, None, :]


def distances(samples: tf.Tensor) -> tf.Tensor:
    """``psi_D [B, B]``: distances, over the mean of those that are not 0 (equations 4 and 5)."""
    found = tf.squeeze(lengths(differences(samples)), axis=-1)
    apart = tf.cast(found > 0, found.dtype)
    mean = tf.math.divide_no_nan(tf.reduce_sum(found), tf.reduce_sum(apart))
    return tf.math.divide_no_nan(found, mean)


def angles(samples: tf.Tensor) -> tf.Tensor:
    """``psi_A [B, B, B]``: at ``[i, j, k]`` the cosine at sample i of the angle between j and k
    (equation 7); 0 where j or k is in the place of i."""
    e = unit_vectors(differences(samples))
    return tf.matmul(e, e, transpose_b=True)


def huber(error: tf.Tensor) -> tf.Tensor:
    """The mean Huber loss: ``e^2 / 2`` up to 1, beyond that ``|e| - 1/2`` (equation 2)."""
    size = tf.abs(error)
    return tf.reduce_mean(tf.where(size <= 1, tf.square(error) / 2, size - 0.5))


def relational_loss(
    teacher: tf.Tensor, student: tf.Tensor, distance_weight: float, angle_weight: float
) -> tf.Tensor:
    """``distance_weight L_RKD-D + angle_weight L_RKD-A`` (equations 6, 8 and 9), each the mean over
    all pairs and triplets, also those in which a sample comes twice (0 in both networks).

    Args:
        teacher, student: embeddings ``[B, D]``; D may differ.
    """
    distance = huber(distances(student) - distances(teacher))
    angle = huber(angles(student) - angles(teacher))
    return distance_weight * distance + angle_weight * angle


@register("RKD")
class RKD(Method):
    """Park, Kim, Lu & Cho, "Relational knowledge distillation", CVPR 2019.

    Embeddings of teacher and student may differ in width. Defaults are RepDistiller's, after the
    paper's for image classification. Departure: the gradient is clipped (see
    `Combination.CLIP`); the authors add the losses.

    Args:
        distance_weight: weight of the distance term; 0 leaves RKD-A.
        angle_weight: weight of the angle term; 0 leaves RKD-D.
        weight: weight relative to the main loss.
        clip: the largest norm of this loss's gradient, as a multiple of the main task's; 1e9 adds
            the losses unclipped, as the authors do.
    """

    paper = "Park et al., CVPR 2019, arXiv 1904.05068"
    reads = Embedding()
    combination = Combination.CLIP
    couples_samples = True

    distance_weight: float = option(25.0, minimum=0)
    angle_weight: float = option(50.0, minimum=0)
    weight: float = option(1.0, above=0)
    clip: float = option(1.0, above=0)

    def loss(self, teacher: tf.Tensor, student: tf.Tensor) -> tf.Tensor:
        return relational_loss(teacher, student, self.distance_weight, self.angle_weight)
