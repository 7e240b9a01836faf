"""Size and cost of a network, as tables of networks print them."""

from __future__ import annotations

import math

import keras


def count_parameters(model: keras.Model) -> int:
    """Number of parameters of a model.

    Rule: every element of every variable, batch-norm statistics included; the seed states of
    random layers, which are no parameters, are not counted.
    """
    return sum(math.prod(weight.shape) for weight in model.weights)
