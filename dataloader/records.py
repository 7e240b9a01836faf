"""Images in ArrayRecord files of tensorflow-datasets, read by index when they are needed."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from dataloader import caches
from dataloader.data import STATISTICS_SAMPLE, MemoryImages
from dataloader.files import printable
from dataloader.resizing import fitted
from registry import UserError

FORMAT = "array_record"
PACKAGE = "array_record"

LABELS_KEPT = 5_000
"""Of splits with more examples the labels are kept in a cache: they stand among the images, so that
the whole split is read for them."""

SPARE_FILES = 256
"""How many files this process may open besides those of the data."""

_CHUNK = 256
_ROWS = tf.TensorSpec([None], tf.int64)
_CACHE_VERSION = 1


def is_installed() -> bool:
    """Whether there is the package that reads ArrayRecord files. Not every system has it."""
    return importlib.util.find_spec(PACKAGE) is not None


class Records:
    """The examples of a split, in the order of its files.

    Args:
        builder: the tfds builder of a set that is prepared as ArrayRecord.
        split: the split's name.
        image, label: the keys of the image, a ``tfds.features.Image`` of uint8, and of the label,
            a ``tfds.features.ClassLabel``.

    Raises:
        UserError: the system does not let a process open so many files.
    """

    def __init__(self, builder: Any, split: str, image: str, label: str):
        import tensorflow_datasets as tfds  # takes seconds, and most runs do without

        self._name, self._folder, self._split = builder.name, str(builder.data_path), split
        self._image, self._label = image, label
        self._feature = builder.info.features[image]
        self._source = builder.as_data_source(
            split, file_format=FORMAT, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
        )
        instructions = builder.info.splits[split].file_instructions
        self._files = [os.fspath(each.filename) for each in instructions]
        self._ends = np.cumsum([each.take for each in instructions])
        _let_open(len(self._files))
        # One graph for each object: as a method of the class, each would count as a retracing.
        self._fetch_labels = tf.function(self._labels_of, input_signature=[_ROWS], autograph=False)

    def __len__(self) -> int:
        return len(self._source)

    def contents(self, rows: tf.Tensor) -> dict[str, tf.Tensor]:
        """Image files (strings [B]) and labels (int64 [B]) of `rows` (int64 [B]), by their keys."""
        # Reading is a function of the rows: --deterministic need not read one batch at a time.
        examples = tf.numpy_function(self._read, [rows], tf.string, stateful=False)
        return tf.io.parse_example(
            tf.ensure_shape(examples, (None,)),
            {
                self._image: tf.io.FixedLenFeature([], tf.string),
                self._label: tf.io.FixedLenFeature([], tf.int64),
            },
        )

    def _read(self, rows: np.ndarray) -> np.ndarray:
        # As objects: NumPy's own strings would lose zeros at their ends.
        return np.array(self._source.__getitems__(rows.tolist()), np.object_)

    def images(self, rows: tf.Tensor, shape: tuple[int, int, int]) -> tf.Tensor:
        """The images of `rows` (int64 [B]) as uint8 [B,*shape], decoded as tensorflow-datasets does
        it."""
        return tf.map_fn(
            lambda content: fitted(self._feature.decode_example(content), shape),
            self.contents(rows)[self._image],
            fn_output_signature=tf.TensorSpec(shape, tf.uint8),
        )

    def first_size(self) -> tuple[int, int]:
        """Height and width of the first image. Raises UserError where it cannot be read."""
        def size(rows: tf.Tensor) -> tf.Tensor:
            content = self.contents(rows)[self._image][0]
            return tf.shape(self._feature.decode_example(content))[:2]

        height, width = self._of(size, range(1))
        return int(height), int(width)

    def first_label(self) -> int:
        """The label of the first example. Raises UserError where it cannot be read."""
        return int(self._of(self._labels_of, range(1))[0])

    def in_chunks(self, function: Callable[[tf.Tensor], tf.Tensor]) -> Iterator[np.ndarray]:
        """`function` of all rows in order, a part of them (int64 [B]) at a time.

        Raises:
            UserError: examples cannot be read; it names their file.
        """
        begin = 0
        for end in self._ends:
            for start in range(begin, end, _CHUNK):
                yield self._of(function, range(start, min(start + _CHUNK, end)))
            begin = end

    def _of(self, function: Callable[[tf.Tensor], tf.Tensor], rows: range) -> np.ndarray:
        """`function` of rows of one file. Raises UserError."""
        try:
            with tf.device("CPU:0"):
                return function(tf.constant(rows, tf.int64)).numpy()
        except tf.errors.ResourceExhaustedError:
            raise
        except tf.errors.OpError as error:
            file = self._files[np.searchsorted(self._ends, rows.start, side="right")]
            reason = error.message.splitlines()[0].split("}} ")[-1][:200]
            raise UserError(
                f"data set {self._name!r}: {printable(file)} cannot be read ({reason}): if it is "
                f"damaged, remove {printable(self._folder)} and load the set again"
            ) from error

    def labels(self) -> np.ndarray:
        """The labels, int64 [N], from a cache where the files are those that it was made from.

        Raises:
            UserError: examples cannot be read; it names their file.
        """
        cache = caches.cache_file(f"labels-{self._split}", self._folder)
        state = _state(self._files)
        kept = caches.read_cache(cache)
        if isinstance(kept, dict) and state and kept.get("state") == self._described(state):
            return np.array(kept["labels"], np.int64)
        chunks = self.in_chunks(self._fetch_labels)
        labels = np.concatenate([np.zeros([0], np.int64), *chunks])
        if state and len(labels) > LABELS_KEPT:
            content = {"state": self._described(state), "labels": labels.tolist()}
            caches.write_cache(cache, content)
        return labels

    def _labels_of(self, rows: tf.Tensor) -> tf.Tensor:
        return self.contents(rows)[self._label]

    def _described(self, state: dict[str, list[int]]) -> dict[str, Any]:
        return {"version": _CACHE_VERSION, "label": self._label, "files": state}


class RecordImages:
    """Images of a split, decoded and resized when they are fetched.

    Args:
        records: with the images.
        shape: (height, width, channels) to bring each image to, by resizing (bilinear, without
            keeping the aspect ratio).
    """

    statistics_sample = STATISTICS_SAMPLE

    def __init__(self, records: Records, shape: tuple[int, int, int]):
        self.shape = shape
        self._records = records
        self._fetch = tf.function(self._images_of, input_signature=[_ROWS], autograph=False)

    def __len__(self) -> int:
        return len(self._records)

    def fetch(self, rows: tf.Tensor) -> tf.Tensor:
        """The images of `rows` (int64 [B]) as uint8 [B,H,W,C]."""
        return self._fetch(rows)

    def _images_of(self, rows: tf.Tensor) -> tf.Tensor:
        return self._records.images(rows, self.shape)

    def check(self) -> None:
        """Raise UserError, which names the file, where images cannot be read any more."""
        for _ in self._records.in_chunks(self._fetch):
            pass

    def decoded_once(self) -> MemoryImages:
        """The same images in memory. Raises UserError as `check`."""
        array = np.empty([len(self), *self.shape], np.uint8)
        start = 0
        for images in self._records.in_chunks(self._fetch):
            array[start : start + len(images)] = images
            start += len(images)
        return MemoryImages(array, self.statistics_sample)


def _state(files: list[str]) -> dict[str, list[int]] | None:
    """Size in bytes and time of change in ns of each file; None where one is not there."""
    try:
        found = {file: os.stat(file) for file in files}
    except OSError:
        return None
    return {file: [each.st_size, each.st_mtime_ns] for file, each in found.items()}


def _let_open(files: int) -> None:
    """Let this process open so many files more; each ArrayRecord file stays open once it is read.

    Raises:
        UserError: the system does not allow it.
    """
    import resource  # not on Windows, which has no ArrayRecord either

    import psutil

    needed = psutil.Process().num_fds() + files + SPARE_FILES
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if now == resource.RLIM_INFINITY or now >= needed:
        return
    if most != resource.RLIM_INFINITY and most < needed:
        raise UserError(
            f"the data set has {files} files, but a process may open only {most}: as "
            f"administrator, raise the limit with ulimit -Hn {needed}"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, most))
