"""Run models on random images, to compare them and to find out what their outputs are."""

from __future__ import annotations

import keras
import numpy as np

from .functional import as_functional

_ANY_SIZE = 128
"""Height and width of the images for models that take any size."""


def sample_outputs(
    model: keras.Model, count: int = 1, any_size: bool = True
) -> list[np.ndarray] | None:
    """The outputs of a functional model for random images, which are the same in each call.

    Args:
        model: the model; it is run in inference mode.
        count: number of normalised images (normally distributed), and of raw images (0..255).
        any_size: whether to run a model that does not state the height and width of its input.

    Returns:
        Each output ``[2 count, ...]`` as float64. None if the model cannot be run on such images,
        because its inputs are not floats or their size is unknown.
    """
    model = as_functional(model)
    random = np.random.default_rng(0)
    given = []
    for tensor in model.inputs:
        shape = tuple(tensor.shape[1:])
        known = None not in shape or (any_size and len(shape) == 3 and shape[-1] is not None)
        if not keras.backend.is_float_dtype(tensor.dtype) or not known:
            return None
        shape = tuple(_ANY_SIZE if size is None else size for size in shape)
        images = [random.normal(size=(count, *shape)), random.uniform(0, 255, (count, *shape))]
        given.append(keras.ops.convert_to_tensor(np.concatenate(images).astype("float32")))
    outputs = model(keras.tree.pack_sequence_as(model.input, given), training=False)
    return [
        np.asarray(keras.ops.convert_to_numpy(each), "float64")
        for each in keras.tree.flatten(outputs)
    ]
