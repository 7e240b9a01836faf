"""Task ensembles: over time in the embeddings of each image, and over steps in the weights."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from op_util.temporal_ensemble import ensemble, mean_per_image, updated
from registry import Registry, UserError

ENSEMBLES = Registry("ensemble")
STORAGES = ("float32", "float16")
# Not aggregated: each replica assigns to a copy of its own, and all assign the same.
_STATE: dict[str, Any] = {
    "initializer": "zeros", "trainable": False, "autocast": False, "aggregation": "none",
}


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """Which ensembles a run has.

    Attributes:
        temporal: of the tasks' embeddings of each image, see `TemporalMemory`.
        weights: of the weights over the steps, see `WeightsAverage`.
    """

    temporal: bool
    weights: bool


ENSEMBLES.register("temporal")(Ensemble(temporal=True, weights=False))
ENSEMBLES.register("weights")(Ensemble(temporal=False, weights=True))
ENSEMBLES.register("both")(Ensemble(temporal=True, weights=True))
ENSEMBLES.register("none")(Ensemble(temporal=False, weights=False))


def create(name: str, tasks: int) -> Ensemble:
    """The ensemble `name` for so many tasks.

    Raises:
        UserError: unknown name, or an ensemble over tasks where there is one task.
    """
    found = ENSEMBLES.get(name)
    if found.temporal and tasks < 2:
        raise UserError(
            f"ensemble {ENSEMBLES.name(name)} is one over tasks and needs at least 2, not {tasks}: "
            "name more tasks, or give --ensemble weights or none"
        )
    return found


def memory_bytes(images: int, tasks: int, width: int, storage: str = "float32") -> int:
    """The size of a `TemporalMemory` in bytes, counts of updates included."""
    number = np.dtype(storage).itemsize * tasks * width
    return images * (number + np.dtype("int64").itemsize)


class TemporalMemory(keras.layers.Layer):
    """The tasks' embeddings of each training image, averaged over time (`op_util.temporal_ensemble`
    has the formulas).

    Each image has one count of updates, as all tasks see every image. Under a distribution strategy
    each replica holds the whole memory and makes the same updates to it, those of the global batch,
    so an image's row is found by its index whichever replica sees it.

    Args:
        images: how many training images there are; their indices are 0 to ``images - 1``.
        tasks, width: T and the width of the embeddings.
        decay: a, from 0 to below 1.
        storage: ``"float32"`` or ``"float16"``, in which the memory is held; float16 rounds
            numbers below 1 by up to 2.4e-4. Computation is in float32.

    Raises:
        UserError: decay or storage is none.
    """

    def __init__(
        self,
        images: int,
        tasks: int,
        width: int,
        decay: float = 0.6,
        storage: str = "float32",
        name: str = "temporal_memory",
    ):
        if not (math.isfinite(decay) and 0 <= decay < 1):
            raise UserError(f"temporal ensemble: decay must be >= 0 and < 1, not {decay}")
        if storage not in STORAGES:
            raise UserError(
                f"temporal ensemble: memory in {storage!r}, one of {', '.join(STORAGES)} expected"
            )
        super().__init__(dtype="float32", name=name)
        self.decay = decay
        self.memory = self.add_weight(
            shape=(images, tasks, width), dtype=storage, name="memory", **_STATE
        )
        # int64, as TensorFlow has no gathering from int32 variables on GPUs.
        self.updates = self.add_weight(shape=(images,), dtype="int64", name="updates", **_STATE)
        self.built = True

    def read(self, index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The ensemble over time and tasks of some images, before what this step adds to it.

        Args:
            index: integers ``[B]``, in any order, repeated or not.

        Returns:
            Z, float32 ``[B, width]`` of length 1, and bool ``[B]``, whether an image has been seen
            before. Z is zero where it has not.
        """
        rows = tf.cast(tf.gather(self.memory.value, index), tf.float32)
        times = tf.gather(self.updates.value, index)
        return ensemble(rows, times, self.decay), times > 0

    def update(self, index: tf.Tensor, embeddings: tf.Tensor) -> None:
        """Put a batch's embeddings into the memory; an image that comes twice is averaged, and
        counts once.

        Args:
            index: integers ``[B]``.
            embeddings: e, float32 ``[B, T, width]``; of the global batch, like `index`, where there
                are several replicas.
        """
        memory, updates = self.memory.value, self.updates.value
        rows = tf.cast(tf.gather(memory, index), tf.float32)
        times = tf.gather(updates, index)
        new = updated(rows, mean_per_image(tf.stop_gradient(embeddings), index), self.decay)
        for variable, value in ((memory, tf.cast(new, memory.dtype)), (updates, times + 1)):
            variable.scatter_update(tf.IndexedSlices(value, index))


class _Untracked:
    """Holds variables where Keras does not look: they are saved where they belong."""

    def __init__(self, variables: Sequence[keras.Variable]):
        self.variables = list(variables)


class WeightsAverage(keras.layers.Layer):
    """The exponential average of weights over the steps (mean teacher: Tarvainen & Valpola 2017).

    In the first steps the decay is smaller, ``1 - 1 / (n + 1)`` after n of them, so that the
    average is the mean of all weights so far, and the initial ones do not linger.

    Args:
        variables: of encoder, necks and heads: what `update` averages.
        decay: of the average, at each step, from 0 to below 1.

    Raises:
        UserError: decay is none.
    """

    def __init__(
        self,
        variables: Sequence[keras.Variable],
        decay: float = 0.999,
        name: str = "weights_average",
    ):
        if not (math.isfinite(decay) and 0 <= decay < 1):
            raise UserError(f"weights ensemble: decay must be >= 0 and < 1, not {decay}")
        super().__init__(dtype="float32", name=name)
        self.decay = decay
        self._averaged = _Untracked(variables)
        self.averages = [
            self.add_weight(
                shape=variable.shape, dtype=variable.dtype, name=f"average{number}", **_STATE
            )
            for number, variable in enumerate(self._averaged.variables)
        ]
        self.updates = self.add_weight(shape=(), dtype="int64", name="updates", **_STATE)
        self.built = True

    def update(self) -> None:
        """Average the weights as they are now, after a step, into what there is. Each replica does
        so for its own copies, which are equal."""
        done = tf.cast(self.updates.value, tf.float32)
        decay = tf.minimum(tf.constant(self.decay), 1 - 1 / (done + 1))
        for average, variable in zip(self.averages, self._averaged.variables, strict=True):
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
        own = _values(self._averaged.variables)
        _assign(self._averaged.variables, _values(self.averages))
        try:
            yield
        finally:
            _assign(self._averaged.variables, own)


def _values(variables: Sequence[keras.Variable]) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(variable) for variable in variables]


def _assign(variables: Sequence[keras.Variable], values: Sequence[np.ndarray]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
