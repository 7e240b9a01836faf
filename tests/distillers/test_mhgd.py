"""MHGD against plain NumPy."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax, softmax

import distillers
from distillers import Combination, Context, Trains
from registry import UserError
from tests.distillers.harness import begin_stage, make_distiller, run_method_test
from tests.distillers.models import batch
from tests.reference import as_matrices, right_vectors

SHAPES = (5, 4, 6), (3, 4, 8), (7,)


def taps_of(seed, dtype=tf.float64, batch=6, shapes=SHAPES):
    random = np.random.default_rng(seed)
    maps = [np.maximum(random.normal(size=(batch, *shape)) + 0.2, 0) for shape in shapes]
    return [tf.constant(x, dtype) for x in maps]


def built(taps=None, **settings):
    taps = taps or taps_of(0)
    loss = distillers.get("MHGD")(**settings).build(taps, taps)
    random = np.random.default_rng(1)
    for layer in loss.layers:  # as after some training
        for variable in layer.weights:
            values = random.normal(size=variable.shape) * 0.5
            variable.assign(np.abs(values) + 0.2 if "variance" in variable.name else values)
    return loss


def nodes_of(teacher, student):
    """First vectors of the teacher's taps, the student's likest candidates with their signs."""
    theirs, ours = [], []
    for t, s in zip(map(as_matrices, teacher), map(as_matrices, student), strict=True):
        node = right_vectors(t, 1)[1][:, :, 0]
        tried = right_vectors(s, 4)[1]
        cosine = np.einsum("bd,bdc->bc", node, tried)
        best = np.abs(cosine).argmax(axis=1)
        rows = np.arange(len(node))
        theirs.append(node)
        ours.append(tried[rows, :, best] * np.sign(cosine[rows, best])[:, None])
    return theirs, ours


def normalised(x, layer, training):
    mean, variance = (
        (x.mean(axis=0), x.var(axis=0))
        if training
        else (np.asarray(layer.moving_mean), np.asarray(layer.moving_variance))
    )
    found = (x - mean) / np.sqrt(variance + layer.epsilon) * np.asarray(layer.gamma)
    return found if layer.beta is None else found + np.asarray(layer.beta)


def graph(layer, top, bottom, training):
    """``[heads, B, B]``, an inner product at a time."""
    keys, queries = (
        normalised(x @ np.asarray(dense.kernel), normalization, training)
        for x, dense, normalization in (
            (bottom, layer.key, layer.key_normalization),
            (top, layer.query, layer.query_normalization),
        )
    )
    found = np.empty((layer.heads, len(top), len(top)))
    for head, row, column in np.ndindex(found.shape):
        own = slice(head, None, layer.heads)
        found[head, row, column] = keys[row, own] @ queries[column, own]
    return found


def test_graph_loss_equals_numpy():
    teacher, student = taps_of(2), taps_of(3)
    loss = built(heads=3)
    theirs, ours = nodes_of(teacher, student)
    expected = 0.0
    for i, layer in enumerate(loss.layers):
        g_teacher, g_student = (
            log_softmax(np.tanh(graph(layer, nodes[i], nodes[i + 1], training=False)), axis=-1)
            for nodes in (theirs, ours)
        )
        expected += np.sum(np.exp(g_student) * (g_student - g_teacher))
    found = loss.compute_loss(teacher, student)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    np.testing.assert_allclose(loss.compute_loss(teacher, student, stage="train"), found)
    np.testing.assert_allclose(loss.compute_loss(teacher, teacher), 0, atol=1e-5)


def test_without_indices_too_each_batch_drops_heads_of_its_own():
    method = distillers.get("MHGD")(heads=8)
    one, other = (tf.constant(np.random.default_rng(seed).normal(size=(6, 5)), tf.float32)
                  for seed in (0, 1))
    kept = method._kept_heads(one, 2, None).numpy()
    assert kept.shape == (8, 6, 1) and set(np.unique(kept)) == {0.0, 1.0}
    np.testing.assert_array_equal(kept, method._kept_heads(one, 2, None))
    assert (kept != method._kept_heads(other, 2, None).numpy()).any()
    assert (kept != method._kept_heads(one, 3, None).numpy()).any()
    index = tf.range(6)
    known = method._kept_heads(one, 2, index).numpy()
    np.testing.assert_array_equal(known, method._kept_heads(other, 2, index))


@pytest.mark.parametrize("training", [False, True])
def test_estimation_loss_equals_numpy(training):
    teacher = taps_of(4)
    loss = built(heads=3, drop_heads=False)
    nodes, _ = nodes_of(teacher, teacher)
    expected = 0.0
    for layer, top, bottom in zip(loss.layers, nodes, nodes[1:], strict=False):
        attention = softmax(graph(layer, top, bottom, training), axis=-1)
        value = normalised(
            top @ np.asarray(layer.value.kernel), layer.value_normalization, training
        )
        gathered = np.stack([one @ np.maximum(value, 0) for one in attention], axis=2)
        estimate = gathered.reshape(len(top), -1) @ np.asarray(layer.estimator.kernel)
        estimate += np.asarray(layer.estimator.bias)
        estimate /= np.linalg.norm(estimate, axis=1, keepdims=True)
        expected += np.mean(1 - np.sum(estimate * bottom, axis=1))
    found = loss.compute_loss(teacher, taps_of(5), stage="attention", training=training)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("stage", ["attention", "train"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_sample_that_is_not_finite_is_left_out(stage, value):
    """The loss, its gradient and the batch's statistics are those of the other samples, times
    B / good where the loss is a sum."""
    teacher, student = ([tap.numpy() for tap in taps_of(seed)] for seed in (11, 12))
    good = np.array([True, False, True, True, False, True])
    teacher[0][1, 2, 1, 3] = teacher[1][1] = teacher[2][1] = value
    (student if stage == "train" else teacher)[1][4, 0, 0, 0] = value
    pairs = {}  # in the first pair, and in the second, other samples might be bad
    for name, rows in (("all", slice(None)), ("good", good)):
        loss = built(heads=3, drop_heads=False)
        taps = [[tf.constant(tap[rows]) for tap in taps] for taps in (teacher, student)]
        with tf.GradientTape() as tape:
            tape.watch(taps[1])
            found, metrics = loss.compute(
                *taps, Context(training=True), loss.stage(stage)
            )
        ours = tape.gradient(found, taps[1], unconnected_gradients="zero")
        statistics = [w.numpy() for layer in loss.layers for w in layer.non_trainable_weights]
        pairs[name] = found, ours, statistics, metrics["dropped_share"]
    found, ours, statistics, dropped = pairs["all"]
    expected, wanted, usual, none = pairs["good"]
    scale = 6 / 4 if stage == "train" else 1
    np.testing.assert_allclose(found, scale * expected, rtol=1e-5)
    np.testing.assert_allclose([dropped, none], [2 / 6, 0], rtol=1e-5)
    for one, other in zip(ours, wanted, strict=True):
        assert not np.any(one.numpy()[~good])
        np.testing.assert_allclose(one.numpy()[good], scale * other, rtol=1e-3, atol=1e-6)
    for one, other in zip(statistics, usual, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_heads_are_dropped_alike_for_the_same_images_and_epoch():
    teacher = taps_of(6)
    losses = []
    for epoch, first in ((0, 0), (0, 0), (1, 0), (0, 6)):
        context = {"epoch": tf.constant(epoch), "indices": tf.range(first, first + 6)}
        loss = built().compute_loss(teacher, teacher, stage="attention", **context)
        losses.append(float(loss))
    assert losses[0] == losses[1]
    assert len({round(loss, 6) for loss in losses}) == 3


def test_training():
    """With adapters from the student's channels to the teacher's. In bfloat16 another candidate may
    be the likest."""
    distiller = run_method_test(distillers.get("MHGD")(), rounding=0.05)
    first, second = distiller.distillation_losses[0].stages
    assert (first.trains, first.main_weight, first.combination) == (Trains.ALL, 1, Combination.ADD)
    assert (second.trains, second.new_optimizer) == (Trains.ALL, False)
    assert [layer.name for layer in first.layers] == ["attention1"]
    assert [layer.name for layer in second.layers] == ["adapter1", "adapter2"]
    assert "1x1 adapter from 6 to 8 channels" in distiller.notes[0]


def test_the_attentions_loss_is_logged_as_it_is():
    """It is a mean over the batch, unlike the student's."""
    distiller = make_distiller(distillers.get("MHGD")(drop_heads=False))
    begin_stage(distiller, 0, 0.01)
    (loss,) = distiller.distillation_losses
    features = distiller.teacher_features(batch(4)["image"])["maps"]
    ours = distiller.student_features(batch(4)["image"])["maps"]
    expected = loss.compute_loss(features, ours, stage="attention", training=True)
    logged = distiller.fit(tf.data.Dataset.from_tensors(batch(4)), verbose=0).history
    np.testing.assert_allclose(logged["distillation_loss"], [expected], rtol=1e-4)


def test_the_student_gets_a_gradient_from_the_graph_and_the_teacher_none():
    teacher, student = taps_of(7, tf.float32), taps_of(8, tf.float32)
    built_loss = built()
    with tf.GradientTape() as tape:
        tape.watch([*teacher, *student])
        loss = built_loss.compute_loss(teacher, student)
    gradients = tape.gradient(loss, [*teacher, *student])
    assert gradients[:3] == [None] * 3
    assert all(np.any(gradient != 0) for gradient in gradients[3:])


@pytest.mark.parametrize("stage", ["attention", "train"])
@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float32])
@pytest.mark.parametrize(
    "change",
    [
        tf.identity,
        tf.zeros_like,
        tf.ones_like,
        lambda x: tf.repeat(x[:1], len(x), axis=0),  # equal samples
        lambda x: x * np.nan,
    ],
)
def test_always_finite(change, dtype, stage):
    teacher, student = taps_of(9, dtype), taps_of(10, dtype)
    for whose in ("teacher", "student"):
        maps = [
            [change(tap) for tap in taps] if whose == name else taps
            for name, taps in (("teacher", teacher), ("student", student))
        ]
        built_loss = built()
        variables = [v.value for layer in built_loss.layers for v in layer.trainable_variables]
        with tf.GradientTape() as tape:
            tape.watch([*maps[1], *variables])
            loss = built_loss.compute_loss(*maps, stage=stage, epoch=0, training=True)
        assert np.isfinite(loss)
        for gradient in tape.gradient(loss, [*maps[1], *variables]):
            assert gradient is None or np.all(np.isfinite(tf.cast(gradient, tf.float32)))


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match="MHGD: heads must be at least 1"):
        distillers.get("MHGD")(heads=0)
    with pytest.raises(UserError, match="MHGD: attention_share must be from 0 to 1"):
        distillers.get("MHGD")(attention_share=1.5)
    taps = [[tf.zeros([2, 4, 4, 3]), tf.zeros([2, 2, 2, size])] for size in (5, 6)]
    with pytest.raises(UserError, match="MHGD .* tap 2 has 5 in the teacher.* 6 in the student"):
        distillers.get("MHGD")(adapter="none").build(*taps)
    with pytest.raises(UserError, match="MHGD has layers of its own"):
        distillers.get("MHGD")().compute_loss(*taps)
