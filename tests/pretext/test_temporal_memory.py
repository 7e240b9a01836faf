"""The temporal memory against loops in NumPy, and with the average of weights on two devices."""

import json
import os
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from pretext.temporal_memory import TemporalMemory, memory_bytes
from tests.warm_python import warm_python

ROOT = Path(__file__).parents[2]
IMAGES, TASKS, WIDTH, BATCH, DECAY = 11, 3, 4, 4, 0.6


def unit(*shape, seed=0):
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def batches(seed=0):
    """Three epochs of shuffled batches, the last one partial; in some an image comes again."""
    random = np.random.default_rng(seed)
    for epoch in range(3):
        order = random.permutation(IMAGES)
        for start in range(0, IMAGES, BATCH):
            index = order[start : start + BATCH]
            if (epoch + start) % 3 == 1:
                index = np.concatenate([index, index[:1], index[1:2], index[:1]])
            yield index, unit(len(index), TASKS, WIDTH, seed=random.integers(2**31))


class ByLoop:
    """The memory's definition, image by image and task by task, in float64."""

    def __init__(self):
        self.memory = {}
        self.times = {}

    def read(self, index):
        rows, known = np.zeros((len(index), WIDTH)), []
        for row, image in enumerate(index):
            n = self.times.get(image, 0)
            known.append(n > 0)
            if n:
                corrected = [self.memory[image, t] / (1 - DECAY**n) for t in range(TASKS)]
                mean = np.mean(corrected, axis=0)
                rows[row] = mean / np.linalg.norm(mean)
        return rows, known

    def update(self, index, e):
        for image in set(index.tolist()):
            for t in range(TASKS):
                now = np.mean([e[row, t] for row in np.flatnonzero(index == image)], axis=0)
                before = self.memory.get((image, t), np.zeros(WIDTH))
                self.memory[image, t] = DECAY * before + (1 - DECAY) * now
            self.times[image] = self.times.get(image, 0) + 1


@pytest.mark.parametrize(("storage", "tolerance"), [("float32", 1e-5), ("float16", 3e-3)])
@pytest.mark.parametrize("compiled", [False, True, "xla"])
def test_three_epochs_by_loop(storage, tolerance, compiled):
    memory, expected = TemporalMemory(IMAGES, TASKS, WIDTH, DECAY, storage), ByLoop()

    def step(index, e):
        found = memory.read(index)
        memory.update(index, e)
        return found

    if compiled:
        step = tf.function(step, reduce_retracing=True, jit_compile=compiled == "xla")
    new = repeats = 0
    for index, e in batches():
        rows, known = step(tf.constant(index), tf.constant(e))
        by_loop, seen = expected.read(index)
        np.testing.assert_array_equal(known, seen)
        np.testing.assert_allclose(rows, by_loop, atol=tolerance)
        assert rows.dtype == tf.float32
        expected.update(index, e)
        new += seen.count(False)
        repeats += len(index) - len(set(index.tolist()))
    assert new >= IMAGES and repeats
    for image in range(IMAGES):
        assert memory.updates.numpy()[image] == expected.times[image]
        for t in range(TASKS):
            found = keras.ops.convert_to_numpy(memory.memory)[image, t]
            np.testing.assert_allclose(found, expected.memory[image, t], atol=tolerance)


def test_no_gradient_goes_into_the_memory_and_it_trains_nothing():
    memory = TemporalMemory(IMAGES, TASKS, WIDTH)
    memory.update(tf.constant([1, 2]), tf.constant(unit(2, TASKS, WIDTH)))
    assert not memory.trainable_variables
    with tf.GradientTape() as tape:
        tape.watch(memory.memory.value)
        total = tf.reduce_sum(memory.read(tf.constant([1, 2]))[0])
    assert tape.gradient(total, memory.memory.value) is None


@pytest.mark.parametrize("storage", ["float32", "float16"])
def test_its_size_is_known_beforehand(storage):
    memory = TemporalMemory(100, TASKS, 128, storage=storage)
    held = sum(keras.ops.convert_to_numpy(variable).nbytes for variable in memory.variables)
    assert memory_bytes(100, TASKS, 128, storage) == held


def test_saved_and_restored(tmp_path):
    memory = TemporalMemory(IMAGES, TASKS, WIDTH, storage="float16")
    for index, e in batches():
        memory.update(tf.constant(index), tf.constant(e))
    path = tf.train.Checkpoint(memory=memory).save(str(tmp_path / "memory"))
    other = TemporalMemory(IMAGES, TASKS, WIDTH, storage="float16")
    tf.train.Checkpoint(memory=other).restore(path).assert_consumed()
    index = tf.range(IMAGES)
    np.testing.assert_array_equal(memory.read(index)[0], other.read(index)[0])
    np.testing.assert_array_equal(memory.updates, other.updates)


SCRIPT = """
import json

import numpy as np
import tensorflow as tf

import replicas
from experiment.run import devices
from pretext.temporal_memory import TemporalMemory
from pretext.weights_average import WeightsAverage
from tests.pretext.test_temporal_memory import DECAY, IMAGES, TASKS, WIDTH, batches
from tests.virtual_devices import split_cpu

split_cpu(2)
strategy = devices.strategy("mirrored")
with strategy.scope():
    memory = TemporalMemory(IMAGES, TASKS, WIDTH, DECAY)
    weight = tf.keras.Variable([1.0, 2.0])
    average = WeightsAverage([weight], 0.9)


def step(index, e):
    index, e = replicas.gather(index), replicas.gather(e)
    rows, known = memory.read(index)
    memory.update(index, e)
    average.update()
    return rows, known


run = tf.function(lambda *args: strategy.run(step, args=args), reduce_retracing=True)
reads = []
for index, e in batches():
    half = (len(index) + 1) // 2

    def part(x):
        def of(context):
            i = context.replica_id_in_sync_group
            return tf.constant(x[half * i : half * (i + 1)])
        return strategy.experimental_distribute_values_from_function(of)

    rows, known = run(part(index), part(e))
    first, second = (r.numpy() for r in strategy.experimental_local_results(rows))
    np.testing.assert_array_equal(first, second)
    reads.append(first.tolist())
    weight.assign_add([1.0, 1.0])
copies = [memory.memory.value, memory.updates.value, average.averages[0].value]
copies = [[c.numpy().tolist() for c in strategy.experimental_local_results(v)] for v in copies]
with average.applied():
    inside = [c.numpy().tolist() for c in strategy.experimental_local_results(weight.value)]
after = [c.numpy().tolist() for c in strategy.experimental_local_results(weight.value)]
print(json.dumps([reads, *copies, inside, after]))
"""


def test_two_replicas_have_one_memory_and_one_average():
    """Each sees a part of the batch, partly the same images; an image's row is found all the
    same."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [warm_python(), "-c", SCRIPT], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    reads, memory, updates, averages, inside, after = json.loads(done.stdout.splitlines()[-1])
    expected, steps = ByLoop(), 0
    for (index, e), rows in zip(batches(), reads, strict=True):
        np.testing.assert_allclose(rows, expected.read(index)[0], atol=1e-5)
        expected.update(index, e)
        steps += 1
    for copy in memory:
        for (image, t), row in expected.memory.items():
            np.testing.assert_allclose(copy[image][t], row, atol=1e-5)
    assert updates[0] == updates[1] == [expected.times[image] for image in range(IMAGES)]
    average = 0.0
    for n in range(steps):
        decay = min(0.9, 1 - 1 / (n + 1))
        average = decay * average + (1 - decay) * (1 + n)
    for copy in (*averages, *inside):
        np.testing.assert_allclose(copy, [average, average + 1], rtol=1e-5)
    assert after == [[1.0 + steps, 2.0 + steps]] * 2
