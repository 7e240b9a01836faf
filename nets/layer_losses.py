"""The losses that a model's own layers add to whatever it is trained for."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import Any

import keras


class _Collected(threading.local):
    losses: list[Any] | None = None


_collected = _Collected()


@contextlib.contextmanager
def collected_losses() -> Iterator[list[Any]]:
    """Collect what layers add in this thread within this context: by ``add_loss``, or as
    regularizers of activities.

    Keras keeps one list for all threads, and replicas are threads that take turns wherever they
    exchange something, such as the statistics of a synchronised batch normalisation: each would
    forget what the one before has added, or take it for its own.
    """
    _install()
    before, _collected.losses = _collected.losses, []
    try:
        yield _collected.losses
    finally:
        _collected.losses = before


@functools.cache
def _install() -> None:
    """Let layers ask whether their losses are collected, once for all threads."""
    keeps = keras.Layer.add_loss

    @functools.wraps(keeps)
    def add_loss(layer: keras.Layer, loss: Any) -> None:
        if _collected.losses is None:
            keeps(layer, loss)
        else:
            _collected.losses.extend(keras.tree.flatten(loss))

    keras.Layer.add_loss = add_loss


def weight_losses(model: keras.Model) -> list[Any]:
    """What the regularizers of a model's trained weights add."""
    regularized = [v for v in model.trainable_variables if v.regularizer is not None]
    return [variable.regularizer(variable) for variable in regularized]
