import pytest
from matplotlib.image import imread

from experiment.report.scatter import Box, least_covered, places, scatter


def test_boxes_overlap_where_they_do():
    assert Box(0, 0, 4, 2).overlap(Box(3, 1, 9, 9)) == 1
    assert Box(0, 0, 4, 2).overlap(Box(4, 0, 5, 1)) == 0
    assert Box(0, 0, 4, 2).overlap(Box(8, 8, 9, 9)) == 0


def test_a_name_goes_where_nothing_is():
    right, left, *_ = boxes = places(100, 100, 40, 12)
    assert right.left > 100 > left.right
    assert least_covered(boxes, []) == right
    assert least_covered(boxes, [right]) == left
    elsewhere = least_covered(boxes, [right, left])
    assert elsewhere.overlap(right) == elsewhere.overlap(left) == 0


@pytest.mark.parametrize("points", [
    {}, {"a": (1.5, 2.0, 0.5)}, {"a": (1.5, 2.0, 0.0), "b": (1.5, 2.0, 0.0), "c": (8, -3.0, 1.0)},
])
def test_a_picture_is_drawn_of_few_points_and_of_equal_ones(points, tmp_path):
    path = tmp_path / "points.png"
    scatter(points, path, x_label="x", y_label="y", origin=(1.0, 0.0, "None"))
    assert imread(path)[..., :3].min() < 0.5
