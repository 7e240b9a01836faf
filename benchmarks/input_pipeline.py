"""Measure the images per second of the input pipeline alone, with and without augmentation.

    python benchmarks/input_pipeline.py --dataset npz:cifar100.npz

The first batch is excluded, because it includes the start-up time.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiment.command import quiet  # noqa: E402, F401 (before TensorFlow)

# isort: split

from absl import flags

import dataloader
from experiment.command.main import run
from experiment.report import tables

flags.DEFINE_string("dataset", "digits", "see train_w_distill.py", module_name="benchmark")
flags.DEFINE_integer("batch_size", 128, "images per batch", module_name="benchmark")
flags.DEFINE_integer("rounds", 5, "number of repetitions", module_name="benchmark")
FLAGS = flags.FLAGS
EPOCHS = 3


def main(_: list[str]) -> None:
    """Time epochs with and without augmentation."""
    data = dataloader.load(FLAGS.dataset)
    rows = []
    for name, augmentation in (
        ("flip, rotation, crop", dataloader.Augmentation(flip=True)),
        ("none", dataloader.Augmentation.none()),
    ):
        speeds = [images_per_second(data.train, augmentation) for _ in range(FLAGS.rounds)]
        rows.append({"augmentation": name, "images/s": statistics.median(speeds)})
    print(f"{data.name}, {len(data.train)} images, batch {FLAGS.batch_size}\n{tables.table(rows)}")


def images_per_second(split: dataloader.Split, augmentation: dataloader.Augmentation) -> float:
    """The speed over a few epochs, without the first batch, which includes the start-up time."""
    batches = iter(
        dataloader.training_batches(
            split, FLAGS.batch_size, seed=0, epochs=EPOCHS, augmentation=augmentation
        )
    )
    next(batches)
    start, images = time.perf_counter(), 0
    for batch in batches:
        images += len(batch["index"])
    return images / (time.perf_counter() - start)


if __name__ == "__main__":
    run(main)
