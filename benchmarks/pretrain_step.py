"""Measure the cost of a pre-training step: each task alone, all tasks, regularizer, ensemble.

    python benchmarks/pretrain_step.py

Times one step of each on one batch, alternating in one process, so ratios hold even if the
machine's speed drifts. Results are medians. `/ plain sum` is the cost relative to all tasks without
regularizer and ensemble. `/ single steps` is the cost relative to the sum of the tasks' single
steps, which encode the same number of views.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiment.command import quiet  # noqa: E402, F401 (before TensorFlow)

# isort: split

import keras
import numpy as np
import tensorflow as tf
from absl import flags
from timing import medians

import nets
import plugins
import pretext
from experiment.command.main import run
from experiment.report import tables
from pretext.model import MultiTask
from pretext.registration import create_tasks

flags.DEFINE_string("net", "MobileNet_student", "the encoder", module_name="benchmark")
flags.DEFINE_list("net_options", ["width=64"], "its options", module_name="benchmark")
flags.DEFINE_string(
    "tasks", "reconstruction,rotation,jigsaw,instance", "separated by commas",
    module_name="benchmark",
)
flags.DEFINE_integer("batch_size", 256, "images per step", module_name="benchmark")
flags.DEFINE_integer("image_size", 32, "height and width, in pixels", module_name="benchmark")
flags.DEFINE_integer(
    "train_images", 50_000, "images in the temporal memory", module_name="benchmark"
)
flags.DEFINE_integer("rounds", 11, "how often to time each step", module_name="benchmark")
flags.DEFINE_bool("mixed_precision", False, "compute in bfloat16", module_name="benchmark")
FLAGS = flags.FLAGS

# Regularizer and ensemble for steps of all tasks together.
TOGETHER = {
    "plain sum": ("none", "none"),
    "+ triplet": ("triplet", "none"),
    "+ relational": ("relational", "none"),
    "+ temporal": ("none", "temporal"),
    "+ weights": ("none", "weights"),
    "TTE (triplet, temporal)": ("triplet", "temporal"),
}


def main(_: list[str]) -> None:
    """Time all steps and print a table."""
    tf.get_logger().setLevel("ERROR")  # it mistakes many small functions for repeated retracing
    keras.config.set_dtype_policy("mixed_bfloat16" if FLAGS.mixed_precision else "float32")
    tasks = create_tasks(FLAGS.tasks)
    names = [task.name for task in tasks]
    batch = random_batch()
    steps = {task.name: make_step([task], "none", "none", batch) for task in tasks}
    steps.update({name: make_step(tasks, *added, batch) for name, added in TOGETHER.items()})
    times = medians(steps, FLAGS.rounds)
    views = {task.name: task.views(pretext.Images(image_shape())).count for task in tasks}
    single = sum(times[name] for name in names)
    rows = [
        {
            "step": name,
            "views": views.get(name, sum(views.values())),
            "ms": times[name],
            "images/s": 1e3 * FLAGS.batch_size / times[name],
            "/ plain sum": times[name] / times["plain sum"],
            "/ single steps": None if name in names else times[name] / single,
        }
        for name in steps
    ]
    policy = keras.config.dtype_policy().name
    print(f"{FLAGS.net} ({','.join(FLAGS.net_options)}), batch {FLAGS.batch_size}, "
          f"{FLAGS.image_size}x{FLAGS.image_size}, {policy}\n{tables.table(rows)}", flush=True)


def image_shape() -> tuple[int, int, int]:
    """(height, width, channels) of the images."""
    return FLAGS.image_size, FLAGS.image_size, 3


def make_step(
    tasks: Sequence[pretext.Task], regularizer: str, ensemble: str, batch: Mapping[str, tf.Tensor]
) -> Callable[[], Any]:
    """A function that runs one training step of these tasks on `batch`, as Keras would."""
    keras.utils.set_random_seed(0)
    network = nets.build(FLAGS.net, image_shape(), 1, **nets.parse_options(FLAGS.net_options))
    encoder = nets.encoder_of(network, nets.Standardize((128.0,) * 3, (64.0,) * 3))
    smallest = nets.minimum_size(encoder.name) or FLAGS.image_size
    model = MultiTask(
        encoder,
        tasks,
        pretext.Images(image_shape(), smallest),
        balance=plugins.create(pretext.BALANCES, "scale"),
        regularizer=plugins.create(pretext.REGULARIZERS, regularizer),
        ensemble=plugins.create(pretext.ENSEMBLES, ensemble),
        train_images=FLAGS.train_images,
    )
    model.compile(keras.optimizers.Adam(1e-4))
    model.optimizer.build(model.trainable_variables)
    model.epoch.assign(1)
    step = tf.function(model.train_step, autograph=False)
    return lambda: step(batch)


def random_batch() -> dict[str, tf.Tensor]:
    """A batch of smooth random images, with random indices into the memory."""
    random = np.random.default_rng(0)
    coarse = random.uniform(0, 255, [FLAGS.batch_size, 8, 8, 3]).astype(np.float32)
    image = tf.cast(tf.image.resize(coarse, image_shape()[:2]), tf.uint8)
    index = random.choice(FLAGS.train_images, FLAGS.batch_size, replace=False)
    return {"image": image, "index": tf.constant(index)}


if __name__ == "__main__":
    run(main)
