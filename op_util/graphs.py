"""Cache traced graphs: tracing a decomposition takes longer than many training steps."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import Any

import tensorflow as tf

from op_util.precision import rounds_products


def made_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """Trace `function` once per kind of arguments and share the trace between all graphs.

    Calls inside a graph use a cached `tf.function`, which is kept until the process ends. Eager
    calls run `function` directly.

    Args:
        function: ``function(matrices, *settings)`` takes a list of tensors and hashable settings.
            It has no variables, and no gradient passes through it.
    """

    @functools.cache
    def graph_of(kind: Hashable, settings: tuple[Hashable, ...]) -> Callable[..., Any]:
        return tf.function(lambda *matrices: function(list(matrices), *settings), autograph=False)

    @functools.wraps(function)
    def call(matrices: list[tf.Tensor], *settings: Hashable) -> Any:
        if tf.executing_eagerly():
            return function(matrices, *settings)
        # The precision of products can be changed at any time.
        kind = rounds_products(), *((matrix.dtype, *matrix.shape) for matrix in matrices)
        return graph_of(kind, settings)(*matrices)

    return call
