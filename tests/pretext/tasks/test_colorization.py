"""Colorization: luminance in, classes of chroma out."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax, softmax

from pretext.tasks.colorization import colour_classes, square_of
from registry import UserError
from tests.pretext.examples import Example, images


def views(task, x):
    return task.views(tf.constant(x), tf.zeros([len(x), task.draws]))


def test_the_encoder_sees_no_colour():
    x = images(3, (32, 32, 3))
    (view,), _ = views(Example("colorization", (32, 32, 3)), x)
    expected = x @ np.array([0.299, 0.587, 0.114])
    for channel in range(3):
        np.testing.assert_allclose(view[..., channel], expected, atol=1e-6)


@pytest.mark.parametrize("step", [0.05, 0.1, 0.25])
def test_each_coarse_pixel_has_the_class_of_its_chroma(step):
    """A head that is sure of the right classes shows colours to within half a square."""
    task = Example("colorization", (28, 32, 3), step=step)
    x = np.random.default_rng(0).random((5, 7, 8, 3)).repeat(4, axis=1).repeat(4, axis=2)
    _, (classes, chroma, _) = views(task, x.astype(np.float32))
    coarse = x[:, ::4, ::4]
    expected = np.stack(
        [
            -0.168736 * coarse[..., 0] - 0.331264 * coarse[..., 1] + 0.5 * coarse[..., 2],
            0.5 * coarse[..., 0] - 0.418688 * coarse[..., 1] - 0.081312 * coarse[..., 2],
        ],
        axis=-1,
    )
    np.testing.assert_allclose(chroma, expected, atol=1e-5)
    task.build((4, 4, 8), 16)
    number = task.predict(tf.zeros([1, 16])).shape[-1]
    sure = tf.one_hot(classes, number) * 1e3
    error = task.score(sure, (classes, chroma, None)).numpy()
    assert np.all(error > 0) and np.all(error < step / 2 * 2**0.5)
    assert len(np.unique(classes)) > 3
    np.testing.assert_allclose(task.loss(sure, (classes, chroma, None)), 0, atol=1e-6)


def test_every_displayable_colour_has_a_class_of_its_square():
    """Also the corners of the colour cube, whose squares lie at the rim."""
    task = Example("colorization", (32, 32, 3))
    corners = np.array(np.meshgrid([0, 1], [0, 1], [0, 1])).T.reshape(8, 1, 1, 3)
    x = np.broadcast_to(corners, (8, 32, 32, 3)).astype(np.float32)
    _, target = views(task, x)
    task.build((4, 4, 8), 16)
    number = task.predict(tf.zeros([1, 16])).shape[-1]
    error = task.score(tf.one_hot(target[0], number) * 1e3, target)
    assert np.all(error.numpy() < 0.1 / 2 * 2**0.5 + 1e-6)


@pytest.mark.parametrize("step", [0.01, 0.013, 0.1])
def test_a_colours_class_is_that_of_its_square_however_small(step):
    colours = np.random.default_rng(1).integers(0, 256, (20_000, 3)) / np.float32(255)
    red, green, blue = colours.T
    luminance = 0.299 * red + 0.587 * green + 0.114 * blue
    chroma = np.stack([0.564 * (blue - luminance), 0.713 * (red - luminance)], axis=-1)
    classes = colour_classes(step)
    found = classes.centres[classes.table[square_of(tf.constant(colours), step).numpy()]]
    assert np.max(np.abs(found - chroma)) < step * 0.51 + 1e-3


def test_loss_by_loop():
    task = Example("colorization", (32, 32, 3))
    _, target = views(task, images(2, (32, 32, 3)))
    task.build((4, 4, 8), 16)
    shape = task.predict(tf.zeros([2, 16])).shape
    output = np.random.default_rng(0).normal(size=shape)
    log_shares = log_softmax(output, axis=-1)
    places = np.ndindex(*target[0].shape)
    expected = -np.mean([log_shares[place][target[0].numpy()[place]] for place in places])
    np.testing.assert_allclose(task.loss(tf.constant(output, tf.float32), target), expected, 1e-5)


@pytest.mark.parametrize("temperature", [0.38, 2.0])
def test_the_colour_shown_is_the_annealed_mean_of_the_classes(temperature):
    """The score is the root mean square distance to it."""
    task = Example("colorization", (32, 32, 3), temperature=temperature)
    _, target = views(task, images(2, (32, 32, 3)))
    task.build((4, 4, 8), 16)
    output = np.random.default_rng(0).normal(size=task.predict(tf.zeros([2, 16])).shape)
    centres = colour_classes(0.1).centres.astype(np.float64)
    shown = softmax(output / temperature, axis=-1) @ centres
    squared = np.sum((shown - target[1].numpy()) ** 2, axis=-1)
    expected = np.sqrt(squared.mean(axis=(1, 2)))
    score = task.score(tf.constant(output, tf.float32), target)
    np.testing.assert_allclose(score, expected, rtol=1e-5)


def test_grey_is_refused():
    with pytest.raises(UserError, match="3 channels.*not 1"):
        Example("colorization", (28, 28, 1))
    task = Example("colorization", (8, 8, 3))
    x = np.random.default_rng(0).integers(0, 256, size=(4, 8, 8, 3), dtype=np.uint8)
    task.check_images(x)
    with pytest.raises(UserError, match="grey"):
        task.check_images(x[..., :1].repeat(3, axis=-1))


@pytest.mark.parametrize("wrong", [{"step": 0.0}, {"temperature": 0.0}])
def test_nonsense_is_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        Example("colorization", (32, 32, 3), **wrong)
