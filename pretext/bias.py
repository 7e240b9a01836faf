"""How far the encoder is biased to a task: what is measured in each epoch, and at the end."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

import nets
from op_util.metric_learning import deviation, effective_rank
from pretext.batch import Batch
from pretext.measurement import Measurement
from pretext.model import WIDTH, MultiTask, metric_name
from pretext.task import Images, Task

# Embeddings spread evenly over the sphere have a relative deviation of 1.
LEAST_DEVIATION = 0.1
LEAST_RANK = 2.0


class BiasLog(keras.callbacks.Callback):
    """Adds what it measures to each epoch's logs.

    With T a task's name:

    - ``T_factor``: of its loss, as balanced; ``T_gradient_norm``: of the gradient of factor times
      loss on the encoder; ``cosine_A_B``: between the gradients of two tasks;
    - ``T_deviation``: of e_t, mean over dimensions, times the square root of their number: 1 where
      the images are spread evenly over the sphere, 0 where all are in one place;
      ``T_effective_rank``: of e_t, how many dimensions the images fill (see
      `op_util.metric_learning`);
    - ``ensemble_weight``: w, where there is a temporal ensemble.

    Where a task's embeddings are no longer spread, a warning is printed: once, and again where they
    have been spread in between.

    Args:
        model: that is trained.
        sample: a fixed batch of training images to measure on.
    """

    def __init__(self, model: MultiTask, sample: Batch):
        super().__init__()
        self._multi_task = model
        self._measure = Measurement(model, sample)
        self._collapsed: set[str] = set()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        found = self._measure()
        model = self._multi_task
        factors = model.current_factors()
        names = [task.name for task in model.tasks]
        figures = {
            "factor": factors,
            "gradient_norm": factors * found.norms,
            **spread_of(found.embeddings),
        }
        logs = logs if logs is not None else {}
        for what, values in figures.items():
            logs.update({f"{n}_{what}": float(v) for n, v in zip(names, values, strict=True)})
        for (a, first), (b, second) in itertools.combinations(enumerate(names), 2):
            logs[f"cosine_{first}_{second}"] = float(found.cosines[a, b])
        of_epoch = model.ensemble.metrics_of_epoch(model.epoch.value)
        logs.update({name: float(value) for name, value in of_epoch.items()})
        self._warn(epoch, names, logs)

    def _warn(self, epoch: int, names: Sequence[str], logs: dict[str, Any]) -> None:
        collapsed = {
            name for name in names
            if logs[f"{name}_deviation"] < LEAST_DEVIATION
            or logs[f"{name}_effective_rank"] < LEAST_RANK
        }
        told = ", ".join(
            f"{name} (deviation {logs[f'{name}_deviation']:.2g} of 1, effective rank "
            f"{logs[f'{name}_effective_rank']:.2g})"
            for name in names if name in collapsed - self._collapsed
        )
        self._collapsed = collapsed
        if told:
            print(
                f"warning: after epoch {epoch + 1} embeddings have collapsed, or are not spread "
                f"yet: {told}; where that lasts, a smaller weight of regularizer or ensemble, or a "
                "larger margin or temperature may help",
                file=sys.stderr, flush=True,
            )


def spread_of(embeddings: tf.Tensor) -> dict[str, tf.Tensor]:
    """``deviation``, 1 where images are spread evenly, and ``effective_rank``, each ``[T]``, of
    ``embeddings [B, T, width]``."""
    by_task = tf.transpose(embeddings, [1, 0, 2])
    return {
        "deviation": math.sqrt(WIDTH) * deviation(by_task),
        "effective_rank": effective_rank(by_task),
    }


def retrained_heads(
    encoder: nets.Encoder,
    tasks: Sequence[Task],
    images: Images,
    batches: tf.data.Dataset,
    held_out: Iterable[Any],
    *,
    epochs: int,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """What an encoder as it is can be used for: each task's necks and heads trained anew on it.

    Of the same figures for an encoder that was trained by several tasks and one that was trained by
    the task alone, `task_bias` tells how much worse the former serves the task.

    Args:
        encoder: it is frozen, and not changed.
        tasks: whose necks and heads are trained.
        images: what the tasks work on.
        batches: training batches, dicts with ``image`` and ``index``; an epoch is all of them.
        held_out: batches to judge by.
        epochs: of training.
        learning_rate: of Adam, falling to zero along a cosine.
        seed: of the heads' initial weights and of the views.

    Returns:
        For each task by its name its ``loss`` and ``metric`` on the held-out images.
    """
    frozen = nets.copy_encoder(encoder)
    frozen.model.trainable = False
    keras.utils.set_random_seed(seed)
    model = MultiTask(frozen, tasks, images, weight_decay=0.0, seed=seed)
    steps = epochs * int(batches.cardinality())
    rate = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    model.compile(keras.optimizers.Adam(rate))
    model.fit(batches, epochs=epochs, verbose=0, shuffle=False)
    found = model.evaluate(held_out, return_dict=True, verbose=0)
    return {
        task.name: {"loss": found[f"{task.name}_loss"], "metric": found[metric_name(task)]}
        for task in tasks
    }


def task_bias(multi_loss: float, single_loss: float) -> float:
    """``L_t(multi) / L_t(single) - 1``: how much worse an encoder trained by several tasks serves
    task t than one trained by t alone. Both losses are held out, see `retrained_heads`."""
    return multi_loss / single_loss - 1
