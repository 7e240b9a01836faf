"""What target tasks read of an encoder, and raw pixels in an encoder's place."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import tensorflow as tf
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from dataloader import Split, evaluation_batches

_PIXELS = 500 * 32 * 32


class Representation(Protocol):
    """Anything that turns images into vectors: `nets.Encoder`, an export of one, raw pixels.

    Only a `nets.Encoder` can be trained further, or have boxes found on its maps.
    """

    name: str

    def __call__(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """``embedding`` float32 ``[B, E]`` of raw uint8 images ``[B, H, W, C]``."""


@dataclasses.dataclass(frozen=True)
class RawPixels:
    """The image itself as its embedding: what every encoder has to beat.

    Attributes:
        image_shape: (height, width, channels); images of another size are resized.
    """

    image_shape: tuple[int, int, int]
    name: str = "pixels"

    def __call__(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """``embedding`` float32 ``[B, H W C]`` in 0..1 of images ``[B, H, W, C]`` in 0..255."""
        images = tf.cast(images, tf.float32) / 255
        if tuple(images.shape[1:3]) != self.image_shape[:2]:
            images = tf.image.resize(images, self.image_shape[:2], antialias=True)
        return {"embedding": tf.reshape(images, [len(images), -1])}


def raw_pixels(image_shape: tuple[int, int, int]) -> RawPixels:
    """The pseudo-encoder that gives the pixels of images of `image_shape`."""
    return RawPixels(tuple(image_shape))


def images_at_once(image_shape: Sequence[int]) -> int:
    """Images (height, width, channels) that networks are shown at a time where nothing is learned:
    500 of 32x32, fewer of larger ones."""
    return max(1, min(500, _PIXELS // (image_shape[0] * image_shape[1])))


def embeddings(encoder: Representation, split: Split) -> np.ndarray:
    """The embedding of each image of `split`, in order, float32 [N,E]."""
    return np.concatenate([
        np.asarray(encoder(batch["image"])["embedding"], np.float32)
        for batch in evaluation_batches(split, images_at_once(split.image_shape))
    ])


def normalised(vectors: np.ndarray) -> np.ndarray:
    """`vectors` [N,E] on the unit sphere; zero stays zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, np.finfo(vectors.dtype).tiny)


def labelled(split: Split) -> Split:
    """The images of `split` that have a label."""
    return split.take(np.flatnonzero(split.labels >= 0))


def rows_of_all_classes(labels: np.ndarray, count: int) -> np.ndarray:
    """Rows of at most `count` images in which all classes are as equally frequent as can be.

    Args:
        labels: integers [N], in any order.
        count: how many rows at most.

    Returns:
        int64 [min(count, N)], in increasing order: the first images of each class.
    """
    by_class = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[by_class], labels[by_class])
    place = np.empty(len(labels), np.int64)
    place[by_class] = np.arange(len(labels)) - starts  # of each image among those of its class
    return np.sort(np.argsort(place, kind="stable")[:count])


def plane_map(vectors: np.ndarray, seed: int = 0) -> np.ndarray:
    """A map of embeddings in the plane, by t-SNE from their first principal components on.

    Args:
        vectors: float32 [N,E], at least 4; put on the unit sphere first.
        seed: of t-SNE.

    Returns:
        float32 [N,2].
    """
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed)
    # On busy cores, threads that wait for each other at each short step take many times as long.
    with threadpool_limits(1):
        return tsne.fit_transform(normalised(vectors))
