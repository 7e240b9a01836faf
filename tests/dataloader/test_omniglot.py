"""``omniglot:FILE``."""

import numpy as np
import pytest

import dataloader
from registry import UserError


def content(**changes):
    """Three characters by eight drawers, as ones on zeros."""
    random = np.random.default_rng(0)
    arrays = {
        "images": random.integers(0, 2, [24, 10, 10]).astype(np.uint8),
        "y": np.repeat(np.arange(3), 8),
        "drawer": np.tile(np.arange(1, 9), 3),
        "classes": np.array(["a", "b", "c"]),
        "alphabet": np.array(["x"] * 24),
    }
    return {key: value for key, value in {**arrays, **changes}.items() if value is not None}


@pytest.fixture
def load(tmp_path):
    def save_and_load(options=None, **changes):
        np.savez(tmp_path / "set.npz", **content(**changes))
        return dataloader.load(f"omniglot:{tmp_path / 'set.npz'}", **(options or {}))

    return save_and_load


def test_the_last_drawers_are_for_testing(load):
    data = load({"validation_fraction": 0})
    arrays = content()
    test = arrays["drawer"] >= 7
    assert data.class_names == ("a", "b", "c") and data.image_shape == (10, 10, 1)
    for split, rows in ((data.train, ~test), (data.test, test)):
        np.testing.assert_array_equal(
            split.images(range(len(split))), 255 * arrays["images"][rows][..., None]
        )
        np.testing.assert_array_equal(split.labels, arrays["y"][rows])
    assert not data.default_flip


def test_another_size_and_grey_values(load):
    grey = np.random.default_rng(1).integers(0, 256, [24, 10, 10]).astype(np.uint8)
    assert load({"image_size": (5, 5)}, images=grey).image_shape == (5, 5, 1)
    np.testing.assert_array_equal(
        load({"validation_fraction": 0}, images=grey).test.images([0])[0, ..., 0], grey[6]
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"drawer": None}, "lacks drawer"),
        ({"drawer": np.ones(24, int)}, "one drawer"),
        ({"y": np.arange(5)}, "5 labels for 24 images"),
        ({"y": np.repeat([0, 1, 2**31], 8), "classes": None}, "label 2147483648 among 24 images"),
        ({"y": np.repeat([1, 2, 3], 8)}, "labels from 1 to 3.*subtract 1"),
        ({"classes": np.array(["a", "b", "b"])}, "'b' occurs 2 times"),
    ],
)
def test_faults_are_told(load, changes, message):
    with pytest.raises(UserError, match=message):
        load(**changes)
