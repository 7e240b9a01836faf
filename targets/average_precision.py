"""COCO's mean average precision of detections, computed with pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dataloader import SceneSplit
from targets.boxes import Found


def average_precision(
    truth: SceneSplit, found: Sequence[Found], classes: int
) -> dict[str, float]:
    """Compute the mean average precision of detections.

    Args:
        truth: the annotated scenes. Objects marked `difficult` are ignored: they count neither as
            missed nor as false positives.
        found: the detections, one entry per scene. The 100 most confident of each scene count.
        classes: number of classes. Classes that occur in no scene are left out of the mean.

    Returns:
        ``map_50``: the average precision at an IoU of 0.5, averaged over classes (VOC's metric,
        with COCO's interpolation at 101 recall levels). ``map``: also averaged over the IoUs
        0.5, 0.55, ..., 0.95 (COCO's metric).
    """
    annotations, results = [], []
    for image, (boxes, labels, hard) in enumerate(
        zip(truth.boxes, truth.labels, truth.difficult, strict=True)
    ):
        for box, label, ignored in zip(boxes, labels, hard, strict=True):
            annotations.append({
                "id": len(annotations) + 1, "image_id": image, "category_id": int(label),
                "bbox": _left_top_size(box), "area": _area(box), "iscrowd": int(ignored),
            })
        each = found[image]
        results += [
            {"image_id": image, "category_id": int(label), "bbox": _left_top_size(box),
             "score": float(score)}
            for box, label, score in zip(each.boxes, each.labels, each.scores, strict=True)
        ]
    counted = any(not entry["iscrowd"] for entry in annotations)
    if not results or not counted:  # of no objects that count COCO's average is -1
        return {"map_50": 0.0, "map": 0.0}
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": [{"id": image} for image in range(len(truth))],
            "categories": [{"id": label} for label in range(classes)],
            "annotations": annotations,
        }
        coco.createIndex()
        evaluation = _Evaluation(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {"map_50": float(evaluation.stats[1]), "map": float(evaluation.stats[0])}


class _Evaluation(COCOeval):
    """`iscrowd` makes an object ignored, however often it is found, but does not change its IoU.

    Of a crowd, COCO divides the intersection by the area of the detection alone, so that any small
    box within it would be ignored.
    """

    def computeIoU(self, image: int, category: int) -> Sequence[Sequence[float]]:
        """The IoUs of an image's detections, most confident first, with its objects."""
        objects = self._gts[image, category]
        self._gts[image, category] = [{**each, "iscrowd": 0} for each in objects]
        try:
            return super().computeIoU(image, category)
        finally:
            self._gts[image, category] = objects


def _left_top_size(box: np.ndarray) -> list[float]:
    left, top, right, bottom = map(float, box)
    return [left, top, right - left, bottom - top]


def _area(box: np.ndarray) -> float:
    _, _, width, height = _left_top_size(box)
    return width * height
