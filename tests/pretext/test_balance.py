import numpy as np
import pytest
import tensorflow as tf

from pretext import balance
from registry import UserError


def losses_of(random, scale=(1.0, 30.0, 0.01)):
    return (random.uniform(0.5, 1.5, 3) * scale).astype(np.float32)


def test_scale_divides_by_the_mean_over_the_images_of_the_first_epoch():
    random = np.random.default_rng(0)
    own = balance.create("scale", 3)
    total, count = np.zeros(3), 0
    for epoch in range(2):
        for images in (8, 8, 3):
            losses = losses_of(random)
            factors = own.factors(tf.constant(losses), tf.constant(float(images)), epoch).numpy()
            if epoch == 0:  # the mean so far, this step included
                total, count = total + images * losses, count + images
            np.testing.assert_allclose(factors, count / total, rtol=1e-5)
    np.testing.assert_allclose(own.current(), count / total, rtol=1e-5)


def test_scale_before_any_step_and_of_a_loss_that_is_zero():
    own = balance.create("scale", 2)
    np.testing.assert_array_equal(own.current(), [1, 1])
    factors = own.factors(tf.constant([0.0, 2.0]), tf.constant(4.0), 0)
    assert np.all(np.isfinite(factors)) and factors[1] == 0.5


def test_none_leaves_losses_alone():
    own = balance.create("none", 2)
    np.testing.assert_array_equal(own.factors(tf.constant([5.0, 0.1]), 4.0, 0), [1, 1])
    assert not own.variables


def test_gradnorm_makes_norms_equal_and_moves_slowly_afterwards():
    own = balance.create("gradnorm", 3, rate=0.25)
    norms, losses = np.array([1.0, 4.0, 0.5], np.float32), np.array([2.0, 1.0, 3.0], np.float32)
    own.measured(tf.constant(norms), tf.constant(losses))
    first = own.current().numpy()
    np.testing.assert_allclose(first * norms, np.mean(first * norms), rtol=1e-5)
    np.testing.assert_allclose(first.sum(), 3, rtol=1e-5)
    own.measured(tf.constant(2 * norms[::-1]), tf.constant(losses))
    wanted = 1 / norms[::-1]
    wanted *= 3 / wanted.sum()
    np.testing.assert_allclose(own.current(), first + 0.25 * (wanted - first), rtol=1e-5)
    factors = own.factors(tf.constant(losses), tf.constant(4.0), 0)
    np.testing.assert_array_equal(factors, own.current())


def test_gradnorm_lets_slow_tasks_pull_harder():
    own = balance.create("gradnorm", 2, asymmetry=1.0, rate=1.0)
    ones = tf.ones([2])
    own.measured(ones, tf.constant([2.0, 4.0]))
    own.measured(ones, tf.constant([1.0, 3.8]))  # 0.5 and 0.95 of the first losses are left
    factors = own.current().numpy()
    np.testing.assert_allclose(factors[1] / factors[0], 0.95 / 0.5, rtol=1e-5)


@pytest.mark.parametrize(("name", "variables"), [("scale", 2), ("gradnorm", 2)])
def test_what_it_knows_is_in_variables(name, variables):
    assert len(balance.create(name, 3).variables) == variables


def test_unknown_balance():
    with pytest.raises(UserError, match="unknown balance 'scael'.*did you mean 'scale'"):
        balance.create("scael", 2)
