"""Embedding clustering: whether images of a class lie together, for seen and unseen classes."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

import nets
from dataloader import Data, Split
from plugins import option
from registry import UserError
from targets.embeddings import Representation, embeddings, labelled
from targets.metric_tuning import metric_tuned
from targets.scores import clustering_scores
from targets.target import TARGETS, Material, Score, Target


@TARGETS.register("clustering")
class Clustering(Target):
    """How well embeddings cluster by class, for classes seen and unseen in metric fine-tuning.

    Args:
        metric_steps: steps of metric fine-tuning on the first half of the classes; 0 skips it.
        restarts: number of k-means restarts.
    """

    needs_classes = True
    columns = {
        "nmi": "NMI", "ari": "ARI", "accuracy": "accuracy", "recall_1": "R@1",
        "unseen_nmi": "unseen NMI", "unseen_recall_1": "unseen R@1",
        "unseen_tuned_nmi": "tuned, unseen NMI",
        "unseen_tuned_recall_1": "tuned, unseen R@1",
    }
    ranked = ("nmi", "recall_1", "unseen_nmi", "unseen_recall_1")
    explanation = "k-means and nearest neighbours on the test images"

    metric_steps: int = option(200, minimum=0)
    restarts: int = option(10, minimum=1)

    @classmethod
    def explain(cls, metrics: Collection[str]) -> str:
        parts = [cls.explanation]
        if any("unseen" in metric for metric in metrics):
            parts.append("unseen: the second half of the classes")
        if any("tuned" in metric for metric in metrics):
            parts.append("tuned: after metric fine-tuning on the first half")
        return "; ".join(parts)

    def check_material(self, material: Material) -> None:
        if len(np.unique(material.data.test.labels)) < 2:
            raise UserError(
                f"clustering needs test images of two classes, {material.data.name} has only one: "
                "give --targets without clustering"
            )

    def score(self, encoder: Representation, material: Material, seed: int) -> Score:
        return Score(clustering(
            encoder, material.data, seed=seed, restarts=self.restarts,
            tuning_steps=self.metric_steps,
        ))


def clustering(
    encoder: Representation,
    data: Data,
    *,
    seed: int = 0,
    restarts: int = 10,
    tuning_steps: int = 200,
    learning_rate: float = 1e-4,
    batch_size: int = 32,
) -> dict[str, float]:
    """Compute NMI, ARI, accuracy and Recall@1,2,4,8 of the test images' embeddings.

    The metrics are computed for all classes (``nmi``, ...), for the first half of the classes
    (``seen_nmi``, ...) and for the second half (``unseen_nmi``, ...), as is usual for CUB-200 and
    Cars-196. For a `nets.Encoder`, they are also computed for a copy that is fine-tuned on the
    training images of the first half (``seen_tuned_nmi``, ``unseen_tuned_nmi``, ...), see
    `metric_tuned`. Where a half has fewer than two classes among the test images, there are only
    the metrics of all classes. `clustering_scores` lists the metrics.

    Args:
        encoder: the encoder to evaluate; it is not changed.
        data: with at least two classes. Only training labels of the first half are used.
        seed: random seed for k-means and the order of images in fine-tuning.
        restarts: number of k-means restarts.
        tuning_steps: steps of fine-tuning; 0 skips it.
        learning_rate, batch_size: learning rate and batch size of fine-tuning.
    """
    seen, unseen = _split(data)

    def scores(vectors: np.ndarray, mark: str) -> dict[str, float]:
        """The metrics of both halves, with `mark` in their names."""
        metrics = {}
        for half, classes in ((f"seen_{mark}", seen), (f"unseen_{mark}", unseen)):
            rows = np.isin(data.test.labels, classes)
            found = clustering_scores(
                vectors[rows], data.test.labels[rows], seed=seed, restarts=restarts
            )
            metrics.update({half + name: value for name, value in found.items()})
        return metrics

    vectors = embeddings(encoder, data.test)
    metrics = clustering_scores(vectors, data.test.labels, seed=seed, restarts=restarts)
    if not (_has_two(data, seen) and _has_two(data, unseen)):
        return metrics
    metrics.update(scores(vectors, ""))
    if tuning_steps and isinstance(encoder, nets.Encoder):
        tuned = metric_tuned(
            encoder, of_classes(labelled(data.train), seen), seed=seed, steps=tuning_steps,
            learning_rate=learning_rate, batch_size=batch_size, flip=data.default_flip,
        )
        metrics.update(scores(embeddings(tuned, data.test), "tuned_"))
    return metrics


def halves(data: Data) -> tuple[np.ndarray, np.ndarray]:
    """Split the classes into those seen in fine-tuning (the first half) and the unseen ones.

    Raises:
        UserError: a half has fewer than two classes among the test images.
    """
    parts = _split(data)
    for name, part in zip(("first", "second"), parts, strict=True):
        if not _has_two(data, part):
            raise UserError(
                f"{data.name} has {data.classes} classes, and its test images cover fewer than two "
                f"of the {name} half: seen and unseen classes need two in each half; give "
                "--train_classes all"
            )
    return parts


def _split(data: Data) -> tuple[np.ndarray, np.ndarray]:
    """The first half of the classes and the second."""
    first, second = np.split(np.arange(data.classes), [data.classes // 2])
    return first, second


def _has_two(data: Data, classes: np.ndarray) -> bool:
    """Whether test images are of at least two of `classes`."""
    return len(np.intersect1d(classes, data.test.labels)) > 1


def of_classes(split: Split, classes: np.ndarray) -> Split:
    """The images of `split` whose class is one of `classes`."""
    return split.take(np.flatnonzero(np.isin(split.labels, classes)))
