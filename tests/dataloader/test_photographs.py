"""Augmentation of photographs against NumPy's and Pillow's own computation."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

import dataloader
from dataloader import Augmentation, MemoryImages, Split, mixing, photographs, randaugment
from registry import UserError

COUNT = 21


@pytest.fixture
def random():
    return np.random.default_rng(0)


def pictures(count=6, height=24, width=20, channels=3, seed=0):
    """Smooth images, in which a shift of half a pixel shows."""
    coarse = np.random.default_rng(seed).integers(0, 256, [count, 5, 5, channels]).astype(np.uint8)
    return tf.cast(tf.round(tf.image.resize(coarse, [height, width])), tf.uint8).numpy()


def sampled(image, rows, columns):
    """An image [H,W,C] at rows x columns, which may be fractions, between neighbours linearly and
    at the border as there."""
    height, width = image.shape[:2]
    result = np.zeros([len(rows), len(columns), image.shape[2]])
    for i, y in enumerate(np.clip(rows, 0, height - 1)):
        for j, x in enumerate(np.clip(columns, 0, width - 1)):
            top, left = int(y), int(x)
            down, right = min(top + 1, height - 1), min(left + 1, width - 1)
            upper = (1 - (x - left)) * image[top, left] + (x - left) * image[top, right]
            lower = (1 - (x - left)) * image[down, left] + (x - left) * image[down, right]
            result[i, j] = (1 - (y - top)) * upper + (y - top) * lower
    return result


@pytest.mark.parametrize("channels", [1, 3])
def test_a_crop_is_cut_and_enlarged_by_hand(channels, random):
    images = pictures(channels=channels)
    uniform = random.random([6, 4]).astype(np.float32)
    boxes = photographs.crop_boxes(0.2, uniform).numpy().astype(float)
    found = photographs.crop(tf.constant(images), 0.2, uniform).numpy()
    height, width = images.shape[1:3]
    for image, result, (top, left, tall, wide) in zip(images, found, boxes, strict=True):
        # Pixel i covers [i, i + 1]; its centre is at i + 0.5.
        rows = top * height + (np.arange(height) + 0.5) * tall - 0.5
        columns = left * width + (np.arange(width) + 0.5) * wide - 0.5
        expected = sampled(image.astype(float), rows, columns)
        assert abs(result - expected).max() <= 0.51 + 1e-3


def test_the_whole_image_is_a_crop():
    images = pictures()
    uniform = np.full([6, 4], 0.99, np.float32)
    np.testing.assert_array_equal(photographs.crop(tf.constant(images), 1.0, uniform), images)


def test_crops_lie_inside_and_have_the_area_and_form_that_was_asked_for(random):
    uniform = random.random([20_000, 4]).astype(np.float32)
    top, left, tall, wide = photographs.crop_boxes(0.08, uniform).numpy().T
    area, ratio = tall * wide, wide / tall
    np.testing.assert_allclose(area, 0.08 + 0.92 * uniform[:, 0], rtol=1e-5)
    assert ratio.min() > 3 / 4 - 1e-4 and ratio.max() < 4 / 3 + 1e-4
    assert min(top.min(), left.min()) >= 0
    assert max((top + tall).max(), (left + wide).max()) <= 1 + 1e-6
    assert abs(np.log(ratio).mean()) < 0.01  # as often wide as tall


@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_by_hand(channels, random):
    images = pictures(channels=channels)
    uniform = random.random([6, 3]).astype(np.float32)
    found = photographs.jitter(tf.constant(images), 0.6, uniform).numpy()
    for image, result, draws in zip(images, found, uniform, strict=True):
        bright, contrast, saturation = 0.4 + 1.2 * draws.astype(float)
        values = np.clip(image * bright, 0, 255)
        weights = [0.299, 0.587, 0.114] if channels == 3 else [1.0]
        mean = (values @ weights).mean()
        values = np.clip(mean + contrast * (values - mean), 0, 255)
        luminance = (values @ weights)[..., None]
        values = np.clip(luminance + saturation * (values - luminance), 0, 255)
        assert abs(result - values).max() <= 0.51


# RandAugment


def enhanced(enhancer):
    return lambda image, strength: enhancer(image).enhance(1 + 0.9 * strength)


PILLOWS = {
    "autocontrast": lambda image, _: ImageOps.autocontrast(image),
    "equalize": lambda image, _: ImageOps.equalize(image),
    "solarize": lambda image, s: ImageOps.solarize(image, 255 * (1 - abs(s))),
    "posterize": lambda image, s: ImageOps.posterize(image, 8 - round(4 * abs(s))),
    "color": enhanced(ImageEnhance.Color),
    "contrast": enhanced(ImageEnhance.Contrast),
    "brightness": enhanced(ImageEnhance.Brightness),
    "sharpness": enhanced(ImageEnhance.Sharpness),
}


@pytest.mark.parametrize("strength", [-1.0, -0.45, 0.3, 0.9])
@pytest.mark.parametrize("name", PILLOWS)
def test_operations_on_colours_are_pillows(name, strength):
    for image in [*pictures(2), np.full([24, 20, 3], (9, 90, 200), np.uint8)]:
        expected = np.asarray(PILLOWS[name](Image.fromarray(image), strength)).astype(int)
        found = getattr(randaugment, name)(tf.constant(image), tf.constant(strength)).numpy()
        # Pillow takes luminance by integers, and cuts fractions off: one each.
        assert abs(found - expected).max() <= (2 if name == "color" else 1), name
    grey = pictures(1, channels=1)[0]
    assert getattr(randaugment, name)(tf.constant(grey), tf.constant(strength)).shape == grey.shape


def test_operations_that_move_are_affine_maps_about_the_centre():
    image, fill = pictures(1)[0], (11, 22, 33)
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width].astype(float)
    x, y = x - (width - 1) / 2, y - (height - 1) / 2
    strength = 0.7
    angle = strength * np.pi / 6
    places = {
        "rotate": (np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y),
        "shear_x": (x + 0.3 * strength * y, y),
        "shear_y": (x, y + 0.3 * strength * x),
        "translate_x": (x + round(0.45 * strength * width), y),
        "translate_y": (x, y + round(0.45 * strength * height)),
    }
    for name, (across, down) in places.items():
        column, row = np.rint(across + (width - 1) / 2), np.rint(down + (height - 1) / 2)
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        shown = image[np.clip(row, 0, height - 1).astype(int),
                      np.clip(column, 0, width - 1).astype(int)]
        expected = np.where(inside[..., None], shown, fill)
        found = getattr(randaugment, name)(
            tf.constant(image), tf.constant(strength), tf.constant(fill, tf.uint8)
        ).numpy()
        assert (found == expected).all(-1).mean() > 0.97, name  # but for ties of the rounding


def test_the_drawn_operations_come_one_after_the_other():
    images, fill = pictures(14), (0, 0, 0)
    chosen = randaugment.operations(tf.constant(fill, tf.uint8))
    assert len(chosen) == 14
    first = (np.arange(14) + 0.5) / 14
    uniform = np.stack([first, np.zeros(14), first[::-1], np.ones(14) * 0.9], 1).astype("float32")
    found = randaugment.randaugment(tf.constant(images), 5.0, tf.constant(uniform), fill)
    for number, image in enumerate(images):
        expected = chosen[13 - number](chosen[number](tf.constant(image), -0.5), 0.5)
        np.testing.assert_array_equal(found[number], expected)


# Mixing


def mixtures(share, cuts, place=(0.5, 0.5)):
    return mixing.Mixtures(
        tf.zeros([1], tf.int64), tf.constant([share]), tf.constant([cuts]),
        tf.constant([place], tf.float32),
    )


def test_mixup_is_a_weighted_mean():
    ours, theirs = pictures(1), pictures(1, seed=1)
    found, share = mixing.mix(tf.constant(ours), tf.constant(theirs), mixtures(0.7, False))
    assert abs(found.numpy() - (0.7 * ours + 0.3 * theirs)).max() <= 0.51
    assert share.numpy() == pytest.approx([0.7])


@pytest.mark.parametrize("place", [(0.5, 0.5), (0.0, 0.0), (0.99, 0.3)])
def test_cutmix_pastes_a_patch(place):
    ours, theirs = np.zeros([1, 24, 20, 3], np.uint8), np.full([1, 24, 20, 3], 200, np.uint8)
    found, share = mixing.mix(tf.constant(ours), tf.constant(theirs), mixtures(0.75, True, place))
    middle, half = (int(24 * place[0]), int(20 * place[1])), (6, 5)  # sides of a half
    expected = ours.copy()
    rows, columns = (slice(max(m - h, 0), m + h) for m, h in zip(middle, half, strict=True))
    expected[:, rows, columns] = 200
    np.testing.assert_array_equal(found, expected)
    assert share.numpy() == pytest.approx([1 - (expected[..., 0] == 200).mean()])


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.2, 0), (0, 1.0), (0.4, 1.0)])
def test_shares_are_those_of_a_beta_distribution(mixup, cutmix):
    count = 40_000
    drawn = mixing.draw(mixup, cutmix, count, tf.constant([3, 4], tf.int64))
    cuts = drawn.cuts.numpy()
    expected = 0.5 if mixup and cutmix else float(bool(cutmix))
    assert cuts.mean() == pytest.approx(expected, abs=0.01)
    for alpha, chosen in ((mixup, ~cuts), (cutmix, cuts)):
        if not alpha:
            continue
        expected = np.random.default_rng(0).beta(alpha, alpha, count)
        expected = np.sort(np.maximum(expected, 1 - expected))
        found = np.sort(drawn.share.numpy()[chosen])
        quantiles = np.linspace(0.02, 0.98, 13)
        np.testing.assert_allclose(
            np.quantile(found, quantiles), np.quantile(expected, quantiles), atol=0.02
        )
    assert drawn.share.numpy().min() >= 0.5
    others = drawn.other.numpy()
    assert others.min() >= 0 and others.max() < count and len(np.unique(others)) > 0.6 * count


# In batches

ALL = Augmentation(
    flip=True, rotation_degrees=5, crop_padding=2, random_resized_crop=0.3, color_jitter=0.4,
    randaugment=(1, 9.0), mixup=0.4, cutmix=1.0,
)


@pytest.fixture(scope="module")
def split():
    labels = np.random.default_rng(1).integers(-1, 5, [COUNT])
    return Split.whole(MemoryImages(pictures(COUNT)), labels)


def run(split, augmentation, batch_size=8, **options):
    options = {"seed": 5, "epochs": 2, **options}
    return list(dataloader.training_batches(
        split, batch_size, augmentation=augmentation, **options
    ).as_numpy_iterator())


@pytest.fixture(scope="module")
def whole(split):
    """Two epochs with all of it, in batches of 8."""
    return run(split, ALL)


def test_all_of_it_depends_on_seed_epoch_and_index_alone(split, whole):
    def by_epoch_and_index(batches):
        steps = len(batches) // 2
        return {
            (number // steps, int(index)): tuple(batch[key][row].tobytes() for key in sorted(batch))
            for number, batch in enumerate(batches)
            for row, index in enumerate(batch["index"])
        }

    found = by_epoch_and_index(whole)
    assert found == by_epoch_and_index(run(split, ALL, batch_size=5))
    assert len(set(found.values())) == 2 * COUNT


def test_a_run_goes_on_as_if_it_had_not_stopped(split, whole):
    rest = run(split, ALL, start_epoch=1, start_step=1)
    assert len(rest) == 2
    for batch, other in zip(rest, whole[4:], strict=True):
        assert batch.keys() == {"image", "label", "index", "other_label", "share"}
        for key in batch:
            np.testing.assert_array_equal(batch[key], other[key])


def test_mixed_labels_are_those_of_the_two_images(split):
    """The other image is found by its looks: mixed in is what a plain run shows."""
    flat = np.broadcast_to(np.arange(COUNT, dtype=np.uint8)[:, None, None, None] * 12,
                           (COUNT, 8, 8, 3))
    plain = Split.whole(MemoryImages(np.ascontiguousarray(flat)), np.arange(COUNT) % 7)
    mix = Augmentation(flip=False, rotation_degrees=0, crop_padding=0, mixup=1.0)
    for batch in run(plain, mix, batch_size=COUNT):
        ours = 12.0 * batch["index"]
        share = batch["share"].astype(float)
        theirs = (batch["image"][:, 0, 0, 0] - share * ours) / (1 - share)
        clear = share < 0.9
        other = np.rint(theirs / 12)[clear]
        assert np.abs(theirs[clear] / 12 - other).max() < 0.5
        np.testing.assert_array_equal(batch["other_label"][clear], other % 7)
        np.testing.assert_array_equal(batch["label"], batch["index"] % 7)


def test_without_the_new_ones_nothing_is_new(split):
    (batch, *_) = run(split, Augmentation(flip=True))
    assert batch.keys() == {"image", "label", "index"}
    assert Augmentation.none().changes_nothing and not ALL.changes_nothing


@pytest.mark.parametrize("wrong", [
    {"random_resized_crop": 1.1}, {"color_jitter": -0.1}, {"mixup": -1}, {"cutmix": float("nan")},
    {"randaugment": (1.5, 3)}, {"randaugment": (2, 11)},
], ids=str)
def test_mistakes_are_named(wrong):
    (name,) = wrong
    with pytest.raises(UserError, match=f"{name} of .*; expected"):
        Augmentation(flip=False, **wrong)
