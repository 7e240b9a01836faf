import numpy as np
import pytest
import tensorflow as tf

import plugins
from pretext import BALANCES
from pretext.balance import Step
from pretext.balances.random import random_factors
from registry import UserError


def weighting(name, tasks, seed=0, **hyper_parameters):
    return plugins.create(BALANCES, name, **hyper_parameters).build(tasks, seed)


def step(number=0, epoch=0, images=4.0):
    return Step(tf.constant(number, tf.int64), tf.constant(epoch), tf.constant(images))


def losses_of(random, scale=(1.0, 30.0, 0.01)):
    return (random.uniform(0.5, 1.5, 3) * scale).astype(np.float32)


def test_scale_divides_by_the_mean_over_the_images_of_the_first_epoch():
    random = np.random.default_rng(0)
    own = weighting("scale", 3)
    total, count = np.zeros(3), 0
    for epoch in range(2):
        for images in (8, 8, 3):
            losses = losses_of(random)
            factors = own.factors(tf.constant(losses), step(0, epoch, float(images))).numpy()
            if epoch == 0:  # the mean so far, this step included
                total, count = total + images * losses, count + images
            np.testing.assert_allclose(factors, count / total, rtol=1e-5)
    np.testing.assert_allclose(own.current(), count / total, rtol=1e-5)


def test_scale_before_any_step_and_of_a_loss_that_is_zero():
    own = weighting("scale", 2)
    np.testing.assert_array_equal(own.current(), [1, 1])
    factors = own.factors(tf.constant([0.0, 2.0]), step())
    assert np.all(np.isfinite(factors)) and factors[1] == 0.5


def test_none_leaves_losses_alone():
    own = weighting("none", 2)
    np.testing.assert_array_equal(own.factors(tf.constant([5.0, 0.1]), step()), [1, 1])
    assert not own.variables


def test_gradnorm_makes_norms_equal_and_moves_slowly_afterwards():
    own = weighting("gradnorm", 3, rate=0.25)
    norms, losses = np.array([1.0, 4.0, 0.5], np.float32), np.array([2.0, 1.0, 3.0], np.float32)
    own.measured(tf.constant(norms), tf.constant(losses))
    first = own.current().numpy()
    np.testing.assert_allclose(first * norms, np.mean(first * norms), rtol=1e-5)
    np.testing.assert_allclose(first.sum(), 3, rtol=1e-5)
    own.measured(tf.constant(2 * norms[::-1]), tf.constant(losses))
    wanted = 1 / norms[::-1]
    wanted *= 3 / wanted.sum()
    np.testing.assert_allclose(own.current(), first + 0.25 * (wanted - first), rtol=1e-5)
    factors = own.factors(tf.constant(losses), step())
    np.testing.assert_array_equal(factors, own.current())


def test_gradnorm_lets_slow_tasks_pull_harder():
    own = weighting("gradnorm", 2, asymmetry=1.0, rate=1.0)
    ones = tf.ones([2])
    own.measured(ones, tf.constant([2.0, 4.0]))
    own.measured(ones, tf.constant([1.0, 3.8]))  # 0.5 and 0.95 of the first losses are left
    factors = own.current().numpy()
    np.testing.assert_allclose(factors[1] / factors[0], 0.95 / 0.5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "variables"), [("scale", 2), ("gradnorm", 2), ("uncertainty", 1), ("random", 1)]
)
def test_what_it_knows_is_in_variables(name, variables):
    assert len(weighting(name, 3).variables) == variables


def test_unknown_balance():
    with pytest.raises(UserError, match="unknown balance 'scael'.*did you mean 'scale'"):
        weighting("scael", 2)


def test_uncertainty_by_hand():
    """Kendall et al., equation 7, and its gradients in s = log sigma^2."""
    own = weighting("uncertainty", 2, log_variance=0.5)
    own.log_variances.assign([0.2, -1.0])
    losses, sigma = np.array([3.0, 0.5]), np.exp(np.array([0.2, -1.0]) / 2)
    with tf.GradientTape() as tape:
        factors = own.factors(tf.constant(losses, tf.float32), step())
        total = tf.reduce_sum(factors * losses) + own.penalty()
    np.testing.assert_allclose(total, np.sum(losses / (2 * sigma**2) + np.log(sigma)), rtol=1e-5)
    gradient = tape.gradient(total, own.log_variances.value)
    np.testing.assert_allclose(gradient, 0.5 - losses / (2 * sigma**2), rtol=1e-5)
    assert own.trainable_variables == [own.log_variances]


def test_random_factors_are_a_softmax_that_seed_and_step_determine():
    found = {}
    for seed in (0, 1):
        own = weighting("random", 3, seed=seed)
        for number in (0, 1, 7):
            factors = own.factors(tf.ones([3]), step(number)).numpy()
            np.testing.assert_array_equal(own.current(), factors)
            np.testing.assert_array_equal(random_factors(3, seed, number), factors)
            found[seed, number] = tuple(factors)
    assert len(set(found.values())) == len(found)
    many = np.array([random_factors(3, 0, number) for number in range(300)])
    np.testing.assert_allclose(many.sum(axis=1), 3, rtol=1e-5)
    # Differences of the logarithms are those of normal draws: mean 0, variance 2.
    differences = np.log(many[:, 0]) - np.log(many[:, 1])
    assert abs(differences.mean()) < 0.3 and 1.5 < differences.var() < 2.6


def test_pcgrad_replaces_the_sum_of_the_gradients():
    own = weighting("pcgrad", 2)
    assert own.combines_gradients and not own.variables
    gradients = np.array([[1.0, 0.0], [-1.0, 1.0]], np.float32)
    # Each loses its part along the other: (0.5, 0.5) and (0, 1).
    np.testing.assert_allclose(own.combined(tf.constant(gradients)), [0.5, 1.5])
