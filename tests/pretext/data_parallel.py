"""Trains a MultiTask on one device and on several, and prints how far they are apart (JSON).

    python data_parallel.py REPLICAS CASE ...
"""

import keras
import numpy as np
import tensorflow as tf

from pretext.batch import Batch
from pretext.bias import BiasLog
from tests.pretext.models import batches, encoder, images, multi_task, weights
from tests.virtual_devices import compare_all

IMAGES = 21
CASES = {
    "TTE": {
        "names": ("rotation", "instance"), "memory_of": IMAGES, "ensemble_weight": 1.0,
        "average_decay": 0.9,
    },
    "relational": {"regularizer": "relational", "balance": "none"},
    "one task an image": {"names": ("instance", "rotation"), "tasks_per_image": 1,
                          "regularizer": "none", "balance": "random", "memory_of": IMAGES},
    "vicreg": {"names": ("vicreg", "rotation"), "balance": "pcgrad"},
    "simsiam and barlow_twins": {"names": ("simsiam", "barlow_twins"), "balance": "uncertainty",
                                 "regularizer": "variance_covariance"},
}
# Evaluated too, which is traced by itself. The others' tasks are among theirs, or scored as theirs.
JUDGED = ("TTE", "relational", "vicreg", "simsiam and barlow_twins")
MEASURED = ("relational",)  # by a `BiasLog` too, which takes long


def train(strategy, name):
    """Epochs of 7, 7, 7 and 8, 8, 1 images: replicas have unequal parts, in the end even none."""
    with strategy.scope():
        model = multi_task(own_encoder=encoder(), weight_decay=1e-3, **CASES[name])
        model.compile(keras.optimizers.SGD(5e-2, momentum=0.9, nesterov=True))
    first = weights(model.network)
    data = batches(IMAGES, 7).concatenate(batches(17, 8, seed=1))
    sample = Batch(tf.constant(images(8)), tf.range(8, dtype=tf.int64))
    history = model.fit(
        data, epochs=2, shuffle=False, verbose=0,
        validation_data=batches(17, 8) if name in JUDGED else None,
        callbacks=[BiasLog(model, sample)] if name in MEASURED else [],
    )
    moved = np.linalg.norm(weights(model.network) - first) / np.linalg.norm(first)
    return model, moved, history.history


def compare(strategy, name):
    alone, moved, logs = train(tf.distribute.get_strategy(), name)
    shared, _, shared_logs = train(strategy, name)
    difference = np.linalg.norm(weights(shared) - weights(alone))
    encoders = np.linalg.norm(weights(shared.network) - weights(alone.network))
    return {
        "moved": float(moved),
        "weights": float(difference / np.linalg.norm(weights(alone))),
        "encoder": float(encoders / np.linalg.norm(weights(alone.network))),
        "logs": {key: [logs[key][-1], shared_logs[key][-1]] for key in logs},
    }


if __name__ == "__main__":
    compare_all(compare)
