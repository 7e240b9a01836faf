import keras
import numpy as np
import pytest
import tensorflow as tf

import nets
import pretext
from nets.copying import global_policy
from op_util import temporal_ensemble
from pretext.balance import Weighting
from pretext.batch import Batch, Use, as_batch, draws
from pretext.ensemble import EnsembleState
from pretext.model import WIDTH, MultiTask, map_model, metric_name
from pretext.registration import create_tasks
from pretext.task import Images
from registry import UserError
from tests.pretext.models import SHAPE, TASKS, batches, encoder, images, multi_task, weights

COUNT = 12


def one_batch(count=COUNT):
    return Batch(tf.constant(images(count)), tf.range(count, dtype=tf.int64))


def encoder_gradients(model, loss_of):
    """Gradients of ``loss_of(results)`` on the encoder's variables, as one vector."""
    with tf.GradientTape() as tape:
        loss = loss_of(model.run_tasks(one_batch(), Use.TRAINING))
    variables = model.network.trainable_variables
    gradients = tape.gradient(loss, variables, unconnected_gradients="zero")
    return np.concatenate([np.ravel(gradient) for gradient in gradients])


def features(model):
    return model(images(COUNT)).numpy()


def step(model, data=None, rate=0.1, epoch=0):
    """One step of plain gradient descent."""
    model.compile(keras.optimizers.SGD(rate), run_eagerly=True)
    model.epoch.assign(epoch)
    data = data or {"image": tf.constant(images(COUNT)), "index": tf.range(COUNT, dtype=tf.int64)}
    return {name: float(value) for name, value in model.train_step(data).items()}


def test_a_replica_without_images_has_no_say_in_what_is_logged():
    model = multi_task()
    model.compile(run_eagerly=True)
    losses, name = tf.ones(len(model.tasks)), metric_name(model.tasks[0])
    terms = model.task_terms(model.run_tasks(one_batch(), Use.HELD_OUT))
    model._log(losses, {name: tf.constant(0.25)}, terms)
    none = terms._replace(local=tf.constant(0.0), local_by_task=0 * terms.local_by_task)
    logged = model._log(losses, {name: tf.constant(np.nan)}, none)
    assert float(logged[name]) == 0.25


@pytest.mark.parametrize("given", [None, [], keras.callbacks.Callback()])
def test_callbacks_as_keras_takes_them(given):
    model = multi_task(balance="none", regularizer="none")
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    history = model.fit(batches(COUNT, 4), epochs=1, verbose=0, callbacks=given)
    assert np.isfinite(history.history["loss"]).all()


# What is trained


def test_the_gradient_of_the_plain_sum_is_the_sum_of_the_single_tasks_gradients():
    """Each task alone, in a model of its own with the same encoder, views and heads, its views
    passed through the network one by one. Without batch normalisation, which couples views."""
    own = encoder(normalised=False)
    whole = multi_task(own_encoder=own, balance="none", regularizer="none")
    together = encoder_gradients(
        whole, lambda results: tf.reduce_sum(whole.task_terms(results).losses)
    )
    alone = np.zeros_like(together)
    values = []
    for task, part in zip(whole.tasks, whole.parts, strict=True):
        uniform = draws(task.name, Use.TRAINING, 0, 0, tf.range(COUNT), part.views.draws)
        views, target = part.views(tf.constant(images(COUNT), tf.float32) / 255, uniform)
        network = map_model(own, part.views.shape, "rotation")
        with tf.GradientTape() as tape:
            maps = [network((255 * view - 120) / 60) for view in views]
            loss = task.loss(part.predict(part.embed(maps)), target)
        gradients = tape.gradient(loss, whole.network.trainable_variables)
        alone += np.concatenate([np.ravel(gradient) for gradient in gradients])
        values.append(float(loss))
    assert np.linalg.norm(alone) > 0.1
    np.testing.assert_allclose(together, alone, atol=1e-5 * np.abs(alone).max())
    logged = step(whole)
    assert [logged[f"{name}_loss"] for name in TASKS] == pytest.approx(values, rel=1e-5)


def test_a_single_task_is_what_it_is_in_company():
    """The same encoder, views and loss, whichever other tasks there are."""
    found = {}
    for names in (TASKS, ("rotation",), ("instance", "rotation")):
        model = multi_task(
            names, own_encoder=encoder(normalised=False), regularizer="none", balance="none"
        )
        results = model.run_tasks(one_batch(), Use.TRAINING)
        place = names.index("rotation")
        found[names] = results.inputs[place][0].numpy(), results.targets[place].numpy()
    for views, turns in found.values():
        np.testing.assert_array_equal(views, found[TASKS][0])
        np.testing.assert_array_equal(turns, found[TASKS][1])


def test_the_total_is_what_its_parts_say():
    model = multi_task(
        memory_of=COUNT, regularizer_weight=0.7, ensemble_weight=2.0, ramp_epochs=4.0,
        balance="scale",
    )
    for epoch in range(3):
        logs = step(model, rate=1e-3, epoch=epoch)
        for metric in model.metrics:
            metric.reset_state()
        factors = model.balance.current().numpy()
        total = sum(f * logs[f"{name}_loss"] for f, name in zip(factors, TASKS, strict=True))
        weight = 0 if epoch == 0 else 2 * np.exp(-5 * (1 - epoch / 4) ** 2)
        total += 0.7 * logs["regularizer_loss"] + weight * logs["ensemble_loss"]
        assert logs["loss"] == pytest.approx(total, rel=1e-5)
        if epoch == 0:  # each loss divided by its mean, which is itself
            total -= 0.7 * logs["regularizer_loss"]
            assert total == pytest.approx(len(TASKS), rel=1e-5)


def regularizer_of(model):
    return lambda results: model.regularizer(results.embeddings)


def ensemble_of(model, at_least_known=COUNT):
    def loss(results):
        index = one_batch().index
        ensemble, known = model.ensemble.memory.read(index)
        assert int(tf.reduce_sum(tf.cast(known, tf.int32))) >= at_least_known
        return temporal_ensemble.contrastive_loss(results.embeddings, ensemble, known, index, 0.1)

    return loss


@pytest.mark.parametrize("regularizer", ["triplet", "relational"])
def test_the_regularizer_reaches_the_encoder(regularizer):
    model = multi_task(regularizer=regularizer)
    assert np.linalg.norm(encoder_gradients(model, regularizer_of(model))) > 1e-3


def test_the_ensemble_reaches_the_encoder():
    model = multi_task(regularizer="none", memory_of=COUNT)
    embeddings = model.run_tasks(one_batch(), Use.MEASURING).embeddings
    model.ensemble.memory.update(one_batch().index, embeddings)
    assert np.linalg.norm(encoder_gradients(model, ensemble_of(model))) > 1e-3


class Silent(Weighting):
    """Leaves the tasks' losses out of the total."""

    def factors(self, losses, step):
        return tf.zeros([self.tasks])


@pytest.mark.parametrize("part", ["regularizer", "ensemble"])
def test_a_step_on_regularizer_or_ensemble_alone_changes_features(part):
    memory_of = COUNT if part == "ensemble" else 0
    model = multi_task(
        regularizer="triplet" if part == "regularizer" else "none", memory_of=memory_of,
        weight_decay=0.0, ensemble_weight=1.0,
    )
    model.balance = Silent(len(TASKS))
    if memory_of:  # of other views, so that something is left to learn
        embeddings = model.run_tasks(one_batch(), Use.MEASURING).embeddings
        model.ensemble.memory.update(one_batch().index, embeddings)
    before = features(model)
    heads = [np.array(v) for v in model.parts[1].head.trainable_variables]
    step(model, epoch=1)
    assert np.abs(features(model) - before).max() > 1e-4 * np.abs(before).max()
    for now, old in zip(model.parts[1].head.trainable_variables, heads, strict=True):
        np.testing.assert_array_equal(now, old)  # no task's head took part


def test_without_anything_to_learn_nothing_changes():
    model = multi_task(regularizer="none", weight_decay=0.0, own_encoder=encoder(normalised=False))
    model.balance = Silent(len(TASKS))
    before = weights(model.network)
    step(model, epoch=1)
    np.testing.assert_array_equal(weights(model.network), before)


def test_the_memory_is_read_before_it_is_updated_and_found_by_index():
    model = multi_task(regularizer="none", memory_of=40, ensemble_weight=1.0)
    index = np.array([31, 4, 7, 31], np.int64)
    picture = images(40)[index]
    for epoch, known in ((0, False), (1, True)):
        logs = step(model, {"image": tf.constant(picture), "index": tf.constant(index)}, 1e-6,
                    epoch)
        assert (logs["ensemble_distance"] > 0) == known
    times = np.zeros(40)
    times[[31, 4, 7]] = 2
    np.testing.assert_array_equal(model.ensemble.memory.updates, times)


def test_weight_decay_is_of_kernels_that_a_loss_reaches():
    decayed, plain = (
        multi_task(own_encoder=encoder(normalised=False), weight_decay=decay, regularizer="none")
        for decay in (0.5, 0.0)
    )
    for model in (decayed, plain):
        first = {v.path: np.array(v) for v in model.trainable_variables}
        step(model, rate=1e-2)
        model.moved = [np.array(v) - first[v.path] for v in model.trainable_variables]
    for variable, with_decay, without in zip(
        plain.trainable_variables, decayed.moved, plain.moved, strict=True
    ):
        is_kernel = variable.path.endswith("kernel")
        is_reached = not variable.path.startswith("projection")
        extra = with_decay - without
        assert (np.abs(extra).max() > 1e-5) == (is_kernel and is_reached), variable.path


def test_the_encoders_own_regularizers_are_part_of_the_loss():
    """Those of a person's own encoder, as in distillation those of the student."""
    def step_of(factor):
        own = encoder(normalised=False)
        kernel = next(v for v in own.model.trainable_variables if v.path.endswith("kernel"))
        kernel.regularizer = keras.regularizers.L2(factor)
        before = np.array(kernel)
        logs = step(multi_task(own_encoder=own, regularizer="none"), rate=1e-2)
        return before, np.array(kernel), logs["loss"]

    before, plain, loss = step_of(0.0)
    again, regularized, with_own = step_of(0.5)
    np.testing.assert_array_equal(again, before)
    np.testing.assert_allclose(regularized, plain - 1e-2 * 2 * 0.5 * before, atol=1e-6)
    assert with_own == pytest.approx(loss + 0.5 * np.sum(before**2), rel=1e-4)


# What is judged


def test_evaluating_changes_nothing_and_says_the_same_each_time():
    model = multi_task(memory_of=COUNT, average_decay=0.5)
    model.compile(keras.optimizers.SGD(0.05))
    model.fit(batches(COUNT, 5), epochs=1, verbose=0, shuffle=False)
    before = weights(model)
    logs = [model.evaluate(batches(COUNT, 5), return_dict=True, verbose=0) for _ in range(2)]
    np.testing.assert_array_equal(weights(model)[: len(before)], before)
    assert logs[0] == logs[1]
    assert set(logs[0]) == {f"{name}_loss" for name in TASKS} | {
        metric_name(task) for task in model.tasks
    }


def test_views_are_new_in_each_epoch_but_not_the_held_out_ones():
    model = multi_task()
    seen = {use: [] for use in (Use.TRAINING, Use.HELD_OUT)}
    for epoch in range(2):
        model.epoch.assign(epoch)
        for use, views in seen.items():
            views.append(model.run_tasks(one_batch(), use).inputs[0][0].numpy())
    assert np.abs(seen[Use.TRAINING][0] - seen[Use.TRAINING][1]).max() > 0.1
    np.testing.assert_array_equal(*seen[Use.HELD_OUT])
    assert np.abs(seen[Use.TRAINING][0] - seen[Use.HELD_OUT][0]).max() > 0.1


def test_the_average_of_weights_is_what_is_judged_and_given():
    """Of plain descent with decay 0.5, by hand: the mean at first, then half and half."""
    model = multi_task(own_encoder=encoder(normalised=False), regularizer="none", average_decay=0.5)
    model.compile(keras.optimizers.SGD(0.1))
    average = None
    for steps in range(4):
        model.fit(batches(COUNT, COUNT), epochs=1, verbose=0, shuffle=False)
        now = weights(model.network)
        decay = min(0.5, 1 - 1 / (steps + 1))
        average = now if average is None else decay * average + (1 - decay) * now
    given = weights(model.trained_encoder().model)
    np.testing.assert_allclose(given, average, rtol=1e-5, atol=1e-7)
    assert np.abs(given - weights(model.network)).max() > 1e-4
    judged = model.evaluate(batches(COUNT, 5), return_dict=True, verbose=0)
    with model.ensemble.applied():
        by_hand = model.evaluate(batches(COUNT, 5), return_dict=True, verbose=0)
    model.ensemble = EnsembleState()
    own = model.evaluate(batches(COUNT, 5), return_dict=True, verbose=0)
    assert judged == by_hand and judged != own


def test_calling_gives_the_embedding_of_raw_images():
    own = encoder()
    model = multi_task(own_encoder=own)
    standard = (images(3).astype(np.float32) - 120) / 60
    expected = own.model(standard, training=False)["embedding"]
    np.testing.assert_allclose(model(images(3)), expected, rtol=1e-5)


# What else may be


def test_labels_are_never_looked_at():
    losses = []
    for label in (0, 1):
        model = multi_task(("rotation", "instance"))
        data = batches(COUNT, 5).map(
            lambda batch, label=label: {**batch, "label": tf.fill(tf.shape(batch["index"]), label)}
        )
        model.compile(keras.optimizers.SGD(0.05), run_eagerly=True)
        losses.append(model.fit(data, epochs=1, verbose=0, shuffle=False).history["loss"])
    assert losses[0] == losses[1]


def test_each_weight_is_in_the_model_once():
    model = multi_task(memory_of=COUNT)
    assert len({id(v) for v in model.variables}) == len(model.variables)
    heads = [v for layer in model.task_layers for v in layer.trainable_variables]
    expected = [*model.network.trainable_variables, *heads, model.projection.kernel]
    assert {id(v) for v in model.trainable_variables} == {id(v) for v in expected}
    assert model.ensemble.memory.memory.shape == (COUNT, len(TASKS), WIDTH)
    assert any(v is model.ensemble.memory.memory for v in model.variables)


@pytest.mark.parametrize("shape", [(28, 28, 1), (48, 64, 3)])
def test_grey_and_oblong_images(shape):
    model = multi_task(own_encoder=encoder(shape=shape), memory_of=6)
    model.compile(keras.optimizers.SGD(0.01), run_eagerly=True)
    logs = model.fit(batches(6, 4, shape=shape), epochs=2, verbose=0, shuffle=False).history
    assert np.all(np.isfinite([*logs.values()]))
    grid = 3 if min(shape[:2]) >= 48 else 2
    assert model.parts[2].views.count == grid**2


def test_all_tasks_at_once():
    names = pretext.TASKS.names()
    assert {"inpainting", "colorization", *TASKS} < set(names)
    model = multi_task(names)
    model.compile(keras.optimizers.SGD(0.01))
    logs = model.fit(batches(COUNT, 5), epochs=1, verbose=0, shuffle=False).history
    assert np.all(np.isfinite([*logs.values()]))


def test_bfloat16_is_finite_and_embeddings_are_float32():
    with global_policy("mixed_bfloat16"):
        model = multi_task(memory_of=COUNT, ensemble_weight=1.0)
        model.compile(keras.optimizers.Adam(1e-3))
        logs = model.fit(batches(COUNT, 5), epochs=3, verbose=0, shuffle=False).history
    assert np.all(np.isfinite([*logs.values()])) and np.all(np.isfinite(weights(model)))
    assert model.run_tasks(one_batch(), Use.TRAINING).embeddings.dtype == tf.float32
    assert model.network.layers[1].compute_dtype == "bfloat16"


@pytest.mark.slow
def test_compiled_by_xla_it_is_the_same():
    found = []
    for compiled in (False, True):
        model = multi_task(memory_of=COUNT, own_encoder=encoder(normalised=False))
        model.compile(keras.optimizers.SGD(0.05), jit_compile=compiled)
        model.fit(batches(COUNT, 6), epochs=2, verbose=0, shuffle=False)
        found.append(weights(model.network))
    np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-5)


def test_an_encoder_that_cannot_take_tiles_is_told():
    image = keras.Input(SHAPE)
    maps = keras.layers.Flatten()(image)
    maps = keras.layers.Reshape((5, 5, 4))(keras.layers.Dense(100)(maps))
    own = nets.encoder_of(keras.Model(image, maps), nets.Standardize((0.0,) * 3, (1.0,) * 3))
    with pytest.raises(UserError, match="takes images of 20x20x3 and cannot take.*9x9x3.*jigsaw"):
        multi_task(own_encoder=own)
    multi_task(("rotation", "instance"), own_encoder=own)


def test_the_task_whose_views_do_not_fit_is_named():
    image = keras.Input(SHAPE)
    maps = keras.layers.Reshape((5, 5, 4))(keras.layers.Dense(100)(keras.layers.Flatten()(image)))
    own = nets.encoder_of(keras.Model(image, maps), nets.Standardize((0.0,) * 3, (1.0,) * 3))
    larger = Images((40, 30, 3))
    with pytest.raises(UserError, match="cannot take the views of rotation, .*leave rotation out"):
        MultiTask(own, create_tasks("rotation"), larger)


def test_a_frozen_encoder_drops_nothing_out():
    image = keras.Input(SHAPE)
    maps = keras.layers.Conv2D(4, 3, strides=4)(image)
    maps = keras.layers.SpatialDropout2D(0.5)(maps)
    own = nets.encoder_of(keras.Model(image, maps), nets.Standardize((0.0,) * 3, (255.0,) * 3))
    found = {}
    for learns in (True, False):
        own.model.trainable = learns
        model = multi_task(("rotation",), own_encoder=own, regularizer="none")
        given = tf.random.stateless_uniform((8, *SHAPE), seed=(1, 2))
        (network,) = model._maps.value.values()
        found[learns] = [model._pass(network, given).numpy() for _ in range(2)]
        expected = network(model._standardize(255 * given), training=False)
    np.testing.assert_array_equal(*found[False])
    np.testing.assert_array_equal(found[False][0], expected)
    assert (found[True][0] == 0).any() and (found[True][0] != found[True][1]).any()


def test_batches_without_an_index_are_refused():
    for data in (images(2), {"image": images(2)}):
        with pytest.raises(UserError, match="'index'"):
            as_batch(data)


def test_gradnorm_measures_before_the_first_step_and_then_from_time_to_time():
    model = multi_task(balance="gradnorm(interval=2,rate=0.5)", sample=one_batch(6))
    calls, original = [], model.balance.measured
    model.balance.measured = lambda norms, losses: (
        calls.append(int(model.optimizer.iterations)), original(norms, losses)
    )
    model.compile(keras.optimizers.SGD(0.05), run_eagerly=True)
    model.fit(batches(COUNT, 4), epochs=2, verbose=0, shuffle=False)
    assert calls == [0, 2, 4, 6]
    factors = model.balance.current().numpy()
    assert factors.sum() == pytest.approx(len(TASKS), rel=1e-4) and np.ptp(factors) > 0.1


def test_a_tasks_own_weight_multiplies_its_loss_in_the_total():
    logs = {}
    for weight in (1.0, 0.4):
        names = ("instance", f"rotation(weight={weight})")
        logs[weight] = step(multi_task(names, balance="none", regularizer="none"), rate=0.0)
    assert logs[1.0]["rotation_loss"] == pytest.approx(logs[0.4]["rotation_loss"], rel=1e-6)
    lost = logs[1.0]["loss"] - logs[0.4]["loss"]
    assert lost == pytest.approx(0.6 * logs[1.0]["rotation_loss"], rel=1e-4)


def test_adam_leaves_bit_for_bit_what_no_loss_reaches():
    model = multi_task(("rotation", "jigsaw"), regularizer="none", weight_decay=0.1)
    before = np.array(model.projection.kernel).tobytes()
    model.compile(keras.optimizers.Adam(0.01), run_eagerly=True)
    model.fit(batches(COUNT, 4), epochs=2, verbose=0, shuffle=False)
    assert np.array(model.projection.kernel).tobytes() == before


def test_losses_and_metrics_given_to_compile_are_refused():
    model = multi_task()
    for losses in ({"loss": "mse"}, {"metrics": ["accuracy"]}, {"weighted_metrics": ["mse"]}):
        (name,) = losses
        with pytest.raises(UserError, match=f"compile got {name}, but a MultiTask .* give tasks"):
            model.compile(**losses)
    with pytest.raises(UserError, match="compile got loss"):
        model.compile("adam", "mse")
