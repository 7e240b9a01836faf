"""AB: activation boundaries, the student's neurons are active where the teacher's are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from distillers.adapters import Adapters
from distillers.loss import Combination, Context, Loss, Stage
from distillers.method import Method
from distillers.reading import Logits, Maps, Reading
from distillers.registration import register
from op_util.divergence import softened_divergence
from plugins import option

SCALE = 3 / 1000  # of the authors' code


def boundary_loss(teacher: tf.Tensor, student: tf.Tensor, margin: float) -> tf.Tensor:
    """``||rho(T) max(0, margin - S) + (1 - rho(T)) max(0, margin + S)||^2`` of each image
    (equation 4), where ``rho(T)`` is 1 for an active neuron of the teacher, above 0, else 0.

    Args:
        teacher, student: ``[B, ...]`` of one shape, before the ReLU.
        margin: above 0.

    Returns:
        ``[B]``.
    """
    short = tf.nn.relu(margin + tf.where(teacher > 0, -student, student))
    return tf.reduce_sum(tf.square(short), axis=list(range(1, len(short.shape))))


def boundaries_loss(
    teacher: Sequence[tf.Tensor], student: Sequence[tf.Tensor], margin: float
) -> tf.Tensor:
    """``3 / 1000`` times the sum over taps of ``2^-d`` times the mean over the batch of
    `boundary_loss`, d the number of deeper taps (the authors' code).

    Args:
        teacher, student: taps ``[B, ...]``, shallow to deep, of one shape in each pair.
        margin: see `boundary_loss`.
    """
    pairs = list(zip(teacher, student, strict=True))
    losses = [tf.reduce_mean(boundary_loss(*pair, margin)) for pair in pairs]
    return SCALE * sum(loss / 2**deeper for deeper, loss in enumerate(reversed(losses)))


@register("AB")
class AB(Method):
    """Heo, Lee, Yun & Choi, "Knowledge transfer via distillation of activation boundaries formed by
    hidden neurons", AAAI 2019.

    First the student learns which of the teacher's neurons are active, then the main task alone.

    Departures: in the first stage it learns the main task too, and the boundaries' gradient is
    clipped to a part of that task's norm (`clip`); optimizer and schedule go on from one stage to
    the next. Otherwise students of few epochs end below those that are trained alone. The soft
    logits of the second stage (`alpha`) are multiplied by T^2, which the authors' code for CIFAR-10
    leaves out: at T = 3 with ``alpha=1`` the loss here is 9 times theirs.

    Where channels differ, the student's tap goes through a 1x1 convolution (the paper's connector,
    with a bias in place of its batch normalisation); where sizes differ, it is resized.

    The paper compares neurons before their ReLU. The taps of this project's networks come after it,
    and often after pooling. There "active" means above 0 (for a max-pooled map: any neuron of the
    window), and the student, which cannot give less than 0 without a connector, can only come
    within `margin` of an inactive neuron. For the paper's form, name layers before the ReLU
    (``--teacher_taps``, ``--student_taps``).

    Args:
        init_share: share of the epochs for the first stage: RepDistiller's 30 epochs before 240.
        clip: the largest norm of the boundaries' gradient in the first stage, as a multiple of the
            main task's.
        margin: how far beyond the boundary the student should be, 1 in the authors' code.
        alpha: weight of soft logits in the second stage, next to ``1 - alpha`` of the main loss: 0
            as in RepDistiller; the authors' code for CIFAR-10 has 1, which gains more where the
            classes are the same.
        temperature: T of the soft logits, as in the authors' code.
    """

    paper = "Heo et al., AAAI 2019, arXiv 1811.03233"

    init_share: float = option(0.11, minimum=0, maximum=1)
    clip: float = option(0.3, above=0)
    margin: float = option(1.0, above=0)
    alpha: float = option(0.0, minimum=0, maximum=1)
    temperature: float = option(3.0, above=0)

    @property
    def reads(self) -> tuple[Reading, ...]:  # type: ignore[override]
        return (Maps(sizes="adapted"), *((Logits(),) if self.alpha > 0 else ()))

    @property
    def main_weight(self) -> float:
        return 1 - self.alpha

    def build(self, teacher: Any, student: Any, *, samples: int | None = None) -> Loss:
        notes = self.check_features(teacher, student)
        connectors = Adapters(self.reads[0].pairs(teacher["maps"], student["maps"]), resize=True)

        def boundaries(teacher: Any, student: Any, context: Context) -> tf.Tensor:
            connected = connectors(teacher["maps"], student["maps"])
            return boundaries_loss(teacher["maps"], connected, self.margin)

        def soft_logits(teacher: Any, student: Any, context: Context) -> tf.Tensor:
            return softened_divergence(teacher["logits"], student["logits"], self.temperature)

        init = Stage(
            "init", self.init_share, loss=boundaries, layers=connectors.layers,
            combination=Combination.CLIP, clip=self.clip,
        )
        train = Stage(
            "train", 1 - self.init_share, loss=soft_logits if self.alpha > 0 else None,
            weight=self.alpha, main_weight=self.main_weight,
        )
        notes += connectors.notes
        return Loss(self, [init, train], layers=connectors.layers, notes=notes)
