"""DKD: what the teacher knows of the target class and of the others, each with its own weight."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import tensorflow as tf

from distillers.checks import in_range, positive, same_classes
from distillers.method import Method
from distillers.registration import register
from op_util.precision import at_least_float32
from op_util.replicas import global_sum
from registry import UserError


@register("DKD")
@dataclasses.dataclass(eq=False)
class DKD(Method):
    """Zhao, Cui, Song, Qiu & Liang, "Decoupled knowledge distillation", CVPR 2022.

    Defaults are those of mdistiller, the authors' code. An unlabelled image has no target class and
    is left out.

    Args:
        temperature: T, divides the logits of both networks.
        alpha: weight of the target class' part (TCKD).
        beta: weight of the other classes' part (NCKD).
        warmup: epochs over which the loss grows in training, from ``1 / warmup`` of itself to the
            whole; 0: none.
        weight: of this loss, next to the main loss.
    """

    paper = "Zhao et al., CVPR 2022, arXiv 2203.08679"
    reads = "logits"

    temperature: float = 4.0
    alpha: float = 1.0
    beta: float = 8.0
    warmup: int = 20
    weight: float = 1.0

    def __post_init__(self) -> None:
        positive("DKD", temperature=self.temperature, weight=self.weight)
        in_range("DKD", 0, math.inf, alpha=self.alpha, beta=self.beta, warmup=self.warmup)

    @property
    def distillation_weight(self) -> float:
        return self.weight

    def build(self, teacher_outputs: Any, student_outputs: Any) -> None:
        same_classes("DKD", teacher_outputs, student_outputs)

    def compute_loss(
        self, teacher_outputs: tf.Tensor, student_outputs: tf.Tensor, **context: Any
    ) -> tf.Tensor:
        """``T^2 (alpha TCKD + beta NCKD)`` (equation 7), mean over the labelled images.

        Args:
            teacher_outputs, student_outputs: logits ``[B, classes]``.
            **context: ``labels`` int32 ``[B]`` are needed; -1: unlabelled.

        Raises:
            UserError: there are no labels.
        """
        labels = context.get("labels")
        if labels is None:
            raise UserError("DKD needs the labels of the batch: compute_loss(..., labels=labels)")
        labels = tf.convert_to_tensor(labels)
        student = at_least_float32(student_outputs)
        teacher = tf.cast(tf.stop_gradient(teacher_outputs), student.dtype)
        is_target = tf.one_hot(tf.maximum(labels, 0), student.shape[-1], True, False, dtype=tf.bool)
        student, teacher = (
            _decoupled(logits / self.temperature, is_target) for logits in (student, teacher)
        )
        target_part = sum(
            tf.exp(theirs) * (theirs - ours)
            for theirs, ours in zip(teacher[:2], student[:2], strict=True)
        )
        others_part = tf.reduce_sum(
            tf.exp(teacher.among_others) * (teacher.among_others - student.among_others), axis=1
        )
        loss = self.temperature**2 * (self.alpha * target_part + self.beta * others_part)
        return _mean_over_labelled(loss, labels >= 0)

    def compute(
        self, teacher_outputs: tf.Tensor, student_outputs: tf.Tensor, **context: Any
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        loss = self.compute_loss(teacher_outputs, student_outputs, **context)
        epoch = context.get("epoch")
        if self.warmup > 0 and epoch is not None:  # epochs are counted from 0
            loss *= tf.minimum((tf.cast(epoch, loss.dtype) + 1) / self.warmup, 1)
        return loss, {}


class _Decoupled(NamedTuple):
    """Class probabilities in the parts that DKD compares (section 3.1), as logarithms.

    Attributes:
        target: of the target class, ``[B]``.
        others: of all other classes together, ``[B]``.
        among_others: of each other class, given that it is one of them, ``[B, classes]``; the
            target class has a log-probability so low that its probability is 0.
    """

    target: tf.Tensor
    others: tf.Tensor
    among_others: tf.Tensor


def _decoupled(logits: tf.Tensor, is_target: tf.Tensor) -> _Decoupled:
    log_sum = tf.reduce_logsumexp(logits, axis=1)
    # Finite, and the same in both networks: 0 is what it adds to the divergence.
    low = tf.constant(-1e9, logits.dtype)
    other_logits = tf.where(is_target, low, logits)
    log_others = tf.reduce_logsumexp(other_logits, axis=1)
    among_others = tf.where(is_target, low, logits - log_others[:, None])
    target = tf.reduce_sum(tf.where(is_target, logits, 0), axis=1)
    return _Decoupled(target - log_sum, log_others - log_sum, among_others)


def _mean_over_labelled(loss: tf.Tensor, is_labelled: tf.Tensor) -> tf.Tensor:
    """The mean of this replica's ``loss [B]`` with 0 for the unlabelled, over the share of the
    labelled in the global batch, so that the replicas' means average to that over the labelled."""
    ones = tf.cast(is_labelled, loss.dtype)
    labelled, all_images = global_sum([tf.reduce_sum(ones), tf.cast(tf.size(ones), loss.dtype)])
    share = tf.math.divide_no_nan(labelled, all_images)
    return tf.math.divide_no_nan(tf.reduce_mean(tf.where(is_labelled, loss, 0)), share)
