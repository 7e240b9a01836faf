"""FSP against plain loops; the original's golden values are in test_sskd_svd."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from distillers import FSP, Trains
from distillers.fsp import fsp_matrix
from registry import UserError
from tests.distillers import golden
from tests.distillers.harness import run_method_test
from tests.distillers.models import CLASSES, TAPS, network


def by_loop(top, bottom):
    """One sample's ``sum over positions of top_i bottom_j / positions``."""
    if top.shape[0] > bottom.shape[0]:
        rows, columns = -(-top.shape[0] // 2), -(-top.shape[1] // 2)
        pooled = np.empty((rows, columns, top.shape[2]))
        for y in range(rows):
            for x in range(columns):
                pooled[y, x] = top[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].max(axis=(0, 1))
        top = pooled
    found = np.zeros((top.shape[2], bottom.shape[2]))
    for y in range(bottom.shape[0]):
        for x in range(bottom.shape[1]):
            found += np.outer(top[y, x], bottom[y, x])
    return found / (bottom.shape[0] * bottom.shape[1])


def maps_of(seed):
    random = np.random.default_rng(seed)
    return [random.normal(size=(3, *shape)) for shape in ((6, 8, 4), (3, 4, 5), (3, 4, 7), (9,))]


def test_matrix():
    maps = maps_of(0)
    for top, bottom in ((0, 1), (1, 2)):
        found = fsp_matrix(tf.constant(maps[top]), tf.constant(maps[bottom]))
        for i in range(3):
            np.testing.assert_allclose(found[i], by_loop(maps[top][i], maps[bottom][i]), rtol=1e-9)


def test_loss():
    teacher, student = maps_of(1), maps_of(2)
    total = 0.0
    for pair in (0, 1):
        for i in range(3):
            ours = by_loop(student[pair][i], student[pair + 1][i])
            theirs = by_loop(teacher[pair][i], teacher[pair + 1][i])
            total += np.sum((ours - theirs) ** 2) / 2 / 3
    found = FSP().compute_loss(*([tf.constant(x) for x in maps] for maps in (teacher, student)))
    np.testing.assert_allclose(found, total / (4 * 5 + 5 * 7), rtol=1e-9)


def test_two_maps_are_needed():
    with pytest.raises(UserError, match="FSP compares maps and needs at least 2, but 1 of 2 taps"):
        FSP().build(*[[tf.zeros([1, 4, 4, 3]), tf.zeros([1, 9])]] * 2)


@pytest.mark.parametrize(
    ("top", "bottom"), [((8, 8, 3), (2, 2, 5)), ((4, 4, 3), (8, 8, 5)), ((5, 5, 3), (2, 2, 4))]
)
def test_maps_whose_sizes_do_not_pair_are_refused(top, bottom):
    taps = [keras.Input(top), keras.Input(bottom)]
    with pytest.raises(UserError, match="taps 1 and 2 of the teacher"):
        FSP().build(taps, taps)


def repdistiller_by_loop(teacher, student):
    """``sum over pairs of mean of (G_s - G_t)^2``, with G from maps averaged to the smaller."""
    total = 0.0
    for pair in range(len(teacher) - 1):
        matrices = []
        for top, bottom in (teacher[pair : pair + 2], student[pair : pair + 2]):
            small = min(top, bottom, key=lambda x: x.shape[1]).shape[1:3]
            maps = []
            for x in (top, bottom):
                rows, columns = x.shape[1] // small[0], x.shape[2] // small[1]
                cells = [
                    x[:, i * rows : (i + 1) * rows, j * columns : (j + 1) * columns].mean((1, 2))
                    for i, j in np.ndindex(*small)
                ]
                maps.append(cells)
            matrices.append(
                np.mean([a[:, :, None] * b[:, None] for a, b in zip(*maps, strict=True)], 0)
            )
        total += np.mean((matrices[0] - matrices[1]) ** 2)
    return total


def test_repdistillers_definition():
    """Three times smaller, and larger again."""
    random = np.random.default_rng(3)
    shapes = (6, 9, 4), (2, 3, 5), (4, 6, 3)
    teacher, student = ([random.normal(size=(3, *s)) for s in shapes] for _ in range(2))
    taps = [[tf.constant(x) for x in maps] for maps in (teacher, student)]
    expected = repdistiller_by_loop(teacher, student)
    found = FSP(definition="repdistiller").compute_loss(*taps)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_repdistillers_value():
    maps = golden.maps("teacher"), golden.maps("student")
    found = FSP(definition="repdistiller").compute_loss(*maps)
    np.testing.assert_allclose(found, golden.loss("fsp_repdistiller"), rtol=1e-5)


@pytest.mark.parametrize("definition", ["sskd_svd", "repdistiller"])
@pytest.mark.parametrize("change", [tf.zeros_like, tf.ones_like, lambda x: x])
def test_bfloat16_is_finite_and_the_teacher_has_no_gradient(definition, change):
    teacher, student = (
        [change(tf.constant(x, tf.bfloat16)) for x in maps_of(seed)] for seed in (4, 5)
    )
    with tf.GradientTape() as tape:
        tape.watch([*teacher, *student])
        loss = FSP(definition=definition).compute_loss(teacher, student)
    gradients = tape.gradient(loss, [*teacher, *student])
    assert loss.dtype == tf.float32 and np.isfinite(loss)
    assert gradients[:4] == [None] * 4
    for gradient in gradients[4:7]:
        assert np.all(np.isfinite(tf.cast(gradient, tf.float32)))


@pytest.mark.parametrize(
    ("staged", "definition"), [(False, "sskd_svd"), (True, "repdistiller")]
)
def test_training(staged, definition):
    run_method_test(FSP(staged=staged, definition=definition))


def test_a_vector_among_the_taps_is_not_trained_in_the_first_stage():
    """A fully connected layer leads to it, of which the matrices know nothing."""
    student, teacher = network(1, "student"), network(2, "teacher", width=2)
    networks = []
    for model in (student, teacher):
        hidden = keras.layers.Dense(7, name="hidden")(model.get_layer("embedding").output)
        scores = keras.layers.Dense(CLASSES, name="head")(hidden)
        networks.append(keras.Model(model.input, scores, name=model.name))
    taps = [[*(model.get_layer(name).output for name in (*TAPS, "hidden"))] for model in networks]
    first, second = FSP(staged=True).build(*reversed(taps)).stages
    assert (first.trains, first.taps, first.main_weight) == (Trains.TO_TAPS, (0, 1), 0)
    assert (second.trains, second.loss, second.new_optimizer) == (Trains.ALL, None, True)


def test_nonsense_is_refused():
    with pytest.raises(UserError, match="definition: unknown value 'repdistill'.*did you mean"):
        FSP(definition="repdistill")
    with pytest.raises(UserError, match="init_share must be from 0 to 1, not 2"):
        FSP(init_share=2.0)
