"""Trains from cached outputs of a teacher on one device and on two, and prints how far the students
are apart (JSON).

    python two_devices.py 2 FOLDER
"""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import dataloader
from distillers import Distiller, create
from experiment.run.teacher_cache import TeacherCache
from tests.distillers.models import CLASSES, network, outputs
from tests.virtual_devices import compare_all

IMAGES, BATCH, EPOCHS = 17, 8, 2  # batches of 8, 8 and 1: a batch may leave a replica without
STEPS = 3


def train(strategy, folder):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (IMAGES, 8, 8, 3), np.uint8)
    store = dataloader.MemoryImages(images)
    split = dataloader.Split.whole(store, np.arange(IMAGES) % CLASSES)
    batches = dataloader.training_batches(
        split, BATCH, seed=0, epochs=EPOCHS, augmentation=dataloader.Augmentation(True, 0.0, 1)
    )
    cache = TeacherCache(Path(folder), IMAGES, {"logits": CLASSES})
    for epoch in cache.missing(["logits"], EPOCHS):
        logits = random.normal(size=(IMAGES, CLASSES)).astype("float32")
        cache.write(epoch, [(np.arange(IMAGES), {"logits": logits})])
    with strategy.scope():
        student, teacher = network(1, "student"), network(2, "teacher")
        distiller = Distiller(
            student, create("DIST"), teacher, student_outputs=outputs(student),
            teacher_outputs=outputs(teacher),
            student_preprocessing=lambda image: tf.cast(image, tf.float32) / 255,
        )
        distiller.compile(keras.optimizers.SGD(0.01))
    data = cache.add_to(batches, ["logits"], epochs=EPOCHS, steps=STEPS, epoch=0, step=0)
    distiller.fit(data, epochs=EPOCHS, steps_per_epoch=STEPS, shuffle=False, verbose=0)
    return np.concatenate([np.ravel(value) for value in student.get_weights()])


def compare(strategy, folder):
    alone, shared = train(tf.distribute.get_strategy(), folder), train(strategy, folder)
    first = np.concatenate([np.ravel(value) for value in network(1, "student").get_weights()])
    norm = np.linalg.norm
    return {
        "moved": float(norm(alone - first) / norm(first)),
        "apart": float(norm(alone - shared) / norm(alone)),
    }


if __name__ == "__main__":
    compare_all(compare)
