"""The embeddings that target tasks use, and raw pixels as a baseline encoder."""

from __future__ import annotations

import dataclasses
import math
from typing import Protocol

import numpy as np
import tensorflow as tf
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from dataloader import Data, Split, evaluation_batches
from dataloader.memory import check_memory, images_at_once
from registry import UserError

_PIXEL_COPIES = 2  # beside those for which `check_memory` leaves half of the memory


class Representation(Protocol):
    """Anything that turns images into vectors: a `nets.Encoder`, an exported one, raw pixels.

    Only a `nets.Encoder` can be fine-tuned or serve as a detector's backbone.
    """

    name: str

    def __call__(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """``embedding``, float32 ``[B, E]``, of raw uint8 images ``[B, H, W, C]``."""


@dataclasses.dataclass(frozen=True)
class RawPixels:
    """The image itself as its embedding: the baseline for every encoder.

    Attributes:
        image_shape: (height, width, channels); images of another size are resized.
    """

    image_shape: tuple[int, int, int]
    name: str = "pixels"

    def __call__(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """``embedding``, float32 ``[B, H W C]`` in 0..1, of images ``[B, H, W, C]`` in 0..255."""
        images = tf.cast(images, tf.float32) / 255
        if tuple(images.shape[1:3]) != self.image_shape[:2]:
            images = tf.image.resize(images, self.image_shape[:2], antialias=True)
        return {"embedding": tf.reshape(images, [len(images), -1])}


def raw_pixels(image_shape: tuple[int, int, int]) -> RawPixels:
    """A pseudo-encoder that returns the pixels of images, resized to `image_shape`."""
    return RawPixels(tuple(image_shape))


def check_pixels(data: Data) -> None:
    """Raise UserError if the pixels of all images, as embeddings, exceed the memory: images that
    stay on disk do not fit as they are, and these take four times as much, and copies."""
    count = sum(len(split) for split in (data.train, data.validation, data.test))
    size = "x".join(map(str, data.image_shape))
    check_memory(
        _PIXEL_COPIES * 4 * count * math.prod(data.image_shape),
        f"the pixels of {count:,} images of {size} as embeddings",
        "give a smaller --image_size, fewer --train_images, or other encoders than pixels",
    )


def embeddings(encoder: Representation, split: Split) -> np.ndarray:
    """The embeddings of all images of `split`, in order, float32 [N,E].

    Raises:
        UserError: some are not finite numbers, by which nothing can be scored.
    """
    vectors = np.concatenate([
        np.asarray(encoder(batch["image"])["embedding"], np.float32)
        for batch in evaluation_batches(split, images_at_once(split.image_shape))
    ])
    bad = int(np.sum(~np.isfinite(vectors).all(axis=1)))
    if bad:
        raise UserError(
            f"encoder {encoder.name}: the embeddings of {bad} of {len(vectors)} images are not "
            "finite numbers; give an encoder whose training did not diverge"
        )
    return vectors


def normalised(vectors: np.ndarray) -> np.ndarray:
    """Scale `vectors` [N,E] to unit length; zero vectors stay zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, np.finfo(vectors.dtype).tiny)


def labelled(split: Split) -> Split:
    """The images of `split` that have a label."""
    return split.take(np.flatnonzero(split.labels >= 0))


def rows_of_all_classes(labels: np.ndarray, count: int) -> np.ndarray:
    """Choose at most `count` images so that the classes are as balanced as possible.

    Args:
        labels: integers [N], in any order.
        count: the largest number of rows.

    Returns:
        The rows of the first images of each class, int64 [min(count, N)], in increasing order.
    """
    by_class = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[by_class], labels[by_class])
    place = np.empty(len(labels), np.int64)
    place[by_class] = np.arange(len(labels)) - starts  # each image's position within its class
    return np.sort(np.argsort(place, kind="stable")[:count])


def plane_map(vectors: np.ndarray, seed: int = 0) -> np.ndarray:
    """Map embeddings to the plane with t-SNE, initialised with their first principal components.

    Args:
        vectors: float32 [N,E], N at least 4; scaled to unit length first.
        seed: random seed for t-SNE.

    Returns:
        float32 [N,2], zeros where all vectors are equal.
    """
    scaled = normalised(vectors)
    if np.ptp(scaled, axis=0).max() == 0:
        # Without principal components t-SNE would begin with NaN, which crashes the process.
        return np.zeros([len(vectors), 2], np.float32)
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed)
    # t-SNE's steps are short: on busy cores, several threads are many times slower than one.
    with threadpool_limits(1):
        return tsne.fit_transform(scaled)
