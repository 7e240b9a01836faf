import keras
import numpy as np
import pytest
import tensorflow as tf

from nets.finite_steps import apply_if_finite, batch_statistics, check_skipped, values_of
from registry import UserError


def variables(*values):
    return [keras.Variable(value, dtype="float32") for value in values]


@pytest.mark.parametrize(
    ("gradients", "skipped"),
    [
        (([1.0, 2.0], 3.0), 0), (([1.0, np.nan], 3.0), 1), (([1.0, 2.0], np.inf), 1),
        ((None, 3.0), 0), ((None, np.nan), 1),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_step_is_applied_as_a_whole_or_not_at_all(gradients, skipped, dtype):
    trained, state = variables([10.0, 10.0], 10.0), variables(5.0)
    optimizer = keras.optimizers.SGD(1.0)
    optimizer.build(trained)
    kept = values_of(state)
    state[0].assign(7.0)  # by the step
    given = [None if each is None else tf.constant(each, dtype) for each in gradients]
    found = apply_if_finite(optimizer, given, trained, kept)
    assert (float(found), float(state[0].value)) == (skipped, 5.0 if skipped else 7.0)
    for variable, gradient in zip(trained, gradients, strict=True):
        moved = np.zeros_like(variable) if skipped or gradient is None else gradient
        np.testing.assert_allclose(variable, 10.0 - np.array(moved))


def test_statistics_of_no_images_are_not_kept():
    """Such as those of a GPU that got none of the last batch; what is finite is."""
    trained, state = variables(10.0), variables([5.0, 6.0])
    optimizer = keras.optimizers.SGD(1.0)
    optimizer.build(trained)
    kept = values_of(state)
    state[0].assign([np.nan, 7.0])  # by the step
    assert float(apply_if_finite(optimizer, [tf.constant(1.0)], trained, kept)) == 0
    np.testing.assert_array_equal(state[0], [5.0, 7.0])
    np.testing.assert_array_equal(trained[0], 9.0)


def test_batch_statistics_are_those_of_normalisation_layers():
    network = keras.Sequential([
        keras.Input((4,)), keras.layers.Dense(3), keras.layers.BatchNormalization(name="bn"),
        keras.layers.Dropout(0.5),
    ])
    network.layers[0].trainable = False
    found = [variable.path for variable in batch_statistics([network])]
    assert [path.rpartition("/")[2] for path in found] == ["moving_mean", "moving_variance"]


@pytest.mark.parametrize(("share", "refused"), [(0.0, False), (0.2, False), (0.21, True)])
def test_more_than_a_fifth_of_skipped_steps_ends_training(share, refused):
    if not refused:
        check_skipped(2, {"skipped_steps": share}, "try it")
        check_skipped(2, None, "try it")
        return
    with pytest.raises(UserError, match="in epoch 3 the gradients of 21 % .* finite: try it$"):
        check_skipped(2, {"skipped_steps": share}, "try it")
