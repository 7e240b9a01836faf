"""Read a set of photographs that is left on disk, and watch speed and memory.

    python benchmarks/data_at_scale.py --images 200000

Makes up a set of JPEG photographs of 224 to 256 pixels in ArrayRecord files of tensorflow-datasets,
and reads an epoch of it as training does, in shuffled order. A few hundred different pictures are
repeated. Nothing is trained.
"""

from __future__ import annotations

import io
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiment.command import quiet  # noqa: E402, F401 (before TensorFlow)

# isort: split

import numpy as np
import psutil
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import flags
from PIL import Image

import dataloader
from dataloader.resizing import fitted
from experiment.command.main import run
from experiment.report import tables
from registry import UserError

flags.DEFINE_integer("images", 200_000, "how many", module_name="benchmark")
flags.DEFINE_integer("image_size", 224, "height and width to read at", module_name="benchmark")
flags.DEFINE_integer("batch_size", 128, "images per batch", module_name="benchmark")
flags.DEFINE_float(
    "seconds", None, "stop the epoch after so long (default: at its end)", module_name="benchmark"
)
flags.DEFINE_string(
    "data_dir", None, "where to keep the set, and find it again (default: in a temporary folder, "
    "which is removed)", module_name="benchmark",
)
FLAGS = flags.FLAGS

NAME = "made_up_photographs"
CLASSES = 100
DIFFERENT = 300
"""Pictures. They are repeated, but each time read and decoded anew."""

SIDES = (224, 256)
TEST_IMAGES = 256
REPORTS = 10
"""Lines in an epoch."""

COMPARED_SECONDS = 20.0
"""How long to measure each of the others for."""

AS_IMAGENET = dataloader.Augmentation(
    flip=True, rotation_degrees=0, crop_padding=0, random_resized_crop=0.08, color_jitter=0.4
)
"""Augmentation of the recipe imagenet."""

MEBI = 2**20


def main(_: list[str]) -> None:
    """Make the set and read it."""
    with tempfile.TemporaryDirectory() as temporary:
        report(
            Path(FLAGS.data_dir or temporary), FLAGS.images, FLAGS.image_size, FLAGS.batch_size,
            FLAGS.seconds,
        )


def report(
    data_dir: Path, images: int, image_size: int, batch_size: int, seconds: float | None
) -> None:
    """Print what an epoch costs.

    Args:
        data_dir: where the set is, or is made.
        images: of the set.
        image_size: height and width to read at.
        batch_size: images a batch.
        seconds: of the epoch at most; None: all of it.
    """
    pictures = make_pictures()
    make_set(data_dir, pictures, images)
    began = time.perf_counter()
    data = dataloader.load(
        NAME, data_dir=data_dir, image_size=(image_size, image_size), validation_fraction=0,
        in_memory="no",
    )
    size = sum(file.stat().st_size for file in data_dir.rglob("*.array_record*"))
    print(
        f"{len(data.train):,} images, {size / 2**30:.2f} GiB on disk, "
        f"{len(data.train) * image_size**2 * 3 / 2**30:.2f} GiB decoded at {image_size} pixels; "
        f"loaded in {time.perf_counter() - began:.1f} s"
    )
    plain = dataloader.Augmentation.none()
    rows = list(watch(batches_of(data, batch_size, plain), len(data.train), seconds))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{tables.table(rows)}\npeak {peak:.0f} MiB\n")
    speeds = compare(data, pictures, image_size, batch_size)
    speeds["read, decode and resize, as above"] = rows[-1]["images/s"]
    print(tables.table([{"work": work, "images/s": speed} for work, speed in speeds.items()]))


def make_pictures() -> list[bytes]:
    """JPEG files of several sizes with the detail of photographs: noise at several scales."""
    random = np.random.default_rng(0)
    return [_picture(random) for _ in range(DIFFERENT)]


def _picture(random: np.random.Generator) -> bytes:
    height, width = random.integers(SIDES[0], SIDES[1] + 1, 2)
    values = np.full([height, width, 3], 128.0)
    for side, strength in ((4, 60), (16, 40), (64, 20), (128, 10)):
        for channel, noise in enumerate(random.normal(0, strength, [3, side, side])):
            smooth = Image.fromarray(noise.astype(np.float32)).resize((width, height))
            values[..., channel] += np.asarray(smooth)
    file = io.BytesIO()
    Image.fromarray(values.clip(0, 255).round().astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


class MadeUpPhotographs(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The pictures, repeated."""

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = Path(__file__).parent  # where tensorflow-datasets looks for a description
    pictures: list[bytes] = []
    images = 0

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict({
                "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
                "label": tfds.features.ClassLabel(num_classes=CLASSES),
            }),
            supervised_keys=("image", "label"), disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {
            "train": self._generate_examples(self.images),
            "test": self._generate_examples(TEST_IMAGES),
        }

    def _generate_examples(self, count: int) -> Iterator[tuple[int, dict[str, Any]]]:
        for number in range(count):
            image = self.pictures[number % len(self.pictures)]
            yield number, {"image": image, "label": number % CLASSES}


def make_set(data_dir: Path, pictures: list[bytes], images: int) -> None:
    """Write the set, unless it is there. Raises UserError where it has another number of images."""
    builder = MadeUpPhotographs(data_dir=data_dir)
    builder.pictures, builder.images = pictures, images
    began = time.perf_counter()
    builder.download_and_prepare(file_format="array_record")
    found = builder.info.splits["train"].num_examples
    if found != images:
        raise UserError(f"{data_dir} has a set of {found} images, not {images}")
    print(f"written in {time.perf_counter() - began:.1f} s")


def batches_of(
    data: dataloader.Data, batch_size: int, augmentation: dataloader.Augmentation
) -> tf.data.Dataset:
    """An epoch's batches."""
    return dataloader.training_batches(
        data.train, batch_size, seed=0, epochs=1, augmentation=augmentation
    )


def watch(
    batches: Iterable[dict[str, tf.Tensor]], images: int, seconds: float | None
) -> Iterator[dict[str, Any]]:
    """Read batches and report speed and memory, evenly spread over the epoch.

    Args:
        batches: of an epoch.
        images: of the epoch.
        seconds: to stop after; None: at the end.

    Yields:
        Images read so far, images per second since the first batch, and MiB in memory (RSS).
    """
    process, read, due, first, began = psutil.Process(), 0, 0.0, 0, time.perf_counter()
    for batch in batches:
        read += len(batch["index"])
        if not first:
            first, began = read, time.perf_counter()
        passed = time.perf_counter() - began
        is_over = seconds is not None and passed > seconds
        share = max(read / images, passed / seconds if seconds else 0.0)
        if share >= due or is_over:
            due += 1 / REPORTS
            yield {
                "images": read, "seconds": passed,
                "images/s": (read - first) / passed if read > first else None,
                "MiB": process.memory_info().rss / MEBI,
            }
        if is_over:
            return


def compare(
    data: dataloader.Data, pictures: list[bytes], image_size: int, batch_size: int
) -> dict[str, float]:
    """Images per second of less and of more than reading an epoch."""
    files = tf.constant((pictures * (1 + batch_size // len(pictures)))[:batch_size])
    shape = (image_size, image_size, 3)

    def decode(content: tf.Tensor) -> tf.Tensor:
        return tf.io.decode_jpeg(content, channels=3)

    def mapped(function: Callable[[tf.Tensor], tf.Tensor], signature: tf.TensorSpec) -> Any:
        def batch(_: tf.Tensor) -> tf.Tensor:
            return tf.map_fn(function, files, fn_output_signature=signature)

        dataset = tf.data.Dataset.range(10**6).map(batch, num_parallel_calls=tf.data.AUTOTUNE)
        return dataset.prefetch(tf.data.AUTOTUNE)

    alone = mapped(lambda each: decode(each)[0, 0], tf.TensorSpec([3], tf.uint8))
    resized = mapped(lambda each: fitted(decode(each), shape), tf.TensorSpec(shape, tf.uint8))
    return {
        "decode, from memory": speed(alone, batch_size),
        "decode and resize, from memory": speed(resized, batch_size),
        "read, decode, resize and augment": speed(
            batches_of(data, batch_size, AS_IMAGENET), batch_size
        ),
    }


def speed(batches: Iterable[Any], batch_size: int) -> float:
    """Images per second after the first batch."""
    iterator = iter(batches)
    next(iterator)
    began, count = time.perf_counter(), 0
    for count, _ in enumerate(iterator, start=1):  # noqa: B007
        if time.perf_counter() - began > COMPARED_SECONDS:
            break
    return count * batch_size / (time.perf_counter() - began)


if __name__ == "__main__":
    run(main)
