"""Measure the strength and direction of each task's gradient on the encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import tensorflow as tf

from pretext.batch import Batch, Use

if TYPE_CHECKING:
    from pretext.model import MultiTask


class Measured(NamedTuple):
    """The result of a `Measurement`.

    Attributes:
        losses: the unweighted losses L_t, float32 ``[T]``.
        norms: norms of their gradients on the encoder, float32 ``[T]``.
        cosines: cosines between these gradients, float32 ``[T, T]``; 0 if either is zero.
        embeddings: the images' embeddings e_t, float32 ``[B, T, width]``.
    """

    losses: tf.Tensor
    norms: tf.Tensor
    cosines: tf.Tensor
    embeddings: tf.Tensor


class Measurement:
    """Measures each task's gradient on the encoder, on a fixed batch with new views in each epoch.

    It runs on one device, uses the weights in training, and changes nothing.

    Args:
        model: the model with the tasks and the encoder.
        sample: a batch of training images.
    """

    def __init__(self, model: MultiTask, sample: Batch):
        self._model = model
        self._sample = sample
        self._function = tf.function(self._measured, autograph=False)

    def __call__(self) -> Measured:
        with self._model.unchanged():
            return self._function()

    def _measured(self) -> Measured:
        variables = self._model.network.trainable_variables
        with tf.GradientTape(persistent=True) as tape:
            results = self._model.run_tasks(self._sample, Use.MEASURING)
            losses = self._model.task_terms(results).losses
            parts = tf.unstack(losses)
        gradients = tf.stack([flat(tape.gradient(part, variables), variables) for part in parts])
        del tape
        products = tf.matmul(gradients, gradients, transpose_b=True)
        norms = tf.sqrt(tf.linalg.diag_part(products))
        cosines = tf.math.divide_no_nan(products, norms[:, None] * norms[None, :])
        return Measured(losses, norms, cosines, results.embeddings)


def flat(gradients: Sequence[tf.Tensor | None], variables: Sequence[Any]) -> tf.Tensor:
    """Concatenate the gradients of several variables to one float32 vector, with zeros for None."""
    return tf.concat(
        [
            tf.zeros([np.prod(variable.shape, dtype=int)]) if gradient is None
            else tf.reshape(tf.cast(gradient, tf.float32), [-1])
            for gradient, variable in zip(gradients, variables, strict=True)
        ],
        axis=0,
    )
