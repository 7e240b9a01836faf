"""Values of other implementations, in ``tests/data/zoo_losses.npz``: one batch of a teacher's and a
student's features, and the losses that RepDistiller, mdistiller and torchdistill define."""

from pathlib import Path

import numpy as np
import tensorflow as tf

_FILE = Path(__file__).parents[1] / "data" / "zoo_losses.npz"


def loss(name):
    with np.load(_FILE) as values:
        return float(values[f"a/loss/{name}"])


def maps(network, first=0):
    """The ``"teacher"``'s or the ``"student"``'s maps, from the map `first` on."""
    with np.load(_FILE) as values:
        return [tf.constant(values[f"a/{network}_map_{i}"]) for i in range(first, 3)]
