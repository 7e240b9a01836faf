"""The paper's schedule, step by step."""

import numpy as np
import pytest

from op_util.schedules import stepwise


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
