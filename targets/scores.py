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
    """The largest share of images that are right when each cluster is named after one class, no
    two after the same.

    Args:
        labels: the class of each image, integers [N].
        clusters: its cluster, integers [N]; more or fewer clusters than classes are allowed.
    """
    counts = contingency_matrix(labels, clusters)
    return float(counts[linear_sum_assignment(counts, maximize=True)].sum() / len(labels))


def recalls(
    embeddings: np.ndarray, labels: np.ndarray, ranks: Sequence[int] = RANKS
) -> dict[int, float]:
    """Recall@k: the share of images of whose k nearest neighbours at least one has their class.

    As in the practice of metric learning (Oh Song et al., "Deep metric learning via lifted
    structured feature embedding", 2016): every image is compared with all others. An image that
    is the only one of its class counts as missed.

    Args:
        embeddings: [N,E] on the unit sphere, compared by their cosine.
        labels: integers [N].
        ranks: the k; of one that is larger than N - 1 all others are looked at.
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
    """How well k-means with as many clusters as there are classes finds the classes.

    Args:
        embeddings: float32 [N,E], of any length; they are put on the unit sphere.
        labels: integers [N], at least two classes.
        seed: of the clusters' first centres.
        restarts: of k-means, of which the one of least inertia counts.

    Returns:
        ``nmi``: mutual information over the mean of the entropies; ``ari``: adjusted Rand index;
        ``accuracy``: see `cluster_accuracy`; ``recall_1``, ``_2``, ``_4``, ``_8``: see `recalls`.
    """
    points = normalised(embeddings)
    means = KMeans(len(np.unique(labels)), n_init=restarts, random_state=seed)
    with threadpool_limits(1):  # the same sums whatever the number of threads
        clusters = means.fit_predict(points)
    return {
        "nmi": float(normalized_mutual_info_score(labels, clusters)),
        "ari": float(adjusted_rand_score(labels, clusters)),
        "accuracy": cluster_accuracy(labels, clusters),
        **{f"recall_{rank}": value for rank, value in recalls(points, labels).items()},
    }
