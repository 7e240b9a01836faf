"""The one projective transform against the three steps, pixel by pixel."""

import numpy as np
import pytest

from dataloader import Augmentation
from dataloader.augmentation import augment, transforms
from registry import UserError


def slow(image, uniform, augmentation, fill):
    """Flip, rotate and shift one image; and which pixels are too near to a tie to be compared."""
    height, width, _ = image.shape
    if augmentation.flip and uniform[0] < 0.5:
        image = np.fliplr(image)
    angle = np.deg2rad(augmentation.rotation_degrees) * (2 * float(uniform[1]) - 1)
    padding = augmentation.crop_padding
    top, left = (int(float(u) * (2 * padding + 1)) for u in uniform[2:])
    centre = complex((width - 1) / 2, (height - 1) / 2)
    result, unsure = np.empty_like(image), np.zeros([height, width], bool)
    for y in range(height):
        for x in range(width):
            at = complex(x + left - padding, y + top - padding)
            at = (at - centre) * np.exp(1j * angle) + centre
            column, row = int(np.floor(at.real + 0.5)), int(np.floor(at.imag + 0.5))
            inside = 0 <= column < width and 0 <= row < height
            result[y, x] = image[row, column] if inside else fill
            unsure[y, x] = any(abs(part % 1 - 0.5) < 1e-4 for part in (at.real, at.imag))
    return result, unsure


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(flip=True),
        Augmentation(flip=False, rotation_degrees=0, crop_padding=2),
        Augmentation(flip=True, rotation_degrees=0, crop_padding=0),
        Augmentation(flip=False, rotation_degrees=180, crop_padding=0),
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(32, 32, 3), (9, 14, 1)], ids=str)
def test_equals_flip_then_rotation_then_crop(augmentation, shape):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, [12, *shape]).astype(np.uint8)
    uniform = random.random([12, 4], np.float32)
    fill = (129, 1, 255)[: shape[-1]]
    result = augment(augmentation, images, uniform, fill).numpy()
    assert result.dtype == np.uint8
    compared = 0
    for image, draws, ours in zip(images, uniform, result, strict=True):
        expected, unsure = slow(image, draws, augmentation, fill)
        np.testing.assert_array_equal(ours[~unsure], expected[~unsure])
        compared += np.mean(~unsure)
    assert compared > 0.99 * len(images)


def test_crop_of_the_padded_image_by_slicing():
    """Without rotation: numpy's own pad and slice."""
    image = np.random.default_rng(1).integers(0, 256, [8, 8, 3]).astype(np.uint8)
    augmentation = Augmentation(flip=False, rotation_degrees=0, crop_padding=4)
    padded = np.pad(image, [(4, 4), (4, 4), (0, 0)])
    for top in range(9):
        for left in range(9):
            uniform = np.array([[0.9, 0.3, (top + 0.5) / 9, (left + 0.5) / 9]], np.float32)
            result = augment(augmentation, image[None], uniform, (0, 0, 0)).numpy()[0]
            np.testing.assert_array_equal(result, padded[top : top + 8, left : left + 8])


def test_nothing_is_done_where_nothing_is_asked():
    images = np.random.default_rng(2).integers(0, 256, [3, 5, 5, 3]).astype(np.uint8)
    assert augment(Augmentation.none(), images, np.zeros([3, 4], np.float32), (1, 2, 3)) is images


def test_angles_and_shifts_fill_their_ranges():
    uniform = np.array([[0, 0, 0, 0], [1 - 2**-23] * 4], np.float32)
    extreme = transforms(Augmentation(flip=False), uniform, 32, 32).numpy()
    np.testing.assert_allclose(np.degrees(np.arcsin(extreme[:, 3])), [-15, 15], atol=1e-3)
    still = Augmentation(flip=False, rotation_degrees=0)
    np.testing.assert_array_equal(transforms(still, uniform, 32, 32)[:, 2], [-4, 4])
    np.testing.assert_array_equal(transforms(still, uniform, 32, 32)[:, 5], [-4, 4])


@pytest.mark.parametrize(
    "wrong", [{"rotation_degrees": -1}, {"rotation_degrees": 181}, {"crop_padding": -2},
              {"crop_padding": 1.5}, {"rotation_degrees": float("nan")}], ids=str,
)  # fmt: skip
def test_nonsense_is_refused(wrong):
    with pytest.raises(UserError, match="expected"):
        Augmentation(flip=True, **wrong)
