"""What a method reads of both networks: which taps are compared, at which size, in which type."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from distillers.reading import Embedding, LastMap, Logits, Maps, Outputs
from registry import UserError

SMALLER = Maps(sizes="smaller", vectors="skip")


def taps(*shapes):
    return [tf.zeros((1, *shape)) for shape in shapes]


def gradients_of(reading, teacher, student, **options):
    """The prepared features, and the gradients of their sum at the given ones."""
    with tf.GradientTape() as tape:
        tape.watch([teacher, student])
        prepared = reading.prepare(teacher, student, **options)
        total = tf.add_n([tf.reduce_sum(x) for x in tf.nest.flatten(prepared)])
    return prepared, tape.gradient(total, [teacher, student])


def test_taps_that_do_not_pair_are_refused():
    maps = taps((4, 4, 3), (5,))
    assert Maps(at_least=2).check("X", maps, maps) == []
    with pytest.raises(UserError, match="X needs the same number .*: the teacher has 2, .* 1"):
        Maps().check("X", maps, maps[:1])
    with pytest.raises(UserError, match="at least 3: the teacher has 2"):
        Maps(at_least=3).check("X", maps, maps)
    with pytest.raises(UserError, match="tap 2 is a vector .* and a map"):
        Maps().check("X", maps, taps((4, 4, 3), (2, 2, 7)))
    assert Maps(mixed=True).check("X", maps, taps((4, 4, 3), (2, 2, 7))) == []
    with pytest.raises(UserError, match="tap 1 of the student has a variable size"):
        Maps().check("X", maps[:1], [keras.Input((None, None, 3))])


def test_channels_and_sizes():
    teacher, student = taps((4, 4, 3), (5,)), taps((2, 4, 3), (6,))
    assert Maps().check("X", teacher, student) == []
    with pytest.raises(UserError, match="tap 2 has 5 in the teacher.* and 6 in the student"):
        Maps(channels="equal").check("X", teacher, student)
    assert Maps(channels="adapt").check("X", teacher, student) == []
    with pytest.raises(UserError, match="tap 1 is 4x4 in the teacher.* and 2x4 in the student"):
        Maps(sizes="equal").check("X", teacher, student)


def test_vectors_are_left_out():
    teacher, student = taps((4, 4, 3), (5,), (2, 2, 7)), taps((8, 8, 1), (6,), (2, 2, 2))
    pairs = SMALLER.pairs(teacher, student)
    assert [(one.shape[-1], other.shape[-1]) for one, other in pairs] == [(3, 1), (7, 2)]
    assert len(SMALLER.prepare(teacher, student)[0]) == 2
    assert len(Maps().pairs(teacher, student)) == 3
    with pytest.raises(UserError, match="needs at least 1, but 1 of 1 taps are vectors"):
        SMALLER.check("X", taps((5,)), taps((5,)))


def test_tokens():
    """Of one number where sizes matter."""
    teacher, student = taps((16, 8)), taps((9, 4))
    assert Maps().check("X", teacher, student) == []
    with pytest.raises(UserError, match="as many tokens .* teacher has 16 .*, the student 9"):
        Maps(sizes="smaller").check("X", teacher, student)
    with pytest.raises(UserError, match="gives tokens: name layers that give maps or vectors"):
        Maps(tokens=False).check("X", teacher, student)


def test_the_larger_is_averaged_to_the_smaller():
    """Each axis by itself; the teacher's gets the student's type, and no gradient."""
    random = np.random.default_rng(0)
    teacher = tf.constant(random.normal(size=(2, 4, 3, 5)).astype("float32"))
    student = tf.constant(random.normal(size=(2, 2, 6, 7)))
    for reading in (Maps(sizes="smaller"), LastMap(sizes="smaller")):
        prepared, gradients = gradients_of(reading, teacher, student)
        theirs, ours = tf.nest.flatten(prepared)
        expected = teacher.numpy().reshape(2, 2, 2, 3, 5).mean(axis=2)
        np.testing.assert_allclose(theirs, expected, rtol=1e-6)
        np.testing.assert_allclose(ours, student.numpy().reshape(2, 2, 3, 2, 7).mean(axis=3))
        assert (theirs.dtype, ours.dtype) == (tf.float64, tf.float64)
        assert gradients[0] is None
        np.testing.assert_allclose(gradients[1], np.full(student.shape, 0.5))


@pytest.mark.parametrize("dtypes", [("float32", "bfloat16"), ("bfloat16", "float32")])
@pytest.mark.parametrize("reading", [Embedding(), Logits(), Maps(), LastMap(maps_only=False)])
def test_half_precision_is_widened(reading, dtypes):
    teacher, student = (tf.ones([2, 5], dtype) for dtype in dtypes)
    for learns in (False, True):
        prepared, gradients = gradients_of(reading, teacher, student, learns=learns)
        assert {x.dtype for x in tf.nest.flatten(prepared)} == {tf.float32}
        assert (gradients[0] is not None) == learns and gradients[1] is not None


def test_outputs_keep_the_students_type():
    teacher, student = [tf.ones([2, 3])] * 2, [tf.ones([2, 3], "bfloat16")] * 2
    theirs, ours = Outputs().prepare(teacher, student)
    assert {x.dtype for x in (*theirs, *ours)} == {tf.bfloat16}


def test_notes_name_the_pair():
    notes = SMALLER.check("X", taps((4, 4, 3), (2, 2, 5)), taps((4, 4, 1), (4, 1, 5)))
    assert len(notes) == 1
    assert notes[0].startswith("tap 2 (teacher: tap, shape (1, 2, 2, 5); student: ")
    assert "compared at 2x1" in notes[0]


def test_last_map():
    teacher, student = taps((4, 4, 3), (2, 4, 6)), taps((4, 2, 5))
    (note,) = LastMap(sizes="smaller").check("X", teacher, student)
    assert "compared at 2x2" in note
    assert LastMap().check("X", teacher, student) == []
    with pytest.raises(UserError, match="equal channels at the last tap: it has 6 in the teacher"):
        LastMap(channels="equal").check("X", teacher, student)
    with pytest.raises(UserError, match="X compares the last tap, but the teacher has no taps"):
        LastMap().check("X", [], student)
    vectors = taps((4, 4, 3), (5,))
    with pytest.raises(UserError, match="must be a map; the student's is a vector"):
        LastMap().check("X", teacher, vectors)
    assert LastMap(maps_only=False).check("X", teacher, vectors) == []


def test_widths_and_classes():
    one, other = tf.zeros([2, 5]), tf.zeros([2, 6])
    assert Embedding().check("X", one, other) == []
    with pytest.raises(UserError, match="equal width: the teacher's has 5 features"):
        Embedding(widths="equal").check("X", one, other)
    with pytest.raises(UserError, match="5 logits, the student 6"):
        Logits().check("X", one, other)
