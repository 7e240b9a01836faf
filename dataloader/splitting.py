"""Choose images for validation, testing and labels, by seed."""

from __future__ import annotations

import numpy as np

from registry import UserError

VALIDATION, LABELLED, TEST, FRACTION, FEW, TIES = range(6)
"""Each use has its own stream of random numbers."""


def _stratified_rows(
    labels: np.ndarray, fraction: float, random: np.random.Generator
) -> np.ndarray:
    """Choose a share of the images, stratified; their rows as int64 [M], ascending.

    Each class contributes its share, rounded to whole images by the largest remainders, and keeps
    at least one image. M is round(fraction N), and at least 1, if classes have enough
    images. Of classes of equal remainders that would have none, chance decides which do.
    """
    counts = np.bincount(labels)
    share = fraction * counts
    quota = np.minimum(np.floor(share), np.maximum(counts - 1, 0)).astype(np.int64)
    wanted = max(1, round(fraction * len(labels)))
    drawn = random.spawn(1)[0].permutation(len(counts))
    turns = np.where(quota == 0, drawn, np.arange(len(counts)))
    for label in np.lexsort([turns, quota - share]):
        if quota.sum() < wanted and quota[label] < counts[label] - 1:
            quota[label] += 1
    chosen = [
        random.permutation(np.flatnonzero(labels == label))[:number]
        for label, number in enumerate(quota)
    ]
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def validation_rows(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Choose the validation images, stratified by class.

    Args:
        labels: integers [N], classes numbered from 0.
        fraction: share of all images, in [0, 1). 0 gives no images, above 0 at least one if
            a class has two.
        seed: decides which images; at least 0.

    Returns:
        int64 [M], ascending.
    """
    if not fraction:
        return np.zeros([0], np.int64)
    return _stratified_rows(labels, fraction, np.random.default_rng([seed, VALIDATION]))


def rows_for_testing(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Choose test images of a data set that has none. Arguments as for `validation_rows`."""
    return _stratified_rows(labels, fraction, np.random.default_rng([seed, TEST]))


def few_rows(labels: np.ndarray, number: int, seed: int) -> np.ndarray:
    """Choose a number of images, stratified by class.

    Each class contributes its share, rounded to whole images, and at least one image where there
    are as many as classes.

    Args:
        labels: integers [N], classes numbered from 0.
        number: of images, 1 to N.
        seed: decides which images; at least 0.

    Returns:
        int64 [number], ascending.
    """
    counts = np.bincount(labels)
    share = number * counts / len(labels)
    least = ((counts > 0) & (number >= np.count_nonzero(counts))).astype(np.int64)
    quota = np.maximum(np.floor(share).astype(np.int64), least)
    # Of classes that have the same claim, the seed decides which come first.
    order = np.random.default_rng([seed, TIES]).permutation(len(counts))
    while quota.sum() < number:
        claim = np.where(quota < counts, share - quota, -np.inf)
        quota[order[np.argmax(claim[order])]] += 1
    while quota.sum() > number:
        claim = np.where(quota > least, share - quota, np.inf)
        quota[order[np.argmin(claim[order])]] -= 1
    random = np.random.default_rng([seed, FEW])
    chosen = [
        random.permutation(np.flatnonzero(labels == label))[:of_class]
        for label, of_class in enumerate(quota)
    ]
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def fraction_rows(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Choose a share of each class, at least one image per class.

    Args:
        labels: integers [N], classes numbered from 0.
        fraction: share of each class, in (0, 1]. A larger share includes the images of a smaller.
        seed: decides which images; at least 0.

    Returns:
        int64 [M], ascending.

    Raises:
        UserError: `fraction` is out of range.
    """
    if not 0 < fraction <= 1:
        raise UserError(f"a fraction of {fraction} of the labels: expected above 0, at most 1")
    random = np.random.default_rng([seed, FRACTION])
    chosen = []
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        chosen.append(rows[: max(1, round(fraction * len(rows)))])
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def keep_labels(
    labels: np.ndarray, per_class: int, seed: int, class_names: tuple[str, ...]
) -> np.ndarray:
    """Keep `per_class` labels of each class and replace the others by -1.

    Args:
        labels: integers [N] in 0..classes-1.
        per_class: how many labels of each class to keep.
        seed: decides which images keep their labels; at least 0.
        class_names: for messages.

    Returns:
        int32 [N].

    Raises:
        UserError: `per_class` is below 1 or above the number of images of a class.
    """
    if per_class < 1:
        raise UserError(f"{per_class} labelled images per class: expected at least 1")
    counts = np.bincount(labels, minlength=len(class_names))
    if counts.min() < per_class:
        fewest = int(np.argmin(counts))
        raise UserError(
            f"{per_class} labelled images per class requested, but class {class_names[fewest]!r} "
            f"has only {counts[fewest]} training images: expected at most {counts[fewest]}"
        )
    random = np.random.default_rng([seed, LABELLED])
    kept = np.full(len(labels), -1, np.int32)
    for label in range(len(class_names)):
        chosen = random.permutation(np.flatnonzero(labels == label))[:per_class]
        kept[chosen] = label
    return kept
