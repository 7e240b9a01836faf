"""The batches that the distiller takes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from registry import UserError

_NOT_WHOLE = "labels are not all whole numbers"


class Batch(NamedTuple):
    """A batch of the data.

    Attributes:
        image: ``[B, H, W, C]``.
        label: int32 ``[B]``, each image's class, -1 if unknown.
        index: int64 ``[B]``, each image's position in the training data, -1 or None if unknown.
        weight: float32 ``[B]``, each image's weight in the main loss.
        share: float32 ``[B]`` in [0.5, 1]: of a mixture of two images, the share of the image that
            `label` and `index` belong to; None: nothing is mixed.
        other_label: int32 ``[B]``, the label of the other image; None: nothing is mixed.
        teacher: the teacher's features of these images by name, ``"logits"`` or ``"embedding"``,
            ``[B, D]`` of any floating type, if they were computed before; empty otherwise.
    """

    image: tf.Tensor
    label: tf.Tensor
    index: tf.Tensor | None
    weight: tf.Tensor
    share: tf.Tensor | None = None
    other_label: tf.Tensor | None = None
    teacher: Mapping[str, tf.Tensor] = MappingProxyType({})


def as_batch(data: Any) -> Batch:
    """Convert the data that Keras passes to a step to a `Batch`.

    Args:
        data: images or a dict ``{"image", "label", "index", "weight", "share", "other_label",
            "teacher"}``, alone or in a tuple, as Keras passes it: ``(images, labels)`` or
            ``(images, labels, sample_weight)``. Missing labels and indices become -1, missing
            weights and shares 1.

    Raises:
        UserError: labels are one-hot.
        tf.errors.InvalidArgumentError: labels are not whole numbers, when the step is run.
    """
    given = data if isinstance(data, tuple) else (data,)
    image, label, weight = (*given, None, None)[:3]
    index, share, other_label, teacher = None, None, None, {}
    if isinstance(image, dict):
        teacher = dict(image.get("teacher", {}))
        share, other_label = image.get("share"), image.get("other_label")
        label = image.get("label") if label is None else label
        weight = image.get("weight") if weight is None else weight
        image, index = image["image"], image.get("index")
    if label is not None and len(label.shape) > 1 and label.shape[-1] not in (1, None):
        raise UserError(
            f"labels have shape {tuple(label.shape)}, one-hot perhaps; expected the number of "
            "each image's class, (batch,): use numpy.argmax(labels, axis=1)"
        )
    unknown = tf.fill(tf.shape(image)[:1], -1)
    label = unknown if label is None else _whole(tf.reshape(label, [-1]))
    index = tf.cast(unknown if index is None else index, tf.int64)
    if weight is None:
        weight = tf.ones_like(label, tf.float32)
    share = tf.ones_like(label, tf.float32) if share is None else tf.cast(share, tf.float32)
    other_label = label if other_label is None else tf.cast(other_label, tf.int32)
    weight = tf.cast(tf.reshape(weight, [-1]), tf.float32)
    return Batch(image, label, index, weight, share, other_label, teacher)


def _whole(labels: tf.Tensor) -> tf.Tensor:
    """`labels` as int32. Batches of a data set are not looked at before they are used."""
    numbers = tf.cast(labels, tf.int32)
    if not labels.dtype.is_floating:
        return numbers
    same = tf.reduce_all(tf.cast(numbers, labels.dtype) == labels)  # NaN equals nothing
    with tf.control_dependencies([tf.debugging.Assert(same, [_NOT_WHOLE, labels])]):
        return tf.identity(numbers)


def has_indices(data: Any) -> bool:
    """Whether the data that Keras passes to a step contains the images' indices."""
    return _has(data, "index")


def has_mixtures(data: Any) -> bool:
    """Whether the images are mixtures of two."""
    return _has(data, "share")


def _has(data: Any, name: str) -> bool:
    first = data[0] if isinstance(data, tuple) else data
    return isinstance(first, dict) and name in first


def with_indices(x: Any) -> Any:
    """Add indices to an array of images, for methods that keep state for each image."""
    return {"image": x, "index": np.arange(len(x))} if isinstance(x, np.ndarray) else x


def without_labels(batch: Batch) -> Batch:
    """The batch with no image's class known."""
    return batch._replace(label=tf.fill(tf.shape(batch.label), -1))


def check_labels(labels: Any, classes: int) -> None:
    """Raise UserError if labels are not valid classes.

    Args:
        labels: an array, tensor or list of class numbers ``[N]`` or ``[N, 1]``. Anything else is
            accepted.
        classes: the student's number of classes.

    Raises:
        UserError: labels are not finite, not whole, or outside -1 to ``classes - 1``.
    """
    if not isinstance(labels, list) and not hasattr(labels, "__array__"):
        return
    values = np.asarray(labels)
    if not values.size or values.dtype.kind not in "iuf":
        return
    if values.ndim > 1 and values.shape[-1] != 1:
        return
    expected = f"expected class numbers 0 to {classes - 1}, or -1 for unlabelled images"
    if values.dtype.kind == "f" and not np.all(np.isfinite(values) & (values == np.round(values))):
        raise UserError(f"{_NOT_WHOLE}; {expected}")
    if values.min() < -1 or values.max() >= classes:
        hint = " (subtract 1?)" if values.min() == 1 and values.max() == classes else ""
        raise UserError(f"labels are {values.min()} to {values.max()}{hint}; {expected}")


def cross_entropy(
    logits: tf.Tensor, label: tf.Tensor, smoothing: float = 0.0
) -> tuple[tf.Tensor, tf.Tensor]:
    """Each image's cross-entropy ``[B]``, and whether it is labelled ``[B]``, 1 or 0.

    Args:
        logits: ``[B, classes]``.
        label: int32 ``[B]``, -1 if unlabelled. The cross-entropy of unlabelled images is
            meaningless.
        smoothing: probability mass of the target that is spread evenly over all classes (Szegedy et
            al., "Rethinking the Inception architecture", CVPR 2016), in [0, 1).
    """
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(label, 0), logits)
    if smoothing:
        alike = -tf.reduce_mean(tf.nn.log_softmax(logits), axis=-1)
        loss += smoothing * (alike - loss)
    return loss, tf.cast(label >= 0, loss.dtype)


def main_cross_entropy(
    logits: tf.Tensor, batch: Batch, smoothing: float = 0.0
) -> tuple[tf.Tensor, tf.Tensor]:
    """Cross-entropy of each image ``[B]`` and how much of it is labelled ``[B]``, 0 to 1.

    That of a mixture is the mean of its two labels' by their shares; a part without a label counts
    for nothing.

    Args:
        logits: ``[B, classes]``.
        batch: of these images.
        smoothing: see `cross_entropy`.
    """
    loss, known = cross_entropy(logits, batch.label, smoothing)
    if batch.share is None:
        return loss, known
    other, other_known = cross_entropy(logits, batch.other_label, smoothing)
    share = tf.cast(batch.share, loss.dtype)
    known, other_known = share * known, (1 - share) * other_known
    total = known + other_known
    return tf.math.divide_no_nan(known * loss + other_known * other, total), total
