"""Any classification set of images of tensorflow-datasets, by its name.

tensorflow-datasets keeps a set as ArrayRecord files, which are read by index, or as TFRecord files,
which are read from beginning to end and so into memory only. Sets that are not there yet are
prepared as ArrayRecord.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from dataloader import records
from dataloader.data import STATISTICS_SAMPLE, Images, MemoryImages, Split
from dataloader.files import printable
from dataloader.loading import Outline, Request, Source, register, unknown
from dataloader.memory import check_memory, is_for_memory
from dataloader.resizing import fitted
from dataloader.splitting import rows_for_testing
from registry import UserError, plain

NOT_MIRRORED = (
    "binarized_mnist", "cmaterdb", "emnist", "kmnist", "mnist",
    "mnist_corrupted", "omniglot", "quickdraw_bitmap", "svhn_cropped",
)  # fmt: skip
"""Sets of written signs, which mean something else (or nothing) in a mirror."""

PUBLISHED = {"cifar100": ((129.38, 124.11, 112.48), (68.21, 65.43, 70.46))}
"""(mean, deviation) of RGB channels as the SSKD_SVD code has them, in the right order."""

TRAIN = "train"
TEST_SPLITS = ("test", "validation")
"""The first that a set has labels of is what is reported on; otherwise a fifth of its training
images."""

TEST_SHARE = 0.2
PROBE_SECONDS = 10


def builder_of(name: str, data_dir: Path | None) -> Any:
    """The tfds builder for `name`. Raises UserError where there is no such set."""
    # Here, because it takes seconds and most runs do without.
    import tensorflow_datasets as tfds

    where = str(data_dir) if data_dir else None
    try:
        return tfds.builder(name, data_dir=where)
    except ValueError as error:
        # An unknown name, one that is not even spelled as names are, or an unknown variant of a
        # known set ("name/variant").
        reason = " ".join(str(error).split())[:200]
    known = tfds.list_builders(with_community_datasets=False)
    wanted, slash, config = name.partition("/")
    spelled = {plain(found): found for found in known}.get(plain(wanted))
    if spelled == wanted:
        raise UserError(f"data set {name!r} of tensorflow-datasets: {reason}")
    if spelled:
        return builder_of(spelled + slash + config, data_dir)
    raise unknown(name, known)


def _image_and_label(builder: Any) -> tuple[str, str]:
    """The keys of image and label; UserError if it is no classification set of images."""
    import tensorflow_datasets as tfds

    keys, features = builder.info.supervised_keys, builder.info.features
    if keys and len(keys) == 2:
        image, label = keys
        if isinstance(image, str) and isinstance(label, str):
            pictures = isinstance(features[image], tfds.features.Image)
            classes = isinstance(features[label], tfds.features.ClassLabel)
            if pictures and classes and features[image].np_dtype == np.uint8:
                return image, label
    raise UserError(
        f"data set {builder.name!r} of tensorflow-datasets is not one of uint8 images with one "
        "class each; expected such a set (cifar10, cifar100, svhn_cropped, ...)"
    )


def _root(builder: Any) -> Path:
    """The folder of all sets, in which this one has its own (NAME[/VARIANT]/VERSION)."""
    return Path(builder.data_path).parents[builder.info.full_name.count("/")]


def _check_network(builder: Any) -> None:
    """UserError where the set has to be downloaded and its host cannot be reached.

    tensorflow-datasets itself tries for minutes before it gives up, and leaves folders behind.
    """
    import requests

    downloads = _root(builder) / "downloads"
    urls = [url for url in builder.url_infos or {} if url.startswith("http")]
    if not urls or any(file.is_file() for file in downloads.rglob("*")):
        return
    try:
        requests.head(urls[0], timeout=PROBE_SECONDS)
    except requests.RequestException as error:
        raise UserError(_not_there(builder, f"{urls[0]} cannot be reached")) from error


def _not_there(builder: Any, reason: str) -> str:
    return (
        f"data set {builder.name!r} is not in {_root(builder)} and cannot be downloaded "
        f"({reason}): load it once where there is a network and copy its folder there, or give "
        f"the folder that has it as data_dir, or use npz:FILE, folder:DIR or digits"
    )


def prepare(builder: Any, file_format: str | None = None) -> None:
    """Download the set unless it is there.

    Args:
        builder: of the set.
        file_format: to prepare it in; None: the usual one of tensorflow-datasets.

    Raises:
        UserError: that cannot be.
    """
    if builder.is_prepared():
        return
    import requests
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
    from tensorflow_datasets.core.download.util import DownloadError

    _check_network(builder)
    faults = (requests.RequestException, DownloadError, NonMatchingChecksumError, OSError)
    try:
        builder.download_and_prepare(file_format=file_format)
    except (*faults, AssertionError, ImportError) as error:
        # Sets that have to be downloaded by hand raise AssertionError, those that need a further
        # package to be unpacked ImportError; both say what to do in their first lines.
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(_not_there(builder, reason)) from error


def _formats(builder: Any) -> set[str]:
    """The formats in which a prepared set is there."""
    return {each.value for each in builder.info.available_file_formats()}


def _is_by_index(builder: Any, in_memory: str) -> bool:
    """Whether to read a prepared set by index. Raises UserError where it can be read in no way that
    `in_memory` allows."""
    formats, installed = _formats(builder), records.is_installed()
    if records.FORMAT in formats and installed:
        return True
    where = f"data set {builder.name!r} in {printable(builder.data_path)}"
    install = f"needs the package {records.PACKAGE}: pip install {records.PACKAGE}"
    if formats == {records.FORMAT}:
        raise UserError(f"{where} is in ArrayRecord files; to read them {install}")
    if in_memory == "no":
        advice = "or another --data_dir, where it is prepared as ArrayRecord files"
        raise UserError(
            f"{where} is in {', '.join(sorted(formats))} files, which are read into memory only: "
            f"give --in_memory auto, {advice if installed else f'as reading by index {install}'}"
        )
    return False


class _Opened:
    """A set that is there.

    Args:
        request: names it.

    Attributes:
        builder: of tensorflow-datasets.
        keys: of image and label.
        shape: (height, width, channels) to bring images to.
        is_by_index: whether it is read by index.

    Raises:
        UserError: there is no such set, or it cannot be read.
    """

    def __init__(self, request: Request):
        self.builder = builder = builder_of(request.argument, request.data_dir)
        self.keys = _image_and_label(builder)
        prepare(builder, records.FORMAT if records.is_installed() else None)
        if TRAIN not in builder.info.splits:
            raise UserError(
                f"data set {builder.name!r} has no split {TRAIN!r}, only "
                f"{', '.join(map(repr, builder.info.splits))}; expected another set"
            )
        self.is_by_index = _is_by_index(builder, request.in_memory)
        height, width, channels = builder.info.features[self.keys[0]].shape
        size = request.image_size or ((height, width) if height and width else None)
        self.shape = (*(size or self._first_size()), channels)

    def count(self, split: str) -> int:
        """Number of examples."""
        return self.builder.info.splits[split].num_examples

    def by_index(self, split: str) -> records.Records:
        """A split, by index."""
        return records.Records(self.builder, split, *self.keys)

    def _first_size(self) -> tuple[int, int]:
        if self.is_by_index:
            return self.by_index(TRAIN).first_size()
        examples = self.builder.as_dataset(split=TRAIN, read_config=in_order())
        height, width, _ = next(iter(examples.take(1)))[self.keys[0]].shape
        return int(height), int(width)

    def held_out(self) -> list[str]:
        """Those of `TEST_SPLITS` that the set has labels of.

        Some sets keep the labels of their test images to themselves: all of them are -1.
        """
        splits = self.builder.info.splits
        return [name for name in TEST_SPLITS if name in splits and self._is_labelled(name)]

    def _is_labelled(self, split: str) -> bool:
        """By the first example alone, as the others take long to read."""
        if not self.count(split):
            return False
        if self.is_by_index:
            return self.by_index(split).first_label() >= 0
        examples = self.builder.as_dataset(split=split, read_config=in_order())
        try:
            return int(next(iter(examples.take(1)))[self.keys[1]]) >= 0
        except tf.errors.OpError as error:
            raise damaged(self.builder, error) from error

    def is_for_memory(self, in_memory: str, count: int) -> bool:
        """Whether to hold `count` images in memory. Raises UserError where they do not fit."""
        name = f"data set {self.builder.name!r}"
        if self.is_by_index:
            return is_for_memory(in_memory, count, self.shape, name)
        check_memory(
            count * int(np.prod(self.shape)),
            f"{name} ({count} images of {'x'.join(map(str, self.shape))})",
            "give a smaller --image_size, or another --data_dir, where it is prepared as "
            "ArrayRecord files, which are read as they are needed",
        )
        return True

    def read(self, split: str, in_memory: bool) -> Split:
        """All images of a split, in the order of its files. Raises UserError."""
        if not self.is_by_index:
            return self._read_in_order(split)
        found = self.by_index(split)
        images = records.RecordImages(found, self.shape)
        store: Images = images.decoded_once() if in_memory else images
        return Split.whole(store, found.labels())

    def _read_in_order(self, split: str) -> Split:
        """From files that have no index, into memory."""
        image, label = self.keys

        def example(features: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
            return fitted(features[image], self.shape), features[label]

        count = self.count(split)
        images, labels = np.empty([count, *self.shape], np.uint8), np.empty([count], np.int64)
        dataset = self.builder.as_dataset(split=split, read_config=in_order())
        start = 0
        try:
            for batch in dataset.map(example, num_parallel_calls=tf.data.AUTOTUNE).batch(1000):
                end = start + len(batch[1])
                images[start:end], labels[start:end] = batch[0].numpy(), batch[1].numpy()
                start = end
        except tf.errors.OpError as error:
            raise damaged(self.builder, error) from error
        if start != count:
            raise damaged(self.builder, f"{start} of {count} images in {split}")
        return Split.whole(MemoryImages(images, STATISTICS_SAMPLE), labels)


def damaged(builder: Any, reason: str | tf.errors.OpError) -> UserError:
    """The error that reports that the files of a set are damaged."""
    if isinstance(reason, tf.errors.OpError):
        reason = reason.message.splitlines()[0][:200]
    return UserError(
        f"data set {builder.name!r} in {builder.data_path} is damaged ({reason}): remove that "
        "folder and load the set again"
    )


def in_order() -> Any:
    """What makes tensorflow-datasets read one file after the other, and not several at once: the
    order is that of an index then."""
    import tensorflow_datasets as tfds

    return tfds.ReadConfig(interleave_cycle_length=1)


def outline(request: Request) -> Outline:
    """By what the set says of itself."""
    opened = _Opened(request)
    count = opened.count(TRAIN)
    held_out = opened.held_out()
    if not held_out:
        count -= round(TEST_SHARE * count)
    return Outline(count, opened.shape, has_validation=len(held_out) == len(TEST_SPLITS))


@register("tfds", argument="NAME", lazy=True, outline=outline)
def tfds(request: Request) -> Source:
    """A classification set of tensorflow-datasets, from `data_dir` or downloaded to it.

    The set's own ``test`` images (or else ``validation``, or else a stratified fifth of the
    training images by the data seed) are the test images. Of a set that has both, ``validation``
    is for validation. A split without labels is passed over. Images are resized to `image_size`,
    or, where they are of several sizes, to the first one's. Rows are in the order of the set's
    files.

    Sets in ArrayRecord files are decoded once where they take up to a quarter of the free memory,
    otherwise images are read whenever they are needed (`in_memory`); batches are the same.
    """
    opened = _Opened(request)
    info = opened.builder.info
    held_out = opened.held_out()
    used = [TRAIN, *held_out]
    in_memory = opened.is_for_memory(request.in_memory, sum(map(opened.count, used)))
    train = opened.read(TRAIN, in_memory)
    validation = None
    if held_out:
        test, *others = [opened.read(name, in_memory) for name in held_out]
        validation = others[0] if others else None
    else:
        chosen = rows_for_testing(train.labels, TEST_SHARE, request.seed)
        test = train.take(chosen)
        train = train.take(np.setdiff1d(np.arange(len(train)), chosen))
    return Source(
        name=info.full_name.rsplit("/", 1)[0],
        class_names=tuple(info.features[opened.keys[1]].names),
        train=train,
        validation=validation,
        test=test,
        default_flip=opened.builder.name not in NOT_MIRRORED,
        channel_statistics=PUBLISHED.get(opened.builder.name),
    )
