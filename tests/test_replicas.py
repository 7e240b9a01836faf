"""Sums and batches over replicas: two and four virtual CPUs, a process each."""

import functools
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import replicas
from tests.warm_python import warm_python

ROOT = Path(__file__).parents[1]
SCRIPT = """
import json
import sys

import numpy as np
import tensorflow as tf

import replicas
from experiment.run import devices
from tests.virtual_devices import split_cpu

cases = json.loads(sys.argv[1])
split_cpu(len(cases[0]))
strategy = devices.strategy("mirrored")
names = "whole gradient total given weight counted".split()


def step(own):
    with tf.GradientTape() as tape:
        tape.watch(own)
        whole = replicas.gather(own)
        # Of one's own rows twice: the gradient adds up.
        loss = tf.reduce_sum(tf.matmul(whole, whole, transpose_b=True) ** 3) / replicas.count()
        loss += tf.reduce_sum(own**2)
    (gradient,) = [tape.gradient(loss, own)]
    total, nothing = replicas.global_sum_present([tf.reduce_sum(own, axis=0), None])
    assert nothing is None
    given, weight = replicas.never_empty({"x": own})
    counted = replicas.global_sum(weight * tf.reduce_sum(given["x"], axis=0))
    return whole, gradient, total, given["x"], weight, counted


def found(sizes):
    starts = np.cumsum([0, *sizes])
    x = np.random.default_rng(0).normal(size=(starts[-1], 3)).astype("float32")

    def part(context):
        i = context.replica_id_in_sync_group
        return tf.constant(x[starts[i]:starts[i + 1]])

    own = strategy.experimental_distribute_values_from_function(part)
    values = tf.function(lambda: strategy.run(step, args=(own,)))()
    local = map(strategy.experimental_local_results, values)
    return dict(zip(names, ([each.numpy().tolist() for each in v] for v in local)))


print(json.dumps([found(sizes) for sizes in cases]))
"""


CASES = {2: [(3, 2)], 4: [(2, 1, 2, 1), (1, 0, 2, 0)]}


@functools.cache
def found_with(count):
    """What a process finds in the cases of so many replicas; it has to import TensorFlow first."""
    command = [warm_python(), "-c", SCRIPT, json.dumps(CASES[count])]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("sizes", [sizes for cases in CASES.values() for sizes in cases])
def test_sums_and_gathered_batches(sizes):
    cases = CASES[len(sizes)]
    found = found_with(len(sizes))[cases.index(sizes)]
    starts = np.cumsum([0, *sizes])
    x = np.random.default_rng(0).normal(size=(starts[-1], 3)).astype("float32")
    gradient = 6 * (x @ x.T) ** 2 @ x + 2 * x
    for i in range(len(sizes)):
        own = slice(starts[i], starts[i + 1])
        np.testing.assert_allclose(found["whole"][i], x, rtol=1e-6)
        np.testing.assert_allclose(found["total"][i], x.sum(axis=0), rtol=1e-5)
        np.testing.assert_allclose(found["counted"][i], x.sum(axis=0), rtol=1e-5)
        slope = np.reshape(found["gradient"][i], (-1, 3))
        np.testing.assert_allclose(slope, gradient[own], rtol=1e-4)
        given = x if 0 in sizes else x[own]
        np.testing.assert_allclose(found["given"][i], given, rtol=1e-6)
        assert found["weight"][i] == (1 / len(sizes) if 0 in sizes else 1)


def test_alone_each_gives_back_what_it_was_given():
    x = tf.constant([[1.0, 2.0]])
    assert replicas.count() == 1
    assert replicas.gather(x) is x
    np.testing.assert_array_equal(replicas.global_sum([x])[0], x)
    given, weight = replicas.never_empty({"x": x})
    assert given["x"] is x and float(weight) == 1
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(replicas.global_sum(x))
    assert tape.gradient(total, x) is None
