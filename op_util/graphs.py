"""Graphs that are made once: making those of decompositions takes longer than many steps."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import Any

import tensorflow as tf

from op_util.precision import rounds_products


def made_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """Within a graph, calls of `function` share a graph of its own, one for each kind of arguments,
    which is kept as long as the process lasts.

    Args:
        function: ``function(matrices, *settings)`` of a list of tensors and of hashable settings;
            no gradient passes through it, and it has no variables.
    """

    @functools.cache
    def graph_of(kind: Hashable, settings: tuple[Hashable, ...]) -> Callable[..., Any]:
        return tf.function(lambda *matrices: function(list(matrices), *settings), autograph=False)

    @functools.wraps(function)
    def call(matrices: list[tf.Tensor], *settings: Hashable) -> Any:
        if tf.executing_eagerly():
            return function(matrices, *settings)
        # How products are computed can be changed at any time.
        kind = rounds_products(), *((matrix.dtype, *matrix.shape) for matrix in matrices)
        return graph_of(kind, settings)(*matrices)

    return call
