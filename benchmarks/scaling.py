"""How much faster several workers train, and how much they send.

    python benchmarks/scaling.py

Trains the same network by 1 and by 2 workers, each a process of this machine with one thread and
one processor of its own, and `--batch_size` images of each batch. Efficiency is the share of as
many times the images a second of one worker. `apart` is what the same number of processes reach
together where each trains alone and sends nothing, as processors may share what they compute with:
no run of several workers can be faster. What is sent is counted at the loopback interface, so
nothing else should use it meanwhile; a sum of all gradients over 2 workers has to send them once
from each.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiment.command import quiet  # noqa: E402, F401 (before TensorFlow)

# isort: split

import functools

import keras
import numpy as np
import tensorflow as tf
from absl import flags

import dataloader
import distillers
import nets
from dataloader import Augmentation, MemoryImages, Split
from experiment.command.main import run
from experiment.report import tables
from experiment.run import devices
from experiment.run.workers import Team, gathered
from registry import UserError

flags.DEFINE_string("net", "ResNet", "pair of networks", module_name="benchmark")
flags.DEFINE_string("method", "SSKD_SVD", "of distillation", module_name="benchmark")
flags.DEFINE_integer("batch_size", 32, "images a step and worker", module_name="benchmark")
flags.DEFINE_integer("steps", 20, "to time", module_name="benchmark")
flags.DEFINE_list("workers", ["1", "2"], "numbers of workers", module_name="benchmark")
FLAGS = flags.FLAGS
CLASSES, SHAPE = 100, (32, 32, 3)
WARM_STEPS = 2


def main(_: list[str]) -> None:
    """Start the workers and print the table; as one of them, train."""
    if "TF_CONFIG" in os.environ:
        with gathered("multi_worker", {}, connect_minutes=2) as team:
            print(json.dumps(train(team)))
        return
    counts = [int(count) for count in FLAGS.workers]
    processors = len(os.sched_getaffinity(0))
    if max(counts) > processors:
        raise UserError(f"{max(counts)} workers, but {processors} processors: give fewer --workers")
    rows = []
    for count in counts:
        found = start(count)[0]
        apart = sum(each["images/s"] for each in start(count, together=False))
        first = rows[0]["images/s"] / counts[0] if rows else found["images/s"] / count
        rows.append({
            "workers": count,
            "images/s": found["images/s"],
            "apart": apart,
            "efficiency": found["images/s"] / count / first,
            "/ apart": found["images/s"] / apart,
            "MB sent by each a step": found["bytes"] / count / 1e6,
            "/ parameters": found["bytes"] / count / found["parameter_bytes"],
        })
    print(f"{FLAGS.method}, {FLAGS.net}, {FLAGS.batch_size} images a worker, float32\n"
          f"{tables.table(rows)}")


def start(count: int, together: bool = True) -> list[dict[str, float]]:
    """What `count` workers of this machine find; each has a processor of its own.

    Args:
        together: whether they train one network, and the first one says what it found, or each
            trains its own, and says so.
    """
    sockets = [socket.create_server(("", 0)) for _ in range(count)]
    addresses = [f"localhost:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    processors = sorted(os.sched_getaffinity(0))
    workers = []
    for index in range(count):
        place, own = (index, addresses) if together else (0, [addresses[index]])
        task = {"cluster": {"worker": own}, "task": {"type": "worker", "index": place}}
        workers.append(subprocess.Popen(
            [sys.executable, *sys.argv], env={**os.environ, "TF_CONFIG": json.dumps(task)},
            stdout=subprocess.PIPE, text=True,
            preexec_fn=functools.partial(os.sched_setaffinity, 0, {processors[index]}),
        ))
    outs = [worker.communicate()[0] for worker in workers]
    if any(worker.returncode for worker in workers):
        raise UserError("a worker failed, as said above")
    return [json.loads(out.splitlines()[-1]) for out in (outs[:1] if together else outs)]


def train(team: Team) -> dict[str, Any]:
    """Train some steps; images a second, bytes sent a step by all, and those of the parameters."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    strategy = devices.strategy("multi_worker", team)
    with strategy.scope():
        distiller = make_distiller()
    batch_size = FLAGS.batch_size * team.size
    batches = devices.shared_out(
        strategy, functools.partial(batches_of, batch_size, WARM_STEPS + FLAGS.steps)
    )
    fit = functools.partial(distiller.fit, batches, shuffle=False, verbose=0)
    fit(steps_per_epoch=WARM_STEPS)  # traces the step
    sent, began = loopback_bytes(), time.perf_counter()
    fit(steps_per_epoch=FLAGS.steps)
    seconds, sent = time.perf_counter() - began, loopback_bytes() - sent
    parameters = sum(4 * int(np.prod(each.shape)) for each in distiller.trainable_variables)
    return {
        "images/s": FLAGS.steps * batch_size / seconds,
        "bytes": sent / FLAGS.steps,
        "parameter_bytes": parameters,
    }


def make_distiller() -> distillers.Distiller:
    """The pair of networks with the method, in the present strategy."""
    keras.utils.set_random_seed(0)
    teacher, student = (nets.build(name, SHAPE, CLASSES) for name in nets.pair(FLAGS.net))
    method = distillers.create(FLAGS.method)
    distiller = distillers.Distiller(
        student, method, teacher if method.needs_teacher else None,
        student_preprocessing=scaled, teacher_preprocessing=scaled, samples=1000,
    )
    distiller.compile()
    return distiller


def scaled(image: tf.Tensor) -> tf.Tensor:
    """Images of about mean 0 and deviation 1."""
    return tf.cast(image, tf.float32) / 74 - 1.7


def batches_of(
    batch_size: int, steps: int, context: tf.distribute.InputContext | None
) -> tf.data.Dataset:
    """So many batches of random images."""
    random = np.random.default_rng(0)
    count = max(batch_size, 1000)
    images = MemoryImages(random.integers(0, 256, (count, *SHAPE)).astype(np.uint8))
    split = Split.whole(images, random.integers(0, CLASSES, count))
    epochs = -(-steps // dataloader.steps_per_epoch(split, batch_size)) + 1
    return dataloader.training_batches(
        split, batch_size, seed=0, epochs=epochs, augmentation=Augmentation(True), context=context
    )


def loopback_bytes() -> int:
    """What this machine has sent to itself."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, figures = line.partition(":")
        if name.strip() == "lo":
            return int(figures.split()[8])
    raise UserError("no loopback interface in /proc/net/dev; this benchmark needs Linux")


if __name__ == "__main__":
    run(main)
