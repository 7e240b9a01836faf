"""Leading eigenpairs of Gram matrices against NumPy, whatever the spectrum."""

import numpy as np
import pytest
import tensorflow as tf

from op_util.decomposition import FULL_BELOW, full_eigenpairs, leading_eigenpairs

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
SIZES = (FULL_BELOW - 4, FULL_BELOW + 16, 3 * FULL_BELOW)


def gram_of(spectrum, size, seed):
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]
    values = SPECTRA[spectrum](size).astype(float)
    return (basis * (values / max(values.sum(), 1e-300))) @ basis.T


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_values_vectors_and_their_orthogonality(spectrum, dtype):
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


def test_constant_matrix():
    """Every column of the block is then a multiple of one vector."""
    for size in (*SIZES, 64):
        gram = np.ones((2, size, size), np.float32) / size
        for count in (2, 3, 4):
            values = leading_eigenpairs(tf.constant(gram), count).values[:, :count]
            np.testing.assert_allclose(values, [[1, *[0] * (count - 1)]] * 2, atol=1e-5)


def test_a_hard_sample_leaves_the_others_exact():
    size = SIZES[1]
    gram = np.stack([gram_of(spectrum, size, 1) for spectrum in ("falling", "all equal", "zero")])
    values = leading_eigenpairs(tf.constant(gram), 3).values[:, :3]
    np.testing.assert_allclose(values, np.linalg.eigvalsh(gram)[:, ::-1][:, :3], atol=1e-13)


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_float64_has_all_its_digits_though_eigh_has_not(monkeypatch, spectrum):
    """As XLA's, which ends its rounds at 1e-6."""
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
