"""CRD: of many images, the student is to recognise the one whose teacher's embedding it is shown,
and the other way round."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from distillers.adapters import linear
from distillers.checks import in_range, positive
from distillers.method import Method
from distillers.registration import register
from op_util.draws import uniform_draws
from op_util.precision import at_least_float32
from op_util.vectors import directions
from registry import UserError

DRAWS_STREAM = 0xC2D  # of the random numbers, not that of another use


@register("CRD")
@dataclasses.dataclass(eq=False)
class CRD(Method):
    """Tian, Krishnan & Isola, "Contrastive representation distillation", ICLR 2020.

    A trained linear layer on each embedding, and a `Memory` of each training image's vectors; both
    are saved with the training. The negatives of an image are of other classes, as in RepDistiller
    by default. They are drawn once a step for the whole batch, so that an image has as many fewer
    as are of its own class. Labels are learned as images come; of an unlabelled image, only itself
    is no negative.

    The `Distiller` tells through `begin` how many training images there are, if it was told. To use
    the loss by itself, call it, or give `samples`, before `build`. `compute_loss` changes nothing;
    `compute`, the loss as it is trained with, updates the memory.

    Args:
        negatives: how many images are drawn at each step; at most all there are.
        temperature: tau, divides the cosines.
        memory_momentum: share of its old vector that the memory keeps when an image comes up again.
        embedding_size: width behind the linear layers.
        samples: number of training images, where the loss is used by itself; training tells it.
        weight: of this loss, next to the main loss. This and the others are RepDistiller's.
    """

    paper = "Tian et al., ICLR 2020, arXiv 1910.10699"
    reads = "embedding"
    couples_samples = True

    negatives: int = 16384
    temperature: float = 0.07
    memory_momentum: float = 0.5
    embedding_size: int = 128
    samples: int = 0
    weight: float = 0.8

    def __post_init__(self) -> None:
        positive(
            "CRD", negatives=self.negatives, temperature=self.temperature,
            embedding_size=self.embedding_size, weight=self.weight,
        )
        in_range("CRD", 0, 1, memory_momentum=self.memory_momentum)
        in_range("CRD", 0, math.inf, samples=self.samples)
        self._rows = self.samples
        self._layers: list[keras.layers.Layer] = []

    @property
    def distillation_weight(self) -> float:
        return self.weight

    @property
    def layers(self) -> Sequence[keras.layers.Layer]:
        return self._layers

    @property
    def notes(self) -> Sequence[str]:
        if self.negatives <= self._rows:
            return ()
        return (f"negatives: all {self._rows} images, there are no {self.negatives}",)

    def begin(self, samples: int, classes: int) -> None:
        if samples < 2:
            raise UserError(f"CRD needs two training images or more, there are {samples}")
        self._rows = samples

    def build(self, teacher_outputs: Any, student_outputs: Any) -> None:
        if not self._rows:
            raise UserError(
                "CRD needs the number of training images: give samples, to it or to Distiller, or "
                "call begin(samples, classes) before build"
            )
        self._layers = [
            linear(teacher_outputs, self.embedding_size, name="crd_teacher"),
            linear(student_outputs, self.embedding_size, name="crd_student"),
            Memory(self._rows, self.embedding_size, name="crd_memory"),
        ]

    def compute_loss(
        self, teacher_outputs: tf.Tensor, student_outputs: tf.Tensor, **context: Any
    ) -> tf.Tensor:
        """The `contrastive_loss` of the student's vectors against the memory of the teacher's, plus
        that of the teacher's against the student's, float32.

        Args:
            teacher_outputs, student_outputs: embeddings ``[B, D]``.
            **context: ``indices`` int64 ``[B]`` of the images, from 0, are needed; ``labels`` int32
                ``[B]``, -1 and by default: unlabelled.

        Raises:
            UserError: there are no indices.
        """
        return self._contrast(teacher_outputs, student_outputs, context).loss

    def compute(
        self, teacher_outputs: tf.Tensor, student_outputs: tf.Tensor, **context: Any
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        found = self._contrast(teacher_outputs, student_outputs, context)
        self._layers[2].remember(found, self.memory_momentum)
        return found.loss, {}

    def _contrast(
        self, teacher_outputs: tf.Tensor, student_outputs: tf.Tensor, context: dict[str, Any]
    ) -> Contrast:
        indices, labels = context.get("indices"), context.get("labels")
        if indices is None:
            raise UserError("CRD needs to know which training image is which: indices=...")
        embed_teacher, embed_student, memory = self._layers
        tf.debugging.assert_non_negative(
            indices, "CRD needs the indices of a batch's images, counted from 0"
        )
        tf.debugging.assert_less(
            indices, tf.cast(self._rows, indices.dtype), "CRD: more images than were announced"
        )
        labels = tf.fill(tf.shape(indices), -1) if labels is None else tf.cast(labels, tf.int32)
        teacher = directions(embed_teacher(at_least_float32(tf.stop_gradient(teacher_outputs))))
        student = directions(embed_student(at_least_float32(student_outputs)))

        all_labels = tf.tensor_scatter_nd_update(memory.labels.value, indices[:, None], labels)
        drawn = drawn_rows(self._rows, self.negatives, memory.steps.value)
        is_negative = negatives_of(indices, labels, drawn, tf.gather(all_labels, drawn))
        loss, log_sums = 0.0, []
        for i, (vectors, others) in enumerate(
            ((student, memory.teacher.value), (teacher, memory.student.value))
        ):
            positive_score = tf.reduce_sum(vectors * tf.gather(others, indices), axis=1)
            scores = tf.matmul(vectors, tf.gather(others, drawn), transpose_b=True)
            log_joint = tf.concat([positive_score[:, None], scores], axis=1) / self.temperature
            log_sum = tf.where(
                memory.steps.value == 0,
                estimated_log_sum(log_joint, is_negative, self._rows),
                memory.log_sums.value[i],
            )
            loss += contrastive_loss(log_joint - log_sum, is_negative, self._rows)
            log_sums.append(log_sum)
        return Contrast(loss, teacher, student, indices, all_labels, tf.stack(log_sums))


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
    """What is known of each training image, and how far the draws have come; nothing of it is
    trained, all of it is saved. Each replica makes the same update.

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

    def remember(self, found: Contrast, momentum: float) -> None:
        """Move the batch's rows to ``momentum old + (1 - momentum) new``, at unit length; of an
        image that is in the batch twice, the first counts."""
        same = found.indices[:, None] == found.indices[None, :]
        first = tf.argmax(tf.cast(same, tf.int32), axis=1)
        for rows, vectors in ((self.teacher, found.teacher), (self.student, found.student)):
            old, new = tf.gather(rows.value, found.indices), tf.gather(vectors, first)
            moved = directions(momentum * old + (1 - momentum) * new)
            rows.value.scatter_update(tf.IndexedSlices(moved, found.indices))
        self.labels.assign(found.labels)
        self.log_sums.assign(found.log_sums)
        self.steps.assign(self.steps.value + 1)


def drawn_rows(rows: int, count: int, step: tf.Tensor) -> tf.Tensor:
    """`count` different numbers below `rows`, by chance but the same at the same step; where there
    are no more, all of them in order."""
    if count >= rows:
        return tf.range(rows)
    # TensorFlow's own stateless numbers would be others where XLA compiles.
    lots = uniform_draws(0, DRAWS_STREAM, step, tf.range(rows), 1)[:, 0]
    return tf.math.top_k(lots, count, sorted=False).indices


def negatives_of(
    indices: tf.Tensor, labels: tf.Tensor, drawn: tf.Tensor, drawn_labels: tf.Tensor
) -> tf.Tensor:
    """Which drawn rows ``[K]`` are negatives of which images ``[B]``, bool ``[B, K]``: the rows of
    another image and, where the image is labelled, of another class or none that is known."""
    is_other_image = tf.cast(drawn, indices.dtype)[None, :] != indices[:, None]
    is_other_class = (drawn_labels[None, :] != labels[:, None]) | (labels < 0)[:, None]
    return is_other_image & is_other_class


def estimated_log_sum(log_joint: tf.Tensor, is_negative: tf.Tensor, rows: int) -> tf.Tensor:
    """``log Z``, Z the mean of ``exp(g)`` over a batch's positives and negatives, times the number
    of images (as Wu et al., CVPR 2018, estimate it), without a gradient.

    Args:
        log_joint: ``g [B, 1 + K]``, cosines over the temperature, the positive first.
        is_negative: bool ``[B, K]``.
    """
    counts = tf.pad(is_negative, [[0, 0], [1, 0]], constant_values=True)
    kept = tf.where(counts, tf.stop_gradient(log_joint), -math.inf)
    number = tf.reduce_sum(tf.cast(counts, kept.dtype))
    return tf.reduce_logsumexp(kept) - tf.math.log(number) + math.log(rows)


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
