"""Random loss weighting: new random factors in each step."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from pretext.balance import Balance, Step, Weighting
from pretext.registration import BALANCES


def random_factors(tasks: int, seed: int, step: tf.Tensor) -> tf.Tensor:
    """The softmax of normal random numbers times their number, float32 ``[tasks]``, 1 on average.

    They depend only on the seed and the step.

    Args:
        tasks: number of tasks.
        seed: the run's seed.
        step: an integer scalar.
    """
    seeds = tf.stack([tf.constant(seed, tf.int64), tf.cast(step, tf.int64)])
    return tasks * tf.nn.softmax(tf.random.stateless_normal([tasks], seeds, alg="philox"))


@BALANCES.register("random")
class Random(Balance):
    """Lin et al., "Reasonable effectiveness of random weighting: a litmus test for multi-task
    learning" (RLW), TMLR 2022.

    The factors depend only on the seed and the number of the step, so they are the same on all
    devices and after a restart. Departure: they are 1 on average, the paper's ``1 / T``; so
    regularizer and ensemble, which the paper does not have, weigh as much as with other balances.
    """

    paper = "Lin et al., TMLR 2022, arXiv 2111.10603"

    def build(self, tasks: int, seed: int) -> Weighting:
        return RandomWeighting(tasks, seed)


class RandomWeighting(Weighting):
    """Holds the factors of the last step."""

    def __init__(self, tasks: int, seed: int, **arguments: Any):
        super().__init__(tasks, **arguments)
        self._seed = seed
        self.last = self.state("factors", (tasks,), "ones")

    def factors(self, losses: tf.Tensor, step: Step) -> tf.Tensor:
        drawn = random_factors(self.tasks, self._seed, step.number)
        self.last.assign(drawn)
        return drawn

    def current(self) -> tf.Tensor:
        return tf.convert_to_tensor(self.last.value)
