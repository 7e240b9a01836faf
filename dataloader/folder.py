"""Images in folders, one a class: decoded as they are needed, or once where they fit in memory."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from dataloader import caches
from dataloader.data import STATISTICS_SAMPLE, Images, MemoryImages, Split
from dataloader.files import printable
from dataloader.image_files import (
    READ,
    WHITES,
    decoded,
    decoders_listened_to,
    examine,
    is_ordinary,
    pixels,
    white_of,
)
from dataloader.image_folders import (
    DECODED_AT_START,
    Facts,
    Found,
    find_images,
    read_cache,
    write_cache,
)
from dataloader.loading import Outline, Request, Source, register
from dataloader.memory import is_for_memory
from dataloader.resizing import fitted
from dataloader.splitting import rows_for_testing
from dataloader.spreading import spread
from registry import UserError

TEST_SHARE = 0.2
"""Of the training images, where there is neither test nor validation folder."""
NAMED = 5
"""So many damaged images are named in one line."""
_CHUNK = 256


class FileImages:
    """Images in files, decoded and resized when they are fetched.

    Args:
        files: one a row.
        shape: (height, width, channels) to bring each image to, by resizing (bilinear, without
            keeping the aspect ratio); channels 1 or 3.
        ordinary: whether TensorFlow's decoder is right for all of them, see `image_files`.
        white: see `image_files.pixels`.
    """

    statistics_sample = STATISTICS_SAMPLE

    def __init__(
        self, files: Sequence[str], shape: tuple[int, int, int], *, ordinary: bool, white: int
    ):
        self.shape = shape
        self.files = files
        self._ordinary, self._white = ordinary, white
        with tf.init_scope(), tf.device("CPU:0"):
            self._paths = tf.constant([os.fsencode(file) for file in files], tf.string)
        # One graph for each store: as a method of the class, each store would count as a retracing.
        rows = tf.TensorSpec([None], tf.int64)
        self._fetch = tf.function(self._read_all, input_signature=[rows], autograph=False)

    def __len__(self) -> int:
        return len(self.files)

    def _decode(self, contents: tf.Tensor) -> tf.Tensor:
        """uint8 [h,w,C]."""
        channels = self.shape[-1]
        if self._ordinary:
            return decoded(contents, channels)

        def by_pillow(contents: bytes) -> np.ndarray:
            return pixels(contents, channels, self._white)

        # Stateless: with --deterministic, stateful functions would be called one after the other.
        is_plain = tf.numpy_function(is_ordinary, [contents], tf.bool, stateful=False)
        image = tf.cond(
            tf.ensure_shape(is_plain, ()),
            lambda: decoded(contents, channels),
            lambda: tf.numpy_function(by_pillow, [contents], tf.uint8, stateful=False),
        )
        return tf.ensure_shape(image, (None, None, channels))

    def _read(self, file: tf.Tensor) -> tf.Tensor:
        return fitted(self._decode(tf.io.read_file(file)), self.shape)

    def fetch(self, rows: tf.Tensor) -> tf.Tensor:
        """Images of `rows` (int64 [B]) as uint8 [B,H,W,C]."""
        return self._fetch(rows)

    def _read_all(self, rows: tf.Tensor) -> tf.Tensor:
        return tf.map_fn(
            self._read,
            tf.gather(self._paths, rows),
            fn_output_signature=tf.TensorSpec(self.shape, tf.uint8),
        )

    def check(self) -> None:
        """Raise UserError where images cannot be read any more; the first are named."""
        if self.files:
            _check(self.files, [True] * len(self), os.path.commonpath(self.files))

    def decoded_once(self) -> MemoryImages:
        """The same images in memory.

        Raises:
            UserError: one cannot be decoded; it is named.
        """
        array = np.empty([len(self), *self.shape], np.uint8)
        with decoders_listened_to():
            self._fill(array)
        return MemoryImages(array, self.statistics_sample)

    def _fill(self, array: np.ndarray) -> None:
        for start in range(0, len(self), _CHUNK):
            rows = range(start, min(start + _CHUNK, len(self)))
            try:
                array[start : rows.stop] = self.fetch(tf.constant(rows, tf.int64)).numpy()
            except tf.errors.OpError as error:
                files = self.files[start : rows.stop]
                _check(files, [True] * len(files), os.path.dirname(files[0]))
                raise UserError(f"{files[0]} or one after it: {error.message[:200]}") from error


def _check(files: Sequence[str], decode: Sequence[bool], top: str | Path) -> Facts:
    """Look for damaged images.

    Args:
        files: paths.
        decode: for each whether to decode it.
        top: the folder, for messages.

    Raises:
        UserError: there are damaged images; the first are named, and a file lists all where they
            are many.
    """
    found = examine(files, decode)
    faults = {
        file: finding.fault for file, finding in zip(files, found, strict=True) if finding.fault
    }
    if faults:
        damaged = [
            f"{printable(os.path.relpath(file, top))} ({fault})"
            for file, fault in list(faults.items())[:NAMED]
        ]
        more = f" and {len(faults) - NAMED} more" if len(faults) > NAMED else ""
        raise UserError(
            f"folder:{printable(top)}: {len(faults)} of {len(files)} images cannot be read: "
            f"{', '.join(damaged)}{more}{_listing(list(faults), top)}: repair or remove them"
        )
    brightest = max(finding.brightest for finding in found)
    white = white_of(brightest)
    if 0 < brightest <= WHITES[-2]:
        logging.getLogger(__name__).warning(
            "folder:%s: no image of 16 bits has a value above %d, which is taken for white",
            printable(top), white,
        )
    looked_at = [finding for finding, full in zip(found, decode, strict=True) if full]
    return Facts(
        grey=all(finding.grey for finding in looked_at),
        ordinary=all(finding.ordinary for finding in found),
        white=white,
    )


def _listing(damaged: Sequence[str], top: str | Path) -> str:
    """List damaged images that are too many to be named, one a line, in the user's cache folder.

    Returns:
        For the message where; an empty text where all are named, or there is no place for a file.
    """
    if len(damaged) <= NAMED:
        return ""
    file = caches.cache_file("damaged", top, ".txt")
    # A line break would make two paths of one, of which the second may be any file.
    paths = [os.path.abspath(path) for path in damaged if not set("\r\n") & set(path)]
    is_written = caches.write_bytes(file, os.fsencode("".join(f"{path}\n" for path in paths)))
    return f", all of them listed in {printable(file)}" if is_written else ""


def _listed(top: Path) -> tuple[Found, Facts | None]:
    """The images, and what is known of them already. Raises UserError."""
    known = read_cache(top)
    if known:
        return known
    try:
        return find_images(top), None
    except OSError as error:
        raise UserError(
            f"{printable(error.filename or top)}: {error.strerror or error}; expected a folder of "
            "images"
        ) from error


def _joined(found: Found, top: Path) -> tuple[list[str], list[np.ndarray]]:
    """Paths of all images, those of training, test and validation one after the other, and the
    labels (int64 [N]) of each of these that is there. Raises UserError where there is nothing to
    train on."""
    files = found.files(top)
    labels = [
        np.repeat(np.arange(len(part)), [len(files) for files in part]) for part in found.parts()
    ]
    if not len(labels[0]):
        raise UserError(f"{printable(top)} has no images in class folders ({', '.join(READ)})")
    return files, labels


def _size_of(file: str) -> tuple[int, int]:
    """Height and width of an image; of a damaged one, which is refused later, 1x1."""
    return examine([file], [True])[0].size or (1, 1)


def outline(request: Request) -> Outline:
    """By the names of the files, and the size of the first image."""
    top = Path(os.path.expanduser(request.argument))
    found, _ = _listed(top)
    files, labels = _joined(found, top)
    count = len(labels[0])
    if len(labels) == 1:
        count -= round(TEST_SHARE * count)
    size = request.image_size or _size_of(files[0])
    # Without a test part, the validation images are the test images (see `_source`).
    has_validation = found.test is not None and found.validation is not None
    return Outline(count, (*size, 3), has_validation)


@register("folder", argument="DIR", lazy=True, outline=outline)
def folder(request: Request) -> Source:
    """``folder:DIR``: images in ``DIR/train/CLASS``, ``DIR/test/CLASS`` and ``DIR/val/CLASS`` (or
    ``valid``, ``validation``), at any depth; or in ``DIR/CLASS``, all for training.

    Without ``test`` the images of ``val`` are the test images; without both a stratified fifth of
    the training images is, by the data seed. JPEG, PNG, BMP, GIF, WebP and TIFF by their
    extension; other files are passed over, images that are not read are refused by name. How they
    are read, see `image_files`. They are resized to `image_size`, by default the size of the
    first image; all of them are grey where all are, otherwise all have three colours. Damaged ones
    are looked for at the start.

    Images are decoded once where they take up to a quarter of the free memory, otherwise whenever
    they are needed (`in_memory`); batches are the same.
    """
    top, began = Path(os.path.expanduser(request.argument)), time.time()
    found, facts = _listed(top)
    for note in found.notes:
        logging.getLogger(__name__).warning("%s", note)
    files, labels = _joined(found, top)
    size = request.image_size or _size_of(files[0])
    in_memory = is_for_memory(
        request.in_memory, len(files), (*size, 3), f"folder:{printable(top)}"
    )
    if facts is None:
        most = len(files) if in_memory else DECODED_AT_START
        decode = np.zeros(len(files), bool)
        decode[spread(len(files), most)] = True
        facts = _check(files, decode.tolist(), top)
        if len(files) > DECODED_AT_START:
            write_cache(top, found, facts, began)
    shape = (*size, 1 if facts.grey else 3)
    splits, start = [], 0
    for part in labels:
        paths = files[start : start + len(part)]
        images: Images = FileImages(paths, shape, ordinary=facts.ordinary, white=facts.white)
        splits.append(Split.whole(images.decoded_once() if in_memory else images, part))
        start += len(part)
    return _source(request, f"folder:{top}", found, splits)


def _source(request: Request, name: str, found: Found, splits: list[Split]) -> Source:
    """The source of the training, test and validation images that are there, in this order."""
    train, *others = splits
    if others:
        test, validation = others[0], others[1] if len(others) > 1 else None
    else:
        chosen = rows_for_testing(train.labels, TEST_SHARE, request.seed)
        rest = np.setdiff1d(np.arange(len(train)), chosen)
        train, test, validation = train.take(rest), train.take(chosen), None
    return Source(
        name, tuple(found.class_names), train, test, validation, sorted_by_class=True
    )
