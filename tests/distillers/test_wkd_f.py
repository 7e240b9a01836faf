"""WKD_F against a loop over cells and channels."""

import numpy as np
import pytest
import tensorflow as tf

import distillers
from registry import UserError
from tests.distillers.harness import run_method_test
from tests.distillers.losses import assert_finite_in_bfloat16, assert_gradient

WKD_F = distillers.get("WKD_F")


def maps(seed, size=(5, 7)):
    return np.random.default_rng(seed).normal(size=(2, 3, *size, 4))


def by_loop(teacher, student, grid, mean_weight):
    """Cells from floor(i H / grid) to ceil((i + 1) H / grid), as of PyTorch's adaptive pooling."""
    def cell(maps, i, j):
        rows, columns = (
            slice(int(np.floor(place * size / grid)), int(np.ceil((place + 1) * size / grid)))
            for place, size in zip((i, j), maps.shape, strict=False)
        )
        return maps[rows, columns]

    total = 0.0
    for i in range(grid):
        for j in range(grid):
            for theirs, ours in zip(teacher, student, strict=True):
                for channel in range(teacher.shape[3]):
                    t, s = (cell(x, i, j)[..., channel].ravel() for x in (theirs, ours))
                    total += mean_weight * (t.mean() - s.mean()) ** 2
                    deviations = [np.sqrt(x.var(ddof=1) + 1e-5) for x in (t, s)]
                    total += (deviations[0] - deviations[1]) ** 2
    return total / (len(teacher) * grid**2)


@pytest.mark.parametrize(("grid", "mean_weight"), [(1, 1.0), (2, 4.0), (3, 0.0)])
def test_loss_equals_a_loop(grid, mean_weight):
    teacher, student = maps(0)
    method = WKD_F(grid=grid, mean_weight=mean_weight, projector="none")
    found = method.compute_loss([tf.zeros([3, 9]), teacher], [tf.constant(student)])
    np.testing.assert_allclose(found, by_loop(teacher, student, grid, mean_weight), rtol=1e-9)


def test_sizes_may_differ():
    student = maps(2, (4, 4))[1:]
    tiled = np.repeat(np.repeat(student[0], 2, axis=1), 2, axis=2)
    found = WKD_F(grid=2, mean_weight=1, projector="none").compute_loss(
        tf.constant(tiled), tf.constant(student[0])
    )
    np.testing.assert_allclose(found, by_loop(tiled, student[0], 2, 1), rtol=1e-9)


def test_gradient():
    teacher, student = maps(3)
    method = WKD_F(grid=2, projector="none")
    assert_gradient(method, teacher, student)
    assert_finite_in_bfloat16(method, teacher, student)
    still = tf.Variable(tf.ones([3, 5, 7, 4]))  # no deviation at all
    with tf.GradientTape() as tape:
        loss = method.compute_loss(tf.constant(teacher, tf.float32), still)
    assert np.all(np.isfinite(tape.gradient(loss, still)))


def test_projector_brings_the_student_to_the_teachers_channels():
    teacher, student = tf.constant(maps(4)[0], tf.float32), tf.random.normal([3, 4, 4, 6])
    loss = WKD_F().build([teacher], [student])
    assert [layer.name for layer in loss.layers] == ["projector", "projector_bn"]
    assert "from 6 to 4 channels" in loss.notes[0]
    convolution, normalization = loss.layers
    projected = np.maximum(normalization(convolution(student), training=True), 0)
    found = loss.compute_loss([teacher], [student], training=True)
    np.testing.assert_allclose(
        found, WKD_F(projector="none").compute_loss(teacher, tf.constant(projected)), rtol=1e-5
    )
    with pytest.raises(UserError, match="WKD_F has layers of its own"):
        WKD_F().compute_loss([teacher], [student])


@pytest.mark.parametrize(
    ("options", "teacher", "student", "message"),
    [
        ({"projector": "none"}, (2, 4, 4, 3), (2, 4, 4, 5), "equal channels at the last tap"),
        ({"grid": 4}, (2, 4, 4, 3), (2, 8, 8, 3), "grid=4 on the teacher's last tap of 4x4"),
        ({}, (2, 8, 8, 3), (2, 1, 1, 3), "grid=1 on the student's last tap of 1x1"),
        ({"grid": 3}, (2, 8, 8, 3), (2, 2, 8, 3), "grid=3 on the student's last tap of 2x8"),
        ({}, (2, 4, 4, 3), (2, 5), "the student's is a vector"),
    ],
)
def test_maps_that_do_not_fit_are_refused(options, teacher, student, message):
    with pytest.raises(UserError, match=message):
        WKD_F(**options).build([tf.zeros(teacher)], [tf.zeros(student)])


def test_hyper_parameters():
    for wrong in ({"grid": 0}, {"mean_weight": -1.0}, {"projector": "conv"}, {"weight": 0.0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            WKD_F(**wrong)


def test_training():
    run_method_test(WKD_F())
