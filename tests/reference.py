"""What the tests compare with: the paper's formulas once more, in plain NumPy and float64."""

import numpy as np


def with_spectrum(seed, rows, columns, values):
    """A matrix ``[rows, columns]`` with these singular values, and vectors by chance."""
    random = np.random.default_rng(seed)
    left, right = (
        np.linalg.qr(random.normal(size=(size, len(values))))[0] for size in (rows, columns)
    )
    return left * np.asarray(values) @ right.T


def right_vectors(x, count):
    """Singular values and the first right singular vectors of ``x [..., N, D]``, each with the sign
    that makes its mean response non-negative."""
    _, values, transposed = np.linalg.svd(x, full_matrices=False)
    vectors = np.swapaxes(transposed, -1, -2)[..., :count]
    response = np.sum(x @ vectors, axis=-2, keepdims=True)
    return values[..., :count], np.where(response < 0, -vectors, vectors)


def gradient_of_vectors(x, upstream):
    """Of ``sum(upstream * vectors)`` for one matrix: each vector's first-order perturbation, the
    sum over all other eigenvectors of ``X^T X``."""
    count = upstream.shape[1]
    _, vectors = right_vectors(x, count)
    _, values, transposed = np.linalg.svd(x)
    squares = np.zeros(x.shape[1])
    squares[: len(values)] = values**2
    gradient = np.zeros_like(x)
    for i in range(count):
        others = np.arange(len(squares)) != i
        basis = transposed[others].T
        w = basis @ (basis.T @ upstream[:, i] / (squares[i] - squares[others]))
        gradient += np.outer(x @ vectors[:, i], w) + np.outer(x @ w, vectors[:, i])
    return gradient


def as_matrices(tap):
    """``[B, H, W, D]`` -> ``[B, HW, D]``; ``[B, D]`` -> ``[B, 1, D]``; float64."""
    tap = np.asarray(tap, np.float64)
    return tap.reshape(len(tap), -1, tap.shape[-1])


def aligned(teacher, student, count):
    """One sample's vectors of one tap ``[D, k]``: student's candidates in the teacher's order, and
    the teacher's with the student's signs; then the teacher's weights ``[k]``."""
    values, theirs = right_vectors(teacher, count)
    _, candidates = right_vectors(student, count + 1)
    chosen = []
    for i in range(theirs.shape[1]):
        cosines = [theirs[:, i] @ candidate for candidate in candidates.T]
        best = int(np.argmax(np.abs(cosines)))
        chosen.append(candidates[:, best])
        if cosines[best] < 0:
            theirs[:, i] *= -1
    norm = np.linalg.norm(values)
    weights = values / norm if norm > 0 else np.zeros_like(values)
    return np.stack(chosen, axis=1), theirs, weights


def dfv(top, bottom):
    """``[D_top, D_bottom, k]`` of ``[D_top, k]`` and ``[D_bottom, k]``."""
    return np.exp(-((top[:, None] - bottom[None]) ** 2) / 8)


SIGNS = {"symmetric": (1, -1), "canonical": (1,), "opposed": (-1,)}


def sskd_svd(teacher_maps, student_maps, num_dfv, orientation="symmetric"):
    """The SSKD_SVD loss of lists of taps, sample by sample: the mean over the signs of the bottom
    taps' vectors relative to the canonical ones."""
    teacher, student = ([as_matrices(tap) for tap in maps] for maps in (teacher_maps, student_maps))
    total = 0.0
    for sample in range(len(teacher[0])):
        count = num_dfv
        for i in range(len(teacher) - 1):
            count = min(count, *teacher[i].shape[1:], *teacher[i + 1].shape[1:])
            ours, theirs = [], []
            for tap in (i, i + 1):
                s, t, weights = aligned(teacher[tap][sample], student[tap][sample], count)
                ours.append(s * weights)
                theirs.append(t * weights)
            squares = [
                np.sum((dfv(ours[0], sign * ours[1]) - dfv(theirs[0], sign * theirs[1])) ** 2)
                for sign in SIGNS[orientation]
            ]
            total += np.sqrt(count) / 2 * np.mean(squares)
    return total


def relative_error(found, expected):
    """``||found - expected|| / ||expected||``, of arrays or of lists of them, in float64."""
    found, expected = (
        np.concatenate([np.ravel(np.asarray(part, np.float64)) for part in parts])
        if isinstance(parts, (list, tuple))
        else np.ravel(np.asarray(parts, np.float64))
        for parts in (found, expected)
    )
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)
