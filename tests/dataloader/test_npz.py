"""``npz:FILE``: what is read, and what is refused in one line."""

import zipfile

import numpy as np
import pytest

import dataloader
from registry import UserError


def content(**changes):
    random = np.random.default_rng(0)
    arrays = {
        "x_train": random.integers(0, 256, [30, 6, 7, 3]).astype(np.uint8),
        "y_train": np.arange(30) % 3,
        "x_test": random.integers(0, 256, [9, 6, 7, 3]).astype(np.uint8),
        "y_test": np.arange(9) % 3,
    }
    return {key: value for key, value in {**arrays, **changes}.items() if value is not None}


@pytest.fixture
def load(tmp_path):
    def save_and_load(load_options=None, **changes):
        np.savez(tmp_path / "set.npz", **content(**changes))
        return dataloader.load(f"npz:{tmp_path / 'set.npz'}", **(load_options or {}))

    return save_and_load


def test_images_and_labels_come_out_as_they_went_in(load):
    data = load(load_options={"validation_fraction": 0}, other=np.zeros([2]))
    arrays = content()
    assert data.image_shape == (6, 7, 3)
    assert data.class_names == ("0", "1", "2") and data.classes == 3 and data.default_flip
    for split, part in ((data.train, "train"), (data.test, "test")):
        np.testing.assert_array_equal(split.images(range(len(split))), arrays[f"x_{part}"])
        np.testing.assert_array_equal(split.labels, arrays[f"y_{part}"])
        assert split.labels.dtype == np.int32
    pixels = arrays["x_train"].reshape(-1, 3).astype(float)
    np.testing.assert_allclose(data.channel_mean, pixels.mean(0))
    np.testing.assert_allclose(data.channel_deviation, pixels.std(0))
    assert data.train.fill == tuple(np.rint(pixels.mean(0)).astype(int))
    assert len(data.validation) == 0


def test_class_names_grey_images_and_columns_of_labels(load):
    random = np.random.default_rng(1)
    data = load(
        classes=np.array(["cat", "dog", "cow"]),
        x_train=random.integers(0, 256, [30, 5, 5]),
        x_test=random.integers(0, 256, [9, 5, 5, 1]).astype(np.int16),
        y_train=(np.arange(30) % 3)[:, None],
    )
    assert data.class_names == ("cat", "dog", "cow")
    assert data.image_shape == (5, 5, 1)
    assert data.train.images([0, 1]).dtype == np.uint8


def test_constant_channel_can_be_divided_by(load):
    images = content()["x_train"]
    images[..., 1] = 200
    data = load(x_train=images)
    assert data.channel_mean[1] == 200 and data.channel_deviation[1] == 1


def test_resized(load):
    flat = np.full([9, 6, 7, 3], 200, np.uint8)
    data = load(load_options={"image_size": (12, 4)}, x_test=flat)
    assert data.image_shape == (12, 4, 3)
    np.testing.assert_array_equal(data.test.images([0]), np.full([1, 12, 4, 3], 200))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"x_test": None, "y_test": None}, "lacks x_test, y_test: it has x_train, y_train"),
        ({"x_train": np.zeros([30, 6, 7, 3], np.float32)}, r"x_train is float32.*look like 0..1"),
        ({"x_train": np.full([30, 6, 7, 3], 9.5)}, "x_train is float64: uint8 images in 0..255"),
        ({"x_train": np.full([30, 6, 7, 3], 256)}, "values from 256 to 256: 0..255 expected"),
        ({"x_test": np.full([9, 6, 7, 3], -1)}, "x_test has values from -1"),
        ({"x_train": np.zeros([30, 18], np.uint8)}, r"shape \[30, 18\]"),
        ({"x_train": np.zeros([30, 3, 6, 7], np.uint8)}, r"shape \[30, 3, 6, 7\].*\[N,H,W,C\]"),
        ({"x_test": np.zeros([9, 5, 5, 3], np.uint8)}, "equal shapes expected"),
        ({"x_test": np.zeros([0, 6, 7, 3], np.uint8)}, "there is no image in it"),
        ({"y_train": np.arange(29) % 3}, "29 labels for 30 images"),
        ({"y_train": np.arange(30) % 3 - 1}, "negative label"),
        ({"y_train": np.arange(30) % 3 / 1.0}, "y_train is float64: integer class numbers"),
        ({"y_test": np.eye(9, 3, dtype=int)}, "class numbers, not one-hot"),
        ({"y_test": np.array([5] * 9)}, "class '3', '4', '5' has no image to train on"),
        ({"y_train": np.arange(30) % 2 * 2}, "class '1' has no image to train on"),
        ({"y_train": np.zeros(30, int), "y_test": np.zeros(9, int)}, "at least two"),
        ({"classes": np.array(["a", "b"])}, "label 2 is out of range: 0 to 1 expected"),
        ({"classes": np.array([1, 2, 3])}, "a list of strings"),
        ({"y_train": np.array([{}] * 30)}, "y_train holds Python objects, which are not read"),
        ({"classes": np.array(["a", 1, None], object)}, "classes holds Python objects"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_mistakes_are_named(load, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        load(**changes)
    assert "\n" not in str(caught.value)
    assert "set.npz" in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"no such file: .*absent\.npz"):
        dataloader.load(f"npz:{tmp_path / 'absent.npz'}")
    with pytest.raises(UserError, match="npz:FILE expected"):
        dataloader.load("npz:")


def damaged(name, tmp_path):
    """A file with a fault."""
    file = tmp_path / "set.npz"
    if name == "text":
        file.write_text("hello")
    elif name == "empty":
        file.write_bytes(b"")
    elif name == "array":
        np.save(tmp_path / "set", np.zeros(3))
        (tmp_path / "set.npy").rename(file)
    elif name == "pickle":
        file.write_bytes(b"\x80\x04\x95\x10\x00\x00\x00")
    else:
        np.savez_compressed(file, **content())
        whole = bytearray(file.read_bytes())
        if name == "cut off":
            whole = whole[: len(whole) // 2]
        else:
            whole[2000:2040] = bytes(40)
        file.write_bytes(whole)
    return file


@pytest.mark.parametrize("name", ["text", "empty", "array", "pickle", "cut off", "overwritten"])
def test_damaged_archives(name, tmp_path):
    with pytest.raises(UserError, match=r"set\.npz.*(not a numpy archive|is damaged)") as caught:
        dataloader.load(f"npz:{damaged(name, tmp_path)}")
    assert "\n" not in str(caught.value)


def test_member_that_is_no_array(tmp_path):
    np.savez(tmp_path / "set.npz", **content(y_test=None))
    with zipfile.ZipFile(tmp_path / "set.npz", "a") as archive:
        archive.writestr("y_test.npy", b"no array at all")
    with pytest.raises(UserError, match="y_test"):
        dataloader.load(f"npz:{tmp_path / 'set.npz'}")


def test_too_large_for_the_memory(load, monkeypatch):
    monkeypatch.setattr("dataloader.memory.free_memory", lambda: 2000)
    with pytest.raises(UserError, match=r"more than half of the .* GiB of free memory"):
        load()
