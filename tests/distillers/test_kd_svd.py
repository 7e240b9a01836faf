"""KD_SVD and KD_EID against NumPy and finite differences."""

import numpy as np
import pytest
import tensorflow as tf

import distillers
from registry import UserError
from tests.distillers.harness import run_method_test
from tests.reference import as_matrices, dfv, right_vectors

NAMES = "KD_SVD", "KD_EID"


def taps_of(seed, dtype=tf.float64, batch=3, shapes=((6, 5, 8), (3, 4, 14), (2, 2, 20), (11,))):
    """Like maps after ReLU, and a tapped fully connected layer."""
    random = np.random.default_rng(seed)
    maps = [np.maximum(random.normal(size=(batch, *shape)) + 0.2, 0) for shape in shapes]
    return [tf.constant(x, dtype) for x in maps]


def reference(teacher, student, num_dfv=1, candidates=4):
    """Sample by sample: orientation by the mean response, the best candidate, the teacher's sign
    flipped, weights, and the squared difference of the DFVs."""
    total = 0.0
    for sample in range(len(teacher[0])):
        count, before = num_dfv, None
        for t, s in zip(map(as_matrices, teacher), map(as_matrices, student), strict=True):
            values, theirs = right_vectors(t[sample], num_dfv)
            _, tried = right_vectors(s[sample], candidates)
            ours = np.zeros_like(theirs)
            for i in range(theirs.shape[1]):
                cosines = theirs[:, i] @ tried
                best = np.argmax(np.abs(cosines))
                ours[:, i] = tried[:, best]
                theirs[:, i] *= -1 if cosines[best] < 0 else 1
            now = values, theirs, ours
            if before:
                count = min(count, *(len(one[0]) for one in (before, now)))
                weighted = []
                for values, *vectors in (before, now):
                    weight = values[:count] / np.linalg.norm(values[:count])
                    weighted.append([one[:, :count] * weight for one in vectors])
                (top_t, top_s), (bottom_t, bottom_s) = weighted
                total += np.sum((dfv(top_s, bottom_s) - dfv(top_t, bottom_t)) ** 2)
            before = now
    return total


def loss_and_gradients(method, teacher, student):
    with tf.GradientTape() as tape:
        tape.watch(student)
        loss, figures = method.compute(teacher, student)
    gradients = tape.gradient(loss, student, unconnected_gradients="zero")
    return float(loss), [gradient.numpy() for gradient in gradients], figures


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("counts", [(1, 4), (1, 1), (2, 5)])
def test_loss_equals_a_loop(name, counts):
    teacher, student = taps_of(0, shapes=((8, 7, 8), (4, 4, 14), (3, 2, 20), (11,))), taps_of(1)
    method = distillers.get(name)(num_dfv=counts[0], candidates=counts[1])
    expected = reference(teacher, student, *counts)
    np.testing.assert_allclose(method.compute_loss(teacher, student), expected, rtol=1e-9)


@pytest.mark.parametrize("name", ["KD_SVD", "KD_EID"])
def test_there_are_three_candidates_more_than_vectors(name):
    random = np.random.default_rng(4)
    taps = [[tf.constant(random.normal(size=(2, 4, 4, 7))) for _ in range(2)] for _ in range(2)]
    method = distillers.get(name)
    found = method(num_dfv=2).compute_loss(*taps)
    np.testing.assert_allclose(found, method(num_dfv=2, candidates=5).compute_loss(*taps))
    assert abs(found - method(num_dfv=2, candidates=2).compute_loss(*taps)) > 1e-6


def test_the_number_of_candidates_matters():
    """A student whose fourth vector is the teacher's first."""
    random = np.random.default_rng(2)
    left, right = (np.linalg.qr(random.normal(size=(n, 6)))[0] for n in (12, 6))
    student = left @ np.diag([6, 5, 4, 3, 2, 1]) @ right.T
    teacher = left @ np.diag([1, 2, 3, 6, 5, 4]) @ right.T
    taps = [[tf.constant(x.reshape(1, 4, 3, 6))] * 2 for x in (teacher, student)]
    method = distillers.get("KD_SVD")
    assert float(method().compute_loss(*taps)) < 1e-20
    assert float(method(candidates=3).compute_loss(*taps)) > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_that_of_finite_differences(name):
    """For a tall, a nearly square and a wide map, and a vector."""
    shapes = (4, 3, 5), (2, 3, 6), (2, 2, 9), (6,)
    teacher, student = taps_of(4, batch=2, shapes=shapes), taps_of(5, batch=2, shapes=shapes)
    _, gradients, _ = loss_and_gradients(distillers.get(name)(), teacher, student)
    random, step = np.random.default_rng(6), 1e-6
    norm = np.linalg.norm([np.linalg.norm(gradient) for gradient in gradients])
    for tap in range(len(shapes)):
        move = random.normal(size=student[tap].shape)
        move /= np.linalg.norm(move)

        def at(times, tap=tap, move=move):
            moved = list(student)
            moved[tap] = student[tap] + times * step * move
            return reference(teacher, moved)

        slope = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * step)
        assert abs(slope - np.sum(gradients[tap] * move)) < 1e-6 * norm


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "change",
    [
        np.zeros_like,
        np.ones_like,
        lambda x: x * np.nan,
        lambda x: np.repeat(x[:, :1], x.shape[1], axis=1),  # equal rows
        lambda x: np.einsum("bhw,bd->bhwd", x[..., 0], x[:, 0, 0]),  # rank 1
    ],
)
def test_always_finite(name, change):
    shapes = (7, 6, 8), (6, 5, 30)
    plain = [[x.numpy() for x in taps_of(seed, shapes=shapes)] for seed in (12, 13)]
    for hard in ((True, False), (False, True), (True, True)):
        taps = [
            [tf.constant(change(x) if spoiled else x, tf.float32) for x in maps]
            for spoiled, maps in zip(hard, plain, strict=True)
        ]
        loss, gradients, _ = loss_and_gradients(distillers.get(name)(), *taps)
        assert np.isfinite(loss)
        assert all(np.all(np.isfinite(gradient)) for gradient in gradients)


def test_a_bad_sample_counts_for_nothing():
    teacher, student = taps_of(7, shapes=((6, 5, 8), (3, 4, 14))), taps_of(8)[:2]
    spoiled = student[0].numpy()
    spoiled[1, 2, 3, 4] = np.inf
    loss, gradients, figures = loss_and_gradients(
        distillers.get("KD_SVD")(), teacher, [tf.constant(spoiled), student[1]]
    )
    some = [[tf.gather(x, [0, 2]) for x in maps] for maps in (teacher, student)]
    np.testing.assert_allclose(loss, 3 / 2 * reference(*some), rtol=1e-6)
    assert not gradients[0][1].any() and not gradients[1][1].any()
    np.testing.assert_allclose(figures["dropped_share"], 1 / 3, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtypes", [(tf.bfloat16, tf.bfloat16), (tf.bfloat16, tf.float32)])
def test_computed_in_at_least_float32(name, dtypes):
    teacher, student = taps_of(16, dtypes[0]), taps_of(17, dtypes[1])
    with tf.GradientTape() as tape:
        tape.watch([*teacher, *student])
        loss = distillers.get(name)().compute_loss(teacher, student)
    gradients = tape.gradient(loss, [*teacher, *student])
    assert gradients[:4] == [None] * 4
    assert loss.dtype == tf.float32
    widened = [[tf.cast(x, tf.float64) for x in maps] for maps in (teacher, student)]
    np.testing.assert_allclose(loss, reference(*widened), rtol=2e-5)


def test_taps_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="KD_SVD needs .* at least 2"):
        distillers.get("KD_SVD")().build([tf.zeros([1, 4, 4, 3])], [tf.zeros([1, 4, 4, 3])])
    taps = [[tf.zeros([1, 4, 4, 3]), tf.zeros([1, 2, 2, size])] for size in (5, 6)]
    with pytest.raises(UserError, match="KD_EID .* tap 2 has 5 in the teacher.* 6 in the student"):
        distillers.get("KD_EID")(adapter="none").build(*taps)


@pytest.mark.parametrize("name", NAMES)
def test_nonsense_is_refused(name):
    with pytest.raises(UserError, match=f"{name}: num_dfv must be at least 1, not 0"):
        distillers.get(name)(num_dfv=0)
    with pytest.raises(UserError, match=f"{name}: candidates must be at least num_dfv .3., not 2"):
        distillers.get(name)(num_dfv=3, candidates=2)
    with pytest.raises(UserError, match="solver: unknown value"):
        distillers.get("KD_SVD")(solver="eigh")


def test_training():
    """With adapters from the student's channels to the teacher's."""
    assert len(run_method_test(distillers.get("KD_SVD")()).method_layers) == 2
