"""Trains by several workers and by one process, and prints how far apart they are (JSON).

    TF_CONFIG=... python several_workers.py NAME ...

NAME is a method of distillation, or TTE. 12 steps of 8, 8, 8 and 1 images: a last batch that does
not divide, and leaves workers without an image.
"""

import functools
import json
import sys

import keras
import numpy as np
import tensorflow as tf

import dataloader
import distillers
from dataloader.data import MemoryImages, Split
from distillers import SSKD_SVD, Distiller
from experiment.run import devices
from experiment.run.workers import gathered
from tests.distillers.models import CLASSES, network, outputs
from tests.pretext import models as pretext_models

IMAGES, BATCH, EPOCHS = 25, 8, 3
METHODS = {
    "SSKD_SVD": lambda: SSKD_SVD(num_dfv=2),
    "CRD": lambda: distillers.create("CRD(negatives=10)"),
    "SSKD_SVD+CRD": lambda: distillers.create("SSKD_SVD(num_dfv=2)+CRD(negatives=10)"),
    "couples samples": lambda: distillers.create("SP"),
}


def split(shape):
    random = np.random.default_rng(5)
    labels = random.integers(0, CLASSES, IMAGES)
    labels[[0, 9, 10, 16]] = -1
    return Split.whole(MemoryImages(pretext_models.images(IMAGES, shape=shape)), labels)


def training_batches(data, context):
    augmentation = dataloader.Augmentation(True, 0.0, 0)
    return dataloader.training_batches(
        data, BATCH, seed=3, epochs=EPOCHS, augmentation=augmentation, context=context
    )


def scaled(image):
    return tf.cast(image, tf.float32) / 64 - 2


def distiller(name):
    method = METHODS.get(name, lambda: distillers.create(name))()
    student, teacher = network(1, "student"), network(2, "teacher", width=2)
    keras.utils.set_random_seed(3)  # of the method's layers
    return Distiller(
        student, method, teacher if method.needs_teacher else None,
        student_outputs=outputs(student), teacher_outputs=outputs(teacher),
        student_preprocessing=scaled, teacher_preprocessing=scaled, weight_decay=1e-3,
        samples=IMAGES,
    )


def multi_task():
    return pretext_models.multi_task(
        ("rotation", "instance"), own_encoder=pretext_models.encoder(), weight_decay=1e-3,
        memory_of=IMAGES, average_decay=0.9,
    )


def train(strategy, name):
    """All weights after the steps, how far they moved, and the last logs."""
    with strategy.scope():
        model = multi_task() if name == "TTE" else distiller(name)
        model.compile(keras.optimizers.SGD(2e-2, momentum=0.9, nesterov=True))
    first = weights_of(model)
    data = split(pretext_models.SHAPE if name == "TTE" else (8, 8, 3))
    share = functools.partial(devices.shared_out, strategy)
    logs = model.fit(
        share(functools.partial(training_batches, data)), epochs=EPOCHS,
        steps_per_epoch=4, shuffle=False, verbose=0,
        validation_data=share(functools.partial(dataloader.evaluation_batches, data, BATCH)),
        validation_steps=4,
    ).history
    last = weights_of(model)
    return last, np.linalg.norm(last - first) / np.linalg.norm(first), logs


def weights_of(model):
    variables = list(model.weights)
    if getattr(model, "teacher", None) is not None and model.method.trains_teacher:
        variables += model.teacher.weights
    return np.concatenate([
        np.ravel(keras.ops.convert_to_numpy(each)).astype(np.float64) for each in variables
    ])


def compare(strategy, name, team):
    """What the chief finds; the others are needed for their part only."""
    shared, moved, shared_logs = train(strategy, name)
    if not team.is_chief:
        return None
    alone, _, logs = train(tf.distribute.get_strategy(), name)
    return {
        "moved": float(moved),
        "weights": float(np.linalg.norm(shared - alone) / np.linalg.norm(alone)),
        "logs": {key: [logs[key][-1], shared_logs[key][-1]] for key in logs},
    }


if __name__ == "__main__":
    with gathered("multi_worker", {}, connect_minutes=2) as team:
        strategy = devices.strategy("multi_worker", team)
        assert strategy.num_replicas_in_sync == team.size
        print(json.dumps({name: compare(strategy, name, team) for name in sys.argv[1:]}))
