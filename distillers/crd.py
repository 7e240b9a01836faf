"""CRD: contrastive representation distillation.

Of many images, the student is to recognise the one whose teacher's embedding it is given, and the
other way round.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from distillers.adapters import linear
from distillers.loss import Loss
from distillers.method import Method, with_context
from distillers.reading import Embedding
from distillers.registration import register
from op_util.draws import uniform_draws
from op_util.vectors import unit_vectors
from plugins import option
from registry import UserError

DRAWS_STREAM = 0xC2D  # of the random numbers, different from that of another use


def contrastive_loss(log_joint: tf.Tensor, is_negative: tf.Tensor, rows: int) -> tf.Tensor:
    """``-log h(positive) - sum over negatives of log(1 - h)``, mean over the batch (equations 10
    and 11), where ``h = p / (p + N / M)``, ``p = exp(log_joint)``, N is the image's number of
    negatives and M that of all images.

    Args:
        log_joint: ``[B, 1 + K]``, cosines over the temperature minus ``log Z``, the positive first.
        is_negative: bool ``[B, K]``.
        rows: M.
    """
    number = tf.reduce_sum(tf.cast(is_negative, log_joint.dtype), axis=1, keepdims=True)
    logits = log_joint - tf.math.log(tf.maximum(number, 1) / rows)  # h is their sigmoid
    losses = tf.where(is_negative, tf.nn.softplus(logits[:, 1:]), 0)
    return tf.reduce_mean(tf.nn.softplus(-logits[:, 0]) + tf.reduce_sum(losses, axis=1))


def estimated_log_sum(log_joint: tf.Tensor, is_negative: tf.Tensor, rows: int) -> tf.Tensor:
    """``log Z``, Z the mean of ``exp(g)`` over a batch's positives and negatives, times the number
    of images (as Wu et al., CVPR 2018, estimate it), without a gradient. Entries that are not
    finite are left out.

    Args:
        log_joint: ``g [B, 1 + K]``, cosines over the temperature, the positive first.
        is_negative: bool ``[B, K]``.
        rows: the number of images.
    """
    counts = tf.pad(is_negative, [[0, 0], [1, 0]], constant_values=True)
    counts &= tf.math.is_finite(log_joint)
    kept = tf.where(counts, tf.stop_gradient(log_joint), -math.inf)
    number = tf.reduce_sum(tf.cast(counts, kept.dtype))
    return tf.reduce_logsumexp(kept) - tf.math.log(number) + math.log(rows)


def negatives_of(
    indices: tf.Tensor, labels: tf.Tensor, drawn: tf.Tensor, drawn_labels: tf.Tensor
) -> tf.Tensor:
    """Which drawn rows ``[K]`` are negatives of which images ``[B]``, bool ``[B, K]``: the rows of
    another image and, where the image is labelled, of another class or none that is known."""
    is_other_image = tf.cast(drawn, indices.dtype)[None, :] != indices[:, None]
    is_other_class = (drawn_labels[None, :] != labels[:, None]) | (labels < 0)[:, None]
    return is_other_image & is_other_class


def drawn_rows(rows: int, count: int, step: tf.Tensor) -> tf.Tensor:
    """`count` different numbers below `rows`, drawn at random but the same at the same step; where
    there are no more, all of them in order."""
    if count >= rows:
        return tf.range(rows)
    # TensorFlow's own stateless random numbers differ where XLA compiles.
    lots = uniform_draws(0, DRAWS_STREAM, step, tf.range(rows), 1)[:, 0]
    return tf.math.top_k(lots, count, sorted=False).indices


class Contrast(NamedTuple):
    """The loss of a batch, and what is to be remembered of it.

    Attributes:
        loss: scalar.
        teacher, student: vectors of unit length ``[B, embedding_size]``.
        indices: of the images ``[B]``.
        labels: of all images, those of this batch included, ``[rows]``.
        log_sums: logarithms of Z ``[2]``: of student against teacher, of teacher against student.
    """

    loss: tf.Tensor
    teacher: tf.Tensor
    student: tf.Tensor
    indices: tf.Tensor
    labels: tf.Tensor
    log_sums: tf.Tensor


class Memory(keras.layers.Layer):
    """The stored vectors and labels of all training images, and the number of updates. Nothing here
    is trained; everything is saved. Each replica makes the same update.

    Args:
        rows: how many images.
        size: of a vector.

    Attributes:
        teacher, student: float32 ``[rows, size]``, of about unit length from the start.
        labels: int32 ``[rows]``, -1 where none is known.
        log_sums: see `Contrast`.
        steps: int32, how many updates there have been, which the draws are a function of.
    """

    def __init__(self, rows: int, size: int, name: str):
        super().__init__(dtype="float32", name=name)
        bound = math.sqrt(3 / size)
        uniform = keras.initializers.RandomUniform
        self.rows = rows
        self.teacher = self._add("teacher", (rows, size), uniform(-bound, bound))
        self.student = self._add("student", (rows, size), uniform(-bound, bound))
        self.labels = self._add("labels", (rows,), keras.initializers.Constant(-1), "int32")
        self.log_sums = self._add("log_sums", (2,), "zeros")
        self.steps = self._add("steps", (), "zeros", "int32")
        self.built = True

    def _add(self, name: str, shape: tuple, initializer: Any, dtype: str = "float32") -> Any:
        return self.add_weight(
            shape=shape, initializer=initializer, dtype=dtype, trainable=False, name=name,
            aggregation="only_first_replica",
        )

    def contrast(
        self,
        teacher: tf.Tensor,
        student: tf.Tensor,
        indices: tf.Tensor,
        labels: tf.Tensor,
        negatives: int,
        temperature: float,
    ) -> Contrast:
        """The `contrastive_loss` of the student's vectors against the memory of the teacher's, plus
        that of the teacher's against the memory of the student's. Changes nothing.

        Args:
            teacher, student: of unit length ``[B, size]``.
            indices: int64 ``[B]``, from 0.
            labels: int32 ``[B]``, -1 where an image has none.
            negatives: how many images are drawn, for the whole batch.
            temperature: tau, above 0.
        """
        all_labels = tf.tensor_scatter_nd_update(self.labels.value, indices[:, None], labels)
        drawn = drawn_rows(self.rows, negatives, self.steps.value)
        is_negative = negatives_of(indices, labels, drawn, tf.gather(all_labels, drawn))
        loss, log_sums = 0.0, []
        sides = ((student, self.teacher.value), (teacher, self.student.value))
        for i, (vectors, others) in enumerate(sides):
            positive_score = tf.reduce_sum(vectors * tf.gather(others, indices), axis=1)
            scores = tf.matmul(vectors, tf.gather(others, drawn), transpose_b=True)
            log_joint = tf.concat([positive_score[:, None], scores], axis=1) / temperature
            log_sum = tf.where(
                self.steps.value == 0,
                estimated_log_sum(log_joint, is_negative, self.rows),
                self.log_sums.value[i],
            )
            loss += contrastive_loss(log_joint - log_sum, is_negative, self.rows)
            log_sums.append(log_sum)
        return Contrast(loss, teacher, student, indices, all_labels, tf.stack(log_sums))

    def remember(self, found: Contrast, momentum: float) -> None:
        """Move the batch's rows to ``momentum old + (1 - momentum) new``, at unit length.

        Of an image that is in the batch twice, the first counts. A row whose new vector is not
        finite stays as it is; a first batch without any finite vector is no update.
        """
        same = found.indices[:, None] == found.indices[None, :]
        for rows, vectors in ((self.teacher, found.teacher), (self.student, found.student)):
            usable = same & tf.reduce_all(tf.math.is_finite(vectors), axis=1)
            first = tf.argmax(tf.cast(usable, tf.float32), axis=1)  # not of int32 on a GPU
            old, new = tf.gather(rows.value, found.indices), tf.gather(vectors, first)
            moved = unit_vectors(momentum * old + (1 - momentum) * new)
            moved = tf.where(tf.reduce_any(usable, axis=1)[:, None], moved, old)
            rows.value.scatter_update(tf.IndexedSlices(moved, found.indices))
        known = tf.reduce_all(tf.math.is_finite(found.log_sums))
        self.labels.assign(found.labels)
        self.log_sums.assign(tf.where(known, found.log_sums, self.log_sums.value))
        self.steps.assign(self.steps.value + tf.cast(known, tf.int32))


@register("CRD")
class CRD(Method):
    """Tian, Krishnan & Isola, "Contrastive representation distillation", ICLR 2020.

    A trained linear layer on each embedding, and a `Memory` of each training image's vectors; both
    are saved with the training. The negatives of an image are of other classes, as in RepDistiller
    by default. Labels are learned as images come; an unlabelled image has only itself excluded from
    its negatives.

    Departure: negatives are drawn once a step for the whole batch, not for each image, so an image
    has fewer of them by as many as are of its own class.

    Evaluating the loss changes nothing; in training it updates the memory.

    Args:
        negatives: how many images are drawn at each step; at most all there are.
        temperature: tau, divides the cosines.
        memory_momentum: share of its old vector that the memory keeps when an image comes up again.
        embedding_size: width behind the linear layers.
        samples: number of training images, where the loss is used by itself; 0: as many as the
            training has.
        weight: weight relative to the main loss. This and the others are RepDistiller's.
    """

    paper = "Tian et al., ICLR 2020, arXiv 1910.10699"
    reads = Embedding()
    couples_samples = True

    negatives: int = option(16384, minimum=1)
    temperature: float = option(0.07, above=0)
    memory_momentum: float = option(0.5, minimum=0, maximum=1)
    embedding_size: int = option(128, minimum=1)
    samples: int = option(0, minimum=0)
    weight: float = option(0.8, above=0)

    def build(self, teacher: Any, student: Any, *, samples: int | None = None) -> Loss:
        rows = samples or self.samples
        if rows < 2:
            raise UserError(
                f"CRD needs the number of training images, two or more, not {rows}: give samples, "
                f"as in CRD(samples=50000) or build(..., samples=50000)"
            )
        embed_teacher = linear(teacher, self.embedding_size, name="crd_teacher")
        embed_student = linear(student, self.embedding_size, name="crd_student")
        memory = Memory(rows, self.embedding_size, name="crd_memory")

        def loss(
            teacher: tf.Tensor, student: tf.Tensor, *, indices: Any, labels: Any = None,
            training: bool,
        ) -> tf.Tensor:
            check_indices(indices, rows)
            labels = tf.fill(tf.shape(indices), -1) if labels is None else labels
            vectors = unit_vectors(embed_teacher(teacher)), unit_vectors(embed_student(student))
            found = memory.contrast(
                *vectors, indices, tf.cast(labels, tf.int32), self.negatives, self.temperature
            )
            if training:
                memory.remember(found, self.memory_momentum)
            return found.loss

        fewer = f"negatives: all {rows} images, there are no {self.negatives}"
        return self.make_loss(
            teacher, student, with_context(loss, self.name),
            layers=[embed_teacher, embed_student, memory],
            notes=[fewer] if self.negatives > rows else [],
        )


def check_indices(indices: tf.Tensor, rows: int) -> None:
    """Let the step fail unless all indices ``[B]`` are 0 to ``rows - 1``."""
    tf.debugging.assert_non_negative(
        indices, "CRD needs the index of each of a batch's images, from 0"
    )
    tf.debugging.assert_less(
        indices, tf.cast(rows, indices.dtype), f"CRD: an index is not below {rows}, the samples"
    )
