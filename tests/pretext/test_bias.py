import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import nets
from pretext.batch import Batch, Use
from pretext.bias import BiasLog, retrained_heads, spread_of, task_bias
from pretext.measurement import Measurement
from pretext.model import WIDTH
from pretext.registration import create_tasks
from pretext.task import Images
from tests.pretext.models import SHAPE, TASKS, batches, encoder, images, multi_task, weights

COUNT = 12


def sample(count=COUNT):
    return Batch(tf.constant(images(count)), tf.range(count, dtype=tf.int64))


def test_gradients_are_those_of_each_loss_by_itself_and_measuring_them_changes_nothing():
    model = multi_task(memory_of=COUNT)
    before = weights(model)
    found = Measurement(model, sample())()
    np.testing.assert_array_equal(weights(model), before)
    gradients, losses = [], []
    for place in range(len(TASKS)):
        with model.unchanged(), tf.GradientTape() as tape:
            loss = model.task_terms(model.run_tasks(sample(), Use.MEASURING)).losses[place]
        parts = tape.gradient(loss, model.network.trainable_variables)
        gradients.append(np.concatenate([np.ravel(part) for part in parts]))
        losses.append(float(loss))
    norms = [np.linalg.norm(gradient) for gradient in gradients]
    np.testing.assert_allclose(found.losses, losses, rtol=1e-5)
    np.testing.assert_allclose(found.norms, norms, rtol=1e-4)
    for a, b in np.ndindex(len(TASKS), len(TASKS)):
        expected = gradients[a] @ gradients[b] / (norms[a] * norms[b])
        np.testing.assert_allclose(found.cosines[a, b], expected, atol=1e-4)


def test_a_task_that_does_not_pull_has_no_cosine():
    model = multi_task(("rotation", "instance"))
    for layer in (model.parts[0].neck, model.parts[0].head):
        for variable in layer.trainable_variables:
            variable.assign(tf.zeros_like(variable))
    found = Measurement(model, sample())()
    assert found.norms[0] == 0 and found.norms[1] > 0
    np.testing.assert_array_equal(found.cosines, [[0, 0], [0, found.cosines[1, 1]]])


def test_spread_of_embeddings():
    random = np.random.default_rng(0)
    even = random.normal(size=(500, WIDTH))
    even /= np.linalg.norm(even, axis=1, keepdims=True)
    line = np.zeros((500, WIDTH))
    line[:, 0] = np.where(np.arange(500) % 2, 1.0, -1.0)
    point = np.broadcast_to(even[0], even.shape)
    embeddings = np.stack([even, line, point], axis=1).astype(np.float32)
    found = spread_of(tf.constant(embeddings))
    np.testing.assert_allclose(
        found["deviation"], [1, math.sqrt(WIDTH) / WIDTH, 0], atol=0.02
    )
    assert found["effective_rank"][0] > 0.9 * WIDTH
    np.testing.assert_allclose(found["effective_rank"][1:], [1, 0], atol=0.01)


def test_each_epochs_logs_have_it_all(eagerly):
    names = ("rotation", "jigsaw", "instance")
    model = multi_task(names, memory_of=COUNT, ensemble_weight=0.5, ramp_epochs=2.0)
    model.compile(keras.optimizers.SGD(0.01))
    history = model.fit(
        batches(COUNT, 5), epochs=3, verbose=0, shuffle=False,
        callbacks=[BiasLog(model, sample())],
    ).history
    expected = {"ensemble_weight"}
    for a, name in enumerate(names):
        expected |= {
            f"{name}_{what}" for what in ("factor", "gradient_norm", "deviation", "effective_rank")
        }
        expected |= {f"cosine_{name}_{other}" for other in names[a + 1 :]}
    assert expected < set(history) and all(len(history[key]) == 3 for key in expected)
    np.testing.assert_allclose(
        history["ensemble_weight"], [0, 0.5 * math.exp(-1.25), 0.5], rtol=1e-5
    )
    found = Measurement(model, sample())()
    factors = model.balance.current()
    last = [history[f"{name}_gradient_norm"][-1] for name in names]
    np.testing.assert_allclose(last, factors * found.norms, rtol=1e-4)
    assert history["cosine_rotation_jigsaw"][-1] == pytest.approx(
        float(found.cosines[0, 1]), abs=1e-4
    )


def test_collapse_is_told_when_it_begins(capsys):
    model = multi_task(("rotation", "instance"))
    spread = tf.identity(model.projection.kernel)
    # One direction for all: whatever h is, e is +1 or -1 times it.
    one_place = tf.one_hot([0], WIDTH) + tf.zeros([WIDTH, 1])
    log = BiasLog(model, sample())
    for epoch, kernel in enumerate([one_place, one_place, spread, one_place]):
        model.projection.kernel.assign(kernel)
        logs = {}
        log.on_epoch_end(epoch, logs)
    out, err = capsys.readouterr()
    assert out == ""
    # TensorFlow may have its own to say there, of functions that are traced anew.
    first, second = (line for line in err.splitlines() if line.startswith("warning: "))
    told = "embeddings have collapsed, or are not spread yet: rotation (deviation"
    assert first.startswith(f"warning: after epoch 1 {told}")
    assert second.startswith(f"warning: after epoch 4 {told}")
    assert "instance (" in err and logs["rotation_effective_rank"] < 1.1


def test_heads_are_trained_anew_on_a_frozen_encoder():
    own = encoder(normalised=True)
    before = weights(own.model)
    figures = [
        retrained_heads(
            own, create_tasks("rotation,reconstruction"), Images(SHAPE),
            batches(COUNT, 6), batches(8, 8), epochs=epochs, learning_rate=1e-2,
        )
        for epochs in (1, 40, 40)
    ]
    np.testing.assert_array_equal(weights(own.model), before)
    assert own.model.trainable
    assert set(figures[0]) == {"rotation", "reconstruction"}
    assert figures[1]["reconstruction"]["loss"] < 0.7 * figures[0]["reconstruction"]["loss"]
    assert figures[1] == figures[2]
    assert 0 <= figures[1]["rotation"]["metric"] <= 1


def test_heads_are_trained_on_the_batches_of_several_epochs():
    def figures(training, **options):
        return retrained_heads(
            encoder(normalised=True), create_tasks("reconstruction"), Images(SHAPE), training,
            batches(8, 8), epochs=2, learning_rate=1e-2, **options,
        )

    one, other = batches(COUNT, 6), batches(COUNT, 6, seed=1)
    expected = figures(one)
    assert figures(one.concatenate(one), steps_per_epoch=2) == expected
    assert figures(one.concatenate(other), steps_per_epoch=2) != expected


def test_an_encoder_that_lost_what_a_task_needs_is_biased():
    """One that sees the image against one that sees nothing: reconstruction is worse."""
    own = encoder(normalised=False)
    blind = nets.copy_encoder(own)
    for variable in blind.model.variables:
        variable.assign(tf.zeros_like(variable))
    seeing, unseeing = (
        retrained_heads(
            each, create_tasks("reconstruction"), Images(SHAPE), batches(8, 8), batches(8, 8),
            epochs=200, learning_rate=1e-2,
        )["reconstruction"]["loss"]
        for each in (own, blind)
    )
    assert task_bias(unseeing, seeing) > 0.2


def test_bias_is_the_relative_excess():
    assert task_bias(1.2, 0.8) == pytest.approx(0.5)
    assert task_bias(0.4, 0.4) == 0
    assert task_bias(0.0, 0.0) == 0 and task_bias(0.1, 0.0) == np.inf


def test_a_task_that_was_only_measured_gets_trained_heads_too():
    def loss(weight):
        found = retrained_heads(
            encoder(normalised=True), create_tasks(f"reconstruction(weight={weight})"),
            Images(SHAPE), batches(COUNT, 6), batches(8, 8), epochs=2,
        )
        return found["reconstruction"]["loss"]

    assert loss(0) == loss(1)
