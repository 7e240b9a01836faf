"""Pairs of maps: which taps are compared, and at which size."""

import numpy as np
import pytest
import tensorflow as tf
from distillers.maps import at_one_size, last_maps, map_pairs, size_notes

from registry import UserError


def taps(*shapes):
    return [tf.zeros((1, *shape)) for shape in shapes]


def test_vectors_are_left_out():
    teacher, student = taps((4, 4, 3), (5,), (2, 2, 7)), taps((8, 8, 1), (6,), (2, 2, 2))
    pairs = map_pairs("X", teacher, student)
    assert [(one.shape[-1], other.shape[-1]) for one, other in pairs] == [(3, 1), (7, 2)]


def test_what_cannot_be_paired_is_refused():
    with pytest.raises(UserError, match="X compares maps, and all 1 taps are vectors"):
        map_pairs("X", taps((5,)), taps((5,)))
    with pytest.raises(UserError, match="tap 2 is a map .* and a vector"):
        map_pairs("X", taps((4, 4, 3), (2, 2, 7)), taps((4, 4, 3), (7,)))
    with pytest.raises(UserError, match="the teacher has 1, the student 2"):
        map_pairs("X", taps((4, 4, 3)), taps((4, 4, 3), (2, 2, 7)))
    with pytest.raises(UserError, match="tap 2 is a vector"):
        last_maps("X", taps((4, 4, 3), (5,)), taps((4, 4, 3), (5,)))


def test_the_larger_is_averaged_to_the_smaller():
    """Each axis by itself; the teacher's gets the student's type, and no gradient."""
    random = np.random.default_rng(0)
    teacher = tf.constant(random.normal(size=(2, 4, 3, 5)).astype("float32"))
    student = tf.constant(random.normal(size=(2, 2, 6, 7)))
    with tf.GradientTape() as tape:
        tape.watch([teacher, student])
        ours = at_one_size(teacher, student)
        total = sum(tf.reduce_sum(maps) for maps in ours)
    expected = teacher.numpy().reshape(2, 2, 2, 3, 5).mean(axis=2)
    np.testing.assert_allclose(ours[0], expected, rtol=1e-6)
    np.testing.assert_allclose(ours[1], student.numpy().reshape(2, 2, 3, 2, 7).mean(axis=3))
    assert [maps.dtype for maps in ours] == [tf.float64, tf.float64]
    gradients = tape.gradient(total, [teacher, student])
    assert gradients[0] is None
    np.testing.assert_allclose(gradients[1], np.full(student.shape, 0.5))


def test_notes_name_the_pair():
    notes = size_notes(taps((4, 4, 3), (2, 2, 5)), taps((4, 4, 1), (4, 1, 5)))
    assert len(notes) == 1
    assert notes[0].startswith("tap 2 (teacher: tap, shape (1, 2, 2, 5); student: ")
    assert "compared at 2x1" in notes[0]
