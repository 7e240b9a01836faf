"""The temporal task ensemble (TTE): each image's embeddings, averaged over time and tasks.

After Laine & Aila, "Temporal ensembling for semi-supervised learning", ICLR 2017, carried over from
one task's predictions to the embeddings ``e_t`` of T tasks. For each training image and task a
memory ``Z_t`` is updated by ``Z_t <- a Z_t + (1 - a) e_t``; n_t counts its updates. The ensemble
over time and tasks is ``Z = normalise(mean_t Z_t / (1 - a^n_t))``, over the tasks with n_t > 0.
"""

from __future__ import annotations

import tensorflow as tf

from op_util.metric_learning import normalised
from op_util.precision import product


def first_occurrence(index: tf.Tensor) -> tf.Tensor:
    """Where each row's image comes first in the batch: int64 ``[B]`` of ``index [B]``."""
    return tf.argmax(index[:, None] == index[None, :], axis=1)


def mean_per_image(values: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    """``values [B, ...]`` averaged over the rows of one image, at each of these rows.

    The rows of an image get exactly equal values, so that it does not matter which of them is
    written last.
    """
    same = tf.cast(index[:, None] == index[None, :], values.dtype)
    flat = tf.reshape(values, [tf.shape(values)[0], -1])
    total = tf.reshape(product(same, flat), tf.shape(values))
    times = tf.reshape(tf.reduce_sum(same, axis=1), [-1, *[1] * (values.shape.rank - 1)])
    return tf.gather(total / times, first_occurrence(index))


def updated(memory: tf.Tensor, embeddings: tf.Tensor, decay: float) -> tf.Tensor:
    """``a Z_t + (1 - a) e_t``, for tensors of one shape; `decay` is a."""
    return decay * memory + (1 - decay) * embeddings


def ensemble(memory: tf.Tensor, updates: tf.Tensor, decay: float) -> tf.Tensor:
    """``Z = normalise(mean_t Z_t / (1 - a^n_t))``, over tasks with ``n_t > 0``; zero where there is
    none. No gradient flows through it. The code averages over all T tasks, where the others are
    zero: normalising makes the result the same.

    Args:
        memory: ``[B, T, width]``, the Z_t.
        updates: integers ``[B, T]``: n_t, how often a task's memory of an image was updated; or
            ``[B, 1]`` where that is the same for all tasks.
        decay: a, from 0 to below 1.

    Returns:
        ``[B, width]``, in float32 at least.
    """
    correction = 1 - tf.pow(tf.cast(decay, memory.dtype), tf.cast(updates, memory.dtype))
    corrected = tf.math.divide_no_nan(memory, correction[..., None])
    return tf.stop_gradient(normalised(tf.reduce_mean(corrected, axis=1)))


def contrastive_loss(
    embeddings: tf.Tensor,
    ensemble: tf.Tensor,
    is_known: tf.Tensor,
    index: tf.Tensor,
    temperature: float,
) -> tf.Tensor:
    """Cross-entropy of ``softmax_j(e_t(i) . Z(j) / temperature)`` over the batch's images j against
    j = i; mean over tasks t and images i. No gradient through Z.

    An image without a memory is neither anchor nor candidate. An image that occurs several times in
    the batch is an anchor each time but a candidate only once, so it is never its own negative.

    Args:
        embeddings: ``e_t``, ``[B, T, width]`` of length 1.
        ensemble: ``Z``, ``[B, width]`` of length 1.
        is_known: bool ``[B]``, whether an image has a memory (n > 0).
        index: integers ``[B]`` of the images.
        temperature: above 0.

    Returns:
        A scalar, 0 where no image is known.
    """
    target = first_occurrence(index)
    is_first = target == tf.range(tf.size(index, tf.int64), dtype=tf.int64)
    logits = tf.einsum("itd,jd->tij", embeddings, tf.stop_gradient(ensemble)) / temperature
    # Not infinite: a row without any candidate would give NaN, and its gradient would too.
    logits = tf.where(is_first & is_known, logits, logits.dtype.min / 2)
    tasks = tf.shape(logits)[0]
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
        labels=tf.tile(target[None], [tasks, 1]), logits=logits
    )
    total = tf.reduce_sum(tf.where(is_known, tf.reduce_mean(losses, axis=0), 0))
    return tf.math.divide_no_nan(total, tf.reduce_sum(tf.cast(is_known, total.dtype)))


def ensemble_distance(
    embeddings: tf.Tensor, ensemble: tf.Tensor, is_known: tf.Tensor
) -> tf.Tensor:
    """``||e_t(i) - Z(i)||^2``, mean over tasks and the images that are known; 0 where none is.

    Args:
        embeddings, ensemble, is_known: see `contrastive_loss`.
    """
    squared = tf.reduce_sum((embeddings - ensemble[:, None]) ** 2, axis=-1)
    total = tf.reduce_sum(tf.where(is_known, tf.reduce_mean(squared, axis=1), 0))
    return tf.math.divide_no_nan(total, tf.reduce_sum(tf.cast(is_known, total.dtype)))


def ramp(epoch: tf.Tensor, ramp_epochs: float, maximum: float) -> tf.Tensor:
    """The ensemble loss's weight ``maximum exp(-5 (1 - min(1, epoch / ramp_epochs))^2)``, and 0 in
    the first epoch, in which nothing is remembered (Laine & Aila 2017, section 3.1).

    Args:
        epoch: scalar, the number of finished epochs.
        ramp_epochs: after so many epochs the weight is the largest; 0: right after the first.
        maximum: that largest weight.

    Returns:
        A float32 scalar.
    """
    epoch = tf.cast(epoch, tf.float32)
    done = tf.minimum(1.0, epoch / max(float(ramp_epochs), 1e-6))
    return tf.where(epoch > 0, maximum * tf.exp(-5.0 * (1.0 - done) ** 2), 0.0)
