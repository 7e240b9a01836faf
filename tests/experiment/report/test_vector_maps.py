import numpy as np
import pytest
from matplotlib.image import imread

from experiment.report import vector_maps


def test_vector_maps_show_the_sign(tmp_path):
    """The first map is positive on the left and negative on the right: red there, blue here."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    sizes = (16, 8, 4)

    def maps():
        return [[random.normal(size=(size, size)) for size in sizes] for _ in images]

    teacher, student = maps(), maps()
    for row in teacher:
        row[0] = np.where(np.arange(16) < 8, 1.0, -1.0) * np.ones((16, 1))
    vector_maps.draw(images, teacher, student, tmp_path / "maps.png")
    picture = imread(tmp_path / "maps.png")[..., :3]
    red, blue = np.array([[0x67, 0, 0x1F], [0x05, 0x30, 0x61]]) / 255
    is_red = np.abs(picture - red).sum(-1) < 0.05
    is_blue = np.abs(picture - blue).sum(-1) < 0.05
    assert is_red.sum() > 1000
    assert np.nonzero(is_red)[1].mean() < np.nonzero(is_blue)[1].mean()
    vector_maps.draw(images[:1, ..., :1], teacher[:1], student[:1], tmp_path / "one.png", "abc")
    with pytest.raises(ValueError, match="expected equal numbers"):
        vector_maps.draw(images[:2], teacher, student, tmp_path / "x.png")
