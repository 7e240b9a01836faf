"""Matrix products on a simulated GPU with TensorFloat-32."""

import numpy as np
import pytest
import tensorflow as tf

from op_util import precision
from op_util.precision import epsilon_of, product, rounds_products
from op_util.singular_vectors import right_singular_vectors


@pytest.fixture
def no_float32_products(monkeypatch):
    """Make `tf.matmul` behave as on a GPU with TensorFloat-32."""
    computed = tf.matmul

    def rounded(a, b, **kwargs):
        if a.dtype == tf.float32:
            a, b = (tf.bitcast(tf.bitcast(x, tf.int32) & -(2**13), tf.float32) for x in (a, b))
        return computed(a, b, **kwargs)

    monkeypatch.setattr(tf, "matmul", rounded)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a GPU"])
    monkeypatch.setattr(
        tf.config.experimental, "get_device_details", lambda gpu: {"compute_capability": (9, 0)}
    )


def test_rounding_is_detected(monkeypatch, no_float32_products):
    assert rounds_products()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        assert not rounds_products()
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(True)
    monkeypatch.setattr(
        tf.config.experimental, "get_device_details", lambda gpu: {"compute_capability": (7, 5)}
    )
    assert not rounds_products()


def test_products_are_never_rounded_on_a_cpu():
    assert not rounds_products()


def test_product_keeps_float32s_digits(no_float32_products):
    random = np.random.default_rng(0)
    a, b = (random.normal(size=(2, 30, 30)).astype(np.float32) for _ in range(2))
    exact = np.swapaxes(a, 1, 2).astype(float) @ b
    assert np.max(np.abs(tf.matmul(a, b, transpose_a=True) - exact)) > 1e-3
    found = product(tf.constant(a), tf.constant(b), transpose_a=True)
    assert found.dtype == tf.float32
    assert np.max(np.abs(found - exact)) < 2e-6


@pytest.mark.parametrize("shape", [(100, 40), (20, 30)])
def test_singular_vectors_and_gradients_keep_the_digits(monkeypatch, no_float32_products, shape):
    random = np.random.default_rng(1)
    x = tf.constant(random.normal(size=(3, *shape)) + 0.3, tf.float32)
    weights = tf.constant(random.normal(size=(shape[1], 2)))

    def vectors_and_gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            _, vectors = right_singular_vectors(x, 2)
            total = tf.reduce_sum(vectors * tf.cast(weights, x.dtype))
        return vectors, tape.gradient(total, x)

    exact = vectors_and_gradient(tf.cast(x, tf.float64))

    def worst_error():
        return [
            float(tf.norm(tf.cast(found, tf.float64) - right) / tf.norm(right))
            for found, right in zip(vectors_and_gradient(x), exact, strict=True)
        ]

    assert max(worst_error()) < 1e-5
    monkeypatch.setattr(precision, "rounds_products", lambda: False)
    assert max(worst_error()) > 1e-4


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_epsilon_is_numpys(dtype):
    assert epsilon_of(dtype) == np.finfo(dtype.as_numpy_dtype).eps
