"""Pictures of generative tasks' results, for TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from pretext.batch import Batch, Use
from pretext.model import MultiTask

FOLDER = "logs/pictures"
EVENTS = f"{FOLDER}/events.out.tfevents.*"


class PictureLog(keras.callbacks.Callback):
    """Writes pictures of generative tasks' results on some held-out images after each epoch.

    Each picture shows the view, the task's result and the original side by side.

    Args:
        model: the model in training.
        sample: the images.
        folder: the run's folder; events go to `FOLDER` in it.
    """

    def __init__(self, model: MultiTask, sample: Batch, folder: Path):
        super().__init__()
        self._multi_task, self._sample, self._folder = model, sample, folder
        self._function = tf.function(
            lambda: self._multi_task.run_tasks(self._sample, Use.HELD_OUT), autograph=False
        )

    def on_train_begin(self, logs: Any = None) -> None:
        self._writer = tf.summary.create_file_writer(str(self._folder / FOLDER))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        model = self._multi_task
        with model.ensemble.applied(), model.unchanged():
            results = self._function()
        parts = zip(model.tasks, results.inputs, results.outputs, results.targets, strict=True)
        with self._writer.as_default(step=epoch + 1):
            for task, *part in parts:
                pictures = task.pictures(*part)
                if pictures is not None:
                    tf.summary.image(task.name, pictures, max_outputs=len(self._sample.image))
        self._writer.flush()
