"""Embedding clustering: whether classes lie together, those seen in tuning and those not."""

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
        metric_steps: steps of metric fine-tuning on the first half of the classes; 0: none.
        restarts: of k-means.
    """

    needs_classes = True
    columns = {
        "nmi": "NMI", "ari": "ARI", "accuracy": "accuracy", "recall_1": "R@1",
        "unseen_nmi": "unseen NMI", "unseen_recall_1": "unseen R@1",
        "unseen_tuned_nmi": "tuned, unseen NMI",
        "unseen_tuned_recall_1": "tuned, unseen R@1",
    }
    ranked = ("nmi", "recall_1", "unseen_nmi", "unseen_recall_1")
    explanation = (
        "k-means and nearest neighbours on the test images; unseen: the second half of the classes"
    )

    metric_steps: int = option(200, minimum=0)
    restarts: int = option(10, minimum=1)

    @classmethod
    def explain(cls, metrics: Collection[str]) -> str:
        tuned = any("tuned" in metric for metric in metrics)
        more = "; tuned: after metric fine-tuning on the first half" if tuned else ""
        return cls.explanation + more

    def check_material(self, material: Material) -> None:
        halves(material.data)

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
    """NMI, ARI, accuracy and Recall@1,2,4,8 of the test images' embeddings.

    Of all classes (``nmi``, ...), of the first half (``seen_nmi``, ...) and of the second half
    (``unseen_nmi``, ...), as it is the practice for CUB-200 and Cars-196. A `nets.Encoder` is also
    tuned on the training images of the first half, a copy of it (``seen_tuned_nmi``,
    ``unseen_tuned_nmi``, ...), see `metric_tuned`. For the names after these see
    `clustering_scores`.

    Args:
        encoder: what is judged; it is not changed.
        data: at least four classes. Of the training images the labels of the first half are read.
        seed: of k-means and of the tuning's order of images.
        restarts: of k-means.
        tuning_steps: 0: no tuning.
        learning_rate, batch_size: of the tuning.

    Raises:
        UserError: fewer than four classes, or a test image is missing of a half.
    """
    seen, unseen = halves(data)

    def scores(representation: Representation, mark: str) -> dict[str, float]:
        """Of both halves, `mark` in their names."""
        metrics = {}
        vectors = embeddings(representation, data.test)
        for half, classes in ((f"seen_{mark}", seen), (f"unseen_{mark}", unseen)):
            rows = np.isin(data.test.labels, classes)
            found = clustering_scores(
                vectors[rows], data.test.labels[rows], seed=seed, restarts=restarts
            )
            metrics.update({half + name: value for name, value in found.items()})
        return metrics

    metrics = clustering_scores(
        embeddings(encoder, data.test), data.test.labels, seed=seed, restarts=restarts
    )
    metrics.update(scores(encoder, ""))
    if tuning_steps and isinstance(encoder, nets.Encoder):
        tuned = metric_tuned(
            encoder, of_classes(labelled(data.train), seen), seed=seed, steps=tuning_steps,
            learning_rate=learning_rate, batch_size=batch_size, flip=data.default_flip,
        )
        metrics.update(scores(tuned, "tuned_"))
    return metrics


def halves(data: Data) -> tuple[np.ndarray, np.ndarray]:
    """The classes that are seen in tuning (the first half), and those that are not.

    Raises:
        UserError: a half has fewer than two classes among the test images.
    """
    classes = np.arange(data.classes)
    parts = tuple(np.split(classes, [data.classes // 2]))
    for name, part in zip(("first", "second"), parts, strict=True):
        if len(np.intersect1d(part, data.test.labels)) < 2:
            raise UserError(
                f"{data.name} has {data.classes} classes, so that its {name} half has test images "
                "of fewer than two: clustering of seen and unseen classes needs two in each half"
            )
    return parts


def of_classes(split: Split, classes: np.ndarray) -> Split:
    """The images of `split` that are of `classes`."""
    return split.take(np.flatnonzero(np.isin(split.labels, classes)))
