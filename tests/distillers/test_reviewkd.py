"""ReviewKD against plain NumPy."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.signal import correlate2d
from scipy.special import expit

import distillers
from distillers.reviewkd import hierarchical_context_loss
from registry import UserError
from tests.distillers.models import network
from tests.distillers.stages import check_gradients, larger_network


def outputs_of(seed, shapes, embedding=None, dtype=tf.float32):
    random = np.random.default_rng(seed)
    maps = [tf.constant(random.normal(size=(3, *shape)), dtype) for shape in shapes]
    size = (3, embedding or 5)
    return {"maps": maps, "embedding": tf.constant(random.normal(size=size), tf.float32)}


def built(teacher, student, **settings):
    method = distillers.get("ReviewKD")(**settings)
    method.build(teacher, student)
    return method


def pooled(maps, size):
    """Mean over a grid of ``size x size`` cells, for sizes that divide."""
    batch, height, width, channels = maps.shape
    cells = maps.reshape(batch, size, height // size, size, width // size, channels)
    return cells.mean(axis=(2, 4))


def context_loss(student, teacher):
    smaller = [size for size in (4, 2, 1) if size < student.shape[1]]
    parts = [np.mean((student - teacher) ** 2)]
    parts += [np.mean((pooled(student, size) - pooled(teacher, size)) ** 2) for size in smaller]
    return np.average(parts, weights=[1, 1 / 2, 1 / 4, 1 / 8][: len(parts)])


def normalised(maps, layer, training):
    mean, variance = (maps.mean((0, 1, 2)), maps.var((0, 1, 2))) if training else (0, 1)
    return (maps - mean) / np.sqrt(variance + layer.epsilon)


def convolved(maps, kernel):
    """3x3, zeros around, one pair of channels at a time."""
    found = np.zeros((*maps.shape[:3], kernel.shape[3]))
    for sample, i, o in np.ndindex(len(maps), *kernel.shape[2:]):
        found[sample, ..., o] += correlate2d(maps[sample, ..., i], kernel[:, :, i, o], "same")
    return found


def enlarged(maps, size):
    return maps.repeat(size // maps.shape[1], axis=1).repeat(size // maps.shape[2], axis=2)


def by_numpy(method, teacher, student, training):
    """Deep to shallow, with the layers' weights."""
    total, fused = 0.0, None
    for level in reversed(range(len(teacher))):
        layer, ours, theirs = method.layers[level], student[level], teacher[level]
        kernel = np.asarray(layer.reduction.kernel, np.float64)[0, 0]
        maps = normalised(ours @ kernel, layer.reduction_normalization, training)
        if fused is not None:
            deeper = enlarged(fused, maps.shape[1])
            weights, bias = layer.attention.get_weights()
            share = expit(np.concatenate([maps, deeper], axis=3) @ weights[0, 0] + bias)
            maps = maps * share[..., :1] + deeper * share[..., 1:]
        fused = enlarged(maps, theirs.shape[1])
        found = convolved(fused, np.asarray(layer.output_convolution.kernel, np.float64))
        total += context_loss(normalised(found, layer.output_normalization, training), theirs)
    return total


@pytest.mark.parametrize("training", [False, True])
def test_loss_equals_numpy(training):
    """Three maps and the embedding; the teacher's maps are larger and wider."""
    teacher = outputs_of(0, ((16, 16, 3), (8, 8, 6), (4, 4, 7)), embedding=7)
    student = outputs_of(1, ((8, 8, 2), (4, 4, 4), (2, 2, 6)), embedding=6)
    method = built(teacher, student)
    for layer in method.layers[:-1]:
        layer.attention.bias.assign([0.3, -0.2])
    levels = [
        [np.asarray(one, np.float64) for one in outputs["maps"]]
        + [np.asarray(outputs["embedding"], np.float64)[:, None, None]]
        for outputs in (teacher, student)
    ]
    expected = by_numpy(method, *levels, training)
    context = {"stage": "train"} if training else {}
    np.testing.assert_allclose(
        method.compute_loss(teacher, student, **context), expected, rtol=1e-4
    )
    assert len(method.layers) == 4 and method.layers[-1].attention is None
    assert len(method.notes) == 4
    assert "tap 1" in method.notes[0] and "16x16x3, from 8x8x2" in method.notes[0]


@pytest.mark.parametrize("size", [16, 8, 4, 2, 1])
def test_hierarchical_context(size):
    random = np.random.default_rng(2)
    student, teacher = random.normal(size=(2, 3, size, size, 5))
    found = hierarchical_context_loss(tf.constant(student), tf.constant(teacher))
    np.testing.assert_allclose(found, context_loss(student, teacher), rtol=1e-12)


def test_warm_up():
    teacher = outputs_of(3, ((4, 4, 3),))
    student = outputs_of(4, ((4, 4, 3),))
    method = built(teacher, student, warmup=4)
    full = float(method.compute_loss(teacher, student))
    for epoch, share in ((0, 0.25), (2, 0.75), (3, 1), (9, 1)):
        found = method.compute_loss(teacher, student, epoch=tf.constant(epoch))
        np.testing.assert_allclose(found, share * full, rtol=1e-6)


def test_a_vector_as_the_deepest_tap_is_the_deepest_level():
    teacher, student = (outputs_of(seed, ((4, 4, 3), (6,))) for seed in (5, 6))
    method = built(teacher, student)
    assert [layer.name for layer in method.layers] == ["fusion1", "fusion2"]
    changed = {**teacher, "embedding": teacher["embedding"] + 1}
    assert float(method.compute_loss(teacher, student)) == float(
        method.compute_loss(changed, student)
    )


@pytest.mark.parametrize("change", [tf.zeros_like, tf.ones_like, lambda x: x])
@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float32, tf.float64])
def test_finite_and_no_gradient_for_the_teacher(change, dtype):
    shapes = (4, 4, 3), (2, 2, 6)
    teacher, student = (
        tf.nest.map_structure(change, outputs_of(seed, shapes, dtype=dtype)) for seed in (7, 8)
    )
    method = built(teacher, student)
    with tf.GradientTape() as tape:
        tape.watch([teacher, student])
        loss = method.compute_loss(teacher, student, stage="train", epoch=0)
    gradients = tape.gradient(loss, [*teacher["maps"], *student["maps"]])
    assert np.isfinite(loss)
    assert gradients[:2] == [None] * 2
    for gradient in gradients[2:]:
        assert gradient.dtype == dtype
        assert np.all(np.isfinite(tf.cast(gradient, tf.float32)))


def test_what_does_not_fit_is_refused():
    for wrong in ({"weight": -1.0}, {"warmup": 0}):
        with pytest.raises(UserError, match="ReviewKD: .* must be above 0"):
            distillers.get("ReviewKD")(**wrong)
    one, other = outputs_of(9, ((4, 4, 3),)), outputs_of(9, ((4, 4, 3), (2, 2, 3)))
    with pytest.raises(UserError, match="ReviewKD .* teacher has 1, the student 2"):
        built(one, other)


def test_gradients_reach_what_is_trained():
    for teacher in (network(2, "teacher", width=2), larger_network(2, "teacher")):
        check_gradients(distillers.get("ReviewKD")(weight=1.0), teacher=teacher)
