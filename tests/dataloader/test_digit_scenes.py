"""Digits on canvases: where the boxes are, and which digits they hold."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

import dataloader
from dataloader import digit_scenes
from dataloader.digit_scenes import INK
from dataloader.digits import TEST_SEED, TEST_SHARE
from dataloader.splitting import rows_for_testing
from registry import UserError


@pytest.fixture(scope="module")
def scenes():
    return dataloader.load_scenes("digits")


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(digit_scenes, "TRAIN_SCENES", 60)
    monkeypatch.setattr(digit_scenes, "TEST_SCENES", 40)


def test_every_box_is_tight_and_nothing_is_outside(scenes):
    for split in (scenes.train, scenes.test):
        for image, boxes in zip(split.images[:50], split.boxes, strict=False):
            ink = image[..., 0] >= INK
            rest = ink.copy()
            for left, top, right, bottom in boxes.astype(int):
                inside = ink[top:bottom, left:right]
                assert inside.any(0)[[0, -1]].all() and inside.any(1)[[0, -1]].all()
                rest[top:bottom, left:right] = False
            assert not rest.any() and 1 <= len(boxes) <= 4


def test_boxes_do_not_overlap(scenes):
    for boxes in scenes.train.boxes:
        for i, one in enumerate(boxes):
            for other in boxes[:i]:
                assert (one[2:] < other[:2]).any() or (other[2:] < one[:2]).any()


def test_test_scenes_hold_test_digits_alone(few, monkeypatch):
    found = load_digits()
    test = rows_for_testing(found.target, TEST_SHARE, TEST_SEED)
    # Squares of two grey values, which resizing keeps.
    found.images = np.zeros([len(found.images), 8, 8])
    found.images[:, 1:7, 2:6] = 8
    found.images[test, 1:7, 2:6] = 16
    monkeypatch.setattr("dataloader.digit_scenes.load_digits", lambda: found)
    scenes = dataloader.load_scenes("digits")
    for split, grey in ((scenes.train, 8), (scenes.test, 16)):
        for image, boxes in zip(split.images, split.boxes, strict=True):
            for left, top, right, bottom in boxes.astype(int):
                brightest = image[top:bottom, left:right].max()
                assert brightest == pytest.approx(grey * 255 / 16, abs=1)


def test_only_training_scenes_depend_on_the_seed(few):
    scenes, other = (dataloader.load_scenes("digits", seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(scenes.test.images, other.test.images)
    assert (scenes.train.images != other.train.images).any()
    assert not scenes.flip and scenes.class_names == tuple("0123456789")


@pytest.mark.parametrize("given", [{"class_names": ("0", "1")}, {"max_bad": 0}])
def test_classes_and_faulty_images_are_not_for_digits(given):
    with pytest.raises(UserError, match="'digits' takes no .*: only voc:DIR does"):
        dataloader.load_scenes("digits", **given)


def test_canvases_of_another_size(few):
    scenes = dataloader.load_scenes("digits", size=(96, 128))
    assert scenes.image_shape == (96, 128, 3)
    assert max(boxes[:, 2].max() for boxes in scenes.train.boxes) > 96
