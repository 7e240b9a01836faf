"""The clipped combination of two gradients against NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from op_util.gradients import clip_by_norm, clipped_combination
from tests.reference import relative_error


def of_one_method(main, distillation, epoch, clip=1.0):
    return clipped_combination(main, [distillation], [epoch], [clip])


def by_numpy(main, distillation, epoch):
    combined, passed, whole = [], 0.0, 0.0
    for g0, g1 in zip(main, distillation, strict=True):
        if g1 is None:
            combined.append(g0)
            continue
        bound = np.linalg.norm(g0) / (1 + np.exp(-float(epoch)))
        length = np.linalg.norm(g1)
        factor = 1.0 if length <= bound else bound / length
        combined.append(g0 + factor * g1)
        whole += length**2
        passed += (factor * length) ** 2
    return combined, (passed / whole) ** 0.5 if whole else 1.0


@pytest.mark.parametrize("epoch", [0, 1, 2, 5, 40])
def test_against_numpy(epoch):
    random = np.random.default_rng(epoch)
    main = [random.normal(size=shape) for shape in ((3, 4), (5,), (2, 2, 3, 4), (6,))]
    scales = 0.1, 1, 50
    distillation = [scale * random.normal(size=main[i].shape) for i, scale in enumerate(scales)]
    distillation.append(None)
    expected, share = by_numpy(main, distillation, epoch)
    found, passed = of_one_method(
        [tf.constant(g) for g in main],
        [None if g is None else tf.constant(g) for g in distillation],
        tf.constant(epoch),
    )
    for one, other in zip(found, expected, strict=True):
        # The sigmoid is computed in float32.
        assert relative_error(one, other) < 1e-6
    np.testing.assert_allclose(passed, share, rtol=1e-6)


def test_half_the_main_gradients_norm_is_the_bound_in_the_first_epoch():
    combined, share = of_one_method(
        [tf.constant([3.0, 4.0])], [tf.constant([0.0, 10.0])], tf.constant(0)
    )
    np.testing.assert_allclose(combined[0], [3.0, 6.5], rtol=1e-6)
    np.testing.assert_allclose(share, 0.25, rtol=1e-6)


def test_the_clip_multiplies_the_bound():
    combined, share = of_one_method(
        [tf.constant([3.0, 4.0])], [tf.constant([0.0, 10.0])], tf.constant(0), clip=0.5
    )
    np.testing.assert_allclose(combined[0], [3.0, 5.25], rtol=1e-6)
    np.testing.assert_allclose(share, 0.125, rtol=1e-6)


def test_zero_gradients_give_zero():
    zero, one = tf.zeros([3]), tf.ones([3])
    combined, share = of_one_method([zero, one, zero], [zero, zero, one], tf.constant(0))
    np.testing.assert_array_equal(combined[0], 0)
    np.testing.assert_array_equal(combined[1], 1)
    np.testing.assert_array_equal(combined[2], 0)  # a zero main gradient lets nothing through
    np.testing.assert_array_equal(share, 0)
    np.testing.assert_array_equal(clip_by_norm(zero, tf.constant(0.0)), 0)
    _, share = of_one_method([one], [zero], tf.constant(0))
    np.testing.assert_array_equal(share, 1)


def test_variables_that_only_one_loss_reaches():
    """An adapter is clipped to the main gradients' mean norm, or not at all if there are none."""
    g0, long, g1 = tf.constant([3.0, 4.0]), tf.constant([0.0, 15.0]), tf.constant([30.0, 40.0])
    combined, share = of_one_method(
        [g0, long, None, None], [None, None, g1, None], tf.constant(0)
    )
    np.testing.assert_array_equal(combined[0], g0)
    np.testing.assert_array_equal(combined[1], long)
    np.testing.assert_allclose(combined[2], [3.0, 4.0], rtol=1e-6)  # half of (5 + 15) / 2
    assert combined[3] is None
    np.testing.assert_allclose(share, 0.1, rtol=1e-6)
    combined, share = of_one_method([None], [g1], tf.constant(0))
    np.testing.assert_array_equal(combined[0], g1)
    np.testing.assert_array_equal(share, 1)


def test_a_gradient_too_long_for_float32_is_clipped_to_nothing():
    combined, share = of_one_method(
        [tf.constant([3.0, 4.0])], [tf.constant([1e25, 1e30])], tf.constant(0)
    )
    np.testing.assert_array_equal(combined[0], [3.0, 4.0])
    np.testing.assert_array_equal(share, 0)


def test_each_of_several_methods_has_its_own_bound():
    """Bounds of 2.5 in the first epoch, and of 0.4 x 5 after many."""
    combined, share = clipped_combination(
        [tf.constant([3.0, 4.0])], [[tf.constant([0.0, 10.0])], [tf.constant([-6.0, 0.0])]],
        [tf.constant(0), tf.constant(50)], [1.0, 0.4],
    )
    np.testing.assert_allclose(combined[0], [3.0 - 2.0, 4.0 + 2.5], rtol=1e-6)
    np.testing.assert_allclose(share, np.hypot(2.5, 2.0) / np.hypot(10.0, 6.0), rtol=1e-6)
