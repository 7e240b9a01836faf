"""Instance discrimination: two views of an image, told from all others."""

import math

import numpy as np
import pytest
import tensorflow as tf

from registry import UserError
from tests.pretext.examples import Example, images, uniform

CENTRE = 0.5
CROP, ASPECT, TOP, LEFT, MIRROR = range(5)
BRIGHTNESS, CONTRAST, SATURATION, HUE, IS_JITTERED, KEEPS_COLOUR = range(5, 11)


def one_view(x, changes, **hyper_parameters):
    """The first view where nothing happens but `changes`: whole, upright, its own colours."""
    task = Example("instance", x.shape[1:], **hyper_parameters)
    draws = np.full((len(x), task.draws), CENTRE, np.float32)
    draws[:, [CROP, KEEPS_COLOUR]] = 1 - 2**-24
    draws[:, IS_JITTERED] = 0
    for place, value in changes.items():
        draws[:, place] = value
    (first, _), _ = task.views(tf.constant(x), tf.constant(draws))
    return first.numpy()


@pytest.fixture
def x():
    return images(3, (32, 28, 3)) * 0.5 + 0.25


def test_nothing_happens_at_the_centre(x):
    np.testing.assert_allclose(one_view(x, {}), x, atol=1e-5)


def test_mirrored(x):
    np.testing.assert_allclose(one_view(x, {MIRROR: 0.4}), x[:, :, ::-1], atol=1e-5)
    np.testing.assert_allclose(one_view(x, {MIRROR: 0.4}, flip=False), x, atol=1e-5)


def test_cropped():
    """A quarter of the area of a ramp: half of its height and width, at the places drawn."""
    ramp = np.linspace(0, 1, 33, dtype=np.float32)
    x = np.stack(np.meshgrid(ramp, ramp, indexing="ij"), axis=-1)[None]
    x = np.concatenate([x, np.zeros_like(x[..., :1])], axis=-1)
    found = one_view(x, {CROP: 0, TOP: 0.25, LEFT: 1 - 2**-24}, smallest_crop=0.25, jitter=0)
    np.testing.assert_allclose(found[0, :, 0, 0], 0.125 + ramp / 2, atol=1e-5)
    np.testing.assert_allclose(found[0, 0, :, 1], 0.5 + ramp / 2, atol=1e-5)


def test_brighter_and_with_more_contrast(x):
    found = one_view(x, {BRIGHTNESS: 0.75, CONTRAST: 0})
    mean = x.mean(axis=(1, 2, 3), keepdims=True)
    expected = 1.2 * (mean + 0.6 * (x - mean))
    np.testing.assert_allclose(found, np.clip(expected, 0, 1), atol=1e-5)


def test_hue_and_saturation_leave_the_luminance(x):
    weights = np.array([0.299, 0.587, 0.114])
    x = 0.5 + (x - 0.5) * 0.3  # so that nothing is clipped
    for changes in ({HUE: 0.9}, {SATURATION: 0.1}, {KEEPS_COLOUR: 0.1}):
        found = one_view(x, changes)
        np.testing.assert_allclose(found @ weights, x @ weights, atol=1e-5)
        assert np.max(np.abs(found - x)) > 0.02
    np.testing.assert_allclose(found, np.repeat((x @ weights)[..., None], 3, -1), atol=1e-5)


def test_a_fifth_keeps_its_colours(x):
    changes = {BRIGHTNESS: 0.9, SATURATION: 0.1, HUE: 0.9, IS_JITTERED: 0.81}
    np.testing.assert_allclose(one_view(x, changes), x, atol=1e-5)


def test_both_views_differ():
    task = Example("instance", (32, 32, 1))
    x = images(6, (32, 32, 1))
    first, second = task.views(tf.constant(x), tf.constant(uniform(6, task)))[0]
    assert np.all(np.max(np.abs(first - second), axis=(1, 2, 3)) > 0.1)


def test_loss_and_retrieval_by_loop():
    task = Example("instance", (32, 32, 3), temperature=0.3)
    assert task.couples_samples
    z = np.random.default_rng(0).normal(size=(6, 2, 5)).astype(np.float32)
    z[:3, 1] = z[:3, 0] + 0.1
    unit = z / np.linalg.norm(z, axis=-1, keepdims=True)
    losses, hits = [], []
    for i in range(6):
        hits.append(np.argmax([unit[i, 0] @ unit[k, 1] for k in range(6)]) == i)
        for v in range(2):
            others = [
                math.exp(unit[i, v] @ unit[k, w] / 0.3)
                for k in range(6) for w in range(2) if (k, w) != (i, v)
            ]
            own = math.exp(unit[i, v] @ unit[i, 1 - v] / 0.3)
            losses.append(-math.log(own / sum(others)))
    target = tf.range(6)
    np.testing.assert_allclose(task.loss(tf.constant(z), target), np.mean(losses), rtol=1e-5)
    np.testing.assert_array_equal(task.score(tf.constant(z), target), hits)
    assert any(hits) and not all(hits)


def test_h_is_the_views_mean_and_each_is_projected_for_itself():
    task = Example("instance", (32, 32, 3))
    task.build((4, 4, 8), 16)
    random = np.random.default_rng(0)
    maps = [tf.constant(random.normal(size=(3, 4, 4, 8)), tf.float32) for _ in range(2)]
    h = task.embed(maps)
    assert h.shape == (3, 2, 16)
    np.testing.assert_allclose(task.vector(h), np.mean(h, axis=1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(task.predict(task.embed(maps[::-1])), task.predict(h)[:, ::-1])


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"smallest_crop": 0.0}, {"jitter": 2.0}])
def test_nonsense_is_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        Example("instance", (32, 32, 3), **wrong)
