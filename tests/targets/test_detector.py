"""The detector's losses against loops, and which of its parts are trained."""

import numpy as np
import pytest
import tensorflow as tf

import nets
from dataloader import Scenes, SceneSplit
from registry import UserError
from targets import detect, detection, raw_pixels
from targets.boxes import encode
from targets.detection import _batches
from targets.detector import Detector, centre_l1, heat_loss
from tests.targets import small


def scenes(flip=False):
    """A bright square of one of two colours in each image."""
    random = np.random.default_rng(0)

    def split(count):
        images = np.zeros([count, 32, 32, 3], np.uint8)
        boxes, labels = [], []
        for image in images:
            side = random.integers(8, 16)
            left, top = random.integers(33 - side, size=2)
            label = random.integers(2)
            image[top : top + side, left : left + side, label] = 255
            boxes.append(np.array([[left, top, left + side, top + side]], np.float32))
            labels.append(np.array([label], np.int32))
        return SceneSplit(images, boxes, labels, [np.zeros(1, bool)] * count)

    return Scenes("squares", ("red", "green"), split(48), split(24), flip=flip)


def test_heat_loss_equals_a_loop():
    random = np.random.default_rng(0)
    logits = random.normal(size=[2, 3, 4, 2])
    heat = random.random([2, 3, 4, 2])
    heat[0, 1, 2, 0] = heat[1, 0, 0, 1] = heat[1, 2, 2, 1] = 1
    total = 0
    for place in np.ndindex(*logits.shape):
        p, y = 1 / (1 + np.exp(-logits[place])), heat[place]
        total -= (1 - p) ** 2 * np.log(p) if y == 1 else (1 - y) ** 4 * p**2 * np.log(1 - p)
    found = heat_loss(tf.constant(logits, tf.float32), tf.constant(heat, tf.float32))
    np.testing.assert_allclose(found, total / 3, rtol=1e-5)


def test_centre_l1_equals_a_loop():
    random = np.random.default_rng(1)
    one, other = (random.normal(size=[2, 3, 4, 2]).astype(np.float32) for _ in range(2))
    centres = np.zeros([2, 3, 4], np.float32)
    centres[0, 1, 2] = centres[1, 2, 0] = 1
    expected = (abs(one[0, 1, 2] - other[0, 1, 2]).sum() + abs(one[1, 2, 0] - other[1, 2, 0]).sum())
    np.testing.assert_allclose(centre_l1(one, other, centres), expected / 2, rtol=1e-5)
    assert float(centre_l1(one, other, np.zeros_like(centres))) == 0


def test_the_loss_is_that_of_heat_offsets_and_a_tenth_of_sizes():
    data = scenes()
    detector = Detector(small.encoder(32), (32, 32), 2, trains_encoder=False, seed=0)
    made = [encode(box, label, image_size=(32, 32), grid=detector.grid, classes=2)
            for box, label in zip(data.train.boxes[:3], data.train.labels[:3], strict=True)]
    heat, sizes, offsets, centres = (
        np.stack([getattr(each, key) for each in made])
        for key in ("heat", "sizes", "offsets", "centres")
    )
    images = data.train.images[:3]
    found = {
        name: maps.numpy().astype(float)
        for name, maps in detector._maps(tf.constant(images), training=True).items()
    }
    p = 1 / (1 + np.exp(-found["heat"]))
    hits = np.where(heat == 1, (1 - p) ** 2 * np.log(p), 0)
    misses = np.where(heat == 1, 0, (1 - heat.astype(float)) ** 4 * p**2 * np.log(1 - p))
    of_sizes, of_offsets = (
        np.sum(np.abs(found[name] - wanted)[centres == 1])
        for name, wanted in (("sizes", sizes), ("offsets", offsets))
    )
    assert np.sum(centres) == 3 and min(of_sizes, of_offsets) > 0.1
    expected = (-np.sum(hits + misses) + 0.1 * of_sizes + of_offsets) / 3
    loss = detector.loss(tf.constant(images), heat, sizes, offsets, centres)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "size"),
    [("VGG_student", (64, 96)), ("MobileNet_student", (64, 64)), ("ResNeXt_student", (32, 48))],
)
def test_a_cell_is_four_pixels_for_every_encoder(name, size):
    options = {"width": 8, "first": 4} if name.startswith("MobileNet") else {}
    model = nets.build(name, (32, 32, 3), 2, **options)
    encoder = nets.encoder_of(model, nets.Standardize((0.0,) * 3, (255.0,) * 3))
    detector = Detector(encoder, size, 3, trains_encoder=False, seed=0)
    assert detector.grid == (size[0] // 4, size[1] // 4)
    assert len(detector.find(np.zeros([2, *size, 3], np.uint8))) == 2


@pytest.mark.parametrize("trains_encoder", [False, True])
def test_only_a_copy_of_the_encoder_is_trained_and_only_on_request(trains_encoder):
    encoder, data = small.encoder(32), scenes()
    detector = Detector(encoder, (32, 32), 2, trains_encoder=trains_encoder, seed=0)
    maps = [encode(box, label, image_size=(32, 32), grid=detector.grid, classes=2)
            for box, label in zip(data.train.boxes, data.train.labels, strict=True)]
    targets = [np.stack([getattr(each, key) for each in maps])
               for key in ("heat", "sizes", "offsets", "centres")]
    with tf.GradientTape() as tape:
        loss = detector.loss(tf.constant(data.train.images), *targets)
    gradients = tape.gradient(loss, [variable.value for variable in detector.trained])
    assert all(np.abs(gradient).max() > 0 for gradient in gradients)
    own = {variable.path for variable in detector._encoder.model.trainable_variables}
    trained = {variable.path for variable in detector.trained}
    assert own <= trained if trains_encoder else not own & trained

    before = small.weights(encoder)
    detect(encoder, data, steps=3, trains_encoder=trains_encoder)
    for old, new in zip(before, small.weights(encoder), strict=True):
        np.testing.assert_array_equal(old, new)


def test_squares_are_found():
    found = detection(small.encoder(32), scenes(), seed=1, steps=150, learning_rate=1e-2)
    assert found["map_50"] > 0.6


def test_runs_are_functions_of_their_seed():
    """But for rounding, as threads may sum in another order: the best score of each image."""
    encoder, data = small.encoder(32), scenes()
    first, again, other = (
        [each.scores[0] for each in
         detect(encoder, data, seed=seed, steps=10, learning_rate=1e-2).found]
        for seed in (1, 1, 2)
    )
    np.testing.assert_allclose(first, again, atol=1e-3)
    assert np.abs(np.subtract(first, other)).max() > 1e-2


def test_a_mirrored_scene_has_mirrored_boxes():
    data = scenes(flip=True)
    detector = Detector(small.encoder(32), (32, 32), 2, trains_encoder=False, seed=0)
    images, heat, *_ = next(_batches(data, detector, 48, seed=0))
    mirrored = 0
    for image, warm in zip(images.numpy(), heat.numpy(), strict=True):
        same = [i for i, one in enumerate(data.train.images) if (one == image).all()]
        turned = [i for i, one in enumerate(data.train.images) if (one[:, ::-1] == image).all()]
        mirrored += bool(turned)
        down, right, label = np.unravel_index(warm.argmax(), warm.shape)
        square = np.argwhere(image[..., label] > 0)
        assert same or turned
        np.testing.assert_array_equal((square.min(0) + square.max(0) + 1) // 8, [down, right])
    assert 10 < mirrored < 40


def test_encoders_without_maps_are_refused():
    with pytest.raises(UserError, match="pixels cannot be a detector's backbone"):
        detection(raw_pixels((32, 32, 3)), scenes())
