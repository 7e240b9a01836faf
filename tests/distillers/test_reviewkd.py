"""ReviewKD against plain NumPy."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.signal import correlate2d
from scipy.special import expit

import distillers
from distillers.objective import weight_in_epoch
from distillers.reviewkd import hierarchical_context_loss
from distillers.stages import run_stages
from registry import UserError
from tests.distillers.harness import make_distiller, run_method_test


def outputs_of(seed, shapes, embedding=None, dtype=tf.float32):
    random = np.random.default_rng(seed)
    maps = [tf.constant(random.normal(size=(3, *shape)), dtype) for shape in shapes]
    size = (3, embedding or 5)
    return {"maps": maps, "embedding": tf.constant(random.normal(size=size), tf.float32)}


def built(teacher, student, **settings):
    return distillers.get("ReviewKD")(**settings).build(teacher, student)


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


def by_numpy(loss, teacher, student, training):
    """Deep to shallow, with the layers' weights."""
    total, fused = 0.0, None
    for level in reversed(range(len(teacher))):
        layer, ours, theirs = loss.layers[level], student[level], teacher[level]
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
    loss = built(teacher, student)
    for layer in loss.layers[:-1]:
        layer.attention.bias.assign([0.3, -0.2])
    levels = [
        [np.asarray(one, np.float64) for one in outputs["maps"]]
        + [np.asarray(outputs["embedding"], np.float64)[:, None, None]]
        for outputs in (teacher, student)
    ]
    expected = by_numpy(loss, *levels, training)
    found = loss.compute_loss(teacher, student, training=training)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert len(loss.layers) == 4 and loss.layers[-1].attention is None
    assert len(loss.notes) == 4
    assert "tap 1" in loss.notes[0] and "16x16x3, from 8x8x2" in loss.notes[0]


@pytest.mark.parametrize("size", [16, 8, 4, 2, 1])
def test_hierarchical_context(size):
    random = np.random.default_rng(2)
    student, teacher = random.normal(size=(2, 3, size, size, 5))
    found = hierarchical_context_loss(tf.constant(teacher), tf.constant(student))
    np.testing.assert_allclose(found, context_loss(student, teacher), rtol=1e-12)


def test_warm_up():
    """The weight of the first 20 of 240 epochs, by default; the loss itself is not weighted."""
    method = distillers.get("ReviewKD")(weight=0.6)
    (stage,) = run_stages([make_distiller(method).distillation_losses[0]])
    weights = [float(weight_in_epoch(stage.terms[0], tf.constant(e), 240)) for e in (0, 9, 19, 99)]
    np.testing.assert_allclose(weights, [0.6 / 20, 0.3, 0.6, 0.6], rtol=0.005)
    teacher, student = (outputs_of(seed, ((4, 4, 3),)) for seed in (3, 4))
    loss = built(teacher, student)
    losses = {
        float(loss.compute_loss(teacher, student, epoch=tf.constant(epoch))) for epoch in (0, 99)
    }
    assert len(losses) == 1


def test_a_vector_as_the_deepest_tap_is_the_deepest_level():
    teacher, student = (outputs_of(seed, ((4, 4, 3), (6,))) for seed in (5, 6))
    loss = built(teacher, student)
    assert [layer.name for layer in loss.layers] == ["fusion1", "fusion2"]
    changed = {**teacher, "embedding": teacher["embedding"] + 1}
    assert float(loss.compute_loss(teacher, student)) == float(loss.compute_loss(changed, student))


@pytest.mark.parametrize("change", [tf.zeros_like, tf.ones_like, lambda x: x])
@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float32, tf.float64])
def test_finite_and_no_gradient_for_the_teacher(change, dtype):
    shapes = (4, 4, 3), (2, 2, 6)
    teacher, student = (
        tf.nest.map_structure(change, outputs_of(seed, shapes, dtype=dtype)) for seed in (7, 8)
    )
    built_loss = built(teacher, student)
    with tf.GradientTape() as tape:
        tape.watch([teacher, student])
        loss = built_loss.compute_loss(teacher, student, training=True)
    gradients = tape.gradient(loss, [*teacher["maps"], *student["maps"]])
    assert np.isfinite(loss)
    assert gradients[:2] == [None] * 2
    for gradient in gradients[2:]:
        assert gradient.dtype == dtype
        assert np.all(np.isfinite(tf.cast(gradient, tf.float32)))


def test_what_does_not_fit_is_refused():
    for wrong, message in (
        ({"weight": -1.0}, "weight must be above 0"), ({"warmup": 20}, "warmup must be from 0 to 1")
    ):
        with pytest.raises(UserError, match=f"ReviewKD: {message}"):
            distillers.get("ReviewKD")(**wrong)
    tokens = {"maps": [tf.zeros([2, 9, 5])], "embedding": tf.zeros([2, 5])}
    with pytest.raises(UserError, match=r"ReviewKD compares maps .* \(2, 9, 5\) gives tokens"):
        built(tokens, tokens)
    one, other = outputs_of(9, ((4, 4, 3),)), outputs_of(9, ((4, 4, 3), (2, 2, 3)))
    with pytest.raises(UserError, match="ReviewKD .* teacher has 1, the student 2"):
        built(one, other)


def test_training():
    run_method_test(distillers.get("ReviewKD")())
