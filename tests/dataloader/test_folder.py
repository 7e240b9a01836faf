"""``folder:DIR``: pictures written by Pillow, read by TensorFlow."""

import dataclasses
import json
import os
import re
import shutil
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import dataloader
import dataloader.folder
from dataloader import Augmentation, MemoryImages
from dataloader.folder import FileImages
from dataloader.image_folders import _images_of_classes
from registry import UserError
from tests.dataloader.pictures import picture, save, save_turned, smooth


@pytest.fixture
def top(tmp_path):
    for label, name in enumerate(["ant", "bee"]):
        for number in range(4):
            save(picture(10 * label + number), tmp_path / "train" / name / f"{number}.png")
        save(picture(100 + label), tmp_path / "test" / name / "0.bmp")
    return tmp_path


def load(top, **options):
    return dataloader.load(f"folder:{top}", **{"validation_fraction": 0, **options})


def test_pictures_come_out_as_they_went_in(top):
    data = load(top)
    assert data.class_names == ("ant", "bee") and data.image_shape == (9, 12, 3)
    expected = np.stack([picture(10 * label + number) for label in (0, 1) for number in range(4)])
    np.testing.assert_array_equal(data.train.images(range(8)), expected)
    np.testing.assert_array_equal(data.test.images([1, 0]), [picture(101), picture(100)])
    assert data.train.labels.tolist() == [0] * 4 + [1] * 4
    np.testing.assert_allclose(data.channel_mean, expected.mean((0, 1, 2)))
    np.testing.assert_allclose(data.channel_deviation, expected.std((0, 1, 2)))


def test_test_images_without_classes_are_passed_over(top, caplog):
    """As competitions give them: classes in train and val, and test is for them to score."""
    for label, name in enumerate(["ant", "bee"]):
        for number in range(2):
            save(picture(50 + 10 * label + number), top / "val" / name / f"{number}.png")
    shutil.rmtree(top / "test")
    save(picture(7), top / "test" / "1.png")
    data = load(top)
    np.testing.assert_array_equal(
        data.test.images(range(4)), [picture(number) for number in (50, 51, 60, 61)]
    )
    assert "test: 1.png is in no class folder and not read" in caplog.text


def test_a_class_without_a_test_image_is_told(top, caplog):
    shutil.rmtree(top / "test" / "bee")
    load(top)
    assert "no test image shows class 'bee'" in caplog.text


def test_a_folder_above_the_classes_is_told_from_them(top):
    deeper = top / "deeper" / "images"
    for name in ("ant", "bee"):
        save(picture(0), deeper / name / "0.png")
    with pytest.raises(UserError, match=r"did you mean folder:.*deeper/images\?"):
        load(deeper.parent)
    shutil.rmtree(deeper / "bee")
    with pytest.raises(UserError, match=r"two folders DIR/CLASS at least\)$"):
        load(deeper)


def test_batches(top):
    data = load(top)
    batches = list(
        dataloader.training_batches(
            data.train, 3, seed=0, epochs=2, augmentation=Augmentation.none()
        )
    )
    assert [len(batch["index"]) for batch in batches] == [3, 3, 2] * 2
    for batch in batches:
        np.testing.assert_array_equal(batch["image"], data.train.images(batch["index"]))
        np.testing.assert_array_equal(batch["label"], batch["index"] // 4)


def test_an_outline_needs_no_image_but_the_first(top):
    data = load(top)
    for file in sorted(top.rglob("*.png"))[-3:]:
        file.write_bytes(b"damaged")
    outline = dataloader.outline(f"folder:{top}", validation_fraction=0)
    assert (outline.train_images, outline.image_shape) == (len(data.train), data.image_shape)
    shutil.move(top / "test", top.parent / "test")
    outline = dataloader.outline(f"folder:{top}", image_size=(5, 6), validation_fraction=0)
    assert outline.train_images == round(0.8 * len(data.train))
    assert outline.image_shape == (5, 6, 3)


def test_formats_sizes_and_colours_meet(top):
    """Flat colours survive JPEG, resizing and a colour table."""
    flat = np.full([20, 31, 3], (200, 100, 50), np.uint8)
    grey = np.full([5, 5], 77, np.uint8)
    bee = top / "train" / "bee"
    for file in bee.iterdir():
        file.unlink()
    save(flat, bee / "0.JPG")
    save(grey, bee / "1.jpeg")
    save(grey, bee / "2.bmp")
    save(grey, bee / "3.png")
    save(np.dstack([flat, np.full_like(flat[..., :1], 255)]), bee / "4.png")
    Image.fromarray(flat).quantize(2, dither=Image.Dither.NONE).save(bee / "5.gif")
    Image.fromarray(flat).convert("CMYK").save(bee / "6.jpg")
    (bee / "notes.txt").write_text("not a picture")
    (bee / ".hidden.png").write_text("nor this")
    images = load(top).train.images(range(4, 11)).numpy().astype(int)
    assert images.shape == (7, 9, 12, 3)
    for image, colour in zip(images, [flat[0, 0], *[[77] * 3] * 3, *[flat[0, 0]] * 3], strict=True):
        assert abs(image - np.array(colour)).max() <= 3


@pytest.mark.parametrize("in_memory", ["yes", "no"])
def test_pictures_that_are_not_ordinary(tmp_path, in_memory):
    """Turned, transparent, of 16 bits, beside ordinary ones: by arithmetic, not by a decoder."""
    shape = np.random.default_rng(0).random((24, 40)) < 0.3
    ink = np.dstack([np.zeros((24, 40, 3)), 255 * shape]).astype(np.uint8)
    deep = np.linspace(0, 65535, 960).round().astype(np.uint16).reshape(24, 40)
    for name in "ab":
        save_turned(smooth((24, 40)), tmp_path / "train" / name / "0.jpg", 6)
        save(ink, tmp_path / "train" / name / "1.png")
        save(deep, tmp_path / "train" / name / "2.png")
        save(smooth((24, 40)), tmp_path / "train" / name / "3.png")
        save(smooth((24, 40)), tmp_path / "test" / name / "0.png")
    data = load(tmp_path, in_memory=in_memory)
    assert data.image_shape == (24, 40, 3)
    turned, drawn, grey, plain = data.train.images(range(4)).numpy().astype(int)
    assert np.abs(turned - smooth((24, 40))).mean() < 3
    np.testing.assert_array_equal(drawn, np.where(shape, 0, 255)[..., None].repeat(3, -1))
    np.testing.assert_allclose(grey, (deep / 257)[..., None].repeat(3, -1), atol=0.51)
    np.testing.assert_array_equal(plain, smooth((24, 40)))


def test_in_memory_or_not_batches_are_the_same(top):
    def batches(in_memory, **start):
        data = load(top, in_memory=in_memory, validation_fraction=0.25)
        store = {"yes": MemoryImages, "no": FileImages}.get(in_memory, MemoryImages)
        assert isinstance(data.train.store, store)
        found = dataloader.training_batches(
            data.train, 4, seed=3, epochs=2, augmentation=Augmentation(flip=True, crop_padding=2),
            **start,
        )
        return data, list(found)

    (memory, expected), (disk, found) = batches("yes"), batches("no")
    assert memory.channel_mean == disk.channel_mean and memory.train.fill == disk.train.fill
    assert memory.channel_deviation == disk.channel_deviation
    for one, other in zip(expected, found, strict=True):
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])
    _, resumed = batches("no", start_epoch=1, start_step=1)
    np.testing.assert_array_equal(resumed[0]["image"], expected[3]["image"])
    assert len(resumed) == 1


def test_too_large_for_the_memory(top, monkeypatch):
    monkeypatch.setattr("dataloader.memory.free_memory", lambda: 100_000)
    monkeypatch.setattr("dataloader.memory.BATCH", 4)
    monkeypatch.setattr("dataloader.memory.MEMORY_SHARE", 0.01)
    assert isinstance(load(top).train.store, FileImages)
    with pytest.raises(UserError, match="128x128.*more than half.*smaller --image_size"):
        load(top, image_size=(128, 128))
    monkeypatch.setattr("dataloader.memory.free_memory", lambda: 5_000)
    with pytest.raises(UserError, match="10 images of 9x12.*--in_memory no"):
        load(top, in_memory="yes")


def test_images_lie_at_any_depth_in_order(tmp_path):
    places = ["b.png", "images/a.png", "images/deep/er/z.png", "c/x y.png", "ü/ä.png"]
    for name in ("an ant", "蜂"):
        for number, place in enumerate(places):
            save(picture(number), tmp_path / "train" / name / place)
        save(picture(9), tmp_path / "test" / name / "images" / "t.png")
        save(picture(8), tmp_path / "train" / name / ".hidden" / "h.png")
    data = load(tmp_path)
    assert data.class_names == ("an ant", "蜂") and data.has_class_names
    assert len(data.train) == 10 and len(data.test) == 2
    order = [0, 3, 1, 2, 4]  # b.png, c/, images/a.png, images/deep/, ü/
    np.testing.assert_array_equal(data.train.images(range(5)), [picture(i) for i in order])


def test_class_folders_without_parts_are_all_for_training(tmp_path, caplog):
    """A class may be called ``train``."""
    for label, name in enumerate(["bus", "car", "train"]):
        for number in range(5):
            save(picture(10 * label + number), tmp_path / name / f"{number}.png")
    data = load(tmp_path, image_size=(9, 12))
    assert data.class_names == ("bus", "car", "train")
    assert len(data.train) == 12 and np.bincount(data.test.labels).tolist() == [1, 1, 1]
    for split in (data.train, data.test):
        for row, label in zip(split.rows, split.labels, strict=True):
            assert label == row // 5
            np.testing.assert_array_equal(
                split.store.fetch([row])[0], picture(10 * label + row % 5)
            )
    message, = caplog.messages
    assert "no train/CLASS: its 3 folders are the classes" in message
    assert dataloader.outline(f"folder:{tmp_path}", validation_fraction=0).train_images == 12


def test_few_training_images_are_of_all_classes(top):
    """Not the first ones, which are all ants."""
    data = load(top, train_images=4, seed=1)
    assert data.train.labels.tolist() == [0, 0, 1, 1]
    others = [tuple(load(top, train_images=4, seed=seed).train.rows) for seed in range(4)]
    assert tuple(data.train.rows) == others[1] and len(set(others)) > 1
    every = load(top, train_images=8)
    np.testing.assert_array_equal(every.train.rows, load(top).train.rows)
    assert len(load(top, train_images=3, validation_fraction=0.25, seed=2).train) == 3
    with pytest.raises(UserError, match="has no image among the 1 training images: use more"):
        load(top, train_images=1)


@pytest.mark.parametrize("folders", [("training", "testing"), ("all",)])
def test_folders_of_class_folders_are_no_classes(top, folders):
    for name in folders:
        shutil.copytree(top / "train", top / name)
    shutil.rmtree(top / "train")
    shutil.rmtree(top / "test")
    with pytest.raises(UserError, match="no such folder: .*train.*DIR/CLASS"):
        load(top)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("train", "test", "more", "others"), "train has no class folders"),
        (("test", "more", "others"), "no such folder: .*train"),
        (("train", "more"), "train has no class folders"),
    ],
)
def test_parts_without_class_folders_are_no_classes(tmp_path, names, message):
    for name in names:
        save(picture(0), tmp_path / name / "0.png")
    with pytest.raises(UserError, match=message):
        load(tmp_path)


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Val"])
def test_validation_folders(top, name):
    for label, kind in enumerate(("ant", "bee")):
        save(picture(50 + label), top / name / kind / "0.png")
    data = load(top, validation_fraction=0.5)  # of its own, whatever the share
    assert (len(data.train), len(data.validation), len(data.test)) == (8, 2, 2)
    np.testing.assert_array_equal(data.validation.images([0, 1]), [picture(50), picture(51)])
    np.testing.assert_array_equal(data.test.images([0, 1]), [picture(100), picture(101)])
    assert data.validation.fill == data.train.fill
    assert len(load(top, validation_fraction=0).validation) == 0
    shutil.rmtree(top / "test")
    data = load(top, validation_fraction=0.25)
    assert (len(data.train), len(data.validation), len(data.test)) == (6, 2, 2)
    np.testing.assert_array_equal(data.test.images([0, 1]), [picture(50), picture(51)])
    # The outline too takes them for test images, so validation images are of the training part.
    assert dataloader.outline(f"folder:{top}", validation_fraction=0.25).train_images == 6


def test_two_folders_for_one_part_are_refused(top):
    for name in ("val", "valid"):
        save(picture(0), top / name / "ant" / "0.png")
    with pytest.raises(UserError, match="has val and valid; expected one folder"):
        load(top)


def test_images_that_are_passed_over_are_told(top, caplog):
    save(picture(0), top / "extra" / "ant" / "0.png")
    save(picture(0), top / "0.png")
    for number in range(5):
        save(picture(0), top / "train" / f"loose {number}.png")
    ant = top / "train" / "ant"
    for name in ("no ending", "0.png~", "1.webp.part"):
        save(picture(0), ant / "x.webp" if "webp" in name else ant / "x.png")
        (ant / ("x.webp" if "webp" in name else "x.png")).rename(ant / name)
    (ant / "notes.txt").write_text("B M is no image")
    (ant / "sound.wav").write_bytes(b"RIFF\0\0\0\0WAVE")
    (ant / "empty").touch()
    load(top)
    told = "\n".join(caplog.messages)
    assert "extra has images, but is not read" in told and "0.png is in no class folder" in told
    assert "loose 0.png, loose 1.png, loose 2.png and 2 more are in no class folder" in told
    assert "but not by name: train/ant/0.png~, train/ant/1.webp.part, train/ant/no ending" in told
    assert len(caplog.messages) == 4


def test_sixteen_bits_that_hold_fewer_are_told(tmp_path, caplog):
    values = np.linspace(0, 4095, 960).round().astype(np.uint16).reshape(24, 40)
    for number in range(10):
        save(values, tmp_path / "train" / f"c{number % 2}" / f"{number}.png")
    found = load(tmp_path, in_memory="no").train.images([0]).numpy()
    np.testing.assert_allclose(found[0, ..., 0], values * (255 / 4095), atol=0.51)
    message, = caplog.messages
    assert "has a value above 4095" in message


@pytest.mark.parametrize("kind", ["pipe", "device", "endless link"])
def test_what_is_no_file_is_refused_by_name(top, kind):
    file = top / "train" / "ant" / "x.png"
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "device":
        file.symlink_to("/dev/zero")
    else:
        (top / "train" / "ant" / "again").symlink_to(top / "train")
    message = "again: links to a folder that contains" if kind == "endless link" else "x.png: is a "
    with pytest.raises(UserError, match=message):
        load(top)


def test_a_set_of_single_colours_is_told_once(tmp_path, caplog):
    for number in range(10):
        flat = np.full([8, 8, 3], 25 * number, np.uint8)
        save(flat, tmp_path / "train" / f"c{number % 2}" / f"{number}.png")
    load(tmp_path)
    message, = caplog.messages
    assert "every training image is of a single colour" in message
    caplog.clear()
    save(picture(0, (8, 8, 3)), tmp_path / "train" / "c0" / "9.png")
    save(picture(1, (8, 8, 3)), tmp_path / "train" / "c0" / "8.png")
    load(tmp_path)
    assert not caplog.messages


@pytest.fixture
def cached(top, tmp_path_factory, monkeypatch):
    """`top` as a folder of many images, looked at for the last time long ago."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("caches")))
    monkeypatch.setattr("dataloader.folder.DECODED_AT_START", 5)
    long_ago = time.time() - 100
    for folder in (top, *(folder for folder in top.rglob("*") if folder.is_dir())):
        os.utime(folder, (long_ago, long_ago))
    return top


def no_listing(top):
    raise AssertionError(f"{top} is listed again")


def cache_files():
    return list(Path(os.environ["XDG_CACHE_HOME"]).glob("sskd-tte/*"))


def test_a_large_folder_is_listed_once(cached, monkeypatch):
    data = load(cached)
    file, = cache_files()
    monkeypatch.setattr("dataloader.folder.find_images", no_listing)
    again = load(cached, in_memory="no")
    assert file.stem.startswith("folder-")
    np.testing.assert_array_equal(again.train.images(range(8)), data.train.images(range(8)))
    np.testing.assert_array_equal(again.train.labels, data.train.labels)
    assert again.class_names == data.class_names and len(again.test) == len(data.test)
    save(picture(5), cached / "train" / "bee" / "9.png")
    with pytest.raises(AssertionError, match="listed again"):
        load(cached)
    monkeypatch.undo()
    assert len(load(cached).train) == 9


def test_images_that_are_written_over_are_looked_at_again(cached):
    """Which does not change their folder: grey ones, in whose place are now some of colours."""
    for file in cached.rglob("*.*"):
        if file.is_file():
            Image.open(file).convert("L").save(file)
    folders = {folder: folder.stat() for folder in cached.rglob("*") if folder.is_dir()}
    assert load(cached).image_shape == (9, 12, 1)
    assert load(cached).image_shape == (9, 12, 1)
    for number, file in enumerate(sorted(cached.rglob("*.png"))):
        save(picture(number), file)
    for folder, stat in folders.items():  # Pillow may write beside and rename
        os.utime(folder, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert load(cached).image_shape == (9, 12, 3)


def test_a_folder_by_a_relative_path_is_listed_once(cached, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(cached.parent)
    load(cached.name)
    monkeypatch.setattr("dataloader.folder.find_images", no_listing)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert len(load(os.path.relpath(cached)).train) == 8


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"version": 2, "found": {}}'])
def test_a_damaged_cache_is_made_again(cached, content):
    load(cached)
    file, = cache_files()
    whole = file.read_text()
    file.write_text(content)
    assert len(load(cached).train) == 8
    assert json.loads(file.read_text()) == json.loads(whole)


def test_no_cache_where_none_can_be_kept(cached, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "train" / "ant" / "0.png"))
    assert len(load(cached).train) == 8


def test_no_cache_of_what_changes_now(cached):
    os.utime(cached / "train" / "ant")
    load(cached)
    assert not cache_files()


def test_no_cache_of_what_changed_while_it_was_listed(cached, monkeypatch):
    """By the clock of a file server that is far behind this machine's."""
    bee, hour_ago = cached / "train" / "bee", time.time() - 3600

    def changed_after(*arguments):
        images = _images_of_classes(*arguments)
        save(picture(5), bee / "9.png")
        os.utime(bee, (hour_ago, hour_ago))
        return images

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr("dataloader.image_folders._images_of_classes", changed_after)
        assert len(load(cached).train) == 8
    assert len(load(cached).train) == 9


def test_grey_only_where_all_are(tmp_path):
    for number in range(6):
        save(picture(number, (7, 7)), tmp_path / "train" / f"c{number % 2}" / f"{number}.png")
    data = load(tmp_path, image_size=(7, 7))
    assert data.image_shape == (7, 7, 1)
    # No test folder: a fifth of six, rounded, is one.
    assert len(data.train) == 5 and len(data.test) == 1
    assert set(data.train.rows) | set(data.test.rows) == set(range(6))


def test_damaged_pictures_are_all_found_and_named(cached):
    top = cached
    bee = top / "train" / "bee"
    save(picture(0, (64, 64, 3)), bee / "4.jpg")
    (bee / "4.jpg").write_bytes((bee / "4.jpg").read_bytes()[:1500])
    (bee / "1.png").write_bytes((bee / "1.png").read_bytes()[:200])
    middle = bytearray((bee / "2.png").read_bytes())
    middle[60:80] = bytes(20)
    (bee / "2.png").write_bytes(middle)
    (top / "test" / "ant" / "0.bmp").write_bytes((top / "test" / "ant" / "0.bmp").read_bytes()[:99])
    (bee / "3.png").write_bytes(b"")
    (bee / "5.gif").write_text("hello, this is no picture")
    save(picture(0).astype(np.int32)[..., 0], bee / "6.tif")
    with pytest.raises(UserError, match="7 of 13 images cannot be read") as caught:
        load(top)
    message = str(caught.value)
    assert "\n" not in message and "and 2 more" in message
    for part in ("bee/1.png (cut off)", "bee/2.png (", "bee/3.png (empty file)", "bee/4.jpg (cut"):
        assert part in message
    (listing,) = cache_files()  # all of them, for the hand or for xargs
    assert f"all of them listed in {listing}" in message
    damaged = [bee / name for name in ("1.png", "2.png", "3.png", "4.jpg", "5.gif", "6.tif")]
    damaged.append(top / "test" / "ant" / "0.bmp")
    assert listing.read_text().splitlines() == list(map(str, damaged))
    for path in damaged:
        path.unlink()
    load(top)


def test_a_listing_of_damaged_pictures_names_no_other_file(cached):
    broken = cached / "train" / "bee\n" / "etc"
    broken.mkdir(parents=True)
    for number in range(7):
        (broken / f"{number}.png").touch()
        (cached / "train" / "bee" / f"{number}.jpg").touch()
    with pytest.raises(UserError, match="14 of .* and 9 more, all of them listed in"):
        load(cached)
    (listing,) = cache_files()
    assert [Path(line).suffix for line in listing.read_text().splitlines()] == [".jpg"] * 7


def test_where_no_listing_can_be_kept_the_first_pictures_are_named(cached, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(cached / "train" / "ant" / "0.png"))
    for number in range(7):
        (cached / "train" / "bee" / f"{number}.jpg").touch()
    with pytest.raises(UserError, match=r"and 2 more: repair or remove them"):
        load(cached)


@pytest.mark.parametrize("fault, message", [
    ("no train", "no such folder: .*train"),
    ("no classes", "has no class folders"),
    ("no images", "has no images in class folders"),
    ("empty class", "class 'cow' has no image to train on"),
    ("unknown test class", "has the class 'cow'"),
    ("heic", "heic images are not read"),
    ("class twice", "1 class: at least two"),
    ("empty test", "no test images"),
])  # fmt: skip
def test_mistakes_are_named(top, fault, message):
    if fault == "no train":
        (top / "train").rename(top / "training")
    elif fault == "no classes":
        shutil.rmtree(top / "train")
        (top / "train").mkdir()
    elif fault == "empty class":
        (top / "train" / "cow").mkdir()
    elif fault == "unknown test class":
        (top / "test" / "cow").mkdir()
    elif fault == "heic":
        (top / "train" / "ant" / "x.heic").touch()
    elif fault == "no images":
        for file in top.rglob("train/*/*.png"):
            file.unlink()
    elif fault == "class twice":
        for part in ("train", "test"):
            shutil.rmtree(top / part / "bee")
    else:
        shutil.rmtree(top / "test")
        (top / "test").mkdir()
    with pytest.raises(UserError, match=message):
        load(top)


@pytest.mark.parametrize("damage", ["cut off", "gone"])
def test_an_image_that_is_damaged_after_the_start_is_named(top, damage):
    data = load(top, in_memory="no")
    file = top / "train" / "bee" / "2.png"
    content = file.read_bytes()
    file.unlink()
    if damage == "cut off":
        file.write_bytes(content[:-20])
    with pytest.raises(UserError, match=r"1 of 8 images cannot be read: .*bee/2\.png \("), \
            dataloader.naming_damage(*data.splits):
        data.train.images(range(8))
    with pytest.raises(ZeroDivisionError), dataloader.naming_damage(*data.splits):
        1 / 0  # noqa: B018


def test_no_file_is_searched_where_memory_does_not_suffice(top):
    data = load(top, in_memory="no")
    (top / "train" / "bee" / "2.png").unlink()
    error = tf.errors.ResourceExhaustedError(None, None, "out of memory")
    with pytest.raises(tf.errors.ResourceExhaustedError), dataloader.naming_damage(*data.splits):
        raise error


def test_an_image_whose_middle_is_damaged_is_named_at_the_start(top, monkeypatch):
    """Of large folders on disk few are decoded at first; the statistics then read others."""
    monkeypatch.setattr("dataloader.folder.DECODED_AT_START", 2)
    file = top / "train" / "bee" / "1.png"
    content = bytearray(file.read_bytes())
    start = content.index(b"IDAT") + 4
    content[start : start + 40] = bytes(40)
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"1 of \d+ images cannot be read: .*bee/1\.png"):
        load(top, in_memory="no")


def test_images_that_are_not_ordinary_are_decoded_in_parallel(top):
    """Stateful functions would be called one by one with --deterministic."""
    store = folder_images([top / "train" / "ant" / "0.png"])
    graph = store._fetch.get_concrete_function().graph.as_graph_def()
    nodes = [*graph.node, *(node for each in graph.library.function for node in each.node_def)]
    kinds = {node.op for node in nodes}
    assert "PyFuncStateless" in kinds and not kinds & {"PyFunc", "EagerPyFunc"}


def folder_images(files):
    return FileImages(list(map(str, files)), (9, 12, 3), ordinary=False, white=255)


def test_without_a_home_nothing_is_kept_and_nothing_fails(top, tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)

    def nobody(number):
        raise KeyError(number)

    monkeypatch.setattr("pwd.getpwuid", nobody)
    monkeypatch.setattr("dataloader.folder.DECODED_AT_START", 2)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert len(load(top).train) == 8
    assert not list((tmp_path / "here").iterdir())
    with pytest.raises(UserError, match="no_such_person"):
        dataloader.outline("folder:~no_such_person/images")


def test_facts_tell_other_data(top):
    before = load(top).facts()
    assert before == load(top).facts() and before["training images"] == 8
    save(picture(55), top / "train" / "bee" / "2.png")
    changed = load(top).facts()
    assert before != changed and changed["training images"] == 8
    json.dumps(changed)


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_facts_tell_other_labels_and_other_images_of_each_part(top, part):
    data = load(top, validation_fraction=0.4)
    split = getattr(data, part)
    relabelled = dataclasses.replace(split, labels=split.labels[::-1])
    others = split.take(np.zeros(len(split), np.int64))
    others = dataclasses.replace(others, labels=split.labels)
    for changed in (relabelled, others):
        assert changed.facts != split.facts
        assert dataclasses.replace(data, **{part: changed}).facts() != data.facts()
    assert split.take(np.zeros(0, np.int64)).facts[0] == 0


def lines_of_the_serving_guide():
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "serving.md").read_text()
    (lines,) = re.findall(r"\n((?:    [^\n]*\n|\n)*    images = np.asarray[^\n]*\n)", guide)
    return textwrap.dedent(lines)


@pytest.mark.parametrize("kind", ["turned", "transparent"])
def test_the_serving_guide_prepares_photos_as_training_does(tmp_path, kind, monkeypatch):
    """By the lines of the guide itself."""
    colours = smooth((60, 90))
    if kind == "turned":
        file = tmp_path / "train" / "ant" / "photo.jpg"
        save_turned(colours, file, 6)
    else:
        file = tmp_path / "train" / "ant" / "photo.png"
        alpha = np.where(np.arange(90) < 45, 0, 255).astype(np.uint8)
        save(np.dstack([colours, np.broadcast_to(alpha, (60, 90))]), file)
    for other in (("train", "bee"), ("test", "ant"), ("test", "bee")):
        save(colours, tmp_path.joinpath(*other) / "0.png")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(lines_of_the_serving_guide().replace("photo.jpg", str(file)), names)
    trained = load(tmp_path, image_size=(32, 32)).train.images([0]).numpy()
    difference = np.abs(names["images"].astype(int) - trained)
    assert names["images"].shape == (1, 32, 32, 3) and difference.max() <= 6
    assert difference.mean() < 1


def test_the_serving_guide_prepares_grey_photos_as_training_does(tmp_path):
    """By its lines with what it says of grey images."""
    grey = smooth((60, 90))[..., 0]
    for place in (("train", "ant"), ("train", "bee"), ("test", "ant"), ("test", "bee")):
        save(grey, tmp_path.joinpath(*place) / "0.png")
    file, names = tmp_path / "train" / "ant" / "0.png", {}
    lines = lines_of_the_serving_guide().replace("photo.jpg", str(file))
    lines = lines.replace("photo.resize", 'photo.convert("L").resize')
    exec(f"{lines}images = images[..., np.newaxis]", names)
    trained = load(tmp_path, image_size=(32, 32)).train.images([0]).numpy()
    difference = np.abs(names["images"].astype(int) - trained)
    assert names["images"].shape == trained.shape == (1, 32, 32, 1) and difference.max() <= 6
