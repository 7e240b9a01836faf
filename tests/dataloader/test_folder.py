"""``folder:DIR``: pictures written by Pillow, read by TensorFlow."""

import shutil

import numpy as np
import pytest
from PIL import Image

import dataloader
from dataloader import Augmentation
from registry import UserError


def picture(seed, shape=(9, 12, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def save(array, file):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(file)


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
    save(np.dstack([flat, flat[..., :1]]), bee / "4.png")
    Image.fromarray(flat).quantize(2, dither=Image.Dither.NONE).save(bee / "5.gif")
    Image.fromarray(flat).convert("CMYK").save(bee / "6.jpg")
    (bee / "notes.txt").write_text("not a picture")
    (bee / ".hidden.png").write_text("nor this")
    images = load(top).train.images(range(4, 11)).numpy().astype(int)
    assert images.shape == (7, 9, 12, 3)
    for image, colour in zip(images, [flat[0, 0], *[[77] * 3] * 3, *[flat[0, 0]] * 3], strict=True):
        assert abs(image - np.array(colour)).max() <= 3


def test_grey_only_where_all_are(tmp_path):
    for number in range(6):
        save(picture(number, (7, 7)), tmp_path / "train" / f"c{number % 2}" / f"{number}.png")
    data = load(tmp_path, image_size=(7, 7))
    assert data.image_shape == (7, 7, 1)
    # No test folder: a fifth of six, rounded, is one.
    assert len(data.train) == 5 and len(data.test) == 1
    assert set(data.train.rows) | set(data.test.rows) == set(range(6))


def test_damaged_pictures_are_all_found_and_named(top):
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
    Image.fromarray(picture(0)).convert("P").save(bee / "6.bmp")
    with pytest.raises(UserError, match="7 of 13 images cannot be read") as caught:
        load(top)
    message = str(caught.value)
    assert "\n" not in message and "and 2 more" in message
    for part in ("bee/1.png (cut off)", "bee/2.png (", "bee/3.png (empty file)", "bee/4.jpg (cut"):
        assert part in message


@pytest.mark.parametrize("fault, message", [
    ("no train", "no such folder: .*train"),
    ("no classes", "has no images"),
    ("empty class", "class 'cow' has no image to train on"),
    ("unknown test class", "has the class 'cow'"),
    ("webp", "webp images are not read"),
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
    elif fault == "webp":
        (top / "train" / "ant" / "x.webp").touch()
    else:
        shutil.rmtree(top / "test")
        (top / "test").mkdir()
    with pytest.raises(UserError, match=message):
        load(top)
