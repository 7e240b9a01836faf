import matplotlib.image
import numpy as np
import pytest

from experiment.report.dots import dots

BLUE, RED = (31, 95, 168), (209, 85, 27)  # means, line


def drawn(path, colour):
    """Columns of the picture that have a pixel of this colour."""
    pixels = np.round(255 * matplotlib.image.imread(path)[..., :3]).astype(int)
    return np.flatnonzero((np.abs(pixels - colour).max(axis=-1) <= 2).any(axis=0))


def test_means_are_where_they_should_be_between_each_other(tmp_path):
    groups = {"None": [40.0, 41.0, 42.0], "A": [46.0, 46.5, 45.5], "B": [50.0, 52.0]}
    dots(groups, tmp_path / "a.png", label="top-1", baseline="None")
    columns = drawn(tmp_path / "a.png", BLUE)
    low, high = columns.min(), columns.max()
    middle = [column for column in columns if low + 5 < column < high - 5]
    assert np.mean(middle) == pytest.approx((low + high) / 2, abs=3)  # 41, 46, 51
    assert not len(drawn(tmp_path / "a.png", RED))


def test_a_near_line_is_drawn_and_a_far_one_only_told(tmp_path):
    groups = {"None": [40.0, 42.0], "A": [44.0, 46.0]}
    dots(groups, tmp_path / "near.png", label="top-1", line=("teacher", 50.0))
    dots(groups, tmp_path / "far.png", label="top-1", line=("teacher", 90.0))
    assert drawn(tmp_path / "near.png", BLUE).max() < drawn(tmp_path / "near.png", RED).max()
    between = [np.ptp(drawn(tmp_path / name, BLUE)) for name in ("near.png", "far.png")]
    assert between[1] >= between[0]  # its distance takes no room from the values'
    assert len(drawn(tmp_path / "far.png", RED))


@pytest.mark.parametrize(
    "groups", [{"None": [], "A": []}, {"None": [40.0], "A": []}, {"A": [1.0] * 3}]
)
@pytest.mark.parametrize("line", [None, ("teacher", 50.0)])
def test_little_to_draw(tmp_path, groups, line):
    dots(groups, tmp_path / "a.png", label="top-1", baseline="None", line=line)
    assert (tmp_path / "a.png").stat().st_size > 1000
