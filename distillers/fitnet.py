"""FitNet: hints, the student's middle tap predicts the teacher's before all else is learned."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from distillers.adapters import linear, resized
from distillers.checks import described, in_range, positive, same_classes, tap_pairs
from distillers.method import Method, Stage
from distillers.registration import register
from distillers.soft_logits import SoftLogits
from op_util.precision import at_least_float32
from registry import UserError

_REGRESSOR = "regressor"


@register("FitNet")
@dataclasses.dataclass(eq=False)
class FitNet(Method):
    """Romero, Ballas, Kahou, Chassang, Gatta & Bengio, "FitNets: hints for thin deep nets", ICLR
    2015.

    First the student up to the guided tap learns to predict the teacher's hint, then all of the
    student learns from soft logits and the main task (algorithm 1). The prediction is a linear 1x1
    convolution of the guided tap, resized to the hint; the paper's kernel is as large as the two
    taps' sizes differ.

    Args:
        hint_share: of the epochs, for the first stage. The paper stops it by validation; this is
            RepDistiller's share of a first stage, 30 epochs before 240.
        hint_tap: number of the tap of both networks, counted from 1; -1: the middle one, as in the
            paper (of an even number the shallower).
        temperature, alpha: of the second stage's soft logits, and as there: `alpha` weighs them,
            ``1 - alpha`` the main loss.
    """

    paper = "Romero et al., ICLR 2015, arXiv 1412.6550"
    reads = ("maps", "logits")

    hint_share: float = 0.11
    hint_tap: int = -1
    temperature: float = SoftLogits.temperature
    alpha: float = SoftLogits.alpha

    def __post_init__(self) -> None:
        in_range("FitNet", 0, 1, hint_share=self.hint_share, alpha=self.alpha)
        positive("FitNet", temperature=self.temperature)
        if self.hint_tap != -1 and self.hint_tap < 1:
            raise UserError(
                f"FitNet: hint_tap must be a tap's number, from 1, or -1 for the middle one, not "
                f"{self.hint_tap}"
            )
        self._regressor: keras.layers.Layer | None = None
        self._taps: int | None = None
        self._notes: list[str] = []

    @property
    def stages(self) -> tuple[Stage, ...]:  # type: ignore[override]
        guided = None if self._taps is None else (self._hint(self._taps),)
        return (
            Stage("hint", self.hint_share, main_loss=False, trains="taps", taps=guided),
            Stage(
                "train", 1 - self.hint_share, distillation_loss=self.alpha > 0, layers=(),
                new_optimizer=True,
            ),
        )

    @property
    def main_weight(self) -> float:
        return 1 - self.alpha

    @property
    def layers(self) -> Sequence[keras.layers.Layer]:
        return [self._regressor] if self._regressor else []

    @property
    def notes(self) -> Sequence[str]:
        return self._notes

    def _hint(self, taps: int) -> int:
        """Which of so many taps is the hint, counted from 0."""
        return (taps - 1) // 2 if self.hint_tap == -1 else self.hint_tap - 1

    def build(self, teacher_outputs: dict[str, Any], student_outputs: dict[str, Any]) -> None:
        teacher, student = teacher_outputs["maps"], student_outputs["maps"]
        tap_pairs(
            "FitNet", teacher, student, at_least=1, equal_channels=False, equal_ranks=True
        )
        if self.hint_tap > len(student):
            raise UserError(
                f"FitNet: hint_tap is {self.hint_tap}, but there are {len(student)} taps"
            )
        if self.alpha > 0:
            same_classes("FitNet", teacher_outputs["logits"], student_outputs["logits"])
        self._taps = len(student)
        number = self._hint(self._taps)
        hint, guided = teacher[number], student[number]
        self._regressor = linear(guided, hint.shape[-1], name=_REGRESSOR)
        self._notes = [
            f"hint at tap {number + 1}: {described(guided)} of the student predicts "
            f"{described(hint)} of the teacher"
        ]

    def compute(
        self, teacher_outputs: dict[str, Any], student_outputs: dict[str, Any], **context: Any
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        weight = self.alpha if context.get("stage") == "train" else 1.0
        return weight * self.compute_loss(teacher_outputs, student_outputs, **context), {}

    def compute_loss(
        self, teacher_outputs: dict[str, Any], student_outputs: dict[str, Any], **context: Any
    ) -> tf.Tensor:
        """In stage ``"train"`` the loss of `SoftLogits`, else that of the hint (eq. 3): the mean of
        ``(hint - regressor(guided))^2`` over the batch and all features.

        Args:
            teacher_outputs, student_outputs: ``maps``, a list of ``[B, H, W, D]`` or ``[B, D]``,
                and ``logits`` ``[B, classes]``.
        """
        if context.get("stage") == "train":
            soft_logits = SoftLogits(temperature=self.temperature)
            return soft_logits.compute_loss(teacher_outputs["logits"], student_outputs["logits"])
        number = self._hint(len(student_outputs["maps"]))
        hint = tf.stop_gradient(teacher_outputs["maps"][number])
        guided = at_least_float32(student_outputs["maps"][number])
        predicted = resized(self._regressor(guided), hint)
        return tf.reduce_mean(tf.square(predicted - tf.cast(hint, predicted.dtype)))
