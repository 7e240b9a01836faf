"""Callbacks of a person's own in a training of several stages, of which Keras knows nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras

from registry import UserError

RISING = ("accuracy", "top5")
JUDGING = (
    "loss", "val_loss", "main_loss", "val_main_loss", *RISING, *(f"val_{each}" for each in RISING)
)
"""What tells how well the deployed network classifies, or is another loss in another stage."""


def with_direction(callback: keras.callbacks.Callback) -> keras.callbacks.Callback:
    """A callback that monitors an accuracy, told that more is better: Keras finds the direction of
    metrics that are given to ``compile`` only."""
    monitor = str(getattr(callback, "monitor", "")).removeprefix("val_")
    if monitor in RISING and getattr(callback, "mode", None) == "auto":
        callback.mode = "max"
    return callback


def judges(callback: keras.callbacks.Callback) -> bool:
    """Whether a callback acts on how well the network classifies."""
    acts = getattr(callback, "save_best_only", True)  # else it saves each epoch
    return acts and getattr(callback, "monitor", None) in JUDGING


def check_stages_can_be_fitted(
    optimizer: keras.Optimizer, callbacks: Sequence[keras.callbacks.Callback]
) -> None:
    """Raise UserError for an optimizer that cannot begin anew with a stage, as its state depends on
    the weights, or a callback that cannot resume a training of several stages."""
    all_optimizers = (optimizer, *getattr(optimizer, "optimizers", ()))
    if any(isinstance(each, keras.optimizers.ScheduleFreeAdamW) for each in all_optimizers):
        raise UserError(
            "ScheduleFreeAdamW cannot begin anew with each stage of a method of several stages: "
            "give another optimizer"
        )
    if any(isinstance(each, keras.callbacks.BackupAndRestore) for each in callbacks):
        raise UserError(
            "BackupAndRestore cannot resume a method of several stages: leave it out, or train by "
            "train_w_distill.train, which resumes"
        )


class OverAllStages(keras.callbacks.Callback):
    """One callback throughout the calls of `fit` for a run's stages: it hears of the beginning of
    training once, and of its end once.

    Args:
        callback: the callback.
        is_over: whether the call of `fit` at hand is the last one.
        epochs: of all calls.
    """

    def __init__(
        self, callback: keras.callbacks.Callback, is_over: Callable[[], bool], epochs: int
    ):
        super().__init__()
        self._callback, self._is_over, self._epochs = callback, is_over, epochs
        self._has_begun = False

    def set_params(self, params: dict[str, Any]) -> None:
        self._callback.set_params({**params, "epochs": self._epochs})

    def set_model(self, model: keras.Model) -> None:
        if not self._has_begun:
            self._callback.set_model(model)

    def on_train_begin(self, logs: Any = None) -> None:
        if not self._has_begun:
            self._callback.on_train_begin(logs)
        self._has_begun = True

    def on_train_end(self, logs: Any = None) -> None:
        if self._is_over():
            self._callback.on_train_end(logs)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._callback.on_epoch_begin(epoch, logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._callback.on_epoch_end(epoch, logs)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._callback.on_train_batch_begin(batch, logs)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._callback.on_train_batch_end(batch, logs)

    def on_test_begin(self, logs: Any = None) -> None:
        self._callback.on_test_begin(logs)

    def on_test_end(self, logs: Any = None) -> None:
        self._callback.on_test_end(logs)

    def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._callback.on_test_batch_begin(batch, logs)

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self._callback.on_test_batch_end(batch, logs)
