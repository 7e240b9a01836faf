"""Models that end in a softmax, made to give the logits before it."""

from __future__ import annotations

import keras

from .keras_graph import call_of, producer

_SOFTMAX = keras.activations.softmax


def gives_probabilities(model: keras.Model) -> bool:
    """Whether the layer that makes a functional model's first output is or ends in a softmax."""
    last = producer(model.outputs[0])
    return isinstance(last, keras.layers.Softmax) or getattr(last, "activation", None) is _SOFTMAX


def without_softmax(model: keras.Model) -> keras.Model:
    """`model` giving logits: the last layer's softmax is taken off (of this very layer), or the
    layer left out where it is nothing else."""
    if not gives_probabilities(model):
        return model
    last = producer(model.outputs[0])
    if not isinstance(last, (keras.layers.Softmax, keras.layers.Activation)):
        last.activation = keras.activations.linear
        return model
    (before,) = call_of(model.outputs[0]).inputs
    outputs = before if len(model.outputs) == 1 else [before, *model.outputs[1:]]
    return keras.Model(model.input, outputs, name=model.name)
