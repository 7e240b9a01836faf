"""The exponential average of the weights over the steps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from nets.keras_graph import Untracked

# Not aggregated: each replica assigns to a copy of its own, and all assign the same.
_STATE: dict[str, Any] = {
    "initializer": "zeros", "trainable": False, "autocast": False, "aggregation": "none",
}


class WeightsAverage(keras.layers.Layer):
    """The exponential average of weights over the steps (mean teacher: Tarvainen & Valpola 2017).

    In the first steps the decay is smaller, ``1 - 1 / (n + 1)`` after n of them, so that the
    average is the mean of all weights so far, and the initial ones do not linger.

    Args:
        variables: of encoder, necks and heads: what `update` averages.
        decay: of the average, at each step, from 0 to below 1.
    """

    def __init__(
        self,
        variables: Sequence[keras.Variable],
        decay: float = 0.999,
        name: str = "weights_average",
    ):
        super().__init__(dtype="float32", name=name)
        self.decay = decay
        self._averaged = Untracked(list(variables))
        self.averages = [
            self.add_weight(
                shape=variable.shape, dtype=variable.dtype, name=f"average{number}", **_STATE
            )
            for number, variable in enumerate(self._averaged.value)
        ]
        self.updates = self.add_weight(shape=(), dtype="int64", name="updates", **_STATE)
        self.built = True

    def update(self) -> None:
        """Average the weights as they are now, after a step, into what there is. Each replica does
        so for its own copies, which are equal."""
        done = tf.cast(self.updates.value, tf.float32)
        decay = tf.minimum(tf.constant(self.decay), 1 - 1 / (done + 1))
        for average, variable in zip(self.averages, self._averaged.value, strict=True):
            moved = tf.cast(1 - decay, average.dtype) * (variable.value - average.value)
            average.value.assign_add(moved)
        self.updates.value.assign_add(1)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within this context the variables have their averages' values; afterwards their own
        again. Without an `update` so far they stay what they are."""
        if not self.updates.numpy():
            yield
            return
        own = _values(self._averaged.value)
        _assign(self._averaged.value, _values(self.averages))
        try:
            yield
        finally:
            _assign(self._averaged.value, own)


def _values(variables: Sequence[keras.Variable]) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(variable) for variable in variables]


def _assign(variables: Sequence[keras.Variable], values: Sequence[np.ndarray]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
