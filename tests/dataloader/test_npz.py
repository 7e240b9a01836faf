"""``npz:FILE``: what is read, and what is refused in one line."""

import os
import zipfile

import numpy as np
import pytest

import dataloader
from dataloader.npz import Archive
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


def test_names_say_more_than_numbers_or_not(load):
    assert not load().has_class_names
    assert load(classes=np.array(["a", "b", "c"])).has_class_names
    assert load(classes=np.array([b"a", b"b", b"\xc3\xa9"])).class_names == ("a", "b", "é")
    assert load(classes=np.array(["1", "0", "2"])).has_class_names
    assert not load(classes=np.array(["0", "1", "2"])).has_class_names


def test_constant_images_are_told(load, caplog):
    load(x_train=np.full([30, 6, 7, 3], 9, np.uint8))
    message, = caplog.messages
    assert "every training image is of a single colour" in message


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
        ({"x_train": np.full([30, 6, 7, 3], 9.5)}, "x_train is float64; expected uint8 images in"),
        ({"x_train": np.full([30, 6, 7, 3], 256)}, "values from 256 to 256; expected 0..255"),
        ({"x_test": np.full([9, 6, 7, 3], -1)}, "x_test has values from -1"),
        ({"x_train": np.zeros([30, 18], np.uint8)}, r"shape \[30, 18\]"),
        ({"x_train": np.zeros([30, 3, 6, 7], np.uint8)}, r"shape \[30, 3, 6, 7\].*\[N,H,W,C\]"),
        ({"x_test": np.zeros([9, 5, 5, 3], np.uint8)}, "expected equal shapes"),
        ({"x_test": np.zeros([0, 6, 7, 3], np.uint8)}, "there is no image in it"),
        ({"x_train": np.arange(3780, dtype=np.uint8).reshape(30, 6, 7, 3) % 2},
         "x_train has no value above 1"),
        ({"x_train": np.zeros([30, 3, 6, 7], np.uint8)}, r"x_train.transpose\(0, 2, 3, 1\)"),
        ({"y_train": np.arange(29) % 3}, "29 labels for 30 images"),
        ({"y_train": np.arange(30) % 3 - 1}, "negative label"),
        ({"y_train": np.arange(30) % 3 / 1.0}, "y_train is float64; expected integer class"),
        ({"y_train": np.arange(30) % 3 / 2.0}, "float64 with fractions, such as 0.5; expected"),
        ({"y_test": np.array([np.nan] * 9)}, "y_test is float64 with 9 NaN; expected integer"),
        ({"y_test": np.array(["a"] * 9)}, "y_test is <U1; expected integer class numbers"),
        ({"y_train": np.arange(30) % 3 + 1, "y_test": np.arange(9) % 3 + 1}, "1 to 3.*subtract 1"),
        (
            {"y_train": np.arange(30) % 3 + 1, "y_test": np.arange(9) % 3 + 1,
             "classes": np.array(["a", "b", "c"])}, "labels from 1 to 3.*subtract 1",
        ),
        ({"y_test": np.array([2**31 - 1] * 9)}, "label 2147483647 among 39 images"),
        ({"y_train": np.array([2**63] * 30, np.uint64)}, "has the label 9223372036854775808"),
        ({"y_train": np.array([2**62] * 30)}, "label 4611686018427387904 among 39 images"),
        ({"classes": np.array(["a", "b", "a"])}, "class name 'a' occurs 2 times"),
        ({"classes": np.array(["a", "b", " "])}, "class name ' '; expected text"),
        ({"classes": np.array(["a", "b", "c\nd"])}, "class name 'c.nd'; expected text"),
        ({"classes": np.array([b"a", b"b", b"caf\xe9"])}, "classes holds b'caf.xe9'.*UTF-8"),
        ({"y_test": np.eye(9, 3, dtype=int)}, "class numbers, not one-hot"),
        ({"y_test": np.array([5] * 9)}, "class '3', '4', '5' has no image to train on"),
        ({"y_train": np.arange(30) % 2 * 2}, "class '1' has no image to train on"),
        ({"y_train": np.zeros(30, int), "y_test": np.zeros(9, int)}, "at least two"),
        ({"classes": np.array(["a", "b"])}, "label 2 is out of range; expected 0 to 1"),
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
    with pytest.raises(UserError, match="expected npz:FILE"):
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


def header_of(shape, dtype="|u1", version=b"\1\0"):
    """An array in NumPy's format (version 1.0) with no values."""
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize("member", [
    header_of((10**12, 1000, 1000, 3)), header_of((30, 6, 7, 3)), header_of((10**18,), "<U0"),
    header_of((-5, 6, 7, 3)), header_of((10**6,), "<U1000000"), header_of((2**70, 2**70)),
    header_of((30,)) + bytes(31), header_of((30,), version=b"\2\0") + bytes(30),
    header_of((30,), version=b"\7\0") + bytes(30), header_of("x" * 20_000),
    b"\x93NUMPY\2\0\xff\xff\xff\x7f" + bytes(50_000),
])  # fmt: skip
def test_a_header_promises_what_is_not_there(tmp_path, member):
    np.savez(tmp_path / "set.npz", **content(y_train=None))
    with zipfile.ZipFile(tmp_path / "set.npz", "a") as archive:
        archive.writestr("y_train.npy", member)
    with pytest.raises(UserError, match=r"set\.npz: y_train is damaged") as caught:
        dataloader.load(f"npz:{tmp_path / 'set.npz'}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["x_train", "y_test", "classes"])
def test_an_archive_that_unpacks_to_more_than_memory(tmp_path, monkeypatch, key):
    """3 MB of zeros take 3 kB in the archive."""
    np.savez_compressed(tmp_path / "set.npz", **content(**{key: np.zeros(3 * 10**6, np.uint8)}))
    assert (tmp_path / "set.npz").stat().st_size < 50_000
    monkeypatch.setattr("dataloader.memory.free_memory", lambda: 10**6)
    monkeypatch.setattr(np.lib.format, "read_array", lambda *_, **__: pytest.fail("it is read"))
    archive = Archive(tmp_path / "set.npz", [])
    with pytest.raises(UserError, match=f"{key} needs .* more than half of the"):
        archive.read(key)


def test_what_is_no_file(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, kind in {"folder": "a folder", "pipe": "a named pipe"}.items():
        with pytest.raises(UserError, match=f"{name}: is {kind}, not a file"):
            dataloader.load(f"npz:{tmp_path / name}")


def test_too_large_for_the_memory(load, monkeypatch):
    monkeypatch.setattr("dataloader.memory.free_memory", lambda: 2000)
    with pytest.raises(UserError, match=r"more than half of the .* GiB of free memory"):
        load()


def test_images_to_validate_by(tmp_path, caplog):
    random = np.random.default_rng(0)
    counts = {"train": 12, "test": 4, "val": 6}
    arrays = {
        f"x_{part}": random.integers(0, 256, [count, 4, 4, 3]).astype(np.uint8)
        for part, count in (*counts.items(), ("valid", 2))
    }
    arrays |= {f"y_{part}": np.arange(count) % 2 for part, count in counts.items()}
    np.savez(tmp_path / "data.npz", **arrays)
    name = f"npz:{tmp_path}/data.npz"
    data = dataloader.load(name, validation_fraction=0.5)
    np.testing.assert_array_equal(data.validation.images(range(6)), arrays["x_val"])
    np.testing.assert_array_equal(data.validation.labels, arrays["y_val"])
    assert len(data.train) == 12
    assert dataloader.outline(name, validation_fraction=0.5).train_images == 12
    (record, *_) = caplog.records
    assert "x_valid: not read; only x_train" in record.getMessage()
    del arrays["y_val"]
    np.savez(tmp_path / "half.npz", **arrays)
    with pytest.raises(UserError, match="has x_val but no y_val: give both, or neither"):
        dataloader.load(f"npz:{tmp_path}/half.npz")
