"""FitNet: hints, the student's middle tap learns to predict the teacher's before all else."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from distillers.adapters import linear
from distillers.checks import describe
from distillers.loss import Context, Loss, Stage, Trains
from distillers.method import Method
from distillers.reading import Logits, Maps, Reading
from distillers.registration import register
from op_util.divergence import softened_divergence
from op_util.pooling import resized
from plugins import option
from registry import UserError


def hint_loss(hint: tf.Tensor, predicted: tf.Tensor) -> tf.Tensor:
    """The mean of ``(hint - r(guided))^2`` over the batch and all features (equation 3, without its
    1/2).

    Args:
        hint: the teacher's tap ``[B, H, W, D]`` or ``[B, D]``.
        predicted: ``r(guided)``, the regressor's output for the student's tap, of the same shape.
    """
    return tf.reduce_mean(tf.square(predicted - hint))


@register("FitNet")
class FitNet(Method):
    """Romero, Ballas, Kahou, Chassang, Gatta & Bengio, "FitNets: hints for thin deep nets", ICLR
    2015.

    First the student's layers up to the guided tap learn to predict the teacher's hint, then the
    whole student learns from soft logits and the main task (algorithm 1).

    Departure: the regressor is a linear 1x1 convolution of the guided tap, resized to the hint; the
    paper's has a kernel as large as the two taps' sizes differ.

    Args:
        hint_share: share of the epochs for the first stage. The paper stops it by validation; this
            is RepDistiller's share of a first stage, 30 epochs before 240.
        hint_tap: number of the tap of both networks, counted from 1; -1: the middle one, as in the
            paper (of an even number the shallower).
        temperature: T of the soft logits in the second stage.
        alpha: weight of these soft logits; ``1 - alpha`` is that of the main loss.
    """

    paper = "Romero et al., ICLR 2015, arXiv 1412.6550"

    hint_share: float = option(0.11, minimum=0, maximum=1)
    hint_tap: int = option(-1, minimum=-1)
    temperature: float = option(4.0, above=0)
    alpha: float = option(0.3, minimum=0, maximum=1)

    def check(self) -> None:
        if self.hint_tap == 0:
            raise UserError(
                f"{self.label('hint_tap')} must be a tap's number, from 1, or -1 for the middle "
                "one, not 0"
            )

    @property
    def reads(self) -> tuple[Reading, ...]:  # type: ignore[override]
        return (Maps(sizes="adapted"), *((Logits(),) if self.alpha > 0 else ()))

    @property
    def main_weight(self) -> float:
        return 1 - self.alpha

    def build(self, teacher: Any, student: Any, *, samples: int | None = None) -> Loss:
        notes = self.check_features(teacher, student)
        taps = self.reads[0].pairs(teacher["maps"], student["maps"])
        number = self._hint(len(taps))
        hint, guided = taps[number]
        regressor = linear(guided, hint.shape[-1], name="regressor")
        notes.append(
            f"hint at tap {number + 1}: {describe(guided)} of the student predicts "
            f"{describe(hint)} of the teacher"
        )

        def hints(teacher: Any, student: Any, context: Context) -> tf.Tensor:
            hint, guided = teacher["maps"][number], student["maps"][number]
            predicted = tf.cast(regressor(guided), hint.dtype)
            return hint_loss(hint, resized(predicted, hint.shape[1:-1], up="bilinear"))

        def soft_logits(teacher: Any, student: Any, context: Context) -> tf.Tensor:
            return softened_divergence(teacher["logits"], student["logits"], self.temperature)

        first = Stage(
            "hint", self.hint_share, loss=hints, main_weight=0, trains=Trains.TO_TAPS,
            taps=(number,), layers=[regressor],
        )
        train = Stage(
            "train", 1 - self.hint_share, loss=soft_logits if self.alpha > 0 else None,
            weight=self.alpha, main_weight=self.main_weight, new_optimizer=True,
        )
        return Loss(self, [first, train], layers=[regressor], notes=notes)

    def _hint(self, taps: int) -> int:
        """Which of so many taps is the hint, counted from 0."""
        if self.hint_tap > taps:
            raise UserError(
                f"FitNet: hint_tap is {self.hint_tap}, but there are {taps} taps: give 1 to "
                f"{taps}, or -1 for the middle one"
            )
        return (taps - 1) // 2 if self.hint_tap == -1 else self.hint_tap - 1
