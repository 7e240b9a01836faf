"""Where SSKD_SVD's time goes on a GPU, in one command of less than three minutes.

    python benchmarks/gpu.py

Prints, one table each: cores decomposed by `tf.linalg.eigh` and `tf.linalg.svd`; a training step
with ``solver=auto`` and ``solver=svd`` against the bound, in float32, TensorFloat-32 and bfloat16,
with XLA and without, with its peak memory; and the input pipeline. `bound` trains the same networks
with the mean square of the same taps in place of the loss, that is, with singular vectors that cost
nothing. On a CPU everything is smaller and says nothing about a GPU.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiment.command import quiet  # noqa: E402, F401 (before TensorFlow)

# isort: split

import keras
import numpy as np
import tensorflow as tf
from bound import MeanSquare
from timing import medians

import dataloader
import distillers
import nets
from experiment.command.main import run
from experiment.report import tables
from op_util.decomposition import full_eigenpairs

NET = "VGG"  # a pair of networks


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        images: in a batch.
        cores: in a batch that is decomposed.
        rounds: timings of each number, of which the median is printed.
        xla: whether steps are also compiled by XLA, which takes a while for each.
        pipeline_images: that the input pipeline prepares.
    """

    images: int
    cores: int
    rounds: int
    xla: bool
    pipeline_images: int


ON_GPU = Size(images=128, cores=512, rounds=10, xla=True, pipeline_images=50_000)
ON_CPU = Size(images=16, cores=32, rounds=3, xla=False, pipeline_images=2_000)


@dataclasses.dataclass(frozen=True)
class Precision:
    """A dtype policy of Keras, and whether float32 products may be rounded to TensorFloat-32."""

    name: str
    policy: str
    tensor_float_32: bool


PRECISIONS = (
    Precision("float32", "float32", False),
    Precision("TF32", "float32", True),
    Precision("bfloat16", "mixed_bfloat16", True),
)


def main(_: list[str]) -> None:
    """Print all tables."""
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        print(tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name))
    measure(NET, ON_GPU if gpus else ON_CPU)


def measure(net: str, size: Size) -> None:
    """Print all tables for a pair of networks."""
    print(f"\n{size.cores} cores, float32\n{tables.table(list(time_cores(size)))}", flush=True)
    print(f"\nsteps of {net}, batch {size.images}")
    for precision in PRECISIONS:
        for xla in (False, True) if size.xla else (False,):
            print(tables.table(list(time_steps(net, size, precision, xla))), flush=True)
    print(f"\ninput pipeline: {images_per_second(size):.0f} images/s", flush=True)


def time_cores(size: Size) -> Iterator[dict[str, Any]]:
    """A row for each number of rows of a core: milliseconds by either routine."""
    for rows in (8, 16, 32):
        maps = tf.random.stateless_uniform([size.cores, 2 * rows, rows], seed=[0, rows])
        cores = tf.matmul(maps, maps, transpose_a=True)
        cores /= tf.linalg.trace(cores)[:, None, None]

        routines = {
            name: tf.function(functools.partial(full_eigenpairs, cores, device), autograph=False)
            for name, device in (("eigh", "CPU"), ("svd", "GPU"))
        }
        times = medians(routines, size.rounds)
        yield {
            "rows": rows, "eigh ms": times["eigh"], "svd ms": times["svd"],
            "eigh / svd": times["eigh"] / times["svd"],
        }


def time_steps(net: str, size: Size, precision: Precision, xla: bool) -> Iterator[dict[str, Any]]:
    """A row for each loss: a training step's milliseconds and peak memory."""
    before = keras.config.dtype_policy()
    rounded = tf.config.experimental.tensor_float_32_execution_enabled()
    keras.config.set_dtype_policy(precision.policy)
    tf.config.experimental.enable_tensor_float_32_execution(precision.tensor_float_32)
    try:
        losses = {"bound": MeanSquare()}
        for solver in ("auto", "svd"):
            # XLA's decomposition of whole matrices takes longer to compile than all else to run.
            if not (xla and solver == "svd"):
                losses[f"SSKD_SVD {solver}"] = distillers.create(f"SSKD_SVD(solver={solver})")
        steps = {name: make_step(net, loss, size, xla) for name, loss in losses.items()}
        times = medians(steps, size.rounds)
        for name, step in steps.items():
            yield {
                "precision": precision.name, "XLA": xla, "loss": name, "ms": times[name],
                "images/s": 1e3 * size.images / times[name],
                "/ bound": times[name] / times["bound"], "peak MB": peak_megabytes(step),
            }
    finally:
        keras.config.set_dtype_policy(before)
        tf.config.experimental.enable_tensor_float_32_execution(rounded)


def make_step(net: str, loss: Any, size: Size, xla: bool) -> Callable[[], None]:
    """One step of `Distiller.train_on_batch` on a batch of random images."""
    keras.utils.set_random_seed(0)
    teacher, student = (nets.build(name, classes=100) for name in nets.pair(net))
    distiller = distillers.Distiller(student, loss, teacher)
    distiller.compile(jit_compile=xla)
    random = np.random.default_rng(0)
    images = tf.constant(random.normal(size=(size.images, 32, 32, 3)), tf.float32)
    labels = tf.constant(random.integers(0, 100, size.images), tf.int32)

    def step() -> None:
        distiller.train_on_batch(images, labels)  # gives numbers, so it waits for the device

    return step


def peak_megabytes(step: Callable[[], Any]) -> float | None:
    """The most memory of the GPU in use during a step, everything resident included; None on a
    CPU, where TensorFlow does not count."""
    if not tf.config.list_physical_devices("GPU"):
        return None
    tf.config.experimental.reset_memory_stats("GPU:0")
    step()
    return tf.config.experimental.get_memory_info("GPU:0")["peak"] / 1e6


def images_per_second(size: Size) -> float:
    """What the input pipeline delivers with the paper's augmentation, without any network."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, [size.pipeline_images, 32, 32, 3], dtype=np.uint8)
    labels = random.integers(0, 100, size.pipeline_images).astype(np.int32)
    split = dataloader.Split.whole(dataloader.MemoryImages(images), labels)
    batches = dataloader.training_batches(
        split, size.images, seed=0, epochs=1,
        augmentation=dataloader.Augmentation(flip=True),
    )
    batches = iter(batches)
    next(batches)  # building the pipeline takes its time once
    began, seen = time.perf_counter(), 0
    for batch in batches:
        seen += batch["index"].shape[0]
    return seen / (time.perf_counter() - began)


if __name__ == "__main__":
    run(main)
