"""Learning rates over time, as functions of the step that Keras' optimizers take."""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras

SCHEDULES = ("step", "cosine", "constant")


def schedule(
    name: str, learning_rate: float, epochs: int, steps_per_epoch: int
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """The schedule `name` over a run or a stage of `epochs`.

    Args:
        name: ``"step"`` (the paper's, see `stepwise`), ``"cosine"`` (to zero), ``"constant"``.
        learning_rate: the first.
    """
    if name == "step":
        return stepwise(learning_rate, epochs, steps_per_epoch)
    if name == "cosine":
        return keras.optimizers.schedules.CosineDecay(learning_rate, epochs * steps_per_epoch)
    if name == "constant":
        return learning_rate
    raise ValueError(f"schedule is {name!r}; expected one of {', '.join(SCHEDULES)}")


def stepwise(
    learning_rate: float,
    epochs: int,
    steps_per_epoch: int,
    drops: Sequence[float] = (0.5, 0.75),
    factor: float = 0.1,
) -> keras.optimizers.schedules.PiecewiseConstantDecay:
    """The paper's schedule: `learning_rate`, multiplied by `factor` after half and three quarters
    of the epochs (100 and 150 of 200).

    Args:
        drops: after which shares of the epochs the rate drops.
    """
    boundaries = [math.ceil(drop * epochs) * steps_per_epoch for drop in drops]
    values = [learning_rate * factor**i for i in range(len(drops) + 1)]
    # Keras compares with <=, so the first step of an epoch belongs to the rate after the drop.
    return keras.optimizers.schedules.PiecewiseConstantDecay(
        [boundary - 1 for boundary in boundaries], values
    )
