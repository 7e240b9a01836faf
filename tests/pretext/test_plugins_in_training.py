"""What holds for a training with any task, balance, regularizer or ensemble: a line each.

That several devices train the same encoder is shown in `test_data_parallel.py`.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from experiment.run.variables import numbered, read_all, restore
from nets.copying import global_policy
from pretext.batch import Batch
from tests.pretext.models import batches, images, multi_task, weights

COUNT = 12
CASES = {
    "barlow_twins, random": {"names": ("barlow_twins", "rotation"), "balance": "random"},
    "vicreg, pcgrad": {"names": ("vicreg", "rotation"), "balance": "pcgrad"},
    "simsiam, uncertainty": {"names": ("simsiam", "rotation"), "balance": "uncertainty",
                             "regularizer": "variance_covariance"},
    "gradnorm, both": {"names": ("instance", "rotation"), "balance": "gradnorm(interval=2)",
                       "memory_of": COUNT, "average_decay": 0.9},
}


def model_of(name):
    """Its steps run eagerly, for tracing takes longer than a few steps do."""
    sample = Batch(tf.constant(images(4)), tf.range(4, dtype=tf.int64))
    model = multi_task(sample=sample, **CASES[name])
    model.compile(keras.optimizers.Adam(1e-2), run_eagerly=True)
    model.optimizer.build(model.trainable_variables)
    return model


def train(model, first, last):
    return model.fit(
        batches(COUNT, 4), initial_epoch=first, epochs=last, verbose=0, shuffle=False
    ).history


def state(model):
    return numbered([*model.variables, *model.optimizer.variables])


@pytest.mark.parametrize("name", CASES)
def test_stopped_and_resumed_is_never_stopped(name):
    whole, resumed = model_of(name), model_of(name)
    train(whole, 0, 1)
    saved, first = read_all(state(whole)), weights(whole)
    train(whole, 1, 2)
    restore(state(resumed), saved, "model")
    train(resumed, 1, 2)
    np.testing.assert_array_equal(weights(resumed), weights(whole))
    assert not np.array_equal(first, weights(whole))


@pytest.mark.parametrize("name", CASES)
def test_bfloat16_trains_every_weight_that_a_loss_reaches(name):
    with global_policy("mixed_bfloat16"):
        model = model_of(name)
        before = [np.array(variable) for variable in model.trainable_variables]
        logs = train(model, 0, 2)
    assert np.all(np.isfinite([*logs.values()])) and np.all(np.isfinite(weights(model)))
    for variable, old in zip(model.trainable_variables, before, strict=True):
        is_reached = not variable.path.startswith("projection") or model.regularizer is not None
        assert np.array_equal(variable, old) != is_reached, variable.path
