import numpy as np
import pytest
import tensorflow as tf

from op_util.graphs import made_once


@pytest.fixture
def calls():
    return []


@pytest.fixture
def scaled(calls):
    @made_once
    def scaled(matrices, factor):
        calls.append([tuple(matrix.shape) for matrix in matrices])
        return [factor * matrix for matrix in matrices]

    return scaled


def traced(function, *shapes, dtype=tf.float32):
    return tf.function(function).get_concrete_function(*(tf.TensorSpec(s, dtype) for s in shapes))


def test_each_kind_is_traced_once_for_all_calling_graphs(scaled, calls):
    def twice(x):
        return scaled(scaled([x], 2.0), 2.0)

    for _ in range(2):
        (found,) = traced(twice, (None, 3))(tf.ones([5, 3]))
        np.testing.assert_array_equal(found, np.full((5, 3), 4.0))
    assert calls == [[(None, 3)]]


def test_kinds_differ_by_shape_dtype_and_setting(scaled, calls, caplog):
    # With many kinds, TensorFlow would warn of one function that is retraced again and again.
    for size in range(1, 8):
        (found,) = traced(lambda x: scaled([x], 3.0), (2, size))(tf.ones([2, size]))
        assert found.shape == (2, size)
    traced(lambda x: scaled([x], 3.0), (2, 1), dtype=tf.float64)
    (found,) = traced(lambda x: scaled([x], 5.0), (2, 1))(tf.ones([2, 1]))
    np.testing.assert_array_equal(found, np.full((2, 1), 5.0))
    traced(lambda x, y: scaled([x, y], 5.0), (2, 1), (2, 1))
    assert len(calls) == 7 + 3
    assert not caplog.records


def test_eager_calls_are_not_traced(scaled, calls):
    for size in (1, 2, 2):
        np.testing.assert_array_equal(scaled([tf.ones([size])], 2.0)[0], np.full(size, 2.0))
    assert calls == [[(1,)], [(2,)], [(2,)]]
