"""Measure the cost of a training step and of its parts.

    python benchmarks/step_time.py

Times one step of each method on one batch, alternating in one process, so ratios hold even if the
machine's speed drifts. Results are medians in milliseconds. `bound` is the same training with two
gradients, with the mean squared difference of the same taps in place of the SVD loss. This is what
SSKD_SVD would cost if its singular vectors and DFVs were free.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiment.command import quiet  # noqa: E402, F401 (before TensorFlow)

# isort: split

import keras
import numpy as np
import tensorflow as tf
from absl import flags
from bound import MeanSquare
from timing import medians

import distillers
import nets
from distillers.distiller import Distiller
from experiment.command.main import run
from experiment.report import tables
from op_util.alignment import Aligned, align_taps
from op_util.dfv import compare_dfvs
from op_util.matrices import as_matrix
from registry import UserError

flags.DEFINE_string("net", "VGG", "pair of networks", module_name="benchmark")
flags.DEFINE_integer("batch_size", 128, "images per step", module_name="benchmark")
flags.DEFINE_integer("rounds", 15, "how often to time each step", module_name="benchmark")
flags.DEFINE_list(
    "teacher_options", [], "options of the teacher, see train_w_distill.py",
    module_name="benchmark",
)
flags.DEFINE_list(
    "parts", ["steps", "losses", "growth"],
    "what to time; zoo: the steps of all methods, in mixed_bfloat16", module_name="benchmark"
)
FLAGS = flags.FLAGS
CLASSES = 100
TRAINING_IMAGES = 10_000  # the size of CRD's memory


def main(_: list[str]) -> None:
    """Time the parts in ``--parts``."""
    tf.get_logger().setLevel("ERROR")  # it mistakes many small functions for repeated retracing
    if "steps" in FLAGS.parts:
        for policy in ("float32", "mixed_bfloat16"):
            time_steps(policy)
    if "zoo" in FLAGS.parts:
        time_zoo()
    keras.config.set_dtype_policy("float32")
    if "losses" in FLAGS.parts:
        time_losses()
    if "growth" in FLAGS.parts:
        time_growth()


def time_steps(policy: str) -> None:
    """Print the time of a whole training step of each method under a dtype policy."""
    keras.config.set_dtype_policy(policy)
    batch = random_batch()
    methods = {
        "student alone": distillers.NoDistillation(),
        "bound": MeanSquare(),
        "SSKD_SVD auto": distillers.SSKD_SVD(solver="auto"),
        "SSKD_SVD svd": distillers.SSKD_SVD(solver="svd"),
        "FSP": distillers.FSP(),
        "Soft_logits": distillers.SoftLogits(),
    }
    steps = {name: make_step(method, batch) for name, method in methods.items()}
    print_steps(steps, {"/ bound": "bound", "/ alone": "student alone"})


def time_zoo() -> None:
    """Print the time of a whole training step of every method that fits the networks, in its last
    stage, and its ratio to the time of None.
    """
    keras.config.set_dtype_policy("mixed_bfloat16")
    batch = random_batch()
    steps, left_out = {}, []
    for name in distillers.names():
        method = distillers.get(name)
        if method.name != name:
            continue
        try:
            steps[name] = make_step(method(), batch)
        except UserError as error:
            left_out.append(f"left out: {error}")
    print_steps(steps, {"/ None": "None"})
    print(*left_out, sep="\n", flush=True)


def print_steps(steps: Mapping[str, Callable[[], Any]], ratios: Mapping[str, str]) -> None:
    """Time training steps and print a table.

    Args:
        steps: functions that run a step, by name.
        ratios: further columns. Each title is mapped to the name of the step to divide by.
    """
    times = medians(steps, FLAGS.rounds)
    rows = [
        {"step": name, "ms": times[name], "images/s": 1e3 * FLAGS.batch_size / times[name],
         **{title: times[name] / times[other] for title, other in ratios.items()}}
        for name in steps
    ]
    policy = keras.config.dtype_policy().name
    print(f"\n{FLAGS.net}, batch {FLAGS.batch_size}, {policy}\n{tables.table(rows)}", flush=True)


def make_step(method: distillers.Method, batch: Mapping[str, tf.Tensor]) -> Callable[[], Any]:
    """A function that runs a step of `method` on `batch` in its last stage, as Keras would."""
    keras.utils.set_random_seed(0)
    of_teacher, of_student = nets.pair(FLAGS.net)
    options = nets.parse_options(FLAGS.teacher_options)
    teacher = nets.build(of_teacher, classes=CLASSES, **options)
    student = nets.build(of_student, classes=CLASSES)
    standardize = nets.Standardize((129.4, 124.1, 112.5), (68.2, 65.4, 70.5))
    distiller = Distiller(
        student, method, teacher, student_preprocessing=standardize,
        teacher_preprocessing=standardize, samples=TRAINING_IMAGES,
    )
    distiller.enter(distiller.parts(epochs=len(distiller.stages))[-1])
    distiller.compile()
    distiller.optimizer.build(distiller.variables_to_train())
    step = tf.function(distiller.train_step, autograph=False)
    return lambda: step(batch)


def random_batch() -> dict[str, tf.Tensor]:
    """A batch of smooth random images."""
    random = np.random.default_rng(0)
    coarse = random.uniform(0, 255, [FLAGS.batch_size, 8, 8, 3]).astype(np.float32)
    image = tf.cast(tf.image.resize(coarse, [32, 32]), tf.uint8)
    label = tf.constant(random.integers(0, CLASSES, FLAGS.batch_size), tf.int32)
    return {"image": image, "label": label, "index": tf.range(FLAGS.batch_size)}


def taps_of(batch_size: int) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """The taps of the VGG pair's teacher and student for a batch of images."""
    image = random_batch()["image"][:batch_size]
    image = tf.tile(image, [-(-batch_size // image.shape[0]), 1, 1, 1])[:batch_size]
    image = nets.Standardize((129.4, 124.1, 112.5), (68.2, 65.4, 70.5))(image)
    maps = []
    for name in nets.pair("VGG"):
        network = nets.build(name, classes=CLASSES)
        maps.append(nets.feature_extractor(network, nets.outputs_of(network))(image)["maps"])
    return maps[0], maps[1]


def forward_and_backward(loss: Callable[..., tf.Tensor], inputs: Any) -> Callable[[], Any]:
    """A function that computes `loss` and its gradient with respect to `inputs`."""

    @tf.function(autograph=False, reduce_retracing=True)
    def both(inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            value = loss(inputs)
        return value, tape.gradient(value, inputs)

    return lambda: both(inputs)


def time_losses() -> None:
    """Print the time of the singular vectors and of the DFV loss, forward and backward."""
    keras.utils.set_random_seed(0)
    teacher, student = taps_of(FLAGS.batch_size)

    def vectors(solver: str, which: slice = slice(None)) -> Callable[[], Any]:
        def loss(taps: list[tf.Tensor]) -> tf.Tensor:
            aligned = align_taps(
                [as_matrix(tap) for tap in taps], [as_matrix(tap) for tap in teacher[which]], 1,
                gradient="exact", orientation="canonical", solver=solver,
            )
            return tf.add_n([tf.reduce_sum(one.student * one.teacher) for one in aligned])

        return forward_and_backward(loss, student[which])

    aligned = align_taps(
        [as_matrix(tap) for tap in student], [as_matrix(tap) for tap in teacher], 1,
        gradient="exact", orientation="canonical", solver="auto",
    )

    def dfv_loss(vectors: list[tf.Tensor]) -> tf.Tensor:
        taps = [Aligned(v, *one[1:]) for v, one in zip(vectors, aligned, strict=True)]
        return tf.add_n([tf.reduce_sum(pair.squares) for pair in compare_dfvs(taps, 1)])

    functions = {
        "four taps, auto": vectors("auto"),
        "four taps, svd": vectors("svd"),
        "DFV loss": forward_and_backward(dfv_loss, [one.student for one in aligned]),
    }
    for place, tap in enumerate(student):
        shape = "x".join(map(str, as_matrix(tap).shape[1:]))
        one = slice(place, place + 1)
        functions |= {f"{shape}, {solver}": vectors(solver, one) for solver in ("auto", "svd")}
    times = medians(functions, FLAGS.rounds)
    rows = [{"forward and backward": name, "ms": value} for name, value in times.items()]
    print(f"\nsingular vectors of teacher and student, and DFV loss, batch {FLAGS.batch_size}, "
          f"float32\n{tables.table(rows)}")
    print(f"four taps: svd / auto = {times['four taps, svd'] / times['four taps, auto']:.1f}",
          flush=True)


def time_growth() -> None:
    """Print how time and memory of the loss grow with batch, num_dfv and map size."""

    def loss_of(num_dfv: int, teacher: list[tf.Tensor]) -> Callable[..., tf.Tensor]:
        method = distillers.SSKD_SVD(num_dfv=num_dfv)
        return lambda student: method.loss(teacher, student)[0]

    def synthetic(batch: int, size: int) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        random = np.random.default_rng(0)
        taps = [[], []]
        for level in range(3):
            side, depth = size >> level, 64 << level
            basis = random.normal(size=[24, depth]) * 0.8 ** np.arange(24)[:, None]
            for network in taps:
                weights = random.normal(size=[batch, side * side, 24])
                noise = 0.02 * random.normal(size=[batch, side * side, depth])
                maps = np.maximum(weights @ basis + noise, 0).astype(np.float32)
                network.append(tf.constant(maps.reshape(batch, side, side, depth)))
        return taps[0], taps[1]

    rows = []
    cases = [("batch", b, *taps_of(b), 1) for b in (32, 64, 128, 256, 512)]
    cases += [("num_dfv", k, *synthetic(64, 16), k) for k in (1, 2, 4, 8)]
    cases += [("map size", s, *synthetic(64, s), 1) for s in (8, 16, 32)]
    for what, value, teacher, student, num_dfv in cases:
        function = forward_and_backward(loss_of(num_dfv, teacher), student)
        times = medians({"loss": function}, FLAGS.rounds)
        rows.append({
            "growth with": what, "value": value, "ms": times["loss"],
            "memory MB": intermediate_megabytes(loss_of(num_dfv, teacher), student),
        })
    print(f"\nSSKD_SVD loss, forward and backward, float32\n{tables.table(rows)}", flush=True)


def intermediate_megabytes(loss: Callable[..., tf.Tensor], inputs: list[tf.Tensor]) -> float:
    """The total size of all tensors in the forward and backward pass, counting loops once.

    This is an upper bound on the memory they need at any time.
    """

    @tf.function(autograph=False)
    def both(*inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            value = loss(list(inputs))
        return tape.gradient(value, inputs)

    graph = both.get_concrete_function(*inputs).graph
    batch = inputs[0].shape[0]
    total = 0
    for operation in graph.get_operations():
        for tensor in operation.outputs:
            if tensor.shape.rank and tensor.dtype.is_floating and operation.type != "Placeholder":
                sizes = [size or batch for size in tensor.shape.as_list()]
                total += int(np.prod(sizes)) * tensor.dtype.size
    return total / 1e6


if __name__ == "__main__":
    run(main)
