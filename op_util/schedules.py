"""Learning rates over time, as functions of the step that Keras' optimizers take."""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras

SCHEDULES = ("step", "cosine", "constant")


def schedule(
    name: str,
    learning_rate: float,
    epochs: int,
    steps_per_epoch: int,
    warmup_epochs: float = 0.0,
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """The schedule `name` over a run or a stage of `epochs`.

    Args:
        name: ``"step"`` (the paper's, see `stepwise`), ``"cosine"`` (see `cosine`), or
            ``"constant"``.
        learning_rate: the highest.
        epochs: of the run or the stage.
        steps_per_epoch: training steps of an epoch.
        warmup_epochs: of the cosine; may be a fraction of an epoch.

    Returns:
        What a Keras optimizer takes as its learning rate: a function of the step, or, where it is
        constant, a number.

    Raises:
        ValueError: there is no such schedule, or it has no warm-up and one is given.
    """
    if name == "cosine":
        return cosine(learning_rate, epochs * steps_per_epoch, warmup_epochs * steps_per_epoch)
    if warmup_epochs:
        raise ValueError(f"schedule {name!r} has no warm-up; expected warmup_epochs 0")
    if name == "step":
        return stepwise(learning_rate, epochs, steps_per_epoch)
    if name == "constant":
        return learning_rate
    raise ValueError(f"schedule is {name!r}; expected one of {', '.join(SCHEDULES)}")


def cosine(
    learning_rate: float, steps: int, warmup_steps: float = 0
) -> keras.optimizers.schedules.CosineDecay:
    """Half a cosine from `learning_rate` to zero (Loshchilov & Hutter, ICLR 2017), after a warm-up
    by equal steps (Goyal et al., 2017).

    With w warm-up steps of n, step i has the rate ``learning_rate * (1 + i (w - 1) / w) / w`` for
    i < w, from ``learning_rate / w`` on, so that the first step is not lost; and
    ``learning_rate (1 + cos(pi (i - w) / (n - w))) / 2`` after it.

    Args:
        steps: of the run, warm-up included.
        warmup_steps: rounded to whole steps, of which at least one comes after it.
    """
    warmup = min(round(warmup_steps), steps - 1)
    if not warmup:
        return keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    return keras.optimizers.schedules.CosineDecay(
        learning_rate / warmup, steps - warmup, warmup_target=learning_rate, warmup_steps=warmup
    )


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
        learning_rate: of the first epochs.
        epochs: of the run or the stage.
        steps_per_epoch: training steps of an epoch.
        drops: after which shares of the epochs the rate drops, ascending, in 0..1.
        factor: by which each drop multiplies the rate.

    Returns:
        A function of the step, from 0.
    """
    boundaries = [math.ceil(drop * epochs) * steps_per_epoch for drop in drops]
    values = [learning_rate * factor**i for i in range(len(drops) + 1)]
    # Keras compares with <=, so the first step of an epoch belongs to the rate after the drop.
    return keras.optimizers.schedules.PiecewiseConstantDecay(
        [boundary - 1 for boundary in boundaries], values
    )
