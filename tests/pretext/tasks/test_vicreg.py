"""VICReg's loss against NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from tests.pretext.examples import Example

WEIGHTS = {"invariance": 3.0, "variance": 7.0, "covariance": 0.5}


def parts(output):
    """Each part of the loss by itself, as NumPy has it."""
    views = output[:, 0], output[:, 1]
    covariances = [np.cov(view, rowvar=False) for view in views]
    return {
        "invariance": np.mean((views[0] - views[1]) ** 2),
        "variance": sum(
            np.mean(np.maximum(0, 1 - np.sqrt(np.diag(each) + 1e-4))) / 2 for each in covariances
        ),
        "covariance": sum(
            (np.sum(each**2) - np.sum(np.diag(each) ** 2)) / len(each) for each in covariances
        ),
    }


@pytest.mark.parametrize("chosen", [list(WEIGHTS), *([name] for name in WEIGHTS)])
def test_the_loss_weighs_its_parts_as_set(chosen):
    """All together, and each alone."""
    output = np.random.default_rng(0).normal(0, 0.6, size=(6, 2, 4))
    weights = {name: WEIGHTS[name] if name in chosen else 0.0 for name in WEIGHTS}
    expected = sum(weights[name] * part for name, part in parts(output).items())
    assert expected > 0
    task = Example("vicreg", (32, 32, 3), **weights)
    loss = task.loss(tf.constant(output, tf.float32), None)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_views_are_compared_in_as_many_dimensions_as_set():
    task = Example("vicreg", (32, 32, 3), projection=9)
    task.build((4, 4, 8), 16)
    assert task.predict(tf.zeros([3, 2, 16])).shape == (3, 2, 9)
