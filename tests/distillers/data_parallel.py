"""Trains by each method on one device and on several, and prints how far they are apart (JSON).

    python data_parallel.py REPLICAS METHOD ...

METHOD may be a sum, such as ``AT+CC``: all its members train in one step, which is traced once, and
each logs a loss of its own.
"""

import functools
from unittest import mock

import keras
import numpy as np
import tensorflow as tf

import distillers
from distillers import SSKD_SVD, Distiller, Sum
from op_util.convolution import LIMITS, Limits
from tests.datasets import untuned
from tests.distillers.models import Adapted, Similarities, batch, network, outputs
from tests.virtual_devices import compare_all

RATE = 5e-2
RATE_OF_SUMS = 5e-3  # whose gradients add up
# These have batch normalisation before ReLUs of their own: by larger steps, on batches of one
# image, what a rounding error switches on or off grows a thousandfold.
# SRD's gradient is as large however small its loss, and CAT_KD divides by lengths.
RATES = {"SimKD": 1e-2, "ReviewKD": 1e-2, "SRD": 5e-3, "CAT_KD": 1e-2}
# The others judge a student by what these do.
JUDGED = {"None", "SSKD_SVD", "SimKD", "layers of its own"}
BAD_IMAGE = 100.0  # a pixel that the teacher cannot bear
# Beside those that are known by their names.
METHODS = {
    "SSKD_SVD": lambda: SSKD_SVD(num_dfv=2),
    "SSKD_SVD without a main loss": SSKD_SVD,
    "CRD with drawn negatives": lambda: distillers.create("CRD(negatives=10)"),
    # A large weight amplifies rounding.
    "SimKD": lambda: distillers.get("SimKD")(weight=1.0),
    "couples samples": Similarities,
    "layers of its own": Adapted,
    "mixed images": lambda: distillers.create("DKD"),
    "products as filter gradients": lambda: distillers.get("None")(),
    "losses of layers": lambda: distillers.get("None")(),
}
PRODUCTS = {kind: Limits(positions=64, channels=1) for kind in LIMITS}


def method_of(name):
    """The method, or the sum, that `name` stands for."""
    if name in METHODS:
        return METHODS[name]()
    if "+" in name:
        return Sum([method_of(member) for member in name.split("+")])
    return distillers.get(name)()


def batches(bad, mixed):
    """8, 8, 5 and 8, 8, 1 images: a batch may leave replicas with few or none."""
    found = []
    for seed, size in ((1, 21), (2, 17)):
        data = batch(seed, size, unlabelled=(0, 9, 10, 16))
        if bad:
            data["image"][3, 0, 0, 0] = BAD_IMAGE
        if mixed:
            data["share"] = np.linspace(0.5, 1, size, dtype=np.float32)
            data["other_label"] = np.roll(data["label"], 1)
        found.append(tf.data.Dataset.from_tensor_slices(data).batch(8))
    return untuned(found[0].concatenate(found[1]))


def teachers_view(image):
    return tf.where(tf.reduce_any(image >= BAD_IMAGE, [1, 2, 3], keepdims=True), np.nan, image)


def train(strategy, name):
    """12 steps in each stage: all weights after them, how far the student's moved, the logs."""
    with strategy.scope():
        method = method_of(name)
        make_student = functools.partial(network, 1, penalised=name == "losses of layers")
        student = make_student("student")
        teacher = network(2, "teacher", width=2)
        keras.utils.set_random_seed(3)  # of the method's layers
        distiller = Distiller(
            student,
            method,
            teacher if method.needs_teacher else None,
            student_outputs=outputs(student),
            teacher_outputs=outputs(teacher),
            teacher_preprocessing=teachers_view,
            main_loss="none" if "without a main loss" in name else "cross_entropy",
            weight_decay=1e-3,
            label_smoothing=0.1 if name == "mixed images" else 0.0,
            samples=38,
        )
    data, logs = batches("SSKD_SVD" in name, name == "mixed images"), {}
    parts = distiller.parts(len(distiller.stages))
    for part in parts:
        distiller.enter(part)
        with strategy.scope():
            rate = RATE_OF_SUMS if "+" in name else RATES.get(name, RATE)
            distiller.compile(keras.optimizers.SGD(rate, momentum=0.9, nesterov=True))
        history = distiller.fit(
            data.repeat(2), shuffle=False, verbose=0, initial_epoch=part.first, epochs=part.last,
            validation_data=data if JUDGED & set(name.split("+")) else None,
        )
        logs |= {f"{part.stage.name}: {key}": values for key, values in history.history.items()}
    weights = [*distiller.weights, *(teacher.weights if method.trains_teacher else [])]
    weights = np.concatenate([np.ravel(w.numpy()) for w in weights])
    ours = np.concatenate([np.ravel(w.numpy()) for w in student.weights])
    first = np.concatenate([np.ravel(w) for w in make_student("student").get_weights()])
    return weights, np.linalg.norm(ours - first), logs


def compare(strategy, name):
    with mock.patch.dict(LIMITS, PRODUCTS if name.startswith("products") else {}):
        alone, moved, logs = train(tf.distribute.get_strategy(), name)
        shared, _, shared_logs = train(strategy, name)
    return {
        "finite": bool(np.all(np.isfinite(shared))),
        "moved": float(moved / np.linalg.norm(alone)),
        "weights": float(np.linalg.norm(shared - alone) / np.linalg.norm(alone)),
        "logs": {key: [logs[key][-1], shared_logs[key][-1]] for key in logs},
    }


if __name__ == "__main__":
    compare_all(compare)
