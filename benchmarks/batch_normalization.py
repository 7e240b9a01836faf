"""Compare the speed of networks with Keras' own and with fused batch normalisation.

    python benchmarks/batch_normalization.py

Times a training step (cross-entropy, SGD) and inference of each network on one batch, alternating
between both versions in one process. Results are images per second, from the median time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiment.command import quiet  # noqa: E402, F401 (before TensorFlow)

# isort: split

import keras
import tensorflow as tf
from absl import flags
from timing import medians

import nets
from experiment.command.main import run
from experiment.report import tables

flags.DEFINE_list(
    "nets", ["ResNet_student", "ResNet_teacher", "MobileNet_student", "ResNeXt_student"],
    "networks, separated by commas", module_name="benchmark",
)
flags.DEFINE_list(
    "policies", ["float32", "mixed_bfloat16"], "dtype policies, separated by commas",
    module_name="benchmark",
)
flags.DEFINE_integer("batch_size", 128, "images per step", module_name="benchmark")
flags.DEFINE_integer("rounds", 11, "how often to time each step", module_name="benchmark")
FLAGS = flags.FLAGS

SHAPE, CLASSES = (32, 32, 3), 100


def main(_: list[str]) -> None:
    """Time all networks and print a table."""
    tf.get_logger().setLevel("ERROR")  # it mistakes many small functions for repeated retracing
    rows = []
    for policy in FLAGS.policies:
        keras.config.set_dtype_policy(policy)
        for name in FLAGS.nets:
            fused = nets.build(name, SHAPE, CLASSES)
            plain = keras.models.clone_model(fused)  # a clone has unchanged Keras layers
            steps = {
                f"{what}, {kind}": function
                for kind, model in {"Keras": plain, "fused": fused}.items()
                for what, function in functions(model).items()
            }
            times = medians(steps, FLAGS.rounds)
            row = {"network": name, "policy": policy}
            for what in ("training", "inference"):
                keras_own, ours = times[f"{what}, Keras"], times[f"{what}, fused"]
                row[what] = 1e3 * FLAGS.batch_size / ours
                row[f"{what}, Keras"] = 1e3 * FLAGS.batch_size / keras_own
                row[f"{what}, ratio"] = keras_own / ours
            rows.append(row)
    print(f"images a second, batch {FLAGS.batch_size}, 32x32\n{tables.table(rows)}", flush=True)


def functions(model: keras.Model) -> dict[str, Callable[[], tf.Tensor]]:
    """Functions that run a training step and inference on a random batch."""
    image = tf.random.stateless_normal([FLAGS.batch_size, *SHAPE], [0, 1])
    label = tf.random.stateless_uniform([FLAGS.batch_size], [0, 2], 0, CLASSES, tf.int32)
    optimizer = keras.optimizers.SGD(1e-3, momentum=0.9, nesterov=True)
    optimizer.build(model.trainable_variables)

    @tf.function(autograph=False)
    def training() -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(label, model(image, training=True))
            )
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    @tf.function(autograph=False)
    def inference() -> tf.Tensor:
        return tf.reduce_sum(model(image, training=False))

    return {"training": training, "inference": inference}


if __name__ == "__main__":
    run(main)
