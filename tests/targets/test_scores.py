"""Clustering scores against brute force and values computed by hand."""

import itertools
import math

import numpy as np
import pytest

from targets.scores import cluster_accuracy, clustering_scores, recalls


@pytest.mark.parametrize("clusters", [3, 4, 5])
def test_accuracy_is_the_best_of_all_assignments(clusters):
    random = np.random.default_rng(clusters)
    for _ in range(5):
        labels, found = random.integers(4, size=40), random.integers(clusters, size=40)
        names = [*range(4), *[None] * clusters]  # a cluster may be assigned to no class
        best = max(
            np.mean([naming[i] == label for i, label in zip(found, labels, strict=True)])
            for naming in set(itertools.permutations(names, clusters))
        )
        assert cluster_accuracy(labels, found) == pytest.approx(best)


def test_recall_equals_a_loop():
    random = np.random.default_rng(0)
    vectors = random.normal(size=[30, 4]).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = random.integers(6, size=30)
    hits = {rank: 0 for rank in (1, 2, 4, 8)}
    for i in range(30):
        others = sorted((j for j in range(30) if j != i), key=lambda j: -(vectors[i] @ vectors[j]))
        for rank in hits:
            hits[rank] += any(labels[j] == labels[i] for j in others[:rank])
    assert recalls(vectors, labels) == {rank: count / 30 for rank, count in hits.items()}


def test_the_only_image_of_a_class_is_missed_and_large_ranks_are_capped():
    vectors = np.eye(3, dtype=np.float32)
    assert recalls(vectors, np.array([0, 0, 1]), ranks=(1, 8))[8] == pytest.approx(2 / 3)


def test_scores_of_a_clustering_counted_by_hand():
    """Two distant groups, {a a a b} and {b b b b}: NMI and ARI from their definitions."""
    labels = np.array([0, 0, 0, 1, 1, 1, 1, 1])
    vectors = np.array([[1, 0.01 * i] for i in range(4)] + [[0.01 * i, 1] for i in range(4)])
    found = clustering_scores(vectors.astype(np.float32), labels)
    h_labels = -(3 / 8 * math.log(3 / 8) + 5 / 8 * math.log(5 / 8))
    h_clusters = math.log(2)
    mutual = sum(
        p * math.log(p / (row * column))
        for p, row, column in ((3 / 8, 3 / 8, 1 / 2), (1 / 8, 5 / 8, 1 / 2), (4 / 8, 5 / 8, 1 / 2))
    )
    assert found["nmi"] == pytest.approx(2 * mutual / (h_labels + h_clusters))
    # Pairs in both: C(3,2) + C(4,2); in classes C(3,2) + C(5,2); in clusters 2 C(4,2); of 28.
    both, by_class, by_cluster = 3 + 6, 3 + 10, 12
    chance = by_class * by_cluster / 28
    assert found["ari"] == pytest.approx((both - chance) / ((by_class + by_cluster) / 2 - chance))
    assert found["accuracy"] == pytest.approx(7 / 8)


def test_length_does_not_matter_and_seeds_are_reproducible():
    random = np.random.default_rng(1)
    vectors = random.normal(size=[60, 5]).astype(np.float32)
    labels = random.integers(3, size=60)
    scaled = vectors * random.uniform(0.5, 9, [60, 1]).astype(np.float32)
    first = clustering_scores(vectors, labels, seed=3, restarts=2)
    assert first == clustering_scores(vectors, labels, seed=3, restarts=2)
    assert clustering_scores(scaled, labels, seed=3, restarts=2) == pytest.approx(first)
