"""Images and labels from a numpy archive."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dataloader.data import MemoryImages, Split
from dataloader.loading import Request, Source, register
from dataloader.memory import check_memory
from dataloader.resizing import resized_array
from registry import UserError

KEYS = ("x_train", "y_train", "x_test", "y_test")


class Archive:
    """An archive whose faults are told with the file's name. Never unpickles.

    Args:
        file: its path.
        keys: what has to be in it.

    Raises:
        UserError: there is no such archive, or one of the keys is not in it.
    """

    def __init__(self, file: str | Path, keys: Sequence[str] = KEYS):
        self.file = file = Path(file).expanduser()
        if not file.is_file():
            raise UserError(f"no such file: {file} (npz expected, with {', '.join(keys)})")
        try:
            with zipfile.ZipFile(file) as archive:
                self.sizes = {
                    info.filename.removesuffix(".npy"): info.file_size
                    for info in archive.infolist()
                }
            self.arrays = np.load(file, allow_pickle=False)
        except (zipfile.BadZipFile, OSError, ValueError) as error:
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
        """The array `key`. Raises UserError where it is damaged or holds Python objects."""
        try:
            found = self.arrays[key]
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
            raise UserError(f"{self.file}: {key} is damaged ({error})") from error
        except ValueError as error:
            if "allow_pickle" in str(error):
                raise UserError(
                    f"{self.file}: {key} holds Python objects, which are not read because that "
                    f"could run a program: save it as an array of numbers (or, for class names, "
                    f"of strings)"
                ) from error
            raise UserError(f"{self.file}: {key} is damaged ({error})") from error
        if not isinstance(found, np.ndarray):
            raise UserError(f"{self.file}: {key} is damaged (it is not a numpy array)")
        return found

    def images(self, key: str) -> np.ndarray:
        """`key` as uint8 [N,H,W,C]. Raises UserError where it is no array of images."""
        images, where = self.read(key), f"{self.file}: {key}"
        if images.ndim == 3:
            images = images[..., None]
        if images.ndim != 4 or images.shape[-1] not in (1, 3):
            raise UserError(
                f"{where} has shape {list(images.shape)}: [N,H,W,C] with 1 or 3 channels, or "
                f"[N,H,W] for grey images, expected"
            )
        if 0 in images.shape:
            raise UserError(f"{where} has shape {list(images.shape)}: there is no image in it")
        if images.dtype == np.uint8:
            return images
        if images.dtype.kind not in "iu":
            advice = ""
            if images.dtype.kind == "f" and images.min() >= 0 and images.max() <= 1:
                advice = f"; they look like 0..1: save ({key} * 255).round().astype('uint8')"
            raise UserError(f"{where} is {images.dtype}: uint8 images in 0..255 expected{advice}")
        low, high = images.min(), images.max()
        if low < 0 or high > 255:
            raise UserError(f"{where} has values from {low} to {high}: 0..255 expected")
        return images.astype(np.uint8)

    def labels(self, key: str, images: np.ndarray) -> np.ndarray:
        """int64 [N]."""
        labels, where = self.read(key), f"{self.file}: {key}"
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        if labels.ndim != 1:
            advice = " (class numbers, not one-hot)" if labels.ndim == 2 else ""
            raise UserError(f"{where} has shape {list(labels.shape)}: [N] expected{advice}")
        if labels.dtype.kind not in "iu":
            raise UserError(f"{where} is {labels.dtype}: integer class numbers from 0 on expected")
        if len(labels) != len(images):
            raise UserError(
                f"{where} has {len(labels)} labels for {len(images)} images: equal numbers expected"
            )
        if labels.min() < 0:
            raise UserError(
                f"{where} has a negative label ({labels.min()}): class numbers from 0 on expected "
                f"(to train with few labels, see labelled_per_class)"
            )
        if labels.max() > np.iinfo(np.int32).max:
            raise UserError(f"{where} has the label {labels.max()}: class numbers expected")
        return labels.astype(np.int64)

    def class_names(self, classes: int) -> tuple[str, ...]:
        """From the key `classes` (strings, in order) or else numbers."""
        if "classes" not in self.sizes:
            return tuple(str(label) for label in range(classes))
        names = self.read("classes")
        if names.ndim != 1 or names.dtype.kind not in "US":
            raise UserError(
                f"{self.file}: classes is {names.dtype} of shape {list(names.shape)}: "
                f"a list of strings, one a class, expected"
            )
        return tuple(
            name.decode(errors="replace") if isinstance(name, bytes) else str(name)
            for name in names.tolist()
        )


@register("npz", argument="FILE")
def npz(request: Request) -> Source:
    """``npz:FILE``: `x_train`, `x_test` uint8 [N,H,W,C] or [N,H,W] (grey), `y_train`, `y_test`
    integers [N]; `classes`, strings in the order of their numbers, if present. Other keys are
    ignored."""
    archive = Archive(request.argument)
    check_memory(
        archive.sizes["x_train"] + archive.sizes["x_test"],
        str(archive.file),
        "use folder:DIR, which reads images as they are needed",
    )
    x_train, x_test = archive.images("x_train"), archive.images("x_test")
    # Sizes may differ where all are brought to one; channels may not.
    compared = slice(3, 4) if request.image_size else slice(1, 4)
    if x_train.shape[compared] != x_test.shape[compared]:
        raise UserError(
            f"{archive.file}: training images are {list(x_train.shape[1:])}, test images "
            f"{list(x_test.shape[1:])}: equal shapes expected"
        )
    y_train, y_test = archive.labels("y_train", x_train), archive.labels("y_test", x_test)
    return Source(
        name=f"npz:{archive.file}",
        class_names=archive.class_names(int(max(y_train.max(), y_test.max())) + 1),
        train=Split.whole(MemoryImages(resized_array(x_train, request.image_size)), y_train),
        test=Split.whole(MemoryImages(resized_array(x_test, request.image_size)), y_test),
    )
