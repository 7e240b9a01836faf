"""Schedules of the learning rate, step by step."""

import math

import numpy as np
import pytest

from op_util.schedules import schedule, stepwise


@pytest.mark.parametrize(
    ("epochs", "steps", "first", "second"), [(200, 391, 100, 150), (8, 5, 4, 6), (10, 3, 5, 8)]
)
def test_drops_with_the_first_step_of_an_epoch(epochs, steps, first, second):
    rate = stepwise(1e-2, epochs, steps)
    for epoch, expected in [
        (0, 1e-2), (first - 1, 1e-2), (first, 1e-3), (second - 1, 1e-3), (second, 1e-4),
        (epochs - 1, 1e-4),
    ]:
        for step in (epoch * steps, (epoch + 1) * steps - 1):
            np.testing.assert_allclose(rate(step), expected, rtol=1e-6, err_msg=f"step {step}")


def test_other_drops_and_factor():
    rate = stepwise(1.0, 10, 2, drops=[0.2], factor=0.5)
    np.testing.assert_allclose([rate(step) for step in range(6)], [1, 1, 1, 1, 0.5, 0.5])


@pytest.mark.parametrize(("epochs", "steps", "warmup"), [(5, 8, 1.5), (20, 3, 2), (3, 40, 0.3)])
def test_cosine_after_warm_up(epochs, steps, warmup):
    rate = schedule("cosine", 0.2, epochs, steps, warmup)
    first, last = round(warmup * steps), epochs * steps
    for step in range(last + 1):
        if step < first:  # from 0.2 / w in equal steps up to 0.2
            expected = np.linspace(0.2 / first, 0.2, first + 1)[step]
        else:
            expected = 0.2 * math.cos(math.pi / 2 * (step - first) / (last - first)) ** 2
        np.testing.assert_allclose(rate(step), expected, rtol=2e-5, atol=1e-8, err_msg=str(step))


def test_cosine_without_warm_up_and_warm_up_without_cosine():
    rate = schedule("cosine", 0.2, 10, 4)
    np.testing.assert_allclose([rate(0), rate(20), rate(40)], [0.2, 0.1, 0], atol=1e-7)
    with pytest.raises(ValueError, match="has no warm-up"):
        schedule("step", 0.2, 10, 4, warmup_epochs=1)


@pytest.mark.parametrize(("epochs", "steps", "warmup"), [(2, 4, 2), (10, 3, 9.9), (1, 8, 0.95)])
def test_one_step_at_least_comes_after_a_warm_up(epochs, steps, warmup):
    rate = schedule("cosine", 0.2, epochs, steps, warmup_epochs=warmup)
    last = epochs * steps - 1
    rising = [0.2 * (1 + i * (last - 1) / last) / last for i in range(last)]
    np.testing.assert_allclose([rate(i) for i in range(last)], rising, rtol=1e-5)
    np.testing.assert_allclose([rate(last), rate(last + 1)], [0.2, 0], atol=1e-7)
