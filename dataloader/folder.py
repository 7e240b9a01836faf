"""Images in folders, decoded as they are needed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tensorflow as tf

from dataloader.data import Split
from dataloader.image_files import decoded, fault_of
from dataloader.loading import Request, Source, register
from dataloader.resizing import resized
from dataloader.splitting import rows_for_testing
from registry import UserError

READ = (".jpg", ".jpeg", ".png", ".bmp", ".gif")
NOT_READ = (".webp", ".tif", ".tiff", ".heic", ".avif", ".jp2", ".ppm", ".pgm")
"""Images all the same: to pass over them in silence would be to lose data."""

DECODED_AT_START = 20_000
"""So many images are decoded at the start to find damaged ones; of further ones only the ends are
looked at, which finds what is empty, cut off or no image."""

TEST_SHARE = 0.2
"""Of the training images, where there is no test folder."""


class FileImages:
    """Images in files, decoded and resized when they are fetched.

    Args:
        files: one a row.
        shape: (height, width, channels) to bring each image to, by resizing (bilinear, without
            keeping the aspect ratio); channels 1 or 3.
    """

    def __init__(self, files: Sequence[Path], shape: tuple[int, int, int]):
        self.shape = shape
        with tf.init_scope(), tf.device("CPU:0"):
            self._files = tf.constant([os.fsencode(file) for file in files], tf.string)

    def __len__(self) -> int:
        return int(self._files.shape[0])

    def _read(self, file: tf.Tensor) -> tf.Tensor:
        image, size = decoded(tf.io.read_file(file), self.shape[-1]), self.shape[:2]
        same = tf.reduce_all(tf.shape(image)[:2] == size)
        image = tf.cond(same, lambda: image, lambda: resized(image, size))
        return tf.ensure_shape(image, self.shape)

    @tf.function(reduce_retracing=True)
    def fetch(self, rows: tf.Tensor) -> tf.Tensor:
        """Images of `rows` (int64 [B]) as uint8 [B,H,W,C]."""
        return tf.map_fn(
            self._read,
            tf.gather(self._files, rows),
            fn_output_signature=tf.TensorSpec(self.shape, tf.uint8),
        )


def _check(files: Sequence[Path], folder: Path) -> bool:
    """Look for damaged images; whether all images (that were decoded) are grey.

    Raises:
        UserError: there are damaged images; the first are named.
    """
    with tf.device("CPU:0"), ThreadPoolExecutor(os.cpu_count()) as pool:
        decode = np.arange(len(files)) < DECODED_AT_START
        found = list(pool.map(fault_of, files, decode.tolist()))
    damaged = [
        f"{file.relative_to(folder)} ({fault})"
        for file, (fault, _) in zip(files, found, strict=True)
        if fault
    ]
    if damaged:
        more = f" and {len(damaged) - 5} more" if len(damaged) > 5 else ""
        raise UserError(
            f"folder:{folder}: {len(damaged)} of {len(files)} images cannot be read: "
            f"{', '.join(damaged[:5])}{more}: repair or remove them"
        )
    return all(grey for _, grey in found[:DECODED_AT_START])


def _classes(folder: Path) -> list[str]:
    return sorted(
        entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."
    )


def _images(folder: Path, class_names: Sequence[str]) -> tuple[list[Path], np.ndarray]:
    """The images of each class in the order of their names, and their labels (int64 [N])."""
    files, labels = [], []
    for label, name in enumerate(class_names):
        for file in sorted((folder / name).iterdir()) if (folder / name).is_dir() else []:
            suffix = file.suffix.lower()
            if suffix in NOT_READ:
                raise UserError(f"{file}: {suffix} images are not read: convert to JPEG or PNG")
            if suffix in READ and file.name[0] != ".":
                files.append(file)
                labels.append(label)
    return files, np.array(labels, np.int64)


def _size(file: Path) -> tuple[int, int]:
    """(height, width) of the image in `file`."""
    height, width = decoded(tf.io.read_file(os.fsencode(file)), channels=3).shape[:2]
    return int(height), int(width)


@register("folder", argument="DIR")
def folder(request: Request) -> Source:
    """``folder:DIR``: images in ``DIR/train/CLASS/*`` and ``DIR/test/CLASS/*``; without ``test`` a
    stratified fifth of the training images by the data seed.

    JPEG, PNG, BMP and GIF (its first picture) by their extension; other files are passed over.
    Images are resized to `image_size`, by default the size of the first image; all of them are
    grey where all are, otherwise all have three colours. The first 20,000 are decoded once at the
    start to find damaged ones. A JPEG's note on how it is to be turned (EXIF) is not followed.
    """
    top = Path(request.argument).expanduser()
    if not (top / "train").is_dir():
        raise UserError(f"no such folder: {top / 'train'} (DIR/train/CLASS/* expected)")
    class_names = _classes(top / "train")
    files, labels = _images(top / "train", class_names)
    if not files:
        raise UserError(f"{top / 'train'} has no images: CLASS/* ({', '.join(READ)}) expected")
    test_files, test_labels = [], np.zeros([0], np.int64)
    if (top / "test").is_dir():
        unknown = [name for name in _classes(top / "test") if name not in class_names]
        if unknown:
            raise UserError(f"{top / 'test'} has the class {unknown[0]!r}, {top / 'train'} has not")
        test_files, test_labels = _images(top / "test", class_names)
    grey = _check(files + test_files, top)
    shape = (*(request.image_size or _size(files[0])), 1 if grey else 3)
    train = Split.whole(FileImages(files, shape), labels)
    if (top / "test").is_dir():
        test = Split.whole(FileImages(test_files, shape), test_labels)
    else:
        chosen = rows_for_testing(labels, TEST_SHARE, request.seed)
        test = train.take(chosen)
        train = train.take(np.setdiff1d(np.arange(len(files)), chosen))
    return Source(f"folder:{top}", tuple(class_names), train, test)
