"""Batch statistics that do not lag behind the weights when a network is judged."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import keras
import tensorflow as tf

from nets import recompute_batch_statistics


class RefreshedStatistics(keras.callbacks.Callback):
    """Recomputes the statistics of batch normalisation before each validation.

    Args:
        model: the network that is judged.
        batches: gives the batches that it takes, preprocessed.
    """

    def __init__(self, model: keras.Model, batches: Callable[[], Iterable[tf.Tensor]]):
        super().__init__()
        self._network = model
        self._batches = batches

    def refresh(self) -> None:
        """Recompute them now."""
        recompute_batch_statistics(self._network, self._batches())

    def on_test_begin(self, logs: Any = None) -> None:
        self.refresh()
