"""AB: activation boundaries, neurons of the student fire where the teacher's do."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from distillers.adapters import Adapters
from distillers.checks import in_range, positive, same_classes, tap_pairs
from distillers.method import Method, Stage
from distillers.registration import register
from distillers.soft_logits import SoftLogits

_SCALE = 3 / 1000


@register("AB")
@dataclasses.dataclass(eq=False)
class AB(Method):
    """Heo, Lee, Yun & Choi, "Knowledge transfer via distillation of activation boundaries formed by
    hidden neurons", AAAI 2019.

    First the student up to its taps learns which of the teacher's neurons are active, then all of
    it the main task. Where channels differ, the student's tap goes through a 1x1 convolution (the
    paper's connector, here with a bias in place of its batch normalisation); where sizes differ it
    is resized.

    The paper compares neurons before their ReLU. Taps of this project's networks come after it, and
    often after pooling: then "active" is a value above 0 there (for a max-pooled map: any neuron of
    the window), and the student, unable to give less than 0 without a connector, can only come
    within `margin` of an inactive neuron. For the paper's form name layers before the ReLU
    (``--teacher_taps``, ``--student_taps``).

    Args:
        init_share: of the epochs, for the first stage: RepDistiller's 30 epochs before 240.
        margin: how far beyond the boundary the student shall be, 1 in the authors' code.
        alpha: weight of soft logits in the second stage, next to ``1 - alpha`` of the main loss: 0
            as in RepDistiller; the authors' code for CIFAR-10 has 1.
        temperature: of the soft logits, as in the authors' code.
    """

    paper = "Heo et al., AAAI 2019, arXiv 1811.03233"
    reads = ("maps", "logits")

    init_share: float = 0.11
    margin: float = 1.0
    alpha: float = 0.0
    temperature: float = 3.0

    def __post_init__(self) -> None:
        in_range("AB", 0, 1, init_share=self.init_share, alpha=self.alpha)
        positive("AB", margin=self.margin, temperature=self.temperature)
        self._connectors: Adapters | None = None

    @property
    def stages(self) -> tuple[Stage, ...]:  # type: ignore[override]
        return (
            Stage("init", self.init_share, main_loss=False, trains="taps"),
            Stage(
                "train", 1 - self.init_share, distillation_loss=self.alpha > 0, layers=(),
                new_optimizer=True,
            ),
        )

    @property
    def main_weight(self) -> float:
        return 1 - self.alpha

    @property
    def layers(self) -> Sequence[keras.layers.Layer]:
        return self._connectors.layers if self._connectors else []

    @property
    def notes(self) -> Sequence[str]:
        return self._connectors.notes if self._connectors else []

    def build(self, teacher_outputs: dict[str, Any], student_outputs: dict[str, Any]) -> None:
        self._connectors = Adapters("AB", teacher_outputs["maps"], student_outputs["maps"])
        if self.alpha > 0:
            same_classes("AB", teacher_outputs["logits"], student_outputs["logits"])

    def compute(
        self, teacher_outputs: dict[str, Any], student_outputs: dict[str, Any], **context: Any
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        weight = self.alpha if context.get("stage") == "train" else 1.0
        return weight * self.compute_loss(teacher_outputs, student_outputs, **context), {}

    def compute_loss(
        self, teacher_outputs: dict[str, Any], student_outputs: dict[str, Any], **context: Any
    ) -> tf.Tensor:
        """In stage ``"train"`` the loss of `SoftLogits`, else the sum over taps, each of half the
        weight of the next deeper, of the mean over the batch of `boundary_loss`, times 3 / 1000 (as
        in the authors' code).

        Args:
            teacher_outputs, student_outputs: ``maps``, a list of ``[B, H, W, D]`` or ``[B, D]``,
                and ``logits`` ``[B, classes]``.
        """
        if context.get("stage") == "train":
            soft_logits = SoftLogits(temperature=self.temperature)
            return soft_logits.compute_loss(teacher_outputs["logits"], student_outputs["logits"])
        teacher = [tf.stop_gradient(tap) for tap in teacher_outputs["maps"]]
        student = student_outputs["maps"]
        if self._connectors is None:
            tap_pairs("AB", teacher, student, at_least=1)  # of equal channels: no layer is needed
        student = (self._connectors or Adapters("AB", teacher, student))(student, teacher)
        losses = [
            tf.reduce_mean(boundary_loss(theirs, ours, self.margin))
            for theirs, ours in zip(teacher, student, strict=True)
        ]
        return _SCALE * sum(loss / 2**depth for depth, loss in enumerate(reversed(losses)))


def boundary_loss(teacher: tf.Tensor, student: tf.Tensor, margin: float) -> tf.Tensor:
    """How far the student's neurons are from where they shall be: the sum of
    ``max(0, margin - s)^2`` where the teacher's are above 0 and of ``max(0, margin + s)^2`` where
    they are not, ``[B]``.

    Args:
        teacher, student: ``[B, ...]`` of one shape, before the ReLU.
    """
    short = tf.nn.relu(margin + tf.where(teacher > 0, -student, student))
    return tf.reduce_sum(tf.square(short), axis=list(range(1, len(short.shape))))
