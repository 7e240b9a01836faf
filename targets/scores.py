"""How well clusters and neighbourhoods agree with classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix
from threadpoolctl import threadpool_limits

from targets.embeddings import normalised

RANKS = (1, 2, 4, 8)
_CHUNK = 1000


def cluster_accuracy(labels: np.ndarray, clusters: np.ndarray) -> float:
    """The accuracy of clusters under the best one-to-one assignment of clusters to classes.

    Args:
        labels: the class of each image, integers [N].
        clusters: the cluster of each image, integers [N]. There may be more or fewer clusters than
            classes.
    """
    counts = contingency_matrix(labels, clusters)
    return float(counts[linear_sum_assignment(counts, maximize=True)].sum() / len(labels))


def recalls(
    embeddings: np.ndarray, labels: np.ndarray, ranks: Sequence[int] = RANKS
) -> dict[int, float]:
    """Recall@k: the share of images with at least one image of the same class among the k nearest.

    Every image is compared with all others, as is usual in metric learning (Oh Song et al., "Deep
    metric learning via lifted structured feature embedding", 2016). An image that is the only one
    of its class counts as missed.

    Args:
        embeddings: [N,E] of unit length, compared by cosine.
        labels: integers [N].
        ranks: the values of k. If k exceeds N - 1, all other images are considered.
    """
    count, most = len(labels), min(max(ranks), len(labels) - 1)
    found = np.zeros([count, most], bool)
    for start in range(0, count, _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, count))
        similarity = embeddings[rows] @ embeddings.T
        similarity[rows - start, rows] = -np.inf
        nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :most]
        found[rows] = labels[nearest] == labels[rows, None]
    return {rank: float(found[:, :rank].any(1).mean()) for rank in ranks}


def clustering_scores(
    embeddings: np.ndarray, labels: np.ndarray, *, seed: int = 0, restarts: int = 10
) -> dict[str, float]:
    """Score how well k-means, with one cluster per class, recovers the classes.

    Args:
        embeddings: float32 [N,E], scaled to unit length first.
        labels: integers [N], at least two classes.
        seed: random seed for the initial cluster centres.
        restarts: number of k-means restarts; the one with the lowest inertia counts.

    Returns:
        ``nmi``: mutual information divided by the mean of the two entropies; ``ari``: adjusted Rand
        index; ``accuracy``: see `cluster_accuracy`; ``recall_1``, ``_2``, ``_4``, ``_8``: see
        `recalls`.
    """
    points = normalised(embeddings)
    means = KMeans(len(np.unique(labels)), n_init=restarts, random_state=seed)
    with threadpool_limits(1):  # sums must not depend on the number of threads
        clusters = means.fit_predict(points)
    return {
        "nmi": float(normalized_mutual_info_score(labels, clusters)),
        "ari": float(adjusted_rand_score(labels, clusters)),
        "accuracy": cluster_accuracy(labels, clusters),
        **{f"recall_{rank}": value for rank, value in recalls(points, labels).items()},
    }
