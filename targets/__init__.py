"""Target tasks measure how useful an encoder's features are.

Each target is a `plugins.Plugin` in a separate file, and also a function that takes an encoder and
a data set and returns a flat dict of metrics:

    metrics = targets.classification(encoder, data)

No target changes the encoder it is given.
"""

from registry import import_modules

import_modules(__name__, __path__)

from targets.classification import classification  # noqa: E402
from targets.clustering import clustering  # noqa: E402
from targets.detection import Detections, detect, detection  # noqa: E402
from targets.embeddings import (  # noqa: E402
    RawPixels,
    Representation,
    check_pixels,
    embeddings,
    images_at_once,
    plane_map,
    raw_pixels,
    rows_of_all_classes,
)
from targets.metric_tuning import metric_tuned  # noqa: E402
from targets.scores import cluster_accuracy, clustering_scores, recalls  # noqa: E402
from targets.target import TARGETS, Material, Score, Target  # noqa: E402

__all__ = [
    "TARGETS",
    "Detections",
    "Material",
    "RawPixels",
    "Representation",
    "Score",
    "Target",
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
    "check_pixels",
    "recalls",
    "rows_of_all_classes",
]
