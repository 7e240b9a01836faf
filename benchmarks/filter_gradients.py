"""Compare the two ways to compute the filter gradients of convolutions on a CPU.

    python benchmarks/filter_gradients.py

`kernels` times the filter gradient of 3x3 convolutions by TensorFlow's kernel and as a matrix
product, and says which of the two `op_util.convolution` chooses. `steps` times training steps of
students with and without the products. Both alternate in one process; times are medians in
milliseconds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiment.command import quiet  # noqa: E402, F401 (before TensorFlow)

# isort: split

import keras
import tensorflow as tf
from absl import flags
from timing import medians

import nets
from distillers import SSKD_SVD, Distiller, NoDistillation
from experiment.command.main import run
from experiment.report import tables
from op_util.convolution import LIMITS, filter_gradient, is_product_faster

flags.DEFINE_list("parts", ["kernels", "steps"], "what to time", module_name="benchmark")
flags.DEFINE_list(
    "nets", ["VGG_stride", "VGG", "ResNet", "MobileNet"], "pairs of networks, separated by commas",
    module_name="benchmark",
)
flags.DEFINE_list(
    "policies", ["float32", "mixed_bfloat16"], "dtype policies, separated by commas",
    module_name="benchmark",
)
flags.DEFINE_integer("batch_size", 128, "images per step", module_name="benchmark")
flags.DEFINE_integer("rounds", 11, "how often to time each function", module_name="benchmark")
FLAGS = flags.FLAGS

SHAPE, CLASSES = (32, 32, 3), 100
SIZE = (3, 3)
CONVOLUTIONS = [  # height and width, channels, filters, stride
    (size * stride, channels // stride, channels, stride)
    for stride in (1, 2) for size, channels in (
        (2, 512), (4, 64), (4, 128), (4, 256), (4, 512), (8, 64), (8, 128), (8, 256), (16, 64),
    )
]


def main(_: list[str]) -> None:
    """Time the parts in ``--parts``."""
    tf.get_logger().setLevel("ERROR")  # it mistakes many small functions for repeated retracing
    if "kernels" in FLAGS.parts:
        time_kernels()
    if "steps" in FLAGS.parts:
        time_steps()


def time_kernels() -> None:
    """Print the times of filter gradients by both ways."""
    rows = []
    for policy in FLAGS.policies:
        dtype = tf.as_dtype(keras.DTypePolicy(policy).compute_dtype)
        for size, channels, filters, stride in CONVOLUTIONS:
            maps, kernel = [FLAGS.batch_size, size, size, channels], [*SIZE, channels, filters]
            strides = (stride, stride)
            times = medians(gradient_functions(maps, kernel, strides, dtype), FLAGS.rounds)
            chosen = is_product_faster("CPU", dtype, maps, kernel, strides, "SAME")
            rows.append({
                "dtype": dtype.name, "maps": f"{size}x{size}", "channels": channels,
                "filters": filters, "stride": stride, **times,
                "ratio": times["kernel"] / times["product"],
                "chosen": "product" if chosen else "kernel",
            })
    print(f"filter gradients of 3x3 convolutions, ms, batch {FLAGS.batch_size}\n"
          f"{tables.table(rows)}", flush=True)


def gradient_functions(
    maps: list[int], kernel: list[int], strides: tuple[int, int], dtype: tf.DType
) -> dict[str, Callable[[], tf.Tensor]]:
    """Functions that compute a filter gradient in both ways, of random maps."""
    drawn = tf.cast(tf.random.stateless_normal(maps, [0, 1]), dtype)
    height, width = (-(-size // stride) for size, stride in zip(maps[1:3], strides, strict=True))
    output = [maps[0], height, width, kernel[3]]
    upstream = tf.cast(tf.random.stateless_normal(output, [0, 2]), dtype)
    functions = {
        "kernel": lambda: tf.raw_ops.Conv2DBackpropFilter(
            input=drawn, filter_sizes=kernel, out_backprop=upstream, strides=[1, *strides, 1],
            padding="SAME",
        ),
        "product": lambda: filter_gradient(drawn, upstream, SIZE, strides, "SAME"),
    }
    return {name: tf.function(each, autograph=False) for name, each in functions.items()}


def time_steps() -> None:
    """Print the times of training steps by both ways."""
    for policy in FLAGS.policies:
        keras.config.set_dtype_policy(policy)
        for net in FLAGS.nets:
            rows = []
            for method in (NoDistillation, SSKD_SVD):
                with mock.patch.dict(LIMITS, clear=True):
                    without = make_step(net, method)
                    without()  # traces it
                steps = {"kernel": without, "product": make_step(net, method)}
                times = medians(steps, FLAGS.rounds)
                rows.append({
                    "method": method.name, **times, "ratio": times["kernel"] / times["product"],
                })
            title = f"training step of {net}, ms, batch {FLAGS.batch_size}, {policy}"
            print(f"{title}\n{tables.table(rows)}\n", flush=True)


def make_step(net: str, method: type) -> Callable[[], Any]:
    """A function that runs a training step of the student of a pair on a random batch."""
    keras.utils.set_random_seed(0)
    teacher, student = (nets.build(name, SHAPE, CLASSES) for name in nets.pair(net))
    distiller = Distiller(student, method(), teacher)
    distiller.compile()
    distiller.optimizer.build(distiller.variables_to_train())
    batch = {
        "image": tf.random.stateless_normal([FLAGS.batch_size, *SHAPE], [0, 1]),
        "label": tf.random.stateless_uniform([FLAGS.batch_size], [0, 2], 0, CLASSES, tf.int32),
        "index": tf.range(FLAGS.batch_size),
    }
    step = tf.function(distiller.train_step, autograph=False)
    return lambda: step(batch)


if __name__ == "__main__":
    run(main)
