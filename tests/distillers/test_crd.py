"""CRD against loops over images, its memory and its draws."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import distillers
from distillers.crd import drawn_rows
from registry import UserError
from tests.distillers.harness import run_method_test
from tests.distillers.losses import gradients

CRD = distillers.get("CRD")
ROWS, SIZE, TEMPERATURE = 12, 5, 0.5
INDICES = np.array([7, 0, 3, 11, 5], "int64")
LABELS = np.array([1, 0, 1, -1, 2], "int32")


def embeddings(seed, samples=5):
    random = np.random.default_rng(seed)
    return (
        random.normal(size=(samples, 9)).astype("float32"),
        random.normal(size=(samples, 4)).astype("float32"),
    )


def built(seed=0, **hyper_parameters):
    keras.utils.set_random_seed(seed)
    method = CRD(**{"embedding_size": SIZE, "temperature": TEMPERATURE, **hyper_parameters})
    return method.build(*(tf.constant(x) for x in embeddings(0)), samples=ROWS)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


class ByHand:
    """What CRD computes and remembers, image by image in float64; draws are all rows."""

    def __init__(self, loss, momentum=0.5):
        self.momentum = momentum
        self.layers = [[np.array(w, np.float64) for w in layer.weights] for layer in loss.layers]
        self.teacher_rows, self.student_rows = self.layers[2][:2]
        self.labels = np.full(ROWS, -1)
        self.sums = None

    def step(self, teacher, student, indices, labels):
        teacher, student = (
            unit(x.astype(float) @ kernel + bias)
            for x, (kernel, bias) in zip((teacher, student), self.layers[:2], strict=True)
        )
        self.labels[indices] = labels
        sides = ((student, self.teacher_rows), (teacher, self.student_rows))
        scores = [np.exp(vectors @ rows.T / TEMPERATURE) for vectors, rows in sides]
        negatives = [
            [
                row for row in range(ROWS)
                if row != index and (label < 0 or self.labels[row] != label)
            ]
            for index, label in zip(indices, labels, strict=True)
        ]
        if self.sums is None:
            self.sums = []
            for side in scores:
                values = [
                    side[i, row]
                    for i, index in enumerate(indices) for row in (index, *negatives[i])
                ]
                self.sums.append(np.mean(values) * ROWS)
        loss = 0.0
        for side, total in zip(scores, self.sums, strict=True):
            for i, index in enumerate(indices):
                noise = len(negatives[i]) / ROWS
                p = side[i] / total
                loss -= np.log(p[index] / (p[index] + noise)) / len(indices)
                loss -= sum(np.log(noise / (p[row] + noise)) for row in negatives[i]) / len(indices)
        moved = {}
        for i, index in enumerate(indices):
            if index not in moved:
                moved[index] = [
                    unit(self.momentum * rows[index] + (1 - self.momentum) * vectors[i])
                    for vectors, rows in (
                        (teacher, self.teacher_rows), (student, self.student_rows)
                    )
                ]
        for index, (theirs, ours) in moved.items():
            self.teacher_rows[index], self.student_rows[index] = theirs, ours
        return loss


@pytest.mark.parametrize("momentum", [0.5, 0.9])
def test_losses_and_memory_equal_loops(momentum):
    """Three steps: unlabelled images, an image that comes again, and a smaller last batch in which
    one is twice."""
    crd = built(memory_momentum=momentum)
    by_hand, memory = ByHand(crd, momentum), crd.layers[2]
    for step, (indices, labels) in enumerate(
        [
            (INDICES, LABELS),
            (np.array([3, 1, 2, 4, 6]), np.array([1, 0, 2, -1, 0])),
            (np.array([9, 7, 9]), np.array([2, 1, 2])),
        ]
    ):
        teacher, student = embeddings(step + 1, len(indices))
        context = {"labels": labels, "indices": indices.astype("int64")}
        alone = crd.compute_loss(teacher, student, **context)
        loss = crd.compute_loss(teacher, student, training=True, **context)
        assert alone == loss
        np.testing.assert_allclose(loss, by_hand.step(teacher, student, indices, labels), rtol=1e-5)
        for found, expected in (
            (memory.teacher, by_hand.teacher_rows), (memory.student, by_hand.student_rows),
            (memory.log_sums, np.log(by_hand.sums)),
        ):
            np.testing.assert_allclose(np.array(found), expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(memory.labels, by_hand.labels)
        assert int(memory.steps) == step + 1


def test_the_loss_changes_nothing_unless_in_training():
    loss = built()
    before = [np.array(weight) for layer in loss.layers for weight in layer.weights]
    loss.compute_loss(*embeddings(1), labels=LABELS, indices=INDICES)
    after = [weight for layer in loss.layers for weight in layer.weights]
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_embedding_that_is_not_finite_is_not_remembered(value):
    """All else of the memory is as if its image had not been there."""
    teacher, student = embeddings(1)
    student[1, 2] = value
    teacher[4, 0] = value
    loss = built()
    memory = loss.layers[2]
    first = [np.array(rows) for rows in (memory.teacher, memory.student)]
    loss.compute_loss(teacher, student, labels=LABELS, indices=INDICES, training=True)
    for rows, before, bad in zip((memory.teacher, memory.student), first, (4, 1), strict=True):
        moved = np.any(np.array(rows) != before, axis=1)
        assert set(np.flatnonzero(moved)) == set(INDICES) - {INDICES[bad]}
        assert np.all(np.isfinite(rows))
    assert np.all(np.isfinite(memory.log_sums)) and int(memory.steps) == 1
    again = loss.compute_loss(*embeddings(2), labels=LABELS, indices=INDICES)
    assert np.isfinite(again)


def test_a_batch_without_a_finite_embedding_is_no_update():
    loss = built()
    bad = [np.full_like(x, np.nan) for x in embeddings(1)]
    loss.compute_loss(*bad, labels=LABELS, indices=INDICES, training=True)
    first = [np.array(weight) for weight in built().layers[2].weights]
    for name, weight, expected in zip(
        ("teacher", "student", "labels", "log_sums", "steps"), loss.layers[2].weights, first,
        strict=True,
    ):
        assert name == "labels" or np.array_equal(weight, expected), name


def test_training():
    """Half of the images are drawn at each step; a resumed run draws the same."""
    distiller = run_method_test(CRD(embedding_size=8, negatives=4))
    assert len(distiller.method_layers[2].non_trainable_weights) == 5


def test_gradient_is_that_of_finite_differences():
    """After a first batch, since Z, a constant of the loss, would move with the differences."""
    loss = built()
    teacher, student = embeddings(1)
    context = {"labels": LABELS, "indices": INDICES}
    loss.compute_loss(teacher, student, training=True, **context)
    step = 1e-3 * np.random.default_rng(2).normal(size=student.shape)
    by_hand = [ByHand(loss) for _ in range(2)]
    for one in by_hand:
        one.sums = np.exp(loss.layers[2].log_sums.numpy().astype(float))
        one.labels = loss.layers[2].labels.numpy().copy()
    _, _, ours = gradients(loss, teacher, student, **context)
    losses = [
        one.step(teacher, student + s, INDICES, LABELS)
        for one, s in zip(by_hand, (step, -step), strict=True)
    ]
    np.testing.assert_allclose(np.sum(ours * step), (losses[0] - losses[1]) / 2, rtol=1e-3)


def test_draws():
    first, again, second = (drawn_rows(1000, 300, tf.constant(step)).numpy() for step in (4, 4, 5))
    assert len(set(first)) == 300 and set(first) <= set(range(1000))
    np.testing.assert_array_equal(first, again)
    assert 50 < len(set(first) & set(second)) < 130  # 90 by chance
    assert drawn_rows(7, 9, tf.constant(0)).numpy().tolist() == list(range(7))
    counts = np.zeros(50)
    for step in range(400):
        counts[drawn_rows(50, 10, tf.constant(step))] += 1
    assert counts.min() > 40 and counts.max() < 125  # 80 by chance


def test_fewer_negatives_are_drawn_where_there_are_fewer():
    assert "all 12 images" in built().notes[0]
    loss = built(negatives=4)
    assert not loss.notes
    context = {"labels": LABELS, "indices": INDICES, "training": True}
    losses = [float(loss.compute_loss(*embeddings(1), **context)) for _ in range(2)]
    assert np.all(np.isfinite(losses)) and losses[0] != losses[1]


def test_images_of_one_class_and_zeros():
    """Without any negative only the positive counts; a zero embedding has no direction."""
    crd = built()
    crd.layers[2].labels.assign(np.ones(ROWS))
    teacher, student = embeddings(3)
    student[0] = 0
    loss, _, ours = gradients(
        crd, teacher, student, labels=np.ones(5, "int32"), indices=INDICES
    )
    assert np.isfinite(loss) and np.all(np.isfinite(ours)) and not np.any(ours[0])
    half = [tf.cast(tf.constant(x), tf.bfloat16) for x in (teacher, student)]
    assert np.isfinite(crd.compute_loss(*half, indices=INDICES))


def test_what_makes_no_sense_is_refused():
    for samples in (None, 1):
        with pytest.raises(UserError, match="number of training images, two or more, not [01]"):
            CRD().build(tf.zeros([2, 3]), tf.zeros([2, 3]), samples=samples)
    with pytest.raises(UserError, match="CRD has layers of its own"):
        CRD(samples=9).compute_loss(*embeddings(0), indices=INDICES)
    with pytest.raises(UserError, match="CRD needs indices"):
        built().compute_loss(*embeddings(0))
    for wrong in ([-1] * 5, [0, 1, 2, 3, ROWS]):
        with pytest.raises(tf.errors.InvalidArgumentError, match="CRD"):
            built().compute_loss(*embeddings(0), indices=np.array(wrong))
    for wrong in (
        {"negatives": 0}, {"temperature": 0.0}, {"memory_momentum": 1.5}, {"embedding_size": -1},
        {"samples": -1}, {"weight": 0.0},
    ):
        with pytest.raises(UserError, match=next(iter(wrong))):
            CRD(**wrong)


def test_the_number_of_images_by_itself():
    memory = CRD(samples=9).build(*embeddings(0)).layers[2]
    assert memory.teacher.shape == (9, 128)
    norms = np.linalg.norm(memory.teacher, axis=1)
    assert 0.8 < norms.mean() < 1.2
