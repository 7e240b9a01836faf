"""Which images are kept for what, by seed."""

from __future__ import annotations

import numpy as np

from registry import UserError

VALIDATION, LABELLED, TEST, FRACTION = 0, 1, 2, 3
"""Streams of random numbers."""


def _stratified_rows(
    labels: np.ndarray, fraction: float, random: np.random.Generator
) -> np.ndarray:
    """Rows of a share of the images, int64 [M], ascending.

    Each class gives its share, as far as whole images allow (largest remainder), and keeps at
    least one image. M is round(fraction N) where classes have enough images, and at least 1.
    """
    counts = np.bincount(labels)
    share = fraction * counts
    quota = np.minimum(np.floor(share), np.maximum(counts - 1, 0)).astype(np.int64)
    wanted = max(1, round(fraction * len(labels)))
    for label in np.argsort(quota - share, kind="stable"):
        if quota.sum() < wanted and quota[label] < counts[label] - 1:
            quota[label] += 1
    chosen = [
        random.permutation(np.flatnonzero(labels == label))[:number]
        for label, number in enumerate(quota)
    ]
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def validation_rows(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Rows of the validation images, stratified.

    Args:
        labels: integers [N], each class from 0 on.
        fraction: share of all images, in [0, 1); 0: no images, above 0: at least one.
        seed: which images, at least 0.

    Returns:
        int64 [M], ascending.
    """
    if not fraction:
        return np.zeros([0], np.int64)
    return _stratified_rows(labels, fraction, np.random.default_rng([seed, VALIDATION]))


def rows_for_testing(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Rows of the test images of a set that has none of its own. As `validation_rows`."""
    return _stratified_rows(labels, fraction, np.random.default_rng([seed, TEST]))


def fraction_rows(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Rows of a share of each class, but at least one image of it.

    Args:
        labels: integers [N], each class from 0 on.
        fraction: of each class, in (0, 1]. A larger one holds the images of a smaller one.
        seed: which images, at least 0.

    Returns:
        int64 [M], ascending.

    Raises:
        UserError: `fraction` is out of its range.
    """
    if not 0 < fraction <= 1:
        raise UserError(f"a fraction of {fraction} of the labels: above 0 up to 1 expected")
    random = np.random.default_rng([seed, FRACTION])
    chosen = []
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        chosen.append(rows[: max(1, round(fraction * len(rows)))])
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def keep_labels(
    labels: np.ndarray, per_class: int, seed: int, class_names: tuple[str, ...]
) -> np.ndarray:
    """Labels of which `per_class` of each class are kept and the others are -1.

    Args:
        labels: integers [N] in 0..classes-1.
        per_class: labels to keep of each class.
        seed: which images, at least 0.
        class_names: for messages.

    Returns:
        int32 [N].

    Raises:
        UserError: `per_class` is less than 1 or more than a class has.
    """
    if per_class < 1:
        raise UserError(f"{per_class} labelled images a class: at least 1 expected")
    counts = np.bincount(labels, minlength=len(class_names))
    if counts.min() < per_class:
        fewest = int(np.argmin(counts))
        raise UserError(
            f"{per_class} labelled images a class asked, but class {class_names[fewest]!r} has "
            f"only {counts[fewest]} training images: at most {counts[fewest]} expected"
        )
    random = np.random.default_rng([seed, LABELLED])
    kept = np.full(len(labels), -1, np.int32)
    for label in range(len(class_names)):
        chosen = random.permutation(np.flatnonzero(labels == label))[:per_class]
        kept[chosen] = label
    return kept
