"""SSKD_SVD against the original's golden values, NumPy, and finite differences."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import distillers
from distillers import FSP, SSKD_SVD
from op_util.alignment import Aligned
from op_util.dfv import compare_dfvs
from registry import UserError
from tests.distillers.harness import run_method_test
from tests.reference import SIGNS, relative_error, sskd_svd

GOLDEN = np.load(Path(__file__).parents[1] / "data" / "sskd_svd.npz")
CASES = sorted({key.split("/")[0] for key in GOLDEN})


def golden_taps(case):
    count = sum(key.startswith(f"{case}/student_") for key in GOLDEN)
    return [
        [tf.constant(GOLDEN[f"{case}/{who}_{i}"]) for i in range(count)]
        for who in ("teacher", "student")
    ]


def loss_and_gradients(method, teacher, student):
    """The loss, the gradients at the student's taps, and what is logged."""
    with tf.GradientTape() as tape:
        tape.watch(student)
        loss, figures = method.compute(teacher, student)
    gradients = tape.gradient(loss, student, unconnected_gradients="zero")
    return loss.numpy(), [gradient.numpy() for gradient in gradients], figures


def taps_of(seed, dtype=tf.float64, batch=4, shapes=((6, 5, 8), (3, 4, 14), (2, 2, 40), (20,))):
    """Like maps after ReLU, and a tapped fully connected layer."""
    random = np.random.default_rng(seed)
    maps = [np.maximum(random.normal(size=(batch, *shape)) + 0.3, 0) for shape in shapes]
    return [tf.constant(x, dtype) for x in maps]


@pytest.mark.parametrize("case", CASES)
def test_canonical_golden_values(case, solver):
    teacher, student = golden_taps(case)
    method = SSKD_SVD(
        num_dfv=int(GOLDEN[f"{case}/num_dfv"]), orientation="canonical", solver=solver
    )
    loss, gradients, _ = loss_and_gradients(method, teacher, student)
    np.testing.assert_allclose(loss, GOLDEN[f"{case}/loss_canonical"], rtol=1e-5)
    for i, gradient in enumerate(gradients):
        assert relative_error(gradient, GOLDEN[f"{case}/grad_canonical_{i}"]) < 1e-4


@pytest.mark.parametrize("case", CASES)
def test_published_golden_values(case):
    teacher, student = golden_taps(case)
    method = SSKD_SVD(
        num_dfv=int(GOLDEN[f"{case}/num_dfv"]),
        solver="svd",
        orientation="as_computed",
        gradient="published",
    )
    loss, gradients, _ = loss_and_gradients(method, teacher, student)
    np.testing.assert_allclose(loss, GOLDEN[f"{case}/loss_published"], rtol=1e-5)
    for i, gradient in enumerate(gradients):
        expected = GOLDEN[f"{case}/grad_published_{i}"]
        if not expected.any():
            np.testing.assert_array_equal(gradient, 0)
        else:
            assert relative_error(gradient, expected) < 1e-4


@pytest.mark.parametrize("case", CASES)
def test_fsp_golden_values(case):
    loss = FSP().compute_loss(*golden_taps(case))
    np.testing.assert_allclose(loss, GOLDEN[f"{case}/fsp"], rtol=1e-6)


@pytest.mark.parametrize("orientation", SIGNS)
@pytest.mark.parametrize("num_dfv", [1, 2, 3, 4])
def test_loss_is_that_of_the_notes(num_dfv, orientation, solver):
    """k shrinks with the 2x2 map and the fully connected tap; the teacher's maps are larger."""
    teacher = taps_of(0, shapes=((8, 7, 8), (4, 4, 14), (2, 3, 40), (20,)))
    student = taps_of(1)
    method = SSKD_SVD(num_dfv=num_dfv, orientation=orientation, solver=solver)
    expected = sskd_svd(teacher, student, num_dfv, orientation)
    np.testing.assert_allclose(method.compute_loss(teacher, student), expected, rtol=1e-9)


def test_loss_of_taps_that_grow_again():
    """Once shrunk, k stays so for the deeper pairs."""
    shapes = (6, 6, 8), (10,), (5, 5, 12), (4, 4, 9)
    teacher, student = taps_of(2, shapes=shapes), taps_of(3, shapes=shapes)
    found = SSKD_SVD(num_dfv=3).compute_loss(teacher, student)
    np.testing.assert_allclose(found, sskd_svd(teacher, student, 3), rtol=1e-9)


@pytest.mark.parametrize(("num_dfv", "orientation"), [(1, "symmetric"), (3, "symmetric"),
                                                      (3, "canonical")])
def test_gradient_is_that_of_finite_differences(num_dfv, orientation, solver):
    shapes = (4, 3, 5), (2, 2, 9), (6,)
    teacher, student = taps_of(4, batch=2, shapes=shapes), taps_of(5, batch=2, shapes=shapes)
    method = SSKD_SVD(num_dfv=num_dfv, orientation=orientation, solver=solver)
    _, gradients, _ = loss_and_gradients(method, teacher, student)
    random, step = np.random.default_rng(6), 1e-6
    norm = np.linalg.norm([np.linalg.norm(gradient) for gradient in gradients])
    for trial in range(6):
        move = gradients if trial == 0 else [random.normal(size=x.shape) for x in student]
        length = np.linalg.norm([np.linalg.norm(x) for x in move])

        def at(times, move=move, length=length):
            moved = [x + times * step / length * d for x, d in zip(student, move, strict=True)]
            return sskd_svd(teacher, moved, num_dfv, orientation)

        slope = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * step)
        along = sum(np.sum(g * d) for g, d in zip(gradients, move, strict=True)) / length
        assert abs(slope - along) < 1e-6 * norm


def step_of(method):
    def step(teacher, student):
        with tf.GradientTape() as tape:
            tape.watch(student)
            loss = method.compute_loss(teacher, student)
        return loss, tape.gradient(loss, student)

    return step


def test_inside_tf_function_for_batches_of_any_size(solver):
    case = "four_dfv_fc"  # a single one, as a graph takes its time
    method = SSKD_SVD(
        num_dfv=int(GOLDEN[f"{case}/num_dfv"]), orientation="canonical", solver=solver
    )
    taps = golden_taps(case)
    signature = [[tf.TensorSpec([None, *x.shape[1:]]) for x in maps] for maps in taps]
    loss, gradients = tf.function(step_of(method), input_signature=signature)(*taps)
    np.testing.assert_allclose(loss, GOLDEN[f"{case}/loss_canonical"], rtol=1e-5)
    for i, gradient in enumerate(gradients):
        assert relative_error(gradient, GOLDEN[f"{case}/grad_canonical_{i}"]) < 1e-4


@pytest.mark.parametrize("num_dfv", [1, 2])
def test_no_tensor_of_both_taps_channels(num_dfv):
    """Nothing as large as D_top x D_bottom for an image, in the graphs of loss and gradient."""
    shapes = (2, 2, 48), (2, 2, 80)
    signature = [[tf.TensorSpec([None, *shape]) for shape in shapes]] * 2
    step = tf.function(step_of(SSKD_SVD(num_dfv=num_dfv)), input_signature=signature)
    graph = step.get_concrete_function().graph.as_graph_def(add_shapes=True)
    nodes = [*graph.node, *(node for part in graph.library.function for node in part.node_def)]
    listed = [shape for node in nodes for shape in node.attr["_output_shapes"].list.shape]
    sizes = [
        np.prod([max(dim.size, 1) for dim in shape.dim])
        for shape in listed
        if not shape.unknown_rank
    ]
    assert len(sizes) > 500
    assert max(sizes) < 48 * 80


@pytest.mark.slow
def test_compiled_by_xla():
    """A case with close values that need float64. The other solver is compiled in the tests of
    `op_util.singular_vectors`."""
    taps = [maps[:2] for maps in golden_taps("two_dfv")]
    step = step_of(SSKD_SVD(num_dfv=2))
    expected, slopes = step(*taps)
    loss, gradients = tf.function(step, jit_compile=True)(*taps)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    for gradient, slope in zip(gradients, slopes, strict=True):
        assert relative_error(gradient, slope) < 1e-3


@pytest.mark.parametrize("num_dfv", [1, 2])
def test_loss_does_not_know_the_routines_signs(monkeypatch, num_dfv):
    teacher, student = taps_of(7), taps_of(8)
    computed = tf.linalg.svd

    def other_signs(x, *args, **kwargs):
        values, left, right = computed(x, *args, **kwargs)
        signs = np.where(np.arange(right.shape[-1]) % 3 == 0, -1.0, 1.0)
        signs = signs * np.where(x.shape[-1] % 4 == 0, -1, 1)
        return values, left * signs, right * signs

    losses = {}
    for orientation in ("symmetric", "canonical", "opposed", "as_computed"):
        method = SSKD_SVD(num_dfv=num_dfv, solver="svd", orientation=orientation)
        losses[orientation] = [float(method.compute_loss(teacher, student))]
        with monkeypatch.context() as patched:
            patched.setattr(tf.linalg, "svd", other_signs)
            losses[orientation].append(float(method.compute_loss(teacher, student)))
    for orientation in ("symmetric", "canonical", "opposed"):
        np.testing.assert_allclose(*losses[orientation], rtol=1e-12)
    assert abs(losses["as_computed"][0] / losses["as_computed"][1] - 1) > 0.01


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
@pytest.mark.parametrize(("whose", "tap"), [("teacher", 0), ("student", 1), ("student", 2)])
def test_a_bad_sample_counts_for_nothing(tap, whose, bad, solver):
    """In the pairs that it touches; there the others count for B / good."""
    shapes = (6, 5, 8), (3, 4, 14), (2, 2, 30)
    teacher, student = taps_of(9, shapes=shapes), taps_of(10, shapes=shapes)
    method = SSKD_SVD(num_dfv=2, solver=solver)
    spoiled = teacher if whose == "teacher" else student
    values = spoiled[tap].numpy()
    values[1, 0, 0, 3] = bad
    spoiled[tap] = tf.constant(values)
    loss, gradients, figures = loss_and_gradients(method, teacher, student)

    good = [0, 2, 3]
    expected, scaled = 0.0, [np.zeros(x.shape) for x in student]
    pairs_with_it = 0
    for pair in (0, 1):
        touched = tap in (pair, pair + 1)
        pairs_with_it += touched
        rows = good if touched else range(4)
        factor = 4 / 3 if touched else 1
        some = [[tf.gather(x, rows) for x in maps[pair : pair + 2]] for maps in (teacher, student)]
        part, slopes, _ = loss_and_gradients(method, *some)
        expected += factor * part
        for i, slope in enumerate(slopes):
            scaled[pair + i][rows] += factor * slope
    np.testing.assert_allclose(loss, expected, rtol=1e-7)  # the share is in float32
    for gradient, other in zip(gradients, scaled, strict=True):
        np.testing.assert_allclose(gradient, other, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(figures["dropped_share"], pairs_with_it / 2 / 4, rtol=1e-6)


def hard(name, maps):
    """The maps, made hard."""
    random = np.random.default_rng(11)

    def orthogonal(x):
        rows, columns = x.shape[1] * x.shape[2], x.shape[3]
        square = np.linalg.qr(random.normal(size=(max(rows, columns),) * 2))[0]
        return np.stack([square[:rows, :columns]] * len(x)).reshape(x.shape)

    def rank_1(x):
        return np.einsum("bhw,bd->bhwd", x[..., 0], x[:, 0, 0])

    change = {
        "zero": np.zeros_like,
        "constant": np.ones_like,
        "rank 1": rank_1,
        "repeated values": orthogonal,
        "1x1 maps": lambda x: x[:, :1, :1],
        "one channel": lambda x: x[..., :1],
        "NaN": lambda x: x * np.nan,
        "huge": lambda x: x * 1e20,
        "tiny": lambda x: x * 1e-20,
        # Finite maps whose singular values overflow: what pooling makes of NaN, for example.
        "lowest": lambda x: np.full_like(x, np.finfo(np.float32).min),
    }[name]
    return [change(x) for x in maps]


@pytest.mark.parametrize("gradient", ["exact", "published"])
@pytest.mark.parametrize(
    "name",
    "zero, constant, rank 1, repeated values, 1x1 maps, one channel, NaN, huge, tiny, lowest".split(
        ", "
    ),
)
def test_always_finite(name, gradient, solver):
    shapes = (7, 6, 8), (6, 5, 30)
    plain = [[x.numpy() for x in taps_of(seed, shapes=shapes)] for seed in (12, 13)]
    for which in ("student", "teacher", "both"):
        teacher = hard(name, plain[0]) if which != "student" else plain[0]
        student = hard(name, plain[1]) if which != "teacher" else plain[1]
        if name == "one channel":
            teacher, student = (hard(name, maps) for maps in plain)
        method = SSKD_SVD(num_dfv=2, solver=solver, gradient=gradient)
        loss, gradients, _ = loss_and_gradients(
            method, *([tf.constant(x, tf.float32) for x in maps] for maps in (teacher, student))
        )
        assert np.isfinite(loss)
        assert all(np.all(np.isfinite(gradient)) for gradient in gradients)


@pytest.mark.parametrize("scale", [1e-20, 1e20])
@pytest.mark.parametrize("num_dfv", [1, 2])
def test_loss_does_not_depend_on_the_maps_scale(num_dfv, scale, solver):
    shapes = (6, 5, 8), (5, 6, 30)
    teacher, student = (taps_of(seed, tf.float32, shapes=shapes) for seed in (14, 15))
    expected = sskd_svd(teacher, student, num_dfv)
    method = SSKD_SVD(num_dfv=num_dfv, solver=solver)
    for maps in ([teacher, [scale * x for x in student]], [[scale * x for x in teacher], student]):
        np.testing.assert_allclose(method.compute_loss(*maps), expected, rtol=1e-4)


@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float16, tf.float32, tf.float64])
def test_computed_in_at_least_float32(dtype):
    teacher, student = taps_of(16, dtype), taps_of(17, dtype)
    loss, gradients, _ = loss_and_gradients(SSKD_SVD(num_dfv=2), teacher, student)
    assert loss.dtype == (np.float64 if dtype == tf.float64 else np.float32)
    assert all(gradient.dtype == dtype.as_numpy_dtype for gradient in gradients)
    widened = [[tf.cast(x, tf.float64) for x in maps] for maps in (teacher, student)]
    np.testing.assert_allclose(loss, sskd_svd(*widened, 2), rtol=2e-5)


def test_teacher_and_student_may_differ_in_type():
    teacher, student = taps_of(18, tf.bfloat16), taps_of(19, tf.float32)
    loss = SSKD_SVD().compute_loss(teacher, student)
    expected = sskd_svd([tf.cast(x, tf.float64) for x in teacher], student, 1)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_no_gradient_for_the_teacher_and_an_equal_student_has_none():
    teacher = taps_of(20)
    with tf.GradientTape() as tape:
        tape.watch(teacher)
        loss = SSKD_SVD(num_dfv=2).compute_loss(teacher, [tf.identity(x) for x in teacher])
    assert float(loss) < 1e-20
    assert all(gradient is None or float(tf.norm(gradient)) < 1e-9
               for gradient in tape.gradient(loss, teacher))


def test_training():
    """With adapters from the student's channels to the teacher's."""
    assert len(run_method_test(SSKD_SVD(num_dfv=2)).method_layers) == 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_dfv": 0}, "num_dfv must be at least 1"),
        ({"gradient": "exakt"}, "gradient: unknown value 'exakt'.*did you mean 'exact'"),
        ({"orientation": "canon"}, "orientation: unknown value"),
        ({"solver": "svdd"}, "solver: unknown value 'svdd'.*did you mean 'svd'"),
    ],
)
def test_nonsense_is_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        SSKD_SVD(**wrong)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_sample_without_a_number_is_dropped_whatever_the_solver(solver, dtype):
    """The others count 8 / 7, also where float32 is not enough and all is found again."""
    random = np.random.default_rng(0)
    shapes = ((8, 8, 8), (4, 4, 16), (2, 2, 24))
    teacher, student = (
        [random.normal(size=(8, *shape)).astype(dtype) for shape in shapes] for _ in range(2)
    )
    bad, good = [tap.copy() for tap in student], [0, 1, 2, 4, 5, 6, 7]
    for tap in bad:
        tap[3, 0, 0, 0] = np.nan
    teacher, student, bad = (list(map(tf.constant, taps)) for taps in (teacher, student, bad))
    for method in (SSKD_SVD(solver=solver), distillers.KD_SVD(solver=solver)):
        loss, metrics = method.compute(teacher, bad)
        seven = method.compute_loss(
            *([tf.gather(tap, good) for tap in taps] for taps in (teacher, student))
        )
        np.testing.assert_allclose(loss, seven * 8 / 7, rtol=1e-4)
        np.testing.assert_allclose(metrics["dropped_share"], 1 / 8, rtol=1e-6)


def test_symmetric_does_not_depend_on_signs_and_notices_a_common_shift():
    """Turning both networks' vectors at a tap changes nothing; with one relative sign the loss
    hardly notices when both of the student's vectors are shifted alike, with both it does."""
    random = np.random.default_rng(5)
    top, bottom = (random.normal(size=(1, 6, 1)) / 8 for _ in range(2))
    shift = 0.05

    def pair(signs, bottom_sign=1):
        taps = [
            Aligned(
                tf.constant(sign * (vectors + shift)), tf.constant(sign * vectors),
                tf.ones([1, 1], tf.float64), tf.constant([True]),
            )
            for sign, vectors in ((1, top), (bottom_sign, bottom))
        ]
        return float(compare_dfvs(taps, 1, signs)[0].squares[0])

    both = [tf.zeros([1, 1])]
    np.testing.assert_allclose(pair(both), pair(both, bottom_sign=-1), rtol=1e-9)
    assert pair(None) < 1e-12 < 1e-7 < pair(both)


@pytest.mark.parametrize("mixed", [False, True])
def test_symmetric_compares_directions_and_energies(mixed):
    """Its closed form to second order in the entries, for unit vectors (docs/sskd_svd.md); and with
    vectors of one sign, as behind a ReLU, the half of opposed signs is by far the larger one."""
    random = np.random.default_rng(6)

    def unit(v):
        return v / np.linalg.norm(v)

    def vector(size):
        v = random.normal(size=size)
        return unit(v if mixed else np.abs(v))

    theirs = [vector(32), vector(64)]
    ours = [unit(v + vector(len(v)) / 2) for v in theirs]
    taps = [
        Aligned(tf.constant(s[None, :, None]), tf.constant(t[None, :, None]),
                tf.ones([1, 1], tf.float64), tf.constant([True]))
        for s, t in zip(ours, theirs, strict=True)
    ]

    def half_squares(signs):
        return float(compare_dfvs(taps, 1, signs)[0].squares[0]) / 2

    cosines = np.prod([s @ t for s, t in zip(ours, theirs, strict=True)])
    energies = [np.sum((s**2 - t**2) ** 2) for s, t in zip(ours, theirs, strict=True)]
    expected = (1 - cosines) / 16 + (64 * energies[0] + 32 * energies[1]) / 128
    np.testing.assert_allclose(half_squares([tf.zeros([1, 1])]), expected, rtol=0.07)
    canonical, opposed = half_squares(None), half_squares([-tf.ones([1, 1])])
    np.testing.assert_allclose((canonical + opposed) / 2, half_squares([tf.zeros([1, 1])]))
    assert mixed or opposed > 2.5 * canonical


def test_random_signs_are_those_of_image_and_epoch():
    teacher, student = taps_of(13), taps_of(14)
    method = SSKD_SVD(orientation="random", num_dfv=2)
    losses = {
        (epoch, first): float(
            method.compute_loss(
                teacher, student, epoch=tf.constant(epoch), indices=tf.range(first, first + 4)
            )
        )
        for epoch in range(3) for first in (0, 50)
    }
    again = method.compute_loss(
        teacher, student, epoch=tf.constant(1), indices=tf.range(50, 54)
    )
    assert float(again) == losses[1, 50] and len(set(losses.values())) > 3
    with pytest.raises(UserError, match="needs indices"):
        method.compute_loss(teacher, student)
