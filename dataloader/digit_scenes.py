"""Detection data without a download: digits at random positions and sizes on a canvas.

Test scenes use the test digits of `dataloader.digits`, training scenes use the others. So an
encoder that was pre-trained on the training digits has not seen a test digit.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

from dataloader.digits import TEST_SEED, TEST_SHARE
from dataloader.memory import check_memory
from dataloader.resizing import resized
from dataloader.scenes import SceneRequest, Scenes, SceneSplit, register_scenes
from dataloader.splitting import rows_for_testing

DEFAULT_SIZE = (64, 64)
TRAIN_SCENES, TEST_SCENES = 1000, 150
MOST_DIGITS = 4
SIZES = (0.3, 0.5)
"""Smallest and largest side of a digit, as shares of the canvas' shorter side."""
INK = 64
"""A digit's box contains its pixels of at least this grey value."""

_ATTEMPTS = 20
_TEST = 1


@register_scenes("digits")
def digit_scenes(request: SceneRequest) -> Scenes:
    """1,000 training and 150 test scenes, each with one to four of scikit-learn's digits.

    The digits do not overlap. The canvases are black, 64x64 by default. The test scenes do not
    depend on the seed.
    """
    found = load_digits()
    grey = (found.images * (255 / 16)).astype(np.float32)
    test = rows_for_testing(found.target, TEST_SHARE, TEST_SEED)
    train = np.setdiff1d(np.arange(len(grey)), test)
    size = request.size or DEFAULT_SIZE
    count = TRAIN_SCENES + TEST_SCENES
    check_memory(
        count * size[0] * size[1] * 3, f"{count} scenes of {size[0]}x{size[1]}",
        "give a smaller --scene_size",
    )
    return Scenes(
        name="digits",
        class_names=tuple(str(digit) for digit in found.target_names),
        train=_scenes(grey[train], found.target[train], TRAIN_SCENES, size,
                      np.random.default_rng([request.seed])),
        test=_scenes(grey[test], found.target[test], TEST_SCENES, size,
                     np.random.default_rng([TEST_SEED, _TEST])),
        flip=False,
    )


def _scenes(
    digits: np.ndarray, classes: np.ndarray, count: int, size: tuple[int, int],
    random: np.random.Generator,
) -> SceneSplit:
    """Draw `count` scenes with `digits`, float32 [N,8,8] in 0..255."""
    images, boxes, labels = np.zeros([count, *size, 3], np.uint8), [], []
    for image in images:
        placed: list[np.ndarray] = []
        rows = random.integers(len(digits), size=random.integers(1, MOST_DIGITS + 1))
        kept = [row for row in rows if _place(digits[row], image, placed, random)]
        boxes.append(np.array(placed, np.float32).reshape(-1, 4))
        labels.append(classes[kept].astype(np.int32))
    difficult = [np.zeros(len(each), bool) for each in labels]
    return SceneSplit(images, boxes, labels, difficult)


# As a graph: thousands of digits are enlarged, one by one.
@tf.function(
    input_signature=[tf.TensorSpec([None, None, 1], tf.float32), tf.TensorSpec([2], tf.int32)],
    autograph=False,
)
def _enlarged(digit: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    return resized(digit, size)


def _place(
    digit: np.ndarray, image: np.ndarray, placed: list[np.ndarray], random: np.random.Generator
) -> bool:
    """Draw a digit into `image` where it touches no other, and add its box to `placed`.

    Args:
        digit: float32 [8,8].
        image: uint8 [H,W,3], changed in place.
        placed: the boxes so far, changed in place.
        random: the source of random numbers.

    Returns:
        False if no free position was found.
    """
    height, width = image.shape[:2]
    side = round(min(height, width) * random.uniform(*SIZES))
    drawn = _enlarged(digit[..., None], tf.constant([side, side])).numpy()
    down, right = (np.flatnonzero((drawn >= INK).any(axis)) for axis in ((1, 2), (0, 2)))
    box = np.array([right[0], down[0], right[-1] + 1, down[-1] + 1])
    for _ in range(_ATTEMPTS):
        top, left = random.integers(height - side + 1), random.integers(width - side + 1)
        moved = box + [left, top, left, top]
        if not any(_touch(moved, other) for other in placed):
            part = image[top : top + side, left : left + side]
            np.maximum(part, drawn, out=part)
            placed.append(moved)
            return True
    return False


def _touch(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two boxes overlap or are adjacent."""
    return bool((one[:2] <= other[2:]).all() and (other[:2] <= one[2:]).all())
