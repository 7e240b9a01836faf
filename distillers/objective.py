"""What a training step minimizes: the main loss and the distillation losses of the global batch.

Each replica computes its own part, so that the replicas' gradients add up to the global batch's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

import replicas
from distillers.batch import Batch, main_cross_entropy
from distillers.loss import Context, Reduction
from distillers.stages import RunStage, Term


class Parts(NamedTuple):
    """This replica's part of the weighted distillation losses.

    Attributes:
        added: to the main loss.
        clipped: for each of the stage's `clip_groups` the loss whose gradient is clipped against
            the main loss's.
        metrics: to be logged, per image.
    """

    added: tf.Tensor
    clipped: tuple[tf.Tensor, ...]
    metrics: dict[str, tf.Tensor]


def part_of_layers_losses(
    of_images: Sequence[tf.Tensor], of_weights: Sequence[tf.Tensor], share: tf.Tensor
) -> tf.Tensor:
    """This replica's part of the losses that the student's own layers add.

    Args:
        of_images: those of this replica's images, of which the global batch's mean is taken.
        of_weights: those of its weights, which all replicas share.
        share: of the global batch's images that this replica has.
    """
    images, weights = (
        tf.add_n([tf.cast(each, tf.float32) for each in losses]) if losses else tf.constant(0.0)
        for losses in (of_images, of_weights)
    )
    return tf.where(share > 0, share * images, 0) + weights / replicas.count()


def main_loss(
    logits: Sequence[tf.Tensor], batch: Batch, smoothing: float = 0.0
) -> tf.Tensor:
    """This replica's part of the cross-entropy's mean over all labelled images of the global batch,
    summed over the networks that learn.

    Args:
        logits: ``[B, classes]`` of each network that learns.
        batch: whose weights multiply the images' losses.
        smoothing: of the labels, see `batch.cross_entropy`.
    """
    total = 0.0
    for each in logits:
        loss, labelled = main_cross_entropy(each, batch, smoothing)
        count = replicas.global_sum(tf.reduce_sum(labelled))
        weight = labelled * tf.cast(batch.weight, labelled.dtype)
        total += tf.math.divide_no_nan(tf.reduce_sum(loss * weight), count)
    return tf.cast(total, tf.float32)


def distillation_losses(
    stage: RunStage,
    teacher: Mapping[str, Any],
    student: Mapping[str, Any],
    batch: Batch,
    weight: tf.Tensor,
    epoch: tf.Tensor,
    weights: Sequence[tf.Tensor],
) -> Parts:
    """The distillation losses of a stage.

    Args:
        stage: whose terms take part.
        teacher, student: all features of both networks, the student's with what is `projected`
            of them (see `Loss`).
        weight: how much each image of this replica counts (see `replicas.never_empty`).
        epoch: int32 scalar.
        weights: of the terms' losses in this epoch.
    """
    added = tf.constant(0.0)
    clipped = {group.bound: tf.constant(0.0) for group in stage.clip_groups}
    if not stage.terms:
        return Parts(added, (), {})
    metrics: dict[str, tf.Tensor] = {"distillation_loss": 0.0, "weighted_distillation_loss": 0.0}
    for term, factor in zip(stage.terms, weights, strict=True):
        loss, logged, own = _term_loss(term, teacher, student, batch, weight, epoch)
        if term.clips:
            clipped[term.stage.clip] += factor * loss
        else:
            added += factor * loss
        metrics["distillation_loss"] += logged
        metrics["weighted_distillation_loss"] += factor * logged
        metrics[f"{term.name}_loss"] = logged
        metrics |= {f"{term.prefix}{name}": value for name, value in own.items()}
    return Parts(added, tuple(clipped.values()), metrics)


def _term_loss(
    term: Term,
    teacher: Mapping[str, Any],
    student: Mapping[str, Any],
    batch: Batch,
    weight: tf.Tensor,
    epoch: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
    """This replica's part of one method's loss, unweighted, float32; the same per image, to be
    logged; and the method's metrics."""
    method = term.loss.method
    extras = {name: student[name] for name in method.extras if name in student}
    teacher, student = method.select(teacher), method.select(student)
    local = weight * tf.cast(tf.shape(batch.label)[0], tf.float32)
    images = replicas.global_sum(local)
    of_images = {"labels": batch.label}
    if batch.index is not None:
        of_images["indices"] = batch.index
    if method.couples_samples:
        teacher, student, of_images = replicas.global_batch((teacher, student, of_images), images)
    context = Context(epoch=epoch, training=True, extras=extras, **of_images)
    loss, metrics = term.loss.compute(teacher, student, context, term.stage)
    loss, share = tf.cast(loss, tf.float32), tf.math.divide_no_nan(local, images)
    # Logged per image, whether the method sums or averages.
    is_sum = term.stage.reduction is Reduction.SUM
    if method.couples_samples:  # each replica has the global batch's
        return loss / replicas.count(), loss / (images if is_sum else 1.0), metrics
    # The mean of no images is NaN.
    loss = loss * weight if is_sum else tf.where(share > 0, loss * share, 0)
    return loss, tf.math.divide_no_nan(loss, local if is_sum else share), metrics


def share_of_images(batch: Batch, weight: tf.Tensor) -> tf.Tensor:
    """The share of the global batch's images that this replica has, a scalar from 0 to 1: a replica
    logs its part of the global loss divided by it, and the mean over images is that loss.

    Args:
        weight: how much each image of this replica counts.
    """
    images = weight * tf.cast(tf.shape(batch.label)[0], tf.float32)
    return tf.math.divide_no_nan(images, replicas.global_sum(images))


def weight_in_epoch(term: Term, epoch: tf.Tensor, epochs: int | None) -> tf.Tensor:
    """The weight of a term's loss, which a warm-up lets grow.

    Args:
        term: whose stage says how long the warm-up is, as a share of the run.
        epoch: of the stage, from 0; in the first, the loss has its share already.
        epochs: of the whole run; None: not known, and there is no warm-up.
    """
    if not term.stage.warmup or not epochs:
        return tf.constant(term.stage.weight, tf.float32)
    duration = max(term.stage.warmup * epochs, 1.0)
    return term.stage.weight * tf.minimum((tf.cast(epoch, tf.float32) + 1) / duration, 1)


def metric_names(stage: RunStage, stages: Sequence[RunStage]) -> list[str]:
    """What is logged of the distillation in one of the stages of a run.

    ``distillation_loss`` is the sum of the methods' losses, unweighted. The weighted sum is there
    too where it can differ, and each method's own loss where there are several.
    """
    if not stage.distils:
        return []
    terms = [term for each in stages for term in each.terms]
    names = ["distillation_loss"]
    if any(term.stage.weight != 1 or term.stage.warmup for term in terms):
        names.append("weighted_distillation_loss")
    for term in stage.terms:
        names += [f"{term.name}_loss"] if term.prefix else []
        names += [f"{term.prefix}{name}" for name in term.loss.method.metrics]
    return names
