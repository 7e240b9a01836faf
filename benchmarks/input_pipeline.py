"""How many images a second the input pipeline alone gives, with and without augmentation.

    python benchmarks/input_pipeline.py --dataset npz:cifar100.npz

The first batch of an epoch, and with it the start, is not counted.
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

flags.DEFINE_string("dataset", "digits", "as of train_w_distill.py", module_name="benchmark")
flags.DEFINE_integer("batch_size", 128, "images a batch", module_name="benchmark")
flags.DEFINE_integer("rounds", 5, "timings of each figure", module_name="benchmark")
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
    """Over a few epochs, the first batch and so the start not counted."""
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
