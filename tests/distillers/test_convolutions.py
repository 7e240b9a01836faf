"""Training steps whose filter gradients are matrix products."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from distillers import Distiller
from op_util import convolution
from tests.distillers.models import CLASSES, batch


def network():
    """Its second convolution is one whose filter gradient is faster as a product."""
    keras.utils.set_random_seed(1)
    image = keras.Input((8, 8, 3))
    maps = keras.layers.Conv2D(256, 3, 2, padding="same", activation="softplus")(image)
    maps = keras.layers.Conv2D(256, 3, 2, padding="same", activation="softplus")(maps)
    maps = keras.layers.GlobalAveragePooling2D()(maps)
    logits = keras.layers.Dense(CLASSES, dtype="float32", name="scores")(maps)
    return keras.Model(image, logits)


def trained(**options):
    """The student's weights after two steps, and the kinds of operations in one."""
    distiller = Distiller(network())
    distiller.compile(keras.optimizers.SGD(0.05), **options)
    data = batch(0)
    history = distiller.fit(
        tf.data.Dataset.from_tensor_slices(data).batch(8).repeat(2), verbose=0, shuffle=False
    )
    step = tf.function(distiller.train_step, autograph=False, jit_compile=distiller.jit_compile)
    graph = step.get_concrete_function(data).graph
    kinds = [operation.type for operation in graph.get_operations()]
    assert np.isfinite(history.history["loss"][-1])
    return np.concatenate([np.ravel(w) for w in distiller.student.get_weights()]), kinds


@pytest.mark.parametrize("policy, tolerance", [("float32", 1e-6), ("mixed_bfloat16", 1e-3)])
def test_a_student_learns_the_same(monkeypatch, policy, tolerance):
    keras.config.set_dtype_policy(policy)
    ours, kinds = trained()
    assert kinds.count("Conv2DBackpropFilter") == 1  # of the first, which has three channels
    again, _ = trained()
    np.testing.assert_array_equal(again, ours)
    monkeypatch.setattr(convolution, "LIMITS", {})
    usual, kinds = trained()
    assert kinds.count("Conv2DBackpropFilter") == 2
    first = np.concatenate([np.ravel(w) for w in network().get_weights()])
    assert np.linalg.norm(usual - first) > 1e-2  # it did train
    assert np.linalg.norm(ours - usual) <= tolerance * np.linalg.norm(usual)


@pytest.mark.parametrize("options", [
    pytest.param({"jit_compile": True}, marks=pytest.mark.slow), {"run_eagerly": True},
])
def test_compiled_and_eager(options):
    usual, _ = trained()
    found, kinds = trained(**options)
    assert kinds.count("Conv2DBackpropFilter") == (2 if "jit_compile" in options else 1)
    assert np.linalg.norm(found - usual) <= 1e-5 * np.linalg.norm(usual)
