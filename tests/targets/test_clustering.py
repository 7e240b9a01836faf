"""Clustering of seen and unseen classes, with and without fine-tuning."""

import numpy as np
import pytest
import tensorflow as tf

import targets
from registry import UserError
from targets.clustering import halves, of_classes
from targets.scores import clustering_scores
from tests.targets import small

FIGURES = ["nmi", "ari", "accuracy", "recall_1", "recall_2", "recall_4", "recall_8"]


def test_metrics_of_both_halves_and_the_encoder_is_not_changed():
    encoder, data = small.encoder(), small.data()
    before = small.weights(encoder)
    figures = targets.clustering(encoder, data, tuning_steps=30, learning_rate=1e-2)
    groups = ["", "seen_", "unseen_", "seen_tuned_", "unseen_tuned_"]
    assert list(figures) == [group + name for group in groups for name in FIGURES]
    assert figures["seen_tuned_nmi"] > 0.9
    for old, new in zip(before, small.weights(encoder), strict=True):
        np.testing.assert_array_equal(old, new)


def test_halves_are_scored_separately():
    data, encoder = small.data(classes=5, test=50), small.encoder()
    figures = targets.clustering(encoder, data, tuning_steps=0)
    assert not any("tuned" in name for name in figures)
    seen, unseen = halves(data)
    assert seen.tolist() == [0, 1] and unseen.tolist() == [2, 3, 4]
    vectors = encoder(data.test.images(range(50)))["embedding"].numpy()
    for name, half in (("seen", seen), ("unseen", unseen)):
        rows = np.isin(data.test.labels, half)
        expected = clustering_scores(vectors[rows], data.test.labels[rows])
        found = {key: figures[f"{name}_{key}"] for key in FIGURES}
        assert found == pytest.approx(expected, abs=1e-5)


def test_tuning_uses_no_labels_or_images_of_unseen_classes():
    data, encoder = small.data(), small.encoder()
    seen, _ = halves(data)
    part = of_classes(data.train, seen)
    assert set(part.labels) == {0, 1} and len(part) == 40
    images = part.images(range(40)).numpy()
    np.testing.assert_array_equal(images, data.train.images(np.flatnonzero(data.train.labels < 2)))
    tuned = targets.metric_tuned(encoder, part, steps=20, learning_rate=1e-2)
    assert any((old != new).any() for old, new in
               zip(small.weights(encoder), small.weights(tuned), strict=True))


def test_tuning_brings_images_of_a_class_together():
    data, encoder = small.data(), small.encoder()

    def gap(representation):
        vectors = targets.embeddings(representation, data.test)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        cosines = vectors @ vectors.T
        same = data.test.labels[:, None] == data.test.labels
        return cosines[same].mean() - cosines[~same].mean()

    tuned = targets.metric_tuned(encoder, data.train, steps=60, learning_rate=3e-3)
    assert gap(tuned) > gap(encoder) + 0.05


def test_too_few_classes_for_halves_are_scored_together():
    figures = targets.clustering(small.encoder(), small.data(classes=3), tuning_steps=5)
    assert list(figures) == FIGURES
    with pytest.raises(UserError, match="fewer than two of the first half.*--train_classes all"):
        halves(small.data(classes=3))


def test_pixels_are_clustered_and_not_tuned():
    figures = targets.clustering(targets.raw_pixels((16, 16, 3)), small.data())
    assert list(figures) == [group + name for group in ("", "seen_", "unseen_") for name in FIGURES]


def test_raw_pixels_are_the_image_possibly_resized():
    images = np.random.default_rng(0).integers(0, 256, [3, 8, 8, 3]).astype(np.uint8)
    vectors = targets.raw_pixels((8, 8, 3))(tf.constant(images))["embedding"]
    np.testing.assert_allclose(vectors, images.reshape(3, -1) / 255, rtol=1e-6)
    half = targets.raw_pixels((4, 4, 3))(images)["embedding"]
    expected = tf.image.resize(images.astype(np.float32), (4, 4), antialias=True) / 255
    np.testing.assert_allclose(half, tf.reshape(expected, [3, -1]), rtol=1e-5)


def test_the_plane_map_separates_distant_groups():
    random = np.random.default_rng(0)
    centres = np.eye(3, 12).repeat(20, axis=0)
    places = targets.plane_map((centres + 0.05 * random.normal(size=[60, 12])).astype(np.float32))
    assert places.shape == (60, 2)
    groups = places.reshape(3, 20, 2)
    radius = np.linalg.norm(groups - groups.mean(1, keepdims=True), axis=-1).max()
    apart = np.linalg.norm(groups.mean(1)[:, None] - groups.mean(1), axis=-1)
    assert apart[~np.eye(3, dtype=bool)].min() > radius
