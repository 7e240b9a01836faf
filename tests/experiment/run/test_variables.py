"""Variables of several workers, read and restored; two threads are the workers."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tensorflow as tf

from experiment.run.links import meet
from experiment.run.variables import read_all, restore
from experiment.run.workers import Team
from tests.worker_processes import free_addresses


def by_two_workers(function):
    """What ``function(team)`` returns in each of them."""
    addresses = free_addresses(2)

    def work(index):
        team = Team(addresses, index, meet(addresses, index, 10, "start again"))
        try:
            return function(team)
        finally:
            team.leave()

    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(work, range(2)))


def variables(same, total, own):
    on_read = tf.VariableSynchronization.ON_READ  # as metrics have it
    return {
        "same": tf.Variable([same, same]), "total": tf.Variable(total, synchronization=on_read),
        "own": tf.Variable([[own]], dtype=tf.bfloat16),
    }


def values(of):
    return [np.ravel(variable.numpy()).astype(float).tolist() for variable in of.values()]


def test_all_get_the_parts_in_which_workers_differ():
    """And those of sums in any case: equal ones are two as well."""
    for arrays in by_two_workers(lambda team: read_all(variables(1.0, 5.0, team.index), team)):
        assert sorted(arrays) == ["own", "own@1", "same", "total", "total@1"]
        assert [float(arrays[name].item()) for name in ("own", "own@1")] == [0, 1]
        assert arrays["own@1"].shape == (1, 1) and arrays["own@1"].dtype == tf.bfloat16
        assert [float(arrays[name]) for name in ("total", "total@1")] == [5, 5]


def test_each_gets_its_own_part_back():
    def train_and_resume(team):
        saved = read_all(variables(1.0, 5.0, team.index), team)
        resumed = variables(0.0, 0.0, 9)
        restore(resumed, saved, "model", team)
        return values(resumed), saved

    (first, saved), (second, _) = by_two_workers(train_and_resume)
    assert first == [[1, 1], [5], [0]] and second == [[1, 1], [5], [1]]
    alone = variables(0.0, 0.0, 9)
    restore(alone, saved, "model")
    assert values(alone) == [[1, 1], [10], [0]]  # a process by itself has the whole sum


def test_workers_take_up_what_one_process_saved():
    saved = read_all(variables(1.0, 5.0, 3))

    def resume(team):
        resumed = variables(0.0, 0.0, 9)
        restore(resumed, saved, "model", team)
        return values(resumed)

    assert by_two_workers(resume) == [[[1, 1], [5], [3]], [[1, 1], [0], [3]]]
