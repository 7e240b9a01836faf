"""Filter gradients as matrix products, against TensorFlow's own kernel."""

import numpy as np
import pytest
import tensorflow as tf

from op_util import convolution
from op_util.convolution import Limits, convolve, filter_gradient, is_product_faster
from op_util.devices import assume_device

EVERYWHERE = {
    (dtype, strided): Limits(positions=10**6, channels=1)
    for dtype in (tf.float32, tf.bfloat16) for strided in (False, True)
}
# Maps, kernel's size, strides.
CASES = [
    ((3, 4, 4, 5), (3, 3), (1, 1)),
    ((3, 4, 4, 5), (3, 3), (2, 2)),
    ((2, 7, 5, 3), (3, 3), (1, 1)),
    ((2, 7, 5, 3), (3, 3), (2, 2)),
    ((2, 6, 9, 3), (5, 2), (2, 2)),
    ((2, 8, 8, 3), (1, 1), (2, 2)),
    ((2, 8, 8, 3), (2, 2), (3, 3)),
    ((2, 3, 3, 2), (3, 3), (2, 2)),
]
FILTERS = 4


def drawn(seed, shape, dtype="float32"):
    return tf.cast(np.random.default_rng(seed).normal(size=shape), dtype)


def gradients(function, maps, kernel, upstream):
    with tf.GradientTape() as tape:
        tape.watch([maps, kernel])
        output = function(maps, kernel)
    return tape.gradient(output, [maps, kernel], upstream)


def arguments(shape, size, strides, padding, dtype="float32"):
    """Maps, kernel, and a gradient with respect to their convolution."""
    maps, kernel = drawn(0, shape, dtype), drawn(1, (*size, shape[-1], FILTERS), dtype)
    return maps, kernel, drawn(2, tf.nn.conv2d(maps, kernel, strides, padding).shape, dtype)


def exactly(strides, padding, *tensors):
    """TensorFlow's gradients in float64."""
    wide = [tf.cast(tensor, tf.float64) for tensor in tensors]
    return gradients(lambda maps, kernel: tf.nn.conv2d(maps, kernel, strides, padding), *wide)


def kinds_in(function, *tensors):
    graph = tf.function(function).get_concrete_function(*tensors).graph
    return {operation.type for operation in graph.get_operations()}


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("shape, size, strides", CASES)
def test_filter_gradient(shape, size, strides, padding):
    maps, kernel, upstream = arguments(shape, size, strides, padding)
    found = filter_gradient(maps, upstream, size, strides, padding)
    _, truth = exactly(strides, padding, maps, kernel, upstream)
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found, truth, rtol=1e-5, atol=1e-5 * np.abs(truth).max())


def test_strides_that_differ():
    maps, upstream = drawn(0, (2, 6, 7, 3)), drawn(2, (2, 6, 4, FILTERS))
    found = filter_gradient(maps, upstream, (3, 3), (1, 2), "SAME")
    padded = np.pad(maps, [(0, 0), (1, 1), (1, 1), (0, 0)])
    for row, column in np.ndindex(3, 3):
        window = padded[:, row : row + 6, column : column + 7 : 2]
        truth = np.einsum("bhwi,bhwo->io", window, upstream)
        np.testing.assert_allclose(found[row, column], truth, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_sums_of_bfloat16_are_made_in_float32(strides):
    """Only the result is rounded, to 8 bits: 2,048 or 512 terms of each sum are not."""
    maps, kernel, upstream = arguments((128, 4, 4, 64), (3, 3), strides, "SAME", "bfloat16")
    found = filter_gradient(maps, upstream, (3, 3), strides, "SAME")
    _, truth = exactly(strides, "SAME", maps, kernel, upstream)
    assert found.dtype == tf.bfloat16
    found = tf.cast(found, tf.float64)
    np.testing.assert_allclose(found, truth, rtol=2**-8, atol=1e-5 * np.abs(truth).max())


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("in_graph", [False, True])
def test_gradients_of_first_and_second_order(monkeypatch, in_graph, padding):
    monkeypatch.setattr(convolution, "LIMITS", EVERYWHERE)
    tensors = arguments((2, 7, 5, 3), (3, 3), (2, 2), padding)

    def with_gradients(convolution):
        def orders(maps, kernel, upstream):
            with tf.GradientTape() as outer:
                outer.watch([maps, kernel, upstream])
                output = convolution(maps, kernel, (2, 2), padding)
                first = gradients(
                    lambda maps, kernel: convolution(maps, kernel, (2, 2), padding),
                    maps, kernel, upstream,
                )
                norm = tf.add_n([tf.reduce_sum(each**2) for each in first])
            return [output, *first, *outer.gradient(norm, [maps, kernel, upstream])]

        return (tf.function(orders) if in_graph else orders)(*tensors)

    for ours, truth in zip(
        with_gradients(convolve), with_gradients(tf.nn.conv2d), strict=True
    ):
        np.testing.assert_allclose(ours, truth, rtol=1e-4, atol=1e-5 * np.abs(truth).max())


def step(maps, kernel, upstream):
    return gradients(lambda *both: convolve(*both, (2, 2), "SAME"), maps, kernel, upstream)


def test_the_kernel_of_tensorflow_where_no_product_is_faster(monkeypatch):
    tensors = arguments((2, 8, 8, 3), (3, 3), (2, 2), "SAME")
    usual = "Conv2DBackpropFilter"
    assert usual in kinds_in(step, *tensors)  # three channels
    monkeypatch.setattr(convolution, "LIMITS", EVERYWHERE)
    with assume_device("GPU"):
        assert usual in kinds_in(step, *tensors)
    compiled = tf.function(step, jit_compile=True)
    graph = compiled.get_concrete_function(*tensors).graph
    assert usual in {operation.type for operation in graph.get_operations()}
    assert usual not in kinds_in(step, *tensors)
    for ours, theirs in zip(compiled(*tensors), step(*tensors), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_an_unknown_batch_size(monkeypatch):
    monkeypatch.setattr(convolution, "LIMITS", EVERYWHERE)
    tensors = arguments((2, 8, 8, 3), (3, 3), (2, 2), "SAME")
    unknown = tf.function(
        step, input_signature=[
            tf.TensorSpec([None, 8, 8, 3]), tf.TensorSpec([3, 3, 3, FILTERS]),
            tf.TensorSpec([None, 4, 4, FILTERS]),
        ],
    )
    operations = unknown.get_concrete_function().graph.get_operations()
    assert "Conv2DBackpropFilter" not in {operation.type for operation in operations}
    for ours, theirs in zip(unknown(*tensors), step(*tensors), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("expected, dtype, size, channels, kernel, stride", [
    (True, tf.bfloat16, 4, 64, 3, 1),
    (False, tf.bfloat16, 4, 32, 3, 1),
    (False, tf.bfloat16, 5, 64, 3, 1),
    (True, tf.bfloat16, 16, 32, 3, 2),
    (True, tf.bfloat16, 15, 32, 5, 2),
    (True, tf.bfloat16, 8, 32, 1, 2),
    (False, tf.bfloat16, 17, 32, 3, 2),
    (False, tf.bfloat16, 16, 16, 3, 2),
    (False, tf.bfloat16, 4, 512, 1, 1),
    (True, tf.float32, 4, 512, 3, 1),
    (False, tf.float32, 4, 256, 3, 1),
    (True, tf.float32, 8, 128, 3, 2),
    (False, tf.float32, 9, 128, 3, 2),
    (False, tf.float32, 8, 64, 3, 2),
])
def test_rule(expected, dtype, size, channels, kernel, stride):
    assert expected == is_product_faster(
        "CPU", dtype, (128, size, size, channels), (kernel, kernel, channels, 2 * channels),
        (stride, stride), "SAME",
    )


@pytest.mark.parametrize("changed", [
    {"device": "GPU"}, {"device": "XLA"}, {"dtype": tf.float16}, {"dtype": tf.float64},
    {"maps": (128, None, 4, 512)}, {"maps": (128, 2, 2, 512), "padding": "VALID"},
    {"kernel": (3, 3, 512, 8)},
])
def test_what_is_left_to_tensorflow(changed):
    usual = {
        "device": "CPU", "dtype": tf.bfloat16, "maps": (None, 4, 4, 512),
        "kernel": (3, 3, 512, 512), "strides": (1, 1), "padding": "SAME",
    }
    assert is_product_faster(**usual)
    assert not is_product_faster(**usual | changed)
