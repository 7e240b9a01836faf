"""Each image takes part in some tasks only: who takes part in which, and what that trains."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from experiment.run.variables import numbered, read_all, restore
from op_util.metric_learning import normalised
from pretext.batch import Batch, Use, draws
from pretext.model import map_model
from pretext.sharing import at_least_one, by_image, drawn_tasks, shares
from pretext.temporal_memory import TemporalMemory, memory_bytes
from registry import UserError
from tests.pretext.models import TASKS, batches, encoder, images, multi_task, weights

COUNT = 12


def test_all_subsets_are_equally_likely_and_depend_on_seed_epoch_and_index_alone():
    index = tf.range(6000, dtype=tf.int64)
    drawn = drawn_tasks(3, 1, index, 4, 2).numpy()
    subsets, times = np.unique(drawn, axis=0, return_counts=True)
    assert [tuple(subset) for subset in subsets] == list(itertools.combinations(range(4), 2))
    assert np.all(np.abs(times - 1000) < 5 * np.sqrt(1000))
    some = tf.constant([4000, 17, 5], tf.int64)
    np.testing.assert_array_equal(drawn_tasks(3, 1, some, 4, 2), drawn[some.numpy()])
    for other in ((4, 1), (3, 2)):
        assert np.mean(drawn_tasks(*other, index, 4, 2).numpy() == drawn) < 0.7


def test_shares_are_who_drew_a_task_and_the_first_image_stands_in_for_nobody():
    drawn = tf.constant([[0, 2], [2, 3], [0, 3]])
    found = shares(drawn, 4)
    assert [share.rows.numpy().tolist() for share in found] == [[0, 2], [0], [0, 1], [1, 2]]
    assert [int(share.count) for share in found] == [2, 0, 2, 2]
    vectors = [
        tf.constant([[100.0 * task + row] for row in share.rows.numpy()])
        for task, share in enumerate(found)
    ]
    rows = by_image(vectors, found, 2)[..., 0].numpy()
    np.testing.assert_array_equal(rows, [[0, 200], [201, 301], [2, 302]])


def test_nothing_becomes_one_row_of_zeros():
    np.testing.assert_array_equal(at_least_one(tf.ones([0, 2])), [[0, 0]])
    np.testing.assert_array_equal(at_least_one(tf.ones([2, 2])), np.ones([2, 2]))


def shared_model(per_image=1, **arguments):
    arguments = {"regularizer": "none", "balance": "none", **arguments}
    return multi_task(
        own_encoder=encoder(normalised=False), tasks_per_image=per_image, **arguments
    )


def alone(model, place, batch):
    """A task's loss and the vectors of its images, computed by itself."""
    part = model.parts[place]
    index = tf.convert_to_tensor(batch.index)
    uniform = draws(part.task.name, Use.TRAINING, 0, 0, index, part.views.draws)
    views, target = part.views(tf.cast(batch.image, tf.float32) / 255, uniform)
    network = map_model(model.encoder, part.views.shape, part.task.name)
    h = part.embed([network((255 * view - 120) / 60) for view in views])
    return float(part.task.loss(part.predict(h), target)), part.task.vector(h)


@pytest.mark.parametrize("per_image", [1, 2])
def test_a_tasks_loss_is_that_of_its_images_alone(per_image):
    model = shared_model(per_image)
    batch = Batch(tf.constant(images(COUNT)), tf.range(COUNT, dtype=tf.int64))
    results = model.run_tasks(batch, Use.TRAINING)
    drawn = drawn_tasks(0, 0, batch.index, len(TASKS), per_image).numpy()
    np.testing.assert_array_equal(results.drawn, drawn)
    terms = model.task_terms(results)
    embeddings = np.zeros([COUNT, per_image, 128])
    for place in range(len(TASKS)):
        rows, slots = np.nonzero(drawn == place)
        loss, vectors = alone(model, place, Batch(*(tf.gather(each, rows) for each in batch)))
        assert float(terms.losses[place]) == pytest.approx(loss, rel=1e-4)
        embeddings[rows, slots] = normalised(vectors @ model.projection.kernel.value)
    np.testing.assert_allclose(results.embeddings, embeddings, atol=1e-4)
    np.testing.assert_array_equal(
        terms.samples_by_task, [np.sum(drawn == place) for place in range(len(TASKS))]
    )


def test_a_batch_of_one_image_trains_by_one_task():
    model = shared_model(memory_of=COUNT)
    model.compile(keras.optimizers.SGD(0.1))
    for index in range(4):
        picture = {"image": images(COUNT)[index:][:1], "index": np.array([index])}
        logs = model.train_step({key: tf.constant(value) for key, value in picture.items()})
        assert all(np.isfinite(float(value)) for value in logs.values())
    assert np.all(np.isfinite(weights(model)))


def test_the_memory_counts_for_each_task():
    memory = TemporalMemory(3, 2, 4, decay=0.5, shared=True)
    one, other = (normalised(tf.constant([[1.0, 2, 3, 4]]) * sign) for sign in ([1], [1, 1, -1, 1]))
    memory.update(tf.constant([1]), one[:, None], tf.constant([[0]]))
    read, known = memory.read(tf.constant([1, 2]))
    np.testing.assert_array_equal(known, [True, False])
    np.testing.assert_allclose(read[0], one[0], rtol=1e-5)
    memory.update(tf.constant([1]), one[:, None], tf.constant([[0]]))
    memory.update(tf.constant([1]), other[:, None], tf.constant([[1]]))
    np.testing.assert_array_equal(memory.updates, [[0, 0], [2, 1], [0, 0]])
    expected = one + other  # each corrected for how often it was updated
    expected /= np.linalg.norm(expected)
    np.testing.assert_allclose(memory.read(tf.constant([1]))[0], expected, rtol=1e-5)
    held = sum(v.numpy().nbytes for v in (memory.memory.value, memory.updates.value))
    assert memory_bytes(3, 2, 4, shared=True) == held


def test_over_the_epochs_every_task_fills_its_memory_and_resuming_is_exact():
    names = ("rotation", "instance")
    whole, resumed = (shared_model(memory_of=COUNT, names=names) for _ in range(2))
    for model in (whole, resumed):
        model.compile(keras.optimizers.Adam(1e-3), run_eagerly=True)  # faster than tracing
        model.optimizer.build(model.trainable_variables)

    def train(model, start, end):
        model.fit(batches(COUNT, 5), initial_epoch=start, epochs=end, verbose=0, shuffle=False)

    def state(model):
        return numbered([*model.variables, *model.optimizer.variables])

    train(whole, 0, 3)
    saved = read_all(state(whole))
    train(whole, 3, 6)
    restore(state(resumed), saved, "model")
    train(resumed, 3, 6)
    np.testing.assert_array_equal(weights(resumed), weights(whole))
    updates = whole.ensemble.memory.updates.numpy()
    assert updates.shape == (COUNT, 2) and np.all(updates.sum(axis=1) == 6)
    assert np.mean(updates > 0) > 0.9


@pytest.mark.parametrize(("arguments", "message"), [
    ({"tasks_per_image": 5}, "cannot take part in 5 of 4 tasks"),
    ({"tasks_per_image": 1, "regularizer": "triplet"}, "compares at least 2 tasks' embeddings"),
    ({"tasks_per_image": 3, "regularizer": "relational"}, "a task's embeddings of different im"),
])
def test_what_does_not_go_together_is_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        multi_task(**arguments)


def test_the_regularizer_is_between_an_images_own_tasks():
    model = shared_model(2, regularizer="triplet", memory_of=COUNT)
    model.compile(keras.optimizers.SGD(0.01), run_eagerly=True)
    (batch,) = batches(COUNT, COUNT)
    results = model.run_tasks(Batch(batch["image"], batch["index"]), Use.TRAINING)
    logs = model.train_step(batch)
    assert results.embeddings.shape == (COUNT, 2, 128)
    assert float(logs["regularizer_loss"]) == pytest.approx(
        float(model.regularizer(results.embeddings)), rel=1e-4
    )
