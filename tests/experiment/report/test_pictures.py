"""Pictures of target tasks: what is drawn where."""

import matplotlib.image
import numpy as np
import pytest

from experiment.report import pictures

BLUE, RED = (31, 95, 168), (209, 85, 27)


def drawn(path, colour):
    """(row, column) of the pixels that have this colour."""
    pixels = np.round(255 * matplotlib.image.imread(path)[..., :3]).astype(int)
    return np.argwhere(np.abs(pixels - colour).max(axis=-1) <= 3)


def test_bars_are_as_high_as_their_means(tmp_path):
    figure = {"low": [0.15, 0.35], "high": [0.65, 0.85]}
    pictures.bars({"target": {"figure": figure}}, tmp_path / "bars.png")
    low, high = (
        np.bincount(drawn(tmp_path / "bars.png", colour)[:, 1]).max() for colour in (BLUE, RED)
    )
    assert 2.7 < high / low < 3.3


def test_what_is_too_wide_is_drawn_one_below_the_other(tmp_path):
    def panels(count):
        figures = {f"figure {i}": {f"e{k}": [0.5] for k in range(4)} for i in range(count)}
        return {"one": figures, "two": figures}

    for count in (2, 8):
        pictures.bars(panels(count), tmp_path / f"{count}.png")
    few, many = (matplotlib.image.imread(tmp_path / f"{count}.png").shape for count in (2, 8))
    assert few[0] < 500 < few[1] and many[0] > 600 and many[1] <= 1650


def test_what_has_no_figure_gets_no_bar(tmp_path):
    panels = {
        "one": {"a": {"first": [0.5], "second": [0.5]}, "b": {"second": [0.5]}},
        "two": {"c": {"second": [0.4]}},
    }
    pictures.bars(panels, tmp_path / "bars.png")
    first, second = drawn(tmp_path / "bars.png", BLUE), drawn(tmp_path / "bars.png", RED)
    assert 0 < len(first) < len(second) / 2


def test_boxes_surround_what_they_should(tmp_path):
    images = np.zeros([1, 50, 50, 3], np.uint8)
    truth = [(np.array([[5, 5, 15, 15]]), ["a"])]
    found = [(np.array([[30, 30, 45, 40], [1, 1, 49, 49]]), ["a", "a"], np.array([0.9, 0.2]))]
    pictures.boxes(images, truth, found, tmp_path / "boxes.png")
    red, green, blue = np.moveaxis(matplotlib.image.imread(tmp_path / "boxes.png"), -1, 0)[:3]
    true = np.argwhere((green > red + 0.2) & (green > blue + 0.2))
    sure = np.argwhere((red > green + 0.2) & (green > blue + 0.2))
    scale = np.ptp(true, axis=0).mean() / 10  # the true box has sides of 10 pixels
    np.testing.assert_allclose(np.ptp(true, axis=0), [10 * scale] * 2, atol=3)
    # Of those found only the one that is sure: 25 pixels lower and further right, label aside.
    np.testing.assert_allclose(sure.max(0) - true.min(0), [35 * scale, 40 * scale], atol=4)
    assert sure.min(0)[1] - true.min(0)[1] > 24 * scale


def test_points_are_drawn_in_the_colours_of_their_classes(tmp_path):
    maps = {"left": np.array([[0, 0], [1, 1]]), "right": np.array([[1, 0], [0, 1]])}
    pictures.points(maps, np.array([0, 11]), [str(i) for i in range(12)], tmp_path / "points.png")
    assert len(drawn(tmp_path / "points.png", BLUE))


@pytest.mark.parametrize("words", [8, 40])
def test_a_legend_of_long_names_is_not_cut_off(tmp_path, monkeypatch, words):
    figures, names = [], [f"{number} " + "run " * words for number in range(3)]
    monkeypatch.setattr(pictures, "save", lambda figure, path: figures.append(figure))
    pictures.bars({"one": {"metric": {name: [0.5] for name in names}}}, tmp_path / "bars.png")
    (figure,) = figures
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box, whole = legend.get_window_extent(), figure.bbox
    assert whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0
    assert len(legend.get_texts()) == 3
