"""Leading eigenpairs of Gram matrices with various spectra against NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from op_util import decomposition
from op_util.decomposition import (
    PLANS,
    full_eigenpairs,
    leading_eigenpairs,
    routine_for,
)
from op_util.devices import assume_device

SPECTRA = {
    "falling": lambda n: 0.7 ** np.arange(n),
    "slowly falling": lambda n: 1 / (1 + np.arange(n)),
    "all close": lambda n: 1 - 1e-3 * np.arange(n),
    "all equal": lambda n: np.ones(n),
    "ties of three": lambda n: np.repeat(0.5 ** np.arange(n), 3)[:n],
    "one and a flat rest": lambda n: np.r_[1, np.full(n - 1, 0.3)],
    "rank 1": lambda n: np.r_[1.0, np.zeros(n - 1)],
    "rank 5": lambda n: np.r_[np.arange(5, 0, -1), np.zeros(n - 5)],
    "zero": lambda n: np.zeros(n),
}
SIZES = (PLANS["CPU"].full_below - 4, 40, 72)


def gram_of(spectrum, size, seed):
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]
    values = SPECTRA[spectrum](size).astype(float)
    return (basis * (values / max(values.sum(), 1e-300))) @ basis.T


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_values_and_orthonormal_vectors(spectrum, dtype, device):
    tolerance = 1e-5 if dtype == tf.float32 else 1e-12
    for size in SIZES:
        gram = np.stack([gram_of(spectrum, size, seed) for seed in range(3)])
        for count in (1, 3, 5):
            pairs = leading_eigenpairs(tf.constant(gram, dtype), count)
            values, vectors = (part[..., :count].numpy().astype(float) for part in pairs)
            expected = np.linalg.eigvalsh(gram)[:, ::-1][:, :count]
            largest = max(expected.max(), 1e-30)
            np.testing.assert_allclose(values, expected, atol=tolerance * largest)
            residual = gram @ vectors - values[:, None] * vectors
            assert np.max(np.abs(residual)) <= tolerance * largest
            for i in range(3):
                kept = vectors[i][:, expected[i] > tolerance * largest]
                products = kept.T @ kept
                np.testing.assert_allclose(products, np.eye(len(products)), atol=10 * tolerance)


def test_constant_matrix(device):
    """All columns of the block are multiples of one vector."""
    for size in (*SIZES, 64):
        gram = np.ones((2, size, size), np.float32) / size
        for count in (2, 3, 4):
            values = leading_eigenpairs(tf.constant(gram), count).values[:, :count]
            np.testing.assert_allclose(values, [[1, *[0] * (count - 1)]] * 2, atol=1e-5)


def test_a_hard_sample_leaves_the_others_exact(device):
    size = SIZES[1]
    gram = np.stack([gram_of(spectrum, size, 1) for spectrum in ("falling", "all equal", "zero")])
    values = leading_eigenpairs(tf.constant(gram), 3).values[:, :3]
    np.testing.assert_allclose(values, np.linalg.eigvalsh(gram)[:, ::-1][:, :3], atol=1e-13)


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_float64_has_all_its_digits_even_if_eigh_has_not(monkeypatch, spectrum):
    """XLA's eigh, for example, stops at 1e-6."""
    computed, random = tf.linalg.eigh, np.random.default_rng(0)

    def rough(gram):
        values, vectors = computed(gram)
        return values, vectors + 1e-6 * random.normal(size=vectors.shape)

    size = SIZES[0]
    gram = np.stack([gram_of(spectrum, size, seed) for seed in range(2)])
    monkeypatch.setattr(tf.linalg, "eigh", rough)
    values, vectors = map(np.array, full_eigenpairs(tf.constant(gram)))
    np.testing.assert_allclose(values, np.linalg.eigvalsh(gram)[:, ::-1], atol=1e-14)
    np.testing.assert_allclose(gram @ vectors, values[:, None] * vectors, atol=1e-14)
    products = np.swapaxes(vectors, 1, 2) @ vectors
    np.testing.assert_allclose(products, [np.eye(size)] * 2, atol=1e-12)


def test_choice_of_the_routine():
    for dtype in (tf.float32, tf.float64):
        assert [routine_for("GPU", size, dtype) for size in (1, 32, 33)] == ["svd", "svd", "eigh"]
        assert {routine_for(device, 8, dtype) for device in ("CPU", "XLA")} == {"eigh"}
    with pytest.raises(ValueError, match="bfloat16; expected float32 or float64"):
        routine_for("GPU", 8, tf.bfloat16)


def test_only_samples_that_need_it_are_decomposed_in_full(monkeypatch, device):
    """Also on a GPU, where the full decomposition takes one call per matrix."""
    decomposed, original = [], decomposition.full_eigenpairs

    def noted(gram, *device):
        decomposed.append(tuple(gram.shape))
        return original(gram, *device)

    monkeypatch.setattr(decomposition, "full_eigenpairs", noted)
    size = SIZES[2]
    spectra = ["falling"] * 5 + ["all close"] + ["falling"] * 3 + ["all close"]
    gram = np.stack([gram_of(spectrum, size, seed) for seed, spectrum in enumerate(spectra)])
    values = leading_eigenpairs(tf.constant(gram, tf.float32), 3).values[:, :3]
    np.testing.assert_allclose(values, np.linalg.eigvalsh(gram)[:, ::-1][:, :3], atol=1e-6)
    assert [shape for shape in decomposed if shape[1] == size] == [(2, size, size)]


@pytest.mark.parametrize("count", [1, 3, 20, 26, 27])
@pytest.mark.parametrize("size", [16, 33, 64])
def test_gpu_path_has_no_loops(size, count):
    """The only branch is to the full decomposition, the only one of matrices above 32 rows."""
    with assume_device("GPU"):
        function = tf.function(lambda gram: leading_eigenpairs(gram, count).vectors)
        graph = function.get_concrete_function(tf.TensorSpec([None, size, size])).graph
    definition = graph.as_graph_def(add_shapes=True)
    nodes = [*definition.node, *(n for part in definition.library.function for n in part.node_def)]
    types = [node.op for node in nodes]
    loops = size > 32 and count > 26
    is_compressed = size > 32 and not loops
    assert not {"While", "StatelessWhile"} & set(types)
    assert types.count("If") + types.count("StatelessIf") == is_compressed
    assert types.count("SelfAdjointEigV2") == (is_compressed or loops)
    assert ("Svd" in types) == (not loops)


def test_rough_cores_from_a_gpu_are_refined(monkeypatch):
    """cuSOLVER's batched routine was measured to give vectors orthogonal only to 1e-5."""
    computed, random = tf.linalg.svd, np.random.default_rng(0)

    def rough(gram):
        values, left, right = computed(gram)
        return values, left + 5e-6 * random.normal(size=left.shape).astype(np.float32), right

    monkeypatch.setattr(tf.linalg, "svd", rough)
    size = SIZES[2]
    gram = np.stack([gram_of("slowly falling", size, seed) for seed in range(3)])
    values, vectors = leading_eigenpairs(tf.constant(gram, tf.float32), 3, device="GPU")
    values, vectors = values[:, :3].numpy(), vectors[:, :, :3].numpy()
    np.testing.assert_allclose(values, np.linalg.eigvalsh(gram)[:, ::-1][:, :3], atol=3e-7)
    assert np.max(np.abs(gram @ vectors - values[:, None] * vectors)) < 3e-7
    products = np.swapaxes(vectors, 1, 2) @ vectors
    np.testing.assert_allclose(products, [np.eye(3)] * 3, atol=1e-6)
