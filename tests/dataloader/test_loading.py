"""Splits and names, by the embedded digits."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

import dataloader
from registry import UserError


@pytest.fixture(scope="module")
def digits():
    return dataloader.load("digits")


def rows(split):
    return set(split.rows.tolist())


def test_digits_are_the_real_ones(digits):
    assert digits.image_shape == (32, 32, 3) and digits.classes == 10 and not digits.default_flip
    assert len(digits.train) + len(digits.validation) + len(digits.test) == 1797
    assert len(digits.test) == 359
    small = dataloader.load("digits", image_size=(8, 8), validation_fraction=0)
    found = load_digits()
    for split in (small.train, small.test):
        images = split.images(range(len(split))).numpy()
        expected = np.rint(found.images[split.rows] * 255 / 16)
        for channel in range(3):
            np.testing.assert_array_equal(images[..., channel], expected)
        np.testing.assert_array_equal(split.labels, found.target[split.rows])


def saved(path, channels):
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (40, 6, 5, channels), np.uint8), np.arange(40) % 2
    np.savez(path, x_train=images, y_train=labels, x_test=images[:8], y_test=labels[:8])
    return f"npz:{path}", images


def test_grey_images_are_repeated_for_networks_of_colours(tmp_path):
    name, images = saved(tmp_path / "grey.npz", 1)
    data = dataloader.load(name, channels=3)
    assert data.image_shape == dataloader.outline(name, channels=3).image_shape == (6, 5, 3)
    assert data.is_in_memory and len(set(data.channel_mean)) == 1
    for split in data.splits:
        assert len(split.fill) == 3
    found = data.train.images(range(len(data.train)))
    np.testing.assert_array_equal(found, images[data.train.rows].repeat(3, axis=-1))


def test_colours_become_their_luma(tmp_path):
    name, images = saved(tmp_path / "colours.npz", 3)
    data = dataloader.load(name, channels=1)
    found = data.test.images(range(8)).numpy()[..., 0]
    np.testing.assert_allclose(found, images[:8] @ (0.299, 0.587, 0.114), atol=1)
    np.testing.assert_array_equal(dataloader.load(name, channels=3).test.images([0]), images[:1])


def test_other_channels_are_refused(tmp_path):
    with pytest.raises(UserError, match="2 channels; expected 3"):
        dataloader.load(saved(tmp_path / "grey.npz", 1)[0], channels=2)


def test_splits_are_disjoint_stratified_and_seeded(digits):
    parts = [digits.train, digits.validation, digits.test]
    assert len(set.union(*map(rows, parts))) == 1797
    for part, share in zip(parts, (0.72, 0.08, 0.2), strict=True):
        counts = np.bincount(part.labels, minlength=10)
        assert np.ptp(counts / len(part)) < 0.03
        assert abs(len(part) / 1797 - share) < 0.002
    again, other = dataloader.load("digits"), dataloader.load("digits", seed=1)
    assert rows(again.validation) == rows(digits.validation) != rows(other.validation)
    assert rows(other.test) == rows(digits.test)


def test_first_training_images_after_validation_are_kept(digits):
    few = dataloader.load("digits", train_images=100)
    np.testing.assert_array_equal(few.train.rows, digits.train.rows[:100])
    assert rows(few.validation) == rows(digits.validation)


def outline_and_data(name, **options):
    """What `outline` says of a data set, and the set."""
    return dataloader.outline(name, **options), dataloader.load(name, **options)


@pytest.mark.parametrize(
    "options", [{}, {"train_images": 30}, {"validation_fraction": 0}, {"image_size": (6, 9)}]
)
@pytest.mark.parametrize("name", ["digits", "npz", "grey"])
def test_an_outline_is_that_of_the_data(tmp_path, name, options):
    if name != "digits":
        shape = (40, 8, 5) if name == "grey" else (40, 8, 5, 3)
        images, labels = np.zeros(shape, np.uint8), np.arange(40) % 2
        np.savez(tmp_path / "set.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
        name = f"npz:{tmp_path / 'set.npz'}"
    outline, data = outline_and_data(name, **options)
    assert abs(outline.train_images - len(data.train)) <= 1
    assert outline.image_shape == data.image_shape


def test_labels_a_class(digits):
    few = dataloader.load("digits", labelled_per_class=7)
    kept = few.train.labels >= 0
    assert np.bincount(few.train.labels[kept]).tolist() == [7] * 10
    np.testing.assert_array_equal(few.train.rows, digits.train.rows)
    np.testing.assert_array_equal(few.train.labels[kept], digits.train.labels[kept])
    assert (few.validation.labels >= 0).all() and (few.test.labels >= 0).all()
    other = dataloader.load("digits", labelled_per_class=7, seed=1)
    assert not np.array_equal(other.train.labels, few.train.labels)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"validation_fraction": 1.0}, "validation fraction 1.0"),
        ({"validation_fraction": -0.1}, "validation fraction"),
        ({"validation_fraction": float("nan")}, "validation fraction"),
        ({"labelled_per_class": 0}, "at least 1"),
        ({"labelled_per_class": 500}, "500 labelled images per class.*only 1"),
        ({"train_images": 0}, "expected 1 to 1294"),
        ({"train_images": 1295}, "expected 1 to 1294"),
        ({"train_images": 5}, "has no image among the first 5"),
        ({"image_size": (0, 8)}, "image size 0x8"),
        ({"seed": -1}, "data seed -1"),
        ({"in_memory": "no"}, "'digits' is always held in memory"),
        ({"in_memory": "maybe"}, "expected one of auto, yes, no"),
        ({"image_size": (10**6, 10**6)}, "more than half of the"),
    ],
    ids=str,
)
def test_mistakes_are_named(options, message):
    with pytest.raises(UserError, match=message):
        dataloader.load("digits", **options)


def test_without_labels_a_class_may_have_no_image(caplog):
    assert len(dataloader.load("digits", train_images=5, needs_classes=False).train) == 5
    (record,) = caplog.records
    assert record.getMessage().startswith("digits: no training image shows class '")


@pytest.mark.parametrize(
    "name, message",
    [
        ("digit", "unknown data set 'digit' .did you mean 'digits'"),
        ("npx:file.npz", "unknown data set 'npx:file.npz' .did you mean 'npz'"),
        ("digits:3", "takes nothing after a colon"),
        ("folder", "expected folder:DIR"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(UserError, match=message):
        dataloader.load(name)


def test_file_without_its_prefix(tmp_path):
    (tmp_path / "set.npz").touch()
    with pytest.raises(UserError, match=r"did you mean npz:.*set\.npz"):
        dataloader.load(str(tmp_path / "set.npz"))
    with pytest.raises(UserError, match="did you mean folder:"):
        dataloader.load(str(tmp_path))


def test_mixed_images_are_from_all_over_and_in_no_order():
    store = dataloader.MemoryImages(np.zeros([100, 2, 2, 1], np.uint8))
    by_class = dataloader.Split.whole(store, np.repeat(np.arange(10), 10))
    whole, part = by_class.mixed(), by_class.mixed(20)
    assert sorted(whole.rows) == list(range(100)) and (whole.labels == whole.rows // 10).all()
    assert sorted(part.labels) == sorted([*range(10)] * 2)
    assert len(np.unique(whole.labels[:10])) > 3  # in their order they would have one class
    np.testing.assert_array_equal(whole.rows, by_class.mixed().rows)
