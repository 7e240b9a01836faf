"""A run of two stages with a tiny network, as a script would do it; killed where it is told.

    python tiny_run.py FOLDER [EPOCH STEP WHAT]

WHAT: kill (SIGKILL before that step), write (SIGKILL while the next checkpoint is written),
terminate (SIGTERM before that step), rename (SIGKILL between best.npz and the checkpoint).
"""

import os
import signal
import sys

import keras
import numpy as np
import tensorflow as tf

from experiment.command.main import run
from experiment.run import devices, folder, training
from experiment.run.folder import RunFolder
from experiment.run.variables import numbered

IMAGES, BATCH, STEPS = 22, 4, 6
EPOCHS = (2, 4)  # of the run, at the end of each stage


def images():
    random = np.random.default_rng(0)
    return (random.normal(size=(IMAGES, 3)).astype(np.float32),
            random.integers(0, 4, IMAGES).astype(np.int32))


def batches(epoch, step):
    """Every epoch in an order of its own, the last batch being a small one."""
    x, y = images()
    orders = [np.random.default_rng([1, e]).permutation(IMAGES) for e in range(epoch, EPOCHS[-1])]
    parts = [order[i:i + BATCH] for order in orders for i in range(0, IMAGES, BATCH)][step:]

    def generate():
        for part in parts:
            yield x[part], y[part]

    return tf.data.Dataset.from_generator(
        generate,
        output_signature=(tf.TensorSpec((None, 3), tf.float32), tf.TensorSpec((None,), tf.int32)),
    )


def network():
    return keras.Sequential([
        keras.layers.Input((3,)), keras.layers.Dense(8), keras.layers.BatchNormalization(),
        keras.layers.Activation("relu"), keras.layers.Dropout(0.3), keras.layers.Dense(4),
    ])


class Trouble(keras.callbacks.Callback):
    def __init__(self, epoch, step, what):
        super().__init__()
        self.place, self.what = (epoch, step), what

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if (self.epoch, batch) != self.place:
            return
        if self.what == "terminate":
            os.kill(os.getpid(), signal.SIGTERM)
        elif self.what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            self.kill_in_replace()

    def kill_in_replace(self):
        original = os.replace

        def replace(source, target):
            if "checkpoints" in str(target):
                if self.what == "write":  # what a kill in the middle of writing leaves
                    with open(source, "r+b") as file:
                        file.truncate(100)
                os.kill(os.getpid(), signal.SIGKILL)
            original(source, target)

        folder.os.replace = replace


def train(path, trouble=(), strategy=None, checkpoint_minutes=0.0, verbose="auto"):
    """Train to the end; the progress and the model."""
    with RunFolder(path) as run_folder:
        run_folder.open({"epochs": list(EPOCHS)})
        with (strategy or devices.strategy("none")).scope():
            model = network()
        x, y = images()
        validation = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
        first = 0
        for stage, last in enumerate(EPOCHS):
            with (strategy or devices.strategy("none")).scope():
                optimizer = [keras.optimizers.SGD(0.05, momentum=0.9), keras.optimizers.Adam(0.01)]
                optimizer = optimizer[stage]
                optimizer.build(model.trainable_variables)
                model.compile(
                    optimizer=optimizer, metrics=["accuracy"],
                    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                )
            progress = training.fit(
                model, folder=run_folder, batches=batches, steps_per_epoch=STEPS,
                groups={"model": numbered(model.variables),
                        "optimizer": numbered(optimizer.variables)},
                first_epoch=first, last_epoch=last, images_per_epoch=IMAGES, stage=f"s{stage}",
                validation=validation, best_variables=numbered(model.variables),
                callbacks=trouble, checkpoint_minutes=checkpoint_minutes, verbose=verbose,
            )
            first = last
        run_folder.finish({"best": progress["best"]})
    return progress, model


def main(_):
    devices.prepare(3, deterministic=True)
    train(PATH, [Trouble(int(PLACE[0]), int(PLACE[1]), PLACE[2])] if PLACE else [])


if __name__ == "__main__":
    PATH, *PLACE = sys.argv[1:]
    del sys.argv[1:]
    run(main)
