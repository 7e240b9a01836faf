import keras
import numpy as np
import pytest
import tensorflow as tf

from registry import UserError
from tests.pretext.models import images, multi_task


def batch(seed, count=8):
    return {
        "image": images(count, seed).astype(np.float32), "index": np.arange(count, dtype=np.int64)
    }


def broken(seed):
    found = batch(seed)
    found["image"][2, 1, 1, 0] = np.nan
    return found


def fitted(*parts, **given):
    """A model after the batches, in one epoch."""
    model = multi_task(("rotation", "instance"), **given)
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    data = tf.data.Dataset.from_tensors(parts[0])
    for part in parts[1:]:
        data = data.concatenate(tf.data.Dataset.from_tensors(part))
    return model, model.fit(data, verbose=0).history


@pytest.mark.parametrize(
    "given",
    [
        {"memory_of": 8}, {"balance": "uncertainty", "regularizer": "none"},
        {"balance": "pcgrad", "memory_of": 8, "tasks_per_image": 1, "regularizer": "none"},
    ],
)
def test_an_image_that_is_not_finite_changes_nothing(given):
    """Training goes on as if the step, here the first of six, had not been."""
    good = [batch(seed) for seed in range(1, 6)]
    (one, logs), (other, others) = fitted(broken(0), *good, **given), fitted(*good, **given)
    np.testing.assert_allclose(logs["skipped_steps"], [1 / 6], rtol=1e-6)
    assert others["skipped_steps"] == [0.0]
    left_out = {id(variable) for variable in other.optimizer.variables}
    for found, expected in zip(one.variables, other.variables, strict=True):
        if id(expected) not in left_out:
            np.testing.assert_allclose(
                found, expected, rtol=1e-5, atol=1e-6, err_msg=expected.path
            )


def test_training_that_diverges_is_given_up():
    with pytest.raises(UserError, match="in epoch 1 the gradients of 50 % of the steps were not"):
        fitted(broken(0), batch(1))
