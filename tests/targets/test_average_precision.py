"""Mean average precision against values computed by hand."""

import numpy as np
import pytest

from dataloader import SceneSplit
from targets.average_precision import average_precision
from targets.boxes import Found

A, B = [0, 0, 100, 100], [100, 100, 200, 200]


def scenes(*objects):
    """Scenes of (box, label, difficult) triples."""
    return SceneSplit(
        images=np.zeros([len(objects), 256, 256, 3], np.uint8),
        boxes=[np.array([box for box, *_ in each], np.float32).reshape(-1, 4) for each in objects],
        labels=[np.array([label for _, label, _ in each], np.int32) for each in objects],
        difficult=[np.array([hard for *_, hard in each], bool) for each in objects],
    )


def found(*detections):
    """(box, label, score) triples of one image."""
    boxes, labels, scores = zip(*detections, strict=True) if detections else ((), (), ())
    return Found(np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int32),
                 np.array(scores, np.float32))


def test_two_objects_and_three_detections():
    """In order of score: a hit, a false positive, and one with IoU 0.62 with the second object.

    At IoUs up to 0.6, precision is 1 up to recall 1/2 and 2/3 up to recall 1. Above, only the first
    is a hit. COCO samples precision at the recalls 0, 0.01, ..., 1: 51 of them are up to 1/2.
    """
    truth = scenes([(A, 0, False)], [(B, 0, False)])
    detections = [
        found((A, 0, 0.9), (B, 0, 0.8)),
        found(([100, 100, 200, 162], 0, 0.7)),
    ]
    figures = average_precision(truth, detections, classes=2)
    loose, strict = (51 + 50 * 2 / 3) / 101, 51 / 101
    assert figures["map_50"] == pytest.approx(loose)
    assert figures["map"] == pytest.approx((3 * loose + 7 * strict) / 10)


def test_classes_are_averaged_and_a_class_without_objects_is_left_out():
    truth = scenes([(A, 0, False), (B, 1, False)])
    figures = average_precision(truth, [found((A, 0, 0.9), (B, 2, 0.9))], classes=3)
    assert figures == pytest.approx({"map_50": 0.5, "map": 0.5})


def test_difficult_objects_are_ignored():
    truth = scenes([(A, 0, False), (B, 0, True)])
    for detections in (found((A, 0, 0.5)), found((B, 0, 0.9), (A, 0, 0.5))):
        assert average_precision(truth, [detections], 1) == pytest.approx({"map_50": 1, "map": 1})


@pytest.mark.parametrize("top", [0, 205])
def test_false_positives_within_a_difficult_object_count_as_elsewhere(top):
    """Four of them before the hit: precision is 1/5 at every recall."""
    truth = scenes([(A, 0, True), (B, 0, False)])
    wrong = [([left, top, left + 20, top + 20], 0, 0.9) for left in (0, 25, 50, 75)]
    figures = average_precision(truth, [found(*wrong, (B, 0, 0.5))], 1)
    assert figures == pytest.approx({"map_50": 0.2, "map": 0.2})


def test_scenes_with_difficult_objects_only_have_no_precision():
    truth = scenes([(A, 0, True)])
    assert average_precision(truth, [found((A, 0, 0.5))], 1) == {"map_50": 0, "map": 0}


def test_a_second_detection_of_an_object_is_a_false_positive():
    truth = scenes([(A, 0, False), (B, 0, False)])
    twice = found((A, 0, 0.9), (A, 0, 0.8), (B, 0, 0.7))
    assert average_precision(truth, [twice], 1)["map_50"] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_no_detections(capsys):
    truth = scenes([(A, 0, False)])
    assert average_precision(truth, [found()], 1) == {"map_50": 0, "map": 0}
    average_precision(truth, [found((A, 0, 0.5))], 1)
    assert not capsys.readouterr().out
