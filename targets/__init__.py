"""Target tasks: what a representation is worth. Each is a function of an encoder and a data set
that gives a flat dict of figures.

    figures = targets.classification(encoder, data)

None of them changes the encoder that it is given.
"""

from targets.classification import classification
from targets.clustering import clustering
from targets.detection import Detections, detect, detection
from targets.embeddings import (
    RawPixels,
    Representation,
    embeddings,
    images_at_once,
    plane_map,
    raw_pixels,
)
from targets.metric_tuning import metric_tuned
from targets.scores import cluster_accuracy, clustering_scores, recalls

__all__ = [
    "Detections",
    "RawPixels",
    "Representation",
    "classification",
    "cluster_accuracy",
    "clustering",
    "clustering_scores",
    "detect",
    "detection",
    "embeddings",
    "images_at_once",
    "metric_tuned",
    "plane_map",
    "raw_pixels",
    "recalls",
]
