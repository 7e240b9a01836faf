"""Let the convolutions of a network be computed by another function for a while.

A network stays one of `keras.layers.Conv2D`: its config, its files and its exports are those that
it would have without. Only within `convolutions_by` do its layers compute otherwise.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Sequence

import keras
import tensorflow as tf

from .keras_graph import all_layers, replace_convolution

Convolve = Callable[[tf.Tensor, tf.Tensor, Sequence[int], str], tf.Tensor]
"""Takes maps ``[B, H, W, C_in]``, kernel ``[h, w, C_in, C_out]``, the strides along height and
width, and ``"SAME"`` or ``"VALID"``; gives what `tf.nn.conv2d` would."""

# Each replica's thread has its own value.
_convolve: contextvars.ContextVar[Convolve | None] = contextvars.ContextVar(
    "convolve", default=None
)


def open_convolutions(layer: keras.Layer) -> None:
    """Let `convolutions_by` act on the convolutions in a layer or a model, at any depth.

    Convolutions that are dilated, grouped or channels-first, and those of subclasses of
    `keras.layers.Conv2D`, stay as they are.
    """
    for each in all_layers(layer):
        if type(each) is keras.layers.Conv2D and _is_plain(each):
            replace_convolution(each, _compute)


@contextlib.contextmanager
def convolutions_by(convolve: Convolve) -> Iterator[None]:
    """Within this context, `convolve` computes the convolutions that were opened (see
    `open_convolutions`).

    A function traced within it keeps doing so.
    """
    token = _convolve.set(convolve)
    try:
        yield
    finally:
        _convolve.reset(token)


def _is_plain(layer: keras.layers.Conv2D) -> bool:
    return (
        layer.groups == 1
        and max(layer.dilation_rate) == 1
        and layer.data_format == "channels_last"
    )


def _compute(
    layer: keras.layers.Conv2D, inputs: tf.Tensor, kernel: keras.Variable | tf.Tensor
) -> tf.Tensor:
    """Replaces `keras.layers.Conv2D.convolution_op`."""
    convolve = _convolve.get()
    if convolve is None:
        return keras.layers.Conv2D.convolution_op(layer, inputs, kernel)
    return convolve(inputs, tf.convert_to_tensor(kernel), layer.strides, layer.padding.upper())
