"""The exponential moving average of the weights over training steps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from nets.keras_graph import Untracked
from replicas import REPLICATED_STATE


class WeightsAverage(keras.layers.Layer):
    """The exponential moving average of weights (mean teacher: Tarvainen & Valpola 2017).

    The decay is smaller in the first steps, ``1 - 1 / (n + 1)`` after n updates. There the average
    is the plain mean of all weights so far, and the initial weights do not linger.

    Args:
        variables: the variables to average: those of encoder, necks and heads.
        decay: decay of the average per step, at least 0 and below 1.
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
                shape=variable.shape, dtype=variable.dtype, name=f"average{number}",
                **REPLICATED_STATE,
            )
            for number, variable in enumerate(self._averaged.value)
        ]
        self.updates = self.add_weight(shape=(), dtype="int64", name="updates", **REPLICATED_STATE)
        self.built = True

    def update(self) -> None:
        """Update the averages with the current weights, after a step.

        Each replica updates its own copies, which are equal.
        """
        done = tf.cast(self.updates.value, tf.float32)
        decay = tf.minimum(tf.constant(self.decay), 1 - 1 / (done + 1))
        for average, variable in zip(self.averages, self._averaged.value, strict=True):
            moved = tf.cast(1 - decay, average.dtype) * (variable.value - average.value)
            average.value.assign_add(moved)
        self.updates.value.assign_add(1)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within this context the variables hold their averages; afterwards, their own values.

        Before the first `update`, they keep their own values.
        """
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
