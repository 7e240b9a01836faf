"""The outputs of a teacher for every training image of every epoch, kept in files.

Order and augmentation of the training images are functions of (seed, epoch, index), so the outputs
can be computed once, before training, and serve every run that shows the same images. They lie in a
folder of their own for all that they depend on, the key:

- ``key.json``: the key
- ``NAME/epoch_0000.npy``: float16 ``[images, width]``, the rows in the order of the images' indices

A file is there entirely or not at all. Several processes may compute the same at once.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tensorflow as tf

from experiment.run.folder import PARTIAL, plain_values, replacing
from registry import UserError

KEY = "key.json"
TYPE = np.dtype(np.float16)
TEACHER = "teacher"  # among what a batch holds: the outputs by name
ABANDONED = 24 * 3600.0  # seconds after which an unfinished file is taken for a killed process's
_DIGITS = 16  # hexadecimal, of the key's SHA-256 sum

# Nothing here is control flow that depends on a tensor, and looking for some takes long.
_not_converted = tf.autograph.experimental.do_not_convert


def key_folder(top: str | Path, key: Mapping[str, Any]) -> Path:
    """The folder in `top` for a key, which JSON can hold (see `folder.plain_values`)."""
    text = json.dumps(plain_values(key), sort_keys=True)
    return Path(top) / hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def size_text(size: int) -> str:
    """Bytes as people say them: ``259 kB``."""
    value, units = float(size), ["bytes", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.3g} {units[0]}"


@dataclass(frozen=True)
class TeacherCache:
    """The files of one key.

    Attributes:
        folder: of the key.
        images: number of training images.
        widths: for each kind of outputs, such as ``"logits"``, how many numbers an image has.
    """

    folder: Path
    images: int
    widths: Mapping[str, int]

    def path(self, name: str, epoch: int) -> Path:
        """The file of an epoch, counted from 0."""
        return self.folder / name / f"epoch_{epoch:04d}.npy"

    def has(self, name: str, epoch: int) -> bool:
        """Whether the file of an epoch is there. One that is damaged is not, and is replaced."""
        try:
            found = np.lib.format.open_memmap(self.path(name, epoch), mode="r")
        except (OSError, ValueError):
            return False
        return found.dtype == TYPE and found.shape == (self.images, self.widths[name])

    def missing(self, names: Iterable[str], epochs: int) -> list[int]:
        """Those of the first `epochs` epochs in which a kind of outputs is missing."""
        names = list(names)
        return [epoch for epoch in range(epochs) if not all(self.has(n, epoch) for n in names)]

    def size(self, epochs: int) -> int:
        """Bytes of all outputs in so many epochs."""
        return epochs * self.images * sum(self.widths.values()) * TYPE.itemsize

    def check_room(self, epochs: int) -> None:
        """Raise UserError unless so many more epochs fit on the disk."""
        existing = next(p for p in (self.folder, *self.folder.absolute().parents) if p.exists())
        needed, free = self.size(epochs), shutil.disk_usage(existing).free
        if needed > free:
            raise UserError(
                f"the teacher's outputs in {epochs} epochs take {size_text(needed)}, and "
                f"{self.folder.parent} has {size_text(free)} free: give --cache_dir on another "
                "disk, or leave --cache_teacher out"
            )

    # Writing

    def begin(self, key: Mapping[str, Any]) -> None:
        """Make the folder and write its key. Remove what processes that were killed long ago left
        unfinished."""
        with replacing(self.folder / KEY, shared=True) as partial:
            partial.write_text(json.dumps(plain_values(key), indent=2) + "\n")
        for unfinished in self.folder.rglob(f"{PARTIAL}*"):
            with contextlib.suppress(FileNotFoundError):  # another process has just finished it
                if time.time() - unfinished.stat().st_mtime > ABANDONED:
                    unfinished.unlink()

    def write(
        self, epoch: int, batches: Iterable[tuple[np.ndarray, Mapping[str, np.ndarray]]]
    ) -> None:
        """Write what is missing of an epoch.

        Args:
            epoch: counted from 0.
            batches: indices ``[B]`` and outputs ``[B, width]`` by name, which together have each
                image once.

        Raises:
            UserError: a finite output is beyond the range of float16.
        """
        names = [name for name in self.widths if not self.has(name, epoch)]
        seen = np.zeros(self.images, np.int64)
        with contextlib.ExitStack() as stack:
            rows = {name: stack.enter_context(self._rows(name, epoch)) for name in names}
            for index, outputs in batches:
                np.add.at(seen, index, 1)
                for name in names:
                    rows[name].write(index, _as_float16(name, outputs[name]))
            if not np.all(seen == 1):
                raise RuntimeError(f"epoch {epoch} does not show each image once")

    @contextlib.contextmanager
    def _rows(self, name: str, epoch: int) -> Iterator[_Rows]:
        with replacing(self.path(name, epoch), shared=True) as partial, open(partial, "wb") as file:
            shape = (self.images, self.widths[name])
            header = {"descr": TYPE.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            yield _Rows(file, file.tell(), shape[1] * TYPE.itemsize)

    # Reading

    def add_to(
        self, batches: tf.data.Dataset, names: Sequence[str], *, epochs: int, steps: int,
        epoch: int, step: int,
    ) -> tf.data.Dataset:
        """Batches with the teacher's outputs under ``"teacher"``, float32 ``[B, width]`` by
        name.

        Args:
            batches: dicts with ``"index"``, from a step of an epoch on to the end of the last. A
                step may be several elements, the parts of several devices.
            names: which kinds of outputs.
            epochs, steps: of the run, and of an epoch.
            epoch, step: of the first batch.
        """
        begun = epoch * steps + step
        parts = max(1, int(batches.cardinality()) // max(1, epochs * steps - begun))
        # Two epochs may be read at once, as batches are made beforehand.
        opened = functools.lru_cache(2 * len(names))(
            lambda name, epoch: np.lib.format.open_memmap(self.path(name, epoch), mode="r")
        )

        def read(number: np.ndarray, index: np.ndarray) -> list[np.ndarray]:
            epoch = int(number) // (steps * parts)
            # At once, as TensorFlow prints an error where a CPU has no kernels for float16.
            return [np.asarray(opened(name, epoch)[index], np.float32) for name in names]

        @_not_converted
        def joined(number: tf.Tensor, batch: dict[str, Any]) -> dict[str, Any]:
            found = tf.numpy_function(read, [number, batch["index"]], [tf.float32] * len(names))
            outputs = {
                name: tf.ensure_shape(rows, (None, self.widths[name]))
                for name, rows in zip(names, found, strict=True)
            }
            return {**batch, TEACHER: outputs}

        return (
            batches.enumerate(begun * parts)
            .map(joined, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
            .prefetch(tf.data.AUTOTUNE)
        )


@dataclass(frozen=True)
class _Rows:
    """The rows of a file that is being written. Not through a memory map: there a full disk ends
    the process without an error."""

    file: BinaryIO
    first: int
    row_bytes: int

    def write(self, index: np.ndarray, rows: np.ndarray) -> None:
        for place, row in zip(index, rows, strict=True):
            self.file.seek(self.first + int(place) * self.row_bytes)
            self.file.write(row.tobytes())


def _as_float16(name: str, outputs: np.ndarray) -> np.ndarray:
    """Rounded; what is not finite stays so. Raises UserError where a number is too large."""
    with np.errstate(over="ignore"):
        rounded = outputs.astype(TYPE)
    lost = np.isfinite(outputs) & ~np.isfinite(rounded)
    if np.any(lost):
        raise UserError(
            f"the teacher's {name} reach {np.abs(outputs[lost]).max():.3g}, more than float16 "
            f"holds ({np.finfo(TYPE).max:.0f}): leave --cache_teacher out"
        )
    return rounded
