"""Any classification set of images of tensorflow-datasets, by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from dataloader.data import MemoryImages, Split
from dataloader.loading import Outline, Request, Source, register, unknown
from dataloader.memory import check_memory
from dataloader.resizing import resized
from dataloader.splitting import rows_for_testing
from registry import UserError, plain

NOT_MIRRORED = (
    "binarized_mnist", "cmaterdb", "emnist", "kmnist", "mnist",
    "mnist_corrupted", "omniglot", "quickdraw_bitmap", "svhn_cropped",
)  # fmt: skip
"""Sets of written signs, which mean something else (or nothing) in a mirror."""

PUBLISHED = {"cifar100": ((129.38, 124.11, 112.48), (68.21, 65.43, 70.46))}
"""(mean, deviation) of RGB channels as the SSKD_SVD code has them, in the right order."""

TEST_SPLITS = ("test", "validation")
"""The first that a set has is what is reported on; otherwise a fifth of its training images."""

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
        f"class each: such a set expected (cifar10, cifar100, svhn_cropped, ...)"
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


def prepare(builder: Any) -> None:
    """Download the set unless it is there. Raises UserError where that cannot be."""
    if builder.is_prepared():
        return
    import requests
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
    from tensorflow_datasets.core.download.util import DownloadError

    _check_network(builder)
    faults = (requests.RequestException, DownloadError, NonMatchingChecksumError, OSError)
    try:
        builder.download_and_prepare()
    except (*faults, AssertionError, ImportError) as error:
        # Sets that have to be downloaded by hand raise AssertionError, those that need a further
        # package to be unpacked ImportError; both say what to do in their first lines.
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(_not_there(builder, reason)) from error


def _read(
    builder: Any, split: str, keys: tuple[str, str], shape: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N,*shape] and labels int64 [N] of a split, in the order of its files."""
    image, label = keys

    def example(features: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        picture = features[image]
        same = tf.reduce_all(tf.shape(picture)[:2] == shape[:2])
        picture = tf.cond(same, lambda: picture, lambda: resized(picture, shape[:2]))
        return tf.ensure_shape(picture, shape), features[label]

    count = builder.info.splits[split].num_examples
    images, labels = np.empty([count, *shape], np.uint8), np.empty([count], np.int64)
    dataset = builder.as_dataset(split=split, shuffle_files=False)
    start = 0
    try:
        for batch in dataset.map(example, num_parallel_calls=tf.data.AUTOTUNE).batch(1000):
            end = start + len(batch[1])
            images[start:end], labels[start:end] = batch[0].numpy(), batch[1].numpy()
            start = end
    except tf.errors.OpError as error:
        reason = error.message.splitlines()[0][:200]
        raise UserError(
            f"data set {builder.name!r} in {builder.data_path} is damaged ({reason}): remove that "
            f"folder and load the set again"
        ) from error
    if start != count:
        raise UserError(
            f"data set {builder.name!r} in {builder.data_path} is damaged ({start} of {count} "
            f"images in {split}): remove that folder and load the set again"
        )
    return images, labels


def _first_size(builder: Any, key: str) -> tuple[int, int]:
    first = next(iter(builder.as_dataset(split="train", shuffle_files=False).take(1)))
    return int(first[key].shape[0]), int(first[key].shape[1])


def _opened(request: Request) -> tuple[Any, tuple[str, str], tuple[int, int, int]]:
    """The builder of a set that is there, the keys of image and label, and the images' shape."""
    builder = builder_of(request.argument, request.data_dir)
    keys = _image_and_label(builder)
    prepare(builder)
    info = builder.info
    if "train" not in info.splits:
        raise UserError(
            f"data set {builder.name!r} has no split 'train', only "
            f"{', '.join(map(repr, info.splits))}: another set expected"
        )
    height, width, channels = info.features[keys[0]].shape
    size = request.image_size or ((height, width) if height and width else None)
    return builder, keys, (*(size or _first_size(builder, keys[0])), channels)


def outline(request: Request) -> Outline:
    """By what the set says of itself."""
    builder, _, shape = _opened(request)
    count = builder.info.splits["train"].num_examples
    if not any(name in builder.info.splits for name in TEST_SPLITS):
        count -= round(TEST_SHARE * count)
    return Outline(count, shape)


@register("tfds", argument="NAME", outline=outline)
def tfds(request: Request) -> Source:
    """A classification set of tensorflow-datasets, from `data_dir` or downloaded to it, read into
    memory in the order of its files.

    The set's own ``test`` images (or else ``validation``, or else a stratified fifth of the
    training images by the data seed) are the test images. Images are resized to `image_size`, or,
    where they are of several sizes, to the first one's.
    """
    builder, keys, shape = _opened(request)
    info = builder.info
    test_split = next((name for name in TEST_SPLITS if name in info.splits), None)
    used = ["train", *([test_split] if test_split else [])]
    count = sum(info.splits[name].num_examples for name in used)
    check_memory(
        count * int(np.prod(shape)),
        f"data set {builder.name!r} ({count} images of {'x'.join(map(str, shape))})",
        "give a smaller image_size, or use folder:DIR, which reads images as they are needed",
    )
    images, labels = _read(builder, "train", keys, shape)
    train = Split.whole(MemoryImages(images), labels)
    if test_split:
        images, labels = _read(builder, test_split, keys, shape)
        test = Split.whole(MemoryImages(images), labels)
    else:
        chosen = rows_for_testing(labels, TEST_SHARE, request.seed)
        test = train.take(chosen)
        train = train.take(np.setdiff1d(np.arange(len(labels)), chosen))
    return Source(
        name=builder.info.full_name.rsplit("/", 1)[0],
        class_names=tuple(info.features[keys[1]].names),
        train=train,
        test=test,
        default_flip=builder.name not in NOT_MIRRORED,
        channel_statistics=PUBLISHED.get(builder.name),
    )
