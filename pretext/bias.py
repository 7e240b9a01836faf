"""Measure how far the encoder is biased towards a task, in each epoch and at the end."""

from __future__ import annotations

import dataclasses
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
from pretext.model import MultiTask, metric_name
from pretext.task import Images, Task

# Embeddings spread evenly over the sphere have a relative deviation of 1.
LEAST_DEVIATION = 0.1
LEAST_RANK = 2.0


class BiasLog(keras.callbacks.Callback):
    """Measures the tasks' gradients and embeddings after each epoch and adds metrics to the logs.

    With T a task's name:

    - ``T_factor``: the balance's factor for its loss.
    - ``T_gradient_norm``: norm of the gradient of factor times loss on the encoder.
    - ``cosine_A_B``: cosine between the gradients of two tasks.
    - ``T_deviation``: standard deviation of e_t, averaged over dimensions, times the square root of
      their number: 1 if the images are spread evenly over the sphere, 0 if they all coincide.
    - ``T_effective_rank``: how many dimensions the images' e_t fill (see
      `op_util.metric_learning`).
    - ``ensemble_weight``: w, if there is a temporal ensemble.

    When a task's embeddings collapse, a warning is printed once. It is printed again only if they
    recover and collapse again.

    Args:
        model: the model in training.
        sample: a fixed batch of training images to measure on.
    """

    def __init__(self, model: MultiTask, sample: Batch):
        super().__init__()
        self._multi_task = model
        self._measure = Measurement(model, sample)
        self._collapsed: set[str] = set()

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._measure()  # A shortage of memory shows before an epoch is trained.

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        found = self._measure()
        model = self._multi_task
        factors = model.current_factors()
        names = [task.name for task in model.tasks]
        metrics = {
            "factor": factors,
            "gradient_norm": factors * found.norms,
            **spread_of(found.embeddings),
        }
        logs = logs if logs is not None else {}
        for metric, values in metrics.items():
            logs.update({f"{n}_{metric}": float(v) for n, v in zip(names, values, strict=True)})
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
        new = ", ".join(
            f"{name} (deviation {logs[f'{name}_deviation']:.2g} of 1, effective rank "
            f"{logs[f'{name}_effective_rank']:.2g})"
            for name in names if name in collapsed - self._collapsed
        )
        self._collapsed = collapsed
        if new:
            print(
                f"warning: after epoch {epoch + 1} embeddings have collapsed, or are not spread "
                f"yet: {new}; if this persists, try a smaller regularizer or ensemble weight, or a "
                "larger margin or temperature",
                file=sys.stderr, flush=True,
            )


def spread_of(embeddings: tf.Tensor) -> dict[str, tf.Tensor]:
    """Each task's ``deviation`` (1 if images are spread evenly) and ``effective_rank``, ``[T]``.

    Args:
        embeddings: ``[B, T, width]``.
    """
    by_task = tf.transpose(embeddings, [1, 0, 2])
    return {
        "deviation": math.sqrt(embeddings.shape[-1]) * deviation(by_task),
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
    steps_per_epoch: int | None = None,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Measure how well a frozen encoder serves each task: train new necks and heads on it.

    Compare the losses for an encoder trained on several tasks with those for an encoder trained on
    one task alone: `task_bias` gives how much worse the former serves the task.

    Args:
        encoder: the encoder; a frozen copy is used.
        tasks: the tasks to train necks and heads for.
        images: the images that the tasks work on.
        batches: training batches, dicts with ``image`` and ``index``.
        held_out: batches to evaluate on.
        epochs: number of training epochs.
        steps_per_epoch: where `batches` has the batches of all epochs; None: one pass is an epoch.
        learning_rate: Adam's initial learning rate, decayed to zero along a cosine.
        seed: random seed for the heads' initial weights and the views.

    Returns:
        Each task's ``loss`` and ``metric`` on the held-out images, by the task's name.
    """
    frozen = nets.copy_encoder(encoder)
    frozen.model.trainable = False
    keras.utils.set_random_seed(seed)
    # A task that is only measured (weight 0) needs heads that are trained, too.
    tasks = [dataclasses.replace(task, weight=1.0) for task in tasks]
    model = MultiTask(frozen, tasks, images, weight_decay=0.0, seed=seed)
    steps = epochs * (steps_per_epoch or int(batches.cardinality()))
    rate = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    model.compile(keras.optimizers.Adam(rate))
    model.fit(
        batches, epochs=epochs, steps_per_epoch=steps_per_epoch, verbose=0, shuffle=False
    )
    found = model.evaluate(held_out, return_dict=True, verbose=0)
    return {
        task.name: {"loss": found[f"{task.name}_loss"], "metric": found[metric_name(task)]}
        for task in tasks
    }


def task_bias(multi_loss: float, single_loss: float) -> float:
    """``L_t(multi) / L_t(single) - 1``: how much worse a multi-task encoder serves task t.

    Args:
        multi_loss: held-out loss of task t for an encoder trained on several tasks, see
            `retrained_heads`.
        single_loss: the same for an encoder trained on t alone.

    Returns:
        0 where both losses are 0, infinity where only that of the single task is.
    """
    if not single_loss:
        return math.inf if multi_loss else 0.0
    return multi_loss / single_loss - 1
