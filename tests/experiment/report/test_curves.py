import numpy as np
import pytest
from matplotlib.image import imread

from experiment.report import curves


def history(epochs):
    return [
        {
            "epoch": epoch, "stage": "hint" if epoch < 8 else "distil",
            "main_loss": 4.6 / epoch**0.5, "distillation_loss": 0.3 / epoch**1.5,
            "accuracy": 1 - 0.9 / epoch, "val_accuracy": 0.9 - 0.8 / epoch,
            "top5": 1 - 0.5 / epoch, "clip_share": 0.5 + 0.4 * np.sin(epoch),
            "learning_rate": 0.1 * 0.5 ** (epoch // 6), "seconds": 3.0,
        }
        for epoch in range(1, epochs + 1)
    ]


@pytest.mark.parametrize("epochs", [1, 20])
def test_curves(tmp_path, epochs):
    curves.draw(history(epochs), tmp_path / "curves.png")
    picture = imread(tmp_path / "curves.png")
    assert picture.shape[0] > 500 and picture.std() > 0.02
    curves.draw([], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_curves_of_given_panels(tmp_path):
    """A panel for each title of which there is a column, two side by side."""
    rows = [{"epoch": epoch, "a": epoch, "val_b": 1 / epoch} for epoch in (1, 2, 3)]
    shapes = []
    for panels in ({"one": ["a"]}, {"one": ["a"], "two": ["b", "c"], "three": ["c"]}):
        curves.draw(rows, tmp_path / "curves.png", panels)
        shapes.append(imread(tmp_path / "curves.png").shape)
    assert shapes[1][:2] == (shapes[0][0], 2 * shapes[0][1])
    curves.draw(rows, tmp_path / "none.png", {"three": ["c"]})
    assert not (tmp_path / "none.png").exists()
