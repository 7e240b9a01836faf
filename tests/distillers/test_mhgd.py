"""MHGD against plain NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax, softmax

import distillers
from distillers import Distiller
from registry import UserError
from tests.distillers.models import batch, network, outputs
from tests.distillers.stages import check_gradients
from tests.reference import as_matrices, right_vectors

SHAPES = (5, 4, 6), (3, 4, 8), (7,)


def taps_of(seed, dtype=tf.float64, batch=6, shapes=SHAPES):
    random = np.random.default_rng(seed)
    maps = [np.maximum(random.normal(size=(batch, *shape)) + 0.2, 0) for shape in shapes]
    return [tf.constant(x, dtype) for x in maps]


def built(taps=None, **settings):
    method = distillers.get("MHGD")(**settings)
    taps = taps or taps_of(0)
    method.build(taps, taps)
    random = np.random.default_rng(1)
    for layer in method.layers:  # as after some training
        for variable in layer.weights:
            values = random.normal(size=variable.shape) * 0.5
            variable.assign(np.abs(values) + 0.2 if "variance" in variable.name else values)
    return method


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
    method = built(heads=3)
    theirs, ours = nodes_of(teacher, student)
    expected = 0.0
    for i, layer in enumerate(method.layers):
        g_teacher, g_student = (
            log_softmax(np.tanh(graph(layer, nodes[i], nodes[i + 1], training=False)), axis=-1)
            for nodes in (theirs, ours)
        )
        expected += np.sum(np.exp(g_student) * (g_student - g_teacher))
    found = method.compute_loss(teacher, student)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    np.testing.assert_allclose(method.compute_loss(teacher, student, stage="train"), found)
    np.testing.assert_allclose(method.compute_loss(teacher, teacher), 0, atol=1e-5)


def test_estimation_loss_equals_numpy():
    teacher = taps_of(4)
    method = built(heads=3, drop_heads=False)
    nodes, _ = nodes_of(teacher, teacher)
    expected = 0.0
    for layer, top, bottom in zip(method.layers, nodes, nodes[1:], strict=False):
        attention = softmax(graph(layer, top, bottom, training=True), axis=-1)
        value = normalised(
            top @ np.asarray(layer.value.kernel), layer.value_normalization, training=True
        )
        gathered = np.stack([one @ np.maximum(value, 0) for one in attention], axis=2)
        estimate = gathered.reshape(len(top), -1) @ np.asarray(layer.estimator.kernel)
        estimate += np.asarray(layer.estimator.bias)
        estimate /= np.linalg.norm(estimate, axis=1, keepdims=True)
        expected += np.mean(1 - np.sum(estimate * bottom, axis=1))
    found = method.compute_loss(teacher, taps_of(5), stage="attention")
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_heads_are_dropped_alike_for_the_same_images_and_epoch():
    teacher = taps_of(6)
    losses = []
    for epoch, first in ((0, 0), (0, 0), (1, 0), (0, 6)):
        context = {"epoch": tf.constant(epoch), "indices": tf.range(first, first + 6)}
        loss = built().compute_loss(teacher, teacher, stage="attention", **context)
        losses.append(float(loss))
    assert losses[0] == losses[1]
    assert len({round(loss, 6) for loss in losses}) == 3


def test_gradients_reach_the_attention_in_its_stage_and_only_the_student_after():
    method = distillers.get("MHGD")()
    check_gradients(method)
    first, second = method.stages
    assert (first.trains, first.layers, first.main_loss) == ("nothing", None, False)
    assert (second.trains, second.layers, second.new_optimizer) == ("all", (), True)


def test_the_attentions_loss_is_logged_as_it_is():
    """It is a mean over the batch, unlike the student's."""
    student, teacher = network(1, "student"), network(2, "teacher", width=2)
    distiller = Distiller(
        student, distillers.get("MHGD")(drop_heads=False), teacher,
        student_outputs=outputs(student), teacher_outputs=outputs(teacher),
    )
    distiller.start_stage(distiller.method.stages[0])
    distiller.compile(keras.optimizers.SGD(0.01))
    taps = distiller.teacher_features(batch(4)["image"])["maps"]
    expected = distiller.method.compute_loss(taps, taps, stage="attention")
    logged = distiller.fit(tf.data.Dataset.from_tensors(batch(4)), verbose=0).history
    np.testing.assert_allclose(logged["distillation_loss"], [expected], rtol=1e-4)


def test_the_student_gets_a_gradient_from_the_graph_and_the_teacher_none():
    teacher, student = taps_of(7, tf.float32), taps_of(8, tf.float32)
    method = built()
    with tf.GradientTape() as tape:
        tape.watch([*teacher, *student])
        loss = method.compute_loss(teacher, student)
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
        method = built()
        variables = [v.value for layer in method.layers for v in layer.trainable_variables]
        with tf.GradientTape() as tape:
            tape.watch([*maps[1], *variables])
            loss = method.compute_loss(*maps, stage=stage, epoch=0)
        assert np.isfinite(loss)
        for gradient in tape.gradient(loss, [*maps[1], *variables]):
            assert gradient is None or np.all(np.isfinite(tf.cast(gradient, tf.float32)))


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match="MHGD: heads must be above 0"):
        distillers.get("MHGD")(heads=0)
    with pytest.raises(UserError, match="MHGD: attention_share must be from 0 to 1"):
        distillers.get("MHGD")(attention_share=1.5)
    taps = [[tf.zeros([2, 4, 4, 3]), tf.zeros([2, 2, 2, size])] for size in (5, 6)]
    with pytest.raises(UserError, match="MHGD .* tap 2 has 5 in the teacher.* 6 in the student"):
        distillers.get("MHGD")().build(*taps)
