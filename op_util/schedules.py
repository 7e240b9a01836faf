"""Learning rates over time."""

from __future__ import annotations

from collections.abc import Sequence

import keras


def stepwise(
    learning_rate: float,
    epochs: int,
    steps_per_epoch: int,
    drops: Sequence[float] = (0.5, 0.75),
    factor: float = 0.1,
) -> keras.optimizers.schedules.PiecewiseConstantDecay:
    """The paper's schedule: `learning_rate`, multiplied by `factor` after half and three quarters of
    the epochs (100 and 150 of 200).

    Args:
        drops: after which shares of the epochs the rate drops.
    """
    boundaries = [round(drop * epochs) * steps_per_epoch for drop in drops]
    values = [learning_rate * factor**i for i in range(len(drops) + 1)]
    # Keras compares with <=, so the first step of an epoch belongs to the rate after the drop.
    return keras.optimizers.schedules.PiecewiseConstantDecay(
        [boundary - 1 for boundary in boundaries], values
    )
