"""Data sets: stores of images fetched by row, splits of them, and their properties."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from dataloader.spreading import spread

CHUNK_BYTES = 2**26
"""How many bytes of images to read at a time."""

STATISTICS_SAMPLE = 2000
"""How many images of sets that can stay on disk are read for the channel statistics."""

FACTS_SAMPLE = 500
"""How many images of each part of a set are read for its facts."""

TEST_FACTS = "test images, labels and mean"
"""What `Data.facts` calls those of the test images."""


class Images(Protocol):
    """Images of one shape, fetched by row."""

    shape: tuple[int, int, int]
    """(height, width, channels) of every image."""

    statistics_sample: int | None
    """How many images to compute the channel statistics from; None means all."""

    def __len__(self) -> int:
        """Number of images."""

    def fetch(self, rows: tf.Tensor) -> tf.Tensor:
        """The images of `rows` (int64 [B]) as uint8 [B,H,W,C]; works eagerly and in a graph."""

    def check(self) -> None:
        """Raise UserError, which names the files, where images cannot be read any more."""


class MemoryImages:
    """Images in memory.

    Args:
        array: uint8 [N,H,W,C]. It is kept once, as a tensor on the CPU, however many splits and
            pipelines read from it.
        statistics_sample: see `Images`.
    """

    def __init__(self, array: np.ndarray, statistics_sample: int | None = None):
        if array.dtype != np.uint8 or array.ndim != 4:
            raise ValueError(f"expected uint8 [N,H,W,C], not {array.dtype} {array.shape}")
        self.shape = tuple(int(size) for size in array.shape[1:])
        self.statistics_sample = statistics_sample
        # A tf.data function captures an eager tensor as an input. It would embed a numpy array in
        # its graph, which must not exceed 2 GB and is copied often.
        with tf.init_scope(), tf.device("CPU:0"):
            self._tensor = tf.convert_to_tensor(array)

    def __len__(self) -> int:
        return int(self._tensor.shape[0])

    def fetch(self, rows: tf.Tensor) -> tf.Tensor:
        """The images of `rows` (int64 [B]) as uint8 [B,H,W,C]."""
        return tf.gather(self._tensor, rows)

    def check(self) -> None:
        """Nothing happens to images in memory."""


class ConvertedImages:
    """Another store's images with another number of channels.

    Args:
        store: of grey images, or of colours (red, green, blue).
        channels: 3 repeats the grey channel; 1 gives the luma of the colours (ITU-R BT.601).
    """

    def __init__(self, store: Images, channels: int):
        self.store = store
        self.shape = (*store.shape[:2], channels)
        self.statistics_sample = store.statistics_sample

    def __len__(self) -> int:
        return len(self.store)

    def fetch(self, rows: tf.Tensor) -> tf.Tensor:
        """The images of `rows` (int64 [B]) as uint8 [B,H,W,channels]."""
        images = self.store.fetch(rows)
        if self.shape[-1] == 3:
            return tf.repeat(images, 3, axis=-1)
        return tf.image.rgb_to_grayscale(images)

    def check(self) -> None:
        """As the other store does."""
        self.store.check()


@dataclass(frozen=True, eq=False)
class Split:
    """Some rows of a store of images, with their labels. An image's `index` is its position here.

    Attributes:
        store: the store with the images.
        rows: int64 [N], each image's row in `store`.
        labels: int32 [N], each image's class, -1 if unlabelled.
        fill: one uint8 value per channel. Augmentation fills the area outside the image with it
            (the rounded channel mean, about 0 after normalisation).
    """

    store: Images
    rows: np.ndarray
    labels: np.ndarray
    fill: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.rows) != len(self.labels):
            raise ValueError(f"{len(self.rows)} rows but {len(self.labels)} labels")

    @classmethod
    def whole(cls, store: Images, labels: np.ndarray) -> Split:
        """All images of `store` in order, with `labels` [N] and a black `fill`."""
        return cls(
            store, np.arange(len(store)), labels.astype(np.int32), fill=(0,) * store.shape[-1]
        )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self.store.shape

    @cached_property
    def _row_tensor(self) -> tf.Tensor:
        with tf.init_scope(), tf.device("CPU:0"):
            return tf.convert_to_tensor(self.rows.astype(np.int64))

    @cached_property
    def label_tensor(self) -> tf.Tensor:
        """`labels` as a tensor on the CPU, int32 [N]."""
        with tf.init_scope(), tf.device("CPU:0"):
            return tf.convert_to_tensor(self.labels.astype(np.int32))

    def images(self, indices: tf.Tensor | Sequence[int]) -> tf.Tensor:
        """Images by index, eagerly or inside tf.data.

        Args:
            indices: integers [B] in 0..len-1.

        Returns:
            uint8 [B,H,W,C], not augmented.
        """
        images = self.store.fetch(tf.gather(self._row_tensor, indices))
        return tf.ensure_shape(images, (None, *self.image_shape))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 sum, in hexadecimal, of the images in their order; of images on disk, of as many
        as their channel statistics are computed from, evenly spread."""
        rows = self.spread(self.store.statistics_sample)
        digest = hashlib.sha256(str((len(self), self.image_shape)).encode())
        for images in self.in_chunks(rows):
            digest.update(images.tobytes())
        return digest.hexdigest()

    def in_chunks(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        """Images by index, one after the other, uint8 [n,H,W,C]: as many at a time as
        `CHUNK_BYTES` hold, but at least one."""
        size = max(1, CHUNK_BYTES // int(np.prod(self.image_shape)))
        for start in range(0, len(indices), size):
            yield self.images(indices[start : start + size]).numpy()

    def spread(self, most: int | None) -> np.ndarray:
        """The indices of at most so many images, evenly spread over all, int64; None: of all."""
        return spread(len(self), most)

    def mixed(self, most: int | None = None) -> Split:
        """At most so many of its images, evenly spread over all, in a fixed random order; None: all
        of them. For what a batch's other images bear on: those of folders are in the order of
        their classes."""
        return self.take(np.random.default_rng(0).permutation(self.spread(most)))

    @cached_property
    def facts(self) -> list[Any]:
        """Facts that change if images or labels change: their number, a digest of the labels in
        their order, and the mean of a sample of the images.

        Pixels are not compared bit for bit, as another processor may decode or resize a few of them
        to the next value.
        """
        rows = self.spread(FACTS_SAMPLE)
        total = sum(int(images.sum(dtype=np.int64)) for images in self.in_chunks(rows))
        values = max(len(rows), 1) * int(np.prod(self.image_shape))
        labels = hashlib.sha256(self.labels.astype("<i4").tobytes()).hexdigest()
        return [len(self), labels[:12], round(total / values, 2)]

    def take(self, chosen: np.ndarray) -> Split:
        """A split of only the images `chosen` (integers [M]), with new indices 0..M-1."""
        return replace(self, rows=self.rows[chosen], labels=self.labels[chosen])


_NOT_OF_FILES = (
    tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError,
    tf.errors.InternalError, tf.errors.ResourceExhaustedError, tf.errors.UnavailableError,
    tf.errors.UnimplementedError,
)  # fmt: skip
"""Too little memory, and trouble of devices and between workers: nothing that a search of all files
explains."""


@contextlib.contextmanager
def naming_damage(*splits: Split) -> Iterator[None]:
    """Where TensorFlow fails within, look through the files with the images of `splits` for the
    reason: one may have been damaged or removed since the start.

    Raises:
        UserError: in place of TensorFlow's error, where there are such files; it names them.
    """
    try:
        yield
    except _NOT_OF_FILES:
        raise
    except tf.errors.OpError:
        for store in {id(split.store): split.store for split in splits}.values():
            store.check()
        raise


@dataclass(frozen=True, eq=False)
class Data:
    """A classification data set.

    Attributes:
        name: the name given to `load`, in its registered spelling.
        class_names: the distinct names of the classes. If the source has no names, the numbers
            ``"0"`` to ``"n-1"``, see `has_class_names`.
        image_shape: (height, width, channels).
        channel_mean: mean of each channel over the training images, in 0..255.
        channel_deviation: standard deviation of each channel, in 0..255, positive.
        default_flip: whether mirrored images are valid training images (not for digits).
        train: the training images; labels may be -1 (unlabelled).
        validation: images to choose the best epoch with: the data set's own, or else a part of the
            training images; may be empty.
        test: the test images, only for reporting.
    """

    name: str
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    channel_mean: tuple[float, ...]
    channel_deviation: tuple[float, ...]
    default_flip: bool
    train: Split
    validation: Split
    test: Split

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def splits(self) -> tuple[Split, Split, Split]:
        """Training, validation and test images."""
        return self.train, self.validation, self.test

    @property
    def is_in_memory(self) -> bool:
        """Whether all images are in memory; otherwise they are read when they are needed."""
        stores = [split.store for split in self.splits]
        stores = [each.store if isinstance(each, ConvertedImages) else each for each in stores]
        return all(isinstance(each, MemoryImages) for each in stores)

    def facts(self) -> dict[str, Any]:
        """Facts that change if the set changes between two parts of a run: numbers of images,
        classes, shape and channel statistics, and of each part what `Split.facts` says."""
        return {
            "training images": len(self.train),
            "validation images": len(self.validation),
            "test images": len(self.test),
            "classes": list(self.class_names),
            "image shape": list(self.image_shape),
            "channel mean": [round(float(mean), 3) for mean in self.channel_mean],
            "training images, labels and mean": self.train.facts,
            "validation images, labels and mean": self.validation.facts,
            TEST_FACTS: self.test.facts,
        }

    @property
    def has_class_names(self) -> bool:
        """Whether classes have real names rather than numbers, so two data sets can be compared."""
        return self.class_names != tuple(map(str, range(self.classes)))
