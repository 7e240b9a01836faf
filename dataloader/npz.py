"""Images and labels from a numpy archive."""

from __future__ import annotations

import io
import logging
import lzma
import math
import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from dataloader.data import MemoryImages, Split
from dataloader.files import printable
from dataloader.loading import Outline, Request, Source, numbered, register
from dataloader.memory import check_memory
from dataloader.resizing import resized_array
from registry import UserError
from regular_files import check_regular

KEYS = ("x_train", "y_train", "x_test", "y_test")
VALIDATION = ("x_val", "y_val")
LONGEST_HEADER = 10_000
"""Bytes of an array's header, which NumPy limits likewise."""
CHANNELS = (1, 3)


class Archive:
    """An archive whose faults are told with the file's name.

    Never unpickles. What an array says of its size is compared with what is there and with the
    free memory before any memory is asked for.

    Args:
        file: its path.
        keys: what has to be in it.

    Raises:
        UserError: there is no such archive, or one of the keys is not in it.
    """

    def __init__(self, file: str | Path, keys: Sequence[str] = KEYS):
        self.file = file = Path(os.path.expanduser(file))
        try:
            check_regular(file)
        except FileNotFoundError as error:
            raise UserError(
                f"no such file: {printable(file)} (expected an npz file with {', '.join(keys)})"
            ) from error
        except OSError as error:
            raise UserError(
                f"{printable(file)}: {error.strerror} (expected an npz file with {', '.join(keys)})"
            ) from error
        try:
            self._archive = zipfile.ZipFile(file)
            self.sizes = {
                info.filename.removesuffix(".npy"): info.file_size
                for info in self._archive.infolist()
            }
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise UserError(
                f"{file} is not a numpy archive, or it is cut off ({error}): "
                f"make it with numpy.savez"
            ) from error
        missing = [key for key in keys if key not in self.sizes]
        if missing:
            raise UserError(
                f"{file} lacks {', '.join(missing)}: it has "
                f"{', '.join(sorted(self.sizes)) or 'nothing'}"
            )

    def read(self, key: str) -> np.ndarray:
        """The array `key`.

        Raises:
            UserError: it is damaged, holds Python objects, or does not fit into the memory.
        """
        where = f"{self.file}: {key}"
        header = self._header(key)
        needed = math.prod(header.shape) * header.dtype.itemsize
        check_memory(needed, where, "use folder:DIR, which can leave images on disk")
        try:
            with self._archive.open(self._member(key)) as opened:
                return np.lib.format.read_array(opened, allow_pickle=False)
        except _DAMAGE as error:
            raise UserError(f"{where} is damaged ({error})") from error

    def shape(self, key: str) -> tuple[int, ...]:
        """The shape of the array `key`, by its header. Raises UserError as `read`."""
        return self._header(key).shape

    def _member(self, key: str) -> str:
        return f"{key}.npy" if f"{key}.npy" in self._archive.namelist() else key

    def _header(self, key: str) -> _Header:
        """What an array says of itself. Raises UserError as `read`."""
        where = f"{self.file}: {key}"
        try:
            with self._archive.open(self._member(key)) as opened:
                header = _read_header(opened)
            promised = math.prod(header.shape) * header.dtype.itemsize
            if promised != self.sizes[key] - header.length:
                raise ValueError(
                    f"its header promises {promised:,} bytes, there are "
                    f"{self.sizes[key] - header.length:,}"
                )
        except _Objects as error:
            raise UserError(
                f"{where} holds Python objects, which are not read because that could run a "
                "program: save it as an array of numbers, and class names as one of strings, in "
                "`classes`"
            ) from error
        except _DAMAGE as error:
            raise UserError(f"{where} is damaged ({error})") from error
        return header

    def images(self, key: str) -> np.ndarray:
        """`key` as uint8 [N,H,W,C]. Raises UserError where it is no array of images."""
        images, where = self.read(key), f"{self.file}: {key}"
        if images.ndim == 3:
            images = images[..., None]
        if images.ndim != 4 or images.shape[-1] not in CHANNELS:
            channels_first = images.ndim == 4 and images.shape[1] in CHANNELS
            advice = f": save {key}.transpose(0, 2, 3, 1)" if channels_first else ""
            raise UserError(
                f"{where} has shape {list(images.shape)}; expected [N,H,W,C] with 1 or 3 channels, "
                f"or [N,H,W] for grey images{advice}"
            )
        if 0 in images.shape:
            raise UserError(f"{where} has shape {list(images.shape)}: there is no image in it")
        if images.dtype == np.uint8:
            return images
        if images.dtype.kind not in "iu":
            advice = ""
            if images.dtype.kind == "f" and images.min() >= 0 and images.max() <= 1:
                advice = f"; they look like 0..1: save ({key} * 255).round().astype('uint8')"
            raise UserError(f"{where} is {images.dtype}; expected uint8 images in 0..255{advice}")
        low, high = images.min(), images.max()
        if low < 0 or high > 255:
            raise UserError(f"{where} has values from {low} to {high}; expected 0..255")
        return images.astype(np.uint8)

    def labels(self, key: str, images: np.ndarray) -> np.ndarray:
        """int64 [N]."""
        labels, where = self.read(key), f"{self.file}: {key}"
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        if labels.ndim != 1:
            advice = " (class numbers, not one-hot)" if labels.ndim == 2 else ""
            raise UserError(f"{where} has shape {list(labels.shape)}; expected [N]{advice}")
        if labels.dtype.kind not in "iu":
            raise UserError(
                f"{where} is {labels.dtype}{_what_is_odd(labels)}; expected integer class numbers "
                "that start at 0"
            )
        if len(labels) != len(images):
            raise UserError(
                f"{where} has {len(labels)} labels for {len(images)} images; expected one for each"
            )
        if labels.min() < 0:
            raise UserError(
                f"{where} has a negative label ({labels.min()}); expected class numbers that start "
                "at 0 (to train with few labels, see labelled_per_class)"
            )
        if int(labels.max()) > np.iinfo(np.int64).max:
            raise UserError(f"{where} has the label {labels.max()}; expected class numbers")
        return labels.astype(np.int64)

    def class_names(self, labels: np.ndarray) -> tuple[str, ...]:
        """From the key `classes` (strings, in order) or else numbers, for `labels` int64 [N].

        Raises:
            UserError: `classes` are no names, or the labels are not 0..n-1: there are more classes
                than images, or they are counted from 1.
        """
        low, classes = int(labels.min()), int(labels.max()) + 1
        if classes > len(labels):
            raise UserError(
                f"{self.file} has the label {classes - 1} among {len(labels)} images; "
                "expected class numbers that start at 0 and have no gaps"
            )
        given = len(self._given_names()) if "classes" in self.sizes else classes - 1
        if low == 1 and given == classes - 1:
            raise UserError(
                f"{self.file} has labels from 1 to {classes - 1}; expected class numbers that "
                "start at 0: subtract 1"
            )
        return self._given_names() if "classes" in self.sizes else numbered(classes)

    def _given_names(self) -> tuple[str, ...]:
        names = self.read("classes")
        if names.ndim != 1 or names.dtype.kind not in "US":
            raise UserError(
                f"{self.file}: classes is {names.dtype} of shape {list(names.shape)}; "
                "expected a list of strings, one per class"
            )
        try:
            return tuple(
                name.decode() if isinstance(name, bytes) else str(name) for name in names.tolist()
            )
        except UnicodeDecodeError as error:
            raise UserError(
                f"{self.file}: classes holds {error.object!r}; expected text in UTF-8"
            ) from error


class _Objects(Exception):
    """An array holds Python objects."""


_DAMAGE = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, RuntimeError,
    NotImplementedError,
)  # fmt: skip
"""What reading a damaged, encrypted or strangely packed member raises."""


class _Header(NamedTuple):
    """What an array in NumPy's format says of itself, and the bytes that this takes."""

    shape: tuple[int, ...]
    dtype: np.dtype
    length: int


def _read_header(member: IO[bytes]) -> _Header:
    """The header of an array in NumPy's format.

    Raises:
        _Objects: it holds Python objects.
        ValueError: it is no such header.
    """
    start = io.BytesIO(member.read(LONGEST_HEADER))
    version = np.lib.format.read_magic(start)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f"version {version[0]}.{version[1]} of NumPy's format is not read")
    try:
        shape, _, dtype = read(start)
    except Exception as error:  # NumPy parses it as a Python expression, which fails in any way
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if dtype.hasobject:
        raise _Objects
    if any(size < 0 for size in shape) or not dtype.itemsize:
        raise ValueError(f"{dtype} of shape {list(shape)}")
    return _Header(shape, dtype, start.tell())


def _what_is_odd(labels: np.ndarray) -> str:
    """What stands against taking `labels` for integers, for a message."""
    if labels.dtype.kind != "f":
        return ""
    if np.isnan(labels).any():
        return f" with {int(np.isnan(labels).sum())} NaN"
    odd = labels[labels != np.floor(labels)]
    return f" with fractions, such as {odd[0]}" if len(odd) else ""


def outline(request: Request) -> Outline:
    """By the headers of the arrays alone."""
    archive = Archive(request.argument)
    shape = archive.shape("x_train")
    shape = (*shape, 1) if len(shape) == 3 else shape
    if len(shape) != 4 or shape[3] not in CHANNELS:
        archive.images("x_train")  # refuses it
    size = request.image_size or shape[1:3]
    return Outline(shape[0], (*size, shape[3]), _has_validation(archive))


@register("npz", argument="FILE", outline=outline)
def npz(request: Request) -> Source:
    """``npz:FILE``: `x_train`, `x_test` uint8 [N,H,W,C] or [N,H,W] (grey), `y_train`, `y_test`
    integers [N]; if present, `x_val` and `y_val` likewise, to validate by, and `classes`, strings
    in the order of their numbers. Other keys are ignored."""
    archive = Archive(request.argument)
    _warn_of_unread(archive)
    names = ["x_train", "x_test", *(["x_val"] if _has_validation(archive) else [])]
    check_memory(
        sum(archive.sizes[name] for name in names),
        str(archive.file),
        "use folder:DIR, which can leave images on disk",
    )
    images = [archive.images(name) for name in names]
    x_train = images[0]
    if x_train.max() == 1:
        raise UserError(
            f"{archive.file}: x_train has no value above 1; expected uint8 images in 0..255: save "
            "x_train * 255, and the others likewise"
        )
    # Sizes may differ where all are brought to one; channels may not.
    compared = slice(3, 4) if request.image_size else slice(1, 4)
    for part, other in zip(("test", "validation"), images[1:], strict=False):
        if x_train.shape[compared] != other.shape[compared]:
            raise UserError(
                f"{archive.file}: training images are {list(x_train.shape[1:])}, {part} images "
                f"{list(other.shape[1:])}; expected equal shapes"
            )
    labels = [
        archive.labels(f"y_{name.removeprefix('x_')}", own)
        for name, own in zip(names, images, strict=True)
    ]
    train, test, *validation = [
        Split.whole(MemoryImages(resized_array(own, request.image_size)), given)
        for own, given in zip(images, labels, strict=True)
    ]
    return Source(
        name=f"npz:{archive.file}",
        class_names=archive.class_names(np.concatenate(labels)),
        train=train,
        test=test,
        validation=validation[0] if validation else None,
    )


def _warn_of_unread(archive: Archive) -> None:
    """Warn of images or labels that nothing reads, such as ``x_valid``."""
    unread = sorted(
        key for key in archive.sizes
        if key.lower().startswith(("x_", "y_")) and key not in (*KEYS, *VALIDATION)
    )
    if unread:
        logging.getLogger(__name__).warning(
            "%s: %s: not read; only %s are", archive.file, ", ".join(map(printable, unread)),
            ", ".join((*KEYS, *VALIDATION)),
        )


def _has_validation(archive: Archive) -> bool:
    """Whether there are images to validate by. Raises UserError if only images or only labels are
    there."""
    there = [key for key in VALIDATION if key in archive.sizes]
    if len(there) == 1:
        (missing,) = set(VALIDATION) - set(there)
        raise UserError(f"{archive.file} has {there[0]} but no {missing}: give both, or neither")
    return bool(there)
